//! Differential: a client made of our sender and receiver calls hyper's server, all requests of a
//! connection written without waiting for the answers (pipelining).

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshwork_http::Head;
use meshwork_http::h1::{BodyLength, RequestMethod, Sender};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::exchange::{Body, Exchange, Message};
use crate::hyper_client::{Pieces, pairs, trailers_head};
use crate::peer::{Reader, write};
use crate::random::Random;

const EXCHANGES: usize = 6_000;

#[test]
fn our_client_and_a_hyper_server_understand_each_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let seen = Rc::new(Cell::new(0));
    local.block_on(&runtime, async {
        for (seed, mut connection) in Exchange::connections(2, EXCHANGES).into_iter().enumerate() {
            // We write HTTP/1.1 only, whatever we read.
            connection.iter_mut().for_each(|exchange| exchange.version = meshwork_http::Version::Http11);
            let mut random = Random::new(seed as u64);
            let (client, server) = tokio::io::duplex(1 + random.below(3_000));
            let exchanges: Rc<[Exchange]> = connection.into();
            let serving = tokio::task::spawn_local(serve(server, exchanges.clone(), seen.clone()));
            let (read, io) = tokio::io::split(client);
            let step = 1 + random.below(3_000);
            tokio::join!(send(io, &exchanges), receive(read, &exchanges, step));
            serving.await.unwrap_or_else(|error| panic!("connection {seed}: {error}"));
        }
    });
    assert_eq!(seen.get(), EXCHANGES);
}

async fn serve(io: DuplexStream, exchanges: Rc<[Exchange]>, seen: Rc<Cell<usize>>) {
    let index = Cell::new(0);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let exchange = exchanges[index.replace(index.get() + 1)].clone();
        seen.set(seen.get() + 1);
        answer(request, exchange)
    });
    // How it ends is the connection's own affair: what was said is compared.
    let _ = hyper::server::conn::http1::Builder::new()
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(io), service)
        .await;
    assert_eq!(index.get(), exchanges.len());
}

async fn answer(
    request: hyper::Request<Incoming>,
    exchange: Exchange,
) -> Result<hyper::Response<Pieces>, Infallible> {
    assert_eq!(request.method().as_str(), exchange.method);
    assert_eq!(request.uri().path_and_query().unwrap().as_str(), exchange.path);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let got = Message::seen(pairs(&parts.headers), body.to_bytes().to_vec(), pairs(&trailers));
    assert_eq!(got, exchange.request.normal(), "{exchange:?}");
    let mut response = hyper::Response::builder().status(exchange.status);
    for (name, value) in &exchange.response.fields {
        response = response.header(name, value.as_slice());
    }
    Ok(response.body(Pieces::of(&exchange.response)).unwrap())
}

async fn send(mut io: impl AsyncWrite + Unpin, exchanges: &[Exchange]) {
    let (mut sender, mut head, mut out) = (Sender::new(), Head::default(), Vec::new());
    for exchange in exchanges {
        exchange.request_head(&mut head);
        sender.request(&head, exchange.request.body.length(), &mut out).unwrap();
        for piece in exchange.request.body.pieces() {
            sender.data(piece, &mut out).unwrap();
            write(&mut io, &mut out).await;
        }
        sender.end(Some(&trailers_head(&exchange.request)), &mut out).unwrap();
        write(&mut io, &mut out).await;
    }
}

async fn receive(io: impl AsyncRead + Unpin, exchanges: &[Exchange], step: usize) {
    let mut reader = Reader::responses(io, step);
    for exchange in exchanges {
        let response =
            reader.response(RequestMethod::from(exchange.method)).await.expect("one more response");
        assert_eq!(response.head.status().as_u16(), exchange.status);
        let trailers = response.trailers.as_ref();
        let fields = response.head.fields();
        let mut got = Message::seen(fields, response.body, trailers.into_iter().flat_map(Head::fields));
        let mut expect = exchange.response_seen().normal();
        if exchange.method == "HEAD" {
            // hyper announces no trailers where it sends none.
            got.fields.retain(|(name, _)| name != "trailer");
            expect.fields.retain(|(name, _)| name != "trailer");
        }
        assert_eq!(got, expect, "{exchange:?}");
        // After the client's own `close` hyper may leave it unsaid; else it goes on.
        assert!(reader.receiver.keep_alive() || exchange.close, "{exchange:?}");
        if let ("HEAD", Body::Known(bytes)) = (exchange.method, &exchange.response.body) {
            assert_eq!(reader.body_length(), BodyLength::Known(bytes.len() as u64));
        }
    }
}
