//! Captured connections: what rules of the kernel redirect to the sidecar, from the application and to it.
//!
//! | file | what |
//! |---|---|
//! | `original.rs` | where a connection was going before it was redirected |
//! | `outbound.rs` | from the application: the service that was meant, or where it was going |
//! | `inbound.rs` | to the application: only who may |
//!
//! Whoever connects to a captured port directly is refused: it would have the sidecar call itself.

pub(crate) mod inbound;
mod original;
pub(crate) mod outbound;

use std::fmt::Display;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::telemetry::Event;
use crate::worker::Worker;

/// Where the connection was going. `None`: it was not redirected, and was refused.
fn captured(socket: &TcpStream, from: SocketAddr, worker: &Worker) -> Option<SocketAddr> {
    let original = original::destination(socket);
    original.map_err(|reason| refuse(socket, from, reason, worker)).ok()
}

/// Breaks the connection off, counts it, and says so now and then.
fn refuse(socket: &TcpStream, from: SocketAddr, reason: impl Display, worker: &Worker) {
    worker.registry.count(Event::CapturedRefused);
    if worker.shared.captured_told.is_due(worker.now()) {
        tracing::warn!(%from, "a connection to a captured port is refused: {reason}");
    }
    // A kernel that refuses the option sends an ordinary end.
    let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}
