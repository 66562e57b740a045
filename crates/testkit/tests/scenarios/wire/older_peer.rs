//! Sidecars of an earlier version and of this one call each other, in every way in which they can: the earlier one's bytes are
//! those that it sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use meshwork_core::model::SpiffeId;
use meshwork_identity::{Enrolled, client_config, server_config, session_name};
use meshwork_testkit::{App, Client, Mesh, soon, workload};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;

use super::frames::{self, Message};
use super::older_sidecar::Replay;
use super::recording::{By, Conversation, replace};
use super::{EXCHANGES, HELLO, PEERS, recorded};
use crate::ads::enrolled;

pub(crate) const HTTP2: &str = "h2";
const HTTP1: &str = "http/1.1";
const TCP: &str = "meshwork-tcp/1";

/// A request or an answer, whatever version carried it.
#[derive(Debug, PartialEq)]
struct Told {
    /// `GET /`, or `200`.
    first: String,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// All whole messages of one end so far.
fn told(alpn: &str, by: By, bytes: &[u8]) -> Vec<Told> {
    match (alpn, by) {
        (HTTP2, By::Client) => frames::requests(bytes).into_iter().filter_map(of_http2).collect(),
        (HTTP2, By::Server) => frames::answers(bytes, ASKED_MAX).into_iter().filter_map(of_http2).collect(),
        (HTTP1, _) => of_http1(bytes),
        _ => panic!("{alpn} has no messages"),
    }
}

/// More than one connection carries here.
const ASKED_MAX: usize = 16;

fn of_http2((_, message): (u32, Message)) -> Option<Told> {
    let Message { head, body, ended } = message;
    let first = match head.method() {
        "" => head.status().as_u16().to_string(),
        method => format!("{method} {}", head.path_and_query()),
    };
    let field = |(name, value): (&[u8], &[u8])| {
        (String::from_utf8_lossy(name).to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned())
    };
    let mut fields: BTreeMap<_, _> = head.fields().map(field).collect();
    if let Some(authority) = head.authority() {
        fields.insert("host".to_owned(), authority.to_owned());
    }
    ended.then_some(Told { first, fields, body })
}

fn of_http1(bytes: &[u8]) -> Vec<Told> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut all, mut rest) = (Vec::new(), bytes);
    while let Some(end) = rest.windows(END.len()).position(|window| window == END) {
        let head = String::from_utf8(rest[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap();
        let first = match first.strip_prefix("HTTP/1.1 ") {
            Some(status) => status[..3].to_owned(),
            None => first.strip_suffix(" HTTP/1.1").expect("HTTP/1.1").to_owned(),
        };
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a field");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let fields: BTreeMap<String, String> = lines.map(field).collect();
        let length = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
        let after = &rest[end + END.len()..];
        if after.len() < length {
            break;
        }
        all.push(Told { first, fields, body: after[..length].to_vec() });
        rest = &after[length..];
    }
    all
}

/// What each message must be the same in: the rest is the clock's, or by chance.
fn lasting(mut told: Vec<Told>) -> Vec<Told> {
    for one in &mut told {
        for name in ["date", "x-request-id", "traceparent"] {
            if let Some(value) = one.fields.get_mut(name) {
                value.clear();
            }
        }
    }
    told
}

#[tokio::test]
async fn an_older_sidecar_calls_one_of_this_version() {
    let (app, lines) = (App::http("cart").await, App::tcp_echo().await);
    let mesh = Mesh::builder()
        .http2(true)
        .with(workload("cart").serving(80, &app).serving_tcp(90, &lines))
        .with(workload("web"))
        .with(workload("plain"))
        .start()
        .await;
    let peers = recorded(PEERS);
    let inbound = mesh.sidecar("cart").inbound();
    for (client, alpn) in [("web", HTTP2), ("plain", HTTP1)] {
        let recorded = peers.one(client, "cart", alpn);
        let mut stream = connect(&enrolled(mesh.sidecar(client)), inbound[0], alpn).await;
        let (mut asked, mut expected, mut heard) = (Vec::new(), Vec::new(), Vec::new());
        for (by, bytes) in &recorded.said {
            match by {
                By::Client => {
                    let before = told(alpn, By::Client, &asked).len();
                    asked.extend_from_slice(bytes);
                    for request in told(alpn, By::Client, &asked).into_iter().skip(before) {
                        app.answers_with(status_of(&request));
                    }
                    stream.write_all(bytes).await.unwrap();
                    stream.flush().await.unwrap();
                }
                By::Server => {
                    expected.extend_from_slice(bytes);
                    let count = told(alpn, By::Server, &expected).len();
                    hear(&mut stream, &mut heard, |heard| told(alpn, By::Server, heard).len() >= count).await;
                    let requests = told(alpn, By::Client, &asked);
                    if count > 0 && count == requests.len() {
                        assert_received(&app, &requests[count - 1], client);
                    }
                }
            }
        }
        let expected = lasting(told(alpn, By::Server, &expected));
        assert!(expected.len() >= EXCHANGES.len(), "{expected:?}");
        assert_eq!(lasting(told(alpn, By::Server, &heard)), expected, "{alpn}");
    }
    let Conversation { mut said, .. } = peers.one("web", "cart", TCP).clone();
    let port = |port: u16| port.to_be_bytes();
    let (theirs, ours) = (port(peers.fact("tcp-port").parse().unwrap()), port(lines.address().port()));
    assert_eq!(replace(&mut said[0].1[..6], &theirs, &ours), 1);
    let mut stream = connect(&enrolled(mesh.sidecar("web")), inbound[1], TCP).await;
    stream.write_all(&said[0].1).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = Vec::new();
    hear(&mut stream, &mut heard, |heard| heard.len() >= HELLO.len()).await;
    assert_eq!(heard, HELLO);
}

fn status_of(request: &Told) -> u16 {
    let (_, path) = request.first.split_once(' ').unwrap();
    EXCHANGES.iter().find(|exchange| exchange.path == path).expect("it was asked").status
}

/// The application got what its caller's sidecar sent, and who that was.
#[track_caller]
fn assert_received(app: &App, asked: &Told, client: &str) {
    let received = app.last();
    assert_eq!(format!("{} {}", received.method, received.target), asked.first);
    assert_eq!(received.body, asked.body);
    for name in ["host", "x-request-id", "traceparent"] {
        assert_eq!(received.header(name), asked.fields.get(name).map(String::as_str), "{name}");
    }
    let caller = format!("URI=spiffe://mesh.local/ns/default/sa/{client}");
    assert_eq!(received.header("x-forwarded-client-cert"), Some(&*caller));
}

async fn connect(
    own: &Enrolled,
    address: SocketAddr,
    alpn: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let cart = SpiffeId::new(own.bundle.trust_domain(), "default", "cart").unwrap();
    let tls = client_config(&own.identity, &own.bundle, &[cart].into(), &[alpn.as_bytes()]).unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(tls).connect(session_name(address), socket).await.unwrap()
}

/// Reads until that is enough.
async fn hear(stream: &mut (impl AsyncRead + Unpin), heard: &mut Vec<u8>, is_enough: impl Fn(&[u8]) -> bool) {
    while !is_enough(heard) {
        let count = soon("more of it", stream.read_buf(heard)).await.unwrap();
        assert!(count > 0, "it ended after {:?}", String::from_utf8_lossy(heard));
    }
}

/// The earlier cart, as others find it: it says what it said once as much was asked.
pub(crate) struct Played {
    asked: oneshot::Receiver<Vec<u8>>,
    _playing: AbortOnDropHandle<()>,
}

impl Played {
    pub(crate) fn on(listener: TcpListener, own: &Enrolled, recorded: &Conversation) -> Self {
        let alpn = recorded.about.clone();
        let tls = server_config(&own.identity, &own.bundle, &[alpn.as_bytes()]).unwrap();
        let (tell, asked) = oneshot::channel();
        let said = recorded.said.clone();
        let playing = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let stream = TlsAcceptor::from(tls).accept(socket).await.unwrap();
            // Nobody may wait for it any more.
            let _ = tell.send(play(stream, &alpn, &said).await);
        });
        Self { asked, _playing: AbortOnDropHandle::new(playing) }
    }
}

impl Played {
    /// All that it was asked once.
    pub(crate) async fn was_asked(self, recorded: &Conversation) {
        let asked = soon("all is asked", self.asked).await.unwrap();
        let once: Vec<u8> = recorded.of(By::Client).concat();
        match &*recorded.about {
            TCP => assert_eq!(asked, once, "preamble and bytes"),
            alpn => {
                assert_eq!(lasting(told(alpn, By::Client, &asked)), lasting(told(alpn, By::Client, &once)))
            }
        }
    }
}

async fn play(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    alpn: &str,
    said: &[(By, Vec<u8>)],
) -> Vec<u8> {
    let (mut asked, mut once) = (Vec::new(), Vec::new());
    for (by, bytes) in said {
        match by {
            By::Client => once.extend_from_slice(bytes),
            By::Server => {
                let is_enough = |asked: &[u8]| match alpn {
                    TCP => asked.len() >= once.len(),
                    _ => told(alpn, By::Client, asked).len() >= told(alpn, By::Client, &once).len(),
                };
                hear(&mut stream, &mut asked, is_enough).await;
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }
    asked
}

/// The part is played once: nobody may give its handshake up, on however slow a machine.
const PATIENT: &str = "apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: cart
spec:
  targetRefs:
  - group: \"\"
    kind: Service
    name: cart
  timeouts:
    connect: 20s
";

#[tokio::test]
async fn a_sidecar_of_this_version_calls_an_older_one() {
    let peers = recorded(PEERS);
    for (client, alpn) in [("web", HTTP2), ("plain", HTTP1), ("web", TCP)] {
        let mut replay = Replay::start().await;
        let mut listeners = Vec::new();
        for name in ["cart-80", "cart-90"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let theirs = replay.calls.fact(name).to_owned();
            replay.calls.replace(theirs, listener.local_addr().unwrap().to_string());
            listeners.push(listener);
        }
        let _session = replay.register("cart").await;
        replay.mesh.apply(PATIENT).await;
        let port = usize::from(alpn == TCP);
        let recorded = peers.one(client, "cart", alpn);
        let played = Played::on(listeners.swap_remove(port), &replay.members["cart"].1, recorded);
        let caller = replay.mesh.join(workload(client).http2(alpn != HTTP1).upstream("cart:90")).await;
        if alpn == TCP {
            let mut stream = caller.connect("cart:90").await;
            stream.write_all(HELLO).await.unwrap();
            let mut echoed = Vec::new();
            hear(&mut stream, &mut echoed, |heard| heard.len() >= HELLO.len()).await;
            assert_eq!(echoed, HELLO);
        } else {
            call(&mut caller.client()).await;
        }
        played.was_asked(recorded).await;
    }
}

pub(crate) async fn call(client: &mut Client) {
    for exchange in &EXCHANGES {
        let answer = soon("an answer", client.send(exchange.request())).await.unwrap();
        assert_eq!((answer.status, answer.text()), (exchange.status, exchange.body.to_owned()));
        assert_eq!(answer.header("x-app"), Some("cart"));
    }
}
