//! Hosts that are joined by a bridge: each has a network, mounts and a cgroup of its own, so that the real binary and plain
//! programs run on it as on a machine; links that can be cut, pulled and slowed down, and a recorder of all that crosses.
//!
//! ```no_run
//! use meshwork_testkit::hosts::Hosts;
//!
//! let Some(mut hosts) = Hosts::start() else { return };
//! let (one, other) = (hosts.add("one"), hosts.add("other"));
//! let recorder = hosts.record();
//! let _nginx = other.start("nginx", &["-g", "daemon off;"]);
//! hosts.cut(&one, &other);
//! hosts.heal(&one, &other);
//! let recorded = recorder.stop(&one, &other);
//! assert_eq!(recorded.not_tls(), [] as [String; 0]);
//! assert!(!recorded.contains(b"the marker that requests carry"));
//! ```
//!
//! | file | what |
//! |---|---|
//! | `held.rs` | namespaces and a cgroup that go with the process that made them, however it ends |
//! | `host.rs` | a host, and programs on it |
//! | `recorder.rs`, `packets.rs` | what crossed between hosts; taken apart |
//! | `wire.rs`, `wire.py` | a wire that is slow and loses frames, on any kernel |
//!
//! Nothing of it is in the network, the mounts or the rules of the machine on which the test runs: the bridge is in a
//! namespace, too. So addresses and ports may be fixed. Needs root, cgroup v2, iproute2, nftables and tcpdump.

mod held;
mod host;
mod packets;
mod recorder;
mod wire;

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tempfile::TempDir;

use self::held::Held;
pub use self::host::{Host, Left, Program};
pub use self::recorder::{Recorded, Recorder};
use self::wire::Wire;

/// The bridge, which is every host's default route, and nobody's resolver.
const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 254), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0xfe));

/// What is cut is dropped silently, as by a switch or a firewall: nobody is told.
const FABRIC: &str = "set -e
ip link set lo up
ip link add br0 type bridge mcast_snooping 0
ip addr add 10.77.0.254/24 dev br0
[ ! -e /proc/sys/net/ipv6 ] || ip addr add fd77::fe/64 dev br0 nodad
ip link set br0 up
nft 'add table bridge cuts
add set bridge cuts v4 { type ipv4_addr . ipv4_addr; }
add set bridge cuts v6 { type ipv6_addr . ipv6_addr; }
add chain bridge cuts pass { type filter hook forward priority 0; }
add rule bridge cuts pass ip saddr . ip daddr @v4 drop
add rule bridge cuts pass ip6 saddr . ip6 daddr @v6 drop'";

/// Dropped, all of it is gone: hosts, what runs on them, links and rules.
pub struct Hosts {
    /// The namespace of the bridge.
    fabric: Held,
    directory: TempDir,
    count: Cell<u8>,
}

impl Hosts {
    /// `None`: this user may not make hosts, and that was said.
    ///
    /// # Panics
    /// If root can't either, or if this must be checked (`CI` is set) and can't.
    pub fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "several hosts need root");
            println!("NOT CHECKED: several hosts need root");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("mwhosts-").tempdir().expect("a temporary directory");
        Some(Self {
            fabric: Held::start("fabric", FABRIC, Some(directory.path())),
            directory,
            count: Cell::new(0),
        })
    }

    /// Another host, on the bridge.
    pub fn add(&self, name: &str) -> Host {
        self.attach(name, None)
    }

    /// Another host, at the end of a wire on which each frame takes so long, in either direction, and so many of a
    /// thousand are lost.
    pub fn add_behind(&self, name: &str, delay: Duration, lost_per_mille: u32) -> Host {
        self.attach(name, Some((delay, lost_per_mille)))
    }

    fn attach(&self, name: &str, wire: Option<(Duration, u32)>) -> Host {
        let number = self.count.get() + 1;
        self.count.set(number);
        let log_directory = self.directory.path().join(name);
        std::fs::create_dir(&log_directory).expect("hosts have names of their own");
        let mut host = Host::make(name, number, log_directory);
        let (port, pid) = (host.port().to_owned(), host.pid());
        let fabric = |arguments: String| self.fabric.ip(&arguments);
        if let Some((delay, lost_per_mille)) = wire {
            let (near, far) = (format!("near{number}"), format!("far{number}"));
            fabric(format!("link add {port} type veth peer name {near}"));
            fabric(format!("link add {far} type veth peer name eth0 netns {pid}"));
            fabric(format!("link set {near} up"));
            fabric(format!("link set {far} up"));
            host.behind(Wire::start(&self.fabric, [&near, &far], delay, lost_per_mille));
        } else {
            fabric(format!("link add {port} type veth peer name eth0 netns {pid}"));
        }
        fabric(format!("link set {port} master br0 up"));
        host.address(GATEWAY);
        host
    }

    /// From now on nothing passes between the two, and neither is told.
    pub fn cut(&self, one: &Host, other: &Host) {
        self.change("add", one, other);
    }

    pub fn heal(&self, one: &Host, other: &Host) {
        self.change("delete", one, other);
    }

    fn change(&self, change: &str, one: &Host, other: &Host) {
        let ([a, b], [a6, b6]) = ([one.ip(), other.ip()], [one.ip_v6_of_number(), other.ip_v6_of_number()]);
        let v4 = format!("{change} element bridge cuts v4 {{ {a} . {b}, {b} . {a} }}");
        let v6 = format!("{change} element bridge cuts v6 {{ {a6} . {b6}, {b6} . {a6} }}");
        self.fabric.runs("nft", &[&format!("{v4}\n{v6}")]);
    }

    /// The plug is pulled: nothing arrives there, nothing comes from there, and nobody is told.
    pub fn vanish(&self, host: &Host) {
        self.fabric.ip(&format!("link set {} down", host.port()));
    }

    /// The plug is put in again.
    pub fn reappear(&self, host: &Host) {
        self.fabric.ip(&format!("link set {} up", host.port()));
    }

    /// From now on all that crosses the bridge is kept.
    pub fn record(&self) -> Recorder {
        Recorder::start(&self.fabric, self.directory.path().join("crossed.pcap"))
    }

    /// For files of the test; hosts share it.
    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }
}
