//! A machine of its own: a network namespace behind a pair of virtual interfaces, which can vanish without a farewell.
//!
//! Needs root, as the kernel gives namespaces to nobody else; where there is none, [`Machine::start`] says so. What is
//! made goes with the value.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Dropped, it is gone.
pub struct Machine {
    name: String,
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
        static LAST: AtomicU8 = AtomicU8::new(0);
        let count = LAST.fetch_add(1, Ordering::Relaxed) % 64;
        let process = std::process::id();
        let name = format!("mw{process}m{count}");
        let net = [10, 213, process.to_be_bytes()[3], count * 4];
        let end = |last: u8| Ipv4Addr::new(net[0], net[1], net[2], net[3] + last);
        let (link, far_link) = (format!("{name}h"), format!("{name}n"));
        let end_v6 =
            |last: u16| Ipv6Addr::new(0xfd4d, 0x213, 0, u16::from(net[2]), 0, 0, u16::from(net[3]), last);
        let (near, far, near_v6, far_v6) = (end(1), end(2), end_v6(1), end_v6(2));
        let machine = Self { name, link, far_link, near, far, near_v6, far_v6 };
        machine.connect();
        Some(machine)
    }

    fn connect(&self) {
        let Self { name, link, far_link, near, far, near_v6, far_v6 } = self;
        ip(&format!("netns add {name}"));
        ip(&format!("link add {link} type veth peer name {far_link} netns {name}"));
        ip(&format!("addr add {near}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} addr add {far}/30 dev {far_link}"));
        ip(&format!("-n {name} link set {far_link} up"));
        ip(&format!("-n {name} link set lo up"));
        if has_ipv6() {
            // At once: nobody else is there who could have the same address.
            ip(&format!("addr add {near_v6}/112 dev {link} nodad"));
            ip(&format!("-n {name} addr add {far_v6}/112 dev {far_link} nodad"));
        }
        // Else this machine would soon know that there is nobody at that address, and say so to whoever sends.
        let shown = ip(&format!("-n {name} -o link show {far_link}"));
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        let mac = words.nth(1).expect("a virtual interface has a MAC address");
        ip(&format!("neigh replace {far} lladdr {mac} dev {link} nud permanent"));
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
        let done = std::thread::scope(|scope| {
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
        open(&format!("/run/netns/{}", self.name))
    }

    /// From now on nothing arrives there and nothing comes from there, and nobody is told.
    pub fn vanish(&self) {
        ip(&format!("-n {} link set {} down", self.name, self.far_link));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The other end goes with it.
        run(&format!("link del {}", self.link));
        run(&format!("netns del {}", self.name));
    }
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
