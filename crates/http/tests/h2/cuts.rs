//! However the bytes arrive, at once, byte by byte or cut anywhere, the engine tells the same and answers the same; and no bytes make
//! it panic.
//!
//! The bytes are those of one end of a real connection, the same with a few changed, and frames that nobody would send.

use std::collections::BTreeSet;

use meshwork_http::h2::{By, Connection, ConnectionError, Limits, Reset, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, Kind, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::end::Side;
use crate::exchange::{Body, Exchange, Troubles, fields_seen, trailers_head};
use crate::random::Random;

/// What was told, with a body's pieces joined.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Head(u32, String, BodyLength, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, String),
    Reset(u32, Reset),
    Other(Step),
    Error(ConnectionError),
}

/// What one end told and answered, when `input` came in pieces that end at `cuts`. A client has asked for `requests` before.
fn transcript(side: Side, requests: &[Exchange], input: &[u8], cuts: &[usize]) -> (Vec<Event>, Vec<u8>) {
    let (mut out, mut head, mut events) = (Vec::new(), Head::default(), Vec::new());
    let mut engine = start(side, requests, &mut out);
    let mut start = 0;
    for cut in cuts.iter().copied().chain([input.len()]) {
        loop {
            let shown = &input[start..cut.max(start)];
            let step = match engine.advance(shown, &mut head, Instant::from_millis(1), &mut out) {
                Ok(step) => step,
                Err(error) => {
                    let again = engine.advance(shown, &mut head, Instant::from_millis(1), &mut Vec::new());
                    assert_eq!(again, Err(error), "an error stays");
                    events.push(Event::Error(error));
                    return (events, out);
                }
            };
            let consumed = step.consumed();
            assert!(consumed <= shown.len());
            if let Step::NeedMore { .. } = step {
                start += consumed;
                break;
            }
            note(&engine, &head, step, shown, &mut events);
            start += consumed;
        }
    }
    (events, out)
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

fn note(engine: &Connection, head: &Head, step: Step, shown: &[u8], events: &mut Vec<Event>) {
    let event = match step {
        Step::NeedMore { .. } => return,
        Step::Head { stream, end, .. } => {
            Event::Head(stream.number(), describe(head), engine.body_length(stream), end)
        }
        Step::Data { stream, data, end, .. } => Event::Data(stream.number(), shown[data].to_vec(), end),
        Step::Trailers { stream, .. } => Event::Trailers(stream.number(), describe(head)),
        Step::Reset { stream, reset, .. } => Event::Reset(stream.number(), reset),
        // How many bytes are done with depends on the cuts.
        Step::Refused { reason, .. } => Event::Other(Step::Refused { consumed: 0, reason }),
        Step::Writable { stream, .. } => Event::Other(Step::Writable { consumed: 0, stream }),
        Step::GoAway { last, code, .. } => Event::Other(Step::GoAway { consumed: 0, last, code }),
    };
    match (events.last_mut(), event) {
        (Some(Event::Data(number, joined, ended @ false)), Event::Data(next, piece, end))
            if *number == next =>
        {
            joined.extend_from_slice(&piece);
            *ended = end;
        }
        (_, event) => events.push(event),
    }
}

fn describe(head: &Head) -> String {
    let line = match head.kind() {
        Kind::Request => {
            let (method, scheme, path) = (head.method(), head.scheme(), head.path_and_query());
            format!("{method} {scheme} {:?} {path} {}", head.authority(), head.protocol())
        }
        Kind::Response => head.status().to_string(),
        Kind::Trailers => String::new(),
    };
    format!("{line} {:?}", fields_seen(head))
}

#[track_caller]
fn check(side: Side, requests: &[Exchange], input: &[u8], random: &mut Random) -> Vec<Event> {
    let at_once = transcript(side, requests, input, &[]);
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(transcript(side, requests, input, &every), at_once, "byte by byte");
    for _ in 0..3 {
        let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| random.below(input.len() + 1)).collect();
        cuts.sort_unstable();
        assert_eq!(transcript(side, requests, input, &cuts), at_once, "cut at {cuts:?}");
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
