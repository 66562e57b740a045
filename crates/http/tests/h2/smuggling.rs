//! Whatever fields a client of HTTP/2 sends: what is taken and passed on as HTTP/1 is read there as one message, and as the same one.
//!
//! Heads are put together from pieces of which each is harmless to some parser and another message to the next.

use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{self, Receiver, Sender};
use meshwork_http::h2::hpack::{Encoder, Indexing};
use meshwork_http::h2::{Connection, Limits, Step};
use meshwork_http::{BodyLength, Head, Instant, Known};

use crate::exchange::{Fields, fields_seen};
use crate::random::Random;

const NAMES: [&str; 26] = [
    "host",
    "Host",
    "host ",
    " host",
    "content-length",
    "Content-Length",
    "content-length ",
    "transfer-encoding",
    "transfer-encoding\r\nx",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "x-a",
    "X-A",
    "x a",
    "x:a",
    "",
    "x-a\0",
    "x\r\ny: z",
    "cookie",
    "expect",
    "x-\u{e9}",
    "proxy-connection",
    "keep-alive",
    "http2-settings",
];

const VALUES: [&str; 27] = [
    "",
    "a",
    "5",
    "+5",
    "05",
    "5, 5",
    "5 ",
    " 5",
    "0x5",
    "-1",
    "18446744073709551616",
    "chunked",
    "Chunked, identity",
    "cart",
    "CART:80",
    "cart:80",
    "other",
    "user@cart",
    "cart\r\nx: y",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\tb",
    "a\u{80}b",
    "trailers",
    "gzip",
    "100-continue",
];

const METHODS: [&str; 9] =
    ["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "G ET", "GET / HTTP/1.1\r\nx: y", "", "get"];

const PATHS: [&str; 16] = [
    "/",
    "/a?b",
    "*",
    "",
    "a",
    "//",
    "http://other/",
    "/a b",
    "/ HTTP/1.1\r\nHost: x",
    "/\u{e9}",
    "/a#b",
    "/\t",
    "/%0d%0a",
    "?a",
    "/a\\b",
    "/\0",
];

const AUTHORITIES: [&str; 11] = [
    "cart",
    "cart:80",
    "",
    "a@cart",
    "cart/x",
    "cart x",
    "cart\r\n",
    "[::1]:80",
    "[::1",
    "cart:",
    "cart:port",
];

fn fields(random: &mut Random) -> Vec<(&'static str, &'static str)> {
    // Mostly right, or nothing would ever be taken.
    let pick = |random: &mut Random, right: &'static str, all: &[&'static str]| match random.below(5) {
        0 => random.pick(all),
        _ => right,
    };
    let mut fields = vec![
        (":method", pick(random, "POST", &METHODS)),
        (":scheme", pick(random, "http", &["https", "", "ht tp", "h\r\n", "1x"])),
        (":authority", pick(random, "cart", &AUTHORITIES)),
        (":path", pick(random, "/items", &PATHS)),
    ];
    if random.once_in(8) {
        fields.push((":protocol", random.pick(&["websocket", "a b", ""])));
    }
    for _ in 0..random.below(4) {
        let (name, value) = match random.below(3) {
            0 => (random.pick(&["host", "content-length", "te", "cookie", "x-a"]), random.pick(&VALUES)),
            1 => (random.pick(&NAMES), random.pick(&["a", "5", "cart"])),
            _ => (random.pick(&NAMES), random.pick(&VALUES)),
        };
        fields.push((name, value));
    }
    if random.once_in(8) {
        let one = random.below(fields.len());
        fields.remove(one);
    }
    if random.once_in(8) {
        let (one, other) = (random.below(fields.len()), random.below(fields.len()));
        fields.swap(one, other);
    }
    fields
}

/// The fields and a body in frames, on a fresh connection.
fn request(fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let (mut encoder, mut block) = (Encoder::default(), Vec::new());
    encoder.begin(&mut block);
    // The encoder writes names in lower case: as numbers and lengths alone a block can say anything.
    for (name, value) in fields {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            block.extend_from_slice(&[0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        } else {
            encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Usual, &mut block);
        }
    }
    for (kind, flags, payload) in [(1, 4, &*block), (0, 1, body)] {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        bytes.extend_from_slice(&[a, b, c, kind, flags, 0, 0, 0, 1]);
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// The request that the engine makes of it, if any: head, declared length, body.
fn taken(bytes: &[u8]) -> Option<(Head, BodyLength, Vec<u8>)> {
    let (mut out, mut head) = (Vec::new(), Head::default());
    let mut server = Connection::server(Limits::default(), &mut out);
    let (mut at, mut taken, mut body) = (0, None, Vec::new());
    loop {
        let shown = &bytes[at..];
        let step = server.advance(shown, &mut head, Instant::default(), &mut out).ok()?;
        at += step.consumed();
        match step {
            Step::NeedMore { .. } => return None,
            Step::Head { stream, .. } => taken = Some((head.clone(), server.body_length(stream))),
            Step::Data { data, end, .. } => {
                body.extend_from_slice(&shown[data]);
                if end {
                    let (head, length) = taken?;
                    return Some((head, length, body));
                }
            }
            Step::Reset { .. } | Step::Refused { .. } => return None,
            Step::Trailers { .. } | Step::Writable { .. } | Step::GoAway { .. } => {}
        }
    }
}

/// As HTTP/1 says it, read again by a strict reader: one whole request and nothing behind it.
fn reread(text: &[u8]) -> (Head, BodyLength, Vec<u8>) {
    let mut receiver = Receiver::requests(h1::Limits::default());
    let (mut head, mut at, mut taken, mut body) = (Head::default(), 0, None, Vec::new());
    loop {
        let step = receiver.advance(&text[at..], &mut head);
        at += match step.unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(text))) {
            h1::Step::Head { consumed } => {
                taken = Some((head.clone(), receiver.body_length()));
                consumed
            }
            h1::Step::Data { consumed, data } => {
                body.extend_from_slice(&text[at..][data]);
                consumed
            }
            h1::Step::End { consumed } => {
                assert_eq!(
                    at + consumed,
                    text.len(),
                    "a second message: {:?}",
                    String::from_utf8_lossy(text)
                );
                let (head, length) = taken.unwrap();
                return (head, length, body);
            }
            step => panic!("{step:?}: {:?}", String::from_utf8_lossy(text)),
        };
    }
}

fn compared(head: &Head) -> Fields {
    let ours = ["host", "content-length", "transfer-encoding", "connection"];
    let fields = fields_seen(head).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut fields: Fields = fields.filter(|(name, _)| !ours.contains(&name.as_str())).collect();
    fields.sort();
    fields
}

#[test]
fn no_fields_of_http2_become_another_message_of_http1() {
    let mut passed = 0;
    for seed in 0..40_000 {
        let mut random = Random::new(seed);
        let fields = fields(&mut random);
        let body = random.pick(&[&b""[..], b"abcde", b"0\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n"]);
        let Some((mut head, length, whole)) = taken(&request(&fields, body)) else { continue };
        assert_eq!(whole, body, "{fields:?}");
        // A tunnel is another matter: it is opened, not passed on.
        if head.method() == "CONNECT" {
            continue;
        }
        forward::request(&mut head, Upgrades::Remove, ProxyAuthentication::Remove);
        let (mut sender, mut text) = (Sender::new(), Vec::new());
        sender.request(&head, length, &mut text).unwrap();
        sender.data(&whole, &mut text).unwrap();
        sender.end(None, &mut text).unwrap();
        let (reread, length, again) = reread(&text);
        assert_eq!((reread.method(), reread.path_and_query()), (head.method(), head.path_and_query()));
        assert_eq!(
            (reread.authority(), reread.values(Known::Host).count()),
            (head.authority(), 1),
            "{fields:?}"
        );
        assert_eq!(compared(&reread), compared(&head), "{fields:?}");
        assert_eq!(again, body, "{fields:?} {length:?}");
        passed += 1;
    }
    assert!((4_000..36_000).contains(&passed), "{passed} of 40,000: all or nothing shows nothing");
}
