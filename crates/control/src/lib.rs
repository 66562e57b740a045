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
//! | `tokens.rs`, `ca.rs` | join tokens; certificates for them, and their renewal |
//! | `view.rs` | one version of the mesh at a time, for all readers |
//! | `server.rs` | the TLS port and the operator socket: who is calling |
//! | `settings.rs` | what it is started with |

mod api;
mod ca;
mod document;
mod manifest;
mod server;
mod settings;
mod store;
mod time;
mod tokens;
mod view;

pub use settings::Settings;
pub use store::StoreError;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use meshwork_xds::proto::enrollment_server::EnrollmentServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use api::Api;
use ca::{Ca, EnrollmentService};
use server::Door;
use store::{Store, Writer};
use tokens::Tokens;
use view::Views;

/// How long `stop` waits for its tasks: connections get 5 s for their farewells, and then some.
const STOP_MAX: Duration = Duration::from_secs(8);

/// The store's file in the state directory.
const STORE_FILE: &str = "mesh.redb";

/// The operators' door in the state directory.
const OPERATOR_SOCKET: &str = "operator.sock";

/// A running control plane. Dropping it without `stop` leaves its tasks to the runtime's end.
pub struct Control {
    address: SocketAddr,
    operator_socket: PathBuf,
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
    #[error(
        "the state directory belongs to trust domain {found}, not {wanted}; start with --trust-domain {found}, or use another --state-dir"
    )]
    OtherTrustDomain { found: String, wanted: String },
    #[error("cannot listen on {address}: {source}; free the port or choose another with --listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "cannot make the operator socket {path}: {source}; its path may have 107 bytes at most, choose a shorter --state-dir"
    )]
    OperatorSocket { path: PathBuf, source: io::Error },
}

/// Opens the state, binds both doors and serves. Returns once clients can connect.
pub async fn start(settings: Settings) -> Result<Control, StartError> {
    make_state_dir(&settings.state_dir)?;
    let (store, writer) = Store::open(&settings.state_dir.join(STORE_FILE), settings.changes_kept)?;
    let (_views_sender, views) = Views::new();
    let ca = Arc::new(Ca::open(&store, &settings.trust_domain, views).await?);
    let (tls, due) = ca.server_config()?;
    let tls = Arc::new(ArcSwap::new(tls));

    let (listener, address) = listen(settings.listen).await?;
    let operator_socket = settings.state_dir.join(OPERATOR_SOCKET);
    let operators = operator_listener(&operator_socket)?;

    let drain = CancellationToken::new();
    let tasks = TaskTracker::new();
    let tokens = Tokens::new(store.clone());
    let advertised = advertised(&settings.names, address);
    let api = Arc::new(Api::new(store, tokens.clone(), Arc::clone(&ca), advertised, drain.clone()));
    let enrollment = EnrollmentServer::new(EnrollmentService { ca: Arc::clone(&ca), tokens });
    let router = api::router(api);
    let sidecars = router.clone().route_service("/meshwork.v1.Enrollment/{*method}", enrollment);

    let trust_domain = settings.trust_domain;
    let (door_drain, door_tasks) = (drain.clone(), tasks.clone());
    let door =
        Door { router: sidecars, tls: Arc::clone(&tls), trust_domain, drain: door_drain, tasks: door_tasks };
    tasks.spawn(server::serve_tls(listener, Arc::new(door)));
    tasks.spawn(server::serve_operators(operators, router, drain.clone(), tasks.clone()));
    tasks.spawn(ca.keep_fresh(tls, due, drain.clone()));
    tasks.close();
    tracing::info!(%address, state_dir = %settings.state_dir.display(), "the control plane serves");
    Ok(Control { address, operator_socket, drain, tasks, writer })
}

impl Control {
    /// Where sidecars connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn operator_socket(&self) -> &Path {
        &self.operator_socket
    }

    /// Takes no new connection, lets running requests finish, and closes the store.
    pub async fn stop(self) {
        self.drain.cancel();
        if tokio::time::timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "some connections did not end in time");
        } else {
            // Every handle is gone now, so the writer ends with what it has.
            self.writer.ended().await;
        }
        // Gone already, or somebody tidied up: both are fine.
        let _ = std::fs::remove_file(&self.operator_socket);
    }
}

fn make_state_dir(path: &Path) -> Result<(), StartError> {
    let error = |source| StartError::StateDir { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    // One that was there may be open to others; it holds the mesh's keys.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(error)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn operator_listener(path: &Path) -> Result<UnixListener, StartError> {
    server::bind_operator_socket(path)
        .map_err(|source| StartError::OperatorSocket { path: path.to_owned(), source })
}

/// What join tokens say: the first name, with our port unless it has one; else our address.
fn advertised(names: &[String], address: SocketAddr) -> String {
    let Some(name) = names.first() else { return address.to_string() };
    if let Ok(ip) = name.parse() {
        return SocketAddr::new(ip, address.port()).to_string();
    }
    if name.contains(':') { name.clone() } else { format!("{name}:{}", address.port()) }
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
