//! HTTP: requests of a connection, or of a stream, one after the other, each decided, tried, answered, recorded.
//!
//! | file | stage |
//! |---|---|
//! | `mod.rs` | a connection's life: read a request's head, handle it, go on or end |
//! | `request.rs` | who is asked, may they, which rule: a request's story |
//! | `plan.rs` | what is known of it before anything is sent |
//! | `attempt.rs` | which endpoint, a way to it, and again where that is safe |
//! | `carry.rs` | what becomes of an answer |
//! | `deadline.rs` | until when it must be over |
//! | `relay.rs` | both bodies at once, piece by piece |
//! | `farewell.rs` | the end of what still runs when a drain's time is up |
//! | `respond.rs` | the answers that the mesh makes itself |
//! | `websocket.rs` | WebSocket of HTTP/2 to an application that speaks HTTP/1 |
//! | `record.rs` | what is counted and logged of a request |

mod attempt;
mod carry;
mod deadline;
mod farewell;
mod passthrough;
mod plan;
mod record;
mod relay;
mod request;
mod respond;
mod send;
mod websocket;

pub(crate) use farewell::{Conversation, Pieces};
pub(crate) use plan::Speaks;
pub(crate) use request::{Lead, find, first_answer};
pub(crate) use respond::{accept_tunnel, refuse_tunnel};

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::discover::Destination;
use meshwork_core::model::AppProtocol;
use meshwork_http::h1::{self, RequestMethod, ResponseTo};
use meshwork_http::{Head, Version};
use tokio::time::{Sleep, sleep, timeout, timeout_at};
use tokio_util::sync::WaitForCancellationFuture;

use crate::clients::Client;
use crate::clock::WorkerClock;
use crate::conn::{Conn, ConnError, Filled};
use crate::drain::Drain;
use crate::exchange::{Exchange, Http1, Step};
use crate::failure::Failure;
use crate::live::Snapshot;
use crate::mux::Stream;
use crate::telemetry::LabelId;
use crate::worker::Worker;

/// From a head's first byte to its last. Slow mobile networks need seconds; whoever needs longer is
/// holding the connection open on purpose.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The connection's first request must begin, and a kept-alive one's next, within this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A connection between two requests that is told to go waits so long for one that is on its way. Sidecars send
/// what may not be repeated only where the last answer came less than a second ago (`pool.rs::FRESH`).
const LAST_CALL: Duration = Duration::from_millis(1_500);

/// After an answer that ends the connection: how long and how much is still read, so that what the
/// client is sending does not destroy the answer on its way (RFC 9112, 9.6).
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// On whose behalf requests on a connection are handled.
pub(crate) enum Role {
    Outbound(Outbound),
    Inbound(Inbound),
}

impl Role {
    pub(crate) fn drain<'a>(&self, worker: &'a Worker) -> &'a Drain {
        match self {
            Self::Outbound(_) => &worker.drains.outbound,
            Self::Inbound(_) => &worker.drains.inbound,
        }
    }
}

/// From the local application.
pub(crate) enum Outbound {
    /// The HTTP proxy port: the request says where it goes.
    Proxy,
    /// A tunnel or a local port that leads to one service, `cart:80`; `Host` is only carried along.
    Fixed(Destination<'static>),
    /// Rules redirected the connection on its way to this address: a request whose authority names a service of the mesh
    /// goes there, any other to the address.
    Captured(SocketAddr),
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy => f.write_str("the HTTP proxy port"),
            Self::Fixed(destination) => destination.fmt(f),
            Self::Captured(original) => original.fmt(f),
        }
    }
}

/// From the mesh.
pub(crate) struct Inbound {
    /// `x-forwarded-client-cert` that tells the application; `None`: nobody knows who it is.
    pub(crate) client_cert: Option<String>,
    pub(crate) app_port: u16,
    /// The port is none that was declared, and is reached where its client went: what listens on loopback only is not
    /// opened to others.
    pub(crate) undeclared: Option<SocketAddr>,
    /// What the application speaks, as this sidecar was told at its start and has registered.
    pub(crate) registered: Option<AppProtocol>,
    pub(crate) labels: LabelId,
    pub(crate) admission: Admission,
}

/// Whether a connection's requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Open,
    /// It came when the workload was draining already: its client goes elsewhere, and can be told so.
    Draining,
}

impl Inbound {
    /// What the application speaks; `None`: nobody said. The control plane's word goes first, because an
    /// operator's goes before the registration's there, and callers were told the same.
    pub(crate) fn hint(&self, snapshot: &Snapshot) -> Option<AppProtocol> {
        let mut ports = snapshot.inbound.iter().flat_map(|inbound| &inbound.ports);
        let told = ports.find(|port| port.app_port == self.app_port).and_then(|port| port.hint);
        told.or(self.registered)
    }
}

/// How a connection's HTTP ended.
pub(crate) enum Served {
    Ended,
    /// CONNECT was asked for and nothing answered yet: the bytes that follow are for this destination.
    Tunnel(Box<Conn>, Destination<'static>),
}

/// The side that sends requests.
pub(crate) struct Downstream {
    pub(crate) exchange: Exchange,
    pub(crate) request: Head,
    pub(crate) response: Head,
    /// What the response must know of the request.
    pub(crate) to: ResponseTo,
}

/// What follows a handled request.
pub(crate) enum After {
    NextRequest,
    /// The answer is out, the connection ends.
    Close,
    /// The client is gone, or was told in a way that leaves nothing to say.
    Gone,
    Tunnel(Destination<'static>),
}

/// Serves a connection's requests one after the other until it ends. A drain ends it between two.
pub(crate) async fn serve(conn: Conn, role: &Role, worker: &Rc<Worker>) -> Served {
    let mut idle = pin!(sleep(idle_max(&conn, worker.now())));
    let mut down = Box::new(Downstream::new(Exchange::to_client(conn)));
    let drain = role.drain(worker);
    let mut told = pin!(drain.finishing());
    let mut time_up = pin!(drain.time_up());
    // Polled once, to wake this task: what runs then looks at the stage.
    poll_fn(|cx| {
        let _ = time_up.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    let client = Rc::<Client>::default();
    let _entered = worker.clients.enter(&client);
    loop {
        let Some(next) = client.idle(down.next_request(idle.as_mut(), told.as_mut(), worker)).await else {
            if down.exchange.input().is_empty() {
                break; // dismissed: others need the room
            }
            continue; // a request has begun
        };
        match next {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => {
                respond::refuse(&mut down, &failure, role, worker).await;
                down.linger().await;
                break;
            }
        }
        match request::handle(&mut down, role, worker).await {
            After::NextRequest if down.is_outdated(worker.now()) => break,
            After::NextRequest => {}
            After::Close => {
                down.linger().await;
                break;
            }
            After::Gone => return Served::Ended,
            After::Tunnel(destination) => match down.exchange {
                Exchange::Http1(http1) => return Served::Tunnel(Box::new(http1.conn), destination),
                Exchange::Http2(_) => return Served::Ended,
            },
        }
    }
    // A client that is gone already has no use for our farewell.
    if let Exchange::Http1(http1) = &mut down.exchange {
        let _ = timeout(LINGER_TIME, http1.conn.shutdown()).await;
    }
    Served::Ended
}

/// Serves streams of one connection, one after the other; ends when enough others wait for the next one.
pub(crate) async fn serve_streams(stream: Stream, role: Rc<Role>, worker: Rc<Worker>) {
    let mut down = Box::new(Downstream::new(Exchange::Http2(stream)));
    loop {
        if down.begin_stream().await {
            match (request::handle(&mut down, &role, &worker).await, &*role) {
                (After::NextRequest | After::Close, Role::Outbound(_)) => down.linger().await,
                // Another sidecar takes an early answer, and tells its client to stop.
                (After::NextRequest | After::Close, Role::Inbound(_)) => {}
                (After::Gone | After::Tunnel(_), _) => {}
            }
        }
        let Exchange::Http2(stream) = &mut down.exchange else { return };
        if !stream.next().await {
            return;
        }
    }
}

/// How long a request may take to begin.
fn idle_max(conn: &Conn, now: Instant) -> Duration {
    conn.proven_for(now).map_or(IDLE_TIMEOUT, |left| left.min(IDLE_TIMEOUT))
}

/// Waits for a request to begin; `None`: it is no longer waited for.
async fn first_bytes(
    conn: &mut Conn,
    idle: Pin<&mut Sleep>,
    told: Pin<&mut WaitForCancellationFuture<'_>>,
    worker: &Worker,
) -> Option<Result<Filled, ConnError>> {
    let now = worker.now();
    let until = now + idle_max(conn, now);
    tokio::select! {
        biased;
        filled = conn.fill() => Some(filled),
        () = idle_until(until, idle, &worker.clock) => None,
        () = told => timeout(LAST_CALL, conn.fill()).await.ok(),
    }
}

/// Waits until then with a timer that was set for that moment or an earlier one. It is set anew only when it has run out:
/// nearly every request begins long before, and to set a timer for each costs more than to look at one.
async fn idle_until(until: Instant, mut timer: Pin<&mut Sleep>, clock: &WorkerClock) {
    loop {
        timer.as_mut().await;
        let left = until.since(clock.now());
        if left.is_zero() {
            return;
        }
        timer.as_mut().reset(tokio::time::Instant::now() + left);
    }
}

impl Downstream {
    fn new(exchange: Exchange) -> Self {
        Self {
            exchange,
            request: Head::default(),
            response: Head::default(),
            to: ResponseTo { method: RequestMethod::Other, version: Version::Http11 },
        }
    }

    /// Takes the head that opened a stream; `false`: its client gave it up already.
    async fn begin_stream(&mut self) -> bool {
        let Self { exchange, request, .. } = self;
        let step = poll_fn(|cx| exchange.poll_step(request, cx)).await;
        self.to = ResponseTo::of(&self.request);
        matches!(step, Ok(Step::Head))
    }

    /// A certificate that the connection was opened with has ended.
    fn is_outdated(&self, now: Instant) -> bool {
        matches!(&self.exchange, Exchange::Http1(http1) if http1.conn.is_outdated(now))
    }

    /// Reads a request's head; `false`: the connection ended, or is to end, between two requests.
    async fn next_request(
        &mut self,
        mut idle: Pin<&mut Sleep>,
        mut told: Pin<&mut WaitForCancellationFuture<'_>>,
        worker: &Worker,
    ) -> Result<bool, Failure> {
        let Exchange::Http1(http1) = &mut self.exchange else { return Ok(false) };
        let Http1 { conn, receiver, .. } = &mut **http1;
        receiver.next_message();
        let mut head_end = None;
        loop {
            match receiver.advance(conn.input(), &mut self.request).map_err(Failure::bad_request)? {
                h1::Step::Head { consumed } => {
                    conn.consume(consumed);
                    self.to = ResponseTo::of(&self.request);
                    return Ok(true);
                }
                h1::Step::NeedMore { consumed } => conn.consume(consumed),
                // Before a head there is nothing else.
                h1::Step::Data { .. }
                | h1::Step::Trailers { .. }
                | h1::Step::End { .. }
                | h1::Step::Upgraded { .. } => return Ok(false),
            }
            let within = !conn.input().is_empty();
            let filled = if within {
                // Set once: who sends a byte now and then gains no time by it.
                let end = *head_end.get_or_insert_with(|| tokio::time::Instant::now() + HEAD_TIMEOUT);
                let filled = timeout_at(end, conn.fill()).await;
                filled.map_err(|_| Failure::HeadTimeout(HEAD_TIMEOUT.as_secs()))?
            } else {
                let first = first_bytes(conn, idle.as_mut(), told.as_mut(), worker).await;
                first.unwrap_or(Ok(Filled::End))
            };
            match filled {
                Ok(Filled::More) => {}
                Ok(Filled::End) if within => {
                    receiver.end_of_input(conn.input().len()).map_err(Failure::bad_request)?;
                    return Ok(false);
                }
                Ok(Filled::End) | Err(_) => return Ok(false),
            }
        }
    }

    /// Half-closes and reads on for a moment, so that a reset does not overtake the answer.
    async fn linger(&mut self) {
        let http1 = match &mut self.exchange {
            Exchange::Http1(http1) => http1,
            Exchange::Http2(_) => return self.linger_on_stream().await,
        };
        let Http1 { conn, .. } = &mut **http1;
        let linger = async {
            conn.shutdown().await?;
            let mut discarded = 0;
            while discarded < LINGER_BYTES && conn.fill().await? == Filled::More {
                discarded += conn.input().len();
                conn.consume(conn.input().len());
            }
            Ok::<(), ConnError>(())
        };
        let _ = timeout(LINGER_TIME, linger).await;
    }
}

impl Downstream {
    /// Takes the rest of a request that was answered early: a client that is reset while it sends may drop
    /// the answer, though RFC 9113, 8.1 forbids it (curl did up to 8.0).
    async fn linger_on_stream(&mut self) {
        let Self { exchange, request, .. } = self;
        let mut discarded = 0;
        let rest = poll_fn(|cx| {
            while discarded < LINGER_BYTES && !exchange.has_ended() {
                match ready!(exchange.poll_step(request, cx)) {
                    Ok(Step::Data { consumed, .. }) => {
                        exchange.consume(consumed);
                        discarded += consumed;
                    }
                    Ok(Step::Trailers) => {}
                    Ok(Step::Head | Step::End | Step::Upgraded | Step::Closed) | Err(_) => break,
                }
            }
            Poll::Ready(())
        });
        let _ = timeout(LINGER_TIME, rest).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meshwork_core::model::MtlsMode;
    use meshwork_core::resource::{Inbound as Told, InboundPort};

    use super::*;
    use crate::clock::Clock;
    use crate::telemetry::{Labels, Registry};

    #[track_caller]
    fn check(
        told: Option<Option<AppProtocol>>,
        registered: Option<AppProtocol>,
        expect: Option<AppProtocol>,
    ) {
        let mut snapshot = Snapshot::default();
        let port = |app_port, hint| InboundPort { app_port, hint, service: None, mtls: MtlsMode::Strict };
        snapshot.inbound = told.map(|hint| {
            let ports = vec![port(9090, Some(AppProtocol::Tcp)), port(8080, hint)];
            Arc::new(Told { name: "default/cart-1".to_owned(), ports, mtls: MtlsMode::Strict })
        });
        let labels = Registry::new("default/cart".to_owned())
            .inbound(&Labels { peer: String::new(), route: String::new() });
        let inbound = Inbound {
            client_cert: None,
            app_port: 8080,
            undeclared: None,
            registered,
            labels,
            admission: Admission::Open,
        };
        assert_eq!(inbound.hint(&snapshot), expect);
    }

    #[tokio::test]
    async fn idleness_is_judged_by_its_last_moment_whenever_the_timer_runs_out() {
        let clock = WorkerClock::new(Clock::start());
        let mut timer = pin!(sleep(Duration::from_millis(1)));
        for later in [20, 10] {
            let until = clock.now() + Duration::from_millis(later);
            idle_until(until, timer.as_mut(), &clock).await;
            assert!(clock.now() >= until, "the timer had run out before");
        }
    }

    #[test]
    fn what_an_application_speaks_is_the_control_planes_word_or_else_the_flags() {
        check(None, None, None);
        check(None, Some(AppProtocol::Http2), Some(AppProtocol::Http2));
        check(Some(None), Some(AppProtocol::Http2), Some(AppProtocol::Http2));
        check(Some(Some(AppProtocol::Grpc)), Some(AppProtocol::Http), Some(AppProtocol::Grpc));
    }
}
