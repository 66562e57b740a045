//! Floods (RFC 9113, 10.5): each ends with its own name, and honest heavy use is none.

use super::*;
use crate::h2::frame::{ACK, END_HEADERS, END_STREAM};

/// Sends `frames(0)`, `frames(1)`, … until the server breaks; how many it took, and why it broke.
fn flood(mut frames: impl FnMut(u32) -> Vec<u8>) -> (u32, ConnectionError) {
    let mut server = End::greeted_server();
    server.take(&post(1)).unwrap();
    for n in 0..100_000 {
        if let Err(error) = server.take(&frames(n)) {
            assert_eq!(error.code(), ErrorCode::ENHANCE_YOUR_CALM);
            return (n, error);
        }
        server.out.clear();
        let told: Vec<_> = server.streams.keys().copied().filter(|number| *number > 1).collect();
        told.into_iter().for_each(|number| server.release(number));
    }
    panic!("nothing ever broke");
}

fn rst_stream(stream: u32) -> Vec<u8> {
    frame(Kind::RstStream, 0, stream, &ErrorCode::CANCEL.0.to_be_bytes())
}

#[test]
fn cve_2023_44487_rapid_reset() {
    let limits = Limits::default();
    let (taken, error) = flood(|n| [get(2 * n + 3), rst_stream(2 * n + 3)].concat());
    assert_eq!((taken, error), (limits.resets.burst, ConnectionError::RapidReset));
}

#[test]
fn cve_2025_8671_making_the_server_reset() {
    // Each stream is opened well and then given a window that is too large.
    let overflow = |n| frame(Kind::WindowUpdate, 0, n, &0x7fff_ffff_u32.to_be_bytes());
    let (_, error) = flood(|n| [get(2 * n + 3), overflow(2 * n + 3)].concat());
    assert_eq!(error, ConnectionError::RapidReset);
    let (_, error) = flood(|n| frame(Kind::Headers, END_HEADERS, 2 * n + 3, &block(&GET[1..])));
    assert_eq!(error, ConnectionError::RapidReset, "malformed requests");
}

#[test]
fn cve_2024_27316_continuation() {
    let (taken, error) = flood(|n| match n {
        0 => frame(Kind::Headers, END_STREAM, 3, b""),
        _ => frame(Kind::Continuation, 0, 3, b""),
    });
    let limits = Limits::default();
    assert_eq!((taken, error), (limits.continuations_max as u32 + 1, ConnectionError::ContinuationFlood));
    let (taken, error) = flood(|n| match n {
        0 => frame(Kind::Headers, END_STREAM, 3, &[0; 16_384]),
        _ => frame(Kind::Continuation, 0, 3, &[0; 16_384]),
    });
    assert_eq!((taken, error), (5, ConnectionError::HeaderBlockTooLarge));
}

#[test]
fn a_header_bomb_ends_the_connection_and_a_long_head_does_not() {
    let mut server = End::greeted_server();
    let (mut encoder, mut big) = (Encoder::default(), Vec::new());
    GET.iter().for_each(|(n, v)| encoder.field(n.as_bytes(), v.as_bytes(), Indexing::Usual, &mut big));
    encoder.field(b"x-big", &[b'x'; 1_900], Indexing::Incremental, &mut big);
    server.take(&frame(Kind::Headers, END_HEADERS | END_STREAM, 1, &big)).unwrap();
    // The entry is the table's newest: number 62.
    let bomb = |entries| [block(&GET), vec![0x80 | 62; entries]].concat();
    let told = server.take(&frame(Kind::Headers, END_HEADERS | END_STREAM, 3, &bomb(40)));
    assert_eq!(told, Ok(vec![Event::Refused(Reason::HeaderListTooLarge)]));
    let told = server.take(&frame(Kind::Headers, END_HEADERS | END_STREAM, 5, &bomb(1_000)));
    assert_eq!(told, Err(ConnectionError::HeaderBomb));
    assert!(server.head.capacity() < 256 * 1024, "it took no memory");
}

#[test]
fn frames_that_do_nothing() {
    let limits = Limits::default();
    let ping = |_| frame(Kind::Ping, 0, 0, &[0; 8]);
    assert_eq!(flood(ping), (limits.pings.burst, ConnectionError::PingFlood));
    let pong = |_| frame(Kind::Ping, ACK, 0, &[0; 8]);
    assert_eq!(flood(pong), (limits.pings.burst, ConnectionError::PingFlood));
    // One was the greeting's.
    let settings = |_| frame(Kind::Settings, 0, 0, b"");
    assert_eq!(flood(settings), (limits.settings.burst - 1, ConnectionError::SettingsFlood));
    let goaway = |_| frame(Kind::GoAway, 0, 0, &[0; 8]);
    assert_eq!(flood(goaway), (limits.settings.burst - 1, ConnectionError::SettingsFlood));
    let empty = |_| frame(Kind::Data, 0, 1, b"");
    assert_eq!(flood(empty), (limits.empty_data.burst, ConnectionError::EmptyDataFlood));
    let credit = |_| frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 1]);
    assert_eq!(flood(credit), (limits.window_updates.burst, ConnectionError::WindowUpdateFlood));
    let priority = |_| frame(Kind::Priority, 0, 1, &[0; 5]);
    assert_eq!(flood(priority), (limits.priorities.burst, ConnectionError::PriorityFlood));
    let unknown = |_| vec![0, 0, 0, 99, 0, 0, 0, 0, 0];
    assert_eq!(flood(unknown), (limits.unknown_frames.burst, ConnectionError::UnknownFrameFlood));
}

#[test]
fn frames_on_streams_that_are_over() {
    let limits = Limits::default();
    let (taken, error) = flood(|n| match n {
        0 => rst_stream(1),
        _ => frame(Kind::Data, 0, 1, b"x"),
    });
    // The answer to the first one was a reset of ours, for which late frames are expected; the bucket was full.
    assert_eq!(error, ConnectionError::LateFrameFlood);
    assert!((limits.late_frames.burst..limits.late_frames.burst + 100).contains(&taken), "{taken}");
}

#[test]
fn callers_that_give_up_are_no_attack() {
    // 256 streams cancelled at once, ten times a second for half a minute.
    let mut server = End::greeted_server();
    let mut number = 1;
    for _ in 0..300 {
        let first = number;
        while number < first + 512 {
            server.take(&get(number)).unwrap();
            number += 2;
        }
        for stream in (first..number).step_by(2) {
            assert_eq!(server.take(&rst_stream(stream)).map(|told| told.len()), Ok(1));
            server.release(stream);
        }
        server.now += std::time::Duration::from_millis(100);
    }
}

#[test]
fn a_busy_connection_is_no_attack() {
    // A stream that ends well makes up for one that does not, in no time at all.
    let mut server = End::greeted_server();
    for n in 0..20_000 {
        let (good, bad) = (4 * n + 1, 4 * n + 3);
        server.take(&[get(good), get(bad), rst_stream(bad)].concat()).unwrap();
        server.respond(good, 200, BodyLength::None, true).unwrap();
        server.out.clear();
        server.release(good);
        server.release(bad);
    }
    // A PING and a late WINDOW_UPDATE beside each request.
    for n in 0..5_000 {
        let number = 2 * n + 80_001;
        let credit = frame(Kind::WindowUpdate, 0, number, &[0, 0, 0, 7]);
        server.take(&[get(number), frame(Kind::Ping, 0, 0, &[0; 8])].concat()).unwrap();
        server.respond(number, 200, BodyLength::None, true).unwrap();
        server.take(&credit).unwrap();
        server.out.clear();
        server.release(number);
    }
    // gRPC measures bandwidth with a PING for each DATA, and credits each message at once.
    server.take(&post(90_001)).unwrap();
    server.respond(90_001, 200, BodyLength::Chunked, false).unwrap();
    for _ in 0..20_000 {
        server.take(&frame(Kind::Data, 0, 90_001, b"message")).unwrap();
        server.connection.consumed(server.id(90_001), 7, server.now, &mut server.out);
        server.data(90_001, b"message", false).unwrap();
        let credit = [0, 90_001].map(|stream| frame(Kind::WindowUpdate, 0, stream, &[0, 0, 0, 7]));
        let ping = frame(Kind::Ping, 0, 0, &[0; 8]);
        server.take(&[credit.concat(), ping].concat()).unwrap();
        server.out.clear();
    }
    // The same while only the server speaks.
    for _ in 0..5_000 {
        server.data(90_001, b"message", false).unwrap();
        let credit = [0, 90_001].map(|stream| frame(Kind::WindowUpdate, 0, stream, &[0, 0, 0, 7]));
        server.take(&[credit.concat(), frame(Kind::Ping, 0, 0, &[0; 8])].concat()).unwrap();
        server.out.clear();
    }
}

#[test]
fn memory_stays_bounded_over_many_streams() {
    let mut server = End::greeted_server();
    for n in 0..50_000 {
        let number = 2 * n + 1;
        server.take(&post(number)).unwrap();
        server.respond(number, 200, BodyLength::None, true).unwrap();
        server.release(number); // a reset with NO_ERROR, remembered for a while
        server.now += std::time::Duration::from_millis(1);
        server.out.clear();
    }
    assert_eq!((server.connection.streams.held(), server.connection.open_streams()), (0, 0));
    assert!(
        server.connection.streams.memory_bytes() < 16 * 1024,
        "{}",
        server.connection.streams.memory_bytes()
    );
}

/// A thousand idle connections are two megabytes, 512 streams of one connection 64 KiB.
#[test]
fn what_a_connection_and_a_stream_cost_at_rest() {
    assert!(size_of::<Connection>() <= 2 * 1024, "{}", size_of::<Connection>());
    assert!(size_of::<streams::Stream>() <= 128, "{}", size_of::<streams::Stream>());
    assert!(size_of::<Step>() <= 48, "{}", size_of::<Step>());
    assert!(End::server().connection.streams.memory_bytes() <= 256);
}
