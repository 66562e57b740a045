//! How streams and connections end: GOAWAY at both ends, draining, PING (RFC 9113, 6.7 and 6.8), releasing.

use std::time::Duration;

use super::*;

fn goaway(last: u32, code: ErrorCode) -> Vec<u8> {
    frame(Kind::GoAway, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

const NOT_PROCESSED: Reset =
    Reset { code: ErrorCode::REFUSED_STREAM, by: By::Peer, certainty: Certainty::NotProcessed };

#[test]
fn rfc_9113_6_8_streams_above_goaways_last_were_not_processed() {
    let mut client = End::greeted_client();
    for _ in 0..3 {
        client.request("GET", "/", BodyLength::None, true).unwrap();
    }
    let told = client.take(&goaway(1, ErrorCode::NO_ERROR)).unwrap();
    let gone = |stream| Event::Reset(stream, NOT_PROCESSED);
    assert_eq!(told, [Event::GoAway(1, ErrorCode::NO_ERROR), gone(3), gone(5)]);
    assert_eq!(client.request("GET", "/", BodyLength::None, true), Err(NotOpened::GoingAway));
    assert!(client.connection.is_draining() && !client.connection.is_finished(), "stream 1 goes on");
    let late = frame(Kind::Headers, frame::END_HEADERS, 3, &block(&[(":status", "200")]));
    assert_eq!(client.take(&late), Ok(vec![]), "it should not have come, and says nothing now");
    let answer =
        frame(Kind::Headers, frame::END_HEADERS | frame::END_STREAM, 1, &block(&[(":status", "200")]));
    assert_eq!(client.take(&answer), Ok(vec![Event::Head(1, "200".into(), true)]));
    assert!(client.connection.is_finished());
    client.out.clear();
    client.release(3);
    assert!(client.out.is_empty(), "no reset for what the server never took");
}

#[test]
fn rfc_9113_6_8_a_second_goaway_takes_more_away_but_never_gives_back() {
    let mut client = End::greeted_client();
    for _ in 0..2 {
        client.request("GET", "/", BodyLength::None, true).unwrap();
    }
    let told = client.take(&goaway(frame::LARGEST, ErrorCode::NO_ERROR)).unwrap();
    assert_eq!(told, [Event::GoAway(frame::LARGEST, ErrorCode::NO_ERROR)]);
    let told = client.take(&goaway(1, ErrorCode::NO_ERROR)).unwrap();
    assert_eq!(told, [Event::GoAway(1, ErrorCode::NO_ERROR), Event::Reset(3, NOT_PROCESSED)]);
    let told = client.take(&goaway(3, ErrorCode::ENHANCE_YOUR_CALM)).unwrap();
    assert_eq!(told, [Event::GoAway(1, ErrorCode::ENHANCE_YOUR_CALM)]);
}

#[test]
fn a_server_drains_without_losing_what_was_on_its_way() {
    let (mut client, mut server) = pair();
    client.request("GET", "/1", BodyLength::None, true).unwrap();
    pump(&mut client, &mut server);
    server.connection.drain(&mut server.out);
    server.connection.drain(&mut server.out);
    let warning = std::mem::take(&mut server.out);
    assert_eq!(
        frames(&warning).iter().map(|frame| frame.kind).collect::<Vec<_>>(),
        [Kind::GoAway, Kind::Ping]
    );
    // Before the client hears of it, it opens another stream: that is taken.
    client.request("GET", "/2", BodyLength::None, true).unwrap();
    let up = std::mem::take(&mut client.out);
    assert_eq!(server.take(&up).unwrap(), [Event::Head(3, "GET cart/2".into(), true)]);
    client.take(&warning).unwrap();
    assert!(!client.connection.can_open());
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::GoAway(3, ErrorCode::NO_ERROR)], "the final one names the last that was taken");
    assert!(!server.connection.is_finished());
    for number in [1, 3] {
        server.respond(number, 200, BodyLength::None, true).unwrap();
    }
    assert!(server.connection.is_finished());
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(told, [1, 3].map(|number| Event::Head(number, "200".into(), true)));
    assert!(client.connection.is_finished());
}

#[test]
fn rfc_9113_6_8_streams_after_the_final_goaway_are_not_taken() {
    let mut server = End::greeted_server();
    server.take(&get(1)).unwrap();
    server.connection.drain(&mut server.out);
    server.take(&frame(Kind::Ping, frame::ACK, 0, b"draining")).unwrap();
    server.out.clear();
    let late = [post(3), frame(Kind::Data, frame::END_STREAM, 3, b"body"), get(5)].concat();
    assert_eq!(server.take(&late), Ok(vec![]));
    assert!(server.out.is_empty(), "the GOAWAY said it");
    server.respond(1, 200, BodyLength::None, true).unwrap();
    assert!(server.connection.is_finished());
}

#[test]
fn a_client_drains_by_opening_no_more() {
    let (mut client, mut server) = pair();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    client.connection.drain(&mut client.out);
    assert!(!client.connection.can_open() && !client.connection.is_finished());
    let (_, told) = pump(&mut client, &mut server);
    assert_eq!(told[1], Event::GoAway(0, ErrorCode::NO_ERROR));
    server.respond(1, 200, BodyLength::None, true).unwrap();
    assert!(server.connection.is_finished());
    pump(&mut client, &mut server);
    assert!(client.connection.is_finished());
}

#[test]
fn rfc_9113_6_7_one_ping_of_ours_at_a_time() {
    let (mut client, mut server) = pair();
    client.now = Instant::from_millis(5);
    client.connection.ping(client.now, &mut client.out);
    client.connection.ping(client.now + Duration::from_secs(1), &mut client.out);
    assert_eq!(client.connection.ping_sent(), Some(Instant::from_millis(5)));
    let up = std::mem::take(&mut client.out);
    assert_eq!(frames(&up).len(), 1);
    client.take(&frame(Kind::Ping, frame::ACK, 0, b"another!")).unwrap();
    assert!(client.connection.ping_sent().is_some(), "that was none of ours");
    server.take(&up).unwrap();
    pump(&mut client, &mut server);
    assert_eq!(client.connection.ping_sent(), None);
}

#[test]
fn releasing_an_open_stream_resets_it() {
    let (mut client, mut server) = pair();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    pump(&mut client, &mut server);
    client.release(1);
    assert_eq!(client.written(), [rst(1, ErrorCode::CANCEL)]);
    server.release(3);
    assert_eq!(server.written(), [rst(3, ErrorCode::INTERNAL_ERROR)]);
    assert_eq!((client.connection.open_streams(), server.connection.open_streams()), (1, 1));
}

#[test]
fn a_stream_that_is_over_takes_nothing_more_from_its_driver() {
    let (mut client, mut server) = pair();
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    pump(&mut client, &mut server);
    server.connection.reset(server.id(1), ErrorCode::CANCEL, &mut server.out);
    let (told, _) = pump(&mut client, &mut server);
    let reset = Reset { code: ErrorCode::CANCEL, by: By::Peer, certainty: Certainty::Unknown };
    assert_eq!(told, [Event::Reset(1, reset)]);
    assert_eq!(client.data(1, b"x", true), Err(SendError::Closed));
    assert_eq!(client.connection.capacity(client.id(1)), 0);
    assert_eq!(server.respond(1, 200, BodyLength::None, true), Err(SendError::Closed));
    client.connection.consumed(client.id(1), 10, client.now, &mut client.out);
    client.connection.reset(client.id(1), ErrorCode::CANCEL, &mut client.out);
    client.release(1);
    assert!(client.out.is_empty());
}

#[test]
fn a_connection_that_failed_writes_no_more() {
    let (mut client, _) = pair();
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    assert_eq!(client.take(&frame(Kind::Data, 0, 0, b"")), Err(ConnectionError::NotOnStreamZero));
    client.out.clear();
    assert_eq!(client.data(1, b"x", false), Err(SendError::Closed));
    assert_eq!(client.request("GET", "/", BodyLength::None, true), Err(NotOpened::GoingAway));
    client.connection.ping(client.now, &mut client.out);
    client.connection.drain(&mut client.out);
    client.connection.consumed(client.id(1), 1 << 20, client.now, &mut client.out);
    client.release(1);
    assert!(client.out.is_empty(), "GOAWAY is the last frame");
}

#[test]
fn rfc_9113_5_1_1_numbers_are_used_up_at_last() {
    let mut client = End::greeted_client();
    client.connection.next_number = frame::LARGEST;
    assert_eq!(client.request("GET", "/", BodyLength::None, true).map(StreamId::number), Ok(frame::LARGEST));
    assert_eq!(client.request("GET", "/", BodyLength::None, true), Err(NotOpened::NumbersUsedUp));
    assert!(!client.connection.can_open());
}
