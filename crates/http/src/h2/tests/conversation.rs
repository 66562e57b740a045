//! Both ends against each other: messages in all their forms (RFC 9113, 8).

use super::*;

#[test]
fn rfc_9113_8_1_a_request_and_its_response_with_bodies_and_trailers() {
    let (mut client, mut server) = pair();
    client.request("POST", "/items?a=b", BodyLength::Known(5), false).unwrap();
    client.data(1, b"hello", true).unwrap();
    let (_, told) = pump(&mut client, &mut server);
    assert_eq!(
        told,
        [
            Event::Head(1, "POST cart/items?a=b content-length=5".into(), false),
            Event::Data(1, b"hello".into(), true)
        ]
    );
    assert_eq!(server.connection.body_length(server.id(1)), BodyLength::Known(5));
    server.respond(1, 103, BodyLength::None, false).unwrap();
    server.respond(1, 200, BodyLength::Chunked, false).unwrap();
    server.data(1, b"world", false).unwrap();
    let trailers = trailers_head(&[("grpc-status", "0"), ("Content-Length", "9")]);
    server.connection.trailers(server.id(1), Some(&trailers), &mut server.out).unwrap();
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(
        told,
        [
            Event::Head(1, "103".into(), false),
            Event::Head(1, "200".into(), false),
            Event::Data(1, b"world".into(), false),
            Event::Trailers(1, " grpc-status=0".into()),
        ]
    );
    assert_eq!(client.connection.body_length(client.id(1)), BodyLength::Chunked);
    assert_eq!((client.connection.open_streams(), server.connection.open_streams()), (0, 0));
    client.release(1);
    server.release(1);
    assert!(client.out.is_empty() && server.out.is_empty(), "nothing is reset");
}

#[test]
fn whatever_the_pieces_the_same_is_told() {
    let (mut client, mut server) = pair();
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    client.data(1, &[7; 300], false).unwrap();
    client.request("GET", "/other", BodyLength::None, true).unwrap();
    client
        .connection
        .trailers(client.id(1), Some(&trailers_head(&[("x-sum", "1")])), &mut client.out)
        .unwrap();
    let bytes = std::mem::take(&mut client.out);
    let mut told = Vec::new();
    for byte in bytes {
        for event in server.take(&[byte]).unwrap() {
            match (told.last_mut(), event) {
                (Some(Event::Data(_, data, _)), Event::Data(_, more, _)) => data.extend(more),
                (_, event) => told.push(event),
            }
        }
    }
    assert_eq!(
        told,
        [
            Event::Head(1, "POST cart/".into(), false),
            Event::Data(1, vec![7; 300], false),
            Event::Head(3, "GET cart/other".into(), true),
            Event::Trailers(1, " x-sum=1".into()),
        ]
    );
}

#[test]
fn rfc_9110_9_3_2_a_response_to_head_has_no_body() {
    let (mut client, mut server) = pair();
    client.request("HEAD", "/", BodyLength::None, true).unwrap();
    pump(&mut client, &mut server);
    server.respond(1, 200, BodyLength::Known(5), false).unwrap();
    assert_eq!(server.connection.capacity(server.id(1)), usize::MAX);
    assert_eq!(server.data(1, b"hello", true), Ok(5), "dropped");
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::Head(1, "200 content-length=5".into(), true)]);
    assert_eq!(client.connection.body_length(client.id(1)), BodyLength::Known(5));
}

#[test]
fn rfc_9110_6_4_1_204_and_304_have_no_body() {
    let (mut client, mut server) = pair();
    for (number, status, expect) in [(1, 204, "204"), (3, 304, "304 content-length=5")] {
        client.request("GET", "/", BodyLength::None, true).unwrap();
        pump(&mut client, &mut server);
        server.respond(number, status, BodyLength::Known(5), false).unwrap();
        let (told, _) = pump(&mut client, &mut server);
        assert_eq!(told, [Event::Head(number, expect.into(), true)]);
    }
}

#[test]
fn rfc_8441_an_extended_connect_opens_a_tunnel() {
    let (mut client, mut server) = pair();
    assert!(client.connection.peer_takes_connect_protocol());
    let mut head = Head::default();
    head.start_request(Version::Http2, "CONNECT", "/chat");
    head.set_authority("cart");
    head.set_protocol("websocket");
    let stream = client.connection.request(&head, BodyLength::None, false, &mut client.out).unwrap();
    client.streams.insert(stream.number(), stream);
    let (_, told) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::Head(1, "CONNECT cart/chat".into(), false)]);
    assert_eq!(server.head.protocol(), "websocket");
    server.respond(1, 200, BodyLength::None, false).unwrap();
    server.data(1, b"frame", false).unwrap();
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::Head(1, "200".into(), false), Event::Data(1, b"frame".into(), false)]);
    client.data(1, b"bye", true).unwrap();
    let (_, told) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::Data(1, b"bye".into(), true)]);
}

#[test]
fn rfc_8441_3_a_server_that_does_not_offer_it_gets_none() {
    let mut client = End::greeted_client();
    let mut head = Head::default();
    head.start_request(Version::Http2, "CONNECT", "/chat");
    head.set_protocol("websocket");
    let opened = client.connection.request(&head, BodyLength::None, false, &mut client.out);
    assert_eq!((opened, client.out.len()), (Err(NotOpened::NoConnectProtocol), 0));
}

#[test]
fn the_sender_keeps_to_its_content_length() {
    let (mut client, _) = pair();
    client.request("POST", "/", BodyLength::Known(5), false).unwrap();
    let missing = |missing| Err(SendError::TooShort { missing });
    assert_eq!(client.data(1, b"abc", true), missing(2));
    assert_eq!(client.data(1, b"abcdef", false), Err(SendError::TooLong { excess: 1 }));
    assert_eq!(client.data(1, b"abc", false), Ok(3));
    assert_eq!(client.connection.trailers(client.id(1), None, &mut client.out).map(|()| 0), missing(2));
    assert_eq!(client.data(1, b"de", true), Ok(2));
    assert_eq!(client.data(1, b"", true), Err(SendError::Ended));
    let opened = client.request("POST", "/", BodyLength::Known(5), true);
    assert_eq!(opened, Err(NotOpened::TooShort { missing: 5 }));
}

#[test]
fn heads_come_in_order_and_of_their_kind() {
    let (mut client, mut server) = pair();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    pump(&mut client, &mut server);
    assert_eq!(server.data(1, b"early", false), Err(SendError::NoHead));
    assert_eq!(server.respond(1, 101, BodyLength::None, false), Err(SendError::WrongKind));
    assert_eq!(server.respond(1, 100, BodyLength::None, true), Err(SendError::WrongKind));
    assert_eq!(server.respond(1, 200, BodyLength::Known(2), true), Err(SendError::TooShort { missing: 2 }));
    assert!(server.out.is_empty());
    server.respond(1, 200, BodyLength::Known(0), false).unwrap();
    assert_eq!(server.respond(1, 200, BodyLength::None, true), Err(SendError::SecondHead));
    let head = trailers_head(&[]);
    assert_eq!(
        client.connection.request(&head, BodyLength::None, true, &mut client.out),
        Err(NotOpened::WrongKind)
    );
}

#[test]
fn rfc_9113_8_1_an_early_answer_lets_the_rest_of_the_request_go() {
    let (mut client, mut server) = pair();
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    pump(&mut client, &mut server);
    server.respond(1, 413, BodyLength::None, true).unwrap();
    server.release(1);
    assert_eq!(server.written_tail(), rst(1, ErrorCode::NO_ERROR));
    // What was on its way meanwhile is taken without a word, and the index is free.
    client.data(1, b"more", true).unwrap();
    let late = std::mem::take(&mut client.out);
    assert_eq!(server.take(&late), Ok(vec![]));
    assert!(server.out.is_empty());
}

#[test]
fn rfc_9113_5_1_2_no_more_streams_than_the_server_allows() {
    let mut client = End::client();
    for _ in 0..100 {
        client.request("GET", "/", BodyLength::None, true).unwrap();
    }
    assert!(!client.connection.can_open(), "before SETTINGS: what every server should allow");
    client.take(&frame(Kind::Settings, 0, 0, &[0, 3, 0, 0, 0, 101])).unwrap();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    assert_eq!(client.request("GET", "/", BodyLength::None, true), Err(NotOpened::Full));
    let mut free = End::client();
    assert_eq!(free.take(&frame(Kind::Settings, 0, 0, b"")), Ok(vec![Event::Writable(None)]));
    for _ in 0..256 {
        free.request("GET", "/", BodyLength::None, true).unwrap();
    }
    assert_eq!(free.request("GET", "/", BodyLength::None, true), Err(NotOpened::Full), "our own limit");
}

#[test]
fn rfc_7541_6_2_3_a_secret_stays_one_at_the_next_hop() {
    let (mut encoder, mut fields) = (Encoder::default(), Vec::new());
    for (name, value) in GET {
        encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Without, &mut fields);
    }
    encoder.field(b"x-pin", b"1234", Indexing::Never, &mut fields);
    let mut server = End::greeted_server();
    server.take(&frame(Kind::Headers, frame::END_HEADERS | frame::END_STREAM, 1, &fields)).unwrap();
    let mut client = End::greeted_client();
    for _ in 0..3 {
        client.connection.request(&server.head, BodyLength::None, true, &mut client.out).unwrap();
    }
    for frame in client.written() {
        let literal = frame.payload.windows(6).position(|bytes| bytes == b"\x05x-pin").unwrap();
        assert_eq!(frame.payload[literal - 1], 0x10, "never indexed");
    }
}
