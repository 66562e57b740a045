//! Is the local application well? One probe a second, and what a row of them means.
//!
//! `core/src/health.rs` decides; `watch` waits and probes. What follows from it is `session.rs`'s affair: a workload is
//! registered only once it is well, and taken out as soon as it is not.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use meshwork_core::health::{Judge, Turn};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::mark::Mark;

/// Often enough that a broken application is out within seconds, rare enough to be no load.
const INTERVAL: Duration = Duration::from_secs(1);

/// Until the application is well for the first time: a start should not wait for a full interval.
const START_INTERVAL: Duration = Duration::from_millis(100);

/// A probe that takes longer has failed: a caller would not wait either.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// What is probed, always on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Every port accepts, asked until it did so once. Not afterwards: an empty connection each second
    /// means nothing good to a database that counts them.
    Accepts(Vec<u16>),
    Tcp(Vec<u16>),
    /// GET: 200 to 399 is well.
    Http {
        port: u16,
        path: String,
    },
    /// `grpc.health.v1.Health/Check` of the whole server answers `SERVING`.
    Grpc {
        port: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AppHealth {
    /// Never well so far; says what it is waited for.
    Starting(String),
    Healthy,
    /// Says what was found.
    Unhealthy(String),
}

/// Probes until nobody listens any more.
pub(crate) async fn watch(check: Check, mark: Mark, health: watch::Sender<AppHealth>) {
    let mut judge = Judge::unproven();
    while !health.is_closed() {
        let outcome = probe(&check, mark).await;
        if let Some(changed) = record(&mut judge, outcome) {
            match &changed {
                AppHealth::Healthy => tracing::info!("the application is well"),
                AppHealth::Unhealthy(detail) => tracing::warn!(%detail, "the application is not well"),
                AppHealth::Starting(detail) => tracing::debug!(%detail, "the application is not up yet"),
            }
            health.send_if_modified(|current| {
                let differs = *current != changed;
                *current = changed;
                differs
            });
        }
        if judge.is_proven() && matches!(check, Check::Accepts(_)) {
            return;
        }
        let interval = if judge.is_proven() { INTERVAL } else { START_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = health.closed() => return,
        }
    }
}

/// The new state, if it is one.
fn record(judge: &mut Judge, outcome: Result<(), String>) -> Option<AppHealth> {
    match (judge.record(outcome.is_ok()), outcome) {
        (Some(Turn::Unwell), Err(detail)) => Some(AppHealth::Unhealthy(detail)),
        (Some(Turn::Well | Turn::Unwell), _) => Some(AppHealth::Healthy),
        // Still on its way up: the detail may have changed.
        (None, Err(detail)) if !judge.is_proven() => Some(AppHealth::Starting(detail)),
        (None, _) => None,
    }
}

async fn probe(check: &Check, mark: Mark) -> Result<(), String> {
    let probed = async {
        match check {
            Check::Accepts(ports) | Check::Tcp(ports) => {
                for port in ports {
                    connect(*port, mark).await?;
                }
                Ok(())
            }
            Check::Http { port, path } => probe_http(*port, path, mark).await,
            Check::Grpc { port } => grpc::probe(*port, mark).await,
        }
    };
    match tokio::time::timeout(PROBE_MAX, probed).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{check} gave no answer within {} s", PROBE_MAX.as_secs())),
    }
}

async fn connect(port: u16, mark: Mark) -> Result<TcpStream, String> {
    let refused = |error: io::Error| format!("port {port} of the application does not accept ({error})");
    mark.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(refused)
}

async fn probe_http(port: u16, path: &str, mark: Mark) -> Result<(), String> {
    let failed = |what: String| format!("GET {path} on port {port} {what}");
    let stream = connect(port, mark).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(format!("failed: {error}")))?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::USER_AGENT, "meshwork-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(format!("can't be asked: {error}")))?;
    // Its end is no answer: it may come together with the last bytes of one. It fails `send_request` if not.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = sender.send_request(request) => {
            let answer = answer.map_err(|error| failed(format!("failed: {error}")))?;
            judge_status(answer.status()).map_err(failed)
        }
        never = driven => match never {},
    }
}

fn judge_status(status: StatusCode) -> Result<(), String> {
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepts(ports) | Self::Tcp(ports) => write!(f, "connecting to {ports:?}"),
            Self::Http { port, path } => write!(f, "GET {path} on port {port}"),
            Self::Grpc { port } => write!(f, "the gRPC health check on port {port}"),
        }
    }
}

/// gRPC's own health check.
mod grpc {
    use http::uri::PathAndQuery;
    use meshwork_xds::grpc_health::{CHECK, HealthCheckRequest, HealthCheckResponse, SERVING};
    use tonic::{Code, Request};
    use tonic_prost::ProstCodec;

    use super::{Endpoint, Ipv4Addr, Mark, TokioIo, io};

    pub(super) async fn probe(port: u16, mark: Mark) -> Result<(), String> {
        super::connect(port, mark).await?; // for its plain words: tonic's are "transport error"
        let failed = |what: &str| format!("the gRPC health check on port {port} {what}");
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
            .map_err(|error| failed(&error.to_string()))?;
        let connector = tower::service_fn(move |_| async move {
            Ok::<_, io::Error>(TokioIo::new(mark.connect((Ipv4Addr::LOCALHOST, port).into()).await?))
        });
        let channel =
            endpoint.connect_with_connector(connector).await.map_err(|_| failed("met no HTTP/2 server"))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| failed(&error.to_string()))?;
        let path = PathAndQuery::from_static(CHECK);
        let request = Request::new(HealthCheckRequest::default());
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        match client.unary(request, path, codec).await {
            Ok(answer) if answer.get_ref().status == SERVING => Ok(()),
            Ok(answer) => Err(failed(&format!("answered {}, not SERVING", answer.get_ref().status))),
            Err(status) if status.code() == Code::Unimplemented => {
                Err(failed("is not implemented there; use --health tcp or implement grpc.health.v1"))
            }
            Err(status) => Err(failed(&format!("failed: {}", status.message()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use http::{HeaderMap, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    #[track_caller]
    fn check(probes: &[bool], expect: &[&str]) {
        let mut judge = Judge::unproven();
        let word = |health| match health {
            AppHealth::Starting(_) => "starting",
            AppHealth::Healthy => "healthy",
            AppHealth::Unhealthy(_) => "unhealthy",
        };
        let outcome = |well: &bool| if *well { Ok(()) } else { Err("no".to_owned()) };
        let said: Vec<_> =
            probes.iter().map(|well| record(&mut judge, outcome(well)).map_or("-", word)).collect();
        assert_eq!(said, expect);
    }

    #[test]
    fn one_good_probe_starts_and_three_bad_ones_end_it() {
        check(&[false, true, true], &["starting", "healthy", "-"]);
        check(
            &[true, false, false, true, false, false, false],
            &["healthy", "-", "-", "-", "-", "-", "unhealthy"],
        );
        check(
            &[true, false, false, false, true, false, true, true],
            &["healthy", "-", "-", "unhealthy", "-", "-", "-", "healthy"],
        );
    }

    /// Answers the health check with a status of the protocol.
    async fn grpc_server(serving: u8, code: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = move |request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(code));
            let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, serving]);
            let body =
                Full::new(message).with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
            Ok::<_, Infallible>(
                Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
            )
        };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        port
    }

    #[tokio::test]
    async fn a_grpc_server_is_well_when_it_says_serving() {
        let ask = async |port| probe(&Check::Grpc { port }, Mark::default()).await;
        assert_eq!(ask(grpc_server(1, "0").await).await, Ok(()));
        assert!(ask(grpc_server(2, "0").await).await.unwrap_err().contains("answered 2, not SERVING"));
        assert!(ask(grpc_server(1, "12").await).await.unwrap_err().contains("--health tcp"));
    }

    #[tokio::test]
    async fn a_port_is_well_when_it_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(probe(&Check::Tcp(vec![port]), Mark::default()).await, Ok(()));
        drop(listener);
        for check in
            [Check::Tcp(vec![port]), Check::Grpc { port }, Check::Http { port, path: "/".to_owned() }]
        {
            assert!(probe(&check, Mark::default()).await.unwrap_err().contains("does not accept"));
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = probe(&Check::Http { port, path: "/ok".to_owned() }, Mark::default()).await.unwrap_err();
        assert_eq!(silent, format!("GET /ok on port {port} gave no answer within 1 s"));
    }
}
