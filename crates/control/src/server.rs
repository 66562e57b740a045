//! The doors: one TLS port for sidecars (enrolment, sessions, xDS), one UNIX socket for operators.
//!
//! Who is at the other end is settled here, once per connection, and travels with each request as its
//! [`Caller`]: by certificate on the TLS port, checked after every handshake, by the kernel's word on the
//! socket. Operators from other machines come without a certificate and prove themselves by each request
//! (`api/access.rs`). What a caller may do is decided further in.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Extension;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use meshwork_identity::{Peer, PeerRefused, Refusal, check_peer, check_renewable};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;

use crate::caller::{Caller, CertificateEnd, RemoteAddress};
use crate::handshakes::Handshakes;
use crate::metrics::Metrics;
use crate::time::unix_seconds;

/// Connections on the TLS port. A sidecar holds one or two, so this is a mesh of 10,000 workloads with
/// room for all of them to come back at once. Beyond it new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32_768;

/// Connections on the operator socket: people and scripts.
const OPERATORS_MAX: usize = 512;

/// How long a peer may take for its handshake. Two round trips and a signature: whoever needs longer is
/// holding the place on purpose, or gone.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long an HTTP/1 client may take to send a request's head.
const HEAD_MAX: Duration = Duration::from_secs(30);

/// An HTTP/2 connection that was silent this long is asked whether it lives, and given up when it does
/// not answer: a sidecar whose machine vanished must not hold its place.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Streams on one connection. A sidecar uses three: session, ADS, and a renewal now and then.
const STREAMS_MAX: u32 = 64;

/// How long connections may take to finish what runs once the control plane stops.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// How long who was let in just before the end may take for the first word of a request, which is on its way. It is answered:
/// nobody is to notice that a control plane was replaced.
const FIRST_WORD_MAX: Duration = Duration::from_secs(2);

/// How long a connection without a certificate is kept: for one enrolment, which takes milliseconds. Whoever it is must not
/// hold one of the places for ever.
pub(crate) const STRANGER_MAX: Duration = Duration::from_secs(30);

/// How long who comes with an expired certificate may take to renew it, and to come again.
const LATE_MAX: Duration = Duration::from_secs(10);

/// After a failed accept (out of descriptors, mostly): it passes, we stay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the TLS port needs besides its listener.
pub(crate) struct Door {
    pub(crate) router: axum::Router,
    /// Replaced when the own certificate is renewed.
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    pub(crate) trust_domain: String,
    /// [`STRANGER_MAX`], but in tests.
    pub(crate) stranger_max: Duration,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Accepts sidecars until drained.
pub(crate) async fn serve_tls(listener: TcpListener, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let full = || door.metrics.limits_reached.count("connections");
    while let Some(place) = next_place(&places, full, &door.drain).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.drain.cancelled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let connection = tls_connection(stream, remote, Arc::clone(&door), place);
                door.tasks.spawn(connection);
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Makes the operator socket, for this user only. A socket that a former process left is replaced: the
/// store's lock says that it is gone.
pub(crate) fn bind_operator_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is 0700 already, so nobody else came in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts operators until drained.
pub(crate) async fn serve_operators(
    listener: UnixListener,
    router: axum::Router,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(OPERATORS_MAX));
    let full = || metrics.limits_reached.count("operators");
    while let Some(place) = next_place(&places, full, &drain).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => match operator(&stream) {
                Ok(caller) => {
                    let service = Extension(caller).layer(router.clone());
                    let (drain, owner) = (drain.clone(), tasks.clone());
                    tasks.spawn(async move {
                        serve_http(stream, service, drain.cancelled(), owner).await;
                        drop(place);
                    });
                }
                Err(reason) => tracing::warn!(reason, "refused a connection on the operator socket"),
            },
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn next_place(
    places: &Arc<Semaphore>,
    full: impl Fn(),
    drain: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    if places.available_permits() == 0 {
        full();
    }
    tokio::select! {
        place = Arc::clone(places).acquire_owned() => place.ok(),
        () = drain.cancelled() => None,
    }
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The kernel says who connected: this process's own user, or root.
fn operator(stream: &UnixStream) -> Result<Caller, String> {
    let uid = stream.peer_cred().map_err(|error| format!("the peer's user is unknown: {error}"))?.uid();
    let own = rustix::process::getuid().as_raw();
    if may_operate(uid, own) {
        Ok(Caller::Operator { uid })
    } else {
        Err(format!("uid {uid} is neither root nor the control plane's own user, uid {own}"))
    }
}

fn may_operate(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

async fn tls_connection(
    stream: TcpStream,
    remote: SocketAddr,
    door: Arc<Door>,
    _place: OwnedSemaphorePermit,
) {
    // Small messages that somebody waits for: pushes, answers.
    let _ = stream.set_nodelay(true);
    let outcomes = &door.metrics.handshakes;
    // Who says nothing, or only the beginning of a hello, takes no one's turn.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let begun = match tokio::time::timeout(HANDSHAKE_MAX, hello).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return outcomes.count(refused_handshake(remote, &error)),
        Err(_) => {
            outcomes.count("timeout");
            return tracing::debug!(%remote, "gave up a connection that did not finish its hello");
        }
    };
    // What has to be reckoned is reckoned in the first line; a client's time begins with its turn.
    let handshake = || tokio::time::timeout(HANDSHAKE_MAX, begun.into_stream(door.tls.load_full()));
    let stream = match door.handshakes.run(remote.ip(), handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return outcomes.count(refused_handshake(remote, &error)),
        Err(_) => {
            outcomes.count("timeout");
            return tracing::debug!(%remote, "gave up a connection that did not finish its handshake");
        }
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let (caller, end) = match caller(certificates, &door.trust_domain, SystemTime::now()) {
        Ok(known) => known,
        Err(refusal) => {
            let reason = refusal.reason.word();
            outcomes.count("peer_refused");
            return tracing::warn!(%remote, reason, "{refusal}");
        }
    };
    outcomes.count("done");
    let service = Extension(RemoteAddress(remote)).layer(door.router.clone());
    let service = Extension(end.clone()).layer(service);
    let service = Extension(caller.clone()).layer(service);
    let until = async {
        tokio::select! {
            () = door.drain.cancelled() => {}
            // A connection is worth no more than the certificates that it was opened with and that were renewed over it.
            () = ended(&caller, &end, door.stranger_max) => {
                tracing::debug!(%remote, "closed a connection: its certificate expired, or it came without one");
            }
        }
    };
    serve_http(stream, service, until, door.tasks.clone()).await;
}

/// Who connected, and until when that is proven. Looked at after the handshake, too: a resumed session asks no verifier.
fn caller(
    certificates: &[CertificateDer<'_>],
    trust_domain: &str,
    now: SystemTime,
) -> Result<(Caller, CertificateEnd), PeerRefused> {
    if certificates.is_empty() {
        return Ok((Caller::Anonymous, CertificateEnd::default()));
    }
    let end = |peer: &Peer| CertificateEnd::new(unix_seconds(peer.not_after));
    match check_peer(certificates, None, trust_domain, now) {
        Ok(peer) => Ok((Caller::Workload(peer.id.clone()), end(&peer))),
        Err(refused) if matches!(refused.reason, Refusal::Expired(_)) => {
            let peer = check_renewable(certificates, trust_domain, now)?;
            Ok((Caller::Late(peer.id.clone()), end(&peer)))
        }
        Err(refused) => Err(refused),
    }
}

/// Logs it; gives the word for the metric.
fn refused_handshake(remote: SocketAddr, error: &io::Error) -> &'static str {
    match PeerRefused::of_io(error) {
        Some(refusal) => {
            tracing::warn!(%remote, reason = refusal.reason.word(), "{refusal}");
            "peer_refused"
        }
        // Port scanners and health checks end here: nothing to wake anybody for.
        None => {
            tracing::debug!(%remote, %error, "a TLS handshake failed");
            "failed"
        }
    }
}

/// Waits until a connection is worth nothing any more: for ever where nothing was proven.
async fn ended(caller: &Caller, end: &CertificateEnd, stranger_max: Duration) {
    match caller {
        Caller::Workload(_) => over(end).await,
        Caller::Late(_) => tokio::time::sleep(LATE_MAX).await,
        Caller::Anonymous => {
            tokio::time::sleep(stranger_max).await;
            // An operator who has logged in meanwhile is no stranger.
            over(end).await;
        }
        Caller::Operator { .. } | Caller::Login { .. } => std::future::pending().await,
    }
}

async fn over(end: &CertificateEnd) {
    loop {
        let left = end.seconds().saturating_sub(unix_seconds(SystemTime::now()));
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(left)).await;
    }
}

/// HTTP/1 or HTTP/2, as the client begins, until it ends or `until` comes.
async fn serve_http<I, S>(stream: I, service: S, until: impl Future<Output = ()>, tasks: TaskTracker)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<axum::extract::Request, Response = axum::response::Response, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let service = tower::ServiceExt::map_request(service, |request: http::Request<hyper::body::Incoming>| {
        request.map(axum::body::Body::new)
    });
    let mut builder = auto::Builder::new(Owned(tasks));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_ANSWER_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let heard = CancellationToken::new();
    let until = async {
        until.await;
        let _ = tokio::time::timeout(FIRST_WORD_MAX, heard.cancelled()).await;
    };
    let stream = Heard { stream, heard: Some(heard.clone()) };
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = until => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FAREWELL_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("a connection did not end in time and was closed"),
            }
        }
    };
    if let Err(error) = ended {
        // A sidecar that was killed looks like this.
        tracing::debug!(error, "a connection ended in an error");
    }
}

/// A stream that tells when something has come over it.
struct Heard<I> {
    stream: I,
    /// Until then.
    heard: Option<CancellationToken>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Given away with the first piece: to cancel takes a lock, as to ask whether it was does, and this is for each piece.
        if buffer.filled().len() > before
            && let Some(heard) = self.heard.take()
        {
            heard.cancel();
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Spawns the tasks of HTTP/2 streams where `Control::stop` waits for them.
#[derive(Clone)]
struct Owned(TaskTracker);

impl<F> hyper::rt::Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_operate() {
        assert!(may_operate(1_000, 1_000));
        assert!(may_operate(0, 1_000));
        assert!(!may_operate(1_001, 1_000));
        assert!(!may_operate(1_000, 0), "not even a user's on a control plane of root's");
    }
}
