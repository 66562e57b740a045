//! Tries endpoints until one answers, where trying again is safe; then carries the answer.
//!
//! What may be tried again is `core::retry`'s decision, which endpoint `core::balance`'s. An attempt is:
//! a connection (pooled or new), the request's head and body, the answer's head.

use std::net::SocketAddr;

use meshwork_core::balance::{PEAK_EWMA_FAILURE, Tried};
use meshwork_core::cause::{Cause, Certainty as Proof};
use meshwork_core::filter;
use meshwork_core::model::{HeaderModifier, Transport};
use meshwork_core::retry::{Next, Outcome, Replay, next};
use meshwork_http::forward::{self, ProxyAuthentication};
use meshwork_http::h1::{BodyLength, RequestMethod};
use meshwork_http::{Head, Known, Version};
use tokio::time::timeout;

use super::record::Record;
use super::relay::{Broken, Ended, Relay, RequestBody};
use super::{After, Downstream, LINGER_TIME};
use crate::destination::{Backend, BackendTls, Member};
use crate::exchange::{Exchange, Key};
use crate::failure::{Certainty, Failure};
use crate::live::ALPN_HTTP1;
use crate::telemetry::Event;
use crate::worker::Worker;
use crate::{connect, tcp};

/// Where one attempt goes.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// To a sidecar, whose certificate is checked.
    Mesh(SocketAddr, &'a BackendTls),
    /// To an endpoint without a sidecar, or a host outside the mesh.
    Clear(SocketAddr),
    /// To the local application.
    Application(u16),
}

/// What was found out about the request before anything was sent.
pub(crate) struct Plan<'a> {
    pub(crate) upgrade: bool,
    pub(crate) expects_continue: bool,
    pub(crate) response_headers: Option<&'a HeaderModifier>,
    /// The connection may go on after this request.
    pub(crate) keep_alive: bool,
}

/// A request to a service: endpoints are tried until one answers.
pub(crate) async fn balanced(
    down: &mut Downstream,
    backend: &Backend,
    plan: &Plan<'_>,
    record: &mut Record,
    worker: &Worker,
) -> Result<After, Failure> {
    let mut body = RequestBody::new();
    let mut tried = Tried::default();
    let choose = |tried| backend.choose(tried, worker.random(), worker.now());
    let (mut index, mut member) = choose(tried).ok_or_else(|| no_endpoint(backend))?;
    loop {
        record.tries += 1;
        record.endpoint = Some(member.endpoint.address);
        let sent = try_member(down, backend, member, plan, &mut body, worker).await;
        let (failure, certainty) = match sent {
            Ok(open) => return carry(down, open, plan, &mut body, record, worker).await,
            Err(failed) => failed,
        };
        let outcome = match certainty {
            Certainty::NotProcessed => Outcome::NotProcessed,
            Certainty::Unknown => Outcome::Unknown,
        };
        let replay = if body.is_replayable() { Replay::Possible } else { Replay::Spent };
        tried.add(index);
        let other = match next(outcome, record.tries, replay) {
            Next::Retry => choose(tried),
            Next::Return => None,
        };
        let Some(other) = other else { return Err(failure) };
        tracing::debug!(%failure, "another endpoint is tried");
        worker.registry.count(Event::SecondTry);
        body.rewind();
        (index, member) = other;
    }
}

/// A request that has one place to go: the application, or a host outside the mesh.
pub(crate) async fn direct(
    down: &mut Downstream,
    target: Target<'_>,
    plan: &Plan<'_>,
    record: &mut Record,
    worker: &Worker,
) -> Result<After, Failure> {
    let mut body = RequestBody::new();
    record.tries += 1;
    match send(down, target, plan, &mut body, worker).await {
        Ok(open) => carry(down, open, plan, &mut body, record, worker).await,
        Err((failure, _)) => Err(failure),
    }
}

fn no_endpoint(backend: &Backend) -> Failure {
    Failure::NoEndpoint { service: backend.cluster.name.to_string(), known: backend.members.len() }
}

async fn try_member<'a>(
    down: &mut Downstream,
    backend: &'a Backend,
    member: &'a Member,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Worker,
) -> Result<Open<'a>, (Failure, Certainty)> {
    let address = member.endpoint.address;
    let target = match (best(&member.endpoint.transports), &backend.tls) {
        (Some(Transport::Plaintext), _) => Target::Clear(address),
        (Some(_), Some(tls)) => Target::Mesh(address, tls),
        (Some(_), None) | (None, _) => {
            return Err((Failure::NoTransport { endpoint: address }, Certainty::NotProcessed));
        }
    };
    let started = worker.now();
    let outstanding = member.state.begin();
    let sent = send(down, target, plan, body, worker).await;
    let now = worker.now();
    match sent {
        Ok(mut open) => {
            member.state.observe(now.since(started), now);
            open.outstanding = Some(outstanding);
            Ok(open)
        }
        Err(failed) => {
            if failed.0.cause().is_some() {
                member.state.observe(PEAK_EWMA_FAILURE, now);
            }
            Err(failed)
        }
    }
}

/// The best transport that carries HTTP and is spoken here.
fn best(transports: &[Transport]) -> Option<Transport> {
    let spoken = |transport: &Transport| matches!(transport, Transport::MtlsHttp1 | Transport::Plaintext);
    transports.iter().copied().find(spoken)
}

/// An endpoint whose answer's head has come.
pub(crate) struct Open<'a> {
    exchange: Exchange,
    from_sidecar: bool,
    outstanding: Option<crate::endpoints::Outstanding<'a>>,
    target: Target<'a>,
}

/// One attempt: up to the answer's head, which is in `down.response` then.
///
/// A pooled connection may be closed by the other end just as it is used. A request that may be repeated
/// is then sent once more on a new connection, as every HTTP client does (RFC 9112, 9.3.1); others got a
/// connection that is too fresh for that.
async fn send<'a>(
    down: &mut Downstream,
    target: Target<'a>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Worker,
) -> Result<Open<'a>, (Failure, Certainty)> {
    let repeatable = is_repeatable(down.request.method());
    let pooled = worker.pool.borrow_mut().take(target.key(), repeatable, worker.now());
    if let Some(exchange) = pooled {
        match send_on(exchange, down, target, plan, body).await {
            Err((Failure::Reset { .. } | Failure::AppReset { .. }, _))
                if repeatable && body.is_replayable() =>
            {
                body.rewind()
            }
            sent => return sent,
        }
    }
    let exchange = connect(target, worker).await.map_err(|failure| (failure, Certainty::NotProcessed))?;
    send_on(exchange, down, target, plan, body).await
}

async fn send_on<'a>(
    mut exchange: Exchange,
    down: &mut Downstream,
    target: Target<'a>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
) -> Result<Open<'a>, (Failure, Certainty)> {
    start(down, &mut exchange, plan);
    let mut relay = Relay { down, up: &mut exchange, body, trailers: Head::default() };
    if let Err(broken) = relay.head().await {
        return Err((failure_of(broken, target), Certainty::Unknown));
    }
    let from_sidecar = matches!(target, Target::Mesh(..));
    if from_sidecar && let Some(failure) = refused_by_peer(&down.response, target, body) {
        return Err((failure, Certainty::NotProcessed));
    }
    Ok(Open { exchange, from_sidecar, outstanding: None, target })
}

async fn connect(target: Target<'_>, worker: &Worker) -> Result<Exchange, Failure> {
    let conn = match target {
        Target::Mesh(address, tls) => connect::mtls(address, tls, ALPN_HTTP1, worker).await?,
        Target::Clear(address) => connect::plain(address, worker).await?,
        Target::Application(port) => connect::application(port, worker).await?,
    };
    Ok(Exchange::new(conn, target.key()))
}

impl Target<'_> {
    fn key(self) -> Key {
        match self {
            Self::Mesh(address, tls) => Key { address, tls: tls.id },
            Self::Clear(address) => Key { address, tls: 0 },
            Self::Application(port) => Key { address: connect::loopback(port), tls: 0 },
        }
    }
}

/// RFC 9110, 9.2.2.
fn is_repeatable(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Writes the request's head into the endpoint's output.
fn start(down: &Downstream, exchange: &mut Exchange, plan: &Plan<'_>) {
    exchange.receiver.expect_response_to(RequestMethod::from(down.request.method()));
    if plan.upgrade {
        exchange.receiver.expect_upgrade();
    }
    let length = match down.receiver.body_length() {
        BodyLength::UntilClose => BodyLength::None, // no request has this
        length => length,
    };
    let written = exchange.sender.request(&down.request, length, exchange.conn.output());
    debug_assert!(written.is_ok(), "a pooled connection in the middle of a request");
}

/// The peer's sidecar itself answered, and says that its application saw nothing. If the request can go
/// elsewhere, the client need not hear of it. Only a verified peer is believed.
fn refused_by_peer(response: &Head, target: Target<'_>, body: &RequestBody) -> Option<Failure> {
    let Target::Mesh(endpoint, _) = target else { return None };
    let cause = Cause::find(response.get(Known::XMeshworkCause)?)?;
    let safe = cause.certainty() == Proof::NotProcessed && body.is_replayable();
    safe.then_some(Failure::PeerRefused { endpoint, cause })
}

fn failure_of(broken: Broken, target: Target<'_>) -> Failure {
    match (broken, target) {
        (Broken::Client, _) => Failure::ClientGone,
        (Broken::Request(error), _) => Failure::BadRequest(error),
        (Broken::Upstream(source), Target::Application(port)) => Failure::AppReset { port, source },
        (Broken::Protocol(source), Target::Application(port)) => Failure::AppProtocol { port, source },
        (Broken::Upstream(source), Target::Mesh(endpoint, _) | Target::Clear(endpoint)) => {
            Failure::Reset { endpoint, source }
        }
        (Broken::Protocol(source), Target::Mesh(endpoint, _) | Target::Clear(endpoint)) => {
            Failure::Protocol { endpoint, source }
        }
    }
}

/// Passes the answer on: head, body, and what follows an upgrade.
async fn carry(
    down: &mut Downstream,
    open: Open<'_>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    record: &mut Record,
    worker: &Worker,
) -> Result<After, Failure> {
    let Open { mut exchange, from_sidecar, outstanding: _outstanding, target } = open;
    record.status = Some(down.response.status());
    let mut relay = Relay { down, up: &mut exchange, body, trailers: Head::default() };
    begin_answer(&mut relay, from_sidecar, plan, record);
    match relay.body().await {
        Ok(Ended::Message) => record.answered(&down.response), // trailers, or a head that was all
        Ok(Ended::Upgraded) => return Ok(upgraded(down, exchange).await),
        Err(Broken::Client) => {
            record.status = None;
            return Ok(After::Gone);
        }
        Err(broken) => {
            // The head is out: all that is left to say is that the answer is not whole.
            let failure = failure_of(broken, target);
            tracing::debug!(%failure, "the answer broke off");
            record.cause = failure.cause();
            record.error = Some(failure.to_string());
            break_off(down).await;
            return Ok(After::Gone);
        }
    }
    let whole = body.is_ended();
    if whole && exchange.receiver.keep_alive() && !exchange.conn.is_ended() && exchange.conn.unsent() == 0 {
        worker.pool.borrow_mut().put(exchange, worker.now());
    }
    Ok(if whole && down.sender.keep_alive() { After::NextRequest } else { After::Close })
}

/// What came of the answer still goes out, as a client that sees none of it may take its request for
/// unread. To HTTP/1.0 the connection's end would be the body's, so it must break.
async fn break_off(down: &mut Downstream) {
    let _ = timeout(LINGER_TIME, down.conn.flush()).await;
    if down.to.version < Version::Http11 {
        down.conn.abort();
    }
}

/// Writes the answer's head into the client's output.
fn begin_answer(relay: &mut Relay<'_>, from_sidecar: bool, plan: &Plan<'_>, record: &mut Record) {
    let length = relay.up.receiver.body_length();
    let refused = !relay.up.receiver.keep_alive() && relay.down.response.status().class() >= 4;
    if refused || relay.body_is_uncertain(plan.expects_continue) {
        relay.abandon_request();
    }
    let keep_alive = plan.keep_alive && !relay.body.is_abandoned();
    let Downstream { conn, sender, response, to, receiver, .. } = &mut *relay.down;
    forward::response(response, ProxyAuthentication::Remove);
    if from_sidecar {
        record.cause = response.get(Known::XMeshworkCause).and_then(Cause::find);
    } else {
        filter::strip_own(response);
    }
    if let Some(modifier) = plan.response_headers {
        filter::apply(modifier, response);
    }
    if plan.upgrade && response.status() == meshwork_http::StatusCode::SWITCHING_PROTOCOLS {
        receiver.switch_to_opaque();
    }
    let written = sender.response(response, length, *to, keep_alive, conn.output());
    debug_assert!(written.is_ok(), "an answer between two messages");
}

/// WebSocket and whatever else: bytes both ways until both ends have said all.
async fn upgraded(down: &mut Downstream, mut exchange: Exchange) -> After {
    if let Err(error) = tcp::splice(&mut down.conn, &mut exchange.conn).await {
        tracing::debug!(%error, "an upgraded connection broke off");
    }
    After::Gone
}
