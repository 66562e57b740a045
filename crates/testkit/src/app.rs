//! Applications without any notion of a mesh, on loopback: one for HTTP, one for opaque TCP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::wait::soon;

/// The header by which an application says its name.
const NAME: &str = "x-app";

/// An application. Dropped, it is gone as if killed: its port is closed, and so is every connection.
pub struct App {
    address: SocketAddr,
    seen: Arc<Seen>,
    _serving: AbortOnDropHandle<()>,
}

/// A request as the application saw it.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

struct Seen {
    /// Answered HTTP requests, or accepted TCP connections.
    count: watch::Sender<usize>,
    /// HTTP requests that came.
    asked: watch::Sender<usize>,
    /// Those that are being worked on.
    working: watch::Sender<usize>,
    /// What they are answered with.
    status: AtomicU16,
    last: Mutex<Option<Received>>,
}

impl App {
    /// Answers every request with 200, its name in `x-app` and the request's own body.
    pub async fn http(name: &str) -> Self {
        Self::http_after(name, Duration::ZERO).await
    }

    /// The same, with work that takes a while.
    pub async fn http_after(name: &str, work: Duration) -> Self {
        let name: Arc<str> = name.into();
        Self::start(move |stream, seen| {
            let name = name.clone();
            async move {
                let service = service_fn(move |request| answer(request, name.clone(), work, seen.clone()));
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // Whoever broke it off has seen it.
                let _ = serving.await;
            }
        })
        .await
    }

    /// Sends back what it gets, until the other side has said all.
    pub async fn tcp_echo() -> Self {
        Self::start(|mut stream, seen: Arc<Seen>| async move {
            seen.count.send_modify(|count| *count += 1);
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port for the application");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Seen {
            count: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            working: watch::Sender::new(0),
            status: AtomicU16::new(200),
            last: Mutex::default(),
        });
        let shared = seen.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("descriptors are left");
                        stream.set_nodelay(true).expect("a TCP socket");
                        connections.spawn(serve(stream, shared.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that it answered (TCP: connections that it took).
    pub fn count(&self) -> usize {
        *self.seen.count.borrow()
    }

    /// Waits until it has answered that many.
    ///
    /// # Panics
    /// If it never does.
    pub async fn reached(&self, count: usize) {
        let mut counted = self.seen.count.subscribe();
        let what = format!("{count} requests at the application on port {}", self.address.port());
        // The sender is `self`'s.
        let _ = soon(&what, counted.wait_for(|have| *have >= count)).await;
    }

    /// From now on every request is answered with this status.
    pub fn answers_with(&self, status: u16) {
        self.seen.status.store(status, Ordering::Relaxed);
    }

    /// Waits until so many requests have come.
    ///
    /// # Panics
    /// If they never do.
    pub async fn asked(&self, count: usize) {
        let mut asked = self.seen.asked.subscribe();
        let what = format!("{count} requests for the application on port {}", self.address.port());
        let _ = soon(&what, asked.wait_for(|have| *have >= count)).await;
    }

    /// HTTP requests that have come, answered or not.
    pub fn begun(&self) -> usize {
        *self.seen.asked.borrow()
    }

    /// Waits until it works on no request: each was answered, or nobody waits for it any more.
    ///
    /// # Panics
    /// If it goes on working.
    pub async fn rested(&self) {
        let mut working = self.seen.working.subscribe();
        let what = format!("nothing to do for the application on port {}", self.address.port());
        // The sender is `self`'s.
        let _ = soon(&what, working.wait_for(|working| *working == 0)).await;
    }

    /// The last request.
    ///
    /// # Panics
    /// If there was none.
    pub fn last(&self) -> Received {
        let last = self.seen.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().expect("a request came")
    }
}

/// A request that is worked on; dropped with its connection.
struct AtWork(Arc<Seen>);

impl AtWork {
    fn begin(seen: Arc<Seen>) -> Self {
        seen.working.send_modify(|working| *working += 1);
        Self(seen)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.working.send_modify(|working| *working -= 1);
    }
}

async fn answer(
    request: Request<Incoming>,
    name: Arc<str>,
    work: Duration,
    seen: Arc<Seen>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let _at_work = AtWork::begin(seen.clone());
    seen.asked.send_modify(|count| *count += 1);
    if !work.is_zero() {
        tokio::time::sleep(work).await;
    }
    let received = Received {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.clone(),
    };
    *seen.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(received);
    seen.count.send_modify(|count| *count += 1);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(seen.status.load(Ordering::Relaxed)).expect("a status of HTTP");
    let name = name.parse().expect("an application's name is a header's value");
    response.headers_mut().insert(NAME, name);
    Ok(response)
}
