//! A client as applications have it: HTTP/1.1 through the proxy port of their sidecar, on one connection that is
//! kept open.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

type Body = Full<Bytes>;

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Why the mesh itself answered; `None`: the application did.
    pub fn cause(&self) -> Option<&str> {
        self.header("x-meshwork-cause")
    }
}

/// A request by absolute URL, as clients send it to a proxy.
pub fn get(url: &str) -> Request<Body> {
    request(Method::GET, url, Body::default())
}

pub fn post(url: &str, body: &str) -> Request<Body> {
    request(Method::POST, url, Full::new(Bytes::copy_from_slice(body.as_bytes())))
}

fn request(method: Method, url: &str, body: Body) -> Request<Body> {
    let uri: Uri = url.parse().unwrap_or_else(|error| panic!("no URL: {url}: {error}"));
    let host = uri.authority().unwrap_or_else(|| panic!("no host in {url}")).to_string();
    let request = Request::builder().method(method).uri(uri).header("host", host).body(body);
    request.expect("its parts are valid")
}

pub struct Client {
    proxy: SocketAddr,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Body>,
    _task: AbortOnDropHandle<()>,
}

impl Client {
    pub fn new(proxy: SocketAddr) -> Self {
        Self { proxy, connection: None }
    }

    /// One request and its whole answer. `Err`: what an application would see as a broken connection.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Answer, String> {
        let mut connection = self.kept().await?;
        let answer = connection.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| format!("the answer broke off: {error}"))?;
        self.connection = Some(connection);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }

    /// The connection of the last request, or another one if it was closed since, as every server may.
    async fn kept(&mut self) -> Result<Connection, String> {
        if let Some(mut kept) = self.connection.take()
            && kept.sender.ready().await.is_ok()
        {
            return Ok(kept);
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<Connection, String> {
        let stream = TcpStream::connect(self.proxy).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // How it ended shows at the next request.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, _task: AbortOnDropHandle::new(task) })
    }
}
