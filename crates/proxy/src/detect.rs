//! Which protocol does the client speak? Waits for its first bytes; deciding is `core::detect`.
//!
//! Never waits long: a client that stays silent may be waiting for the server to speak first.

use std::rc::Rc;
use std::time::Duration;

use meshwork_core::detect::{Detected, detect, preface};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clients::Client;
use crate::conn::{Conn, ConnError, Filled};
use crate::worker::Worker;

/// How long a client may be silent before we open the way upstream and let whoever speaks first
/// decide. Long enough for any HTTP client on a busy machine, short enough that nobody notices.
pub(crate) const DETECT_SILENCE: Duration = Duration::from_millis(50);

/// How long the first bytes may stay ambiguous: a ClientHello that spans segments is there in less.
pub(crate) const DETECT_UNDECIDED: Duration = Duration::from_secs(5);

/// A connection whose first request has not begun by then is closed by whoever reads it.
const PREFACE_MAX: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Http1,
    Http2,
    /// TLS of the application's own, or a protocol that we do not know.
    Opaque,
    /// The client has said nothing yet.
    Silent,
    /// The client left without a word.
    Gone,
}

/// The bytes stay in the connection's input.
pub(crate) async fn first_bytes(conn: &mut Conn) -> Result<First, ConnError> {
    first_bytes_within(conn, DETECT_SILENCE).await
}

/// Of a client that may be silent for so long.
pub(crate) async fn first_bytes_within(conn: &mut Conn, silence: Duration) -> Result<First, ConnError> {
    let silence = Instant::now() + silence;
    let undecided = Instant::now() + DETECT_UNDECIDED;
    loop {
        if let Some(first) = decided(conn) {
            return Ok(first);
        }
        let until = if conn.input().is_empty() { silence } else { undecided };
        match timeout_at(until, conn.fill()).await {
            Ok(filled) => {
                if filled? == Filled::End {
                    // What came is all there is: a protocol of so few bytes is not HTTP.
                    return Ok(if conn.input().is_empty() { First::Gone } else { First::Opaque });
                }
            }
            Err(_) => return Ok(if conn.input().is_empty() { First::Silent } else { First::Opaque }),
        }
    }
}

/// Where only HTTP is spoken: whether the client begins with HTTP/2's preface. Waits for its first bytes; any
/// other beginning, or none, is HTTP/1's to judge.
pub(crate) async fn is_http2(conn: &mut Conn, worker: &Worker) -> bool {
    loop {
        match preface(conn.input()) {
            Some(is_http2) => return is_http2,
            None if more(conn, worker).await => {}
            None => return false,
        }
    }
}

/// Where HTTP/2 was declared: which HTTP the client speaks. What begins like neither version is a broken
/// preface, and HTTP/2's to refuse.
pub(crate) async fn is_http2_or_broken(conn: &mut Conn, worker: &Worker) -> bool {
    loop {
        match decided(conn) {
            Some(First::Http1) => return false,
            Some(_) => return true,
            None if more(conn, worker).await => {}
            None => return false,
        }
    }
}

/// Waits for more of a client's first bytes, among those that may be asked to go.
async fn more(conn: &mut Conn, worker: &Worker) -> bool {
    let client = Rc::<Client>::default();
    let _among_idle = worker.clients.enter(&client);
    match client.idle(timeout(PREFACE_MAX, conn.fill())).await {
        Some(filled) => matches!(filled, Ok(Ok(Filled::More))),
        None => {
            conn.hang_up();
            false
        }
    }
}

/// What the bytes that are there say; `None`: too few.
pub(crate) fn decided(conn: &Conn) -> Option<First> {
    if conn.input().is_empty() {
        return None;
    }
    match detect(conn.input()) {
        Detected::NeedMore => None,
        Detected::Http1 => Some(First::Http1),
        Detected::Http2 => Some(First::Http2),
        Detected::Tls | Detected::Opaque => Some(First::Opaque),
    }
}
