//! `meshwork run` in a container, which has a network namespace of its own and no cgroup that it may write: every program in it
//! is captured, and nothing is when the run has ended.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use meshwork_core::capture::MARK;
use rustix::process::{Pid, Signal};

use crate::place::{Place, VIRTUAL, assert_refused};
use crate::support::load::application;
use crate::support::{Mesh, Process, Run, free_port, is_gone, wait_for};

/// A container, a mesh outside, and in the mesh the service `cart`, which says `ok`.
struct Container {
    mesh: Mesh,
    cart: Run,
    place: Place,
}

impl Container {
    fn start() -> Option<Self> {
        let place = Place::empty()?;
        let near = place.machine.near();
        place.prints("ip", &format!("route add default via {near}"));
        let mesh = Mesh::start_at(near);
        let serves = format!("80:{}", application());
        let flags = ["--port", &serves, "--address", &near.to_string()];
        let cart = mesh.start_run("cart", "cart", &flags, ["sleep", "infinity"]);
        Some(Self { mesh, cart, place })
    }

    /// A run in the container, not started yet.
    fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> Command {
        let mut run = self.mesh.run("web", name, flags, command.iter().copied());
        run.stdin(Stdio::null());
        run
    }

    /// To its end.
    fn output(&self, name: &str, flags: &[&str], command: &[&str]) -> Output {
        self.place.run(&mut self.run(name, flags, command))
    }

    /// A run that captures and waits; it does from when its command runs.
    fn captured(&self, name: &str, flags: &[&str]) -> Process {
        let marker = self.mesh.path().join(format!("{name}.started"));
        let script = format!("touch {}; exec sleep infinity", marker.display());
        let mut run = self.run(name, &[&["--capture=redirect"], flags].concat(), &["sh", "-c", &script]);
        let process = Process(self.place.machine.enter(|| run.spawn()).unwrap());
        wait_for("the command", || marker.exists().then_some(()));
        process
    }

    /// curl of somebody who is in the container, too, and no child of the run.
    fn curl(&self) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "20", "http://cart/"]);
        self.place.run(&mut curl)
    }
}

const CURL: [&str; 6] = ["curl", "-sS", "--fail", "--max-time", "20", "http://cart/"];

/// What capture changes, without what the kernel does meanwhile by itself: a link-local address is tried before it is used.
fn state(place: &Place) -> String {
    let state = place.state().concat();
    state.lines().filter(|line| !line.contains("fe80:")).map(|line| format!("{line}\n")).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn everybody_in_the_namespace_is_captured_while_it_runs() {
    let Some(container) = Container::start() else { return };
    let Container { mesh, cart, place } = &container;
    let before = state(place);
    let port = free_port();
    let pages = mesh.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    let serve = format!("python3 -m http.server {port} --bind 0.0.0.0 --directory {} &", pages.display());
    let serve = ["sh", "-c", &format!("{serve} exec sleep infinity")].map(str::to_owned);
    let spec = format!("80:{port}");
    let mut run =
        container.run("web", &["--capture=redirect", "--port", &spec], &serve.each_ref().map(|word| &**word));
    let mut run = Process(place.machine.enter(|| run.spawn()).unwrap());

    // By the mesh; and in clear by nobody from outside.
    assert!(cart.eventually("http://web/").contains("Directory listing"));
    let mut plain = Command::new("curl");
    let url = format!("http://{}:{port}/", place.machine.far());
    let refused = plain.args(["-sS", "--noproxy", "*", "--max-time", "20", &url]).output().unwrap();
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("Directory listing"), "{refused:?}");
    // Out, from a program that nobody told anything.
    let answer = container.curl();
    assert_eq!((answer.status.code(), &*answer.stdout), (Some(0), &b"ok"[..]), "{answer:?}");

    // The command ends; its child goes with the run, or it would be in clear from now on.
    let ours = descendants(run.pid());
    run.signal(Signal::TERM);
    run.ended();
    assert_eq!(state(place), before);
    assert!(ours.len() > 2 && ours.iter().all(|pid| is_gone(*pid)), "{ours:?}");
}

#[test]
fn a_command_is_captured_from_its_first_connection_and_its_code_is_the_runs() {
    let Some(container) = Container::start() else { return };
    let before = state(&container.place);
    let output = container.output("web", &["--capture=redirect", "--user=nobody"], &CURL);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ok"[..]), "{output:?}");
    let output = container.output("web", &["--capture=redirect"], &["sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(state(&container.place), before);
}

/// `ip netns exec` hides the mounts of cgroups, as many a container does.
#[test]
fn auto_captures_the_namespace_where_there_is_no_cgroup_to_make() {
    let Some(container) = Container::start() else { return };
    let without_cgroups = |run: &Command| {
        let hides = "umount -R /sys/fs/cgroup 2> /dev/null; exec \"$@\"";
        let mut hidden = Command::new("unshare");
        hidden.args(["--mount", "sh", "-c", hides, "sh"]).arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            match value {
                Some(value) => hidden.env(name, value),
                None => hidden.env_remove(name),
            };
        }
        container.place.run(&mut hidden)
    };
    let output = without_cgroups(&container.run("web", &["--capture=auto"], &CURL));
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ok"[..]), "{output:?}");
    let log = said(&output);
    assert!(
        log.contains("capture=Redirect") && log.contains("not the host's own, and no cgroup v2"),
        "{log}"
    );
    // Nobody may make rules here: nothing is captured, and the command runs all the same.
    let mut may_not = Command::new("setpriv");
    let run = container.run("job", &["--capture=auto"], &["echo", "here"]);
    may_not.arg("--bounding-set=-net_admin").arg(run.get_program()).args(run.get_args());
    may_not.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = without_cgroups(&may_not);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"here\n"[..]), "{output:?}");
    assert!(said(&output).contains("capture=Explicit"), "{}", said(&output));
}

#[test]
fn a_namespace_is_captured_once() {
    let Some(container) = Container::start() else { return };
    let first = container.captured("first", &[]);
    let rules = container.place.prints("nft", "list table inet meshwork_run");
    let second = container.output("second", &["--capture=redirect"], &["true"]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(said(&second).contains("another run captures this network namespace already"), "{second:?}");
    // Who clears up leaves it alone, too.
    let output = container.place.meshwork(&["capture", "remove"]);
    assert!(output.status.success(), "{output:?}");
    let without_counters = |rules: &str| -> Vec<String> {
        rules.lines().map(|line| line.split(" counter ").next().unwrap_or_default().to_owned()).collect()
    };
    let now = container.place.prints("nft", "list table inet meshwork_run");
    assert_eq!(without_counters(&now), without_counters(&rules));
    assert_eq!(container.curl().stdout, b"ok");
    // Rules for a sidecar beside it would refuse what the run's lead.
    let applied = container.place.meshwork(&["capture", "apply"]);
    assert_eq!(applied.status.code(), Some(1), "{applied:?}");
    assert!(
        said(&applied).contains("a `meshwork run` captures this network namespace already"),
        "{applied:?}"
    );
    assert_eq!(container.place.prints("nft", "list tables"), "table inet meshwork_run\n");
    assert_eq!(container.curl().stdout, b"ok");
    drop(first);

    container.place.meshwork(&["capture", "remove"]);
    container.place.apply(&[]);
    let refused = container.output("second", &["--capture=redirect"], &["true"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains("the rules of `meshwork capture apply` hold"), "{refused:?}");
}

#[test]
fn what_is_not_caught_is_not_started() {
    let Some(container) = Container::start() else { return };
    // Somebody else's table, which is quicker.
    container.place.prints("nft", "add table ip other");
    container.place.prints("nft", "add chain ip other out { type nat hook output priority -150 ; }");
    container
        .place
        .prints("nft", "add rule ip other out ip daddr 240.0.0.0/8 meta l4proto tcp redirect to :1");
    let before = state(&container.place);
    let file = container.mesh.path().join("started");
    let output = container.output("web", &["--capture=redirect"], &["touch", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = said(&output);
    assert!(error.contains("from this network namespace") && error.contains("was not led"), "{error}");
    assert!(!file.exists(), "the command was started");
    assert_eq!(state(&container.place), before);
}

/// With -9: all is refused until the next start, of whatever process namespace, or until it is removed or replaced.
#[test]
fn after_a_kill_nothing_gets_out_until_the_next_start() {
    let Some(container) = Container::start() else { return };
    let before = state(&container.place);
    for clearing in ["start", "remove", "apply"] {
        let mut run = container.captured("web", &[]);
        assert_eq!(container.curl().stdout, b"ok");
        let below = descendants(run.pid());
        run.signal(Signal::KILL);
        run.ended();
        wait_for("the end of sidecar and command", || below.iter().all(|pid| is_gone(*pid)).then_some(()));
        // A process of several threads has its sockets until the last one is gone, which nothing tells but the sockets.
        wait_for("the end of the sidecar's sockets", || {
            container.place.connect((VIRTUAL, 80)).is_err().then_some(())
        });
        assert_refused(&container.place.connect((VIRTUAL, 80)));
        let control = (container.place.machine.near(), container.mesh.port);
        assert_refused(&container.place.connect(control));
        assert!(container.place.connect_marked(control, MARK).is_ok(), "the control plane is there");
        if clearing == "start" {
            let output = container.output("web", &["--capture=redirect"], &CURL);
            assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ok"[..]), "{output:?}");
        } else {
            if clearing == "apply" {
                container.place.apply(&[]);
                assert_eq!(container.place.prints("nft", "list tables"), "table inet meshwork\n");
            }
            let output = container.place.meshwork(&["capture", "remove"]);
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(state(&container.place), before, "{clearing}");
    }
}

/// All below a process.
fn descendants(of: Pid) -> Vec<Pid> {
    let own = children(of);
    own.iter().flat_map(|pid| descendants(*pid)).chain(own.clone()).collect()
}

fn children(of: Pid) -> Vec<Pid> {
    let pid = of.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Where the test itself is may be a container; only what the kernel calls its first namespace is asked.
#[test]
fn a_hosts_own_namespace_is_not_captured_as_a_whole() {
    if !Path::new("/proc/sys/net/core/netdev_max_backlog").exists() {
        println!("NOT CHECKED: this is no host's own network namespace");
        return;
    }
    let mesh = Mesh::start();
    let file = mesh.path().join("started");
    let output =
        mesh.run("web", "web", &["--capture=redirect"], ["touch", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = said(&output);
    assert!(
        error.contains("the host's own network namespace") && error.contains("--capture=cgroup"),
        "{error}"
    );
    assert!(!file.exists(), "the command was started");
}
