//! A real Envoy with an identity of its own: `meshwork identity`, `meshwork bootstrap envoy`, and Envoy on top of what they
//! wrote.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use meshwork_testkit::{Answer, Client, Mesh, envoy, eventually, get};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::client::run;

/// How its config comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Delta,
    StateOfTheWorld,
}

/// Dropped, it is killed.
pub(crate) struct Envoy {
    admin: SocketAddr,
    _process: Child,
    _keeper: Option<Child>,
    directory: TempDir,
}

/// One that was not started yet.
pub(crate) struct Setup {
    program: PathBuf,
    directory: TempDir,
    keeper: Option<Child>,
}

impl Setup {
    /// With a certificate of `service` of namespace `default`; `None`, said loudly: this machine has no Envoy.
    pub(crate) async fn join(mesh: &Mesh, service: &str) -> Option<Self> {
        let program = envoy(env!("CARGO_TARGET_TMPDIR"))?;
        let directory = tempfile::tempdir().unwrap();
        let token = mesh.operator().token("default", service).await;
        run(&["identity", "--token", &token, "--out", directory.path().to_str().unwrap()]).await;
        Some(Self { program, directory, keeper: None })
    }

    /// From now on its certificate is renewed.
    pub(crate) fn watched(mut self) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshwork"));
        command.args(["identity", "--watch", "--out"]).arg(self.directory.path());
        self.keeper = Some(command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap());
        self
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What `meshwork bootstrap envoy` prints for it.
    pub(crate) async fn bootstrap(&self, arguments: &[&str]) -> String {
        let place = self.directory.path().to_str().unwrap();
        let all = ["bootstrap", "envoy", "--identity", place, "--admin", "127.0.0.1:0"];
        run(&[&all, arguments].concat()).await
    }

    /// Starts it with that config, and waits for its admin port.
    pub(crate) async fn start(self, bootstrap: &str) -> Envoy {
        let Self { program, directory, keeper } = self;
        let (file, admin) = (directory.path().join("envoy.json"), directory.path().join("admin"));
        std::fs::write(&file, bootstrap).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "-c"])
            .arg(&file);
        command.arg("--admin-address-path").arg(&admin).stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap();
        let told = || -> Option<SocketAddr> { std::fs::read_to_string(&admin).ok()?.trim().parse().ok() };
        eventually("Envoy tells where its admin is", async || told().is_some()).await;
        Envoy { admin: told().unwrap(), _process: process, _keeper: keeper, directory }
    }
}

impl Envoy {
    /// One that carries these services, each at a port of its own.
    pub(crate) async fn carrying(mesh: &Mesh, dialect: Dialect, services: &[&str]) -> Option<Self> {
        let setup = Setup::join(mesh, "web").await?;
        let upstreams: Vec<String> = services.iter().map(|service| upstream(service)).collect();
        let mut arguments: Vec<&str> = upstreams.iter().flat_map(|one| ["--upstream", one]).collect();
        if dialect == Dialect::StateOfTheWorld {
            arguments.push("--sotw");
        }
        let bootstrap = setup.bootstrap(&arguments).await;
        let envoy = setup.start(&bootstrap).await;
        for service in services {
            envoy.listening(service).await;
        }
        Some(envoy)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it listens for the callers of a service, once it does.
    pub(crate) async fn listening(&self, service: &str) -> SocketAddr {
        let name = upstream(service);
        eventually(&format!("Envoy listens for {service}"), async || self.listener(&name).await.is_some())
            .await;
        self.listener(&name).await.unwrap()
    }

    /// Where it listens under that name.
    pub(crate) async fn listener(&self, name: &str) -> Option<SocketAddr> {
        let listeners: Value =
            serde_json::from_str(&self.admin("/listeners?format=json").await).unwrap_or_default();
        let statuses = listeners["listener_statuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.into_iter().find(|status| status["name"] == name)?;
        let port = found["local_address"]["socket_address"]["port_value"].as_u64()?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        Some((Ipv4Addr::LOCALHOST, port).into())
    }

    /// One of its counters or gauges.
    pub(crate) async fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin("/stats").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    }

    pub(crate) async fn admin(&self, path: &str) -> String {
        let mut request = get("http://admin/");
        *request.uri_mut() = path.parse().unwrap(); // its admin port takes no URLs
        let answer = Client::new(self.admin).send(request).await;
        answer.map(|answer| answer.text()).unwrap_or_default()
    }

    /// A client through the port at which it listens for that service.
    pub(crate) async fn client(&self, service: &str) -> Client {
        Client::new(self.listening(service).await)
    }
}

/// `cart:80` at any port of loopback, as `--upstream` has it.
pub(crate) fn upstream(service: &str) -> String {
    format!("{service}=127.0.0.1:0")
}

/// Which application answered each of so many requests.
pub(crate) async fn answered(client: &mut Client, count: usize) -> Vec<String> {
    let mut apps = Vec::with_capacity(count);
    for _ in 0..count {
        apps.push(app(&ask(client, "/").await));
    }
    apps
}

pub(crate) async fn ask(client: &mut Client, path: &str) -> Answer {
    let answer = client.send(get(&format!("http://cart{path}"))).await;
    answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// The application's name; without one the status and what Envoy says.
pub(crate) fn app(answer: &Answer) -> String {
    match (answer.status, answer.header("x-app")) {
        (200, Some(app)) => app.to_owned(),
        (status, _) => format!("{status} {}", answer.text()),
    }
}
