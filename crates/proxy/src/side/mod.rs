//! The sidecar's further thread: everything that is no application's traffic.
//!
//! One tokio `current_thread` runtime on a thread of its own, so that a push, a renewal or a scrape never takes
//! a worker's time. It gets the certificate, keeps config and registration in step with the control plane, probes
//! the application and answers the admin port; the data path hears of it through `Live` alone.
//!
//! | file | what |
//! |---|---|
//! | `enroll.rs` | the certificate: from disk, or for a join token |
//! | `renew.rs` | its keeper: renewal, new roots, warnings of its end |
//! | `program.rs` | a certificate for a program without sidecar |
//! | `xds.rs` | the config, over delta ADS |
//! | `session.rs` | registration, lease, health and drain, over `meshwork.v1.Sidecar/Session` |
//! | `kept/` | the last good config on disk, for a restart without control plane |
//! | `health.rs` | probes of the local application |
//! | `dns/` | the names that the application looks up |
//! | `admin.rs` | `/ready`, `/metrics`, `/config`, `/log-level` |
//! | `view.rs` | what `/config` shows |
//! | `summary.rs` | what operators are told of this sidecar |
//! | `channel.rs`, `backoff.rs` | the connection to the control plane, and the pauses between tries |
//! | `status.rs` | how far all that is |
//! | `workload.rs` | the workload's name |

mod admin;
mod background;
mod backoff;
mod channel;
pub mod dns;
mod enroll;
mod health;
pub(crate) mod kept;
pub mod program;
mod renew;
mod session;
mod status;
mod summary;
mod take;
mod view;
mod workload;
mod xds;

pub use status::{Config, Life, Registration, Start, Status};

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use meshwork_core::model::AppProtocol;
use meshwork_identity::Enrolled;
use meshwork_xds::proto::RegisteredPort;
use meshwork_xds::session::ClientSession;
use meshwork_xds::session::client::Sidecar;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, unix_seconds};
use crate::live::{Ask, Live};
use crate::mark::{Dial, Mark};
use crate::settings::{HealthCheck, Settings};
use crate::telemetry::{CONTENT_TYPE, Gauge, Registry};
use admin::Pages;
use background::Background;
use dns::Lookup;
use health::{AppHealth, Check};
use renew::{Keeper, Told};
use status::StatusBoard;
use take::Taker;
use xds::Ads;

/// How long a start with a config from disk waits for a newer one. It comes in some 20 ms if the control plane is
/// well; and a restart without one is to serve within a second.
const NEWS_MAX: Duration = Duration::from_millis(300);

/// Changes the log's filter; `Err`: why that is none.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the side thread is started with.
pub struct Duties {
    pub settings: Settings,
    /// Where the mesh reaches each of `settings.ports`, in the same order.
    pub inbound: Vec<SocketAddr>,
    pub admin: TcpListener,
    /// Where names are answered.
    pub dns: Vec<(UdpSocket, TcpListener)>,
    /// Of the connections that are opened.
    pub mark: Mark,
    /// How the control plane's name is looked up.
    pub lookup: Lookup,
    pub probes: Option<TcpListener>,
    pub live: Arc<Live>,
    /// As `Live::new` gave it.
    pub asks: mpsc::Receiver<Ask>,
    pub registry: Arc<Registry>,
    pub clock: Clock,
    pub set_log_level: SetLogLevel,
}

/// The running side thread. Dropped, it ends.
pub struct Side {
    status: watch::Receiver<Status>,
    drain: CancellationToken,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    pub fn start(duties: Duties) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let board = StatusBoard::default();
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut side = Self { status: board.watch(), drain: drain.clone(), stop: stop.clone(), thread: None };
        let thread = std::thread::Builder::new().name("side".to_owned()).spawn(move || {
            runtime.block_on(async {
                duties.registry.add_this_runtime();
                tokio::select! {
                    () = run(duties, board, drain) => {}
                    () = stop.cancelled() => {}
                }
            });
        })?;
        side.thread = Some(thread);
        Ok(side)
    }

    /// How far it is; wakes at each change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until traffic can be carried. `Err`: it never will be, and why.
    pub async fn ready(&self) -> Result<(), String> {
        let mut status = self.status();
        let settled = status.wait_for(|status| status.ready().is_ok() || status.failed().is_some()).await;
        match settled {
            Ok(status) => status.failed().map_or(Ok(()), |reason| Err(reason.to_owned())),
            Err(_) => Err("the sidecar's side thread has ended".to_owned()),
        }
    }

    /// Takes the workload out of the mesh: returns once nobody sends here any more. The caller limits the wait.
    pub async fn withdraw(&self) {
        self.drain.cancel();
        let mut status = self.status();
        let withdrawn =
            |status: &Status| status.registration == Registration::Withdrawn || status.failed().is_some();
        // An error: the thread has ended, and with it the registration.
        let _ = status.wait_for(withdrawn).await;
    }

    /// Ends the thread and waits for it.
    pub fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs until dropped.
async fn run(duties: Duties, board: StatusBoard, drain: CancellationToken) {
    let Duties {
        settings,
        inbound,
        admin,
        dns,
        probes,
        mark,
        lookup,
        live,
        asks,
        registry,
        clock,
        set_log_level,
    } = duties;
    let views = views(&board, &live, &registry, clock, set_log_level);
    let probes = probes.map(|listener| admin::serve(listener, Pages::Ready, views.clone()));
    let probes = async {
        if let Some(probes) = probes {
            let Err(error) = probes.await;
            tracing::error!(%error, "the port for probes can't be served");
        }
    };
    let admin = async {
        let Err(error) = admin::serve(admin, Pages::All, views).await;
        tracing::error!(%error, "the admin port can't be served");
    };
    let readiness = not_ready_once(drain.clone(), board.clone());
    let names = dns::Dns {
        namespace: settings.namespace.clone(),
        resolv_conf: settings.resolv_conf.clone(),
        mark: mark.value(),
        live: live.clone(),
        registry: registry.clone(),
        clock,
    };
    let names = async {
        if let Err(error) = names.serve(dns).await {
            tracing::error!(%error, "look-ups can't be answered");
        }
    };
    let member = Member {
        settings: &settings,
        dial: Dial { mark, lookup },
        inbound,
        live,
        asks,
        registry,
        clock,
        board: board.clone(),
        drain,
    };
    let mesh = async {
        if let Err(reason) = member.take_part().await {
            board.set_start(Start::Failed(reason));
        }
    };
    tokio::join!(admin, probes, mesh, readiness, names);
}

/// Before anything else of a drain: whoever asks for readiness sends nothing here from now on.
async fn not_ready_once(drain: CancellationToken, board: StatusBoard) {
    drain.cancelled().await;
    board.set_draining();
}

fn views(
    board: &StatusBoard,
    live: &Arc<Live>,
    registry: &Arc<Registry>,
    clock: Clock,
    set_log_level: SetLogLevel,
) -> admin::Views {
    let (status, live) = (board.watch(), live.clone());
    let (ready, metrics, ready_now) = (status.clone(), registry.clone(), status.clone());
    let counted = registry.clone();
    admin::Views {
        ready: Arc::new(move || ready.borrow().ready()),
        metrics: Arc::new(move || {
            metrics.set(Gauge::Ready, i64::from(ready_now.borrow().ready().is_ok()));
            metrics.render()
        }),
        metrics_content_type: CONTENT_TYPE,
        config: Arc::new(move || view::config(&status.borrow(), &live.snapshot(), &counted, clock.now())),
        set_log_level,
    }
}

/// The sidecar as a part of the mesh.
struct Member<'a> {
    settings: &'a Settings,
    dial: Dial,
    inbound: Vec<SocketAddr>,
    live: Arc<Live>,
    asks: mpsc::Receiver<Ask>,
    registry: Arc<Registry>,
    clock: Clock,
    board: StatusBoard,
    drain: CancellationToken,
}

impl Member<'_> {
    /// Ends only if there is no certificate to be had, with the sentence that says why.
    async fn take_part(self) -> Result<(), String> {
        let settings = self.settings;
        let (name, enrolled) = self.admitted().await?;
        let (live, registry) = (self.live.clone(), self.registry.clone());
        let install = move |enrolled: &Enrolled| install(&live, &registry, enrolled);
        install(&enrolled);
        let workload = self.workload(name, &enrolled);
        let (enrolled, current) = watch::channel(Arc::new(enrolled));
        let channel = channel::to_control(current, self.dial.clone());
        let (told, newly_told) = watch::channel(Told::default());
        let mut client = client_session(&workload, settings, &enrolled.borrow());
        let place = self.place(&workload);
        place.restore(&mut client, &self.live);
        let kept = kept::Keeper::new(place.clone(), self.live.clone(), self.registry.clone());
        let taker =
            Taker { session: client, place, live: self.live.clone(), registry: self.registry.clone(), told };
        let (summaries, told) = watch::channel(Default::default());
        let summed = summary::keep(
            self.live.clone(),
            self.registry.clone(),
            self.clock,
            self.board.watch(),
            summaries,
        );
        let ads = Ads {
            taker: Arc::new(Mutex::new(taker)),
            background: Background::default(),
            channel: channel.clone(),
            live: self.live,
            clock: self.clock,
            registry: self.registry.clone(),
            status: self.board.clone(),
            asks: self.asks,
        };
        self.board.set_start(Start::Enrolled);
        let keeper = Keeper {
            state_dir: &settings.state_dir,
            enrolled,
            channel: channel.clone(),
            told: newly_told,
            install: &install,
            registry: self.registry.clone(),
            status: self.board.clone(),
        };
        let (health, app) = watch::channel(AppHealth::Starting("it was not looked at yet".to_owned()));
        let counted = count_health(app.clone(), self.registry);
        let restored = wait_for_news(self.board.clone(), ads.live.clone());
        let session = session::Session {
            workload,
            channel,
            health: app,
            drain: self.drain,
            status: self.board,
            summaries: told,
            was_registered: false,
        };
        tokio::join!(
            keeper.keep(),
            kept.keep(),
            restored,
            ads.keep(),
            session.keep(),
            health::watch(check(settings), self.dial.mark, health),
            counted,
            summed
        );
        Ok(())
    }

    /// Its name in the mesh, and the certificate: kept from before, or obtained now.
    async fn admitted(&self) -> Result<(String, Enrolled), String> {
        let settings = self.settings;
        let wanted = enroll::Wanted {
            service: &settings.service,
            namespace: &settings.namespace,
            token: settings.token.as_deref(),
            state_dir: &settings.state_dir,
            dial: self.dial.clone(),
        };
        let enrolled = enroll::obtain(&wanted, settings.wait).await.map_err(|error| error.to_string())?;
        let name = workload::name(&settings.state_dir, &settings.service, random())
            .map_err(|error| error.to_string())?;
        Ok((name, enrolled))
    }

    fn place(&self, workload: &session::Workload) -> Arc<kept::Place> {
        let settings = self.settings;
        let name = qualified(settings, workload);
        kept::Place::new(&settings.state_dir, &workload.mesh_id, &name, settings.features())
    }

    fn workload(&self, name: String, enrolled: &Enrolled) -> session::Workload {
        let settings = self.settings;
        let alpn: Vec<_> =
            settings.alpn().iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect();
        let ports = settings.ports.iter().zip(&self.inbound).map(|(port, address)| RegisteredPort {
            service_port: port.service_port.into(),
            app_port: port.app_port.into(),
            app_protocol: port.protocol.map_or("", protocol_word).to_owned(),
            address: address.to_string(),
            alpn: alpn.clone(),
        });
        session::Workload {
            name,
            service: settings.service.clone(),
            ports: ports.collect(),
            labels: settings.labels.clone().into_iter().collect(),
            region: settings.locality.region.clone(),
            zone: settings.locality.zone.clone(),
            mesh_id: enrolled.membership.mesh_id.clone(),
        }
    }
}

fn install(live: &Live, registry: &Registry, enrolled: &Enrolled) {
    if let Err(error) = live.set_credentials(enrolled.identity.clone(), enrolled.bundle.clone()) {
        tracing::error!(%error, "the new certificate can't be used; the old one stays");
    }
    registry.set(Gauge::CertificateExpiry, unix_seconds(enrolled.identity.not_after()));
}

/// A config from disk may be days old, so a start waits a moment for what the control plane says, and then for
/// nothing more. If it can't be reached that is found out sooner.
async fn wait_for_news(board: StatusBoard, live: Arc<Live>) {
    if live.snapshot().settings.is_some() {
        tokio::time::sleep(NEWS_MAX).await;
        board.take_config_from_disk();
    }
}

fn qualified(settings: &Settings, workload: &session::Workload) -> String {
    format!("{}/{}", settings.namespace, workload.name)
}

fn client_session(workload: &session::Workload, settings: &Settings, enrolled: &Enrolled) -> ClientSession {
    ClientSession::new(Sidecar {
        workload: qualified(settings, workload),
        trust_domain: enrolled.bundle.trust_domain().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: settings.features().names().map(str::to_owned).collect(),
        mesh_id: Some(enrolled.membership.mesh_id.clone()),
    })
}

/// Without a check that was asked for, an application is well once its ports accept.
fn check(settings: &Settings) -> Check {
    let ports: Vec<u16> = settings.ports.iter().map(|port| port.app_port).collect();
    match (&settings.health, ports.first()) {
        (None, _) | (Some(_), None) => Check::Accepts(ports),
        (Some(HealthCheck::Tcp), Some(_)) => Check::Tcp(ports),
        (Some(HealthCheck::Http(path)), Some(port)) => Check::Http { port: *port, path: path.clone() },
        (Some(HealthCheck::Grpc), Some(port)) => Check::Grpc { port: *port },
    }
}

async fn count_health(mut app: watch::Receiver<AppHealth>, registry: Arc<Registry>) {
    loop {
        let healthy = *app.borrow_and_update() == AppHealth::Healthy;
        registry.set(Gauge::Healthy, i64::from(healthy));
        if app.changed().await.is_err() {
            return;
        }
    }
}

fn protocol_word(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Http => "http",
        AppProtocol::Http2 => "http2",
        AppProtocol::Grpc => "grpc",
        AppProtocol::Tcp => "tcp",
    }
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness nothing here works; the keys' maker will say so.
    let _ = meshwork_identity::provider().secure_random.fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
