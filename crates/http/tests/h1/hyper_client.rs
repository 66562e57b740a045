//! Differential: hyper's client calls a server made of our receiver and sender.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use hyper_util::rt::TokioIo;
use meshwork_http::h1::{BodyLength, ResponseTo, Sender};
use meshwork_http::{Head, Version};
use tokio::io::DuplexStream;

use crate::exchange::{Body, Exchange, Message};
use crate::peer::{Reader, write};
use crate::random::Random;

const EXCHANGES: usize = 6_000;

#[test]
fn a_hyper_client_and_our_server_understand_each_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let seen = Rc::new(Cell::new(0));
    local.block_on(&runtime, async {
        for (seed, connection) in Exchange::connections(1, EXCHANGES).into_iter().enumerate() {
            let mut random = Random::new(seed as u64);
            let (client, server) = tokio::io::duplex(1 + random.below(3_000));
            let exchanges: Rc<[Exchange]> = connection.into();
            let step = 1 + random.below(3_000);
            let serving = tokio::task::spawn_local(serve(server, exchanges.clone(), step, seen.clone()));
            call(client, &exchanges, seed).await;
            serving.await.unwrap_or_else(|error| panic!("connection {seed}: {error}"));
        }
    });
    assert_eq!(seen.get(), EXCHANGES);
}

async fn serve(io: DuplexStream, exchanges: Rc<[Exchange]>, step: usize, seen: Rc<Cell<usize>>) {
    let (read, mut io) = tokio::io::split(io);
    let mut reader = Reader::requests(read, step);
    let (mut sender, mut head, mut out) = (Sender::new(), Head::default(), Vec::new());
    for (index, exchange) in exchanges.iter().enumerate() {
        let request = reader.message().await.expect("one more request");
        assert_eq!(request.head.method(), exchange.method);
        assert_eq!(request.head.path_and_query(), exchange.path);
        assert_eq!(request.head.version(), exchange.version);
        let trailers = request.trailers.as_ref();
        let fields = request.head.fields();
        let got = Message::seen(fields, request.body, trailers.into_iter().flat_map(Head::fields));
        assert_eq!(got, exchange.request.normal(), "{exchange:?}");
        let to = ResponseTo::of(&request.head);
        for status in &exchange.interim {
            head.start_response(Version::Http11, meshwork_http::StatusCode::new(*status).unwrap(), b"");
            sender.interim(&head, to, &mut out).unwrap();
        }
        exchange.response_head(&mut head);
        let keep_alive = reader.receiver.keep_alive();
        assert_eq!(keep_alive, !exchange.close && exchange.version == Version::Http11, "{exchange:?}");
        sender.response(&head, exchange.response.body.length(), to, keep_alive, &mut out).unwrap();
        assert_eq!(sender.keep_alive(), keep_alive);
        write(&mut io, &mut out).await;
        for piece in exchange.response.body.pieces() {
            sender.data(piece, &mut out).unwrap();
            write(&mut io, &mut out).await;
        }
        sender.end(Some(&trailers_head(&exchange.response)), &mut out).unwrap();
        write(&mut io, &mut out).await;
        seen.set(seen.get() + 1);
        assert!(keep_alive || index + 1 == exchanges.len());
    }
}

async fn call(io: DuplexStream, exchanges: &[Exchange], seed: usize) {
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    let connection = tokio::task::spawn_local(connection);
    for exchange in exchanges {
        client.ready().await.unwrap();
        let mut request = hyper_request(exchange);
        let interim = Arc::new(AtomicUsize::new(0));
        let count = interim.clone();
        hyper::ext::on_informational(&mut request, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let response = client.send_request(request).await;
        let response =
            response.unwrap_or_else(|error| panic!("connection {seed}: {error:?} at {exchange:?}"));
        assert_eq!(interim.load(Ordering::Relaxed), exchange.interim.len(), "{exchange:?}");
        assert_eq!(response.status().as_u16(), exchange.status);
        let (parts, body) = response.into_parts();
        check_declared(&parts.headers, exchange);
        let body = body.collect().await.unwrap_or_else(|error| panic!("connection {seed}: {error:?}"));
        let trailers = body.trailers().cloned().unwrap_or_default();
        let got = Message::seen(pairs(&parts.headers), body.to_bytes().to_vec(), pairs(&trailers));
        assert_eq!(got, exchange.response_seen().normal(), "connection {seed}: {exchange:?}");
    }
    drop(client);
    let _ = connection.await.unwrap(); // how it ends is the connection's own affair: all is said
}

/// A response to HEAD declares the length that GET would have had.
fn check_declared(headers: &hyper::HeaderMap, exchange: &Exchange) {
    if let ("HEAD", Body::Known(bytes)) = (exchange.method, &exchange.response.body) {
        assert_eq!(headers["content-length"], bytes.len().to_string());
    }
}

pub(crate) fn pairs(headers: &hyper::HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

pub(crate) fn trailers_head(message: &Message) -> Head {
    let mut head = Head::default();
    head.start_trailers();
    message.trailers.iter().for_each(|(name, value)| head.append(name, value));
    head
}

fn hyper_request(exchange: &Exchange) -> hyper::Request<Pieces> {
    let mut request = hyper::Request::builder().method(exchange.method).uri(exchange.path.as_str());
    if exchange.version == Version::Http10 {
        request = request.version(hyper::Version::HTTP_10);
    }
    for (name, value) in &exchange.request.fields {
        request = request.header(name, value.as_slice());
    }
    if exchange.close {
        request = request.header("connection", "close");
    }
    request.body(Pieces::of(&exchange.request)).unwrap()
}

/// A body for hyper: given pieces, perhaps without a length told before.
pub(crate) struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    length: Option<u64>,
}

impl Pieces {
    pub(crate) fn of(message: &Message) -> Self {
        let mut frames: VecDeque<_> = message
            .body
            .pieces()
            .into_iter()
            .map(|piece| Frame::data(Bytes::copy_from_slice(piece)))
            .collect();
        if !message.trailers.is_empty() {
            let mut trailers = hyper::HeaderMap::new();
            for (name, value) in &message.trailers {
                let name = hyper::header::HeaderName::try_from(name).unwrap();
                trailers.append(name, value.as_slice().try_into().unwrap());
            }
            frames.push_back(Frame::trailers(trailers));
        }
        let length = match message.body.length() {
            BodyLength::None => Some(0),
            BodyLength::Known(length) => Some(length),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        Self { frames, length }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.length.is_some()
    }
}
