//! Generated exchanges: a request and its response as plain values, and what may go wrong between them.
//!
//! Both ends know the list, and a request's path says its number, so each end can check what it reads against what the
//! other one must have written. Bodies are pieces of one pattern: byte `n` of a message is known without keeping it.

use std::sync::LazyLock;

use meshwork_http::{BodyLength, Head, StatusCode, Version};

use crate::random::Random;

pub(crate) type Fields = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    /// Of an extended CONNECT (RFC 8441); else empty.
    pub(crate) protocol: &'static str,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) request: Message,
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    pub(crate) response: Message,
    pub(crate) trouble: Trouble,
}

/// What keeps an exchange from going its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The client gives up once it has read so much of the response.
    ClientCancels {
        received: usize,
    },
    /// The server gives up once it has read so much of the request.
    ServerResets {
        received: usize,
    },
    /// The server answers when it has the head, and wants no more once its answer is complete.
    ServerAnswersEarly,
}

/// Fields in lower case and in order, without those that frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) fields: Fields,
    pub(crate) body: Body,
    pub(crate) trailers: Fields,
    /// Where in the pattern its body begins.
    salt: usize,
}

/// How long the body is, and what is said of it beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Body {
    #[default]
    None,
    Known(usize),
    Chunked(usize),
}

impl Body {
    pub(crate) fn declared(self) -> BodyLength {
        match self {
            Self::None => BodyLength::None,
            Self::Known(length) => BodyLength::Known(length as u64),
            Self::Chunked(_) => BodyLength::Chunked,
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Known(length) | Self::Chunked(length) => length,
        }
    }
}

/// Prime, so that pieces of messages that are cut in powers of two never look alike.
const PATTERN_BYTES: usize = 65_521;
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let once = Random::new(1).bytes(PATTERN_BYTES);
    [once.as_slice(), &once].concat()
});

impl Message {
    /// A piece of the body: as much of it as there is from one place on, up to a length.
    pub(crate) fn piece(&self, from: usize, length: usize) -> &'static [u8] {
        let length = length.min(self.body.len() - from).min(PATTERN_BYTES);
        let start = (self.salt + from) % PATTERN_BYTES;
        &PATTERN[start..start + length]
    }

    /// Whether these bytes stand there.
    pub(crate) fn has(&self, from: usize, bytes: &[u8]) -> bool {
        from + bytes.len() <= self.body.len()
            && bytes
                .chunks(PATTERN_BYTES)
                .enumerate()
                .all(|(nth, chunk)| self.piece(from + nth * PATTERN_BYTES, chunk.len()) == chunk)
    }

    pub(crate) fn whole(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        while whole.len() < self.body.len() {
            whole.extend_from_slice(self.piece(whole.len(), usize::MAX));
        }
        whole
    }

    fn generate(random: &mut Random, body: Body, kind: &[&str]) -> Self {
        let mut fields: Fields = (0..random.below(8)).map(|_| field(random, kind)).collect();
        if random.once_in(60) {
            // More than a frame holds.
            fields.push(("x-long".to_owned(), vec![b'v'; 16_000 + random.below(20_000)]));
        }
        let has_trailers = matches!(body, Body::Chunked(_)) && random.once_in(2);
        let trailers = if has_trailers { 1 + random.below(3) } else { 0 };
        let trailers = (0..trailers).map(|n| (format!("x-t{n}"), value(random))).collect();
        Self { fields, body, trailers, salt: random.below(PATTERN_BYTES) }
    }
}

impl Exchange {
    pub(crate) fn generate(random: &mut Random, number: usize, troubles: Troubles) -> Self {
        let method =
            random.pick(&["GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]);
        let status = random.pick(&[200, 200, 200, 200, 201, 204, 206, 304, 400, 404, 418, 500, 599]);
        let request = body(random);
        let response = body(random);
        let interim = match random.once_in(5) {
            true => (0..=random.below(2)).map(|_| random.pick(&[100, 102, 103])).collect(),
            false => Vec::new(),
        };
        Self {
            method,
            protocol: "",
            authority: random.pick(&["cart", "cart:8080", "pay.shop.svc", "[::1]:80"]).to_owned(),
            path: path(random, number),
            request: Message::generate(random, request, &REQUEST_NAMES),
            interim,
            status,
            response: Message::generate(random, response, &RESPONSE_NAMES),
            trouble: trouble(random, troubles, request, response),
        }
    }

    /// Makes it a tunnel: what passes after the heads belongs to neither a request nor a response.
    pub(crate) fn dig(&mut self, random: &mut Random) {
        self.method = "CONNECT";
        self.protocol = random.pick(&["websocket", "x-other"]);
        self.request.body = Body::Chunked(self.request.body.len());
        self.request.trailers.clear();
        if (200..300).contains(&self.status) {
            self.response.body = Body::Chunked(self.response.body.len());
            self.response.trailers.clear();
        }
    }

    pub(crate) fn list(random: &mut Random, count: usize, troubles: Troubles) -> Vec<Self> {
        (0..count).map(|number| Self::generate(random, number, troubles)).collect()
    }

    /// The number that a path says.
    pub(crate) fn number(path: &str) -> Option<usize> {
        path.trim_start_matches('/').split(['/', '?']).next()?.parse().ok()
    }

    /// Whether the response has a body and trailers, whatever is declared.
    pub(crate) fn has_response_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    /// The response as it is to be read.
    pub(crate) fn response_seen(&self) -> Message {
        match self.has_response_body() {
            true => self.response.clone(),
            false => Message { body: Body::None, trailers: Vec::new(), ..self.response.clone() },
        }
    }

    /// The request as it is to be read: with one `cookie` field.
    pub(crate) fn request_seen(&self) -> Message {
        let mut seen = Message { fields: Vec::new(), ..self.request.clone() };
        for (name, value) in &self.request.fields {
            match seen.fields.iter_mut().find(|(other, _)| name == "cookie" && other == "cookie") {
                // An empty one says nothing, and a value does not end with a blank.
                Some(_) if value.is_empty() => {}
                Some((_, cookies)) => {
                    if !cookies.is_empty() {
                        cookies.extend_from_slice(b"; ");
                    }
                    cookies.extend_from_slice(value);
                }
                None => seen.fields.push((name.clone(), value.clone())),
            }
        }
        seen
    }

    /// As a client of either version may have given it to us.
    pub(crate) fn request_head(&self, head: &mut Head) {
        let has_host = self.path.len().is_multiple_of(2);
        head.start_request(Version::Http11, self.method, &self.path);
        if has_host {
            head.append("Host", self.authority.as_bytes());
        } else {
            head.set_authority(&self.authority);
        }
        if !self.protocol.is_empty() {
            head.set_protocol(self.protocol);
        }
        append(head, &self.request.fields);
    }

    pub(crate) fn response_head(&self, head: &mut Head) {
        head.start_response(Version::Http11, StatusCode::new(self.status).unwrap(), b"");
        append(head, &self.response.fields);
    }
}

pub(crate) fn trailers_head(trailers: &Fields, head: &mut Head) {
    head.start_trailers();
    append(head, trailers);
}

/// The fields of a head as they are compared: in order, without what frames.
pub(crate) fn fields_seen(head: &Head) -> Fields {
    let fields = head.fields().filter(|(name, _)| *name != b"content-length");
    fields.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec())).collect()
}

/// Whether something goes wrong at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Troubles {
    Never,
    Sometimes,
}

fn trouble(random: &mut Random, troubles: Troubles, request: Body, response: Body) -> Trouble {
    match (troubles, random.below(12)) {
        (Troubles::Sometimes, 0) => Trouble::ClientCancels { received: random.below(response.len() + 1) },
        (Troubles::Sometimes, 1) => Trouble::ServerResets { received: random.below(request.len() + 1) },
        (Troubles::Sometimes, 2) => Trouble::ServerAnswersEarly,
        _ => Trouble::None,
    }
}

fn body(random: &mut Random) -> Body {
    let length = match random.below(20) {
        0..5 => 0,
        // More than a stream's first window, which others' bytes must get past.
        5 => random.below(200_000),
        6..9 => random.below(20_000),
        _ => random.below(500),
    };
    match random.below(3) {
        0 if length == 0 => Body::None,
        1 => Body::Known(length),
        _ => Body::Chunked(length),
    }
}

fn append(head: &mut Head, fields: &Fields) {
    for (index, (name, value)) in fields.iter().enumerate() {
        // Case must not matter on the way in: every third name comes in capitals.
        let name = if index % 3 == 0 { name.to_ascii_uppercase() } else { name.clone() };
        head.append(&name, value);
    }
}

const REQUEST_NAMES: [&str; 10] = [
    "accept",
    "x-a",
    "x-b",
    "user-agent",
    "cookie",
    "cookie",
    "x-request-id",
    "authorization",
    "a",
    "content-type",
];
const RESPONSE_NAMES: [&str; 9] =
    ["x-a", "x-b", "server", "set-cookie", "etag", "date", "vary", "content-type", "cache-control"];

fn field(random: &mut Random, names: &[&str]) -> (String, Vec<u8>) {
    let name = match random.below(8) {
        0 => format!("x-{}", random.below(1_000)),
        _ => random.pick(names).to_owned(),
    };
    // Some repeat, so that they become numbers.
    let value = match random.below(3) {
        0 => value(random),
        _ => format!("value {}", random.below(5)).into_bytes(),
    };
    (name, value)
}

/// Anything that a value may hold, without blanks at its ends.
pub(crate) fn value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(30) {
        0 => random.below(3_000),
        _ => random.below(40),
    };
    let byte = |random: &mut Random| match random.below(12) {
        0 => random.pick(b" \t"),
        1 => 0x80 | random.next() as u8,
        _ => 0x21 + random.below(0x5e) as u8,
    };
    let value: Vec<u8> = (0..length).map(|_| byte(random)).collect();
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_blank(b)).map_or(start, |last| last + 1);
    value[start..end].to_vec()
}

fn path(random: &mut Random, number: usize) -> String {
    let mut path = format!("/{number}");
    if random.once_in(2) {
        path.push('/');
        path.extend((0..random.below(30)).map(|_| char::from(random.pick(b"abcXYZ019-._~!$&'()*+,;=:@%"))));
    }
    if random.once_in(3) {
        path.push('?');
        path.extend((0..random.below(20)).map(|_| char::from(random.pick(b"abc019=&/?-_"))));
    }
    path
}
