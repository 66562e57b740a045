//! The end of what still runs when a drain's time is up, in the words of whoever is at the other end: gRPC's status, a
//! WebSocket's close, and for all else a break, which nobody takes for a whole answer.

use std::future::poll_fn;

use meshwork_core::cause::Cause;
use meshwork_core::grpc::{self, Messages};
use meshwork_http::h2::ErrorCode;
use meshwork_http::websocket::{Frames, GOING_AWAY, GOING_AWAY_MASKED};
use meshwork_http::{BodyLength, Head, Version};
use tokio::time::timeout;

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

/// What a body is made of, as far as an end can be said only between two of its pieces.
#[derive(Debug)]
pub(crate) enum Pieces {
    /// Nobody would know one from the next.
    None,
    Frames(Conversation),
    /// Those of a call's answer.
    Messages(Messages),
}

impl Pieces {
    /// More of a request passed.
    pub(super) fn go_up(&mut self, bytes: &[u8]) {
        match self {
            Self::Frames(frames) => frames.up.advance(bytes),
            Self::None | Self::Messages(_) => {}
        }
    }

    /// More of an answer passed.
    pub(super) fn come_down(&mut self, bytes: &[u8]) {
        match self {
            Self::Frames(frames) => frames.down.advance(bytes),
            Self::Messages(messages) => messages.advance(bytes),
            Self::None => {}
        }
    }
}

/// Ends an answer whose head is out.
pub(super) async fn say(down: &mut Downstream, up: &mut Exchange, pieces: Pieces) -> After {
    match pieces {
        Pieces::Frames(frames) if frames.down.is_between() => {
            close_upstream(up, &frames).await;
            down.exchange.send_data(&GOING_AWAY, true);
            down.exchange.send_end(None);
        }
        Pieces::Messages(messages)
            if messages.is_between() && !matches!(up.body_length(), BodyLength::Known(_)) =>
        {
            let trailers = unavailable();
            down.exchange.send_end(Some(&trailers));
        }
        // An end within a frame, a message, or a length that was declared, is none.
        Pieces::Frames(_) | Pieces::Messages(_) | Pieces::None => {
            break_off(down, ErrorCode::CANCEL).await;
            return After::Gone;
        }
    }
    // A client that reads nothing hears nothing.
    let _ = timeout(LINGER_TIME, poll_fn(|cx| down.exchange.poll_flush(cx))).await;
    After::Close
}

/// What came of the answer still goes out, as a client that sees none of it may take its request for
/// unread. To HTTP/1.0 the connection's end would be the body's, so it must break.
pub(super) async fn break_off(down: &mut Downstream, code: ErrorCode) {
    let _ = timeout(LINGER_TIME, poll_fn(|cx| down.exchange.poll_flush(cx))).await;
    if down.exchange.is_http2() || down.to.version < Version::Http11 {
        down.exchange.reset(code);
    }
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
