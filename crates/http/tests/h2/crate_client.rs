//! Differential: the h2 crate's client calls a server made of our engine, many requests at once on each connection.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use meshwork_http::h2::Limits;
use tokio::io::DuplexStream;

use crate::drive::{STUCK, drive, fields, grouped, headers, read_body, send_body};
use crate::end::{End, Order, Progress, Side};
use crate::exchange::{Exchange, Trouble, Troubles};
use crate::random::Random;

const CONNECTIONS: u64 = 400;

#[test]
fn the_crates_client_and_our_server_understand_each_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let compared = Rc::new(Cell::new(0));
    local.block_on(&runtime, async {
        for seed in 0..CONNECTIONS {
            let one = tokio::time::timeout(STUCK, connection(seed, compared.clone()));
            one.await.unwrap_or_else(|_| panic!("connection {seed} is stuck"));
        }
    });
    assert!(compared.get() >= 5_000, "{} exchanges", compared.get());
}

async fn connection(seed: u64, compared: Rc<Cell<usize>>) {
    let mut random = Random::new(100_000 + seed);
    let count = 1 + random.below(40);
    let exchanges: Rc<[Exchange]> = Exchange::list(&mut random, count, Troubles::Sometimes).into();
    let limits = Limits {
        streams_max: random.pick(&[2, 10, 256]),
        header_table_bytes_max: random.pick(&[4_096, 0, 100, 65_536]),
        ..Limits::default()
    };
    let mut server = End::new(Side::Server, limits, exchanges.clone());
    server.order = Order::Grouped;
    let (client_io, server_io) = tokio::io::duplex(64 + random.below(20_000));
    let calling = tokio::task::spawn_local(call(client_io, exchanges.clone(), seed, compared));
    drive(&mut server, Side::Server, server_io, &mut random).await;
    calling.await.unwrap_or_else(|error| panic!("connection {seed}: {error}"));
    assert_eq!(server.engine.open_streams(), 0, "connection {seed}");
    for (exchange, outcome) in exchanges.iter().zip(&server.outcomes) {
        if exchange.trouble == Trouble::None {
            let outcome = outcome.expect("it was asked for");
            assert_eq!(
                (outcome.sent, outcome.received, outcome.reset),
                (Progress::Whole, Progress::Whole, None)
            );
        }
    }
}

async fn call(io: DuplexStream, exchanges: Rc<[Exchange]>, seed: u64, compared: Rc<Cell<usize>>) {
    let mut random = Random::new(200_000 + seed);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(random.pick(&[65_535, 1_000, 1 << 20]));
    builder.header_table_size(random.pick(&[4_096, 0, 100, 65_536]));
    builder.max_frame_size(random.pick(&[16_384, 1 << 20]));
    let (mut client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    let connection = tokio::task::spawn_local(connection);
    let mut calls = Vec::new();
    for number in 0..exchanges.len() {
        client = client.ready().await.unwrap();
        let exchange = &exchanges[number];
        let uri = format!("http://{}{}", exchange.authority, exchange.path);
        let mut request = http::Request::builder().method(exchange.method).uri(uri).body(()).unwrap();
        *request.headers_mut() = headers(&exchange.request);
        let message = &exchange.request;
        let end = message.body.len() == 0 && message.trailers.is_empty() && random.once_in(2);
        let (response, mut stream) = client.send_request(request, end).unwrap();
        let sent = if end { Ok(()) } else { send_body(message, &mut stream, &mut random) };
        let exchanges = exchanges.clone();
        let compared = compared.clone();
        calls.push(tokio::task::spawn_local(async move {
            let exchange = &exchanges[number];
            let received = response_of(exchange, response, &mut stream).await;
            match (exchange.trouble, received.and(sent)) {
                (Trouble::None | Trouble::ServerAnswersEarly, Ok(())) => compared.set(compared.get() + 1),
                (Trouble::None, Err(error)) => panic!("connection {seed}: {error:?} at {exchange:?}"),
                (Trouble::ServerAnswersEarly, Err(_)) => {} // the rest of the request was not wanted
                (Trouble::ClientCancels { .. } | Trouble::ServerResets { .. }, _) => {}
            }
        }));
        if random.once_in(3) {
            tokio::task::yield_now().await;
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    drop(client);
    let _ = connection.await.unwrap(); // how it ends is the connection's own affair: all is said
}

async fn response_of(
    exchange: &Exchange,
    mut response: h2::client::ResponseFuture,
    request: &mut h2::SendStream<Bytes>,
) -> Result<(), h2::Error> {
    if let Trouble::ClientCancels { received: 0 } = exchange.trouble {
        request.send_reset(h2::Reason::CANCEL);
        return Ok(());
    }
    let mut interim = Vec::new();
    while interim.len() < exchange.interim.len() {
        match std::future::poll_fn(|cx| response.poll_informational(cx)).await {
            Some(one) => interim.push(one?.status().as_u16()),
            None => break,
        }
    }
    let (parts, mut body) = response.await?.into_parts();
    let expect = exchange.response_seen();
    if exchange.trouble == Trouble::None {
        assert_eq!(
            (interim, parts.status.as_u16()),
            (exchange.interim.clone(), exchange.status),
            "{exchange:?}"
        );
        assert_eq!(grouped(fields(&parts.headers)), grouped(expect.fields.clone()), "{exchange:?}");
    }
    if let Trouble::ClientCancels { .. } = exchange.trouble {
        request.send_reset(h2::Reason::CANCEL);
        return Ok(());
    }
    let (bytes, trailers) = read_body(&mut body).await?;
    assert!(bytes.len() == expect.body.len() && expect.has(0, &bytes), "{exchange:?}: {} bytes", bytes.len());
    assert_eq!(trailers, expect.trailers, "{exchange:?}");
    Ok(())
}
