//! The judge: a stream of bytes split into requests by RFC 9112 alone, without the liberties that it allows.
//!
//! Written for these tests and apart from the engine that they judge. It takes whole texts, copies what it likes and knows no
//! limits; what it refuses, some parser may read in another way.

/// A request that ends where every parser ends it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, whatever form the target had.
    pub(crate) path: String,
    /// Who is asked: the target's authority, else `Host`.
    pub(crate) host: String,
    pub(crate) body: Vec<u8>,
}

/// What follows the last whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    /// The beginning of a request.
    Cut,
    /// What is no request, or more than one.
    Refused(&'static str),
}

/// Fields that no judge may take.
pub(crate) const READ_IN_TWO_WAYS: [&str; 6] = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: +5",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "X: a\rY: b",
];

/// The requests that all agree on, from the first byte.
pub(crate) fn split(bytes: &[u8]) -> (Vec<Request>, Rest) {
    let (mut requests, mut input) = (Vec::new(), Input { bytes });
    loop {
        while let Some(rest) = input.bytes.strip_prefix(b"\r\n") {
            input.bytes = rest; // RFC 9112, 2.2
        }
        if input.bytes.is_empty() {
            return (requests, Rest::Nothing);
        }
        match input.request() {
            Ok(request) => requests.push(request),
            Err(rest) => return (requests, rest),
        }
    }
}

/// What is not yet taken.
struct Input<'b> {
    bytes: &'b [u8],
}

#[derive(Default)]
struct Fields {
    hosts: Vec<String>,
    lengths: Vec<Vec<u8>>,
    codings: Vec<Vec<u8>>,
}

impl<'b> Input<'b> {
    fn request(&mut self) -> Result<Request, Rest> {
        let line = self.line()?;
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Rest::Refused("a request line of other than three words"));
        };
        let is_11 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(Rest::Refused("another version")),
        };
        if !is_token(method) {
            return Err(Rest::Refused("the method"));
        }
        let (authority, path) = aim(method, target).ok_or(Rest::Refused("the target"))?;
        let fields = self.fields()?;
        if fields.hosts.len() > 1 || (is_11 && fields.hosts.is_empty()) {
            return Err(Rest::Refused("several Hosts, or none"));
        }
        let host = authority.or_else(|| fields.hosts.first().cloned()).unwrap_or_default();
        let body = self.body(&fields, is_11)?;
        Ok(Request { method: text(method), path, host: host.to_ascii_lowercase(), body })
    }

    fn body(&mut self, fields: &Fields, is_11: bool) -> Result<Vec<u8>, Rest> {
        match (&fields.lengths[..], &fields.codings[..]) {
            ([], []) => Ok(Vec::new()),
            ([length], []) => {
                if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                    return Err(Rest::Refused("the length"));
                }
                let length = text(length).parse().map_err(|_| Rest::Refused("the length"))?;
                Ok(self.take(length)?.to_vec())
            }
            ([], [coding]) if is_11 && coding.eq_ignore_ascii_case(b"chunked") => self.chunks(),
            _ => Err(Rest::Refused("several lengths, or a coding that is not chunked alone")),
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Rest> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
                return Err(Rest::Refused("a chunk's size"));
            }
            let size = usize::from_str_radix(&text(size), 16).map_err(|_| Rest::Refused("a chunk's size"))?;
            if size == 0 {
                self.fields()?;
                return Ok(body);
            }
            body.extend_from_slice(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(Rest::Refused("a chunk's end"));
            }
        }
    }

    /// Through the empty line.
    fn fields(&mut self) -> Result<Fields, Rest> {
        let mut fields = Fields::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Rest::Refused("no colon"))?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name) {
                return Err(Rest::Refused("a field's name"));
            }
            match &name.to_ascii_lowercase()[..] {
                b"host" => fields.hosts.push(text(value)),
                b"content-length" => fields.lengths.push(value.to_vec()),
                b"transfer-encoding" => fields.codings.push(value.to_vec()),
                _ => {}
            }
        }
    }

    /// Up to CR LF, which stands nowhere else, nor do other control bytes.
    fn line(&mut self) -> Result<&'b [u8], Rest> {
        let end = self.bytes.iter().position(|byte| matches!(byte, 0..=8 | 10..=31 | 127));
        let Some(end) = end else { return Err(Rest::Cut) };
        let (line, rest) = self.bytes.split_at(end);
        match rest {
            [b'\r', b'\n', rest @ ..] => {
                self.bytes = rest;
                Ok(line)
            }
            b"\r" => Err(Rest::Cut),
            _ => Err(Rest::Refused("a control byte within a line")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], Rest> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Rest::Cut)?;
        self.bytes = rest;
        Ok(taken)
    }
}

/// Whom a target names, and the path.
fn aim(method: &[u8], target: &[u8]) -> Option<(Option<String>, String)> {
    if target.is_empty() || !target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#') {
        return None;
    }
    if method == b"CONNECT" {
        return Some((Some(text(target)), String::new()));
    }
    match target {
        [b'/', ..] => Some((None, text(target))),
        b"*" if method == b"OPTIONS" => Some((None, "*".to_owned())),
        _ => {
            let target = text(target);
            let (_, rest) = target.split_once("://")?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let slash = if path.starts_with('/') { "" } else { "/" };
            (!authority.is_empty() && !authority.contains('@'))
                .then(|| (Some(authority.to_owned()), format!("{slash}{path}")))
        }
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn check(bytes: &str, expect: &[(&str, &str, &str)], rest: Rest) {
    let (requests, found) = split(bytes.as_bytes());
    let told = |request: &Request| {
        let Request { method, path, host, body } = request;
        (format!("{method} {path}"), host.clone(), text(body))
    };
    let expect: Vec<_> =
        expect.iter().map(|(line, host, body)| ((*line).into(), (*host).into(), (*body).into())).collect();
    assert_eq!((requests.iter().map(told).collect::<Vec<_>>(), found), (expect, rest), "{bytes:?}");
}

#[test]
fn the_judge_splits_what_is_whole() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[("GET /", "a", "")], Rest::Nothing);
    check(
        "POST http://b/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /y HTTP/1.0\r\n\r\nP",
        &[("POST /x", "b", "abc"), ("GET /y", "", "")],
        Rest::Cut,
    );
    check(
        "PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        &[("PUT /c", "a", "abc")],
        Rest::Nothing,
    );
}

#[test]
fn the_judge_refuses_what_is_read_in_two_ways() {
    let refused = |fields: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        let (requests, rest) = split(text.as_bytes());
        assert!(requests.is_empty() && matches!(rest, Rest::Refused(_)), "{fields:?}: {rest:?}");
    };
    // The last three are asked of this judge alone.
    for fields in READ_IN_TWO_WAYS.into_iter().chain(["X: a\r\n folded", "X: a\nY: b", "Host: b"]) {
        refused(fields);
    }
}
