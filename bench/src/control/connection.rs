//! A sidecar's connection: TLS over a socket of which each byte is counted, and which can be left unread.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use meshwork_identity::session_name;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::failure::{Doing as _, Result};

/// Of one sidecar, over all its connections.
#[derive(Default)]
pub(super) struct Counts {
    /// As they came from the socket: TLS and HTTP/2 with all that they add.
    received: AtomicU64,
    /// Whoever this is of reads no more, and says nothing.
    frozen: AtomicBool,
}

impl Counts {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// For good: nothing wakes it.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }
}

/// Connects now; a connection that breaks stays broken.
pub(super) async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
    counts: Arc<Counts>,
) -> Result<Channel> {
    let doing = || format!("connecting to {address}");
    let tcp = TcpStream::connect(address).await.doing(doing)?;
    tcp.set_nodelay(true).doing(doing)?;
    let name = session_name(tcp.peer_addr().doing(doing)?);
    let stream = TlsConnector::from(config).connect(name, Counted { tcp, counts }).await.doing(doing)?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::other("the connection is gone"));
        std::future::ready(stream)
    });
    // `http`, as tonic would bring its own TLS for `https`.
    Endpoint::from_static("http://control.meshwork-system")
        .connect_with_connector(connector)
        .await
        .doing(doing)
}

struct Counted {
    tcp: TcpStream,
    counts: Arc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.counts.frozen.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.counts.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
