//! The data plane's threads: workers with their listeners. Started once, ended by its owner; what the
//! control plane says arrives through `Live`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meshwork_core::discover::{self, InvalidAuthority};
use meshwork_core::meant::Served;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ceilings::Ceilings;
use crate::clock::Clock;
use crate::drain::{self, Drained, Drains};
use crate::futile::Futile;
use crate::listen::{self, Accepted, Door, Purpose};
use crate::live::Live;
use crate::mark::Mark;
use crate::seldom::Seldom;
use crate::settings::{Captured, PortSpec, Settings, Upstream};
use crate::spoke_first::SpokeFirst;
use crate::telemetry::Registry;
use crate::telemetry::access_log::AccessLog;
use crate::worker::{self, Shared, Worker};

/// More threads than this serve no application; it is a typing mistake.
pub const WORKERS_MAX: usize = 256;

/// How long the application's own requests may take to finish at the end of a sidecar that has no command to wait for.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the listener {what}: {source}")]
    Listener { what: String, source: io::Error },
    #[error("--upstream {destination}: {source} (want SERVICE:PORT=IP:PORT)")]
    Upstream { destination: String, source: InvalidAuthority },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("--workers {0}: want 1 to {WORKERS_MAX}")]
    Workers(usize),
}

/// The sockets that carry traffic.
pub struct Sockets {
    /// Of those that are opened.
    pub mark: Mark,
    pub outbound_http: Option<TcpListener>,
    pub upstreams: Vec<(Upstream, TcpListener)>,
    /// With the application's port behind each.
    pub inbound: Vec<(PortSpec, TcpListener)>,
    pub captured: Option<Captured>,
    /// Where the side thread answers the platform's probes.
    pub probe_port: Option<u16>,
}

/// Running workers. Dropped, they end and take their connections along.
pub struct DataPlane {
    drains: Vec<Drains>,
    stop: CancellationToken,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DataPlane {
    pub fn start(
        settings: &Settings,
        sockets: Sockets,
        own: Vec<SocketAddr>,
        live: Arc<Live>,
        registry: Arc<Registry>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        if !(1..=WORKERS_MAX).contains(&settings.workers) {
            return Err(StartError::Workers(settings.workers));
        }
        let (ports, served) = served(&sockets.inbound)?;
        let mark = sockets.mark;
        let shared = Arc::new(Shared {
            live,
            namespace: settings.namespace.clone(),
            own,
            ports,
            served,
            probe_port: sockets.probe_port,
            parent_proxy: settings.parent_proxy.clone(),
            mark,
            access_log: AccessLog::start(registry.clone()).map_err(StartError::Thread)?,
            futile: Futile::default(),
            ceilings: Ceilings::new(settings),
            clients_told: Seldom::default(),
            descriptors_told: Seldom::default(),
            captured_told: Seldom::default(),
            silent_told: Seldom::default(),
            spoke_first: SpokeFirst::default(),
            inbound: TaskTracker::new(),
            outbound: TaskTracker::new(),
        });
        let mut listeners = purposes(sockets)?;
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..settings.workers).map(|_| Door::new()).unzip();
        for door in &doors {
            registry.add_worker(door.open.clone());
        }
        let mut data = Self {
            drains: Vec::new(),
            stop: CancellationToken::new(),
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let drains = Drains::default();
            data.drains.push(drains.clone());
            let seat = Seat {
                shared: shared.clone(),
                registry: registry.clone(),
                clock,
                drains,
                seed: crate::side::random(),
                inbox,
                doors: doors.clone(),
                index,
                // The first worker accepts for all.
                listeners: std::mem::take(&mut listeners),
                stop: data.stop.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            data.threads.push(thread.spawn(move || seat.run()).map_err(StartError::Thread)?);
        }
        Ok(data)
    }

    /// Step 3 of a sidecar's end: inbound connections are told to go and finish what runs. What still does after
    /// `time` is told so in its own words (a gRPC status, a WebSocket's close), or breaks.
    pub async fn drain_inbound(&self, time: Duration) {
        let open = self.shared.inbound.len();
        tracing::info!(drain_step = 3, open, "draining: inbound connections finish what runs and end");
        let drains = self.drains.iter().map(|drains| &*drains.inbound);
        match drain::finish(drains, &self.shared.inbound, time).await {
            Drained::Finished => tracing::info!(drain_step = 3, "draining: inbound is finished"),
            Drained::TimeUp(left) => tracing::warn!(
                drain_step = 3,
                left,
                "draining: inbound did not finish within {time:?}; what was left was ended"
            ),
        }
    }

    /// The same for the application's own connections, where nobody says when the application is gone.
    pub async fn drain_outbound(&self) {
        let drains = self.drains.iter().map(|drains| &*drains.outbound);
        if let Drained::TimeUp(left) = drain::finish(drains, &self.shared.outbound, FAREWELL_MAX).await {
            tracing::warn!(left, "outbound connections were still in use at the end");
        }
    }

    /// Ends the workers and waits for their threads.
    pub fn stop(mut self) {
        self.stop.cancel();
        for thread in std::mem::take(&mut self.threads) {
            // A worker's own panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The application's ports, and where connections to them arrive.
fn served(inbound: &[(PortSpec, TcpListener)]) -> Result<(Vec<PortSpec>, Vec<Served>), StartError> {
    let read = |(port, listener): &(PortSpec, TcpListener)| {
        let what = || format!("before the application's port {}", port.app_port);
        let listener =
            listener.local_addr().map_err(|source| StartError::Listener { what: what(), source })?;
        Ok((port.clone(), Served { listener, app_port: port.app_port }))
    };
    let read: Result<Vec<_>, StartError> = inbound.iter().map(read).collect();
    Ok(read?.into_iter().unzip())
}

fn purposes(sockets: Sockets) -> Result<Vec<(TcpListener, Purpose)>, StartError> {
    let mut all = Vec::new();
    all.extend(sockets.outbound_http.map(|listener| (listener, Purpose::OutboundHttp)));
    for (upstream, listener) in sockets.upstreams {
        let destination = discover::destination(&upstream.destination, 80)
            .map_err(|source| StartError::Upstream { destination: upstream.destination.clone(), source })?;
        all.push((listener, Purpose::Upstream(destination.into_owned())));
    }
    for (port, listener) in sockets.inbound {
        all.push((listener, Purpose::Inbound(port)));
    }
    let Captured { whose: _, outbound, inbound } = sockets.captured.unwrap_or_default();
    all.extend(outbound.into_iter().map(|listener| (listener, Purpose::CapturedOutbound)));
    all.extend(inbound.into_iter().map(|listener| (listener, Purpose::CapturedInbound)));
    for (listener, purpose) in &all {
        listener
            .set_nonblocking(true)
            .map_err(|source| StartError::Listener { what: format!("{purpose:?}"), source })?;
    }
    Ok(all)
}

/// All that a worker's thread is started with.
struct Seat {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    clock: Clock,
    drains: Drains,
    seed: u64,
    inbox: mpsc::Receiver<Accepted>,
    doors: Vec<Door>,
    index: usize,
    listeners: Vec<(TcpListener, Purpose)>,
    stop: CancellationToken,
}

impl Seat {
    fn run(self) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(self.work()),
            Err(error) => {
                tracing::error!(%error, "a worker cannot start; its share of connections will fail")
            }
        }
    }

    async fn work(self) {
        self.registry.add_this_runtime();
        let door = self.doors[self.index].clone();
        let seat = if self.index == 0 { worker::Seat::First } else { worker::Seat::Further };
        let worker =
            Rc::new(Worker::new(seat, self.shared, self.registry, self.clock, self.drains, self.seed));
        let mut acceptors = tokio::task::JoinSet::new();
        for (listener, purpose) in self.listeners {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let accept = listen::accept(
                        listener,
                        purpose,
                        self.doors.clone(),
                        worker.clone(),
                        self.stop.clone(),
                    );
                    acceptors.spawn_local(accept);
                }
                Err(error) => tracing::error!(%error, ?purpose, "cannot listen"),
            }
        }
        listen::work(worker, self.inbox, door, self.stop).await;
    }
}
