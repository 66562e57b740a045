//! The demo's HTTP/1.1 client: what an ordinary application does, and nothing of the mesh.
//!
//! It honours `http_proxy` as curl does, and without it asks whoever has the name; keeps its connections, and uses a fresh one if a kept one turns out to be
//! closed. It never repeats a request that may have been processed: a failure is a failure that the demo counts.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connections kept for later; as many as the load has requests under way at most.
const KEPT_MAX: usize = 64;

/// Of a server that is asked by its name.
const WEB_PORT: u16 = 80;

/// A shop's page is small, the metrics of a sidecar may be some hundred KiB.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Longer than anything here takes; without it a lost answer would never be counted.
const REQUEST_MAX: Duration = Duration::from_secs(10);

type Sender = SendRequest<Empty<Bytes>>;

/// Why there is no answer: text, as it is only ever shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{0} is no address of a proxy; http_proxy is http://IP:PORT")]
    Proxy(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("the connection broke: {0}")]
    Broken(hyper::Error),
    #[error("the answer's body broke: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within 10 s")]
    Silent,
    #[error("no request: {0}")]
    Request(hyper::http::Error),
}

/// Asks one server: at an address (which may be a proxy's), or by its name.
#[derive(Debug)]
pub(super) struct HttpClient {
    /// `None`: whoever has the host's name, on the port of the web.
    address: Option<SocketAddr>,
    kept: Mutex<Vec<Sender>>,
}

impl HttpClient {
    pub(super) fn to(address: SocketAddr) -> Self {
        Self { address: Some(address), kept: Mutex::new(Vec::new()) }
    }

    /// By the variable that every HTTP library reads, or by names where it is not set. For one host only, as connections are kept.
    pub(super) fn by_environment() -> Result<Self, HttpError> {
        let Ok(proxy) = std::env::var("http_proxy") else {
            return Ok(Self { address: None, kept: Mutex::new(Vec::new()) });
        };
        let address = proxy.strip_prefix("http://").and_then(|rest| rest.trim_end_matches('/').parse().ok());
        address.map(Self::to).ok_or(HttpError::Proxy(proxy))
    }

    /// `uri` in absolute form for a proxy (RFC 9112, 3.2.2), in origin form for a server.
    pub(super) async fn get(&self, host: &str, uri: &str) -> Result<(StatusCode, Bytes), HttpError> {
        timeout(REQUEST_MAX, self.exchange(host, uri)).await.unwrap_or(Err(HttpError::Silent))
    }

    async fn exchange(&self, host: &str, uri: &str) -> Result<(StatusCode, Bytes), HttpError> {
        let uri = match self.address {
            Some(_) => uri,
            None => uri.strip_prefix("http://").and_then(|rest| rest.strip_prefix(host)).unwrap_or(uri),
        };
        let request = || {
            let request = Request::get(uri).header(header::HOST, host).body(Empty::new());
            request.map_err(HttpError::Request)
        };
        if let Some(mut sender) = self.take() {
            match sender.try_send_request(request()?).await {
                Ok(response) => return self.read(sender, response).await,
                // Closed while it was idle, and hyper gives the request back: not a byte of it was sent.
                Err(error) if error.message().is_some() => {}
                Err(error) => return Err(HttpError::Broken(error.into_error())),
            }
        }
        let mut sender = self.connect(host).await?;
        let response = sender.send_request(request()?).await.map_err(HttpError::Broken)?;
        self.read(sender, response).await
    }

    async fn connect(&self, host: &str) -> Result<Sender, HttpError> {
        let address = self.address.map_or_else(|| host.to_owned(), |address| address.to_string());
        let failed = |source| HttpError::Connect { address: address.clone(), source };
        let connected = match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((host, WEB_PORT)).await,
        };
        let stream = connected.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
        // Ends with its connection; how it ended, the request's own error says.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }

    async fn read(
        &self,
        sender: Sender,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let status = response.status();
        let body =
            Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(HttpError::Body)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(sender);
        }
        Ok((status, body.to_bytes()))
    }

    fn take(&self) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = kept.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }
}
