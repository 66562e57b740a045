//! Accepts, and hands each connection to the worker that has the fewest.
//!
//! Listeners belong to the first worker; a connection for another one travels as a bare descriptor.
//! Every worker owns the tasks of its connections: none outlives it, and a panic costs only its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshwork_core::discover::Destination;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::settings::PortSpec;
use crate::telemetry::{Event, Gauge};
use crate::worker::{CONNECTION_PANICKED, TICK_INTERVAL, Worker};
use crate::{captured, connect, inbound, outbound};

/// Accepted connections that a worker has not taken yet. Past it accepting waits, and the kernel's own
/// queue fills: a burst, or a stuck worker.
const HANDOVER_MAX: usize = 1_024;

/// Accepting fails when descriptors or memory run out: that passes, we stay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    OutboundHttp,
    /// A local port that leads to one service.
    Upstream(Destination<'static>),
    /// Mutual TLS before one of the application's ports.
    Inbound(PortSpec),
    /// What rules redirect here of that which the application opens.
    CapturedOutbound,
    /// What rules redirect here of that which is opened to the application.
    CapturedInbound,
}

pub(crate) struct Accepted {
    socket: Socket,
    from: SocketAddr,
    purpose: Arc<Purpose>,
}

enum Socket {
    /// On the accepting worker's runtime.
    Registered(TcpStream),
    Bare(std::net::TcpStream),
}

/// How connections reach one worker.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) handover: mpsc::Sender<Accepted>,
    pub(crate) open: Arc<AtomicUsize>,
}

impl Door {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Accepted>) {
        let (handover, inbox) = mpsc::channel(HANDOVER_MAX);
        (Self { handover, open: Arc::default() }, inbox)
    }
}

/// One listener's loop, on the first worker. Ends when `stop` says so; the socket is closed then.
pub(crate) async fn accept(
    listener: TcpListener,
    purpose: Purpose,
    doors: Vec<Door>,
    worker: Rc<Worker>,
    stop: CancellationToken,
) {
    let purpose = Arc::new(purpose);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                worker.registry.count(Event::AcceptError);
                let _ = worker.clients.dismiss_newest_idle() || worker.silent.dismiss_newest_idle();
                if worker.shared.descriptors_told.is_due(worker.now()) {
                    tracing::warn!(%error, ?purpose, "cannot accept a connection");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connect::tune(&socket);
        let Some((index, door)) =
            doors.iter().enumerate().min_by_key(|(_, door)| door.open.load(Ordering::Relaxed))
        else {
            return;
        };
        let socket = match index {
            0 => Ok(Socket::Registered(socket)),
            _ => socket.into_std().map(Socket::Bare),
        };
        let Ok(socket) = socket else { continue };
        door.open.fetch_add(1, Ordering::Relaxed);
        let accepted = Accepted { socket, from, purpose: purpose.clone() };
        if door.handover.send(accepted).await.is_err() {
            return; // the worker has ended, and so must we
        }
    }
}

/// A worker's main loop: takes connections, owns their tasks, tidies up.
pub(crate) async fn work(
    worker: Rc<Worker>,
    mut inbox: mpsc::Receiver<Accepted>,
    door: Door,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut tick = interval(TICK_INTERVAL);
    let mut memory = pin!(sleep(worker.look_at_memory()));
    loop {
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(accepted) => {
                    let open = Open::new(&door);
                    if has_room(connections.len(), &worker) {
                        let served = serve(accepted, worker.clone(), open);
                        connections.spawn_local(worker.clock.clone().still_for(served));
                    }
                }
                None => break,
            },
            Some(ended) = connections.join_next() => worker.report_panic(&ended, CONNECTION_PANICKED),
            _ = tick.tick() => worker.tick(),
            () = &mut memory => memory.as_mut().reset(Instant::now() + worker.look_at_memory()),
            () = stop.cancelled() => break,
        }
    }
    worker.end();
    // The set drops here, and with it whoever is left.
}

/// Whether one more client is let in. At the ceiling another one goes that has nothing to do.
fn has_room(open: usize, worker: &Worker) -> bool {
    let max = worker.shared.ceilings.clients_max;
    if open < max {
        return true;
    }
    let made_room = worker.clients.dismiss_newest_idle() || worker.silent.dismiss_newest_idle();
    worker.registry.count(if made_room { Event::IdleClientClosed } else { Event::LimitClients });
    if worker.shared.clients_told.is_due(worker.now()) {
        let done = if made_room { "the newest idle one is closed" } else { "a new one is refused" };
        tracing::warn!(max, "a worker has as many clients as it may have: {done}");
    }
    made_room
}

async fn serve(accepted: Accepted, worker: Rc<Worker>, _open: Open) {
    let socket = match accepted.socket {
        Socket::Registered(socket) => socket,
        Socket::Bare(socket) => match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "cannot take over a connection"),
        },
    };
    match &*accepted.purpose {
        Purpose::OutboundHttp => {
            let _counted = Counted::new(&worker, Event::AcceptedOutbound, Gauge::OpenOutbound);
            let _awaited_by_drain = worker.shared.outbound.token();
            outbound::proxy(socket, &worker).await;
        }
        Purpose::Upstream(destination) => {
            let _counted = Counted::new(&worker, Event::AcceptedOutbound, Gauge::OpenOutbound);
            let _awaited_by_drain = worker.shared.outbound.token();
            outbound::upstream(socket, destination.clone(), &worker).await;
        }
        Purpose::Inbound(port) => {
            let _counted = Counted::new(&worker, Event::AcceptedInbound, Gauge::OpenInbound);
            let _awaited_by_drain = worker.shared.inbound.token();
            inbound::serve(socket, accepted.from, port, &worker).await;
        }
        Purpose::CapturedOutbound => {
            let _counted = Counted::new(&worker, Event::AcceptedOutbound, Gauge::OpenOutbound);
            let _awaited_by_drain = worker.shared.outbound.token();
            captured::outbound::serve(socket, accepted.from, &worker).await;
        }
        Purpose::CapturedInbound => {
            let _counted = Counted::new(&worker, Event::AcceptedInbound, Gauge::OpenInbound);
            let _awaited_by_drain = worker.shared.inbound.token();
            captured::inbound::serve(socket, accepted.from, &worker).await;
        }
    }
}

/// A connection in a worker's count, however its task ends.
struct Open(Arc<AtomicUsize>);

impl Open {
    /// The acceptor counted it already, so that a burst spreads before any task runs.
    fn new(door: &Door) -> Self {
        Self(door.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in the metrics, however its task ends.
struct Counted<'a> {
    worker: &'a Worker,
    gauge: Gauge,
}

impl<'a> Counted<'a> {
    fn new(worker: &'a Worker, event: Event, gauge: Gauge) -> Self {
        worker.registry.count(event);
        worker.registry.add(gauge, 1);
        Self { worker, gauge }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.worker.registry.add(self.gauge, -1);
    }
}
