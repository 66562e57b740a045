//! Tries endpoints until one answers, where trying again is safe.
//!
//! What may be tried again is `core::retry`'s decision, which endpoint `core::balance`'s, whether the service's budget
//! allows it `endpoints.rs`'s. A try is `send.rs`; what becomes of its answer is `carry.rs`.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use meshwork_core::balance::{PEAK_EWMA_FAILURE, Tried};
use meshwork_core::cause::Cause;
use meshwork_core::grpc;
use meshwork_core::grpc::{Status, Told};
use meshwork_core::model::Transport;
use meshwork_core::outlier::Finding;
use meshwork_core::retry::{Answer, By, Call, Kind, Next, Outcome, Reason, Replay, Terms, Tries, next};
use meshwork_http::{Head, Known};
use tokio::time::timeout;

use super::carry::{carry, discard};
use super::deadline::within;
use super::plan::{Plan, Speaks, Upgrade};
use super::record::Record;
use super::relay::{Broken, RequestBody};
use super::send::{Failed, Open, Place, Stale, Target, failed, send};
use super::{After, Downstream};
use crate::destination::{Backend, Member};
use crate::failure::Failure;
use crate::limits::Account;
use crate::telemetry::Event;
use crate::worker::Worker;

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
    let brought = backend.key(Some(&down.request), worker);
    let session = if brought.is_none() { backend.session(worker) } else { None };
    let key = brought.or_else(|| session.map(|session| session.key()));
    let (mut index, mut member) = backend.choose(key, tried, worker).ok_or_else(|| backend.nobody(worker))?;
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
        let ended = Ended { outcome, replay, key, tried, tries };
        let Some(next) = again(&ended, backend, plan, worker) else {
            return match sent {
                Ok(open) => {
                    if let Some(session) = session {
                        session.give(&mut down.response);
                    }
                    carry(down, open, plan, &mut body, record, worker).await
                }
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
    /// What its endpoint is chosen by.
    key: Option<u64>,
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
    let (member, place) = backend.choose_other(ended.key, ended.tried, worker)?;
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
    let too_late = |deadline| Err(failed(Broken::TooLate(deadline), target));
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
