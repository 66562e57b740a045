//! Whether the rules let the sidecar itself pass. Where they do not, it would call itself by each connection that it opens,
//! and by each of those again, until it has no descriptors left. So it tries one before it starts.
//!
//! The connection is for a virtual address that nobody has. Rules that let it pass refuse it in the kernel, at once; those
//! that lead it on lead it to the sidecar's own socket. Without rules there is no way there, or nobody at its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use meshwork_core::capture::{MARK, virtual_ranges_default};
use meshwork_proxy::Mark;
use socket2::{Domain, Socket, Type};

use super::probe::Probe;

/// Within this machine it takes no time at all. Only where nothing is captured somebody far away might be asked.
const CONNECT_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnWayError {
    #[error("cannot try whether the rules let the sidecar pass: {0}")]
    Try(io::Error),
    #[error(
        "the rules here lead the sidecar's own connections back to itself: they know it by a mark on its sockets, and this \
         process may set none ({0}). Give it the capability NET_ADMIN; or run it as a user of its own, and name that user when \
         the rules are applied (`meshwork capture apply --proxy-user`)"
    )]
    NoMark(io::Error),
    #[error(
        "the rules here lead the sidecar's own connections back to itself: they do not know it by the mark {MARK:#x} on its \
         sockets. Run it as the user that `meshwork capture show` names, or apply the rules without --proxy-user and \
         --exempt-mark"
    )]
    OtherMark,
}

/// `listeners` are those to which the rules lead what goes out; nobody serves them yet.
pub(crate) fn check(listeners: &[TcpListener]) -> Result<(), OwnWayError> {
    let Some(probe) = Probe::to_one_of(&virtual_ranges_default()) else { return Ok(()) };
    let to = probe.address();
    let (socket, mark) = socket(to).map_err(OwnWayError::Try)?;
    if socket.connect_timeout(&to.into(), CONNECT_MAX).is_err() {
        return Ok(());
    }
    let from = socket.local_addr().map_err(OwnWayError::Try)?.as_socket();
    if !came_here(from, listeners) {
        return Ok(()); // somebody else answers there, whoever that is
    }
    Err(mark.map_or_else(OwnWayError::NoMark, |_| OwnWayError::OtherMark))
}

/// As the sidecar's own are.
fn socket(to: SocketAddr) -> io::Result<(Socket, io::Result<Mark>)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    let mark = Mark::try_one();
    if let Some(mark) = mark.as_ref().ok().and_then(|mark| mark.value()) {
        socket.set_mark(mark)?;
    }
    Ok((socket, mark))
}

/// A connection that was made waits where it came to. Whoever of the application's came before it is lost, which it would
/// be anyway.
fn came_here(from: Option<SocketAddr>, listeners: &[TcpListener]) -> bool {
    listeners.iter().any(|listener| {
        // They do not block.
        std::iter::from_fn(|| listener.accept().ok()).any(|(_, peer)| Some(peer) == from)
    })
}
