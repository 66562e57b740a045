//! Applications that speak HTTP/2 without gRPC, by prior knowledge; among them and with those of HTTP/1, each is spoken to
//! as it speaks. WebSocket in every such pair.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::ext::Protocol;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Version, client};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{Mesh, Sidecar, eventually, soon, tunnel, workload};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::AbortOnDropHandle;

use super::HTTP2;

/// What an application or a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

type Answer = Response<Full<Bytes>>;

/// Answers with version, method, path and body, and echoes WebSocket messages. Speaks one version only, so that whoever
/// speaks the other one to it gets nothing.
pub(super) struct App {
    pub(super) address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl App {
    pub(super) async fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, speaks));
            }
        });
        Self { address, _serving: AbortOnDropHandle::new(serving) }
    }
}

async fn serve(stream: TcpStream, speaks: Speaks) {
    let io = TokioIo::new(stream);
    // How a connection ended shows at its other end.
    match speaks {
        Speaks::Http1 => {
            let serving = http1::Builder::new().serve_connection(io, service_fn(answer)).with_upgrades();
            drop(serving.await);
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            drop(builder.enable_connect_protocol().serve_connection(io, service_fn(answer)).await);
        }
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    let asks_by_upgrade = request.headers().get("upgrade").is_some_and(|to| to == "websocket");
    let asks_by_connect = request.extensions().get::<Protocol>().is_some_and(|to| to.as_str() == "websocket");
    if asks_by_upgrade || asks_by_connect {
        return Ok(websocket(&mut request));
    }
    let told = format!("{:?} {} {}", request.version(), request.method(), request.uri().path());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from([told.as_bytes(), b"|", &body].concat())))
}

/// By RFC 6455 (HTTP/1, where the key must be answered) or RFC 8441 (HTTP/2, where there is none).
fn websocket(request: &mut Request<Incoming>) -> Answer {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("sec-websocket-version").as_deref(), Some("13"));
    let mut response = Answer::default();
    if let Some(protocol) = header("sec-websocket-protocol") {
        response.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    match request.version() {
        Version::HTTP_2 => assert_eq!(request.method(), Method::CONNECT),
        _ => {
            assert_eq!(request.method(), Method::GET);
            assert!(header("connection").is_some_and(|options| options.eq_ignore_ascii_case("upgrade")));
            let key = header("sec-websocket-key").expect("HTTP/1 has a key");
            let accept = derive_accept_key(key.as_bytes()).parse().unwrap();
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("sec-websocket-accept", accept);
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        }
    }
    tokio::spawn(echo(hyper::upgrade::on(request)));
    response
}

async fn echo(upgrading: OnUpgrade) {
    let mut socket = frames(upgrading.await.unwrap(), Role::Server).await;
    while let Some(Ok(message)) = socket.next().await {
        // A close is answered by the library itself.
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn frames(upgraded: Upgraded, role: Role) -> WebSocketStream<TokioIo<Upgraded>> {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, None).await
}

/// A client that keeps one connection.
pub(super) enum Client {
    Http1(client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(super) async fn on(stream: TcpStream, speaks: Speaks) -> Self {
        let io = TokioIo::new(stream);
        match speaks {
            Speaks::Http1 => {
                let (sender, connection) = client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(async { drop(connection.with_upgrades().await) });
                Self::Http1(sender)
            }
            Speaks::Http2 => {
                let executor = TokioExecutor::new();
                let (sender, connection) = client::conn::http2::handshake(executor, io).await.unwrap();
                tokio::spawn(async { drop(connection.await) });
                Self::Http2(sender)
            }
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let sent = async {
            match self {
                Self::Http1(sender) => sender.send_request(request).await,
                Self::Http2(sender) => sender.send_request(request).await,
            }
        };
        soon("an answer", sent).await.unwrap()
    }

    pub(super) async fn ask(&mut self, method: Method, path: &str, body: &str) -> String {
        let request = match self {
            Self::Http1(_) => Request::builder().uri(path).header("host", "cart"),
            Self::Http2(_) => Request::builder().uri(format!("http://cart{path}")),
        };
        let request = request.method(method).body(Full::from(body.to_owned())).unwrap();
        let response = self.send(request).await;
        let status = response.status();
        let body = soon("its body", response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body.to_vec()).unwrap()
    }

    pub(super) async fn open_websocket(&mut self) -> WebSocketStream<TokioIo<Upgraded>> {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        let request =
            Request::builder().header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
        let (request, status) = match self {
            Self::Http1(_) => {
                let request = request.uri("/chat").header("host", "cart").header("sec-websocket-key", KEY);
                (request.header("connection", "Upgrade").header("upgrade", "websocket"), 101)
            }
            Self::Http2(_) => {
                let request = request.method(Method::CONNECT).uri("http://cart/chat");
                (request.extension(Protocol::from_static("websocket")), 200)
            }
        };
        let mut response = self.send(request.body(Full::default()).unwrap()).await;
        if response.status() != status {
            let (head, body) = response.into_parts();
            panic!("{head:?} {:?}", body.collect().await.unwrap().to_bytes());
        }
        assert_eq!(response.headers().get("sec-websocket-protocol").unwrap(), "chat");
        let accept = response.headers().get("sec-websocket-accept").map(|accept| accept.to_str().unwrap());
        match self {
            Self::Http1(_) => assert_eq!(accept, Some(&*derive_accept_key(KEY.as_bytes()))),
            Self::Http2(_) => assert_eq!(accept, None, "{response:?}"),
        }
        let upgraded = soon("the upgrade", hyper::upgrade::on(&mut response)).await.unwrap();
        frames(upgraded, Role::Client).await
    }
}

async fn mesh(app: &App, protocol: Option<AppProtocol>) -> Mesh {
    let cart = workload("cart").port(80, app.address.port(), protocol);
    Mesh::builder().http2(HTTP2).with(cart).with(workload("web").upstream("cart:80")).start().await
}

/// A connection of the local port, and one in a tunnel.
async fn connections(web: &Sidecar) -> [TcpStream; 2] {
    [web.connect("cart:80").await, tunnel(web.outbound_http(), "cart:80").await.unwrap()]
}

/// Both sidecars carried them as requests.
async fn counted(mesh: &Mesh, method: &str, requests: usize) {
    for (sidecar, direction) in [("web", "outbound"), ("cart", "inbound")] {
        let labels = [("direction", direction), ("method", method), ("status", "200")];
        let count = || mesh.sidecar(sidecar).metrics().requests(&labels);
        eventually(&format!("{requests} {direction}"), async || count() >= requests).await;
        assert_eq!(count(), requests, "{direction}");
    }
}

#[tokio::test]
async fn http2_is_detected_without_a_hint_and_reaches_the_application_as_such() {
    let app = App::start(Speaks::Http2).await;
    let mesh = mesh(&app, None).await;
    let [local_port, tunnel] = connections(mesh.sidecar("web")).await;
    // Prior knowledge of the proxy: each request names its service.
    let proxy = TcpStream::connect(mesh.sidecar("web").outbound_http()).await.unwrap();
    for stream in [local_port, tunnel, proxy] {
        let mut client = Client::on(stream, Speaks::Http2).await;
        for n in 0..5 {
            let answered = client.ask(Method::GET, &format!("/{n}"), "").await;
            assert_eq!(answered, format!("HTTP/2.0 GET /{n}|"));
            let answered = client.ask(Method::POST, "/order", "tea").await;
            assert_eq!(answered, "HTTP/2.0 POST /order|tea");
        }
    }
    counted(&mesh, "safe", 15).await;
    counted(&mesh, "other", 15).await;
    mesh.stop().await;
}

/// With a hint each side is what it is, whatever the other is.
#[tokio::test]
async fn clients_and_applications_need_not_speak_the_same_version() {
    for (speaks, hint, told) in
        [(Speaks::Http1, AppProtocol::Http, "HTTP/1.1"), (Speaks::Http2, AppProtocol::Http2, "HTTP/2.0")]
    {
        let app = App::start(speaks).await;
        let mesh = mesh(&app, Some(hint)).await;
        for client in [Speaks::Http1, Speaks::Http2] {
            for stream in connections(mesh.sidecar("web")).await {
                let mut client = Client::on(stream, client).await;
                assert_eq!(client.ask(Method::GET, "/a?b", "").await, format!("{told} GET /a|"));
                assert_eq!(client.ask(Method::PUT, "/c", "tea").await, format!("{told} PUT /c|tea"));
            }
        }
        // And as an application with `http_proxy` asks.
        let answer = mesh.sidecar("web").post("http://cart/d", "tea").await;
        assert_eq!((answer.status, answer.text()), (200, format!("{told} POST /d|tea")));
        counted(&mesh, "safe", 4).await;
        mesh.stop().await;
    }
}

/// An extended CONNECT becomes an upgrade where that is needed, and not the other way round: what has been HTTP/1 once
/// reaches only applications that speak it.
#[tokio::test]
async fn websockets_pass_over_either_version() {
    let mut pairs = vec![(Speaks::Http1, Speaks::Http1), (Speaks::Http2, Speaks::Http1)];
    if HTTP2 {
        pairs.push((Speaks::Http2, Speaks::Http2));
    }
    for (client_speaks, app_speaks) in pairs {
        let app = App::start(app_speaks).await;
        let hint = if app_speaks == Speaks::Http1 { AppProtocol::Http } else { AppProtocol::Http2 };
        let mesh = mesh(&app, Some(hint)).await;
        for stream in connections(mesh.sidecar("web")).await {
            let mut client = Client::on(stream, client_speaks).await;
            // Also waits for the settings that say whether WebSocket may be asked for (RFC 8441, 3).
            client.ask(Method::GET, "/", "").await;
            let socket = client.open_websocket().await;
            if client_speaks == Speaks::Http2 {
                // The connection carries other requests beside it.
                client.ask(Method::GET, "/beside", "").await;
            }
            converse(socket, &format!("{client_speaks:?} to {app_speaks:?}")).await;
        }
        mesh.stop().await;
    }
}

async fn converse(mut socket: WebSocketStream<TokioIo<Upgraded>>, what: &str) {
    let large = Message::binary(vec![7; 300_000]);
    for message in [Message::text("one"), Message::text(""), large, Message::text("two")] {
        socket.send(message.clone()).await.unwrap();
        let echo = soon(what, socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "{what}: a message came back changed");
    }
    socket.close(None).await.unwrap();
    let closed = soon(what, socket.next()).await;
    assert!(matches!(closed, Some(Ok(Message::Close(_))) | None), "{what}: {closed:?}");
}

/// Its application is the test itself.
async fn mesh_with_listener() -> (Mesh, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cart = workload("cart").port(80, port, Some(AppProtocol::Http2));
    let mesh =
        Mesh::builder().http2(HTTP2).with(cart).with(workload("web").upstream("cart:80")).start().await;
    (mesh, listener)
}

async fn connect(mesh: &Mesh) -> h2::client::SendRequest<Bytes> {
    let stream = mesh.sidecar("web").connect("cart:80").await;
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async { drop(connection.await) });
    client
}

/// The first connection on which something is said; whoever only looks whether the port accepts says nothing.
async fn accept(listener: &TcpListener) -> h2::server::Connection<TcpStream, Bytes> {
    let accepted = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(served) = h2::server::handshake(stream).await {
                return served;
            }
        }
    };
    soon("the sidecar", accepted).await
}

/// Both directions are open, and either end gives up: the other one learns it, with the code, which gRPC reads.
#[tokio::test]
async fn a_stream_that_is_reset_is_reset_at_the_other_end() {
    let (mesh, listener) = mesh_with_listener().await;
    let mut client = connect(&mesh).await;
    let request = || Request::post("http://cart/").body(()).unwrap();

    let (answering, mut sending) = client.send_request(request(), false).unwrap();
    sending.send_data("question".into(), false).unwrap();
    let mut served = accept(&listener).await;
    let (_question, mut respond) = soon("a request", served.accept()).await.unwrap().unwrap();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    answer.send_data("answer".into(), false).unwrap();
    let driving = tokio::spawn(async move {
        let next = served.accept().await.unwrap().unwrap();
        (next, tokio::spawn(async move { drop(served.accept().await) }))
    });
    let response = soon("an answer", answering).await.unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    drop(response);
    let reason = soon("the client's end", std::future::poll_fn(|cx| answer.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::CANCEL);

    let (answering, _sending) = client.send_request(request(), false).unwrap();
    let ((_question, mut respond), _driving) = soon("a request", driving).await.unwrap();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    let mut response = soon("an answer", answering).await.unwrap().into_body();
    answer.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
    let error = soon("the application's end", response.data()).await.unwrap().unwrap_err();
    // HTTP/1 between the sidecars can only break off.
    let told = if HTTP2 { h2::Reason::ENHANCE_YOUR_CALM } else { h2::Reason::INTERNAL_ERROR };
    assert_eq!(error.reason(), Some(told));
    mesh.stop().await;
}

/// gRPC's clients do that when a call fails before they have said all: it has not been cancelled, it has failed.
#[tokio::test]
async fn a_client_that_leaves_with_all_of_the_answer_was_answered() {
    let (mesh, listener) = mesh_with_listener().await;
    let mut client = connect(&mesh).await;
    let (answering, mut sending) =
        client.send_request(Request::post("http://cart/").body(()).unwrap(), false).unwrap();
    sending.send_data("half a question".into(), false).unwrap();
    let mut served = accept(&listener).await;
    let (_question, mut respond) = soon("a request", served.accept()).await.unwrap().unwrap();
    respond.send_response(Response::new(()), false).unwrap().send_data("no".into(), true).unwrap();
    tokio::spawn(async move { drop(served.accept().await) });
    let mut response = soon("an answer", answering).await.unwrap().into_body();
    let mut body = Vec::new();
    while let Some(piece) = soon("its body and end", response.data()).await {
        body.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(body, b"no");
    sending.send_reset(h2::Reason::CANCEL);
    counted(&mesh, "other", 1).await;
    mesh.stop().await;
}
