//! What an HTTP/1 receiver tells of given bytes, which arrive in given pieces; and that it never keeps its driver waiting
//! with more bytes than its limits say.

use meshwork_http::h1::{BodyLength, EndOfInput, Limits, ReceiveError, Receiver, RequestMethod, Step};
use meshwork_http::{Head, Kind};

/// Pieces of one body are joined, so that it does not depend on the cuts.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Head(Box<Head>, BodyLength, bool),
    Data(Vec<u8>),
    Trailers(Vec<(Vec<u8>, Vec<u8>)>),
    End,
    Upgraded,
    Closed(EndOfInput),
    Error(ReceiveError),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Requests,
    /// Answers to these, one after the other, over and over.
    Responses(&'static [RequestMethod]),
}

/// The end of a line or of a CRLF may have to be awaited beyond what a limit counts.
const LINE_END_BYTES: usize = 64;

/// The events of `input`, which arrives in the pieces that end at `cuts` (ascending) and then ends.
pub(super) fn transcript(side: Side, limits: Limits, input: &[u8], cuts: &[usize]) -> Vec<Event> {
    let mut receiver = match side {
        Side::Requests => Receiver::requests(limits),
        Side::Responses(_) => Receiver::responses(limits),
    };
    let mut answered = 0;
    next_message(&mut receiver, &mut answered, side);
    let (mut head, mut events) = (Head::default(), Vec::new());
    let mut cuts = cuts.iter().copied().chain([input.len()]);
    let (mut start, mut end) = (0, 0);
    loop {
        let shown = &input[start..end];
        let step = match receiver.advance(shown, &mut head) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(receiver.advance(shown, &mut head), Err(error), "an error stays");
                events.push(Event::Error(error));
                return events;
            }
        };
        let consumed = match step {
            Step::NeedMore { consumed } => {
                start += consumed;
                check_held(end - start, &limits);
                match cuts.next() {
                    Some(cut) => end = cut.max(end),
                    None => {
                        let ended = receiver.end_of_input(end - start);
                        events.push(ended.map_or_else(Event::Error, Event::Closed));
                        return events;
                    }
                }
                continue;
            }
            Step::Head { consumed } => {
                assert!(head.fields().count() <= limits.fields_max, "too many fields");
                let (length, keep_alive) = (receiver.body_length(), receiver.keep_alive());
                events.push(Event::Head(Box::new(head.clone()), length, keep_alive));
                consumed
            }
            Step::Data { consumed, data } => {
                assert!(!data.is_empty() && data.end <= consumed);
                match events.last_mut() {
                    Some(Event::Data(joined)) => joined.extend_from_slice(&shown[data]),
                    _ => events.push(Event::Data(shown[data].to_vec())),
                }
                consumed
            }
            Step::Trailers { consumed } => {
                assert_eq!(head.kind(), Kind::Trailers);
                events.push(Event::Trailers(fields(&head)));
                consumed
            }
            Step::End { consumed } => {
                events.push(Event::End);
                next_message(&mut receiver, &mut answered, side);
                consumed
            }
            Step::Upgraded { consumed } => {
                assert_eq!(consumed, 0);
                events.push(Event::Upgraded);
                return events;
            }
        };
        assert!(consumed <= shown.len(), "consumed more than was shown");
        start += consumed;
    }
}

/// What a driver has to hold until more comes.
fn check_held(bytes: usize, limits: &Limits) {
    let most = limits.head_bytes_max.max(limits.trailer_bytes_max).max(limits.chunk_extension_bytes_max);
    assert!(bytes <= most + LINE_END_BYTES, "{bytes} bytes wait");
}

/// Names and values, as they came.
pub(super) fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn next_message(receiver: &mut Receiver, answered: &mut usize, side: Side) {
    match side {
        Side::Requests => receiver.next_message(),
        Side::Responses(methods) => {
            receiver.expect_response_to(methods[*answered % methods.len()]);
            receiver.expect_upgrade();
            *answered += 1;
        }
    }
}
