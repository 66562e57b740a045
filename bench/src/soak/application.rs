//! The application of every instance, in this process: whatever comes goes back, in the protocol that it came in.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::failure::{Doing as _, Result};

#[derive(Clone, Copy, Debug)]
pub(super) struct Application {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
}

/// They serve as long as the process: an application outlives the sidecar that drains it.
pub(super) async fn start(count: usize) -> Result<Vec<Application>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let (http, tcp) = (listener().await?, listener().await?);
        let address =
            |listener: &TcpListener| listener.local_addr().doing(|| "an application's address".to_owned());
        all.push(Application { http: address(&http)?, tcp: address(&tcp)? });
        tokio::spawn(serve_http(http));
        tokio::spawn(serve_tcp(tcp));
    }
    Ok(all)
}

async fn listener() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(|| "an application's port".to_owned())
}

async fn serve_tcp(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            // The client sees it if it breaks off.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

async fn serve_http(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // The client sees it if it breaks off.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>) -> std::result::Result<Answer, hyper::Error> {
    if request.headers().contains_key(SEC_WEBSOCKET_KEY) {
        return Ok(web_socket(request));
    }
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/grpc");
    let body = Full::new(request.into_body().collect().await?.to_bytes());
    if !is_grpc {
        return Ok(Response::new(body.boxed_unsync()));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(body.with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn web_socket(mut request: Request<Incoming>) -> Answer {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            // The library answers a close itself, and then says that it is closed.
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(Ok(accept)) = key.map(|key| HeaderValue::from_str(&key)) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
