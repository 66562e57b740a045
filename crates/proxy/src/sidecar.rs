//! A sidecar: the data plane and the side thread, from start to end.
//!
//! An end has an order (architecture, "Life"): the mesh is told first and stops sending, then inbound
//! connections finish, then the command may go, outbound still serving its farewells; last, everything.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::clock::Clock;
use crate::data::{DataPlane, Sockets, StartError as DataError};
use crate::live::Live;
use crate::settings::{Listeners, Settings};
use crate::side::{Duties, SetLogLevel, Side};
use crate::telemetry::Registry;

/// How long a drain waits until every subscriber has acknowledged that the workload takes nothing new.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use a listening socket: {0}")]
    Listener(io::Error),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("cannot start the side thread: {0}")]
    Side(io::Error),
    #[error("cannot join the mesh: {0}")]
    Join(String),
    #[error("not ready within {} s: {reason}", .waited.as_secs())]
    NotReady { waited: Duration, reason: String },
}

/// A running sidecar.
pub struct Sidecar {
    data: DataPlane,
    side: Side,
    registry: Arc<Registry>,
    live: Arc<Live>,
}

/// Starts a sidecar and waits until it can carry traffic: it has a certificate and its first config. The
/// application may start then; it is registered once its ports accept.
pub async fn start(
    settings: Settings,
    listeners: Listeners,
    set_log_level: SetLogLevel,
) -> Result<Sidecar, StartError> {
    let wait = settings.wait;
    let sidecar = launch(settings, listeners, set_log_level)?;
    match timeout(wait, sidecar.side.ready()).await {
        Ok(Ok(())) => Ok(sidecar),
        Ok(Err(reason)) => Err(StartError::Join(reason)),
        Err(_) => {
            let reason = sidecar.side.status().borrow().ready().err().unwrap_or_default();
            Err(StartError::NotReady { waited: wait, reason })
        }
    }
}

/// Starts the threads without waiting.
pub fn launch(
    settings: Settings,
    listeners: Listeners,
    set_log_level: SetLogLevel,
) -> Result<Sidecar, StartError> {
    let clock = Clock::start();
    let registry = Registry::new(format!("{}/{}", settings.namespace, settings.service));
    let (live, asks) = Live::new(registry.clone(), clock, settings.alpn());
    let inbound = addresses(&listeners.inbound)?;
    let own = own_addresses(&listeners, &inbound)?;
    let sockets = Sockets {
        outbound_http: listeners.outbound_http,
        upstreams: listeners.upstreams,
        inbound: settings.ports.iter().cloned().zip(listeners.inbound).collect(),
    };
    let data = DataPlane::start(&settings, sockets, own, live.clone(), registry.clone(), clock)?;
    let duties = Duties {
        settings,
        inbound,
        admin: listeners.admin,
        live: live.clone(),
        asks,
        registry: registry.clone(),
        clock,
        set_log_level,
    };
    let side = Side::start(duties).map_err(StartError::Side)?;
    Ok(Sidecar { data, side, registry, live })
}

impl Sidecar {
    /// What it counts.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What it knows.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub fn side(&self) -> &Side {
        &self.side
    }

    /// Steps 1 and 2: the workload is taken out of the mesh; returns when everybody knows, or gives up waiting.
    pub async fn withdraw(&self) {
        if timeout(WITHDRAW_MAX, self.side.withdraw()).await.is_err() {
            tracing::warn!(
                "not everybody has acknowledged within {} s that this workload takes nothing new",
                WITHDRAW_MAX.as_secs()
            );
        }
    }

    /// Steps 1 to 3: withdrawn, and inbound requests finished. Outbound goes on.
    pub async fn drain(&self) {
        self.withdraw().await;
        self.data.drain_inbound().await;
    }

    /// The last step: every thread ends.
    pub async fn stop(self) {
        let Self { data, side, .. } = self;
        let ended = tokio::task::spawn_blocking(move || {
            data.stop();
            side.stop();
        });
        // A panic there was reported where it happened.
        let _ = ended.await;
    }
}

fn addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(StartError::Listener)
}

/// Whoever asks the outbound port for one of these would ask in circles.
fn own_addresses(listeners: &Listeners, inbound: &[SocketAddr]) -> Result<Vec<SocketAddr>, StartError> {
    let others = [&listeners.outbound_http, &listeners.admin];
    let upstreams = listeners.upstreams.iter().map(|(_, listener)| listener);
    let others = others.into_iter().chain(upstreams).map(TcpListener::local_addr);
    let mut own = others.collect::<Result<Vec<_>, _>>().map_err(StartError::Listener)?;
    own.extend(inbound);
    Ok(own)
}
