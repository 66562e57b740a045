//! What becomes of an answer whose head has come: carried to whoever asked, or let go when another try is made.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use meshwork_core::cause::Cause;
use meshwork_core::grpc::Told;
use meshwork_core::outlier::Finding;
use meshwork_core::retry::Kind;
use meshwork_core::{filter, grpc};
use meshwork_http::forward::{self, ProxyAuthentication};
use meshwork_http::h2::ErrorCode;
use meshwork_http::{Head, Known, StatusCode, websocket};

use super::deadline::within;
use super::farewell::break_off;
use super::plan::{Plan, Upgrade};
use super::record::Record;
use super::relay::{Broken, Ended, Relay, RequestBody};
use super::send::{Open, Place, Target, failure_of};
use super::{After, Conversation, Downstream, Pieces, farewell};
use crate::drain::{Drain, Stage};
use crate::exchange::{Exchange, ReceiveError, Step};
use crate::failure::Failure;
use crate::pool::IDLE_AGE_MAX;
use crate::worker::Worker;
use crate::{mux, tcp};

/// Passes the answer on: head, body, and what follows an upgrade.
pub(super) async fn carry(
    down: &mut Downstream,
    open: Open<'_>,
    plan: &Plan<'_>,
    body: &mut RequestBody,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let Open { mut exchange, from_sidecar, trial, target, deadline, .. } = open;
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
        pieces: match (plan.upgrade, plan.call.kind) {
            (Upgrade::WebSocket, _) => Pieces::Frames(Conversation::default()),
            (_, Kind::Grpc) => Pieces::Messages(grpc::Messages::default()),
            (_, Kind::Http) => Pieces::None,
        },
    };
    begin_answer(&mut relay, from_sidecar, target, plan, record, worker);
    // What was switched to has no end that could be late.
    let deadline = deadline.filter(|_| plan.upgrade == Upgrade::No);
    let carried =
        within(deadline, pin!(relay.body())).await.unwrap_or_else(|late| Err(Broken::TooLate(late)));
    let pieces = std::mem::replace(&mut relay.pieces, Pieces::None);
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
            return Ok(farewell::say(down, &mut exchange, pieces).await);
        }
        Err(broken) => {
            // The head is out: all that is left to say is that the answer is not whole.
            let code = reset_code(&broken);
            let failure = failure_of(broken, target);
            tracing::debug!(%failure, "the answer broke off");
            judge(failure.finding());
            record.ended_by(&failure);
            drop(exchange); // whoever works for us hears of it before a client that may not read
            break_off(down, code).await;
            return Ok(After::Gone);
        }
    }
    let whole = body.is_ended();
    if whole {
        keep(exchange, target, worker);
    }
    Ok(if whole && down.exchange.stays() { After::NextRequest } else { After::Close })
}

/// Lets go of an answer behind which another try was made. What of it is here already is read, so that its connection can
/// be used again; nobody waits for the rest, and the connection, or the stream, is closed with it.
pub(super) async fn discard(open: Open<'_>, scratch: &mut Head, body: &RequestBody, worker: &Rc<Worker>) {
    let Open { mut exchange, target, .. } = open;
    let ended = poll_fn(|cx| {
        loop {
            match exchange.poll_step(scratch, cx) {
                Poll::Ready(Ok(Step::Data { consumed, .. })) => exchange.consume(consumed),
                Poll::Ready(Ok(Step::Trailers)) => {}
                Poll::Ready(Ok(Step::End)) => return Poll::Ready(true),
                Poll::Ready(Ok(Step::Head | Step::Upgraded | Step::Closed) | Err(_)) | Poll::Pending => {
                    return Poll::Ready(false);
                }
            }
        }
    });
    if ended.await && body.is_ended() {
        keep(exchange, target, worker);
    }
}

/// Both messages are whole: an HTTP/1 connection may carry others.
fn keep(exchange: Exchange, target: Target<'_>, worker: &Worker) {
    if let Exchange::Http1(http1) = exchange
        && http1.receiver.keep_alive()
        && !http1.conn.is_ended()
        && http1.conn.unsent() == 0
    {
        worker.pool.borrow_mut().put(
            target.key(),
            http1,
            target.connect.idle.unwrap_or(IDLE_AGE_MAX),
            worker.now(),
        );
    }
}

/// What the endpoint said of its stream's end is said on; gRPC has a meaning for each code.
fn reset_code(broken: &Broken) -> ErrorCode {
    match broken {
        Broken::Upstream(ReceiveError::Http2(mux::Broken::Reset(reset))) => reset.code,
        Broken::TooLate(_) => ErrorCode::CANCEL,
        Broken::Upstream(_) | Broken::Client | Broken::Request(_) | Broken::TimeUp => {
            ErrorCode::INTERNAL_ERROR
        }
    }
}

/// Sends the answer's head to the client.
fn begin_answer(
    relay: &mut Relay<'_>,
    from_sidecar: bool,
    target: Target<'_>,
    plan: &Plan<'_>,
    record: &mut Record,
    worker: &Worker,
) {
    let (length, over) = (relay.up.body_length(), relay.up.has_ended());
    let refused = !relay.up.keep_alive() && relay.down.response.status().class() >= 4;
    if refused || relay.body.is_held() || relay.body_is_uncertain(plan.expects_continue) {
        relay.abandon_request();
    }
    let keep_alive = plan.keep_alive && !relay.body.is_abandoned() && plan.drain.stage() == Stage::Serving;
    let Downstream { exchange, response, to, .. } = &mut *relay.down;
    forward::response(response, ProxyAuthentication::Remove);
    if from_sidecar {
        record.refused(response.get(Known::XMeshworkCause).and_then(Cause::find));
        response.remove_known(Known::XMeshworkRetried); // said to sidecars only
    } else {
        filter::strip_own(response);
    }
    if matches!(target.place, Place::Application(_)) && is_futile(response, plan.call.kind, worker) {
        response.append(Known::XMeshworkRetried.name(), b"1");
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

/// The application failed just when this sidecar had spent its tries for it in vain, further on: another try of its caller
/// would be spent there too.
fn is_futile(response: &Head, kind: Kind, worker: &Worker) -> bool {
    let is_recent = || worker.shared.futile.is_recent(worker.now());
    match kind {
        Kind::Http => response.status().class() == 5 && is_recent(),
        Kind::Grpc => is_recent() && grpc::status(response).is_some_and(Told::is_server_error),
    }
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
        None => tcp::splice(&mut down.conn, &mut up.conn, None, drain).await.map(Some),
    };
    match (spliced, frames) {
        (Ok(None), Some(frames)) => return farewell::close(&mut down.conn, &mut up.conn, &frames).await,
        (Ok(_), _) => {}
        (Err(error), _) => tracing::debug!(%error, "an upgraded connection broke off"),
    }
    After::Gone
}
