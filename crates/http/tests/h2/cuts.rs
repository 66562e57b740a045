//! However the bytes arrive, at once, byte by byte or cut anywhere, the engine tells the same and answers the same; and no bytes make
//! it panic.
//!
//! The bytes are those of one end of a real connection, the same with a few changed, and frames that nobody would send.

use std::collections::BTreeSet;

use meshwork_http::h2::{By, Connection, Limits, Reset, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::end::Side;
use crate::exchange::{Body, Exchange, Troubles, trailers_head};
use crate::random::Random;
use crate::transcript::{Event, transcript};

/// What one end told and answered, when `input` came in pieces that end at `cuts`. A client has asked for `requests` before.
fn told(side: Side, requests: &[Exchange], input: &[u8], cuts: &[usize]) -> (Vec<Event>, Vec<u8>) {
    let mut out = Vec::new();
    let engine = start(side, requests, &mut out);
    transcript((engine, out), Limits::default(), input, cuts)
}

fn start(side: Side, requests: &[Exchange], out: &mut Vec<u8>) -> Connection {
    match side {
        Side::Server => Connection::server(Limits::default(), out),
        Side::Client => {
            let mut engine = Connection::client(Limits::default(), out);
            let mut head = Head::default();
            for exchange in requests {
                exchange.request_head(&mut head);
                engine.request(&head, BodyLength::None, true, out).unwrap();
            }
            engine
        }
    }
}

#[track_caller]
fn check(side: Side, requests: &[Exchange], input: &[u8], random: &mut Random) -> Vec<Event> {
    let at_once = told(side, requests, input, &[]);
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(told(side, requests, input, &every), at_once, "byte by byte");
    for _ in 0..3 {
        let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| random.below(input.len() + 1)).collect();
        cuts.sort_unstable();
        assert_eq!(told(side, requests, input, &cuts), at_once, "cut at {cuts:?}");
    }
    at_once.0
}

/// What one end writes to carry out its half of some exchanges, all streams a piece at a time, without hearing of the other.
fn written(side: Side, exchanges: &[Exchange], random: &mut Random) -> Vec<u8> {
    let (mut engine, ids, mut out) = match side {
        Side::Client => ask(exchanges),
        Side::Server => answer(exchanges),
    };
    let mut head = Head::default();
    let message = |exchange: &Exchange| match side {
        Side::Client => exchange.request.clone(),
        Side::Server => exchange.response_seen(),
    };
    let mut streams: Vec<_> =
        ids.into_iter().zip(exchanges.iter().map(message)).map(|(id, m)| (id, m, 0)).collect();
    while !streams.is_empty() {
        let place = random.below(streams.len());
        let (id, message, sent) = &mut streams[place];
        let piece = message.piece(*sent, 1 + random.below(300));
        *sent += engine.data(*id, piece, false, &mut out).unwrap();
        if piece.is_empty() {
            trailers_head(&message.trailers, &mut head);
            engine.trailers(*id, Some(&head), &mut out).unwrap();
            streams.swap_remove(place);
        }
    }
    out
}

fn ask(exchanges: &[Exchange]) -> (Connection, Vec<StreamId>, Vec<u8>) {
    let (mut out, mut head) = (Vec::new(), Head::default());
    let mut engine = Connection::client(Limits::default(), &mut out);
    let ids = exchanges.iter().map(|exchange| {
        exchange.request_head(&mut head);
        engine.request(&head, exchange.request.body.declared(), false, &mut out).unwrap()
    });
    let ids = ids.collect();
    (engine, ids, out)
}

fn answer(exchanges: &[Exchange]) -> (Connection, Vec<StreamId>, Vec<u8>) {
    let (mut asked, mut out, mut head) = (Vec::new(), Vec::new(), Head::default());
    start(Side::Client, exchanges, &mut asked);
    let mut engine = Connection::server(Limits::default(), &mut out);
    let (mut ids, mut at) = (Vec::new(), 0);
    loop {
        let step = engine.advance(&asked[at..], &mut head, Instant::default(), &mut out).unwrap();
        at += step.consumed();
        match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, .. } => ids.push(stream),
            step => assert!(matches!(step, Step::Writable { .. }), "{step:?}"),
        }
    }
    for (exchange, id) in exchanges.iter().zip(&ids) {
        for status in &exchange.interim {
            head.start_response(Version::Http11, StatusCode::new(*status).unwrap(), b"");
            engine.response(*id, &head, BodyLength::None, false, &mut out).unwrap();
        }
        exchange.response_head(&mut head);
        engine.response(*id, &head, exchange.response.body.declared(), false, &mut out).unwrap();
    }
    (engine, ids, out)
}

/// Some exchanges that are soon told.
fn exchanges(random: &mut Random) -> Vec<Exchange> {
    let count = 1 + random.below(5);
    let mut exchanges = Exchange::list(random, count, Troubles::Never);
    exchanges.iter_mut().for_each(|exchange| {
        for message in [&mut exchange.request, &mut exchange.response] {
            message.body = match message.body {
                Body::None => Body::None,
                Body::Known(length) => Body::Known(length % 700),
                Body::Chunked(length) => Body::Chunked(length % 700),
            };
        }
    });
    exchanges
}

#[test]
fn what_one_end_wrote_is_told_alike_however_it_arrives() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let exchanges = exchanges(&mut random);
        for (side, other) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            let bytes = written(other, &exchanges, &mut random);
            let events = check(side, &exchanges, &bytes, &mut random);
            let ends = events.iter().filter(|event| {
                matches!(event, Event::Head(.., true) | Event::Data(.., true) | Event::Trailers(..))
            });
            assert_eq!(ends.count(), exchanges.len(), "seed {seed}: all is told: {events:?}");
        }
    }
}

#[test]
fn what_was_changed_on_the_way_is_told_alike_however_it_arrives() {
    let mut errors = BTreeSet::new();
    for seed in 0..500 {
        let mut random = Random::new(1_000 + seed);
        let exchanges = exchanges(&mut random);
        for (side, other) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            let mut bytes = written(other, &exchanges, &mut random);
            (0..=random.below(3)).for_each(|_| change(&mut bytes, &mut random));
            let events = check(side, &exchanges, &bytes, &mut random);
            errors.extend(events.iter().filter_map(|event| match event {
                Event::Error(error) => Some(error.word()),
                Event::Reset(_, Reset { by: By::Us(reason), .. }) => Some(reason.word()),
                Event::Other(Step::Refused { reason, .. }) => Some(reason.word()),
                _ => None,
            }));
        }
    }
    assert!(errors.len() > 25, "{errors:?}");
}

#[test]
fn other_frames_that_say_the_same_are_told_alike() {
    for seed in 0..400 {
        let mut random = Random::new(5_000 + seed);
        let exchanges = exchanges(&mut random);
        for (side, other) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
            let bytes = written(other, &exchanges, &mut random);
            let (events, _) = told(side, &exchanges, &bytes, &[]);
            let rewritten = rewrite(&bytes, &mut random);
            assert_ne!(rewritten, bytes);
            assert_eq!(check(side, &exchanges, &rewritten, &mut random), events, "seed {seed}");
        }
    }
}

/// The same messages in frames as another implementation may write them: cut, padded, with priorities, and with frames between
/// them that change nothing.
fn rewrite(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut at = if bytes.starts_with(b"PRI") { 24 } else { 0 };
    let mut out = bytes[..at].to_vec();
    let (mut is_first, mut in_block) = (true, false);
    while at < bytes.len() {
        let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
        let (kind, flags, stream) = (bytes[at + 3], bytes[at + 4], bytes[at + 8]);
        let payload = &bytes[at + 9..at + 9 + length];
        if !is_first && !in_block {
            noise(stream, random, &mut out);
        }
        let cut = random.below(length + 1);
        match kind {
            0 => {
                padded(0, 0, stream, &payload[..cut], random, &mut out);
                padded(0, flags, stream, &payload[cut..], random, &mut out);
            }
            1 if flags & END_HEADERS != 0 => {
                padded(1, flags & END_STREAM, stream, &payload[..cut], random, &mut out);
                put(9, 0, stream, &[], &mut out);
                put(9, END_HEADERS, stream, &payload[cut..], &mut out);
            }
            _ => out.extend_from_slice(&bytes[at..at + 9 + length]),
        }
        in_block = matches!(kind, 1 | 9) && flags & END_HEADERS == 0;
        is_first = false;
        at += 9 + length;
    }
    out
}

fn noise(stream: u8, random: &mut Random, out: &mut Vec<u8>) {
    match random.below(8) {
        0 => put(2, 0, stream.max(1), &[0, 0, 0, 0, 16], out),
        1 => put(32, 0xff, stream, b"of an extension", out),
        2 => put(6, 0, 0, b"are you?", out),
        3 => put(4, 0, 0, &[0, 99, 1, 2, 3, 4], out),
        4 => put(8, 0, 0, &[0, 0, 0, 1], out),
        _ => {}
    }
}

fn padded(kind: u8, flags: u8, stream: u8, payload: &[u8], random: &mut Random, out: &mut Vec<u8>) {
    let (mut flags, mut framed) = (flags, Vec::new());
    let padding = if random.once_in(2) { Some(random.below(256)) } else { None };
    if let Some(padding) = padding {
        flags |= 0x8;
        framed.push(padding as u8);
    }
    if kind == 1 && random.once_in(2) {
        flags |= 0x20;
        framed.extend_from_slice(&[0x80, 0, 0, 0, 200]);
    }
    framed.extend_from_slice(payload);
    framed.resize(framed.len() + padding.unwrap_or(0), 0);
    put(kind, flags, stream, &framed, out);
}

fn put(kind: u8, flags: u8, stream: u8, payload: &[u8], out: &mut Vec<u8>) {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, 0, 0, 0, stream]);
    out.extend_from_slice(payload);
}

#[test]
fn padding_uses_up_no_window_for_good() {
    // Nearly two windows of nothing but padding; more would be a flood.
    let nothing = vec![(0, 255); 500];
    check_padded(200_000, &nothing);
    // A body whose rest seemed to fit the window, until it came padded.
    let mut body = vec![(16_000, 0); 4];
    body.extend(vec![(3, 255); 300]);
    check_padded(4 * 16_000 + 3 * 300, &body);
}

/// Sends frames of so much data and padding on a stream that declared a length, never more than there is credit for; their reader
/// takes each at once.
#[track_caller]
fn check_padded(declared: u64, frames: &[(usize, usize)]) {
    let (mut bytes, mut out, mut head) = (Vec::new(), Vec::new(), Head::default());
    let mut client = Connection::client(Limits::default(), &mut bytes);
    head.start_request(Version::Http11, "POST", "/");
    head.set_authority("cart");
    let id = client.request(&head, BodyLength::Known(declared), false, &mut bytes).unwrap();
    let mut server = Connection::server(Limits::default(), &mut Vec::new());
    let mut credit = 65_535_i64;
    for (data, padding) in frames {
        let payload = [&[*padding as u8][..], &vec![b'v'; *data], &vec![0; *padding]].concat();
        credit -= payload.len() as i64;
        assert!(credit >= 0, "the stream is stuck");
        put(0, 0x8, id.number() as u8, &payload, &mut bytes);
        let mut at = 0;
        loop {
            let step = server.advance(&bytes[at..], &mut head, Instant::from_millis(1), &mut out).unwrap();
            at += step.consumed();
            match step {
                Step::NeedMore { .. } => break,
                Step::Data { stream, data, .. } => {
                    server.consumed(stream, data.len(), Instant::from_millis(1), &mut out);
                }
                _ => {}
            }
        }
        assert_eq!(at, bytes.len());
        bytes.clear();
        credit += credit_of(id, &out);
        assert!(credit <= 65_535, "more than a window");
        out.clear();
    }
}

/// What the frames give that stream.
fn credit_of(stream: StreamId, mut frames: &[u8]) -> i64 {
    let mut credit = 0;
    while let Some((head, rest)) = frames.split_first_chunk::<9>() {
        let length = usize::from(head[2]) + 256 * usize::from(head[1]);
        if head[3] == 8 && u32::from(head[8]) == stream.number() {
            credit += i64::from(u32::from_be_bytes(rest[..4].try_into().unwrap()));
        }
        frames = &rest[length..];
    }
    credit
}

/// One thing is otherwise: a byte, a bit of a frame's head, or a frame that nobody sent.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let preface = if bytes.starts_with(b"PRI") { 24 } else { 0 };
    let mut frames = vec![preface];
    while let Some(head) = bytes.get(frames[frames.len() - 1]..).and_then(|rest| rest.first_chunk::<4>()) {
        frames
            .push(frames[frames.len() - 1] + 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize);
    }
    frames.retain(|frame| frame + 9 <= bytes.len());
    if frames.is_empty() {
        return;
    }
    let frame = random.pick(&frames);
    match random.below(5) {
        0 => {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        1 => bytes[frame + 3] = random.below(11) as u8,
        2 => bytes[frame + 4] ^= 1 << random.below(8),
        3 => bytes[frame + 8] = random.below(12) as u8,
        _ => {
            let kind = random.below(11) as u8;
            let length = random.pick(&[0, 4, 5, 6, 8, 9, 30]);
            let mut other =
                vec![0, 0, length as u8, kind, random.next() as u8, 0, 0, 0, random.below(12) as u8];
            other.extend(random.bytes(length));
            bytes.splice(frame..frame, other);
        }
    }
}

proptest! {
    #[test]
    fn no_frames_make_it_panic_and_all_cuts_are_told_alike(
        frames in vec((0..12_u8, any::<u8>(), 0..9_u8, vec(any::<u8>(), 0..40)), 1..30),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        for (kind, flags, stream, payload) in frames {
            // Half of the flags at random would let nearly nothing through.
            let flags = if random.once_in(2) { flags } else { flags & 5 };
            bytes.extend_from_slice(&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream]);
            bytes.extend_from_slice(&payload);
        }
        let requests = exchanges(&mut random);
        check(Side::Client, &requests, &bytes, &mut random);
        check(Side::Server, &[], &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*bytes].concat(), &mut random);
    }
}
