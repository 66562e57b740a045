//! Drives a receiver over given bytes, cut anywhere, and writes down what it told.

use meshwork_http::h1::{BodyLength, EndOfInput, Limits, ReceiveError, Receiver, RequestMethod, Step};
use meshwork_http::{Head, Kind};

/// What a receiver told; pieces of one body are joined, so that it does not depend on the cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The head as text (`describe`), the declared body, and whether the connection may go on.
    Head(String, BodyLength, bool),
    Data(Vec<u8>),
    Trailers(String),
    End,
    /// All bytes from there on.
    Upgraded(Vec<u8>),
    Closed(EndOfInput),
    Error(ReceiveError),
}

/// Whose messages the bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    Requests,
    /// Responses to these, one after the other.
    Responses(Vec<RequestMethod>),
}

/// The events of `input`, which arrives in the pieces that end at `cuts` (ascending) and then ends.
pub(crate) fn transcript(side: &Side, limits: Limits, input: &[u8], cuts: &[usize]) -> Vec<Event> {
    let (mut receiver, mut methods) = match side {
        Side::Requests => (Receiver::requests(limits), Vec::new()),
        Side::Responses(methods) => (Receiver::responses(limits), methods.iter().rev().copied().collect()),
    };
    next_message(&mut receiver, &mut methods, side);
    let mut head = Head::default();
    let mut events = Vec::new();
    let mut cuts = cuts.iter().copied().chain([input.len()]);
    let (mut start, mut end) = (0, 0);
    loop {
        let step = match receiver.advance(&input[start..end], &mut head) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(receiver.advance(&input[start..end], &mut head), Err(error), "an error stays");
                events.push(Event::Error(error));
                return events;
            }
        };
        let consumed = match step {
            Step::NeedMore { consumed } => {
                start += consumed;
                match cuts.next() {
                    Some(cut) => end = cut.max(end),
                    None => {
                        events.push(match receiver.end_of_input(end - start) {
                            Ok(end) => Event::Closed(end),
                            Err(error) => Event::Error(error),
                        });
                        return events;
                    }
                }
                continue;
            }
            Step::Head { consumed } => {
                events.push(Event::Head(describe(&head), receiver.body_length(), receiver.keep_alive()));
                consumed
            }
            Step::Data { consumed, data } => {
                assert!(!data.is_empty() && data.end <= consumed);
                let data = &input[start..end][data];
                match events.last_mut() {
                    Some(Event::Data(joined)) => joined.extend_from_slice(data),
                    _ => events.push(Event::Data(data.to_vec())),
                }
                consumed
            }
            Step::Trailers { consumed } => {
                assert_eq!(head.kind(), Kind::Trailers);
                events.push(Event::Trailers(describe(&head)));
                consumed
            }
            Step::End { consumed } => {
                events.push(Event::End);
                next_message(&mut receiver, &mut methods, side);
                consumed
            }
            Step::Upgraded { consumed } => {
                assert_eq!(consumed, 0);
                events.push(Event::Upgraded(input[start..].to_vec()));
                return events;
            }
        };
        assert!(consumed <= end - start, "consumed more than was shown");
        start += consumed;
    }
}

/// The events however the bytes arrive: at once, byte by byte, and cut in two at each place.
#[track_caller]
pub(crate) fn transcript_at_any_cut(side: &Side, limits: Limits, input: &[u8]) -> Vec<Event> {
    let expect = transcript(side, limits, input, &[]);
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(transcript(side, limits, input, &every), expect, "byte by byte");
    if input.len() < 2_000 {
        for cut in 0..input.len() {
            assert_eq!(transcript(side, limits, input, &[cut]), expect, "cut at {cut}");
        }
    }
    expect
}

/// One line: start line as it is understood, then the fields.
pub(crate) fn describe(head: &Head) -> String {
    let mut text = match head.kind() {
        Kind::Request => {
            let authority = head.authority().unwrap_or("-");
            let (method, path, version) = (head.method(), head.path_and_query(), head.version());
            format!("{method} {authority} {path} {version:?}")
        }
        Kind::Response => {
            let reason = String::from_utf8_lossy(head.reason());
            format!("{} {reason} {:?}", head.status(), head.version())
        }
        Kind::Trailers => String::new(),
    };
    for (name, value) in head.fields() {
        text += &format!(" | {}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    text
}

fn next_message(receiver: &mut Receiver, methods: &mut Vec<RequestMethod>, side: &Side) {
    match side {
        Side::Requests => receiver.next_message(),
        Side::Responses(_) => match methods.pop() {
            Some(method) => {
                receiver.expect_response_to(method);
                receiver.expect_upgrade();
            }
            None => receiver.next_message(),
        },
    }
}
