//! A way to an address: TCP, and mutual TLS on it where the endpoint speaks it. The peer's certificate
//! is checked after every handshake, resumed ones too.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use meshwork_identity::{PeerRefused, Refusal};
use rustls::{AlertDescription, Error, HandshakeKind};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::conn::{Conn, ConnError};
use crate::destination::BackendTls;
use crate::failure::Failure;
use crate::telemetry::Event;
use crate::tls::Tls;
use crate::worker::Worker;

/// To applications and to hosts outside the mesh, of which no policy speaks. Enough for a lost SYN on a network of one
/// region, short enough that another endpoint is tried before a person notices.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The handshake may take so many times what the connection itself may: it costs the peer CPU, and a peer that is
/// out of that is slow, not dead. With the default 5 s.
const HANDSHAKE_PATIENCE: u32 = 5;

/// A connection takes no new request for so long before a certificate of its ends is over, so that the other end
/// never is the one who closes. Twice the interval in which connections are looked at.
const RETIRE_BEFORE: Duration = Duration::from_secs(2);

/// Sent data unacknowledged for this long means that the peer's machine is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects in clear.
pub(crate) async fn plain(address: SocketAddr, patience: Duration, worker: &Worker) -> Result<Conn, Failure> {
    Ok(Conn::plain(tcp(address, patience, worker).await?, worker.buffers.clone()))
}

/// Connects by mutual TLS, offering one ALPN protocol, and checks who answered.
pub(crate) async fn mtls(
    address: SocketAddr,
    tls: &BackendTls,
    alpn: &[u8],
    patience: Duration,
    worker: &Worker,
) -> Result<Conn, Failure> {
    let socket = tcp(address, patience, worker).await?;
    let failed = |error: ConnError| Failure::Tls { endpoint: address, reason: error.to_string() };
    let machine = Tls::client(tls.config.clone(), meshwork_identity::session_name(address), alpn);
    let mut conn =
        Conn::secured(socket, machine.map_err(|error| failed(error.into()))?, worker.buffers.clone());
    match timeout(patience * HANDSHAKE_PATIENCE, conn.handshake()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            if let ConnError::Tls(tls) = &error
                && let Some(refused) = PeerRefused::of(tls)
            {
                return Err(refused_peer(refused, address, worker));
            }
            worker.registry.count(Event::HandshakeFailed);
            return Err(match error {
                ConnError::Tls(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                    not_spoken(address, alpn)
                }
                error => failed(error),
            });
        }
        Err(_) => {
            worker.registry.count(Event::HandshakeTimeout);
            return Err(Failure::ConnectTimeout { endpoint: address });
        }
    }
    check(&mut conn, address, tls, alpn, worker)?;
    Ok(conn)
}

fn not_spoken(endpoint: SocketAddr, alpn: &[u8]) -> Failure {
    Failure::NotSpoken { endpoint, protocol: String::from_utf8_lossy(alpn).into_owned() }
}

/// The address under which connections to the application are pooled.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Connects to the local application: by IPv4, or by IPv6 if it listens only there.
pub(crate) async fn application(port: u16, worker: &Worker) -> Result<Conn, Failure> {
    let failed = |failure: Failure| match failure {
        Failure::Connect { source, .. } => Failure::AppRefused { port, source },
        Failure::ConnectTimeout { .. } => Failure::AppConnectTimeout { port },
        other => other,
    };
    let connected = match plain(loopback(port), CONNECT_TIMEOUT, worker).await {
        Err(Failure::Connect { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused => {
            plain((Ipv6Addr::LOCALHOST, port).into(), CONNECT_TIMEOUT, worker).await
        }
        connected => connected,
    };
    connected.map_err(failed)
}

fn check(
    conn: &mut Conn,
    address: SocketAddr,
    tls: &BackendTls,
    alpn: &[u8],
    worker: &Worker,
) -> Result<(), Failure> {
    let Some(session) = conn.tls() else { return Ok(()) };
    let trust_domain = tls.trust_domain();
    let now = SystemTime::now();
    let certificates = session.peer_certificates();
    let peer = meshwork_identity::check_peer(certificates, Some(&tls.expected), trust_domain, now)
        .map_err(|refused| refused_peer(&refused, address, worker))?;
    if session.alpn() != Some(alpn) {
        worker.registry.count(Event::HandshakeFailed);
        return Err(not_spoken(address, alpn));
    }
    worker.registry.count(match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => Event::HandshakeResumed,
        _ => Event::HandshakeFull,
    });
    let left = peer.not_after.min(tls.not_after).duration_since(now).unwrap_or_default();
    conn.set_proof_ends(worker.now() + left.saturating_sub(RETIRE_BEFORE));
    Ok(())
}

/// Somebody else's certificate is another matter than one that does not hold.
fn refused_peer(refused: &PeerRefused, endpoint: SocketAddr, worker: &Worker) -> Failure {
    worker.registry.count(Event::HandshakeRefusedPeer);
    tracing::warn!(%endpoint, "{refused}");
    let reason = refused.to_string();
    match refused.reason {
        Refusal::WrongService(_) | Refusal::NoMeshIdentity(_) | Refusal::ForeignTrustDomain { .. } => {
            Failure::WrongIdentity { endpoint, reason }
        }
        Refusal::NoCertificate
        | Refusal::Malformed
        | Refusal::UnknownRoot
        | Refusal::Expired(_)
        | Refusal::NotYetValid(_)
        | Refusal::Invalid(_) => Failure::Tls { endpoint, reason },
    }
}

async fn tcp(address: SocketAddr, patience: Duration, worker: &Worker) -> Result<TcpStream, Failure> {
    let failed = |source: io::Error| {
        if is_ours(&source) {
            worker.registry.count(Event::LimitDescriptors);
            let failure = Failure::OutOfDescriptors { endpoint: address, source };
            if worker.shared.descriptors_told.is_due(worker.now()) {
                tracing::warn!("{failure}");
            }
            return failure;
        }
        worker.registry.count(Event::ConnectFailed);
        Failure::Connect { endpoint: address, source }
    };
    let socket = match timeout(patience, worker.shared.mark.connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            worker.registry.count(Event::ConnectFailed);
            return Err(Failure::ConnectTimeout { endpoint: address });
        }
    };
    tune(&socket);
    worker.registry.count(Event::ConnectedUpstream);
    Ok(socket)
}

/// It fails here: no descriptor, no memory, no local port. The other end is none the worse for it.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// What every connection of the sidecar wants. A kernel that refuses an option costs latency, not the
/// connection.
pub(crate) fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(socket).set_tcp_user_timeout(Some(USER_TIMEOUT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_notices_that_its_other_end_is_gone() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&socket);
        assert_eq!(SockRef::from(&socket).tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(socket.nodelay().unwrap());
    }
}
