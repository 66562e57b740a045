//! The admin port: is the sidecar ready, what does it count, what does it know, how much does it log.
//!
//! For people and scrapers on this machine; no application's request comes here. What is shown comes from
//! functions that the owner gives (`Views`); none of them may show a secret.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::SetLogLevel;

/// Connections at once: a scraper, a person, a probe, and room. More wait in the socket's queue.
const CONNECTIONS_MAX: usize = 64;

/// A client that sends half a request and then nothing is let go.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);

/// How long a connection is kept, whatever it does: a client that sends half a body, or does not read its answer, must not
/// hold one of the few places for ever. A scraper that is sent away between two requests connects again.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// What a request that runs then may still take.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(5);

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
    let reached = match stream.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => Reached::Here,
        _ => Reached::FromElsewhere,
    };
    let service = service_fn(move |request| {
        let views = views.clone();
        async move { Ok::<_, Infallible>(answer(request, pages, reached, &views).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = sleep(CONNECTION_MAX) => {
            served.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER_MAX, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke");
    }
}

/// Over which of the machine's addresses a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// Loopback: a program of this machine, and a web page in its browser may be one.
    Here,
    /// One that somebody opened to others: they know it by whatever name.
    FromElsewhere,
}

/// Whether a request may be a web page's, whose name was made to lead to loopback (DNS rebinding): to its browser that is the
/// page's own server, of which it may read everything. Programs that mean this port write its address, or `localhost`.
fn is_rebound(reached: Reached, host: Option<&HeaderValue>) -> bool {
    let (Reached::Here, Some(host)) = (reached, host) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return true;
    };
    let name = authority.host();
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    !is_address && !name.eq_ignore_ascii_case("localhost")
}

async fn answer(
    request: Request<Incoming>,
    pages: Pages,
    reached: Reached,
    views: &Views,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if pages == Pages::Ready && path != "/ready" {
        return text(StatusCode::NOT_FOUND, "only GET /ready is answered here\n");
    }
    if pages == Pages::All && is_rebound(reached, request.headers().get(header::HOST)) {
        return text(
            StatusCode::FORBIDDEN,
            "ask by the port's address, or as localhost: any other name may be a web page's\n",
        );
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_addresses_and_localhost_mean_this_port() {
        let is_refused = |reached, host: &str| is_rebound(reached, Some(&host.parse().unwrap()));
        for host in
            ["127.0.0.1:4191", "127.0.0.1", "[::1]:4191", "10.0.0.7:4191", "localhost:4191", "LOCALHOST"]
        {
            assert!(!is_refused(Reached::Here, host), "{host}");
        }
        for host in
            ["evil.example:4191", "localhost.evil.example", "127.0.0.1.evil.example", "admin", "a b", ""]
        {
            assert!(is_refused(Reached::Here, host), "{host}");
            assert!(!is_refused(Reached::FromElsewhere, host), "{host}");
        }
        assert!(!is_rebound(Reached::Here, None), "HTTP/1.0 of a simple probe");
    }

    fn views() -> Views {
        Views {
            ready: Arc::new(|| Ok(())),
            metrics: Arc::new(String::new),
            metrics_content_type: "text/plain",
            config: Arc::new(|| serde_json::json!({})),
            set_log_level: Arc::new(|_| Ok(())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_that_are_taken_by_halves_of_requests_are_free_again_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, Pages::All, views()));
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nde")
                .await
                .unwrap();
            held.push(half);
        }
        let begun = tokio::time::Instant::now();
        let mut honest = TcpStream::connect(address).await.unwrap();
        honest
            .write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        honest.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(begun.elapsed() <= CONNECTION_MAX + 2 * LAST_ANSWER_MAX, "{:?}", begun.elapsed());
        serving.abort();
    }
}
