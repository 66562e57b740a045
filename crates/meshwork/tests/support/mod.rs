//! A mesh of real processes for the tests of the binary: a control plane and workloads under `meshwork run`.
//!
//! Every process is a child of the test and is killed by its own PID when its value is dropped; state lives in a temporary
//! directory. Ports are the kernel's choice, or found free below the kernel's own range.
#![allow(dead_code, unreachable_pub)] // each test file is a crate of its own and uses its part of this one

pub mod load;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Far above what anything here takes, on the busiest machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A meshwork command without whatever the developer's own shell has set for it.
pub fn meshwork<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwork"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_lowercase();
        if text.starts_with("meshwork_") || text.ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// The same command under a limit of its own, as `ulimit` says it: `-f 16`.
pub fn limited(limit: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -c 0 && ulimit {limit} && exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

pub struct Mesh {
    dir: TempDir,
    control: Option<Process>,
    /// Of the control plane.
    ip: IpAddr,
    pub port: u16,
}

impl Mesh {
    /// Starts a control plane and waits until it answers.
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// The same where other machines reach it.
    pub fn start_at(ip: IpAddr) -> Self {
        let mut mesh = Self { dir: tempfile::tempdir().unwrap(), control: None, ip, port: free_port() };
        mesh.start_control(mesh.port);
        wait_for("the control plane to answer", || {
            mesh.operate(["get", "services"])
                .stderr(Stdio::null())
                .output()
                .unwrap()
                .status
                .success()
                .then_some(())
        });
        mesh
    }

    /// With the state that is there. Does not wait.
    pub fn start_control(&mut self, port: u16) {
        let state_dir = self.dir.path().join("control");
        let listen = SocketAddr::new(self.ip, port).to_string();
        let control = meshwork(["control", "--listen", &listen, "--state-dir"]).arg(&state_dir).spawn();
        self.control = Some(Process(control.unwrap()));
    }

    /// `kill -9`.
    pub fn kill_control(&mut self) {
        drop(self.control.take());
    }

    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("it runs")
    }

    /// `GET /api/v1/status`, once there is an answer.
    pub fn status(&self) -> Value {
        let socket = self.dir.path().join("control/operator.sock");
        wait_for("the control plane's status", || {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--fail", "--unix-socket"]).arg(&socket).arg("http://control/api/v1/status");
            serde_json::from_slice(&curl.stderr(Stdio::null()).output().unwrap().stdout).ok()
        })
    }

    /// An operator's command.
    pub fn operate<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = meshwork(args);
        command.env("MESHWORK_STATE_DIR", self.dir.path().join("control"));
        command
    }

    pub fn token(&self, service: &str) -> String {
        let output = self.operate(["token", "create", "--service", service]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `meshwork run` for a service, not started yet; `name` is its state directory's. Captures nothing unless a flag says so:
    /// rules would be this machine's own.
    pub fn run<'a>(
        &self,
        service: &str,
        name: &str,
        flags: &[&str],
        command: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut run = meshwork(["run", "--service", service]);
        run.env("MESHWORK_TOKEN", self.token(service)).env("MESHWORK_CAPTURE", "explicit");
        run.arg("--state-dir").arg(self.state_dir(name)).args(flags).arg("--").args(command);
        run
    }

    pub fn state_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a run and waits until its sidecar is ready.
    pub fn start_run<'a>(
        &self,
        service: &str,
        name: &str,
        flags: &[&str],
        command: impl IntoIterator<Item = &'a str>,
    ) -> Run {
        self.started(name, &mut self.run(service, name, flags, command))
    }

    /// The same of a run that was prepared before.
    pub fn started(&self, name: &str, run: &mut Command) -> Run {
        let file = self.state_dir(name).join("run.json");
        // Of an earlier one; there may have been none.
        let _ = std::fs::remove_file(&file);
        let process = Process(run.spawn().unwrap());
        let told = wait_for("the sidecar's addresses", || {
            serde_json::from_slice::<Value>(&std::fs::read(&file).ok()?).ok()
        });
        let text = |field: &str| told[field].as_str().map(str::to_owned);
        let run = Run {
            process,
            outbound: text("outboundHttp").unwrap_or_default(),
            admin: text("admin").unwrap(),
        };
        wait_for("the sidecar to be ready", || run.curl_admin("/ready").status.success().then_some(()));
        run
    }
}

/// A running `meshwork run`.
pub struct Run {
    pub process: Process,
    /// Its HTTP port; empty if it has none, as its command is captured.
    pub outbound: String,
    pub admin: String,
}

impl Run {
    /// curl by the sidecar's HTTP port, as a program of this workload would.
    pub fn curl(&self, args: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "20", "--proxy", &format!("http://{}", self.outbound)])
            .args(args);
        curl.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap()
    }

    /// The answer's body, once there is a good one.
    pub fn eventually(&self, url: &str) -> String {
        wait_for(url, || {
            let output = self.curl(&[url]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        })
    }

    pub fn curl_admin(&self, path: &str) -> Output {
        let url = format!("http://{}{path}", self.admin);
        Command::new("curl")
            .args(["-sS", "--fail", "--noproxy", "*", "--max-time", "5", &url])
            .output()
            .unwrap()
    }

    /// The sidecar's PID, if there is one right now.
    pub fn sidecar(&self) -> Option<Pid> {
        self.process.children().into_iter().find(|pid| is_sidecar(*pid))
    }

    /// The command's PID, if it runs.
    pub fn command(&self) -> Option<Pid> {
        self.process.children().into_iter().find(|pid| !is_sidecar(*pid))
    }
}

/// A child that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.0.try_wait().unwrap())
    }

    fn children(&self) -> Vec<Pid> {
        let pid = self.0.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its own children die with it. Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_sidecar(pid: Pid) -> bool {
    // Between fork and exec a child still has the supervisor's own command line: not `proxy` either.
    let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    arguments.split(|byte| *byte == 0).nth(1) == Some(b"proxy")
}

/// Gone, or a zombie that only its parent's `wait` removes.
pub fn is_gone(pid: Pid) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// Of a SIGSTOP.
pub fn is_stopped(pid: Pid) -> bool {
    state(pid) == Some('T')
}

/// proc(5).
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Asks until there is an answer: other processes tell of their events only if asked.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody has, below those that the kernel gives to outgoing connections: it stays free until the
/// program for which it is meant binds it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (std::process::id().wrapping_mul(97) + u32::from(step)) % 12_000;
        let port = 18_000 + u16::try_from(offset).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
