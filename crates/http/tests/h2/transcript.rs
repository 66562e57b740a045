//! What one end of an HTTP/2 connection tells and answers, when given bytes arrive in given pieces. Fuzz targets read this file,
//! too (`crates/fuzz/src/targets/mod.rs`).

use meshwork_http::h2::{Connection, ConnectionError, Limits, Reset, Step};
use meshwork_http::{BodyLength, Head, Instant, Kind};

/// With a body's pieces joined.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Head(u32, String, BodyLength, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, String),
    Reset(u32, Reset),
    Other(Step),
    Error(ConnectionError),
}

/// What `engine`, which has said `out` so far, tells and answers when `input` comes in pieces that end at `cuts` (ascending).
pub(crate) fn transcript(
    (mut engine, mut out): (Connection, Vec<u8>),
    limits: Limits,
    input: &[u8],
    cuts: &[usize],
) -> (Vec<Event>, Vec<u8>) {
    let (mut head, mut events, mut start) = (Head::default(), Vec::new(), 0);
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
            start += consumed;
            if let Step::NeedMore { .. } = step {
                let held = shown.len() - consumed;
                assert!(held <= 9 + limits.frame_bytes_max, "{held} bytes wait");
                break;
            }
            note(&engine, &head, step, shown, &mut events);
        }
    }
    assert!(engine.open_streams() <= limits.streams_max);
    (events, out)
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

/// One line: the start line as it is understood, then the fields.
pub(crate) fn describe(head: &Head) -> String {
    let line = match head.kind() {
        Kind::Request => {
            let (method, scheme, path) = (head.method(), head.scheme(), head.path_and_query());
            format!("{method} {scheme} {:?} {path} {}", head.authority(), head.protocol())
        }
        Kind::Response => head.status().to_string(),
        Kind::Trailers => String::new(),
    };
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: Vec<_> =
        head.fields().map(|(name, value)| format!("{}: {}", shown(name), shown(value))).collect();
    format!("{line} | {}", fields.join(" | "))
}
