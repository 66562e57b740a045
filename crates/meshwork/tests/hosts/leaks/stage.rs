//! Three hosts: the control plane, `cart` that says the marker, and `web` whose program calls `cart` again and again.

use std::path::PathBuf;
use std::process::{Command, Output};

use meshwork_testkit::hosts::{Host, Hosts, Left, Program, Recorded, Recorder};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{is_gone, wait_for};

/// Carried by every request and every answer.
pub(super) const MARKER: &str = "between-sidecars-only-4711";

/// Where `cart`'s program listens.
pub(super) const PORT: u16 = 8080;

const MESHWORK: &str = env!("CARGO_BIN_EXE_meshwork");

pub(super) struct Stage {
    pub(super) hosts: Hosts,
    pub(super) cart: Host,
    pub(super) web: Host,
    pub(super) control: Host,
    _control: Program,
    recorder: Recorder,
}

impl Stage {
    /// With the recorder running. `None`: this user may not make hosts.
    pub(super) fn start() -> Option<Self> {
        let hosts = Hosts::start()?;
        let [control, cart, web] = ["control", "cart", "web"].map(|name| hosts.add(name));
        let recorder = hosts.record();
        let (listen, state_dir) = (format!("{}:4190", control.ip()), hosts.path().join("state-control"));
        let state_dir = state_dir.to_str().unwrap();
        let program = control.start(MESHWORK, &["control", "--listen", &listen, "--state-dir", state_dir]);
        let stage = Self { hosts, cart, web, control, _control: program, recorder };
        wait_for("the control plane", || stage.operate(&["get", "services"]).status.success().then_some(()));
        Some(stage)
    }

    fn operate(&self, arguments: &[&str]) -> Output {
        let state_dir = self.hosts.path().join("state-control");
        let state_dir = ["--state-dir", state_dir.to_str().unwrap()];
        self.control.output(MESHWORK, &[arguments, &state_dir].concat())
    }

    pub(super) fn token(&self, service: &str) -> String {
        let output = self.operate(&["token", "create", "--service", service]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `meshwork` on that host for a service.
    pub(super) fn meshwork(&self, host: &Host, subcommand: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(MESHWORK);
        command.args([subcommand, "--service", host.name(), "--state-dir"]).arg(self.state_dir(host));
        command.args(flags).env("MESHWORK_TOKEN", self.token(host.name()));
        command
    }

    fn state_dir(&self, host: &Host) -> PathBuf {
        self.hosts.path().join(format!("state-{}", host.name()))
    }

    /// `cart`'s program, captured by its cgroup.
    pub(super) fn run_cart(&self) -> Program {
        let (spec, server) = (format!("80:{PORT}"), server());
        let flags = ["--capture=cgroup", "--port", &spec, "--", "python3", "-c", &server];
        let run = self.cart.start_command("cart", &self.meshwork(&self.cart, "run", &flags));
        self.cart_has_a_name();
        run
    }

    /// Until it has, who looks it up asks the host's resolver, in clear.
    pub(super) fn cart_has_a_name(&self) {
        wait_for("the service cart", || {
            let services = self.operate(&["get", "services"]);
            String::from_utf8_lossy(&services.stdout).contains("cart").then_some(())
        });
    }

    /// `web`'s program, captured by its cgroup.
    pub(super) fn run_web(&self) -> Program {
        let caller = caller();
        let flags = ["--capture=cgroup", "--", "python3", "-c", &caller];
        self.web.start_command("web", &self.meshwork(&self.web, "run", &flags))
    }

    /// What a captured command of `web` prints that must succeed.
    #[track_caller]
    pub(super) fn web_runs(&self, script: &str) -> String {
        let run =
            self.meshwork(&self.web, "run", &["--capture=cgroup", "--log=warn", "--", "sh", "-c", script]);
        let output = self.web.command(&run).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn left(&self) -> [Left; 2] {
        [&self.cart, &self.web].map(|host| {
            let mut left = host.left();
            // The kernel adds those of the link by itself, when it has found that nobody else has them.
            left.routes = without(&left.routes, "fe80:");
            // Other tests of this machine make namespaces and remove them.
            left.mounts = without(&left.mounts, "/run/netns");
            left
        })
    }

    /// Nothing is there that was not before.
    #[track_caller]
    pub(super) fn is_left_as(&self, before: &[Left; 2]) {
        for (is, was) in self.left().iter().zip(before) {
            assert_eq!(is.nftables, was.nftables);
            assert_eq!(is.routes, was.routes);
            assert_eq!(is.mounts, was.mounts);
            assert_eq!(is.cgroups, was.cgroups);
            assert_eq!(is.processes, was.processes);
        }
    }

    /// What crossed until now.
    pub(super) fn recorded(self) -> Recorded {
        self.recorder.stop(&self.web, &self.cart)
    }

    /// Not a word of it crossed, nor anything else in clear.
    #[track_caller]
    pub(super) fn nothing_was_in_clear(self) {
        let recorded = self.recorded();
        assert!(recorded.tls_streams() > 0, "nobody called");
        assert!(!recorded.contains(MARKER.as_bytes()), "the marker crossed in clear");
        assert_eq!(recorded.not_tls(), [] as [String; 0]);
    }
}

fn without(text: &str, word: &str) -> String {
    text.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\n")).collect()
}

/// Says the marker to whoever asks, on both families.
pub(super) fn server() -> String {
    format!(
        "import http.server, socket
class Says(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('content-length', {})
        self.end_headers()
        self.wfile.write(b'{MARKER}')
    def log_message(self, *words): pass
class Both(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
Both(('::', {PORT}), Says).serve_forever()",
        MARKER.len()
    )
}

/// Calls by the service's name, each time on a new connection, and says how each call ended.
pub(super) fn caller() -> String {
    format!(
        "import time, urllib.request
while True:
    request = urllib.request.Request('http://cart/{MARKER}', headers={{'x-marker': '{MARKER}'}})
    try:
        how = 'yes' if urllib.request.urlopen(request, timeout=20).read() == b'{MARKER}' else 'odd'
    except Exception as error:
        refused = isinstance(getattr(error, 'reason', error), ConnectionRefusedError)
        how = 'refused' if refused else 'no'
    print('call', how, flush=True)
    time.sleep(0.02)"
    )
}

/// Waits until so many more calls have ended like this.
#[track_caller]
pub(super) fn calls_end(caller: &Program, how: &str, more: usize) {
    let line = format!("call {how}");
    let count = || caller.log().lines().filter(|other| *other == line).count();
    let until = count() + more;
    wait_for(&format!("{more} calls that end with {how}"), || (count() >= until).then_some(()));
}

/// Of `meshwork run`, if there is one right now.
pub(super) fn sidecar(run: &Program) -> Option<Pid> {
    children(run.pid()).into_iter().find(|pid| word(*pid, 1) == b"proxy")
}

/// Of `meshwork run`, once it is what it is to be.
pub(super) fn command(run: &Program) -> Option<Pid> {
    // Before that, it still is our own binary.
    let ours: [&[u8]; 3] = [b"proxy", b"launch", b"run"];
    children(run.pid()).into_iter().find(|pid| !ours.contains(&&*word(*pid, 1)))
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn word(pid: Pid, place: usize) -> Vec<u8> {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(place).unwrap_or_default().to_vec()
}

/// `kill -9`, and gone.
pub(super) fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
    wait_for("the end of what was killed", || is_gone(pid).then_some(()));
}

/// In order.
pub(super) fn stop(mut program: Program) {
    program.signal(Signal::TERM);
    program.ended();
}
