//! From the mesh to the local application: mutual TLS, who calls, and what they speak.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::filter;
use meshwork_core::model::SpiffeId;
use meshwork_identity::PeerRefused;
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::alpn::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP};
use crate::conn::{Conn, ConnError, Filled};
use crate::drain::Stage;
use crate::http::{self, Admission, Inbound, Role};
use crate::live::Credentials;
use crate::settings::PortSpec;
use crate::telemetry::plaintext::Met;
use crate::telemetry::{Event, Labels};
use crate::tls::Tls;
use crate::worker::Worker;
use crate::{connect, mux, preamble, tcp};

/// From the connection's first byte to the end of its handshake and preamble.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For our own certificate, of that: from disk it is there at once; a caller of a sidecar that is only enrolling
/// goes elsewhere sooner than by its own time-out.
const CREDENTIALS_MAX: Duration = Duration::from_secs(3);

/// So long after the end of a client's certificate its connection is closed between two requests. A sidecar stops using
/// it before that end, so only somebody else's clock, or somebody else, meets this.
const OUTDATED_GRACE: Duration = Duration::from_secs(5);

/// The first byte of every TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("this sidecar has no certificate yet")]
    NoCredentials,
    #[error("the connection is not TLS; only mutual TLS from the mesh is taken here")]
    Plaintext,
    #[error("the handshake failed: {0}")]
    Handshake(String),
    #[error("the handshake took longer than {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Peer(String),
    #[error("the peer offered no protocol of the mesh (want h2, http/1.1 or meshwork-tcp/1)")]
    Alpn,
    #[error("{0}")]
    Preamble(String),
    #[error("the connection ended within its handshake")]
    Ended,
}

impl Refused {
    fn event(&self) -> Event {
        match self {
            Self::Plaintext => Event::HandshakePlaintext,
            Self::Peer(_) => Event::HandshakeRefusedPeer,
            Self::Timeout => Event::HandshakeTimeout,
            Self::NoCredentials | Self::Handshake(_) | Self::Alpn | Self::Preamble(_) | Self::Ended => {
                Event::HandshakeFailed
            }
        }
    }
}

/// A connection to the mTLS port of one of the application's ports.
pub(crate) async fn serve(socket: TcpStream, from: SocketAddr, port: &PortSpec, worker: &Rc<Worker>) {
    let secured = timeout(HANDSHAKE_TIMEOUT, secure(socket, worker)).await.unwrap_or(Err(Refused::Timeout));
    carry(secured, from, port, worker).await;
}

/// The same, once it was seen to be TLS.
pub(crate) async fn serve_begun(conn: Conn, from: SocketAddr, port: &PortSpec, worker: &Rc<Worker>) {
    let secured = async {
        let credentials = credentials(worker).await?;
        shake_hands(conn, &credentials, worker).await
    };
    let secured = timeout(HANDSHAKE_TIMEOUT, secured).await.unwrap_or(Err(Refused::Timeout));
    carry(secured, from, port, worker).await;
}

async fn carry(secured: Result<Secured, Refused>, from: SocketAddr, port: &PortSpec, worker: &Rc<Worker>) {
    let app_port = port.app_port;
    let carried = match secured {
        Ok(Secured { conn, peer, speaks: Speaks::Http1 }) => {
            let role = Role::Inbound(inbound(&peer, port, worker));
            http::serve(conn, &role, worker).await;
            Ok(())
        }
        Ok(Secured { conn, peer, speaks: Speaks::Http2 }) => {
            let role = Role::Inbound(inbound(&peer, port, worker));
            mux::serve(conn, role, worker).await;
            Ok(())
        }
        Ok(Secured { conn, peer, speaks: Speaks::Tcp }) => opaque(conn, &peer, app_port, worker).await,
        Err(refused) => Err(refused),
    };
    if let Err(refused) = carried {
        worker.registry.count(refused.event());
        if matches!(refused, Refused::Plaintext) {
            worker.registry.plaintext.met(from.ip(), app_port, Met::Refused);
        }
        tracing::warn!(%from, app_port, "inbound connection refused: {refused}");
    }
}

struct Secured {
    conn: Conn,
    peer: SpiffeId,
    speaks: Speaks,
}

enum Speaks {
    Http1,
    Http2,
    Tcp,
}

async fn secure(socket: TcpStream, worker: &Rc<Worker>) -> Result<Secured, Refused> {
    let credentials = credentials(worker).await?;
    let mut first = [0];
    // Looked at before TLS takes it for a broken record, to say what it is.
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Refused::Ended),
        Ok(_) if first[0] != TLS_HANDSHAKE => return Err(Refused::Plaintext),
        Ok(_) => {}
    }
    shake_hands(Conn::plain(socket, worker.buffers.clone()), &credentials, worker).await
}

async fn shake_hands(conn: Conn, credentials: &Credentials, worker: &Rc<Worker>) -> Result<Secured, Refused> {
    let machine =
        Tls::server(credentials.server.clone()).map_err(|error| Refused::Handshake(error.to_string()))?;
    let mut conn = conn.secure(machine);
    conn.handshake().await.map_err(refused)?;
    let (peer, speaks) = judge(&mut conn, credentials, worker)?;
    Ok(Secured { conn, peer, speaks })
}

/// Waits for them a while: a sidecar that was restarted on its sockets has callers before it has read its
/// certificate from disk.
async fn credentials(worker: &Worker) -> Result<Arc<Credentials>, Refused> {
    let mut versions = worker.shared.live.watch();
    let known = async {
        loop {
            if let Some(credentials) = &worker.snapshot().credentials {
                return Ok(credentials.clone());
            }
            versions.changed().await.map_err(|_| Refused::NoCredentials)?;
        }
    };
    timeout(CREDENTIALS_MAX, known).await.unwrap_or(Err(Refused::NoCredentials))
}

/// Whose certificate it was, where that is known.
fn refused(error: ConnError) -> Refused {
    match &error {
        ConnError::Tls(tls) => match PeerRefused::of(tls) {
            Some(peer) => Refused::Peer(peer.to_string()),
            None => Refused::Handshake(error.to_string()),
        },
        ConnError::Truncated => Refused::Ended,
        ConnError::Io(_) => Refused::Handshake(error.to_string()),
    }
}

/// Who it is, resumed sessions included, and what it wants to speak.
fn judge(
    conn: &mut Conn,
    credentials: &Credentials,
    worker: &Rc<Worker>,
) -> Result<(SpiffeId, Speaks), Refused> {
    let session = conn.tls().ok_or(Refused::Plaintext)?;
    let trust_domain = credentials.bundle.trust_domain();
    let now = SystemTime::now();
    let peer = meshwork_identity::check_peer(session.peer_certificates(), None, trust_domain, now)
        .map_err(|refused| Refused::Peer(refused.to_string()))?;
    worker.registry.count(match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => Event::HandshakeResumed,
        _ => Event::HandshakeFull,
    });
    let speaks = match session.alpn() {
        Some(ALPN_HTTP2) => Speaks::Http2,
        Some(ALPN_HTTP1) => Speaks::Http1,
        Some(ALPN_TCP) => Speaks::Tcp,
        _ => return Err(Refused::Alpn),
    };
    let left = peer.not_after.duration_since(now).unwrap_or_default();
    conn.set_proof_ends(worker.now() + left + OUTDATED_GRACE);
    Ok((peer.id, speaks))
}

fn inbound(peer: &SpiffeId, port: &PortSpec, worker: &Rc<Worker>) -> Inbound {
    let caller = format!("{}/{}", peer.namespace(), peer.account());
    Inbound {
        client_cert: Some(filter::client_cert(peer)),
        labels: worker.registry.inbound(&Labels { peer: caller, route: String::new() }),
        app_port: port.app_port,
        undeclared: None,
        registered: port.protocol,
        admission: admission(worker),
    }
}

pub(crate) fn admission(worker: &Worker) -> Admission {
    match worker.drains.inbound.stage() {
        Stage::Serving => Admission::Open,
        Stage::Finishing | Stage::TimeUp => Admission::Draining,
    }
}

async fn opaque(mut conn: Conn, peer: &SpiffeId, app_port: u16, worker: &Rc<Worker>) -> Result<(), Refused> {
    let read = timeout(HANDSHAKE_TIMEOUT, read_preamble(&mut conn)).await.map_err(|_| Refused::Timeout)?;
    let asked = read?;
    if asked != app_port {
        return Err(Refused::Preamble(format!(
            "the preamble asks for port {asked}, but this is port {app_port}'s"
        )));
    }
    if let Err(failure) = worker.shared.ceilings.memory.admit(&worker.registry) {
        tracing::debug!(%peer, app_port, %failure, "opaque connection not carried");
        return Ok(());
    }
    worker.registry.count(Event::OpaqueInbound);
    let mut application = match connect::application(app_port, worker).await {
        Ok(application) => application,
        Err(failure) => {
            tracing::info!(%peer, app_port, %failure, "opaque connection not carried");
            return Ok(());
        }
    };
    if let Err(error) = tcp::splice(&mut conn, &mut application, None, &worker.drains.inbound).await {
        tracing::debug!(%peer, app_port, %error, "opaque connection broke off");
    }
    Ok(())
}

async fn read_preamble(conn: &mut Conn) -> Result<u16, Refused> {
    loop {
        let read = preamble::read(conn.input()).map_err(|error| Refused::Preamble(error.to_string()))?;
        if let Some(read) = read {
            conn.consume(read.consumed);
            return Ok(read.app_port);
        }
        match conn.fill().await {
            Ok(Filled::More) => {}
            Ok(Filled::End) | Err(_) => return Err(Refused::Ended),
        }
    }
}
