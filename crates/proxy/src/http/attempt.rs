//! Tries endpoints until one answers, where trying again is safe.
//!
//! What may be tried again is `core::retry`'s decision, which endpoint `core::balance`'s, whether the service's budget
//! allows it `endpoints.rs`'s. An attempt is: a connection (pooled or new), the request's head and body, the answer's
//! head. What then becomes of the answer is `carry.rs`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::{PEAK_EWMA_FAILURE, Tried};
use meshwork_core::cause::Cause;
use meshwork_core::grpc::{Status, Told};
use meshwork_core::model::{HeaderModifier, Transport};
use meshwork_core::outlier::Finding;
use meshwork_core::policy::{ConnectPolicy, RuleRetry};
use meshwork_core::retry::{
    Answer, By, Call, Kind, Next, Outcome, Reason, Repeat, Replay, Terms, Tries, next,
};
use meshwork_core::{filter, grpc};
use meshwork_http::h2::Certainty;
use meshwork_http::{BodyLength, Head, Known, websocket};
use tokio::time::timeout;

use super::carry::{carry, discard};
use super::deadline::{Deadline, Patience, Span, within};
use super::record::Record;
use super::relay::{Broken, Relay, RequestBody};
use super::{After, Downstream};
use crate::connect;
use crate::destination::{Backend, BackendTls, Member};
use crate::drain::Drain;
use crate::exchange::{Exchange, ReceiveError};
use crate::failure::Failure;
use crate::limits::Account;
use crate::live::ALPN_HTTP1;
use crate::outliers::Trial;
use crate::pool::Key;
use crate::telemetry::Event;
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
    /// What the rule wants tried again beyond what is safe.
    pub(crate) retry: Option<&'a RuleRetry>,
    /// The connection may go on after this request.
    pub(crate) keep_alive: bool,
    /// What the application at the end of the way speaks, as far as it is known here.
    pub(crate) application: Speaks,
    /// The way out of the direction that the request came from.
    pub(crate) drain: &'a Drain,
    pub(crate) call: Call,
    /// How long the request and each of its tries may take.
    pub(crate) patience: Patience,
}

/// What becomes of a request that may be repeated and broke on a connection that had stood for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// Sent once more, to the same place: there is no other.
    Resent,
    /// A try that failed like others: the next one is elsewhere, and of the budget.
    Failed,
}

/// A request to a service: endpoints are tried until one answers.
pub(crate) async fn balanced(
    down: &mut Downstream,
    backend: &Backend,
    plan: &Plan<'_>,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let policy = &backend.traffic().retry;
    backend.state.request(&policy.budget, worker.now());
    let mut body = RequestBody::of(&down.exchange);
    let (mut tried, mut tries) = (Tried::default(), Tries::default());
    let (mut index, mut member) = backend.choose(tried, worker).ok_or_else(|| backend.nobody(worker))?;
    loop {
        record.tries += 1;
        record.endpoint = Some(member.endpoint.address);
        let sent = try_member(down, backend, member, plan, &mut body, worker).await;
        let outcome = match &sent {
            Ok(open) => Outcome::Answered(answer(&down.response, open, plan.call)),
            Err((_, outcome)) => *outcome,
        };
        tried.add(index);
        tries.count(outcome);
        let replay = if body.is_replayable() { Replay::Possible } else { Replay::Spent };
        let ended = Ended { outcome, replay, tried, tries };
        let Some(next) = again(&ended, backend, plan, worker) else {
            return match sent {
                Ok(open) => carry(down, open, plan, &mut body, record, worker).await,
                Err((failure, _)) => Err(failure),
            };
        };
        tracing::debug!(?outcome, endpoint = %member.endpoint.address, "tried again");
        if let Ok(open) = sent {
            discard(open, &mut down.response, &body, worker).await;
        }
        wait(down, &body, next.after).await?;
        body.rewind();
        (index, member) = next.member;
    }
}

/// A try that has ended, and what of it counts for another one.
struct Ended {
    outcome: Outcome,
    replay: Replay,
    tried: Tried,
    tries: Tries,
}

/// Another try.
struct Another<'a> {
    member: (usize, &'a Member),
    after: Duration,
}

/// Whether there is another try, and where; counts it.
fn again<'a>(ended: &Ended, backend: &'a Backend, plan: &Plan<'_>, worker: &Worker) -> Option<Another<'a>> {
    if is_good(ended.outcome) && plan.retry.is_none() {
        return None; // which is nearly always so
    }
    let policy = &backend.traffic().retry;
    let (member, place) = backend.choose_other(ended.tried, worker)?;
    let terms = Terms { policy, rule: plan.retry };
    let Ended { outcome, replay, tries, .. } = *ended;
    let again = match next(outcome, plan.call, replay, tries, place, terms, worker.random()) {
        Next::Return => return None,
        Next::Spent => {
            worker.shared.futile.note(worker.now());
            return None;
        }
        Next::Again(again) => again,
    };
    if !plan.patience.outlasts(again.after) {
        return None; // it could only fail once more
    }
    if again.reason.draws_on_budget() && !backend.state.try_again(&policy.budget, worker.now()) {
        exhausted(backend, worker);
        return None;
    }
    worker.registry.count(match again.reason {
        Reason::Unreached => Event::RetryUnreached,
        Reason::NotProcessed => Event::RetryNotProcessed,
        Reason::Reset => Event::RetryReset,
        Reason::Status => Event::RetryStatus,
        Reason::Rule => Event::RetryRule,
    });
    Some(Another { member, after: again.after })
}

/// The budget is used up: the failure is answered as it is.
fn exhausted(backend: &Backend, worker: &Worker) {
    let now = worker.now();
    worker.registry.count(Event::RetryBudgetExhausted);
    worker.shared.futile.note(now);
    if backend.state.is_exhaustion_news(now) {
        let service = &backend.cluster.name;
        tracing::warn!(%service, "its retry budget is used up: what fails now is answered as it is");
    }
}

/// Nothing that is tried again without a rule that says so.
fn is_good(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Answered(answer) => {
            answer.status.class() < 5 && matches!(answer.grpc, None | Some(Told::Known(Status::Ok)))
        }
        Outcome::Unreached | Outcome::NotProcessed | Outcome::Unknown(_) => false,
    }
}

/// What an answer's head says of the try.
fn answer(head: &Head, open: &Open<'_>, call: Call) -> Answer {
    let by = if !open.from_sidecar {
        By::Application
    } else if head.get(Known::XMeshworkRetried).is_some() {
        By::Spent
    } else {
        head.get(Known::XMeshworkCause).and_then(Cause::find).map_or(By::Application, By::Peer)
    };
    let grpc = match call.kind {
        Kind::Grpc => grpc::status(head),
        Kind::Http => None,
    };
    Answer { status: head.status(), by, grpc }
}

/// Waits before another try. A client that leaves meanwhile need not be served.
async fn wait(down: &mut Downstream, body: &RequestBody, after: Duration) -> Result<(), Failure> {
    if after.is_zero() {
        return Ok(());
    }
    let left = async {
        if body.is_ended() {
            poll_fn(|cx| down.exchange.poll_left(cx)).await;
        } else {
            std::future::pending::<()>().await; // what it still sends is read by the next try
        }
    };
    match timeout(after, left).await {
        Ok(()) => Err(Failure::ClientGone),
        Err(_) => Ok(()),
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
    match send(down, target, plan, &mut body, Stale::Resent, worker).await {
        Ok(open) => carry(down, open, plan, &mut body, record, worker).await,
        Err((failure, _)) => Err(failure),
    }
}

async fn try_member<'a>(
    down: &mut Downstream,
    backend: &'a Backend,
    member: &'a Member,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    worker: &Rc<Worker>,
) -> Result<Open<'a>, Failed> {
    let address = member.endpoint.address;
    let best = best(&member.endpoint.transports, plan);
    let (place, speaks) = match (best, &backend.tls) {
        (Some(Transport::Plaintext), _) => (Place::Clear(address), plan.application),
        (Some(Transport::MtlsHttp2), Some(tls)) => (Place::Mesh(address, tls), Speaks::Http2),
        (Some(Transport::MtlsHttp1), Some(tls)) => (Place::Mesh(address, tls), Speaks::Http1),
        (Some(_), _) | (None, _) => {
            return Err((Failure::NoTransport { endpoint: address }, Outcome::Unreached));
        }
    };
    let account = Some(Account { backend, member });
    let target = Target { place, speaks, connect: backend.traffic().connect, account };
    let trial = backend.begin(member, worker).map_err(|full| (full, Outcome::Unreached))?;
    let deadline = plan.patience.begin_try();
    let too_late = |deadline| {
        let failure = failure_of(Broken::TooLate(deadline), target);
        let outcome = Outcome::Unknown(failure.cause());
        Err((failure, outcome))
    };
    let sending = send(down, target, plan, body, Stale::Failed, worker);
    let mut sent = within(deadline, pin!(sending)).await.unwrap_or_else(too_late);
    if let Err((Failure::NotSpoken { .. }, _)) = &sent
        && speaks == Speaks::Http2
        && member.endpoint.transports.contains(&Transport::MtlsHttp1)
    {
        // It was restarted and speaks no HTTP/2 any more; the control plane's word is still on its way.
        let target = Target { speaks: Speaks::Http1, ..target };
        let sending = send(down, target, plan, body, Stale::Failed, worker);
        sent = within(deadline, pin!(sending)).await.unwrap_or_else(too_late);
    }
    let now = worker.now();
    match sent {
        Ok(mut open) => {
            // A sidecar that refuses does so at once, and must not look like the fastest.
            let refused = open.from_sidecar && down.response.get(Known::XMeshworkCause).is_some();
            let took = now.since(open.sent);
            member.state.observe(if refused { took.max(PEAK_EWMA_FAILURE) } else { took }, now);
            if let Judged::Now(finding) = judge_head(&down.response, open.from_sidecar, plan.call.kind) {
                trial.judge(finding, now, &worker.registry);
            }
            open.trial = Some(trial);
            open.deadline = deadline;
            Ok(open)
        }
        Err(failed) => {
            let finding = failed.0.finding();
            if finding.is_some() {
                member.state.observe(PEAK_EWMA_FAILURE, now);
            }
            trial.judge(finding, now, &worker.registry);
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

fn judge_head(response: &Head, from_sidecar: bool, kind: Kind) -> Judged {
    if from_sidecar && let Some(cause) = response.get(Known::XMeshworkCause).and_then(Cause::find) {
        return Judged::Now(Finding::of_cause(cause));
    }
    if kind == Kind::Grpc
        && let Some(told) = grpc::status(response)
    {
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
pub(super) struct Open<'a> {
    pub(super) exchange: Exchange,
    pub(super) from_sidecar: bool,
    /// At an endpoint of a service, as opposed to the application or a host outside.
    pub(super) trial: Option<Trial<'a>>,
    pub(super) target: Target<'a>,
    /// When it was asked: a connection that had to be made first says nothing of how fast it answers, and would keep
    /// newcomers out for as long as a peak takes to fade.
    sent: Instant,
    /// When the rest of the answer must have come.
    pub(super) deadline: Option<Deadline>,
}

/// Why there is no answer, and what is known of the request.
type Failed = (Failure, Outcome);

/// One attempt: up to the answer's head, which is in `down.response` then.
///
/// A connection that stood already may be closed by the other end just as it is used. A request that may be
/// repeated here, or that was certainly not processed, is then sent once more on a new connection, as every HTTP
/// client does (RFC 9112, 9.3.1); others got a connection that is too fresh for that.
async fn send<'a>(
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
    let mut relay =
        Relay { down, up: &mut exchange, body, trailers: Head::default(), drain: plan.drain, frames: None };
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

fn failed(broken: Broken, target: Target<'_>) -> Failed {
    let is_certain = match &broken {
        Broken::Upstream(ReceiveError::Http2(broken)) => broken.certainty() == Certainty::NotProcessed,
        Broken::Upstream(_) | Broken::Client | Broken::Request(_) | Broken::TimeUp | Broken::TooLate(_) => {
            false
        }
    };
    let is_upstream = matches!(broken, Broken::Upstream(_));
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
