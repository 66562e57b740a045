//! The demo's processes: a control plane and the shop's workloads, each under its own `meshwork run`.
//!
//! They are started and ended exactly as an operator would do it by hand, by the same commands; only the control plane's
//! operator socket is asked directly, as the CLI does it.

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::Role;
use super::http::HttpClient;
use super::ports::Ports;
use super::process::Process;
use crate::BoxError;
use crate::capture::choice::Way;
use crate::cgroup::leftovers;
use crate::client::Client;
use crate::run::RUN_FILE;

/// How long a process may take to be ready; a busy machine starts thirty of them at once.
const READY_MAX: Duration = Duration::from_secs(60);

const READY_POLL: Duration = Duration::from_millis(50);

/// The service's port that every HTTP program of the shop offers.
const HTTP_PORT: u16 = 80;
const PAYMENTS_PORT: u16 = 50_051;
const STOCK_PORT: u16 = 9000;

/// What to start: one workload of the shop.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) role: Role,
    pub(super) instance: String,
    pub(super) version: &'static str,
    /// Where its sidecar is reached.
    pub(super) address: Ipv4Addr,
}

#[derive(Debug)]
pub(super) struct Mesh {
    dir: TempDir,
    client: Client,
    ports: RefCell<Ports>,
    control: RefCell<Option<Process>>,
    /// The same for each of its lives: sidecars come back there.
    control_port: u16,
    /// How the shop's programs come to their sidecars.
    way: Way,
    runs: RefCell<Vec<Rc<Run>>>,
}

/// One workload with its sidecar.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) role: Role,
    pub(super) instance: String,
    dir: PathBuf,
    process: RefCell<Option<Process>>,
    /// Known once the sidecar is ready.
    pub(super) admin: OnceCell<HttpClient>,
    pub(super) inbound: OnceCell<String>,
}

impl Mesh {
    pub(super) fn new(way: Way) -> Result<Self, BoxError> {
        let dir = tempfile::Builder::new().prefix("meshwork-demo-").tempdir()?;
        let client = Client::local(&dir.path().join("control"));
        let mut ports = Ports::new(std::process::id());
        let control_port = ports.take()?;
        let (ports, control, runs) = (RefCell::new(ports), RefCell::default(), RefCell::default());
        Ok(Self { dir, client, ports, control, control_port, way, runs })
    }

    /// Starts the control plane and waits until it answers.
    pub(super) async fn start_control(&self) -> Result<(), BoxError> {
        let state_dir = self.dir.path().join("control").display().to_string();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.control_port)).to_string();
        let args = ["control", "--listen", &listen, "--state-dir", &state_dir].map(str::to_owned);
        let process = Process::start("the control plane", &args, &self.dir.path().join("control.log"))?;
        *self.control.borrow_mut() = Some(process);
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Some(process) = self.control.borrow_mut().as_mut() {
                process.check_running()?;
            }
            match self.client.get("/api/v1/services").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => sleep(READY_POLL).await,
            }
        }
    }

    /// Starts a workload and waits until its sidecar is ready.
    pub(super) async fn start(&self, plan: Plan) -> Result<Rc<Run>, BoxError> {
        let dir = self.dir.path().join(&plan.instance);
        std::fs::create_dir(&dir)?;
        let token = self.token(plan.role.service()).await?;
        std::fs::write(dir.join("token"), token)?;
        let args = self.args(&plan, &dir)?;
        let process = Process::start(&plan.instance, &args, &dir.join("log"))?;
        let run = Rc::new(Run {
            role: plan.role,
            instance: plan.instance,
            dir,
            process: RefCell::new(Some(process)),
            admin: OnceCell::new(),
            inbound: OnceCell::new(),
        });
        self.runs.borrow_mut().push(run.clone());
        run.wait_until_ready().await?;
        Ok(run)
    }

    /// Drains a workload as an operator would: SIGTERM to its `meshwork run`. Returns once it is gone.
    pub(super) async fn drain(&self, run: &Rc<Run>) -> Result<(), BoxError> {
        let process = run.process.borrow_mut().take();
        if let Some(process) = process {
            process.terminate();
            process.ended().await?;
        }
        self.runs.borrow_mut().retain(|other| !Rc::ptr_eq(other, run));
        Ok(())
    }

    /// Ends a workload from one moment to the next: `kill -9`, sidecar and all.
    pub(super) async fn kill(&self, run: &Rc<Run>) -> Result<(), BoxError> {
        // Nobody may take it for one that ended by itself.
        self.runs.borrow_mut().retain(|other| !Rc::ptr_eq(other, run));
        let process = run.process.borrow_mut().take();
        match process {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    pub(super) async fn kill_control(&self) -> Result<(), BoxError> {
        let process = self.control.borrow_mut().take();
        match process {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// How many sidecars have a session with the control plane.
    pub(super) async fn connected(&self) -> Result<usize, BoxError> {
        let status = self.client.get("/api/v1/status").await?;
        let proxies = status["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(proxies.iter().filter(|proxy| proxy["connected"] == true).count())
    }

    /// As `meshwork ca rotate`.
    pub(super) async fn rotate_root(&self) -> Result<(), BoxError> {
        self.client.post_json("/api/v1/ca/rotate", &json!({})).await?;
        Ok(())
    }

    /// The hashes of the roots that are trusted.
    pub(super) async fn roots(&self) -> Result<Vec<String>, BoxError> {
        let authority = self.client.get("/api/v1/ca").await?;
        let roots = authority["roots"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(roots.iter().map(|root| root["hash"].as_str().unwrap_or_default().to_owned()).collect())
    }

    pub(super) async fn apply(&self, yaml: &str) -> Result<Value, BoxError> {
        Ok(self.client.post_yaml("/api/v1/apply?file=demo.yaml", yaml.to_owned()).await?)
    }

    /// Waits until a service has a healthy endpoint: a workload registers once its application is well.
    pub(super) async fn wait_for_endpoint(&self, service: &str) -> Result<(), BoxError> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let status = self.client.get("/api/v1/status").await?;
            let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
            if services.iter().any(|known| known["name"] == service && known["healthy"].as_u64() > Some(0)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{service} has no endpoint after {} s", READY_MAX.as_secs()).into());
            }
            sleep(READY_POLL).await;
        }
    }

    /// All workloads that run now.
    pub(super) fn runs(&self) -> Vec<Rc<Run>> {
        self.runs.borrow().clone()
    }

    pub(super) fn report_file(&self) -> PathBuf {
        self.dir.path().join("report.json")
    }

    /// An error if something ended that should run.
    pub(super) fn check_running(&self) -> Result<(), BoxError> {
        for run in self.runs() {
            if let Some(process) = run.process.borrow_mut().as_mut() {
                process.check_running()?;
            }
        }
        self.control.borrow_mut().as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Ends every process, workloads first, and removes what they wrote. The first error is told, the rest ends too.
    pub(super) async fn end(self) -> Result<(), BoxError> {
        let taken: Vec<_> = self.runs().iter().filter_map(|run| run.process.borrow_mut().take()).collect();
        taken.iter().for_each(Process::terminate);
        let mut first_error = None;
        for process in taken {
            let ended = process.ended().await;
            first_error = first_error.or_else(|| ended.err());
        }
        let control = self.control.borrow_mut().take();
        if let Some(control) = control {
            control.terminate();
            let ended = control.ended().await;
            first_error = first_error.or_else(|| ended.err());
        }
        if self.way == Way::Cgroup {
            // Of the instance that was killed.
            let cleared = leftovers::clear();
            first_error = first_error.or_else(|| cleared.err().map(Into::into));
        }
        self.dir.close()?;
        first_error.map_or(Ok(()), Err)
    }

    async fn token(&self, service: &str) -> Result<String, BoxError> {
        let asked = json!({ "service": service, "namespace": "default", "ttlSeconds": 600, "once": true });
        let answer = self.client.post_json("/api/v1/tokens", &asked).await?;
        answer["token"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| "the control plane's answer holds no token".into())
    }

    /// `run … -- meshwork demo-app …`, as one would type it.
    fn args(&self, plan: &Plan, dir: &Path) -> Result<Vec<String>, BoxError> {
        let role = plan.role;
        let mut run: Vec<String> = vec!["run".to_owned()];
        let mut app: Vec<String> =
            vec![std::env::current_exe()?.display().to_string(), "demo-app".to_owned()];
        app.push(role.word().to_owned());
        run.push(format!("--capture={}", self.way.word()));
        run.extend(["--service".to_owned(), role.service().to_owned()]);
        run.extend(["--token-file".to_owned(), dir.join("token").display().to_string()]);
        run.extend(["--state-dir".to_owned(), dir.join("state").display().to_string()]);
        run.extend(["--address".to_owned(), plan.address.to_string()]);
        run.extend(["--label".to_owned(), format!("version={}", plan.version)]);
        if role != Role::Load {
            let app_port = self.ports.borrow_mut().take()?;
            let (service_port, protocol) = match role {
                Role::Stock => (STOCK_PORT, "tcp"),
                Role::Payments => (PAYMENTS_PORT, "grpc"),
                Role::Web | Role::Cart | Role::Catalog | Role::Load => (HTTP_PORT, "http"),
            };
            run.extend(["--port".to_owned(), format!("{service_port}:{app_port}/{protocol}")]);
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, app_port));
            app.extend([
                "--app-listen".to_owned(),
                listen.to_string(),
                "--app-version".to_owned(),
                plan.version.to_owned(),
            ]);
        }
        if role == Role::Cart {
            for (service, port) in [("payments", PAYMENTS_PORT), ("stock", STOCK_PORT)] {
                if self.way == Way::Cgroup {
                    app.extend([format!("--{service}"), format!("{service}:{port}")]);
                    continue;
                }
                let local =
                    SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), self.ports.borrow_mut().take()?));
                run.extend(["--upstream".to_owned(), format!("{service}:{port}={local}")]);
                app.extend([format!("--{service}"), format!("localhost:{}", local.port())]);
            }
        }
        if role == Role::Load {
            app.extend(["--report".to_owned(), self.report_file().display().to_string()]);
        }
        run.push("--".to_owned());
        run.extend(app);
        Ok(run)
    }
}

impl Run {
    /// Has its program answer wrongly, by a signal that `run` passes on.
    pub(super) fn spoil(&self) {
        self.signal(Signal::USR1);
    }

    pub(super) fn mend(&self) {
        self.signal(Signal::USR2);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &*self.process.borrow() {
            process.signal(signal);
        }
    }

    async fn wait_until_ready(&self) -> Result<(), BoxError> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Some(process) = self.process.borrow_mut().as_mut() {
                process.check_running()?;
            }
            if self.is_ready().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{} is not ready after {} s", self.instance, READY_MAX.as_secs()).into());
            }
            sleep(READY_POLL).await;
        }
    }

    async fn is_ready(&self) -> bool {
        let Ok(text) = std::fs::read(self.dir.join("state").join(RUN_FILE)) else { return false };
        let told: Value = serde_json::from_slice(&text).unwrap_or_default();
        let Some(admin) = told["admin"].as_str().and_then(|admin| admin.parse().ok()) else { return false };
        if let Some(inbound) = told["inbound"].as_object().and_then(|inbound| inbound.values().next()) {
            self.inbound.get_or_init(|| inbound.as_str().unwrap_or_default().to_owned());
        }
        let admin = self.admin.get_or_init(|| HttpClient::to(admin));
        matches!(admin.get("localhost", "/ready").await, Ok((status, _)) if status.is_success())
    }
}
