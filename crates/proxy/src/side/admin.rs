//! The admin port: is the sidecar ready, what does it count, what does it know, how much does it log.
//!
//! For people and scrapers on this machine; no application's request comes here. What is shown comes from
//! functions that the owner gives (`Views`); none of them may show a secret.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::SetLogLevel;

/// Connections at once: a scraper, a person, a probe, and room. More wait in the socket's queue.
const CONNECTIONS_MAX: usize = 64;

/// A client that sends half a request and then nothing is let go.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);

/// Bytes of a log filter.
const BODY_BYTES_MAX: usize = 4_096;

/// When accepting fails (out of descriptors): it passes, we stay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PAGES: &str = "GET /ready      200 once the sidecar can carry traffic, 503 and the reason before\n\
                     GET /metrics    Prometheus' text format\n\
                     GET /config     what the sidecar knows, as JSON\n\
                     PUT /log-level  a tracing filter as the body, for example `debug` or `info,meshwork_proxy=trace`\n";

/// What the admin port shows.
#[derive(Clone)]
pub(crate) struct Views {
    /// What is missing, in words.
    pub(crate) ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) metrics_content_type: &'static str,
    pub(crate) config: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    pub(crate) set_log_level: SetLogLevel,
}

/// What a port of this kind answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    All,
    /// Whether the sidecar is ready, and nothing else: the platform asks from outside, and so may anybody.
    Ready,
}

/// Serves until dropped.
pub(crate) async fn serve(listener: TcpListener, pages: Pages, views: Views) -> std::io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, pages, views.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {} // reap what has ended
        }
    }
}

async fn serve_connection(stream: TcpStream, pages: Pages, views: Views) {
    let service = service_fn(move |request| {
        let views = views.clone();
        async move { Ok::<_, Infallible>(answer(request, pages, &views).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an admin connection broke");
    }
}

async fn answer(request: Request<Incoming>, pages: Pages, views: &Views) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if pages == Pages::Ready && path != "/ready" {
        return text(StatusCode::NOT_FOUND, "only GET /ready is answered here\n");
    }
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/ready") => match (views.ready)() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => {
            reply(StatusCode::OK, views.metrics_content_type, (views.metrics)())
        }
        (&Method::GET | &Method::HEAD, "/config") => {
            reply(StatusCode::OK, "application/json", format!("{:#}\n", (views.config)()))
        }
        (&Method::PUT | &Method::POST, "/log-level") => set_log_level(request, views).await,
        (_, "/ready" | "/metrics" | "/config" | "/log-level") => {
            text(StatusCode::METHOD_NOT_ALLOWED, format!("{} can't be used here:\n{PAGES}", request.method()))
        }
        _ => text(StatusCode::NOT_FOUND, format!("there is no {path} here:\n{PAGES}")),
    }
}

async fn set_log_level(request: Request<Incoming>, views: &Views) -> Response<Full<Bytes>> {
    // A web page that somebody has open on this machine can send a POST here; only a browser sends this.
    if request.headers().contains_key(header::ORIGIN) {
        return text(StatusCode::FORBIDDEN, "a web page may not change the log level\n");
    }
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return text(StatusCode::BAD_REQUEST, format!("want a filter of at most {BODY_BYTES_MAX} bytes\n"));
    };
    let body = body.to_bytes();
    let filter = String::from_utf8_lossy(&body);
    let filter = filter.trim();
    if filter.is_empty() {
        return text(StatusCode::BAD_REQUEST, "want a filter as the body, for example `debug`\n");
    }
    match (views.set_log_level)(filter) {
        Ok(()) => {
            tracing::info!(filter, "the log level was changed on the admin port");
            text(StatusCode::OK, format!("{filter}\n"))
        }
        Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.into())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
