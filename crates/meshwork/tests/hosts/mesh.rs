//! A mesh of the real binary on several hosts: a control plane on one, `meshwork run` on others, and callers that write down
//! how each of their requests ended.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use meshwork_testkit::hosts::{Host, Hosts, Program};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::support::{meshwork, wait_for};

/// Requests and answers carry it: who sees it on a wire sees what must not be seen.
pub(crate) const MARKER: &str = "meshwork-marker-5f1c";

/// Each makes one request after the other.
const CALLERS: usize = 4;

const NGINX: &str = "daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path /run/body; proxy_temp_path /run/proxy; fastcgi_temp_path /run/fastcgi;
    uwsgi_temp_path /run/uwsgi; scgi_temp_path /run/scgi;
    server { listen 127.0.0.1:8080; location / { return 200 \"MARKER NAME\"; } }
}
";

pub(crate) struct Mesh {
    state_dir: PathBuf,
    _control: Program,
}

const DAY_SECONDS: u64 = 86_400;

/// A running `meshwork run`, ready.
pub(crate) struct Run<'a> {
    host: &'a Host,
    pub(crate) program: Program,
    admin: String,
}

impl Mesh {
    /// Waits until the control plane answers.
    pub(crate) fn start(hosts: &Hosts, on: &Host) -> Self {
        let state_dir = hosts.path().join("state");
        std::fs::create_dir(&state_dir).unwrap();
        let mut command = meshwork(["control", "--listen", &format!("{}:4190", on.ip()), "--state-dir"]);
        let control = on.start_command("control", command.arg(state_dir.join("control")));
        let mesh = Self { state_dir, _control: control };
        wait_for("the control plane", || mesh.try_operate(&["get", "services"]));
        mesh
    }

    /// What an operator's command says.
    pub(crate) fn operate(&self, args: &[&str]) -> String {
        self.try_operate(args).unwrap_or_else(|| panic!("{args:?} failed"))
    }

    fn try_operate(&self, args: &[&str]) -> Option<String> {
        let mut command = meshwork(args);
        let output = command.env("MESHWORK_STATE_DIR", self.state_dir.join("control")).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// `meshwork run --capture=cgroup` there; `name` is also its log's.
    pub(crate) fn run<'h>(
        &self,
        host: &'h Host,
        service: &str,
        name: &str,
        flags: &[&str],
        command: &[&str],
    ) -> Run<'h> {
        let mut program = host.start_command(name, &self.prepared(service, name, flags, command));
        let state_dir = self.state_dir.join(name);
        let told = wait_for("the sidecar's addresses", || {
            assert!(program.status().is_none(), "{}", program.log());
            serde_json::from_slice::<Value>(&std::fs::read(state_dir.join("run.json")).ok()?).ok()
        });
        let run = Run { host, program, admin: told["admin"].as_str().unwrap().to_owned() };
        wait_for("the sidecar to be ready", || run.ask("/ready"));
        run
    }

    fn prepared(&self, service: &str, name: &str, flags: &[&str], command: &[&str]) -> Command {
        let token = self.operate(&["token", "create", "--service", service]);
        let mut run = meshwork(["run", "--capture=cgroup", "--service", service, "--state-dir"]);
        run.arg(self.state_dir.join(name)).env("MESHWORK_TOKEN", token.trim());
        run.args(flags).arg("--").args(command);
        run
    }

    /// Waits until the control plane knows of so many instances of a service.
    pub(crate) fn knows(&self, instances: usize, service: &str) {
        let instance = format!("{service}-");
        wait_for("instances that are registered", || {
            let workloads = self.operate(&["get", "workloads"]);
            (workloads.matches(&instance).count() >= instances).then_some(())
        });
    }

    /// nginx, captured, as an endpoint of the service: it answers with the marker and this name. Its service exists, as the
    /// control plane knows of it: a name without a service is one for the host's own resolver, in clear.
    pub(crate) fn page<'h>(&self, host: &'h Host, service: &str, name: &str) -> Run<'h> {
        let file = self.state_dir.join(format!("{name}.conf"));
        std::fs::write(&file, NGINX.replace("MARKER", MARKER).replace("NAME", name)).unwrap();
        let run =
            self.run(host, service, name, &["--port", "80:8080"], &["nginx", "-c", file.to_str().unwrap()]);
        wait_for("the instance to be registered", || {
            run.program.log().contains("registered with the control plane").then_some(())
        });
        run
    }

    /// A captured shell, to its end: what it says.
    pub(crate) fn shop(&self, host: &Host, script: &str) -> String {
        let mut shop = host.start_command("shop", &self.prepared("shop", "shop", &[], &["sh", "-c", script]));
        let status = shop.ended();
        assert!(status.success(), "{status}: {}", shop.log());
        shop.log()
    }

    /// Callers of `http://<service>/` under the service `caller`, captured; the first answer has come.
    pub(crate) fn load<'h>(&self, host: &'h Host, service: &str) -> Load<'h> {
        let (script, file) = (self.state_dir.join("caller.py"), self.state_dir.join("calls"));
        std::fs::write(&script, include_str!("caller.py")).unwrap();
        let arguments =
            [script.to_str().unwrap(), service, MARKER, file.to_str().unwrap(), &CALLERS.to_string()];
        let flags = ["--log", "info,meshwork_proxy::side::take=debug"];
        let run = self.run(host, "caller", "caller", &flags, &[&["python3"], &arguments[..]].concat());
        let load = Load { run, file };
        load.goes_on(1);
        load
    }
}

impl Run<'_> {
    fn ask(&self, path: &str) -> Option<String> {
        let output = self.host.output("curl", &["-sSf", "-m", "5", &format!("http://{}{path}", self.admin)]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// How long after this moment it logged a line that has all of these parts, if it has: by the time that it wrote beside it.
    pub(crate) fn wrote(&self, parts: &[&str], since: SystemTime) -> Option<Duration> {
        let log = self.program.log();
        let mut lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.find_map(|line| after(line, since))
    }

    /// As a service manager ends it.
    pub(crate) fn end(&mut self) {
        self.program.signal(Signal::TERM);
        self.program.ended();
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = wait_for("metrics", || self.ask("/metrics"));
        let of_it = metrics
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        of_it.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// Requests, one after the other by each of some callers, each on a connection of its own and by the service's name.
pub(crate) struct Load<'h> {
    pub(crate) run: Run<'h>,
    file: PathBuf,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Call {
    caller: usize,
    /// On the machine's monotonic clock.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    /// Who answered, or what went wrong.
    pub(crate) end: Result<String, String>,
}

impl Load<'_> {
    pub(crate) fn calls(&self) -> Vec<Call> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may not be whole.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(read_call).collect()
    }

    /// Waits for so many more ends.
    pub(crate) fn goes_on(&self, more: usize) {
        let until = self.calls().len() + more;
        wait_for(&format!("{more} more calls"), || (self.calls().len() >= until).then_some(()));
    }

    /// Waits until nobody waits any more for a request that began before this moment.
    pub(crate) fn all_began_after(&self, moment: Duration) {
        wait_for("the requests that were on their way", || {
            let calls = self.calls();
            let anew = calls.iter().filter(|call| call.began() > moment).map(|call| call.caller);
            (anew.collect::<HashSet<_>>().len() == CALLERS).then_some(())
        });
    }

    /// Waits until somebody answers a request that ends after this moment, and says when the first did.
    pub(crate) fn is_answered_by(&self, name: &str, since: Duration) -> Duration {
        wait_for(&format!("an answer of {name}"), || {
            let calls = self.calls();
            let mut of_it = calls.iter().filter(|call| call.end.as_deref() == Ok(name) && call.at > since);
            of_it.next().map(|call| call.at)
        })
    }

    /// Every request was answered well, and so many there were at least.
    #[track_caller]
    pub(crate) fn assert_all_good(&self, at_least: usize) {
        let calls = self.calls();
        let failed: Vec<&Call> = calls.iter().filter(|call| call.end.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), calls.len());
        assert!(calls.len() >= at_least, "only {} calls", calls.len());
    }
}

impl Call {
    pub(crate) fn began(&self) -> Duration {
        self.at.saturating_sub(self.took)
    }
}

fn read_call(line: &str) -> Call {
    let mut words = line.splitn(5, ' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("half a line: {line}"));
    let (caller, at, took, how, what) = (next(), next(), next(), next(), next());
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().unwrap());
    let end = if how == "ok" { Ok(what.to_owned()) } else { Err(what.to_owned()) };
    Call { caller: caller.parse().unwrap(), at: seconds(at), took: seconds(took), end }
}

/// From this moment to that of the line, `2026-11-23T14:34:10.254240Z …`. No test takes half a day: what seems to be later was before.
fn after(line: &str, moment: SystemTime) -> Option<Duration> {
    let (day, half) = (Duration::from_secs(DAY_SECONDS), Duration::from_secs(DAY_SECONDS / 2));
    let (_, rest) = line.split_once('T')?;
    let (time, _) = rest.split_once('Z')?;
    let seconds = time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))?;
    let of_day = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64() % day.as_secs_f64();
    let later = (seconds - of_day).rem_euclid(day.as_secs_f64());
    (later < half.as_secs_f64()).then(|| Duration::from_secs_f64(later))
}

/// The clock by which calls are written down.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// A program of `host`'s own, not captured.
pub(crate) fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}
