//! One attempt: a connection (pooled or new), the request's head and body, the answer's head. Whether there is another
//! one is `attempt.rs`'s matter, what becomes of the answer `carry.rs`'s.

use std::net::SocketAddr;
use std::rc::Rc;

use meshwork_core::policy::ConnectPolicy;
use meshwork_core::retry::{Outcome, Repeat};
use meshwork_core::{Instant, filter};
use meshwork_http::h2::Certainty;
use meshwork_http::{BodyLength, Head, websocket};

use super::deadline::{Deadline, Span};
use super::plan::{Plan, Speaks, Upgrade};
use super::relay::{Broken, Relay, RequestBody};
use super::{Downstream, Pieces};
use crate::alpn::ALPN_HTTP1;
use crate::connect;
use crate::destination::BackendTls;
use crate::exchange::{Exchange, ReceiveError};
use crate::failure::Failure;
use crate::limits::Account;
use crate::outliers::Trial;
use crate::pool::Key;
use crate::ways::{self, Age, Way};
use crate::worker::Worker;

/// Where one attempt goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) speaks: Speaks,
    pub(crate) connect: ConnectPolicy,
    /// Whose limits hold for it; `None`: it is no endpoint of a service.
    pub(crate) account: Option<Account<'a>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// To a sidecar, whose certificate is checked.
    Mesh(SocketAddr, &'a BackendTls),
    /// To an endpoint without a sidecar, or a host outside the mesh.
    Clear(SocketAddr),
    /// To the local application.
    Application(u16),
}

/// What becomes of a request that may be repeated and broke on a connection that had stood for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Sent once more, to the same place: there is no other.
    Resent,
    /// A try that failed like others: the next one is elsewhere, and of the budget.
    Failed,
}

/// An endpoint whose answer's head has come.
pub(super) struct Open<'a> {
    pub(super) exchange: Exchange,
    pub(super) from_sidecar: bool,
    /// At an endpoint of a service, as opposed to the application or a host outside.
    pub(super) trial: Option<Trial<'a>>,
    pub(super) target: Target<'a>,
    /// When it was asked: a connection that had to be made first says nothing of how fast it answers, and would keep
    /// newcomers out for as long as a peak takes to fade.
    pub(super) sent: Instant,
    /// When the rest of the answer must have come.
    pub(super) deadline: Option<Deadline>,
}

/// Why there is no answer, and what is known of the request.
pub(super) type Failed = (Failure, Outcome);

/// One attempt: up to the answer's head, which is in `down.response` then.
///
/// A connection that stood already may be closed by the other end just as it is used. A request that may be
/// repeated here, or that was certainly not processed, is then sent once more on a new connection, as every HTTP
/// client does (RFC 9112, 9.3.1); others got a connection that is too fresh for that.
pub(super) async fn send<'a>(
    down: &mut Downstream,
    target: Target<'a>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    stale: Stale,
    worker: &Rc<Worker>,
) -> Result<Open<'a>, Failed> {
    let unreached = |failure| (failure, Outcome::Unreached);
    let target = target.as_learned(worker);
    let (exchange, age) = open(target, plan, worker).await.map_err(unreached)?;
    let sent = send_on(exchange, down, target, plan, body, worker).await;
    let again = match &sent {
        Err((failure, outcome)) if body.is_replayable() => {
            let is_idempotent = plan.call.repeat == Repeat::Idempotent;
            let may_resend = *outcome == Outcome::NotProcessed || stale == Stale::Resent && is_idempotent;
            if failure.is_http1() {
                // Nobody had said what it speaks, and its client's version was a guess.
                tracing::info!(%failure, "spoken to in HTTP/1 from now on");
                worker.only_http1.borrow_mut().remember(&target.key(), worker.now());
                Some(Target { speaks: Speaks::Http1, ..target })
            } else if age == Age::Pooled && may_resend && is_stale(failure) {
                tracing::debug!(%failure, "a pooled connection was stale");
                Some(target)
            } else {
                None
            }
        }
        Ok(_) | Err(_) => None,
    };
    let Some(target) = again else { return sent };
    body.rewind();
    let exchange = open_new(target, worker).await.map_err(unreached)?;
    send_on(exchange, down, target, plan, body, worker).await
}

/// The connection's end, as opposed to the peer's word on this request.
fn is_stale(failure: &Failure) -> bool {
    match failure {
        Failure::Reset { source, .. } | Failure::AppReset { source, .. } => match source {
            ReceiveError::Conn(_) => true,
            ReceiveError::Http2(broken) => broken.is_of_connection(),
            ReceiveError::Http1(_) | ReceiveError::WebSocket => false,
        },
        _ => false,
    }
}

async fn send_on<'a>(
    mut exchange: Exchange,
    down: &mut Downstream,
    target: Target<'a>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Worker,
) -> Result<Open<'a>, Failed> {
    let sent = worker.now();
    start(down, &mut exchange, target, plan, body, worker);
    let mut relay = Relay {
        down,
        up: &mut exchange,
        body,
        trailers: Head::default(),
        drain: plan.drain,
        pieces: Pieces::None,
    };
    if let Err(broken) = relay.head().await {
        return Err(failed(broken, target));
    }
    let from_sidecar = matches!(target.place, Place::Mesh(..));
    Ok(Open { exchange, from_sidecar, trial: None, target, sent, deadline: None })
}

/// A way that stands, if there is one, else a new one.
async fn open(target: Target<'_>, plan: &Plan<'_>, worker: &Rc<Worker>) -> Result<(Exchange, Age), Failure> {
    if target.speaks == Speaks::Http2 {
        let (stream, age) =
            ways::stream(target.key(), || target.way(), target.connect, target.account, worker).await?;
        let is_for_http1 = plan.upgrade == Upgrade::WebSocket
            && matches!(target.place, Place::Application(_))
            && !stream.takes_connect_protocol().await;
        if !is_for_http1 {
            return Ok((Exchange::Http2(stream), age));
        }
        let http1 = Target { speaks: Speaks::Http1, ..target };
        return open_new(http1, worker).await.map(|exchange| (exchange, Age::New));
    }
    let pooled = worker.pool.borrow_mut().take(target.key(), plan.call.repeat, worker.now());
    match pooled {
        Some(http1) => Ok((Exchange::Http1(http1), Age::Pooled)),
        None => open_new(target, worker).await.map(|exchange| (exchange, Age::New)),
    }
}

/// After a pooled connection failed. Of HTTP/2 connections the failed one is out of the pool by now.
async fn open_new(target: Target<'_>, worker: &Rc<Worker>) -> Result<Exchange, Failure> {
    if target.speaks == Speaks::Http2 {
        let (stream, _) =
            ways::stream(target.key(), || target.way(), target.connect, target.account, worker).await?;
        return Ok(Exchange::Http2(stream));
    }
    let patience = target.connect.timeout;
    let _waiting = target.account.map(|account| account.wait(worker)).transpose()?;
    let counted = target.account.map(|account| account.connect(worker)).transpose()?;
    let mut conn = match target.place {
        Place::Mesh(address, tls) => connect::mtls(address, tls, ALPN_HTTP1, patience, worker).await?,
        Place::Clear(address) => connect::plain(address, patience, worker).await?,
        Place::Application(port) => connect::application(port, worker).await?,
    };
    if let Some(counted) = counted {
        conn.count(counted);
    }
    Ok(Exchange::to_endpoint(conn))
}

impl<'a> Target<'a> {
    /// HTTP/1 to whom was found out to speak nothing else.
    fn as_learned(self, worker: &Worker) -> Target<'a> {
        let is_guess = self.speaks == Speaks::Http2 && !matches!(self.place, Place::Mesh(..));
        if is_guess && worker.only_http1.borrow().is_known(&self.key(), worker.now()) {
            return Target { speaks: Speaks::Http1, ..self };
        }
        self
    }

    pub(super) fn key(self) -> Key {
        match self.place {
            Place::Mesh(address, tls) => Key { address, tls: tls.id },
            Place::Clear(address) => Key { address, tls: 0 },
            Place::Application(port) => Key { address: connect::loopback(port), tls: 0 },
        }
    }

    fn way(self) -> Way {
        match self.place {
            Place::Mesh(address, tls) => Way::Mesh(address, tls.clone()),
            Place::Clear(address) => Way::Clear(address),
            Place::Application(port) => Way::Application(port),
        }
    }
}

/// Sends the request's head.
fn start(
    down: &mut Downstream,
    up: &mut Exchange,
    target: Target<'_>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Worker,
) {
    match (target.place, plan.application) {
        (Place::Mesh(..), Speaks::Http2) => down.request.set(filter::APPLICATION_HTTP, b"2"),
        // After a try that went to a sidecar.
        (Place::Clear(_), Speaks::Http2) => down.request.remove(filter::APPLICATION_HTTP),
        (Place::Application(_), _) | (_, Speaks::Http1) => {}
    }
    match (plan.upgrade, &mut *up) {
        (Upgrade::WebSocket, Exchange::Http1(_)) => {
            if websocket::is_extended_connect(&down.request) {
                websocket::to_http1(&mut down.request, &super::websocket::key(worker.random_wide()));
            }
            body.hold();
            up.send_request(&down.request, BodyLength::None, true);
        }
        (Upgrade::No | Upgrade::Http1 | Upgrade::WebSocket, _) => {
            up.send_request(&down.request, body.length(), body.is_over());
        }
    }
    if plan.upgrade != Upgrade::No
        && let Exchange::Http1(http1) = up
    {
        http1.receiver.expect_upgrade();
    }
}

pub(super) fn failed(broken: Broken, target: Target<'_>) -> Failed {
    let is_certain = match &broken {
        Broken::Upstream(ReceiveError::Http2(broken)) => broken.certainty() == Certainty::NotProcessed,
        Broken::Upstream(_) | Broken::Client | Broken::Request(_) | Broken::TimeUp | Broken::TooLate(_) => {
            false
        }
    };
    let is_upstream = matches!(broken, Broken::Upstream(_) | Broken::TooLate(_));
    let failure = failure_of(broken, target);
    let outcome = match is_certain {
        true => Outcome::NotProcessed,
        false => Outcome::Unknown(failure.cause().filter(|_| is_upstream)),
    };
    (failure, outcome)
}

fn too_late(deadline: Deadline, target: Target<'_>) -> Failure {
    let limit = deadline.limit;
    match deadline.span {
        Span::Request => Failure::TooLong { limit },
        Span::Call => Failure::CallTooLong { limit },
        Span::Try => Failure::TryTooLong { endpoint: target.key().address, limit },
    }
}

/// A request's broken way, as a sentence.
pub(super) fn failure_of(broken: Broken, target: Target<'_>) -> Failure {
    let source = match broken {
        Broken::Client => return Failure::ClientGone,
        Broken::TimeUp => return Failure::TimeUp,
        Broken::Request(error) => return Failure::BadRequest(error),
        Broken::TooLate(deadline) => return too_late(deadline, target),
        Broken::Upstream(source) => source,
    };
    match (target.place, source.is_protocol()) {
        (Place::Application(port), false) => Failure::AppReset { port, source },
        (Place::Application(port), true) => Failure::AppProtocol { port, source },
        (Place::Mesh(endpoint, _) | Place::Clear(endpoint), false) => Failure::Reset { endpoint, source },
        (Place::Mesh(endpoint, _) | Place::Clear(endpoint), true) => Failure::Protocol { endpoint, source },
    }
}
