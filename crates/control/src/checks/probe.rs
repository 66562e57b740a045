//! One look at a workload without sidecar: does it accept, does it answer, is it serving?

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use meshwork_core::model::{HealthCheck, Probe};
use meshwork_xds::grpc_health::{CHECK, HealthCheckRequest, HealthCheckResponse, SERVING};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// `Err`: one sentence on what was found.
pub(super) async fn probe(address: SocketAddr, check: &HealthCheck) -> Result<(), String> {
    let probed = async {
        match &check.probe {
            Probe::Tcp => connect(address).await.map(drop),
            Probe::Http { path, status } => http(address, path, *status).await,
            Probe::Grpc { service } => grpc(address, service).await,
        }
    };
    match tokio::time::timeout(check.timeout, probed).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{} gave no answer within {:?}", what(address, &check.probe), check.timeout)),
    }
}

fn what(address: SocketAddr, probe: &Probe) -> String {
    match probe {
        Probe::Tcp => format!("connecting to {address}"),
        Probe::Http { path, .. } => format!("GET http://{address}{path}"),
        Probe::Grpc { service } if service.is_empty() => format!("the gRPC health check of {address}"),
        Probe::Grpc { service } => format!("the gRPC health check of {service} at {address}"),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address} does not accept ({error})"))
}

async fn http(address: SocketAddr, path: &str, status: Option<u16>) -> Result<(), String> {
    let failed = |what: String| format!("GET http://{address}{path} {what}");
    let stream = connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(format!("failed: {error}")))?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "meshwork-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(format!("can't be asked: {error}")))?;
    // Its end is no answer: it may come together with the last bytes of one. It fails `send_request` if not.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|error| failed(format!("failed: {error}")))?,
        never = driven => match never {},
    };
    let found = answer.status().as_u16();
    let well = status.map_or_else(|| (200..400).contains(&found), |wanted| wanted == found);
    if well { Ok(()) } else { Err(failed(format!("answered {found}"))) }
}

async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    connect(address).await?; // for its plain words: tonic's are "transport error"
    let probe = Probe::Grpc { service: service.to_owned() };
    let failed = |found: &str| format!("{} {found}", what(address, &probe));
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(&error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|_| failed("met no HTTP/2 server"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| failed(&error.to_string()))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, PathAndQuery::from_static(CHECK), codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Ok(()),
        Ok(answer) => Err(failed(&format!("answered {}, not SERVING", answer.get_ref().status))),
        Err(status) if status.code() == Code::Unimplemented => {
            Err(failed("is not implemented there; use type tcp or implement grpc.health.v1"))
        }
        Err(status) if status.code() == Code::NotFound => Err(failed("is not known there")),
        Err(status) => Err(failed(&format!("failed: {}", status.message()))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck { probe, timeout: Duration::from_millis(300), ..HealthCheck::default() }
    }

    fn asked(path: &str, status: Option<u16>) -> HealthCheck {
        check(Probe::Http { path: path.to_owned(), status })
    }

    #[tokio::test]
    async fn an_http_server_is_well_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/ok", get(|| async { "well" }));
        tokio::spawn(axum::serve(listener, router).into_future());
        assert_eq!(probe(address, &asked("/ok", None)).await, Ok(()));
        assert_eq!(probe(address, &asked("/gone", Some(404))).await, Ok(()));
        let told = probe(address, &asked("/gone", None)).await.unwrap_err();
        assert_eq!(told, format!("GET http://{address}/gone answered 404"));
        let told = probe(address, &check(Probe::Grpc { service: String::new() })).await.unwrap_err();
        assert!(told.starts_with(&format!("the gRPC health check of {address}")), "{told}");
    }

    #[tokio::test]
    async fn a_port_is_well_when_it_accepts_and_not_when_it_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address, &check(Probe::Tcp)).await, Ok(()));
        let told = probe(address, &asked("/ok", None)).await.unwrap_err();
        assert_eq!(told, format!("GET http://{address}/ok gave no answer within 300ms"));
        drop(listener);
        assert!(probe(address, &check(Probe::Tcp)).await.unwrap_err().contains("does not accept"));
    }
}
