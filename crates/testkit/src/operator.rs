//! An operator of the mesh: talks to the control plane over its UNIX socket, as the command line does.

use std::path::PathBuf;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The name under which an answer speaks of an applied text.
pub(crate) const FILE: &str = "test.yaml";

pub struct Operator {
    socket: PathBuf,
}

impl Operator {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// One call: the answer's status and JSON.
    ///
    /// # Panics
    /// Without an answer, or if it is no JSON.
    pub async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let stream = UnixStream::connect(&self.socket).await.expect("the operator socket is there");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP/1.1");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "operator")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .expect("method and path are valid");
        let call = async {
            let answer = sender.send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            (status, answer.into_body().collect().await.expect("a whole answer").to_bytes())
        };
        // The connection lives as long as the call; nothing is left behind.
        let (status, bytes) = tokio::select! {
            answered = call => answered,
            ended = connection => panic!("{method} {path}: the connection ended: {ended:?}"),
        };
        let value = serde_json::from_slice(&bytes);
        (status, value.unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&bytes))))
    }

    /// For gRPC over the same socket.
    ///
    /// # Panics
    /// If it can't be reached.
    pub async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://operator");
        endpoint.connect_with_connector(connector).await.expect("the operator socket is there")
    }

    /// Applies documents; they are told apart as `test.yaml`.
    pub async fn apply(&self, yaml: &str) -> (u16, Value) {
        self.send("POST", &format!("/api/v1/apply?file={FILE}"), yaml).await
    }

    /// A join token.
    ///
    /// # Panics
    /// If there is none to be had.
    pub async fn token(&self, namespace: &str, service: &str) -> String {
        let wanted = json!({ "service": service, "namespace": namespace });
        let (status, answer) = self.send("POST", "/api/v1/tokens", &wanted.to_string()).await;
        assert_eq!(status, 200, "{answer:#}");
        answer["token"].as_str().expect("a token").to_owned()
    }
}
