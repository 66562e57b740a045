//! Differential: a client made of our engine calls the h2 crate's server, many requests at once on each connection.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use meshwork_http::h2::Limits;
use tokio::io::DuplexStream;

use crate::drive::{STUCK, drive, fields, grouped, headers, read_body, send_body};
use crate::end::{End, Order, Progress, Side, Start};
use crate::exchange::{Exchange, Trouble, Troubles};
use crate::random::Random;

const CONNECTIONS: u64 = 400;

#[test]
fn our_client_and_the_crates_server_understand_each_other() {
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
    let mut random = Random::new(300_000 + seed);
    let count = 1 + random.below(40);
    let exchanges: Rc<[Exchange]> = Exchange::list(&mut random, count, Troubles::Sometimes).into();
    let header_table_bytes_max = random.pick(&[4_096, 0, 100, 65_536]);
    let limits = Limits { header_table_bytes_max, ..Limits::default() };
    let mut client = End::new(Side::Client, limits, exchanges.clone());
    client.order = Order::Grouped;
    // Frames that follow a refused request make the crate give up the whole connection.
    client.start = Start::AfterSettings;
    let (client_io, server_io) = tokio::io::duplex(64 + random.below(20_000));
    let serving = tokio::task::spawn_local(serve(server_io, exchanges.clone(), seed, compared));
    drive(&mut client, Side::Client, client_io, &mut random).await;
    assert_eq!(client.engine.open_streams(), 0, "connection {seed}");
    serving.await.unwrap_or_else(|error| panic!("connection {seed}: {error}"));
    for (exchange, outcome) in exchanges.iter().zip(&client.outcomes) {
        let outcome = outcome.expect("each was carried out");
        match exchange.trouble {
            Trouble::None => {
                assert_eq!(
                    (outcome.sent, outcome.received),
                    (Progress::Whole, Progress::Whole),
                    "{exchange:?}"
                );
                assert_eq!(outcome.reset, None, "{exchange:?}");
            }
            Trouble::ServerAnswersEarly => assert_eq!(outcome.received, Progress::Whole, "{exchange:?}"),
            Trouble::ClientCancels { .. } | Trouble::ServerResets { .. } => {}
        }
    }
}

async fn serve(io: DuplexStream, exchanges: Rc<[Exchange]>, seed: u64, compared: Rc<Cell<usize>>) {
    let mut random = Random::new(400_000 + seed);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(random.pick(&[1, 7, 1_000]));
    let mut window = random.pick(&[65_535, 1_000, 1 << 20]);
    builder.initial_window_size(window);
    builder.header_table_size(random.pick(&[4_096, 0, 100, 65_536]));
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut calls = Vec::new();
    while let Some(request) = connection.accept().await {
        if random.once_in(8) {
            // It grows: where it shrinks, the crate forgets to give credit for what was taken before, and all waits for ever.
            window = (2 * window).min(1 << 24);
            // An earlier change may still be unanswered.
            let _ = connection.set_initial_window_size(window);
        }
        // How it ends is the connection's own affair: our client has gone once all was said.
        let Ok((request, respond)) = request else { break };
        let (exchanges, compared, random) = (exchanges.clone(), compared.clone(), Random::new(random.next()));
        calls.push(tokio::task::spawn_local(async move {
            let exchange = &exchanges[Exchange::number(request.uri().path()).unwrap()];
            let result = answer(exchange, request, respond, random).await;
            match (exchange.trouble, result) {
                (Trouble::None, Ok(())) => compared.set(compared.get() + 1),
                (Trouble::None, Err(error)) => panic!("connection {seed}: {error:?} at {exchange:?}"),
                _ => {}
            }
        }));
    }
    for call in calls {
        call.await.unwrap();
    }
}

async fn answer(
    exchange: &Exchange,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    mut random: Random,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    assert_eq!(parts.method.as_str(), exchange.method);
    assert_eq!(parts.uri.scheme_str(), Some("http"));
    assert_eq!(parts.uri.authority().unwrap().as_str(), exchange.authority);
    assert_eq!(parts.uri.path_and_query().unwrap().as_str(), exchange.path);
    let expect = &exchange.request;
    assert_eq!(grouped(fields(&parts.headers)), grouped(expect.fields.clone()), "{exchange:?}");
    let reads_first = random.once_in(2) && exchange.trouble != Trouble::ServerAnswersEarly;
    if let Trouble::ServerResets { .. } = exchange.trouble {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    if reads_first {
        check_body(exchange, &mut body).await?;
    }
    for status in &exchange.interim {
        let interim = http::Response::builder().status(*status).body(()).unwrap();
        respond.send_informational(interim)?;
    }
    let mut response = http::Response::builder().status(exchange.status).body(()).unwrap();
    *response.headers_mut() = headers(&exchange.response);
    if exchange.status == 204 {
        response.headers_mut().remove("content-length"); // RFC 9110, 8.6: there is none
    }
    let message = exchange.response_seen();
    let end = message.body.len() == 0
        && message.trailers.is_empty()
        && (!exchange.has_response_body() || random.once_in(2));
    let mut stream = respond.send_response(response, end)?;
    if !end {
        send_body(&message, &mut stream, &mut random)?;
    }
    if !reads_first && exchange.trouble != Trouble::ServerAnswersEarly {
        check_body(exchange, &mut body).await?;
    }
    Ok(())
}

async fn check_body(exchange: &Exchange, body: &mut h2::RecvStream) -> Result<(), h2::Error> {
    let (bytes, trailers) = read_body(body).await?;
    let expect = &exchange.request;
    assert!(bytes.len() == expect.body.len() && expect.has(0, &bytes), "{exchange:?}: {} bytes", bytes.len());
    assert_eq!(trailers, expect.trailers, "{exchange:?}");
    Ok(())
}
