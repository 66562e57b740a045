//! Tries endpoints until one answers, where trying again is safe; then carries the answer.
//!
//! What may be tried again is `core::retry`'s decision, which endpoint `core::balance`'s. An attempt is:
//! a connection (pooled or new), the request's head and body, the answer's head.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use meshwork_core::balance::{PEAK_EWMA_FAILURE, Tried};
use meshwork_core::cause::{Cause, Certainty as Proof};
use meshwork_core::model::{HeaderModifier, Transport};
use meshwork_core::outlier::Finding;
use meshwork_core::retry::{Next, Outcome, Replay, next};
use meshwork_core::{filter, grpc};
use meshwork_http::forward::{self, ProxyAuthentication};
use meshwork_http::h2::{self, ErrorCode};
use meshwork_http::{BodyLength, Head, Known, StatusCode, Version, websocket};
use tokio::time::timeout;

use super::record::Record;
use super::relay::{Broken, Ended, Relay, RequestBody};
use super::{After, Conversation, Downstream, LINGER_TIME, farewell};
use crate::destination::{Backend, BackendTls, Member};
use crate::drain::{Drain, Stage};
use crate::exchange::{Exchange, ReceiveError};
use crate::failure::{Certainty, Failure};
use crate::live::ALPN_HTTP1;
use crate::mux;
use crate::outliers::Trial;
use crate::pool::Key;
use crate::telemetry::Event;
use crate::ways::{self, Age, Way};
use crate::worker::Worker;
use crate::{connect, tcp};

/// Where one attempt goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) speaks: Speaks,
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

/// Which HTTP is spoken on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// Whether the request asks for another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    No,
    /// By `Upgrade`, as HTTP/1 does: WebSocket, or anything else.
    Http1,
    /// By an extended CONNECT of HTTP/2 (RFC 8441): WebSocket.
    WebSocket,
}

/// What was found out about the request before anything was sent.
pub(crate) struct Plan<'a> {
    pub(crate) upgrade: Upgrade,
    pub(crate) expects_continue: bool,
    pub(crate) response_headers: Option<&'a HeaderModifier>,
    /// The connection may go on after this request.
    pub(crate) keep_alive: bool,
    /// What the application at the end of the way speaks, as far as it is known here.
    pub(crate) application: Speaks,
    /// The way out of the direction that the request came from.
    pub(crate) drain: &'a Drain,
}

/// A request to a service: endpoints are tried until one answers.
pub(crate) async fn balanced(
    down: &mut Downstream,
    backend: &Backend,
    plan: &Plan<'_>,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let mut body = RequestBody::of(&down.exchange);
    let mut tried = Tried::default();
    let choose = |tried| backend.choose(tried, worker.random(), worker.now(), &worker.registry);
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
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let mut body = RequestBody::of(&down.exchange);
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
    worker: &Rc<Worker>,
) -> Result<Open<'a>, (Failure, Certainty)> {
    let address = member.endpoint.address;
    let best = best(&member.endpoint.transports, plan);
    let (place, speaks) = match (best, &backend.tls) {
        (Some(Transport::Plaintext), _) => (Place::Clear(address), plan.application),
        (Some(Transport::MtlsHttp2), Some(tls)) => (Place::Mesh(address, tls), Speaks::Http2),
        (Some(Transport::MtlsHttp1), Some(tls)) => (Place::Mesh(address, tls), Speaks::Http1),
        (Some(_), _) | (None, _) => {
            return Err((Failure::NoTransport { endpoint: address }, Certainty::NotProcessed));
        }
    };
    let target = Target { place, speaks };
    let started = worker.now();
    let trial = backend.begin(member);
    let is_call = down.request.method() == "POST" && grpc::is_call(&down.request);
    let mut sent = send(down, target, plan, body, worker).await;
    if let Err((Failure::NotSpoken { .. }, _)) = &sent
        && speaks == Speaks::Http2
        && member.endpoint.transports.contains(&Transport::MtlsHttp1)
    {
        // It was restarted and speaks no HTTP/2 any more; the control plane's word is still on its way.
        sent = send(down, Target { speaks: Speaks::Http1, ..target }, plan, body, worker).await;
    }
    let now = worker.now();
    match sent {
        Ok(mut open) => {
            member.state.observe(now.since(started), now);
            if let Judged::Now(finding) = judge_head(&down.response, open.from_sidecar, is_call) {
                trial.judge(finding, now, &worker.registry);
            }
            open.trial = Some(trial);
            Ok(open)
        }
        Err(failed) => {
            if failed.0.cause().is_some() {
                member.state.observe(PEAK_EWMA_FAILURE, now);
            }
            trial.judge(failed.0.finding(), now, &worker.registry);
            Err(failed)
        }
    }
}

/// What an answer says of its endpoint.
enum Judged {
    /// Its head says it. `None`: somebody else is at fault.
    Now(Option<Finding>),
    /// Well so far; the rest of it tells.
    AtItsEnd,
}

fn judge_head(response: &Head, from_sidecar: bool, is_call: bool) -> Judged {
    if from_sidecar && let Some(cause) = response.get(Known::XMeshworkCause).and_then(Cause::find) {
        return Judged::Now(Finding::of_cause(cause));
    }
    if is_call && let Some(told) = grpc::status(response) {
        return Judged::Now(Some(Finding::of_grpc(told)));
    }
    match Finding::of_status(response.status()) {
        Finding::Success => Judged::AtItsEnd,
        failure => Judged::Now(Some(failure)),
    }
}

/// The best transport that carries the request and is spoken here. An upgrade gets a connection of its own.
fn best(transports: &[Transport], plan: &Plan<'_>) -> Option<Transport> {
    let spoken = |transport: &Transport| match transport {
        Transport::MtlsHttp2 => plan.upgrade != Upgrade::Http1,
        Transport::MtlsHttp1 | Transport::Plaintext => true,
        Transport::MtlsTcp => false,
    };
    transports.iter().copied().find(spoken)
}

/// An endpoint whose answer's head has come.
pub(crate) struct Open<'a> {
    exchange: Exchange,
    from_sidecar: bool,
    /// At an endpoint of a service, as opposed to the application or a host outside.
    trial: Option<Trial<'a>>,
    target: Target<'a>,
}

/// One attempt: up to the answer's head, which is in `down.response` then.
///
/// A connection that stood already may be closed by the other end just as it is used. A request that may be
/// repeated, or that was certainly not processed, is then sent once more on a new connection, as every HTTP
/// client does (RFC 9112, 9.3.1); others got a connection that is too fresh for that.
async fn send<'a>(
    down: &mut Downstream,
    target: Target<'a>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Rc<Worker>,
) -> Result<Open<'a>, (Failure, Certainty)> {
    let repeatable = is_repeatable(down.request.method());
    let unsent = |failure| (failure, Certainty::NotProcessed);
    let target = target.as_learned(worker);
    let (exchange, age) = open(target, plan, repeatable, worker).await.map_err(unsent)?;
    let sent = send_on(exchange, down, target, plan, body, worker).await;
    let again = match &sent {
        Err((failure, certainty)) if body.is_replayable() => {
            let repeatable = repeatable || *certainty == Certainty::NotProcessed;
            if failure.is_http1() {
                // Nobody had said what it speaks, and its client's version was a guess.
                tracing::info!(%failure, "spoken to in HTTP/1 from now on");
                worker.only_http1.borrow_mut().remember(&target.key(), worker.now());
                Some(Target { speaks: Speaks::Http1, ..target })
            } else if age == Age::Pooled && repeatable && is_stale(failure) {
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
    let exchange = open_new(target, worker).await.map_err(unsent)?;
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
) -> Result<Open<'a>, (Failure, Certainty)> {
    start(down, &mut exchange, target, plan, body, worker);
    let mut relay =
        Relay { down, up: &mut exchange, body, trailers: Head::default(), drain: plan.drain, frames: None };
    if let Err(broken) = relay.head().await {
        let certainty = certainty(&broken);
        return Err((failure_of(broken, target), certainty));
    }
    let from_sidecar = matches!(target.place, Place::Mesh(..));
    if from_sidecar && let Some(failure) = refused_by_peer(&down.response, target, body) {
        return Err((failure, Certainty::NotProcessed));
    }
    Ok(Open { exchange, from_sidecar, trial: None, target })
}

/// A way that stands, if there is one, else a new one.
async fn open(
    target: Target<'_>,
    plan: &Plan<'_>,
    repeatable: bool,
    worker: &Rc<Worker>,
) -> Result<(Exchange, Age), Failure> {
    if target.speaks == Speaks::Http2 {
        let (stream, age) = ways::stream(target.key(), || target.way(), worker).await?;
        let is_for_http1 = plan.upgrade == Upgrade::WebSocket
            && matches!(target.place, Place::Application(_))
            && !stream.takes_connect_protocol().await;
        if !is_for_http1 {
            return Ok((Exchange::Http2(stream), age));
        }
        let http1 = Target { speaks: Speaks::Http1, ..target };
        return open_new(http1, worker).await.map(|exchange| (exchange, Age::New));
    }
    let pooled = worker.pool.borrow_mut().take(target.key(), repeatable, worker.now());
    match pooled {
        Some(http1) => Ok((Exchange::Http1(http1), Age::Pooled)),
        None => open_new(target, worker).await.map(|exchange| (exchange, Age::New)),
    }
}

/// After a pooled connection failed. Of HTTP/2 connections the failed one is out of the pool by now.
async fn open_new(target: Target<'_>, worker: &Rc<Worker>) -> Result<Exchange, Failure> {
    if target.speaks == Speaks::Http2 {
        let (stream, _) = ways::stream(target.key(), || target.way(), worker).await?;
        return Ok(Exchange::Http2(stream));
    }
    let conn = match target.place {
        Place::Mesh(address, tls) => connect::mtls(address, tls, ALPN_HTTP1, worker).await?,
        Place::Clear(address) => connect::plain(address, worker).await?,
        Place::Application(port) => connect::application(port, worker).await?,
    };
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

    fn key(self) -> Key {
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

/// RFC 9110, 9.2.2.
fn is_repeatable(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
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

/// The peer's sidecar itself answered, and says that its application saw nothing. If the request can go
/// elsewhere, the client need not hear of it. Only a verified peer is believed.
fn refused_by_peer(response: &Head, target: Target<'_>, body: &RequestBody) -> Option<Failure> {
    let Place::Mesh(endpoint, _) = target.place else { return None };
    let cause = Cause::find(response.get(Known::XMeshworkCause)?)?;
    let safe = cause.certainty() == Proof::NotProcessed && body.is_replayable();
    safe.then_some(Failure::PeerRefused { endpoint, cause })
}

fn certainty(broken: &Broken) -> Certainty {
    match broken {
        Broken::Upstream(ReceiveError::Http2(broken)) => match broken.certainty() {
            h2::Certainty::NotProcessed => Certainty::NotProcessed,
            h2::Certainty::Unknown => Certainty::Unknown,
        },
        Broken::Upstream(_) | Broken::Client | Broken::Request(_) | Broken::TimeUp => Certainty::Unknown,
    }
}

fn failure_of(broken: Broken, target: Target<'_>) -> Failure {
    let source = match broken {
        Broken::Client => return Failure::ClientGone,
        Broken::TimeUp => return Failure::TimeUp,
        Broken::Request(error) => return Failure::BadRequest(error),
        Broken::Upstream(source) => source,
    };
    match (target.place, source.is_protocol()) {
        (Place::Application(port), false) => Failure::AppReset { port, source },
        (Place::Application(port), true) => Failure::AppProtocol { port, source },
        (Place::Mesh(endpoint, _) | Place::Clear(endpoint), false) => Failure::Reset { endpoint, source },
        (Place::Mesh(endpoint, _) | Place::Clear(endpoint), true) => Failure::Protocol { endpoint, source },
    }
}

/// Passes the answer on: head, body, and what follows an upgrade.
async fn carry(
    down: &mut Downstream,
    open: Open<'_>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let Open { mut exchange, from_sidecar, trial, target } = open;
    let judge = |finding| {
        if let Some(trial) = &trial {
            trial.judge(finding, worker.now(), &worker.registry);
        }
    };
    record.status = Some(down.response.status());
    if plan.upgrade == Upgrade::WebSocket
        && let Exchange::Http1(http1) = &mut exchange
        && down.response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        if !super::websocket::is_accepted(&down.request, &down.response) {
            return Err(failure_of(Broken::Upstream(ReceiveError::WebSocket), target));
        }
        websocket::to_http2(&mut down.response);
        http1.open_tunnel();
        body.release();
    }
    let mut relay = Relay {
        down,
        up: &mut exchange,
        body,
        trailers: Head::default(),
        drain: plan.drain,
        frames: (plan.upgrade == Upgrade::WebSocket).then(Conversation::default),
    };
    begin_answer(&mut relay, from_sidecar, plan, record);
    let carried = relay.body().await;
    let frames = relay.frames.take();
    match carried {
        Ok(Ended::Message) => {
            record.answered(&down.response); // trailers, or a head that was all
            judge(Some(record.told().map_or(Finding::Success, Finding::of_grpc)));
        }
        Ok(Ended::Upgraded) => {
            judge(Some(Finding::Success));
            return Ok(upgraded(down, exchange, plan.drain).await);
        }
        Err(Broken::Client) => {
            record.status = None;
            return Ok(After::Gone);
        }
        Err(Broken::TimeUp) => {
            record.ended_by(&Failure::TimeUp);
            return Ok(farewell::say(down, &mut exchange, frames).await);
        }
        Err(broken) => {
            // The head is out: all that is left to say is that the answer is not whole.
            let code = reset_code(&broken);
            let failure = failure_of(broken, target);
            tracing::debug!(%failure, "the answer broke off");
            judge(failure.finding());
            record.ended_by(&failure);
            break_off(down, code).await;
            return Ok(After::Gone);
        }
    }
    let whole = body.is_ended();
    if whole
        && let Exchange::Http1(http1) = exchange
        && http1.receiver.keep_alive()
        && !http1.conn.is_ended()
        && http1.conn.unsent() == 0
    {
        worker.pool.borrow_mut().put(target.key(), http1, worker.now());
    }
    Ok(if whole && down.exchange.stays() { After::NextRequest } else { After::Close })
}

/// What came of the answer still goes out, as a client that sees none of it may take its request for
/// unread. To HTTP/1.0 the connection's end would be the body's, so it must break.
pub(super) async fn break_off(down: &mut Downstream, code: ErrorCode) {
    let _ = timeout(LINGER_TIME, poll_fn(|cx| down.exchange.poll_flush(cx))).await;
    if down.exchange.is_http2() || down.to.version < Version::Http11 {
        down.exchange.reset(code);
    }
}

/// What the endpoint said of its stream's end is said on; gRPC has a meaning for each code.
fn reset_code(broken: &Broken) -> ErrorCode {
    match broken {
        Broken::Upstream(ReceiveError::Http2(mux::Broken::Reset(reset))) => reset.code,
        Broken::Upstream(_) | Broken::Client | Broken::Request(_) | Broken::TimeUp => {
            ErrorCode::INTERNAL_ERROR
        }
    }
}

/// Sends the answer's head to the client.
fn begin_answer(relay: &mut Relay<'_>, from_sidecar: bool, plan: &Plan<'_>, record: &mut Record) {
    let (length, over) = (relay.up.body_length(), relay.up.has_ended());
    let refused = !relay.up.keep_alive() && relay.down.response.status().class() >= 4;
    if refused || relay.body.is_held() || relay.body_is_uncertain(plan.expects_continue) {
        relay.abandon_request();
    }
    let keep_alive = plan.keep_alive && !relay.body.is_abandoned() && plan.drain.stage() == Stage::Serving;
    let Downstream { exchange, response, to, .. } = &mut *relay.down;
    forward::response(response, ProxyAuthentication::Remove);
    if from_sidecar {
        record.cause = response.get(Known::XMeshworkCause).and_then(Cause::find);
    } else {
        filter::strip_own(response);
    }
    if let Some(modifier) = plan.response_headers {
        filter::apply(modifier, response);
    }
    if plan.upgrade == Upgrade::Http1
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Exchange::Http1(http1) = exchange
    {
        http1.receiver.switch_to_opaque();
    }
    exchange.send_response(response, length, *to, over, keep_alive);
}

/// WebSocket and whatever else: bytes both ways until both ends have said all.
async fn upgraded(down: &mut Downstream, mut exchange: Exchange, drain: &Drain) -> After {
    let protocol = down.response.header("upgrade").unwrap_or_default();
    let mut frames =
        protocol.eq_ignore_ascii_case(websocket::PROTOCOL.as_bytes()).then(Conversation::default);
    let (Exchange::Http1(down), Exchange::Http1(up)) = (&mut down.exchange, &mut exchange) else {
        return After::Gone;
    };
    let spliced = match &mut frames {
        Some(frames) => tcp::splice_frames(&mut down.conn, &mut up.conn, drain, frames).await,
        None => tcp::splice(&mut down.conn, &mut up.conn, drain).await.map(Some),
    };
    match (spliced, frames) {
        (Ok(None), Some(frames)) => return farewell::close(&mut down.conn, &mut up.conn, &frames).await,
        (Ok(_), _) => {}
        (Err(error), _) => tracing::debug!(%error, "an upgraded connection broke off"),
    }
    After::Gone
}
