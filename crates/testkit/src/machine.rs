//! A machine of its own: a network namespace behind a pair of virtual interfaces, which can vanish without a farewell.
//!
//! Needs root, as the kernel gives namespaces to nobody else; where there is none, [`Machine::start`] says so. What is
//! made goes with the value, and with the process if that is killed: a child holds the namespace, and ends with us.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::wait::{LOOK_INTERVAL, SOON};

/// Networks of four addresses in 10.213.0.0/16.
const NETWORKS: u16 = 1 << 14;

/// Dropped, it is gone.
pub struct Machine {
    /// Ends with the pipe from here, and the namespace with it.
    holder: Child,
    /// Nobody else on this machine takes the same addresses meanwhile.
    _claim: UnixListener,
    /// This machine's end of the wire.
    link: String,
    /// Its own end.
    far_link: String,
    near: Ipv4Addr,
    far: Ipv4Addr,
    near_v6: Ipv6Addr,
    far_v6: Ipv6Addr,
}

impl Machine {
    /// `None`: this user may not make one.
    ///
    /// # Panics
    /// If root can't either, or if this must be checked (`CI` is set) and can't.
    pub fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "machines that vanish need root");
            println!("NOT CHECKED: a machine that vanishes needs root");
            return None;
        }
        let (network, claim) = claim_network();
        let [high, low] = (network * 4).to_be_bytes();
        let (link, far_link) = (format!("mwm{network}h"), format!("mwm{network}n"));
        let end = |last: u8| Ipv4Addr::new(10, 213, high, low + last);
        let end_v6 = |last: u16| Ipv6Addr::new(0xfd4d, 0x213, 0, network, 0, 0, 0, last);
        let (near, far, near_v6, far_v6) = (end(1), end(2), end_v6(1), end_v6(2));
        let machine = Self { holder: hold(), _claim: claim, link, far_link, near, far, near_v6, far_v6 };
        machine.connect();
        Some(machine)
    }

    fn connect(&self) {
        let Self { link, far_link, near, far, near_v6, far_v6, .. } = self;
        let holder = self.holder.id();
        if has_ipv6() {
            // Addresses are used at once, that of the link too: nobody else is there who could have the same.
            let default = "/proc/sys/net/ipv6/conf/default/accept_dad";
            self.enter(|| std::fs::write(default, "0")).expect("root may write it");
        }
        // One of that name is of a process that was killed a moment ago, whose namespace is being cleared up.
        run(&format!("link del {link}"));
        ip(&format!("link add {link} type veth peer name {far_link} netns {holder}"));
        ip(&format!("addr add {near}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        self.ip_there(&format!("addr add {far}/30 dev {far_link}"));
        self.ip_there(&format!("link set {far_link} up"));
        self.ip_there("link set lo up");
        if has_ipv6() {
            ip(&format!("addr add {near_v6}/112 dev {link} nodad"));
            self.ip_there(&format!("addr add {far_v6}/112 dev {far_link} nodad"));
            self.settle();
        }
        // Else this machine would soon know that there is nobody at that address, and say so to whoever sends.
        let shown = self.ip_there(&format!("-o link show {far_link}"));
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        let mac = words.nth(1).expect("a virtual interface has a MAC address");
        ip(&format!("neigh replace {far} lladdr {mac} dev {link} nud permanent"));
    }

    /// The kernel adds a link's own routes when it sees that the link is up, which is some time after it was told. A test that
    /// compares the routes before and after must not begin between.
    fn settle(&self) {
        let own =
            ["multicast ff00::/8".to_owned(), "local fe80:".to_owned(), format!("local {} ", self.far_v6)];
        let show = format!("-6 route show table local dev {}", self.far_link);
        let until = Instant::now() + SOON;
        loop {
            let shown = self.ip_there(&show);
            let shown = String::from_utf8_lossy(&shown.stdout);
            if own.iter().all(|route| shown.contains(route)) {
                return;
            }
            assert!(Instant::now() < until, "the link is not up:\n{shown}");
            thread::sleep(LOOK_INTERVAL);
        }
    }

    fn ip_there(&self, arguments: &str) -> Output {
        self.enter(|| ip(arguments))
    }

    /// Where others reach this machine from there.
    pub fn near(&self) -> IpAddr {
        self.near.into()
    }

    /// Where others reach that machine.
    pub fn far(&self) -> IpAddr {
        self.far.into()
    }

    /// As [`Machine::near`]; `None` where this kernel has no IPv6.
    pub fn near_v6(&self) -> Option<IpAddr> {
        has_ipv6().then_some(self.near_v6.into())
    }

    /// As [`Machine::far`]; `None` where this kernel has no IPv6.
    pub fn far_v6(&self) -> Option<IpAddr> {
        has_ipv6().then_some(self.far_v6.into())
    }

    /// The name of this machine's end of the wire.
    pub fn near_link(&self) -> &str {
        &self.link
    }

    /// The name of its own end.
    pub fn far_link(&self) -> &str {
        &self.far_link
    }

    /// Does `work` there: what it binds, connects and starts is of that machine.
    ///
    /// # Panics
    /// If the namespace is gone, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let there = self.namespace();
        // A thread of its own, which ends with it: nobody has to find the way back.
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&there);
                work()
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes sockets and threads there while `future` runs: what it binds and starts stays there. Only on a runtime of
    /// one thread, of which nothing else may connect anywhere meanwhile.
    ///
    /// # Panics
    /// If the namespace is gone.
    pub async fn inside<F: Future>(&self, future: F) -> F::Output {
        let (home, there) = (open("/proc/thread-self/ns/net"), self.namespace());
        enter(&there);
        let output = future.await;
        enter(&home);
        output
    }

    fn namespace(&self) -> File {
        open(&format!("/proc/{}/ns/net", self.holder.id()))
    }

    /// From now on nothing arrives there and nothing comes from there, and nobody is told.
    pub fn vanish(&self) {
        self.ip_there(&format!("link set {} down", self.far_link));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The other end goes with it.
        run(&format!("link del {}", self.link));
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A network that no other test has, whatever process it is of: a name in the machine's own table of sockets is had once, and
/// is free again as soon as its holder is gone, also one that was killed.
fn claim_network() -> (u16, UnixListener) {
    let claim = |network: u16| {
        let name = SocketAddr::from_abstract_name(format!("meshwork-testkit-machine-{network}")).ok()?;
        Some((network, UnixListener::bind_addr(&name).ok()?))
    };
    (0..NETWORKS).find_map(claim).expect("a network is free")
}

/// A process in a network namespace of its own.
fn hold() -> Child {
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready && exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run unshare (install util-linux): {error}"));
    let mut line = String::new();
    let said = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line);
    assert!(said.is_ok() && line == "ready\n", "a network namespace could not be made");
    holder
}

fn open(path: &str) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn enter(namespace: &File) {
    let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    entered.expect("root may enter a network namespace");
}

fn ip(arguments: &str) -> Output {
    let output = run(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn run(arguments: &str) -> Output {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.unwrap_or_else(|error| panic!("cannot run ip (install iproute2): {error}"))
}
