//! The load: five kinds of callers behind one sidecar, each of which checks what it gets back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, TE};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::sidecar::Ports;
use crate::failure::{Doing as _, Result, fail};

/// Callers of each kind.
const EACH: usize = 4;

/// Between two requests of a caller.
const PAUSE: Duration = Duration::from_millis(20);

/// Nothing takes longer, whatever happens meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Failures that are told one by one.
const TOLD_MAX: u64 = 20;

/// A body, or a message, of some segments now and then.
const SIZES: [usize; 4] = [16, 128, 1_024, 40_000];

#[derive(Default)]
pub(super) struct Counts {
    stopped: AtomicBool,
    requests: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http1,
    Http2,
    Grpc,
    WebSocket,
    Tcp,
}

impl Counts {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Requests, and those among them that failed.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    fn count(&self, kind: Kind, done: Result<()>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = done
            && self.failed.fetch_add(1, Ordering::Relaxed) < TOLD_MAX
        {
            eprintln!("  {kind:?} failed: {failure}");
        }
    }
}

pub(super) fn start(tasks: &mut JoinSet<Result<()>>, ports: Ports, counts: &Arc<Counts>) {
    for kind in [Kind::Http1, Kind::Http2, Kind::Grpc, Kind::WebSocket, Kind::Tcp] {
        for _ in 0..EACH {
            let counts = Arc::clone(counts);
            tasks.spawn(async move {
                call(kind, ports, &counts).await;
                Ok(())
            });
        }
    }
}

async fn call(kind: Kind, ports: Ports, counts: &Counts) {
    let mut connection = None;
    for number in 0.. {
        if counts.stopped.load(Ordering::Relaxed) {
            return;
        }
        let text = Bytes::from(vec![b'a' + (number % 26) as u8; SIZES[number % SIZES.len()]]);
        let once = async {
            match kind {
                Kind::Http1 => http1_once(&mut connection, ports, text).await,
                Kind::Http2 => http2_once(&mut connection, ports, text).await,
                Kind::Grpc => grpc_once(&mut connection, ports, text).await,
                Kind::WebSocket => web_socket_once(ports, text).await,
                Kind::Tcp => tcp_once(ports, text).await,
            }
        };
        let done = tokio::time::timeout(ANSWER_MAX, once).await;
        let done = done.unwrap_or_else(|_| fail(format!("no answer within {ANSWER_MAX:?}")));
        if done.is_err() {
            connection = None;
        }
        counts.count(kind, done);
        tokio::time::sleep(PAUSE).await;
    }
}

/// A caller's connection to its sidecar, used again as long as it is open.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

async fn http1_once(connection: &mut Option<Connection>, ports: Ports, text: Bytes) -> Result<()> {
    let doing = || "HTTP/1".to_owned();
    let open = match connection.take() {
        Some(Connection::Http1(mut sender)) => sender.ready().await.is_ok().then_some(sender),
        Some(Connection::Http2(_)) | None => None,
    };
    let mut sender = match open {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(ports.outbound).await.doing(doing)?;
            let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.doing(doing)?;
            tokio::spawn(driver);
            sender
        }
    };
    let request = Request::builder().method(Method::PUT).uri("http://echo/").header("host", "echo");
    let request = request.body(Full::new(text.clone())).doing(doing)?;
    check(sender.send_request(request).await.doing(doing)?, &text).await?;
    *connection = Some(Connection::Http1(sender));
    Ok(())
}

async fn http2_sender(
    connection: &mut Option<Connection>,
    ports: Ports,
) -> Result<http2::SendRequest<Full<Bytes>>> {
    let doing = || "HTTP/2".to_owned();
    if let Some(Connection::Http2(sender)) = connection
        && sender.ready().await.is_ok()
    {
        return Ok(sender.clone());
    }
    let stream = TcpStream::connect(ports.outbound).await.doing(doing)?;
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.doing(doing)?;
    tokio::spawn(driver);
    *connection = Some(Connection::Http2(sender.clone()));
    Ok(sender)
}

async fn http2_once(connection: &mut Option<Connection>, ports: Ports, text: Bytes) -> Result<()> {
    let doing = || "HTTP/2".to_owned();
    let mut sender = http2_sender(connection, ports).await?;
    let request = Request::builder().method(Method::PUT).uri("http://echo/");
    let request = request.body(Full::new(text.clone())).doing(doing)?;
    check(sender.send_request(request).await.doing(doing)?, &text).await
}

async fn grpc_once(connection: &mut Option<Connection>, ports: Ports, text: Bytes) -> Result<()> {
    let doing = || "gRPC".to_owned();
    let mut sender = http2_sender(connection, ports).await?;
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(&text);
    let message = Bytes::from(message);
    let request = Request::builder().method(Method::POST).uri("http://echo/soak.Echo/Say");
    let request = request.header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
    let request = request.body(Full::new(message.clone())).doing(doing)?;
    check(sender.send_request(request).await.doing(doing)?, &message).await
}

/// 200 with what was sent, and of gRPC a status of 0.
async fn check(response: Response<Incoming>, text: &Bytes) -> Result<()> {
    let (head, body) = response.into_parts();
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|value| value == "application/grpc");
    let body = body.collect().await.doing(|| "the answer's body".to_owned())?;
    let status = |name: &str| {
        let trailers = body.trailers().and_then(|trailers| trailers.get(name));
        trailers.or_else(|| head.headers.get(name)).cloned()
    };
    let grpc_status = status("grpc-status");
    if head.status != 200 || (is_grpc && grpc_status.as_ref().is_none_or(|status| status != "0")) {
        let cause = status("x-meshwork-cause").or_else(|| status("grpc-message"));
        return fail(format!("answered {}, gRPC status {grpc_status:?}, {cause:?}", head.status));
    }
    let bytes = body.to_bytes();
    if bytes != *text { fail(format!("{} bytes came back of {}", bytes.len(), text.len())) } else { Ok(()) }
}

async fn web_socket_once(ports: Ports, text: Bytes) -> Result<()> {
    let doing = || "WebSocket".to_owned();
    let stream = TcpStream::connect(ports.outbound).await.doing(doing)?;
    let (mut socket, _) = tokio_tungstenite::client_async("ws://echo/socket", stream).await.doing(doing)?;
    for _ in 0..3 {
        socket.send(Message::Binary(text.clone())).await.doing(doing)?;
        match socket.next().await {
            Some(Ok(Message::Binary(back))) if back == text => {}
            other => return fail(format!("WebSocket: expected what was sent, got {other:?}")),
        }
    }
    socket.close(None).await.doing(doing)?;
    while let Some(message) = socket.next().await {
        message.doing(doing)?;
    }
    Ok(())
}

async fn tcp_once(ports: Ports, text: Bytes) -> Result<()> {
    let doing = || "TCP".to_owned();
    let mut stream = TcpStream::connect(ports.upstream).await.doing(doing)?;
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(&text).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut back));
    sent.and(received).doing(doing)?;
    if back != text { fail(format!("TCP: {} bytes came back of {}", back.len(), text.len())) } else { Ok(()) }
}
