//! `meshwork run --capture=cgroup` as an operator of a plain host meets it: plain curl reaches the mesh, nobody else notices,
//! and nothing stays behind. Needs root, nftables and cgroup v2; each test has a network namespace of its own.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use support::load::application;
use support::{Mesh, free_port, is_gone, meshwork, wait_for};

/// An address of the namespace that is not loopback.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The same of a namespace that has no other address.
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd4d, 0x77, 0, 0, 0, 0, 0, 1);

/// How long a command may try again and again, until somebody else is ready.
const PATIENCE_SECONDS: &str = "60";

/// This thread and all that it starts are in a network namespace of their own, until the value is dropped.
struct Namespace {
    name: String,
    home: File,
}

impl Namespace {
    /// `None`: that can't be made here, and was said.
    fn enter() -> Option<Self> {
        Self::with(HOST.into())
    }

    /// With this address and that of loopback.
    fn with(address: IpAddr) -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        assert!(root || std::env::var_os("CI").is_none(), "capturing needs root");
        if !root {
            println!("NOT CHECKED: capturing needs root");
            return None;
        }
        static LAST: AtomicU8 = AtomicU8::new(0);
        let name = format!("mwc{}n{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let namespace = Self { name, home: File::open("/proc/thread-self/ns/net").unwrap() };
        let there = File::open(format!("/run/netns/{}", namespace.name)).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ip("link set lo up");
        ip(&format!("addr add {address} dev lo"));
        Some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a test left that failed. Where it fails itself, there is nothing more to be done.
        let _ = meshwork(["capture", "remove"]).output();
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A mesh in the namespace, with an application behind the service `cart` that says `ok`.
struct Captured {
    mesh: Mesh,
    _cart: support::Run,
}

/// curl's address of `cart`: where somebody else listens, or nobody.
fn resolved(address: Ipv4Addr) -> String {
    format!("cart:80:{address}")
}

impl Captured {
    fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// Where control plane and sidecars reach each other.
    fn at(address: IpAddr) -> Self {
        let mesh = Mesh::start_at(address);
        let (spec, address) = (format!("80:{}/http", application()), address.to_string());
        let flags = ["--port", &spec, "--address", &address];
        let cart = mesh.start_run("cart", "cart", &flags, ["sleep", "infinity"]);
        Self { mesh, _cart: cart }
    }

    fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> Command {
        let mut run = self.mesh.run("web", name, flags, command.iter().copied());
        run.stdin(Stdio::null());
        run
    }

    /// A captured run of `curl http://cart/`, to its end.
    fn curl(&self, name: &str) -> Output {
        let curl =
            ["curl", "-sS", "--fail", "--max-time", "20", "--resolve", &resolved(HOST), "http://cart/"];
        self.run(name, &["--capture=cgroup"], &curl).output().unwrap()
    }
}

/// The same by another program, which starts it.
fn by(program: &[&str], run: &Command) -> Command {
    let mut by = Command::new(program[0]);
    by.args(&program[1..]).arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => by.env(name, value),
            None => by.env_remove(name),
        };
    }
    by
}

#[track_caller]
fn nothing_is_left() {
    assert_eq!(nft(&["list", "tables"]), "");
    assert_eq!(ip("route show proto 77"), "");
    assert_eq!(ip("-6 route show proto 77"), "");
}

/// Of this machine, by its supervisor's PID.
fn cgroup_of(supervisor: Pid) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    find(Path::new(mount.split(' ').nth(1).unwrap()), &format!("_{}_", supervisor.as_raw_nonzero()))
}

fn find(directory: &Path, part: &str) -> Option<PathBuf> {
    let directories =
        std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    directories.into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        if name.starts_with("meshwork_") && name.contains(part) { Some(path) } else { find(&path, part) }
    })
}

#[test]
fn plain_curl_reaches_the_mesh_and_who_is_outside_is_untouched() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let direct = TcpListener::bind((HOST, 80)).unwrap();
    let outside = std::thread::spawn(move || {
        let (stream, _) = direct.accept().unwrap();
        io::Write::write_all(&mut &stream, b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\noutside").unwrap();
        io::Read::read(&mut &stream, &mut [0; 1_024]).unwrap();
        direct
    });
    let marker = captured.mesh.path().join("started");
    let script = format!("touch {}; while :; do sleep 0.05; done", marker.display());
    let mut run = captured.run("idle", &["--capture=cgroup"], &["sh", "-c", &script]);
    let run = captured.mesh.started("idle", &mut run);
    wait_for("the command", || marker.exists().then_some(()));

    let output = captured.curl("curl");
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ok"[..]), "{output:?}");
    // The same call from outside, while two are captured.
    let curl = ["-sS", "--max-time", "20", "--noproxy", "*", "--resolve", &resolved(HOST), "http://cart/"];
    let output = Command::new("curl").args(curl).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"outside"[..]), "{output:?}");
    let direct = outside.join().unwrap();
    direct.set_nonblocking(true).unwrap();
    assert_eq!(direct.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the captured one came, too");

    let supervisor = run.process.pid();
    assert!(cgroup_of(supervisor).is_some());
    let mut run = run;
    run.process.signal(Signal::TERM);
    run.process.ended();
    assert_eq!(cgroup_of(supervisor), None);
    nothing_is_left();
}

#[test]
fn nobody_reaches_a_captured_application_but_by_its_sidecar() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let port = free_port().to_string();
    let root = captured.mesh.path().join("files");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hello.txt"), "hello").unwrap();
    let root = root.display().to_string();
    let server = ["python3", "-m", "http.server", &port, "--bind", "0.0.0.0", "--directory", &root];
    let flags = ["--capture=cgroup", "--port", &format!("80:{port}")];
    let mut stock = captured.mesh.run("stock", "stock", &flags, server);
    let stock = captured.mesh.started("stock", &mut stock);
    let script = "until curl -s --fail --max-time 20 http://stock/hello.txt; do sleep 0.05; done";
    let bounded = ["timeout", PATIENCE_SECONDS, "sh", "-c", script];
    let output = captured.run("web", &["--capture=cgroup"], &bounded).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello"[..]), "{output:?}");
    // From outside of the cgroup, by loopback and by the host's own address.
    for host in ["127.0.0.1".to_owned(), HOST.to_string()] {
        let url = format!("http://{host}:{port}/hello.txt");
        let curl = ["-sS", "--max-time", "20", "--noproxy", "*", &url];
        let output = Command::new("curl").args(curl).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{host}: {output:?}"); // refused
    }
    drop(stock);
}

/// Whoever reaches a sidecar's HTTP proxy acts with its workload's identity; a captured command needs none.
#[test]
fn others_on_the_host_find_no_proxy_that_would_act_for_a_captured_command() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let answering = |before: &BTreeSet<String>| -> Vec<String> {
        let opened = listening().into_iter().filter(|address| !before.contains(address));
        let by = |address: &String| {
            let proxy = format!("http://{address}");
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "20", "--proxy", &proxy, "http://cart/"]);
            curl.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap().stdout == b"ok"
        };
        opened.filter(by).collect()
    };
    let before = listening();
    let idle = ["sleep", "infinity"];
    let run = captured.mesh.started("web", &mut captured.run("web", &["--capture=cgroup"], &idle));
    assert!(listening().len() > before.len(), "{before:?}");
    assert_eq!(answering(&before), [""; 0]);
    drop(run);
    // Unless somebody asks for one.
    let asked_for = format!("127.0.0.1:{}", free_port());
    let flags = ["--capture=cgroup", &format!("--outbound-http={asked_for}")];
    let _run = captured.mesh.started("other", &mut captured.run("other", &flags, &idle));
    assert_eq!(answering(&before), [asked_for]);
}

/// Addresses on which somebody listens for TCP.
fn listening() -> BTreeSet<String> {
    let output = Command::new("ss").args(["-H", "-ltn"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())).collect()
}

/// The services' addresses, the control plane's, the way between sidecars: all of IPv6.
#[test]
fn a_host_with_ipv6_alone_is_captured_as_any_other() {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        println!("NOT CHECKED: this kernel has no IPv6");
        return;
    }
    let Some(_namespace) = Namespace::with(HOST_V6.into()) else { return };
    let captured = Captured::at(HOST_V6.into());
    let trap = TcpListener::bind((HOST_V6, 80)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = free_port().to_string();
    let root = captured.mesh.path().join("files");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hello.txt"), "hello").unwrap();
    let root = root.display().to_string();
    let server = ["python3", "-m", "http.server", &port, "--bind", "::", "--directory", &root];
    let flags = ["--capture=cgroup", "--port", &format!("80:{port}")];
    let mut stock = captured.mesh.run("stock", "stock", &flags, server);
    let stock = captured.mesh.started("stock", &mut stock);

    // By the service's own address; by its name at an address that somebody else has; from a captured host to a captured one.
    let script = format!(
        "getent ahostsv6 cart | head -1; curl='curl -6 -sS --fail --max-time 20'; $curl http://cart/; \
         $curl --resolve 'cart:80:[{HOST_V6}]' http://cart/; \
         for try in $(seq 200); do $curl http://stock/hello.txt && break; sleep 0.05; done"
    );
    let output = captured.run("web", &["--capture=cgroup"], &["sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let address = said.split_whitespace().next().unwrap_or_default().parse::<Ipv6Addr>();
    assert!(address.is_ok_and(|address| address.is_unique_local() && address != HOST_V6), "{output:?}");
    assert!(said.ends_with("okokhello"), "{output:?}");
    assert_eq!(trap.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "a call went out in clear");
    // From outside of the cgroup, by loopback and by the host's own address.
    for host in ["[::1]".to_owned(), format!("[{HOST_V6}]")] {
        let url = format!("http://{host}:{port}/hello.txt");
        let curl = ["-sS", "--max-time", "20", "--noproxy", "*", &url];
        let output = Command::new("curl").args(curl).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{host}: {output:?}"); // refused
    }
    drop(stock);
    // The one that was killed with its supervisor is cleared up by whoever comes next.
    assert!(meshwork(["capture", "remove"]).status().unwrap().success());
    nothing_is_left();
}

#[test]
fn services_have_names_in_the_command_and_nowhere_else() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    // Others make mounts of their own meanwhile: network namespaces.
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains("resolv")).count()
    };
    let before = mounts();
    let script = "curl -sS --fail --max-time 20 http://cart/ http://cart.default/ http://cart.default.mesh/ && \
                  getent ahostsv4 cart | head -1 && cat /etc/resolv.conf";
    let output =
        captured.run("web", &["--capture=cgroup", "--user=nobody"], &["sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let rest = said.strip_prefix("okokok").unwrap_or_else(|| panic!("{said}"));
    assert!(rest.starts_with("240."), "no virtual address: {said}");
    assert!(rest.contains("search default.mesh") && rest.contains("nameserver 127.0.0.1"), "{said}");
    assert_eq!(mounts(), before, "the command's mounts are everybody's");
    nothing_is_left();
}

#[test]
fn daemons_that_look_up_names_past_the_sidecar_are_hidden_from_the_command() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let daemon = "mount -t tmpfs none /run && mkdir -p /run/nscd && touch /run/nscd/socket && exec \"$@\"";
    let run = captured.run("web", &["--capture=cgroup"], &["ls", "-A", "/run/nscd"]);
    let output = by(&["unshare", "--mount", "sh", "-c", daemon, "sh"], &run).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b""[..]), "{output:?}");
    // It is there for others.
    let run = captured.run("web", &[], &["ls", "-A", "/run/nscd"]);
    let output = by(&["unshare", "--mount", "sh", "-c", daemon, "sh"], &run).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"socket\n"[..]), "{output:?}");
    nothing_is_left();
}

#[test]
fn the_command_is_another_user_in_a_cgroup_and_its_code_is_the_runs() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let told = "id -un; grep ^0:: /proc/self/cgroup; env | grep -i _proxy=; exit 7";
    let flags = ["--capture=auto", "--user", "nobody"];
    let output = captured.run("job", &flags, &["sh", "-c", told]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let [user, cgroup] = lines[..] else { panic!("{said}") };
    assert_eq!(user, "nobody");
    assert!(cgroup.contains("/meshwork_"), "{cgroup}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("this is root, and nftables and cgroup v2 are here"), "{log}");
    let code = |name: &str, command: &[&str]| {
        captured.run(name, &flags, command).stderr(Stdio::null()).status().unwrap().code().unwrap()
    };
    assert_eq!(code("killed", &["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code("missing", &["no-such-program"]), 127);
    assert_eq!(code("folder", &["/usr/bin/"]), 126);
    nothing_is_left();
}

#[test]
fn what_the_command_leaves_running_ends_with_the_run() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    // Without a terminal, a session or a parent of the command's.
    let script = "setsid sleep 300 > /dev/null 2>&1 & echo $!";
    let output = captured.run("job", &["--capture=cgroup"], &["sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let left = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(is_gone(Pid::from_raw(left).unwrap()));
    nothing_is_left();
}

#[test]
fn what_is_not_caught_is_not_started() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    // Somebody else's table, which is quicker.
    nft(&["add table ip other; add chain ip other out { type nat hook output priority -150; }"]);
    nft(&["add rule ip other out ip daddr 240.0.0.0/8 meta l4proto tcp redirect to :1"]);
    let file = captured.mesh.path().join("started");
    let run =
        captured.run("job", &["--capture=cgroup"], &["touch", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let error = String::from_utf8(run.stderr).unwrap();
    assert!(
        error.contains("was not led to the sidecar") && error.contains("meshwork capture show"),
        "{error}"
    );
    assert!(!file.exists(), "the command was started");
    nft(&["delete table ip other"]);
    nothing_is_left();
}

#[test]
fn where_no_cgroup_v2_is_mounted_the_run_says_how_to_mount_it() {
    let Some(namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    let run = captured.run("job", &["--capture=cgroup"], &["true"]);
    // This program hides what is mounted below /sys from those whom it starts.
    let output = by(&["ip", "netns", "exec", &namespace.name], &run).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"), "{error}");
    nothing_is_left();
}

/// Calls `cart` again and again and writes how each call ended: `yes` or `no`.
fn calls(file: &Path) -> String {
    let (address, file) = (resolved(HOST), file.display());
    format!(
        "while :; do curl -s --fail --max-time 5 -o /dev/null --resolve {address} http://cart/ && echo yes >> {file} || \
         echo no >> {file}; sleep 0.02; done"
    )
}

/// Waits until so many more calls have ended like this.
fn wait_for_calls(file: &Path, how: &str, more: usize) {
    let count =
        || std::fs::read_to_string(file).unwrap_or_default().lines().filter(|line| *line == how).count();
    let before = count();
    wait_for(&format!("{more} calls that end with {how}"), || (count() >= before + more).then_some(()));
}

#[test]
fn whoever_is_killed_nothing_goes_out_in_clear_and_the_next_start_clears_up() {
    let Some(_namespace) = Namespace::enter() else { return };
    let captured = Captured::start();
    // Where the calls would arrive, were they not captured.
    let trap = TcpListener::bind((HOST, 80)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let clear = || trap.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    let (file, pid_file) = (captured.mesh.path().join("calls"), captured.mesh.path().join("child"));
    // A child that nobody kills with its parent.
    let script = format!("setsid sh -c 'echo $$ > {}; {}' & wait", pid_file.display(), calls(&file));
    for clearing in ["start", "remove"] {
        let mut run = captured.run("web", &["--capture=cgroup"], &["sh", "-c", &script]);
        let mut run = captured.mesh.started("web", &mut run);
        wait_for_calls(&file, "yes", 3);
        let child = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let child = Pid::from_raw(child).unwrap();

        let sidecar = run.sidecar().unwrap();
        kill_process(sidecar, Signal::KILL).unwrap();
        wait_for("another sidecar", || run.sidecar().filter(|pid| *pid != sidecar));
        wait_for_calls(&file, "yes", 3);

        let (sidecar, command, supervisor) =
            (run.sidecar().unwrap(), run.command().unwrap(), run.process.pid());
        run.process.signal(Signal::KILL);
        run.process.ended();
        wait_for("both to be gone", || (is_gone(sidecar) && is_gone(command)).then_some(()));
        // The child goes on, and gets nowhere.
        wait_for_calls(&file, "no", 3);
        assert!(!is_gone(child) && cgroup_of(supervisor).is_some());
        assert!(clear(), "a call went out in clear");

        if clearing == "start" {
            let output = captured.curl("curl");
            assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ok"[..]), "{output:?}");
        } else {
            let output = meshwork(["capture", "remove"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        assert!(is_gone(child), "{clearing}");
        assert_eq!(cgroup_of(supervisor), None, "{clearing}");
        nothing_is_left();
        assert!(clear(), "a call went out in clear");
    }
}
