//! HTTP/1 as a proxy reads it, from clients and from origins, and as it passes it on.
//!
//! However the bytes arrive, the same is told, and no more of them wait than the limits say. What is passed on is read again
//! as the same messages, or we are the smuggler. And what we take, another parser takes, too, and reads alike:
//! what two parsers could split differently is refused.

use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{
    BodyLength, Limits, ReceiveError, Receiver, RequestMethod, ResponseTo, Sender, Step,
};
use meshwork_http::{Head, Kind, Known, Version};

use super::transcript_h1::{Event, Side, fields, transcript};
use crate::Target;

pub(super) const REQUESTS: Target =
    Target { name: "h1_requests", run: requests, seeds: request_seeds, words: WORDS };

pub(super) const RESPONSES: Target =
    Target { name: "h1_responses", run: responses, seeds: response_seeds, words: WORDS };

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b": ",
    b" :",
    b" ",
    b"\t",
    b"\0",
    b"Host: ",
    b"Content-Length: ",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: ",
    b"chunked",
    b"identity",
    b", ",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"TE: trailers\r\n",
    b"Expect: 100-continue\r\n",
    b"Trailer: x-a\r\n",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"ffffffffffffffff\r\n",
    b";a=b",
    b";a=\"",
    b" HTTP/1.0\r\n",
    b" HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 304 \r\n",
    b"http://a:80/",
    b"CONNECT a:80",
    b"OPTIONS *",
    b"%0d%0a",
    b"\r\n x",
    b"+5",
    b"0x5",
    b"05",
    b"18446744073709551616",
    b"_",
    b"Keep-Alive: timeout=5\r\n",
    b"Proxy-Connection: keep-alive\r\n",
];

/// Small ones, so that small inputs meet them.
const SMALL: Limits = Limits {
    head_bytes_max: 600,
    fields_max: 12,
    target_bytes_max: 80,
    connection_options_max: 4,
    chunk_extension_bytes_max: 20,
    trailer_bytes_max: 100,
    empty_lines_max: 2,
    interim_max: 2,
};

const METHODS: &[RequestMethod] = &[
    RequestMethod::Other,
    RequestMethod::Head,
    RequestMethod::Other,
    RequestMethod::Other,
    RequestMethod::Connect,
];

fn requests(bytes: &[u8]) {
    check_cuts(Side::Requests, bytes);
    let told = transcript(Side::Requests, Limits::default(), bytes, &[]);
    another_parser_agrees(bytes, &told);
    let (passed, messages) = pass_on_requests(bytes);
    let again = transcript(Side::Requests, Limits::between_proxies(), &passed, &[]);
    assert_eq!(read(&again), messages, "{:?}", String::from_utf8_lossy(&passed));
}

fn responses(bytes: &[u8]) {
    check_cuts(Side::Responses(METHODS), bytes);
    let (passed, messages) = pass_on_responses(bytes);
    let again = transcript(Side::Responses(&[RequestMethod::Other]), Limits::between_proxies(), &passed, &[]);
    assert_eq!(read(&again), messages, "{:?}", String::from_utf8_lossy(&passed));
}

fn check_cuts(side: Side, bytes: &[u8]) {
    for limits in [SMALL, Limits::default()] {
        let at_once = told(&transcript(side, limits, bytes, &[]));
        let every: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(told(&transcript(side, limits, bytes, &every)), at_once, "byte by byte");
        let thirds = [bytes.len() / 3, bytes.len() * 2 / 3];
        assert_eq!(told(&transcript(side, limits, bytes, &thirds)), at_once, "cut in three");
    }
}

/// The events as text: a head is what it shows.
fn told(events: &[Event]) -> Vec<String> {
    let shown = |event: &Event| match event {
        Event::Head(head, length, keep_alive) => {
            let start = match head.kind() {
                Kind::Request => {
                    let (method, scheme, path) = (head.method(), head.scheme(), head.path_and_query());
                    format!("{method} {scheme} {:?} {path}", head.authority())
                }
                Kind::Response => format!("{} {:?}", head.status(), head.reason()),
                Kind::Trailers => "trailers".to_owned(),
            };
            format!("{start} {:?} {length:?} {keep_alive} {:?}", head.version(), fields(head))
        }
        Event::Data(data) => format!("data {data:?}"),
        Event::Trailers(trailers) => format!("trailers {trailers:?}"),
        Event::End => "end".to_owned(),
        Event::Upgraded => "upgraded".to_owned(),
        Event::Closed(end) => format!("closed: {end:?}"),
        Event::Error(error) => format!("error: {error:?}"),
    };
    events.iter().map(shown).collect()
}

/// The first head, as httparse reads it.
fn another_parser_agrees(bytes: &[u8], told: &[Event]) {
    let Some(Event::Head(head, ..)) = told.first() else { return };
    let mut storage = [httparse::EMPTY_HEADER; 256];
    let mut theirs = httparse::Request::new(&mut storage);
    let parsed = theirs.parse(bytes);
    assert!(
        matches!(parsed, Ok(httparse::Status::Complete(_))),
        "we take what another parser does not: {parsed:?}"
    );
    assert_eq!(theirs.method, Some(head.method()));
    assert_eq!(theirs.version, Some(u8::from(head.version() == Version::Http11)));
    let target = theirs.path.unwrap_or_default();
    assert!(
        target.ends_with(head.path_and_query()) || head.method() == "CONNECT" || target.contains("://"),
        "{target:?}"
    );
    let trimmed = |value: &[u8]| value.trim_ascii().to_vec();
    let their_fields: Vec<_> = theirs
        .headers
        .iter()
        .map(|header| (header.name.as_bytes().to_vec(), trimmed(header.value)))
        .collect();
    let ours: Vec<_> = fields(head).into_iter().map(|(name, value)| (name, trimmed(&value))).collect();
    assert_eq!(ours, their_fields);
}

/// What of a message must arrive: its beginning, the fields that are for everybody, body and trailers.
#[derive(Debug, Default, PartialEq)]
struct Message {
    start: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

impl Message {
    fn new(head: &Head) -> Self {
        let start = match head.kind() {
            Kind::Request => {
                let authority = head.authority().unwrap_or_default().to_ascii_lowercase();
                format!("{} {authority} {}", head.method(), head.path_and_query())
            }
            Kind::Response | Kind::Trailers => head.status().to_string(),
        };
        Self { start, fields: end_to_end(head), ..Self::default() }
    }
}

/// Without those that frame, and those of one connection.
fn end_to_end(head: &Head) -> Vec<(String, Vec<u8>)> {
    let ours = ["content-length", "transfer-encoding", "connection", "host"];
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    let fields = head.fields().map(|(name, value)| (lower(name), value.to_vec()));
    fields.filter(|(name, _)| !ours.contains(&name.as_str())).collect()
}

/// The whole messages of a transcript, which must be nothing else.
fn read(events: &[Event]) -> Vec<Message> {
    let (mut messages, mut message) = (Vec::new(), Message::default());
    for event in events {
        match event {
            Event::Head(head, ..) => {
                assert!(head.kind() != Kind::Request || head.values(Known::Host).count() == 1);
                message = Message::new(head);
            }
            Event::Data(data) => message.body.clone_from(data),
            Event::Trailers(trailers) => {
                let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
                message.trailers =
                    trailers.iter().map(|(name, value)| (lower(name), value.clone())).collect();
            }
            Event::End => messages.push(std::mem::take(&mut message)),
            // Whoever reads answers awaits the next one.
            Event::Closed(_) | Event::Error(ReceiveError::ClosedBeforeResponse) => {}
            Event::Upgraded | Event::Error(_) => panic!("{event:?} in what we wrote"),
        }
    }
    messages
}

/// What is passed on, of whole messages alone.
struct Onward {
    sender: Sender,
    /// Of the message that is under way.
    out: Vec<u8>,
    message: Message,
    passed: Vec<u8>,
    messages: Vec<Message>,
}

impl Onward {
    fn new() -> Self {
        let (out, passed, messages) = (Vec::new(), Vec::new(), Vec::new());
        Self { sender: Sender::new(), out, message: Message::default(), passed, messages }
    }

    fn data(&mut self, data: &[u8]) {
        self.sender.data(data, &mut self.out).expect("as long as was said");
        self.message.body.extend_from_slice(data);
    }

    fn trailers(&mut self, trailers: &Head) {
        self.sender.end(Some(trailers), &mut self.out).expect("the body is complete");
        self.message.trailers = end_to_end(trailers);
    }

    fn end(&mut self) {
        if !self.sender.is_ended() {
            self.sender.end(None, &mut self.out).expect("the body is complete");
        }
        self.passed.append(&mut self.out);
        self.messages.push(std::mem::take(&mut self.message));
    }
}

/// The complete requests as they are sent on, and what a reader must see.
fn pass_on_requests(bytes: &[u8]) -> (Vec<u8>, Vec<Message>) {
    let mut receiver = Receiver::requests(Limits::default());
    let (mut on, mut head, mut at) = (Onward::new(), Head::default(), 0);
    while let Ok(step) = receiver.advance(&bytes[at..], &mut head) {
        at += match step {
            Step::NeedMore { .. } | Step::Upgraded { .. } => break,
            Step::Head { consumed } => {
                // A tunnel is another matter: it is opened, not passed on.
                if head.method() == "CONNECT" {
                    break;
                }
                forward::request(&mut head, Upgrades::Pass, ProxyAuthentication::Remove);
                let sent = on.sender.request(&head, receiver.body_length(), &mut on.out);
                sent.expect("a request is under way");
                on.message = Message::new(&head);
                consumed
            }
            Step::Data { consumed, data } => {
                on.data(&bytes[at..][data]);
                consumed
            }
            Step::Trailers { consumed } => {
                on.trailers(&head);
                consumed
            }
            Step::End { consumed } => {
                on.end();
                receiver.next_message();
                consumed
            }
        };
    }
    (on.passed, on.messages)
}

/// The complete final responses to GET, as a client of HTTP/1.1 gets them.
fn pass_on_responses(bytes: &[u8]) -> (Vec<u8>, Vec<Message>) {
    let mut receiver = Receiver::responses(Limits::default());
    receiver.expect_response_to(RequestMethod::Other);
    let (mut on, mut head, mut at) = (Onward::new(), Head::default(), 0);
    let to = ResponseTo { method: RequestMethod::Other, version: Version::Http11 };
    while let Ok(step) = receiver.advance(&bytes[at..], &mut head) {
        at += match step {
            Step::NeedMore { consumed } => {
                at += consumed;
                if receiver.body_length() == BodyLength::UntilClose
                    && receiver.end_of_input(bytes.len() - at).is_ok()
                {
                    continue;
                }
                break;
            }
            Step::Upgraded { .. } => break,
            Step::Head { consumed } => {
                forward::response(&mut head, ProxyAuthentication::Remove);
                if !head.status().is_interim() {
                    let length = receiver.body_length();
                    let sent = on.sender.response(&head, length, to, true, &mut on.out);
                    sent.expect("no other is under way");
                    on.message = Message::new(&head);
                }
                consumed
            }
            Step::Data { consumed, data } => {
                on.data(&bytes[at..][data]);
                consumed
            }
            Step::Trailers { consumed } => {
                on.trailers(&head);
                consumed
            }
            Step::End { consumed } => {
                on.end();
                receiver.expect_response_to(RequestMethod::Other);
                consumed
            }
        };
    }
    (on.passed, on.messages)
}

fn request_seeds() -> Vec<Vec<u8>> {
    [
        "GET /a?b HTTP/1.1\r\nHost: cart\r\nAccept: */*\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: cart:80\r\nContent-Length: 5\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n5;a=b\r\nabcde\r\n1\r\nf\r\n0\r\nx-t: 1\r\n\r\n",
        "\r\nHEAD http://CART:80/x HTTP/1.0\r\nConnection: keep-alive, X-Hop\r\nx-hop: 1\r\n\r\n",
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n\x01\x02",
        "CONNECT cart:443 HTTP/1.1\r\nHost: cart:443\r\n\r\nopaque",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn response_seeds() -> Vec<Vec<u8>> {
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\nabcdeHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 700\r\nETag: \"a\"\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01\x02",
        "HTTP/1.1 503 \r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
