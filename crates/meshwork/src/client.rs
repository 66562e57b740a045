//! The operator's client: HTTP/1.1 over the control plane's UNIX socket, or over TLS with a login token.
//!
//! One request a connection: a command asks once or twice, or follows what changes (`client/follow.rs`). What is asked is
//! in `operate.rs`; errors that the control plane answers arrive as one JSON form, and become a sentence here. Which
//! control plane is meant is settled in `login.rs`.

mod follow;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use meshwork_identity::{ConfigError, LoginToken, PeerRefused, enrol_client_config, session_name};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The socket's name in the control plane's state directory.
pub(crate) const SOCKET: &str = "operator.sock";

/// An answer's size: 100,000 workloads with a KiB of JSON each.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// The control plane answers from memory; whoever waits longer wants to know that something is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Until a machine far away answers at all.
const CONNECT_MAX: Duration = Duration::from_secs(5);

const ALPN: &[&[u8]] = &[b"http/1.1"];

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
    #[error(
        "no control plane answers at {address} ({reason}): is the address right, and can its port be reached from here? \
         --control names another one"
    )]
    Unreachable { address: String, reason: String },
    #[error(
        "{address} is not the control plane that made the login token ({reason}); nothing was asked of it"
    )]
    Stranger { address: String, reason: String },
    #[error("{0}")]
    Tls(#[from] ConfigError),
    #[error("the control plane at {place} broke off ({reason}): look at its log")]
    Broken { place: String, reason: String },
    #[error("the control plane at {0} has not answered for 30 s: look at its log")]
    Silent(String),
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

impl fmt::Display for Refusal {
    /// `shop.yaml:3:7: …`, then the line in question with its caret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    door: Door,
}

/// The way to the control plane.
#[derive(Debug)]
enum Door {
    Socket(PathBuf),
    Remote {
        address: String,
        tls: Arc<ClientConfig>,
        /// The header's value, which is never shown.
        bearer: HeaderValue,
    },
}

impl Door {
    /// For sentences.
    fn place(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Remote { address, .. } => address.clone(),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Client {
    /// Of this machine, by its state directory.
    pub(crate) fn local(state_dir: &Path) -> Self {
        Self { door: Door::Socket(state_dir.join(SOCKET)) }
    }

    /// Of another machine: whoever answers there must prove the root that the token names.
    pub(crate) fn remote(address: &str, token: &LoginToken) -> Result<Self, ClientError> {
        let tls = enrol_client_config(token.root_hash, ALPN)?;
        let invalid =
            |_| ClientError::Broken { place: address.to_owned(), reason: "no such token".to_owned() };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(invalid)?;
        bearer.set_sensitive(true);
        Ok(Self { door: Door::Remote { address: address.to_owned(), tls, bearer } })
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
        let request = self.request(method, path, kind, body)?;
        let answer = async { self.exchange(self.connect().await?, request).await };
        self.in_time(ANSWER_MAX, answer).await?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "control")
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json");
        if let Door::Remote { bearer, .. } = &self.door {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        request.body(Full::new(body)).map_err(|error| self.broken(error))
    }

    async fn in_time<T>(&self, most: Duration, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        timeout(most, answer).await.map_err(|_| ClientError::Silent(self.door.place()))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, ClientError> {
        let (address, tls) = match &self.door {
            Door::Socket(path) => {
                let connected = UnixStream::connect(path).await;
                return match connected {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(source) => Err(no_connection(path, source)),
                };
            }
            Door::Remote { address, tls, .. } => (address, tls),
        };
        let unreachable = |reason: &dyn fmt::Display| ClientError::Unreachable {
            address: address.clone(),
            reason: reason.to_string(),
        };
        let connected = timeout(CONNECT_MAX, TcpStream::connect(address.as_str())).await;
        let connected = connected.map_err(|_| unreachable(&"nothing answered for 5 s"))?;
        let stream = connected.map_err(|error| unreachable(&error))?;
        let remote = stream.peer_addr().map_err(|error| unreachable(&error))?;
        match TlsConnector::from(Arc::clone(tls)).connect(session_name(remote), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(ClientError::Stranger { address: address.clone(), reason: told(&error) }),
        }
    }

    async fn exchange(
        &self,
        stream: Box<dyn Stream>,
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

    fn broken(&self, reason: impl fmt::Display) -> ClientError {
        ClientError::Broken { place: self.door.place(), reason: reason.to_string() }
    }
}

fn no_connection(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(socket),
        io::ErrorKind::InvalidInput => ClientError::PathTooLong(socket),
        _ => ClientError::NoControlPlane { socket, source },
    }
}

/// Why a handshake failed, in the words of who refused.
fn told(error: &io::Error) -> String {
    PeerRefused::of_io(error).map_or_else(|| error.to_string(), PeerRefused::to_string)
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
        let client = Client::local(Path::new("/state"));
        let error = client.judge(StatusCode::BAD_REQUEST, body).unwrap_err();
        let expect = "shop.yaml:3:7: no field `prot` in a port\n3 |  prot: 80\n  |  ^\nshop.yaml: no name";
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn an_answer_in_another_form_is_named_by_its_status() {
        let client = Client::local(Path::new("/state"));
        let error = client.judge(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the control plane at /state/operator.sock broke off (it answered 502 Bad Gateway): look at its log"
        );
    }

    #[test]
    fn no_content_is_an_answer() {
        let client = Client::local(Path::new("/state"));
        assert_eq!(client.judge(StatusCode::NO_CONTENT, b"").unwrap(), Value::Null);
    }

    #[test]
    fn a_querys_value_is_encoded() {
        assert_eq!(encode("a/b c&d=é"), "a%2Fb%20c%26d%3D%C3%A9");
    }
}
