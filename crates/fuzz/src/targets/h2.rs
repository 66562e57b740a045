//! HTTP/2 at either end.
//!
//! However the bytes arrive, the same is told and the same is answered; an answer is not many times what was asked; no more
//! bytes wait than a frame has. A request that was taken is written again as HTTP/2 and read as the same request,
//! and as HTTP/1 it is one message, the same one.

use std::collections::BTreeMap;

use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{self, Receiver, Sender};
use meshwork_http::h2::{Connection, Limits, Rate, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, Known, StatusCode, Version};

use super::transcript_h2::{Event, describe, transcript};
use crate::Target;

pub(super) const SERVER: Target =
    Target { name: "h2_server", run: server, seeds: client_bytes, words: WORDS };

pub(super) const CLIENT: Target =
    Target { name: "h2_client", run: client, seeds: server_bytes, words: WORDS };

const WORDS: &[&[u8]] = &[
    PREFACE,
    SETTINGS,
    &[0, 0, 0, 4, 1, 0, 0, 0, 0],
    &[0, 0, 8, 6, 0, 0, 0, 0, 0],
    &[0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1],
    &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
    &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    &[0, 0, 1, 1, 5, 0, 0, 0, 3, 0x82],
    &[0, 0, 1, 0, 1, 0, 0, 0, 1, b'x'],
    &[0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 16],
    &[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82],
    &[0x82, 0x84, 0x86, 0x41, 4],
    &[0, 1, 0, 0, 0, 0],
    &[0, 4, 0x7f, 0xff, 0xff, 0xff],
    &[0, 5, 0, 0, 0x40, 0],
    &[0, 8, 0, 0, 0, 1],
    b"\x00\x0econtent-length\x01\x35",
    b"\x00\x11transfer-encoding\x07chunked",
    b"\x00\x09:protocol\x09websocket",
    &[0x88],
    &[0x48, 3],
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// An answer to a frame of nine bytes is a frame; a request that is refused for its size is told so in words.
const ANSWER_FACTOR: usize = 16;
const ANSWER_BYTES: usize = 1_024;

/// Small ones, so that small inputs meet them.
fn small() -> Limits {
    let few = Rate { burst: 4, per_second: 1 };
    Limits {
        streams_max: 3,
        unreleased_streams_max: 4,
        header_list_bytes_max: 300,
        fields_max: 8,
        header_bomb_bytes_max: 900,
        header_block_bytes_max: 400,
        continuations_max: 2,
        trailer_bytes_max: 100,
        interim_max: 2,
        header_table_bytes_max: 128,
        connection_window_bytes: 70_000,
        resets: few,
        settings: few,
        pings: few,
        empty_data: few,
        window_updates: few,
        priorities: few,
        unknown_frames: few,
        late_frames: few,
        ..Limits::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    /// It has asked for three things, of which one is HEAD and one has a body.
    Client,
    Server,
}

/// The connection as it stands before the peer says anything.
fn start(side: Side, limits: Limits, out: &mut Vec<u8>) -> Connection {
    if side == Side::Server {
        return Connection::server(limits, out);
    }
    let mut engine = Connection::client(limits, out);
    let mut head = Head::default();
    for (method, length) in
        [("GET", BodyLength::None), ("HEAD", BodyLength::None), ("POST", BodyLength::Known(3))]
    {
        head.start_request(Version::Http11, method, "/items");
        head.set_authority("cart");
        let end = length == BodyLength::None;
        let stream = engine.request(&head, length, end, out).expect("nothing stands in the way");
        if !end {
            engine.data(stream, b"abc", true, out).expect("the stream is open");
        }
    }
    engine
}

/// What is told and answered, when `input` comes in pieces that end at `cuts` (ascending).
fn told(side: Side, limits: Limits, input: &[u8], cuts: &[usize]) -> (Vec<Event>, Vec<u8>) {
    let mut out = Vec::new();
    let engine = start(side, limits, &mut out);
    transcript((engine, out), limits, input, cuts)
}

/// An even first byte: what must come first has come.
fn input(side: Side, bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first() {
        Some((first, rest)) if first % 2 == 0 => match side {
            Side::Server => [PREFACE, SETTINGS, rest].concat(),
            Side::Client => [SETTINGS, rest].concat(),
        },
        Some((_, rest)) => rest.to_vec(),
        None => Vec::new(),
    }
}

fn server(bytes: &[u8]) {
    let input = input(Side::Server, bytes);
    check_cuts(Side::Server, &input);
    for taken in serve(&input) {
        check_again(&taken);
        check_as_text(&taken);
    }
}

fn client(bytes: &[u8]) {
    let input = input(Side::Client, bytes);
    check_cuts(Side::Client, &input);
    hear(&input);
}

fn check_cuts(side: Side, input: &[u8]) {
    for limits in [small(), Limits::default()] {
        let at_once = told(side, limits, input, &[]);
        let every: Vec<usize> = (0..input.len()).collect();
        assert_eq!(told(side, limits, input, &every), at_once, "byte by byte");
        let thirds = [input.len() / 3, input.len() * 2 / 3];
        assert_eq!(told(side, limits, input, &thirds), at_once, "cut in three");
        let asked = {
            let mut asked = Vec::new();
            start(side, limits, &mut asked);
            asked.len()
        };
        let most = asked + ANSWER_BYTES + ANSWER_FACTOR * input.len();
        assert!(at_once.1.len() <= most, "{} bytes answer {}", at_once.1.len(), input.len());
    }
}

/// A request that came whole.
struct Taken {
    head: Head,
    length: BodyLength,
    body: Vec<u8>,
    trailers: Option<Head>,
}

/// Answers every request that comes whole, as an application would, and gives them.
fn serve(input: &[u8]) -> Vec<Taken> {
    let (mut out, mut head, mut at) = (Vec::new(), Head::default(), 0);
    let mut engine = start(Side::Server, Limits::default(), &mut out);
    let mut open: BTreeMap<u32, Taken> = BTreeMap::new();
    let mut whole = Vec::new();
    let now = Instant::from_millis(1);
    while let Ok(step) = engine.advance(&input[at..], &mut head, now, &mut out) {
        let shown = &input[at..];
        at += step.consumed();
        let ended = match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, end, .. } => {
                let length = engine.body_length(stream);
                open.insert(
                    stream.number(),
                    Taken { head: head.clone(), length, body: Vec::new(), trailers: None },
                );
                end.then_some(stream)
            }
            Step::Data { stream, data, end, .. } => {
                engine.consumed(stream, data.len(), now, &mut out);
                let taken = open.get_mut(&stream.number()).expect("its head was told");
                taken.body.extend_from_slice(&shown[data]);
                end.then_some(stream)
            }
            Step::Trailers { stream, .. } => {
                open.get_mut(&stream.number()).expect("its head was told").trailers = Some(head.clone());
                Some(stream)
            }
            Step::Reset { stream, .. } => {
                open.remove(&stream.number()).expect("its head was told");
                engine.release(stream, &mut out);
                None
            }
            Step::Refused { .. } | Step::Writable { .. } | Step::GoAway { .. } => None,
        };
        if let Some(stream) = ended {
            whole.extend(open.remove(&stream.number()));
            answer(&mut engine, stream, &mut out);
        }
        assert!(engine.open_streams() <= Limits::default().streams_max);
    }
    whole
}

fn answer(engine: &mut Connection, stream: StreamId, out: &mut Vec<u8>) {
    let mut head = Head::default();
    head.start_response(Version::Http11, StatusCode::OK, b"");
    head.append("x-a", b"b");
    // A peer may have taken its stream back, and then there is nobody to answer.
    if engine.response(stream, &head, BodyLength::Known(5), false, out).is_ok() {
        let sent = engine.data(stream, b"abcde", true, out);
        assert!(sent.is_ok_and(|sent| sent <= 5));
    }
    engine.release(stream, out);
}

/// Takes answers as they come.
fn hear(input: &[u8]) {
    let (mut out, mut head, mut at) = (Vec::new(), Head::default(), 0);
    let mut engine = start(Side::Client, Limits::default(), &mut out);
    let mut finals: BTreeMap<u32, usize> = BTreeMap::new();
    let now = Instant::from_millis(1);
    while let Ok(step) = engine.advance(&input[at..], &mut head, now, &mut out) {
        at += step.consumed();
        match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, end, .. } => {
                assert!([1, 3, 5].contains(&stream.number()), "nobody asked");
                let interim = head.status().is_interim();
                assert!(!(interim && end));
                *finals.entry(stream.number()).or_default() += usize::from(!interim);
                assert!(finals[&stream.number()] <= 1, "two answers");
                if end {
                    engine.release(stream, &mut out);
                }
            }
            Step::Data { stream, data, end, .. } => {
                assert_eq!(finals.get(&stream.number()), Some(&1), "a body before its head");
                // An empty DATA may end it (RFC 9113, 8.1): there is no body then.
                assert!(stream.number() != 3 || data.is_empty(), "a body in an answer to HEAD");
                engine.consumed(stream, data.len(), now, &mut out);
                if end {
                    engine.release(stream, &mut out);
                }
            }
            Step::Trailers { stream, .. } => {
                assert_eq!(finals.get(&stream.number()), Some(&1));
                engine.release(stream, &mut out);
            }
            Step::Reset { stream, .. } => engine.release(stream, &mut out),
            Step::Refused { .. } => panic!("a client refuses no requests"),
            Step::Writable { .. } | Step::GoAway { .. } => {}
        }
    }
}

/// Written as HTTP/2 by us, it is read as the same request.
fn check_again(taken: &Taken) {
    let (mut bytes, mut head, mut at) = (Vec::new(), Head::default(), 0);
    let mut client = Connection::client(Limits::default(), &mut bytes);
    if !taken.head.protocol().is_empty() {
        return; // a client waits for its peer's word that it takes those
    }
    let Ok(_) = client.request(&taken.head, taken.length, true, &mut bytes) else {
        return; // one that declared a body without one, which ends in an error of ours before anything is written
    };
    let mut server = Connection::server(Limits::default(), &mut Vec::new());
    loop {
        let step = server.advance(&bytes[at..], &mut head, Instant::default(), &mut Vec::new());
        let step = step.expect("what we write is taken");
        at += step.consumed();
        match step {
            Step::Head { .. } => break,
            Step::NeedMore { .. } => panic!("no head"),
            Step::Refused { reason, .. } => panic!("what was taken is refused: {reason:?}"),
            _ => {}
        }
    }
    // A length is ours to write; a `host` without `:authority` is written as one, which the first line compares.
    let compared = |text: String| -> Vec<String> {
        let ours = ["content-length", "host: "];
        let lines = text.split(" | ").filter(|line| !ours.iter().any(|name| line.starts_with(name)));
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(compared(describe(&head)), compared(describe(&taken.head)));
}

/// Written as HTTP/1, it is one request with nothing behind it, and the same one.
fn check_as_text(taken: &Taken) {
    let mut head = taken.head.clone();
    if head.method() == "CONNECT" {
        return; // a tunnel is opened, not passed on
    }
    forward::request(&mut head, Upgrades::Remove, ProxyAuthentication::Remove);
    let (mut sender, mut text) = (Sender::new(), Vec::new());
    sender.request(&head, taken.length, &mut text).expect("it was taken");
    sender.data(&taken.body, &mut text).expect("as long as was said");
    sender.end(taken.trailers.as_ref(), &mut text).expect("all of it");
    let (again, body) = reread(&text);
    assert_eq!((again.method(), again.path_and_query()), (head.method(), head.path_and_query()));
    assert_eq!((again.authority(), again.values(Known::Host).count()), (head.authority(), 1));
    assert_eq!(body, taken.body);
    let ours = ["host", "content-length", "transfer-encoding", "connection"];
    let fields = |head: &Head| -> Vec<(String, Vec<u8>)> {
        let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
        let fields = head.fields().map(|(name, value)| (lower(name), value.to_vec()));
        fields.filter(|(name, _)| !ours.contains(&name.as_str())).collect()
    };
    assert_eq!(fields(&again), fields(&head));
}

fn reread(text: &[u8]) -> (Head, Vec<u8>) {
    let limits = h1::Limits {
        head_bytes_max: 1 << 20,
        fields_max: 1_000,
        target_bytes_max: 1 << 20,
        ..h1::Limits::default()
    };
    let mut receiver = Receiver::requests(limits);
    let (mut head, mut at, mut body, mut taken) = (Head::default(), 0, Vec::new(), None);
    loop {
        let step = receiver.advance(&text[at..], &mut head);
        at += match step.unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(text))) {
            h1::Step::Head { consumed } => {
                taken = Some(head.clone());
                consumed
            }
            h1::Step::Data { consumed, data } => {
                body.extend_from_slice(&text[at..][data]);
                consumed
            }
            h1::Step::Trailers { consumed } => consumed,
            h1::Step::End { consumed } => {
                assert_eq!(
                    at + consumed,
                    text.len(),
                    "a second message: {:?}",
                    String::from_utf8_lossy(text)
                );
                return (taken.expect("a head came first"), body);
            }
            step => panic!("{step:?}: {:?}", String::from_utf8_lossy(text)),
        };
    }
}

/// What our client says to open a connection and ask for some things.
fn client_bytes() -> Vec<Vec<u8>> {
    let (mut out, mut head) = (vec![1], Head::default());
    let mut client = Connection::client(Limits::default(), &mut out);
    for (method, path) in [("GET", "/"), ("POST", "/items?a=b"), ("PUT", "/")] {
        head.start_request(Version::Http11, method, path);
        head.set_authority("cart:80");
        head.append("x-request-id", b"0123456789");
        let end = method == "GET";
        let length = if method == "PUT" { BodyLength::Known(5) } else { BodyLength::Chunked };
        let length = if end { BodyLength::None } else { length };
        let stream = client.request(&head, length, end, &mut out).expect("nothing stands in the way");
        if !end {
            client.data(stream, b"abcde", method == "PUT", &mut out).expect("it is open");
        }
        if method == "POST" {
            head.start_trailers();
            head.append("x-t", b"1");
            client.trailers(stream, Some(&head), &mut out).expect("it is open");
        }
    }
    let by_hand = |frames: &[&[u8]]| [&[0][..], &frames.concat()].concat();
    vec![
        out,
        by_hand(&[WORDS[7], WORDS[3], WORDS[4], WORDS[5], WORDS[6]]),
        // A head in two frames, with padding and a priority.
        by_hand(&[
            &[0, 0, 12, 1, 0x29, 0, 0, 0, 1, 2, 0, 0, 0, 0, 16, 0x82, 0x86, 0x84, 0x44, 0, 0],
            &[0, 0, 6, 9, 4, 0, 0, 0, 1, 0x41, 4, b'c', b'a', b'r', b't'],
        ]),
    ]
}

/// What our server answers to the three that every client here asks for.
fn server_bytes() -> Vec<Vec<u8>> {
    let (mut asked, mut out, mut head, mut at) = (Vec::new(), vec![1], Head::default(), 0);
    start(Side::Client, Limits::default(), &mut asked);
    let mut server = Connection::server(Limits::default(), &mut out);
    loop {
        let step = server.advance(&asked[at..], &mut head, Instant::default(), &mut out);
        let step = step.expect("our own client");
        at += step.consumed();
        let stream = match step {
            Step::NeedMore { .. } => break,
            Step::Head { stream, .. } => stream,
            _ => continue,
        };
        head.start_response(Version::Http11, StatusCode::new(103).expect("a status"), b"");
        server.response(stream, &head, BodyLength::None, false, &mut out).expect("it is open");
        head.start_response(Version::Http11, StatusCode::OK, b"");
        head.append("etag", b"\"a\"");
        server.response(stream, &head, BodyLength::Chunked, false, &mut out).expect("it is open");
        server.data(stream, b"abc", false, &mut out).expect("it is open");
        head.start_trailers();
        head.append("grpc-status", b"0");
        server.trailers(stream, Some(&head), &mut out).expect("it is open");
    }
    let by_hand = |frames: &[&[u8]]| [&[0][..], &frames.concat()].concat();
    vec![out, by_hand(&[&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88], WORDS[8], WORDS[6]])]
}
