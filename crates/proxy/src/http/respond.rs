//! The answers that the mesh makes itself: status, `x-meshwork-cause`, a short body; to a gRPC call a head with its status.
//! What they say stands in `core::cause`, the one table.

use std::future::poll_fn;
use std::time::Duration;

use meshwork_core::cause::{Cause, Format};
use meshwork_http::h1::{BodyLength, RequestMethod, ResponseTo, Sender};
use meshwork_http::{Head, Version};
use tokio::time::timeout;

use super::record::Record;
use super::{After, Downstream, LINGER_TIME, Role};
use crate::conn::{Conn, ConnError};
use crate::drain::{Drain, Stage};
use crate::failure::Failure;
use crate::telemetry::{LabelId, MethodClass, SeriesKey};
use crate::worker::Worker;

/// Answers a request that failed before anything was answered.
pub(crate) async fn failure(
    down: &mut Downstream,
    failure: &Failure,
    record: &mut Record,
    drain: &Drain,
) -> After {
    let Some(cause) = failure.cause() else { return After::Gone };
    tracing::debug!(cause = cause.word(), %failure, "the mesh answers");
    let format = Format::of(&down.request);
    record.status = Some(cause.status_in(format));
    record.cause = Some(cause);
    record.error = Some(failure.to_string());
    // A body that is still to come would be taken for the next request.
    let body_is_over = matches!(down.exchange.body_length(), BodyLength::None | BodyLength::Known(0));
    let keep_alive = body_is_over && down.exchange.keep_alive() && drain.stage() == Stage::Serving;
    answer(down, cause, format, failure, keep_alive).await
}

/// Answers what was no request, and counts it.
pub(crate) async fn refuse(down: &mut Downstream, failure: &Failure, role: &Role, worker: &Worker) {
    let Some(cause) = failure.cause() else { return };
    let labels = match role {
        Role::Inbound(inbound) => inbound.labels,
        Role::Outbound(_) => LabelId::OTHER_OUTBOUND,
    };
    let key = SeriesKey {
        labels,
        method: MethodClass::Other,
        status: Some(cause.status()),
        cause: Some(cause),
        grpc: None,
    };
    worker.shard.request(key, Duration::ZERO);
    tracing::debug!(cause = cause.word(), %failure, "not a request");
    // Nothing of the last request may speak for this one.
    down.to.version = Version::Http11;
    down.to.method = RequestMethod::Other;
    down.request = Head::default();
    answer(down, cause, Format::Text, failure, false).await;
}

async fn answer(
    down: &mut Downstream,
    cause: Cause,
    format: Format,
    failure: &Failure,
    keep_alive: bool,
) -> After {
    let detail = failure.to_string();
    let mut body = Vec::new();
    cause.write_body(format, &detail, &mut body);
    cause.write_head(format, &detail, &mut down.response);
    let length = BodyLength::Known(body.len() as u64);
    let Downstream { exchange, response, to, .. } = down;
    exchange.send_response(response, length, *to, body.is_empty(), keep_alive);
    exchange.send_data(&body, true);
    exchange.send_end(None);
    if poll_fn(|cx| exchange.poll_flush(cx)).await.is_err() {
        return After::Gone;
    }
    if exchange.stays() { After::NextRequest } else { After::Close }
}

/// Tells a client that its tunnel is open (RFC 9110, 9.3.6).
pub(crate) async fn accept_tunnel(conn: &mut Conn) -> Result<(), ConnError> {
    conn.output().extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    conn.flush().await
}

/// Tells a client why there is no tunnel, and ends the connection.
pub(crate) async fn refuse_tunnel(conn: &mut Conn, failure: &Failure) {
    let Some(cause) = failure.cause() else { return };
    let (mut head, mut body) = (Head::default(), Vec::new());
    let detail = failure.to_string();
    cause.write_body(Format::Text, &detail, &mut body);
    cause.write_head(Format::Text, &detail, &mut head);
    let mut sender = Sender::new();
    let to = ResponseTo { method: RequestMethod::Connect, version: Version::Http11 };
    let out = conn.output();
    let written = sender
        .response(&head, BodyLength::Known(body.len() as u64), to, false, out)
        .and_then(|()| sender.data(&body, out));
    debug_assert!(written.is_ok(), "the first message of a connection");
    // A client that left has no use for the reason.
    let _ = timeout(LINGER_TIME, conn.shutdown()).await;
}
