//! Windows between both ends and by hand (RFC 9113, 5.2 and 6.9).

use std::time::Duration;

use super::*;

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(Kind::WindowUpdate, 0, stream, &increment.to_be_bytes())
}

fn initial_window(bytes: u32) -> Vec<u8> {
    frame(Kind::Settings, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
}

/// A server that owes an answer on stream 1 to a client with a window of that size.
fn answering(window: u32) -> End {
    let mut server = End::greeted_server();
    server.take(&[initial_window(window), get(1)].concat()).unwrap();
    server.respond(1, 200, BodyLength::Chunked, false).unwrap();
    server.out.clear();
    server
}

fn data_sent(server: &mut End) -> usize {
    server.written().iter().filter(|frame| frame.kind == Kind::Data).map(|frame| frame.payload.len()).sum()
}

#[test]
fn rfc_9113_6_9_no_more_is_sent_than_the_windows_allow() {
    let mut server = answering(10);
    assert_eq!(server.connection.capacity(server.id(1)), 10);
    assert_eq!(server.data(1, b"hello, world", true), Ok(10));
    assert_eq!(server.data(1, b"ld", true), Ok(0));
    assert_eq!(data_sent(&mut server), 10);
    assert_eq!(server.take(&window_update(1, 1)), Ok(vec![Event::Writable(Some(1))]));
    assert_eq!(server.data(1, b"ld", true), Ok(1));
    assert_eq!(server.take(&window_update(1, 100)), Ok(vec![Event::Writable(Some(1))]));
    assert_eq!(server.data(1, b"d", true), Ok(1));
    assert!(server.written().last().unwrap().flags & frame::END_STREAM != 0);
}

#[test]
fn rfc_9113_6_9_the_connections_window_holds_up_all_streams() {
    let mut server = answering(1 << 20);
    server.take(&get(3)).unwrap();
    server.respond(3, 200, BodyLength::Chunked, false).unwrap();
    assert_eq!(server.data(1, &[0; 70_000], false), Ok(65_535));
    assert_eq!(server.data(3, b"x", true), Ok(0));
    assert_eq!(server.take(&window_update(0, 5)), Ok(vec![Event::Writable(None)]));
    assert_eq!(server.take(&window_update(0, 5)), Ok(vec![]), "it was open");
    assert_eq!(server.data(3, b"x", true), Ok(1));
}

#[test]
fn rfc_9113_6_9_a_streams_credit_alone_opens_nothing() {
    let mut server = answering(65_535);
    assert_eq!(server.data(1, &[0; 70_000], false), Ok(65_535), "both windows are shut");
    assert_eq!(server.take(&window_update(1, 10)), Ok(vec![]));
    assert_eq!(server.take(&window_update(0, 10)), Ok(vec![Event::Writable(None)]));
    assert_eq!(server.connection.capacity(server.id(1)), 10);
}

#[test]
fn rfc_9113_6_9_2_settings_change_the_windows_of_open_streams() {
    let mut server = answering(100);
    assert_eq!(server.data(1, &[0; 60], false), Ok(60));
    assert_eq!(server.take(&initial_window(50)), Ok(vec![]));
    assert_eq!(server.connection.capacity(server.id(1)), 0, "it is 10 below zero");
    assert_eq!(server.take(&window_update(1, 10)), Ok(vec![]));
    assert_eq!(server.take(&window_update(1, 1)), Ok(vec![Event::Writable(Some(1))]));
    assert_eq!(server.take(&initial_window(60)), Ok(vec![Event::Writable(None)]));
    assert_eq!(server.connection.capacity(server.id(1)), 11);
    let overflow = [window_update(1, 0x7fff_ff00), initial_window(0x7fff_ffff)].concat();
    assert_eq!(server.take(&overflow), Err(ConnectionError::InvalidWindowSetting));
}

#[test]
fn rfc_9113_6_9_1_windows_end_at_2_31_minus_1() {
    let mut server = answering(1);
    let told = server.take(&window_update(1, 0x7fff_ffff));
    let reason = Reason::WindowOverflow;
    let reset = Reset { code: reason.code(), by: By::Us(reason), certainty: Certainty::Unknown };
    assert_eq!(told, Ok(vec![Event::Reset(1, reset)]));
    assert_eq!(server.take(&window_update(0, 0x7fff_ffff)), Err(ConnectionError::WindowOverflow));
    assert_eq!(answering(1).take(&window_update(0, 0)), Err(ConnectionError::ZeroIncrement));
    let told = answering(1).take(&window_update(1, 0));
    let reason = Reason::ZeroIncrement;
    let reset = Reset { code: reason.code(), by: By::Us(reason), certainty: Certainty::Unknown };
    assert_eq!(told, Ok(vec![Event::Reset(1, reset)]));
}

#[test]
fn rfc_9113_6_9_1_more_than_the_window_costs_the_stream() {
    let mut server = End::greeted_server();
    server.take(&post(1)).unwrap();
    for _ in 0..3 {
        server.take(&frame(Kind::Data, 0, 1, &[0; 16_384])).unwrap();
    }
    // With its padding it is one byte too many.
    let mut last = vec![0; 16_384];
    last[0] = 9;
    let told = server.take(&frame(Kind::Data, frame::PADDED, 1, &last));
    let reason = Reason::WindowExceeded;
    let reset = Reset { code: reason.code(), by: By::Us(reason), certainty: Certainty::Unknown };
    assert_eq!(told, Ok(vec![Event::Reset(1, reset)]));
    assert_eq!(server.written_tail(), rst(1, ErrorCode::FLOW_CONTROL_ERROR));
}

#[test]
fn rfc_9113_6_9_1_more_than_the_connections_window_ends_it() {
    let limits = Limits { connection_window_bytes: 65_535, ..Limits::default() };
    let mut server = End::new(|out| Connection::server(limits, out));
    server.take(&[&frame::PREFACE[..], &frame(Kind::Settings, 0, 0, b"")].concat()).unwrap();
    server.connection.receive_window = window::ConnectionWindow::without_credit(100);
    let told = server.take(&[post(1), frame(Kind::Data, 0, 1, &[0; 101])].concat());
    assert_eq!(told, Err(ConnectionError::WindowExceeded));
}

#[test]
fn one_reader_that_stalls_holds_up_nobody() {
    let (mut client, mut server) = pair();
    // Each of 255 readers takes nothing of a full window.
    for n in 0..255 {
        client.request("POST", "/", BodyLength::Chunked, false).unwrap();
        assert_eq!(client.data(2 * n + 1, &[0; 70_000], false), Ok(65_535));
        pump(&mut client, &mut server);
    }
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    assert_eq!(client.data(511, &[0; 70_000], true), Ok(65_535));
    pump(&mut client, &mut server);
    server.connection.consumed(server.id(511), 65_535, server.now, &mut server.out);
    let (told, _) = pump(&mut client, &mut server);
    assert_eq!(told, [Event::Writable(Some(511))]);
    assert_eq!(client.data(511, &[0; 70_000 - 65_535], true), Ok(70_000 - 65_535));
}

#[test]
fn padding_is_credited_though_nobody_takes_it() {
    let mut server = End::greeted_server();
    server.take(&post(1)).unwrap();
    let mut padded = vec![0; 200];
    padded[0] = 199; // one byte for the length, 199 of padding, no data
    for _ in 0..300 {
        server.take(&frame(Kind::Data, frame::PADDED, 1, &padded)).unwrap();
    }
    // At half a window, without anybody's asking for more.
    let credit = server.written().into_iter().find(|frame| frame.kind == Kind::WindowUpdate).unwrap();
    assert_eq!((credit.stream, credit.payload), (1, (164 * 200_u32).to_be_bytes().to_vec()));
}

#[test]
fn no_credit_is_given_for_what_cannot_come() {
    let mut server = End::greeted_server();
    let fields = [&GET[..], &[("content-length", "60000")]].concat();
    server.take(&frame(Kind::Headers, frame::END_HEADERS, 1, &block(&fields))).unwrap();
    for _ in 0..3 {
        server.take(&frame(Kind::Data, 0, 1, &[0; 15_000])).unwrap();
        server.connection.consumed(server.id(1), 15_000, server.now, &mut server.out);
    }
    assert!(server.out.is_empty(), "the rest fits the window as it is");
}

/// Sends as much as the window lets through, twelve round trips long; what went in each, and the PINGs that came back.
fn bulk(client: &mut End, server: &mut End, number: u32) -> (Vec<usize>, usize) {
    let (mut sent, mut pings) = (Vec::new(), 0);
    for _ in 0..12 {
        sent.push(client.data(number, &vec![0; 8 << 20], false).unwrap());
        let up = std::mem::take(&mut client.out);
        server.now += Duration::from_millis(50);
        for event in server.take(&up).unwrap() {
            if let Event::Data(_, data, _) = event {
                server.connection.consumed(server.id(number), data.len(), server.now, &mut server.out);
            }
        }
        let down = std::mem::take(&mut server.out);
        pings += frames(&down).iter().filter(|frame| frame.kind == Kind::Ping).count();
        client.take(&down).unwrap();
    }
    (sent, pings)
}

#[test]
fn a_bulk_stream_over_a_long_way_gets_a_large_window() {
    let (mut client, mut server) = pair();
    client.request("POST", "/", BodyLength::Chunked, false).unwrap();
    let (sent, pings) = bulk(&mut client, &mut server, 1);
    assert!(sent.contains(&(4 << 20)), "{sent:?}");
    assert_eq!(pings, 1, "measured once, not all the time");
}

#[test]
fn windows_that_grew_are_given_back_when_their_stream_ends() {
    let (mut client, mut server) = pair();
    // Together they would grow by more than a connection's streams may.
    for n in 0..6 {
        let number = 2 * n + 1;
        client.request("POST", "/", BodyLength::Chunked, false).unwrap();
        let (sent, _) = bulk(&mut client, &mut server, number);
        assert!(sent.iter().any(|sent| *sent >= 2 << 20), "stream {number}: {sent:?}");
        client.release(number);
        pump(&mut client, &mut server);
        server.release(number);
    }
}

#[test]
fn small_messages_cost_no_ping() {
    let (mut client, mut server) = pair();
    for n in 0..50 {
        client.request("POST", "/", BodyLength::Chunked, false).unwrap();
        client.data(2 * n + 1, &[0; 1_000], true).unwrap();
        let (_, told) = pump(&mut client, &mut server);
        assert_eq!(told.len(), 2);
        server.connection.consumed(server.id(2 * n + 1), 1_000, server.now, &mut server.out);
        server.respond(2 * n + 1, 200, BodyLength::None, true).unwrap();
        assert!(server.written().iter().all(|frame| frame.kind == Kind::Headers));
        server.release(2 * n + 1);
    }
}

#[test]
fn data_for_a_stream_that_is_let_go_in_mid_frame_is_skipped() {
    let mut server = End::greeted_server();
    let body = frame(Kind::Data, frame::END_STREAM, 1, &[7; 100]);
    let told = server.take(&[&post(1)[..], &body[..50]].concat()).unwrap();
    assert_eq!(told[1], Event::Data(1, vec![7; 41], false));
    server.release(1);
    // Its index is used again at once: the rest of the frame is not the new stream's.
    let told = server.take(&[&body[50..], &get(3)].concat()).unwrap();
    assert_eq!(told, [Event::Head(3, "GET cart/".into(), true)]);
    assert_eq!(server.id(3).index(), 0);
}
