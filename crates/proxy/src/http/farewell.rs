//! The end of what still runs when a drain's time is up, in the words of whoever is at the other end: gRPC's status, a
//! WebSocket's close, and for all else a break, which nobody takes for a whole answer.

use std::future::poll_fn;

use meshwork_core::cause::{Cause, Format};
use meshwork_core::grpc;
use meshwork_http::h2::ErrorCode;
use meshwork_http::websocket::{Frames, GOING_AWAY, GOING_AWAY_MASKED};
use meshwork_http::{BodyLength, Head};
use tokio::time::timeout;

use super::carry::break_off;
use super::{After, Downstream, LINGER_TIME};
use crate::conn::Conn;
use crate::exchange::Exchange;

/// Both directions of a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// From the client.
    pub(crate) up: Frames,
    pub(crate) down: Frames,
}

/// Ends an answer whose head is out. `frames`: it is a WebSocket's.
pub(super) async fn say(down: &mut Downstream, up: &mut Exchange, frames: Option<Conversation>) -> After {
    let is_call = Format::of(&down.request) == Format::Grpc;
    match frames {
        Some(frames) if frames.down.is_between() => {
            close_upstream(up, &frames).await;
            down.exchange.send_data(&GOING_AWAY, true);
            down.exchange.send_end(None);
        }
        None if is_call && !matches!(up.body_length(), BodyLength::Known(_)) => {
            let trailers = unavailable();
            down.exchange.send_end(Some(&trailers));
        }
        // An end within a frame, or within a length that was declared, is none.
        Some(_) | None => {
            break_off(down, ErrorCode::CANCEL).await;
            return After::Gone;
        }
    }
    // A client that reads nothing hears nothing.
    let _ = timeout(LINGER_TIME, poll_fn(|cx| down.exchange.poll_flush(cx))).await;
    After::Close
}

/// How a call ends that its server would have gone on with: its client may call again, elsewhere.
fn unavailable() -> Head {
    let cause = Cause::Drained;
    let mut trailers = Head::default();
    trailers.start_trailers();
    trailers.append(grpc::STATUS, cause.grpc_status().word().as_bytes());
    let mut message = Vec::new();
    grpc::write_message(&format!("meshwork: {}; cause: {}", cause.sentence(), cause.word()), &mut message);
    trailers.append(grpc::MESSAGE, &message);
    trailers
}

async fn close_upstream(up: &mut Exchange, frames: &Conversation) {
    if frames.up.is_between() {
        up.send_data(&GOING_AWAY_MASKED, true);
        up.send_end(None);
        // An application that takes nothing more learns it by the connection's end.
        let _ = timeout(LINGER_TIME, poll_fn(|cx| up.poll_flush(cx))).await;
    }
}

/// Ends a WebSocket of HTTP/1 at both ends; in the middle of a frame it can only break.
pub(super) async fn close(down: &mut Conn, up: &mut Conn, frames: &Conversation) -> After {
    if frames.up.is_between() {
        up.output().extend_from_slice(&GOING_AWAY_MASKED);
        let _ = timeout(LINGER_TIME, up.shutdown()).await;
    }
    if !frames.down.is_between() {
        down.abort();
        return After::Gone;
    }
    down.output().extend_from_slice(&GOING_AWAY);
    // Whoever serves the connection says farewell and waits for the client's.
    After::Close
}
