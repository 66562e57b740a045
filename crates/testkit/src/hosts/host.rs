//! One host: an address of either family, a `/run`, a `/etc/resolv.conf` and a `/etc/hosts` of its own, and programs that run on
//! it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::held::{Held, wait_for};
use super::wire::Wire;

/// Where `/etc/resolv.conf` is a link, it leads to a `/run` that this host does not see. And programs look up the machine's name,
/// which not every machine's `/etc/hosts` has: it would be asked of the resolver, in clear.
const SETUP: &str = "set -e
ip link set lo up
resolv=$(readlink -f /etc/resolv.conf)
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
mkdir -p \"$(dirname \"$resolv\")\"
[ -e \"$resolv\" ] || touch \"$resolv\"
echo 'nameserver 10.77.0.254' > /run/host-resolv.conf
mount --bind /run/host-resolv.conf \"$resolv\"
[ -e /etc/hosts ] || touch /etc/hosts
echo \"127.0.0.1 localhost $(uname -n)\" > /run/host-hosts
echo '::1 localhost' >> /run/host-hosts
mount --bind /run/host-hosts /etc/hosts";

/// Dropped, it is gone, with all that runs on it.
pub struct Host {
    name: String,
    number: u8,
    port: String,
    log_directory: PathBuf,
    // Before the namespaces between which it passes frames.
    wire: Option<Wire>,
    held: Held,
}

/// A program on a host. Dropped, it is killed; what it has started goes with its host at the latest.
pub struct Program {
    child: Child,
    log: PathBuf,
}

/// What a mesh may change on a host.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    pub nftables: String,
    pub routes: String,
    pub mounts: String,
    pub cgroups: Vec<PathBuf>,
    /// By their command lines.
    pub processes: Vec<String>,
}

impl Host {
    pub(super) fn make(name: &str, number: u8, log_directory: PathBuf) -> Self {
        let held = Held::start(name, SETUP, None);
        Self { name: name.to_owned(), number, port: format!("port{number}"), log_directory, wire: None, held }
    }

    pub(super) fn behind(&mut self, wire: Wire) {
        self.wire = Some(wire);
    }

    /// Gives addresses and routes to the link, which is there by now.
    pub(super) fn address(&self, gateway: (Ipv4Addr, Ipv6Addr)) {
        self.held.ip(&format!("addr add {}/24 dev eth0", self.ip()));
        self.held.ip("link set eth0 up");
        self.held.ip(&format!("route add default via {}", gateway.0));
        if let Some(ip) = self.ip_v6() {
            self.held.ip(&format!("addr add {ip}/64 dev eth0 nodad"));
            self.held.ip(&format!("-6 route add default via {}", gateway.1));
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ip(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, self.number).into()
    }

    /// `None` where this kernel has no IPv6.
    pub fn ip_v6(&self) -> Option<IpAddr> {
        Path::new("/proc/sys/net/ipv6").exists().then(|| self.ip_v6_of_number())
    }

    pub(super) fn ip_v6_of_number(&self) -> IpAddr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    /// The bridge's end of its link.
    pub(super) fn port(&self) -> &str {
        &self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.held.pid()
    }

    /// All that runs here is in it.
    pub fn cgroup(&self) -> &Path {
        self.held.cgroup()
    }

    /// The same command on this host, without variables that lead to a proxy or configure ours.
    pub fn command(&self, command: &Command) -> Command {
        self.held.inside(command)
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.held.output(program, arguments)
    }

    /// What a program prints that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn runs(&self, program: &str, arguments: &[&str]) -> String {
        self.held.runs(program, arguments)
    }

    /// Starts a program; what it says is in its log.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Program {
        let name = Path::new(program).file_name().expect("a program has a name").to_string_lossy();
        self.start_command(&name, Command::new(program).args(arguments))
    }

    /// The same of a command that was prepared, under a name for its log.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start_command(&self, name: &str, command: &Command) -> Program {
        let log = self.log_directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a file for its log");
        let again = file.try_clone().expect("another descriptor");
        let child = self.held.inside(command).stdout(file).stderr(Stdio::from(again)).spawn();
        Program { child: child.expect("sh is everywhere"), log }
    }

    /// What there is now: taken before and after, to be compared.
    ///
    /// # Panics
    /// If it can't be seen.
    pub fn left(&self) -> Left {
        let routes = |family| self.runs("ip", &[family, "route", "show", "table", "all"]);
        let mut cgroups = Vec::new();
        directories_below(self.cgroup(), &mut cgroups);
        let processes = std::iter::once(self.cgroup())
            .chain(cgroups.iter().map(PathBuf::as_path))
            .flat_map(processes_in)
            .filter(|pid| *pid != self.pid())
            .map(|pid| format!("{pid}: {}", command_line(pid)))
            .collect();
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.pid())).expect("it lives");
        Left {
            nftables: self.runs("nft", &["list", "ruleset"]),
            routes: settled(&(routes("-4") + &routes("-6"))),
            mounts: mounts.lines().filter(|line| !is_of_others(line)).collect::<Vec<_>>().join("\n"),
            cgroups,
            processes,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(&self.log_directory).into_iter().flatten().flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_SHOWN)..]).into_owned();
            println!("--- {}: the end of {}:\n{text}", self.name, entry.file_name().display());
        }
    }
}

/// Of each log of a test that failed.
const LOG_SHOWN: usize = 6_000;

impl Program {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it has not been waited for");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for(&format!("the end of {}", self.log.display()), || self.status())
    }

    /// `None`: it runs.
    ///
    /// # Panics
    /// Never: it is a child.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is a child")
    }

    /// What it and its children have said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directories_below(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories_below(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

fn processes_in(cgroup: &Path) -> Vec<u32> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    processes.lines().filter_map(|line| line.parse().ok()).collect()
}

fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// A host begins with a copy of the machine's mounts, of which those that other tests made go with their makers: network
/// namespaces, and what is mounted on temporary directories.
fn is_of_others(mount: &str) -> bool {
    let place = mount.split(' ').nth(1).unwrap_or_default();
    mount.starts_with("nsfs ") || Path::new(place).starts_with(std::env::temp_dir())
}

/// Without what comes and goes by itself: the link's own addresses, once nobody else turned out to have them.
fn settled(routes: &str) -> String {
    let mut lines: Vec<&str> =
        routes.lines().map(str::trim_end).filter(|line| !line.contains("fe80:")).collect();
    lines.sort_unstable();
    lines.join("\n")
}
