//! Generated exchanges: a request and its response as plain values, to be sent by one implementation and
//! read by another.

use meshwork_http::h1::BodyLength;
use meshwork_http::{Head, StatusCode, Version};

use crate::random::Random;

#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) version: Version,
    /// The client closes behind this one.
    pub(crate) close: bool,
    pub(crate) request: Message,
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    pub(crate) response: Message,
}

/// Fields, body and trailers. Names are in lower case, sorted; what frames is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Body,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Body {
    #[default]
    None,
    Known(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

impl Body {
    pub(crate) fn length(&self) -> BodyLength {
        match self {
            Self::None => BodyLength::None,
            Self::Known(bytes) => BodyLength::Known(bytes.len() as u64),
            Self::Chunked(_) => BodyLength::Chunked,
        }
    }

    pub(crate) fn pieces(&self) -> Vec<&[u8]> {
        match self {
            Self::None => Vec::new(),
            Self::Known(bytes) => vec![bytes],
            Self::Chunked(pieces) => pieces.iter().map(Vec::as_slice).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces().concat()
    }
}

impl Exchange {
    /// One that keeps the connection, or the last one of a connection.
    pub(crate) fn generate(random: &mut Random, is_last: bool) -> Self {
        let method =
            random.pick(&["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]);
        let version = if is_last && random.once_in(3) { Version::Http10 } else { Version::Http11 };
        let takes_body = matches!(method, "POST" | "PUT" | "PATCH");
        let mut request = Message::generate(random, takes_body, version);
        request.fields.push(("host".to_owned(), b"cart.default:80".to_vec()));
        // hyper's server sends trailers only to those who ask.
        request.fields.push(("te".to_owned(), b"trailers".to_vec()));
        request.fields.sort();
        let status = random.pick(&[200, 200, 200, 201, 204, 206, 304, 400, 404, 418, 500, 599]);
        let has_body = !matches!(status, 204 | 304);
        let interim = match random.once_in(4) && version == Version::Http11 {
            true => (0..=random.below(2)).map(|_| random.pick(&[100, 102, 103])).collect(),
            false => Vec::new(),
        };
        Self {
            method,
            path: path(random),
            version,
            close: is_last && version == Version::Http11 && random.once_in(2),
            request,
            interim,
            status,
            response: Message::generate(random, has_body, version),
        }
    }

    /// As many connections as hold `count` exchanges.
    pub(crate) fn connections(seed: u64, count: usize) -> Vec<Vec<Self>> {
        let mut random = Random::new(seed);
        let (mut connections, mut left) = (Vec::new(), count);
        while left > 0 {
            let length = (1 + random.below(12)).min(left);
            left -= length;
            connections.push((1..=length).map(|n| Self::generate(&mut random, n == length)).collect());
        }
        connections
    }

    pub(crate) fn request_head(&self, head: &mut Head) {
        head.start_request(Version::Http11, self.method, &self.path);
        append(head, &self.request.fields);
        if self.close {
            head.append("Connection", b"close");
        }
    }

    pub(crate) fn response_head(&self, head: &mut Head) {
        head.start_response(Version::Http11, StatusCode::new(self.status).unwrap(), b"");
        append(head, &self.response.fields);
    }

    /// The response as its reader gets it: none of the body to HEAD, no trailers where none are sent.
    pub(crate) fn response_seen(&self) -> Message {
        let mut seen = self.response.clone();
        if self.method == "HEAD" {
            seen.body = Body::None;
        }
        if self.method == "HEAD" || self.version == Version::Http10 {
            seen.trailers.clear();
        }
        seen
    }
}

impl Message {
    fn generate(random: &mut Random, takes_body: bool, version: Version) -> Self {
        let mut fields: Vec<_> = (0..random.below(8)).map(|_| field(random)).collect();
        let body = match random.below(3) {
            _ if !takes_body => Body::None,
            0 => Body::None,
            1 => Body::Known(piece(random)),
            _ if version == Version::Http10 => Body::Known(piece(random)),
            _ => Body::Chunked((0..random.below(5)).map(|_| piece(random)).collect()),
        };
        let mut trailers = Vec::new();
        if matches!(body, Body::Chunked(_)) && random.once_in(2) {
            trailers = (0..=random.below(3)).map(|n| (format!("x-t{n}"), value(random))).collect();
            // hyper sends only those that were announced.
            let names: Vec<_> = trailers.iter().map(|(name, _)| name.as_str()).collect();
            fields.push(("trailer".to_owned(), names.join(", ").into_bytes()));
        }
        fields.sort();
        Self { fields, body, trailers }
    }

    /// As it was read: the body in one piece, and what the implementations add taken out.
    pub(crate) fn seen<'a>(
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        body: Vec<u8>,
        trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        let added = ["content-length", "transfer-encoding", "connection", "date"];
        let mut fields = lower(fields);
        fields.retain(|(name, _)| !added.contains(&name.as_str()));
        Self { fields, body: Body::Known(body), trailers: lower(trailers) }
    }

    /// The same message, for comparing: framing does not matter, all bytes do.
    pub(crate) fn normal(&self) -> Self {
        let mut normal = self.clone();
        normal.body = Body::Known(self.body.bytes());
        normal
    }
}

fn lower<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    let mut fields: Vec<_> = fields.map(|(name, value)| (text(name), value.to_vec())).collect();
    fields.sort();
    fields
}

fn append(head: &mut Head, fields: &[(String, Vec<u8>)]) {
    for (index, (name, value)) in fields.iter().enumerate() {
        // Case must not matter: every third name is sent in capitals.
        let name = if index % 3 == 0 { name.to_ascii_uppercase() } else { name.clone() };
        head.append(&name, value);
    }
}

fn field(random: &mut Random) -> (String, Vec<u8>) {
    let names = ["accept", "x-a", "x-b", "user-agent", "cookie", "x-request-id", "etag", "a", "content-type"];
    (random.pick(&names).to_owned(), value(random))
}

/// Anything that a value may hold, without blanks at its ends.
pub(crate) fn value(random: &mut Random) -> Vec<u8> {
    let length = random.below(40);
    let mut value: Vec<u8> = (0..length)
        .map(|_| match random.below(12) {
            0 => random.pick(b" \t"),
            1 => 0x80 | random.next() as u8,
            _ => 0x21 + random.below(0x5e) as u8,
        })
        .collect();
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    while is_blank(value.last()) {
        value.pop();
    }
    while is_blank(value.first()) {
        value.remove(0);
    }
    value
}

fn path(random: &mut Random) -> String {
    let bytes = b"abcXYZ019-._~!$&'()*+,;=:@/%";
    let mut path = "/".to_owned();
    path.extend((0..random.below(30)).map(|_| char::from(random.pick(bytes))));
    if random.once_in(3) {
        path.push('?');
        path.extend((0..random.below(20)).map(|_| char::from(random.pick(b"abc019=&/?-_"))));
    }
    path
}

fn piece(random: &mut Random) -> Vec<u8> {
    let length = match random.below(8) {
        0 => 1 + random.below(5_000),
        _ => 1 + random.below(60),
    };
    random.bytes(length)
}
