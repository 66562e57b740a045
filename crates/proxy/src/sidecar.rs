//! A sidecar: the data plane and the side thread, from start to end.
//!
//! An end has an order, and each step says in the log that it is reached (`drain_step`):
//!
//! 1. it is not ready any more, and withdraws its workload from the mesh;
//! 2. every sidecar that may send here has acknowledged that, or 5 s have passed;
//! 3. inbound connections are told to go and finish what runs, bounded by `Settings::drain`;
//! 4. the command is told to end, while outbound still serves its farewells (whoever holds the command does that);
//! 5. the command is gone: everything ends.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter};

use tokio::time::timeout;

use crate::clock::Clock;
use crate::data::{DataPlane, Sockets, StartError as DataError};
use crate::live::Live;
use crate::mark::Mark;
use crate::settings::{Listeners, Settings, Whose};
use crate::side::dns::Lookup;
use crate::side::{Duties, SetLogLevel, Side};
use crate::telemetry::Registry;

/// How long a drain waits until every subscriber has acknowledged that the workload takes nothing new.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);

/// For inbound requests whose command is gone: each fails as soon as it meets that.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// The tasks that the start waits for give up by themselves when its time is over, and know best why. This much later
/// they are not waited for either.
const LAST_WORD: Duration = Duration::from_millis(500);

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
    drain: Duration,
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
    match timeout(wait + LAST_WORD, sidecar.side.ready()).await {
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
    let (clock, drain) = (Clock::start(), settings.drain);
    let registry = Registry::new(format!("{}/{}", settings.namespace, settings.service));
    let (live, asks) = Live::new(registry.clone(), clock, settings.alpn());
    live.set_locality(settings.locality.clone());
    let inbound = addresses(&listeners.inbound)?;
    let own = own_addresses(&listeners, &inbound)?;
    // Who is captured by nobody needs none, and asks for no capability.
    let mark = if listeners.captured.is_some() { Mark::find() } else { Mark::default() };
    let lookup = match listeners.captured.as_ref().map(|captured| captured.whose) {
        Some(Whose::Namespace) => Lookup::behind_rules(mark, &settings.resolv_conf, registry.clone()),
        Some(Whose::Tree) | None => Lookup::Library,
    };
    let sockets = Sockets {
        mark,
        outbound_http: listeners.outbound_http,
        upstreams: listeners.upstreams,
        inbound: settings.ports.iter().cloned().zip(listeners.inbound).collect(),
        captured: listeners.captured,
        probe_port: listeners.probes.as_ref().map(probe_port).transpose()?,
    };
    let data = DataPlane::start(&settings, sockets, own, live.clone(), registry.clone(), clock)?;
    let duties = Duties {
        settings,
        inbound,
        admin: listeners.admin,
        dns: listeners.dns,
        mark,
        lookup,
        probes: listeners.probes,
        live: live.clone(),
        asks,
        registry: registry.clone(),
        clock,
        set_log_level,
    };
    let side = Side::start(duties).map_err(StartError::Side)?;
    Ok(Sidecar { drain, data, side, registry, live })
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
        tracing::info!(drain_step = 1, "draining: the workload is withdrawn from the mesh");
        if timeout(WITHDRAW_MAX, self.side.withdraw()).await.is_err() {
            tracing::warn!(
                drain_step = 2,
                "draining: not everybody has acknowledged within {} s that this workload takes nothing new",
                WITHDRAW_MAX.as_secs()
            );
        } else {
            tracing::info!(drain_step = 2, "draining: nobody sends here any more");
        }
    }

    /// Steps 1 to 3: withdrawn, and inbound requests finished. Outbound goes on.
    pub async fn drain(&self) {
        self.withdraw().await;
        self.data.drain_inbound(self.drain).await;
    }

    /// The same for a workload whose command is gone: what runs can't finish, but is told so.
    pub async fn leave(&self) {
        self.withdraw().await;
        self.data.drain_inbound(LEAVE_MAX).await;
    }

    /// Where nobody says when the application is gone: what it has asked for is finished.
    pub async fn finish_outbound(&self) {
        self.data.drain_outbound().await;
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

fn probe_port(listener: &TcpListener) -> Result<u16, StartError> {
    listener.local_addr().map(|address| address.port()).map_err(StartError::Listener)
}

fn addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(StartError::Listener)
}

/// Whoever asks the outbound port for one of these would ask in circles.
fn own_addresses(listeners: &Listeners, inbound: &[SocketAddr]) -> Result<Vec<SocketAddr>, StartError> {
    let upstreams = listeners.upstreams.iter().map(|(_, listener)| listener);
    let captured = listeners.captured.iter();
    let captured = captured.flat_map(|captured| captured.outbound.iter().chain(&captured.inbound));
    let others = iter::once(&listeners.admin)
        .chain(&listeners.outbound_http)
        .chain(upstreams)
        .chain(captured)
        .chain(&listeners.probes)
        .map(TcpListener::local_addr);
    let mut own = others.collect::<Result<Vec<_>, _>>().map_err(StartError::Listener)?;
    own.extend(inbound);
    Ok(own)
}
