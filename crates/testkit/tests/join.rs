//! A sidecar's side thread with a real control plane: it joins, registers, gets its config, comes back from its
//! own disk, and leaves. Everything is on loopback and on ports that the kernel chose.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use meshwork_control::Control;
use meshwork_core::model::{AppProtocol, Locality};
use meshwork_proxy::side::dns::Lookup;
use meshwork_proxy::side::{Config, Duties, Registration, Side, Status};
use meshwork_proxy::telemetry::{Gauge, Registry};
use meshwork_proxy::{Clock, Found, HTTP2_DEFAULT, HealthCheck, Live, Mark, PortSpec, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct Mesh {
    dir: tempfile::TempDir,
    control: Control,
}

impl Mesh {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = Self::start_control(dir.path(), "127.0.0.1:0".parse().unwrap()).await;
        Self { dir, control }
    }

    async fn start_control(dir: &Path, listen: SocketAddr) -> Control {
        let settings = meshwork_control::Settings {
            listen,
            lease: Duration::from_secs(3),
            ..meshwork_control::Settings::new(dir)
        };
        meshwork_control::start(settings).await.unwrap()
    }

    /// As an operator.
    async fn api(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let stream = UnixStream::connect(self.control.operator_socket()).await.unwrap();
        let (status, body) = request(stream, method, path, body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn token(&self, service: &str) -> String {
        let (status, made) = self.api(Method::POST, "/api/v1/tokens", json!({ "service": service })).await;
        assert_eq!(status, StatusCode::OK, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }
}

async fn request<S>(stream: S, method: Method, path: &str, body: String) -> (StatusCode, String)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    connection.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn settings(service: &str, state_dir: &Path, token: Option<String>) -> Settings {
    Settings {
        service: service.to_owned(),
        namespace: "default".to_owned(),
        token,
        state_dir: state_dir.to_owned(),
        ports: Vec::new(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        health: None,
        workers: 1,
        http2: HTTP2_DEFAULT,
        memory_max: None,
        wait: PATIENCE,
        drain: PATIENCE,
        resolv_conf: meshwork_proxy::side::dns::RESOLV_CONF.into(),
        parent_proxy: None,
    }
}

/// A sidecar without its data path.
struct Sidecar {
    side: Side,
    live: Arc<Live>,
    registry: Arc<Registry>,
    admin: SocketAddr,
    probes: SocketAddr,
}

impl Sidecar {
    fn start(settings: Settings) -> Self {
        let clock = Clock::start();
        let registry = Registry::new(format!("default/{}", settings.service));
        let (live, asks) = Live::new(registry.clone(), clock, settings.alpn());
        let admin = bind();
        let address = admin.local_addr().unwrap();
        let probes = bind();
        let probed = probes.local_addr().unwrap();
        // Nothing listens there: these tests are about who is told of it.
        let inbound = settings.ports.iter().map(|_| "127.0.0.1:9".parse().unwrap()).collect();
        let duties = Duties {
            settings,
            inbound,
            admin,
            dns: Vec::new(),
            mark: Mark::default(),
            lookup: Lookup::Library,
            probes: Some(probes),
            live: live.clone(),
            asks,
            registry: registry.clone(),
            clock,
            set_log_level: Arc::new(|filter| {
                if filter == "debug" { Ok(()) } else { Err(format!("no filter: {filter}")) }
            }),
        };
        Self { side: Side::start(duties).unwrap(), live, registry, admin: address, probes: probed }
    }

    async fn until(&self, what: &str, reached: impl FnMut(&Status) -> bool) {
        let mut status = self.side.status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(reached)).await;
        let seen = waited.map(|status| status.map(|status| status.clone()));
        assert!(matches!(seen, Ok(Ok(_))), "never {what}: {:?}", self.side.status().borrow());
    }

    /// With one port, behind which an application accepts.
    fn serving(mut settings: Settings) -> (Self, TcpListener) {
        let app = bind();
        settings.ports = vec![port(&app)];
        (Self::start(settings), app)
    }

    async fn registered(&self) {
        self.until("registered", |status| status.registration == Registration::Registered).await;
    }

    async fn ready(&self) -> Result<(), String> {
        tokio::time::timeout(PATIENCE, self.side.ready()).await.expect("neither ready nor failed")
    }

    /// Asks as a worker does, and waits for the answer.
    async fn find(&self, name: &str, mut wanted: impl FnMut(&Found) -> bool) -> Found {
        let mut versions = self.live.watch();
        assert!(self.live.ask(name));
        let found = async {
            loop {
                if let Some(found) = self.live.snapshot().find(name).filter(|found| wanted(found)) {
                    return found.clone();
                }
                versions.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name} was never found"))
    }

    async fn admin(&self, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        request(TcpStream::connect(self.admin).await.unwrap(), method, path, body.to_owned()).await
    }
}

fn endpoints(found: &Found) -> usize {
    match found {
        Found::Absent => 0,
        Found::Service(destination) => {
            destination.backends.iter().flatten().flatten().map(|backend| backend.members.len()).sum()
        }
    }
}

fn port(listener: &TcpListener) -> PortSpec {
    let app_port = listener.local_addr().unwrap().port();
    PortSpec { service_port: 80, app_port, protocol: Some(AppProtocol::Http) }
}

#[tokio::test]
async fn a_sidecar_joins_is_found_and_leaves() {
    let mesh = Mesh::start().await;
    let (web_dir, cart_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let web = Sidecar::start(settings("web", web_dir.path(), Some(mesh.token("web").await)));
    assert_eq!(web.ready().await, Ok(()));
    assert!(matches!(web.find("cart:80", |_| true).await, Found::Absent));

    let (cart, _app) = Sidecar::serving(settings("cart", cart_dir.path(), Some(mesh.token("cart").await)));
    cart.registered().await;
    let found = web.find("cart:80", |found| endpoints(found) == 1).await;
    let Found::Service(destination) = found else { panic!("cart is absent") };
    assert_eq!(destination.name.to_string(), "default/cart:80");
    assert!(cart.registry.value(Gauge::CertificateExpiry) > 1_700_000_000);
    let inbound = async {
        let mut versions = cart.live.watch();
        while cart.live.snapshot().inbound.is_none() {
            versions.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, inbound).await.expect("cart never learned of its own ports");

    tokio::time::timeout(PATIENCE, cart.side.withdraw()).await.expect("cart was never withdrawn");
    assert_eq!(cart.side.status().borrow().registration, Registration::Withdrawn);
    web.find("cart:80", |found| endpoints(found) == 0 || all_draining(found)).await;
    mesh.control.stop().await;
}

fn all_draining(found: &Found) -> bool {
    let Found::Service(destination) = found else { return true };
    destination
        .backends
        .iter()
        .flatten()
        .flatten()
        .flat_map(|backend| &backend.members)
        .all(|member| member.endpoint.health == meshwork_core::model::Health::Draining)
}

#[tokio::test]
async fn a_workload_is_registered_only_once_its_application_is_well() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    // Bound and let go: nothing accepts there until the test wants it.
    let place = bind();
    let address = place.local_addr().unwrap();
    let ports = vec![port(&place)];
    drop(place);
    let cart = Sidecar::start(Settings {
        ports,
        health: Some(HealthCheck::Http("/ok".to_owned())),
        ..settings("cart", dir.path(), Some(mesh.token("cart").await))
    });
    // It is ready before its application is: `run` starts the one after the other.
    assert_eq!(cart.ready().await, Ok(()));
    cart.until("waiting", |status| matches!(&status.registration, Registration::WaitingForApplication(why) if why.contains("does not accept"))).await;

    let app = tokio::net::TcpListener::bind(address).await.unwrap();
    let (healthy, answers) = tokio::sync::watch::channel("500 Internal Server Error");
    tokio::spawn(serve_health(app, answers));
    cart.until("told 500", |status| matches!(&status.registration, Registration::WaitingForApplication(why) if why.contains("answered 500"))).await;
    healthy.send_replace("204 No Content");
    cart.registered().await;
    assert_eq!(cart.registry.value(Gauge::Healthy), 1);

    // And taken out once it is not.
    let web_dir = tempfile::tempdir().unwrap();
    let web = Sidecar::start(settings("web", web_dir.path(), Some(mesh.token("web").await)));
    web.ready().await.unwrap();
    web.find("cart:80", |found| endpoints(found) == 1 && healthy_members(found) == 1).await;
    healthy.send_replace("503 Service Unavailable");
    web.find("cart:80", |found| healthy_members(found) == 0).await;
}

fn healthy_members(found: &Found) -> usize {
    let Found::Service(destination) = found else { return 0 };
    let members = destination.backends.iter().flatten().flatten().flat_map(|backend| &backend.members);
    members.filter(|member| member.endpoint.health == meshwork_core::model::Health::Healthy).count()
}

async fn serve_health(app: tokio::net::TcpListener, answers: tokio::sync::watch::Receiver<&'static str>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    loop {
        let (mut stream, _) = app.accept().await.unwrap();
        let mut read = [0; 1_024];
        let length = stream.read(&mut read).await.unwrap_or(0);
        assert!(length == 0 || read.starts_with(b"GET /ok HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 {}\r\ncontent-length: 0\r\n\r\n", *answers.borrow());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_restart_needs_no_token_and_is_the_same_workload() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (first, _app) = Sidecar::serving(settings("cart", dir.path(), Some(mesh.token("cart").await)));
    first.registered().await;
    let name = std::fs::read_to_string(dir.path().join("workload")).unwrap();
    first.side.stop();

    let (second, _app) = Sidecar::serving(settings("cart", dir.path(), None));
    second.registered().await;
    assert_eq!(std::fs::read_to_string(dir.path().join("workload")).unwrap(), name);
    second.side.stop();

    // As another service it may not use that certificate.
    let other = Sidecar::start(settings("payments", dir.path(), None));
    let reason = other.ready().await.unwrap_err();
    assert!(
        reason.contains("another service's") && reason.contains("token create --service payments"),
        "{reason}"
    );
}

#[tokio::test]
async fn what_can_not_join_says_why() {
    let mesh = Mesh::start().await;
    let stranger = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let reason = async |service: &str, token: Option<String>| {
        Sidecar::start(settings(service, dir.path(), token)).ready().await.unwrap_err()
    };
    let none = reason("cart", None).await;
    assert!(none.contains("no certificate") && none.contains("--service cart"), "{none}");
    let malformed = reason("cart", Some("hello".to_owned())).await;
    assert!(malformed.contains("no join token"), "{malformed}");
    let foreign = reason("payments", Some(mesh.token("cart").await)).await;
    assert!(foreign.contains("the join token is for service cart"), "{foreign}");
    assert!(!dir.path().join("identity.json").exists(), "a certificate for another service was kept");

    // A token of one mesh, sent to the address of another: its root is not the pinned one.
    let token: meshwork_identity::JoinToken = mesh.token("cart").await.parse().unwrap();
    let misled = meshwork_identity::JoinToken { address: stranger.control.address().to_string(), ..token };
    let misled = reason("cart", Some(misled.to_string())).await;
    assert!(misled.contains("is not the control plane that the join token was made by"), "{misled}");

    // The right place, but nobody's secret.
    let token: meshwork_identity::JoinToken = mesh.token("cart").await.parse().unwrap();
    let secret = meshwork_identity::TokenSecret::generate().unwrap();
    let guessed = reason("cart", Some(meshwork_identity::JoinToken { secret, ..token }.to_string())).await;
    assert!(guessed.contains("the control plane refused"), "{guessed}");
}

#[tokio::test]
async fn config_outlives_the_control_plane_and_both_find_each_other_again() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (cart, _app) = Sidecar::serving(settings("cart", dir.path(), Some(mesh.token("cart").await)));
    cart.registered().await;
    cart.until("current", |status| status.config == Config::Current).await;
    let address = mesh.control.address();
    mesh.control.stop().await;
    cart.until("stale", |status| matches!(status.config, Config::Stale(_))).await;
    assert_eq!(cart.side.status().borrow().ready(), Ok(()), "it can carry traffic all the same");
    assert!(cart.live.snapshot().settings.is_some());

    let control = Mesh::start_control(mesh.dir.path(), address).await;
    cart.until("current again", |status| {
        status.config == Config::Current && status.registration == Registration::Registered
    })
    .await;
    control.stop().await;
}

#[tokio::test]
async fn the_port_for_probes_tells_whether_the_sidecar_is_ready_and_nothing_else() {
    let (mesh, dir) = (Mesh::start().await, tempfile::tempdir().unwrap());
    let token = mesh.token("cart").await;
    let cart = Sidecar::start(settings("cart", dir.path(), Some(token)));
    assert_eq!(cart.ready().await, Ok(()));
    let ask = async |path: &str| {
        let probe = TcpStream::connect(cart.probes).await.unwrap();
        request(probe, Method::GET, path, String::new()).await
    };
    assert_eq!(ask("/ready").await, (StatusCode::OK, "ready\n".to_owned()));
    for secret in ["/config", "/metrics", "/log-level", "/"] {
        assert_eq!(ask(secret).await.0, StatusCode::NOT_FOUND, "{secret}");
    }
}

#[tokio::test]
async fn the_admin_port_answers_and_shows_no_secret() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = mesh.token("cart").await;
    let (cart, _app) = Sidecar::serving(settings("cart", dir.path(), Some(token.clone())));
    cart.registered().await;
    assert_eq!(cart.ready().await, Ok(()));
    assert_eq!(cart.admin(Method::GET, "/ready", "").await, (StatusCode::OK, "ready\n".to_owned()));
    cart.find("nobody:80", |_| true).await;

    let (status, metrics) = cart.admin(Method::GET, "/metrics", "").await;
    assert_eq!(status, StatusCode::OK);
    for line in ["\nmeshwork_ready 1\n", "\nmeshwork_subscriptions 1\n", "\nmeshwork_application_healthy 1\n"]
    {
        assert!(metrics.contains(line), "no {line:?} in {metrics}");
    }
    let (_, config) = cart.admin(Method::GET, "/config", "").await;
    let shown: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(shown["identity"]["spiffeId"], "spiffe://mesh.local/ns/default/sa/cart");
    assert_eq!(shown["status"]["registration"], "registered");
    assert_eq!(shown["destinations"]["nobody:80"]["absent"], true);
    let secret = token.parse::<meshwork_identity::JoinToken>().unwrap().secret;
    assert!(!config.contains(secret.reveal()) && !config.contains("PRIVATE"));

    assert_eq!(cart.admin(Method::PUT, "/log-level", "debug\n").await.0, StatusCode::OK);
    let (status, body) = cart.admin(Method::POST, "/log-level", "nonsense").await;
    assert_eq!((status, body.as_str()), (StatusCode::BAD_REQUEST, "no filter: nonsense\n"));
    assert_eq!(cart.admin(Method::PUT, "/log-level", &"x".repeat(5_000)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(cart.admin(Method::POST, "/ready", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, body) = cart.admin(Method::GET, "/", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("/metrics") && body.contains("/log-level"), "{body}");
}
