//! The operator's client: HTTP/1.1 over the control plane's UNIX socket.
//!
//! One request a connection: a command asks once or twice. What is asked is in `operate.rs`; errors that the control
//! plane answers arrive as one JSON form, and become a sentence here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The socket's name in the control plane's state directory.
pub(crate) const SOCKET: &str = "operator.sock";

/// An answer's size: 100,000 workloads with a KiB of JSON each.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// The control plane answers from memory; whoever waits longer wants to know that something is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "no control plane answers at {socket} ({source}): start one with `meshwork control`, \
         or name its state directory with --state-dir"
    )]
    NoControlPlane { socket: PathBuf, source: io::Error },
    #[error("you may not use {0}: run this as the user who runs the control plane, or as root")]
    NotPermitted(PathBuf),
    #[error(
        "the path {0} is too long for a socket (108 bytes): give the control plane a shorter --state-dir"
    )]
    PathTooLong(PathBuf),
    #[error("the control plane at {socket} broke off ({reason}): look at its log")]
    Broken { socket: PathBuf, reason: String },
    #[error("the control plane at {0} has not answered for 30 s: look at its log")]
    Silent(PathBuf),
    #[error("{0}")]
    Refused(Box<Refusal>),
}

/// What the control plane says when it refuses: `{"error":{"word":…,"message":…,…}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) word: String,
    pub(crate) message: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<usize>,
    pub(crate) column: Option<usize>,
    pub(crate) snippet: Option<String>,
    /// Further problems of the same request.
    pub(crate) more: Vec<Self>,
}

impl std::fmt::Display for Refusal {
    /// `shop.yaml:3:7: …`, then the line in question with its caret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            for number in [self.line, self.column].into_iter().flatten() {
                write!(f, "{number}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{}", snippet.trim_end())?;
        }
        self.more.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

#[derive(Deserialize)]
struct Envelope {
    error: Refusal,
}

#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { socket: state_dir.join(SOCKET) }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, "application/json", Bytes::new()).await
    }

    /// An answer that is no JSON.
    pub(crate) async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        let (status, body) = self.send(Method::GET, path, "application/json", Bytes::new()).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(self.refusal(status, &body)),
        }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::DELETE, path, "application/json", Bytes::new()).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, "application/json", body.to_string().into()).await
    }

    pub(crate) async fn post_yaml(&self, path: &str, body: String) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, "application/yaml", body.into()).await
    }

    async fn ask(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<Value, ClientError> {
        let (status, body) = self.send(method, path, kind, body).await?;
        self.judge(status, &body)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.no_connection(source))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "control")
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        match timeout(ANSWER_MAX, self.exchange(stream, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Silent(self.socket.clone())),
        }
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            Ok((head.status, body.map_err(|error| self.broken(error))?.to_bytes()))
        };
        tokio::pin!(answer);
        // The connection is driven by this very future: no task outlives the question.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }

    fn judge(&self, status: StatusCode, body: &[u8]) -> Result<Value, ClientError> {
        if status.is_success() {
            let body = if body.is_empty() { b"null" } else { body };
            return serde_json::from_slice(body).map_err(|error| self.broken(error));
        }
        Err(self.refusal(status, body))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Envelope>(body) {
            Ok(envelope) => ClientError::Refused(Box::new(envelope.error)),
            Err(_) => self.broken(format!("it answered {status}")),
        }
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(self.socket.clone()),
            io::ErrorKind::InvalidInput => ClientError::PathTooLong(self.socket.clone()),
            _ => ClientError::NoControlPlane { socket: self.socket.clone(), source },
        }
    }

    fn broken(&self, reason: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// A query's value, percent-encoded: everything but the unreserved characters (RFC 3986, 2.3).
pub(crate) fn encode(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_where_and_what() {
        let body = br#"{"error":{"word":"unknown_field","message":"no field `prot` in a port","file":"shop.yaml","line":3,
                      "column":7,"snippet":"3 |  prot: 80\n  |  ^\n","more":[{"message":"no name","file":"shop.yaml"}]}}"#;
        let client = Client::new(Path::new("/state"));
        let error = client.judge(StatusCode::BAD_REQUEST, body).unwrap_err();
        let expect = "shop.yaml:3:7: no field `prot` in a port\n3 |  prot: 80\n  |  ^\nshop.yaml: no name";
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn an_answer_in_another_form_is_named_by_its_status() {
        let client = Client::new(Path::new("/state"));
        let error = client.judge(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the control plane at /state/operator.sock broke off (it answered 502 Bad Gateway): look at its log"
        );
    }

    #[test]
    fn no_content_is_an_answer() {
        let client = Client::new(Path::new("/state"));
        assert_eq!(client.judge(StatusCode::NO_CONTENT, b"").unwrap(), Value::Null);
    }

    #[test]
    fn a_querys_value_is_encoded() {
        assert_eq!(encode("a/b c&d=é"), "a%2Fb%20c%26d%3D%C3%A9");
    }
}
