//! The control plane: API, store, registry, certificate authority and xDS.
//!
//! [`start`] runs all of it inside the caller's tokio runtime; [`Control::stop`] ends it.
//!
//! | file | what |
//! |---|---|
//! | `store/` | what outlives the process: one file, one writer, revisions, a bounded change log |
//! | `document/` | YAML and JSON -> typed values, with the place of every flaw |
//! | `manifest.rs` | the kinds of resources, as written, kept and shown |
//! | `api/` | the operators' HTTP/JSON API |
//! | `logins.rs`, `audit.rs` | operators from other machines; who changed what |
//! | `tokens.rs`, `enrollment.rs` | join tokens; certificates for them, and their renewal |
//! | `ca.rs`, `ca/` | what signs, what is trusted; replacing the root |
//! | `addresses.rs` | which service has which virtual address |
//! | `registry/` | which workloads there are: registrations, leases, health, drain |
//! | `eras.rs` | is the store an older copy of what sidecars have seen? |
//! | `checks/` | how workloads without a sidecar are |
//! | `loads.rs` | what programs without a sidecar report of their load |
//! | `metrics.rs` | what it counts of itself |
//! | `model.rs`, `view.rs`, `publisher.rs` | the one task that owns the model; one version of it at a time, for all readers; who hears of the next |
//! | `push.rs` | resources compiled, checked and encoded once |
//! | `xds_server.rs`, `sessions.rs` | delta ADS: one task a stream; what each was told and has answered |
//! | `csds.rs` | xDS's own way to ask what each client took |
//! | `restore.rs` | a backup, checked and put in the store's place |
//! | `server.rs` | the TLS port and the operator socket: who is calling |
//! | `caller.rs` | what each request knows of that |
//! | `handshakes.rs` | few TLS handshakes at a time, whoever comes back at once |
//! | `settings.rs` | what it is started with |

mod addresses;
mod api;
mod audit;
mod ca;
mod caller;
mod checks;
mod csds;
mod document;
mod enrollment;
mod eras;
#[doc(hidden)]
pub mod fuzzing;
mod handshakes;
mod loads;
mod lock;
mod logins;
mod manifest;
mod metrics;
mod model;
mod publisher;
mod push;
mod registry;
mod restore;
mod server;
mod sessions;
mod settings;
mod store;
mod time;
mod tokens;
mod view;
mod xds_server;

pub use restore::{Summary, check_backup, restore};
pub use settings::Settings;
pub use store::{InvalidBackup, RestoreError, StoreError};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use meshwork_core::mesh::Mesh;
use meshwork_core::virtual_address::VirtualRanges;
use meshwork_xds::discovery::AggregatedDiscoveryServiceServer;
use meshwork_xds::load_reporting::LoadReportingServiceServer;
use meshwork_xds::proto::enrollment_server::EnrollmentServer;
use meshwork_xds::proto::sidecar_server::SidecarServer;
use meshwork_xds::session::MESSAGE_BYTES_MAX;
use meshwork_xds::wire::status::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use addresses::Addresses;
use api::Api;
use audit::Audit;
use ca::Ca;
use checks::Checks;
use csds::StatusService;
use enrollment::EnrollmentService;
use eras::Eras;
use handshakes::Handshakes;
use loads::{LoadService, Loads};
use logins::Logins;
use metrics::Metrics;
use model::Model;
use publisher::Publisher;
use push::Memo;
use registry::{Registry, SidecarService, Sidecars, Standings};
use server::Door;
use sessions::Sessions;
use store::{Store, Writer};
use time::Clock;
use tokens::Tokens;
use view::Views;
use xds_server::DiscoveryService;

/// What a control plane shows in which nothing has happened yet: every name and word, for the test of the documentation.
pub fn no_metrics() -> String {
    Metrics::default().render()
}

/// How long `stop` waits for its tasks: connections get 5 s for their farewells, and then some.
const STOP_MAX: Duration = Duration::from_secs(8);

/// The largest message of an enrolment, which anybody may send: a request for a certificate has 8 KiB at most, a token's
/// secret some 50 bytes.
const ENROLMENT_BYTES_MAX: usize = 16 * 1024;

/// The largest message of a sidecar's session: a summary of 64 backends with all that can be told of them. A message of
/// nothing but empty elements takes sixty times as much once it is read.
const SESSION_MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The largest load report: a thousand services in some localities each, and what an Envoy says of itself (100 KiB). A
/// message of nothing but empty elements takes a hundred times as much once it is read.
const LOAD_REPORT_BYTES_MAX: usize = 256 * 1024;

/// The store's file in the state directory.
const STORE_FILE: &str = "mesh.redb";

/// The operators' door in the state directory.
const OPERATOR_SOCKET: &str = "operator.sock";

/// Doors that somebody else opened, and may keep open when the control plane ends.
#[derive(Debug, Default)]
pub struct Held {
    /// For sidecars, and operators from afar. `None`: the control plane listens as its settings say.
    pub port: Option<std::net::TcpListener>,
    /// For operators of this machine. `None`: it makes one in its state directory.
    pub operators: Option<std::os::unix::net::UnixListener>,
}

/// Whose the operators' socket is.
enum OperatorDoor {
    /// Ours, at this path: it goes when we do.
    Own(PathBuf),
    /// Somebody else's.
    Held(PathBuf),
}

/// A running control plane. Dropping it without `stop` leaves its tasks to the runtime's end.
pub struct Control {
    address: SocketAddr,
    operator_door: OperatorDoor,
    drain: CancellationToken,
    tasks: TaskTracker,
    writer: Writer,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot use the state directory {path}: {source}; give one that this user may write with --state-dir"
    )]
    StateDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store cannot be written: {0}")]
    Write(String),
    #[error(transparent)]
    Authority(#[from] meshwork_identity::AuthorityError),
    #[error("the control plane cannot get a certificate of its own: {0}")]
    Identity(String),
    #[error("the state directory belongs to trust domain {found}, not {wanted}; use another --state-dir")]
    OtherTrustDomain { found: String, wanted: String },
    #[error("cannot listen on {address}: {source}; free the port or choose another with --listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the socket that was passed on cannot be used: {source}")]
    Inherited { source: io::Error },
    #[error(
        "cannot make the operator socket {path}: {source}; its path may have 107 bytes at most, choose a shorter --state-dir"
    )]
    OperatorSocket { path: PathBuf, source: io::Error },
}

/// Opens the state, binds both doors and serves. Returns once clients can connect.
pub async fn start(settings: Settings) -> Result<Control, StartError> {
    start_on(settings, Held::default()).await
}

/// The same with doors that are open already.
pub async fn start_on(mut settings: Settings, held: Held) -> Result<Control, StartError> {
    if let Some(port) = &held.port {
        // Of the settings only what is true: clients come by this address.
        settings.listen = port.local_addr().map_err(|source| StartError::Inherited { source })?;
    }
    make_state_dir(&settings.state_dir)?;
    let (store, writer) = Store::open(&settings.state_dir.join(STORE_FILE), settings.changes_kept)?;
    let metrics = Arc::<Metrics>::default();
    let store = store.counted(&metrics);
    let ca = Arc::new(Ca::open(&store, &settings.trust_domain, reached_by(&settings)).await?);
    let eras = Arc::new(Eras::begin(&store).await?);
    let ranges = VirtualRanges::new(settings.virtual_range, &ca.mesh_id);
    let addresses = Addresses::new(store.clone(), ranges);
    addresses.settle_first().await;
    let (listener, address) = listen(settings.listen, held.port).await?;
    let (operators, operator_door) = operator_listener(&settings.state_dir, held.operators)?;

    let (drain, tasks) = (CancellationToken::new(), TaskTracker::new());
    let handshakes = Arc::new(Handshakes::new(Arc::clone(&metrics)));
    let parts = Parts {
        settings: &settings,
        store,
        ca: Arc::clone(&ca),
        eras,
        addresses,
        address,
        handshakes: &handshakes,
        metrics: &metrics,
        drain: &drain,
        tasks: &tasks,
    };
    let routers = parts.assemble()?;

    let door = Door {
        router: routers.sidecars,
        tls: ca.tls(),
        trust_domain: settings.trust_domain,
        stranger_max: settings.stranger_max,
        handshakes,
        metrics: Arc::clone(&metrics),
        drain: drain.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn(server::serve_tls(listener, Arc::new(door)));
    let (router, own_drain, owner) = (routers.operators, drain.clone(), tasks.clone());
    tasks.spawn(server::serve_operators(operators, router, metrics, own_drain, owner));
    tasks.spawn(ca.keep_fresh(drain.clone()));
    tasks.close();
    tracing::info!(%address, state_dir = %settings.state_dir.display(), "the control plane serves");
    Ok(Control { address, operator_door, drain, tasks, writer })
}

/// What the parts behind the doors are made of.
struct Parts<'s> {
    settings: &'s Settings,
    store: Store,
    ca: Arc<Ca>,
    eras: Arc<Eras>,
    addresses: Addresses,
    address: SocketAddr,
    handshakes: &'s Arc<Handshakes>,
    metrics: &'s Arc<Metrics>,
    drain: &'s CancellationToken,
    tasks: &'s TaskTracker,
}

/// What stands behind each door.
struct Routers {
    operators: axum::Router,
    sidecars: axum::Router,
}

impl Parts<'_> {
    /// Starts registry and model, and puts the services on top of them.
    fn assemble(self) -> Result<Routers, StartError> {
        let Self { settings, store, ca, eras, addresses, address, handshakes, metrics, drain, tasks } = self;
        let clock = Clock::start();
        let standings = Arc::new(Standings::new(clock, settings.lease, settings.lapsed_kept));
        let registry = Registry::open(store.clone(), addresses.clone(), Arc::clone(&standings))?;
        let mut empty = Mesh::new(&ca.mesh_id, &settings.trust_domain);
        empty.set_virtual_ranges(addresses.ranges);
        let mut model = Model::open(store.clone(), Arc::clone(&standings), empty)?;
        model.follow(ca.told());
        let (publisher, views) = Views::new(model.first_view());
        ca.follow(views.clone());
        tasks.spawn(addresses.clone().keep(drain.clone()));
        tasks.spawn(registry.clone().watch_leases(drain.clone()));
        let (memo, sessions) = (Arc::<Memo>::default(), Arc::<Sessions>::default());
        let publisher =
            Publisher::new(publisher, Arc::clone(&memo), Arc::clone(&sessions), Arc::clone(metrics));
        tasks.spawn(model.run(publisher, drain.clone()));
        tasks.spawn(checks(&views, &standings, clock).run(drain.clone()));
        tasks.spawn(Arc::clone(&ca).keep_rotating(Arc::clone(&sessions), drain.clone()));
        let (tokens, logins) = (Tokens::new(store.clone()), Logins::new(store.clone()));
        let audit = Arc::new(Audit::new(&settings.state_dir));
        let enrollment =
            EnrollmentService { ca: Arc::clone(&ca), tokens: tokens.clone(), metrics: Arc::clone(metrics) };
        let sidecars = Sidecars {
            registry,
            views: views.clone(),
            sessions: Arc::clone(&sessions),
            mesh_id: ca.mesh_id.clone(),
            withdrawal: settings.withdrawal,
            drain: drain.clone(),
            tasks: tasks.clone(),
            session_last: AtomicU64::new(1),
            metrics: Arc::clone(metrics),
        };
        let discovery = DiscoveryService {
            views: views.clone(),
            memo,
            sessions: Arc::clone(&sessions),
            eras: Arc::clone(&eras),
            drain: drain.clone(),
            tasks: tasks.clone(),
            metrics: Arc::clone(metrics),
        };
        let loads = Arc::<Loads>::default();
        let reports = LoadService::new(&loads, settings.load_interval, metrics, drain, tasks);
        let advertised = advertised(&settings.names, address);
        let drain = drain.clone();
        let watches = api::watch_places();
        let told = Arc::clone(&sessions);
        let operators = api::router(Arc::new(Api {
            store,
            addresses,
            views,
            standings,
            sessions,
            loads,
            tokens,
            logins,
            audit,
            ca,
            eras,
            advertised,
            handshakes: Arc::clone(handshakes),
            metrics: Arc::clone(metrics),
            store_file: settings.state_dir.join(STORE_FILE),
            drain,
            watches,
            readings: api::reading_places(),
        }));
        let sidecars = beside(operators.clone(), enrollment, sidecars, discovery, reports);
        Ok(Routers { operators: with_csds(operators, told), sidecars })
    }
}

/// Of workloads without a sidecar; those first that are there now.
fn checks(views: &Views, standings: &Arc<Standings>, clock: Clock) -> Checks {
    let mut unseen = views.clone();
    unseen.forget();
    Checks { views: unseen, standings: Arc::clone(standings), clock }
}

/// Operators' tools that know xDS ask in its way, too.
fn with_csds(operators: axum::Router, sessions: Arc<Sessions>) -> axum::Router {
    let status = ClientStatusDiscoveryServiceServer::new(StatusService(sessions))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    operators.route_service("/envoy.service.status.v3.ClientStatusDiscoveryService/{*method}", status)
}

/// What sidecars ask, on the port that also takes operators from afar.
fn beside(
    operators: axum::Router,
    enrollment: EnrollmentService,
    sidecars: Sidecars,
    discovery: DiscoveryService,
    reports: LoadService,
) -> axum::Router {
    let sidecars = SidecarServer::new(SidecarService(Arc::new(sidecars)))
        .max_decoding_message_size(SESSION_MESSAGE_BYTES_MAX);
    let enrollment = EnrollmentServer::new(enrollment).max_decoding_message_size(ENROLMENT_BYTES_MAX);
    let discovery = AggregatedDiscoveryServiceServer::new(discovery)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let reports = LoadReportingServiceServer::new(reports).max_decoding_message_size(LOAD_REPORT_BYTES_MAX);
    operators
        .route_service("/meshwork.v1.Enrollment/{*method}", enrollment)
        .route_service("/meshwork.v1.Sidecar/{*method}", sidecars)
        .route_service("/envoy.service.discovery.v3.AggregatedDiscoveryService/{*method}", discovery)
        .route_service("/envoy.service.load_stats.v3.LoadReportingService/{*method}", reports)
}

impl Control {
    /// Where sidecars connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn operator_socket(&self) -> &Path {
        match &self.operator_door {
            OperatorDoor::Own(path) | OperatorDoor::Held(path) => path,
        }
    }

    /// Lets nobody new in, tells sidecars to go, lets running answers finish, and closes the store.
    pub async fn stop(self) {
        self.stop_unless(std::future::pending()).await;
    }

    /// The same, but when `hurried` is ready the answers that still run are not waited for. Nothing is lost by that:
    /// what somebody was told is written was on disk before (`store/writer.rs`).
    pub async fn stop_unless(self, hurried: impl Future<Output = ()>) {
        tracing::info!("ending: nobody new is let in, sidecars are told to go, running answers finish");
        self.drain.cancel();
        let waited = tokio::select! {
            waited = tokio::time::timeout(STOP_MAX, self.tasks.wait()) => waited.is_ok(),
            () = hurried => false,
        };
        if waited {
            // Every handle is gone now, so the writer ends with what it has.
            self.writer.ended().await;
            tracing::info!("ended: all connections and the store are closed");
        } else {
            tracing::warn!(left = self.tasks.len(), "ended: some connections were not waited for");
        }
        match &self.operator_door {
            // Gone already, or somebody tidied up: both are fine.
            OperatorDoor::Own(path) => drop(std::fs::remove_file(path)),
            // Who knocks meanwhile waits there for the next one.
            OperatorDoor::Held(_) => {}
        }
    }
}

fn make_state_dir(path: &Path) -> Result<(), StartError> {
    let error = |source| StartError::StateDir { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    // One that was there may be open to others; it holds the mesh's keys.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(error)
}

async fn listen(
    address: SocketAddr,
    held: Option<std::net::TcpListener>,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = match held {
        Some(held) => TcpListener::from_std(held).map_err(|source| StartError::Inherited { source })?,
        None => TcpListener::bind(address).await.map_err(error)?,
    };
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn operator_listener(
    state_dir: &Path,
    held: Option<std::os::unix::net::UnixListener>,
) -> Result<(UnixListener, OperatorDoor), StartError> {
    let Some(held) = held else {
        let path = state_dir.join(OPERATOR_SOCKET);
        return match server::bind_operator_socket(&path) {
            Ok(listener) => Ok((listener, OperatorDoor::Own(path))),
            Err(source) => Err(StartError::OperatorSocket { path, source }),
        };
    };
    let taken = held.local_addr().and_then(|address| Ok((UnixListener::from_std(held)?, address)));
    let (listener, address) = taken.map_err(|source| StartError::Inherited { source })?;
    // One without a path (an abstract name) is a door, too; it is named by nobody.
    Ok((listener, OperatorDoor::Held(address.as_pathname().map_or_else(PathBuf::new, Path::to_owned))))
}

/// What join tokens say: the first name, with our port unless it has one; else our address.
fn advertised(names: &[String], address: SocketAddr) -> String {
    let Some(name) = names.first() else { return address.to_string() };
    if let Ok(ip) = name.parse() {
        return SocketAddr::new(ip, address.port()).to_string();
    }
    if name.contains(':') { name.clone() } else { format!("{name}:{}", address.port()) }
}

/// By what name clients come: those that were given, without ports, and the address.
fn reached_by(settings: &Settings) -> Vec<String> {
    let bare = |name: &String| match name.parse::<IpAddr>() {
        Ok(_) => name.clone(),
        Err(_) => name.split(':').next().unwrap_or_default().to_owned(),
    };
    let address = Some(settings.listen.ip()).filter(|address| !address.is_unspecified());
    settings.names.iter().map(bare).chain(address.map(|address| address.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_address_that_sidecars_can_reach() {
        let check = |names: &[&str], expect: &str| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(advertised(&names, "0.0.0.0:4190".parse().unwrap()), expect);
        };
        check(&[], "0.0.0.0:4190");
        check(&["control.example", "10.0.0.1"], "control.example:4190");
        check(&["control.example:443"], "control.example:443");
        check(&["10.0.0.1"], "10.0.0.1:4190");
        check(&["fd00::1"], "[fd00::1]:4190");
    }
}
