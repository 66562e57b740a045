//! A head as HEADERS and CONTINUATION frames, in one pass.
//!
//! The sender alone frames: `content-length` is written from the body's length, and fields that concern one connection of HTTP/1 are
//! never written (RFC 9113, 8.2.2). The block is written where it is to stand; only one that is larger than a frame is
//! moved apart, for the heads of its CONTINUATION frames.

use super::connection::End;
use super::frame::{self, END_HEADERS, END_STREAM, HEAD_BYTES, Kind};
use super::hpack::{Encoder, Indexing};
use crate::h1::{is_forbidden_in_trailers, list};
use crate::head::{Pseudo, Secrecy};
use crate::{Head, Known, StatusCode};

/// A request's block. The head has a method, and somebody is named or `Host` is empty on purpose.
pub(super) fn request(head: &Head, content_length: Option<u64>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    out.reserve(head.size_hint());
    encoder.begin(out);
    let mut put = |name: &str, value: &[u8]| encoder.field(name.as_bytes(), value, Indexing::Usual, out);
    let (method, scheme) = (head.pseudo(Pseudo::Method), head.pseudo(Pseudo::Scheme));
    let protocol = head.pseudo(Pseudo::Protocol);
    put(":method", method);
    let is_tunnel = method == b"CONNECT" && protocol.is_empty();
    if !is_tunnel {
        put(":scheme", if scheme.is_empty() { b"http" } else { scheme });
    }
    let authority = match head.has_own_authority() {
        true => head.pseudo(Pseudo::Authority),
        false => head.get(Known::Host).unwrap_or_default(),
    };
    if !authority.is_empty() {
        put(":authority", authority);
    }
    if !is_tunnel {
        put(":path", path(head.pseudo(Pseudo::Path), method));
    }
    if !protocol.is_empty() {
        put(":protocol", protocol);
    }
    if authority.is_empty() {
        // HTTP/1.0 may name nobody. Said with an empty Host, as HTTP/1.1 says it, and nothing is invented.
        put("host", b"");
    }
    fields(head, content_length, encoder, out);
}

pub(super) fn response(head: &Head, content_length: Option<u64>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    out.reserve(head.size_hint());
    encoder.begin(out);
    status(head.status(), encoder, out);
    fields(head, content_length, encoder, out);
}

/// The answer to a request that was refused for its size.
pub(super) fn refusal(code: StatusCode, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    status(code, encoder, out);
    encoder.field(b"content-length", b"0", Indexing::Usual, out);
}

/// A trailer section's block; the fields that may stand there.
pub(super) fn trailers(head: &Head, encoder: &mut Encoder, out: &mut Vec<u8>) {
    out.reserve(head.size_hint());
    encoder.begin(out);
    for (known, name, value, secrecy) in head.secret_fields().filter(|(known, ..)| may_trail(*known)) {
        encoder.field(known.map_or(name, |known| known.name().as_bytes()), value, indexing(secrecy), out);
    }
}

/// Whether there is anything to write behind the body.
pub(super) fn has_trailers(head: &Head) -> bool {
    head.known_fields().any(|(known, ..)| may_trail(known))
}

/// Keeps room for a frame's head; the block follows.
pub(super) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    start
}

/// Makes frames of the block that began at `start`.
pub(super) fn end(start: usize, stream: u32, end: End, frame_bytes_max: usize, out: &mut Vec<u8>) {
    let end_stream = if end == End::Stream { END_STREAM } else { 0 };
    let length = out.len() - start - HEAD_BYTES;
    if length <= frame_bytes_max {
        let head = frame::head(length, Kind::Headers, end_stream | END_HEADERS, stream);
        out[start..start + HEAD_BYTES].copy_from_slice(&head);
        return;
    }
    let frames = length.div_ceil(frame_bytes_max);
    out.resize(out.len() + (frames - 1) * HEAD_BYTES, 0);
    // From the last to the first, so that none is overwritten before it was moved.
    for nth in (0..frames).rev() {
        let from = start + HEAD_BYTES + nth * frame_bytes_max;
        let piece = (length - nth * frame_bytes_max).min(frame_bytes_max);
        let at = from + nth * HEAD_BYTES;
        out.copy_within(from..from + piece, at);
        let last = if nth == frames - 1 { END_HEADERS } else { 0 };
        let head = match nth {
            0 => frame::head(piece, Kind::Headers, end_stream | last, stream),
            _ => frame::head(piece, Kind::Continuation, last, stream),
        };
        out[at - HEAD_BYTES..at].copy_from_slice(&head);
    }
}

fn status(status: StatusCode, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let code = status.as_u16();
    let digits = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
    encoder.field(b":status", &digits, Indexing::Usual, out);
}

/// Never empty (8.3.1).
fn path<'a>(path: &'a [u8], method: &[u8]) -> &'a [u8] {
    match (path, method) {
        (b"", b"OPTIONS") => b"*",
        (b"", _) => b"/",
        (path, _) => path,
    }
}

fn fields(head: &Head, content_length: Option<u64>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let mut trailers = false;
    for (known, name, value, secrecy) in head.secret_fields() {
        match known {
            Some(
                Known::Host
                | Known::ContentLength
                | Known::TransferEncoding
                | Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::Upgrade
                | Known::Http2Settings,
            ) => {}
            // All that may be said of it (8.2.2), and once.
            Some(Known::Te) => {
                let wanted = list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                if wanted && !trailers {
                    encoder.field(b"te", b"trailers", Indexing::Usual, out);
                    trailers = true;
                }
            }
            _ => encoder.field(name, value, indexing(secrecy), out),
        }
    }
    if let Some(length) = content_length {
        let (digits, start) = crate::h1::digits(length);
        encoder.field(b"content-length", &digits[start..], Indexing::Usual, out);
    }
}

fn indexing(secrecy: Secrecy) -> Indexing {
    match secrecy {
        Secrecy::Plain => Indexing::Usual,
        Secrecy::NeverIndexed => Indexing::Never,
    }
}

fn may_trail(known: Option<Known>) -> bool {
    !known.is_some_and(is_forbidden_in_trailers)
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameHead;
    use super::super::hpack::Decoder;
    use super::*;
    use crate::Version;

    fn decode(block: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Decoder::default()
            .decode(block, |field| fields.push(format!("{}={}", text(field.name), text(field.value))))
            .unwrap();
        fields
    }

    #[track_caller]
    fn check(method: &str, path: &str, fields: &[(&str, &str)], length: Option<u64>, expect: &[&str]) {
        let mut head = Head::default();
        head.start_request(Version::Http11, method, path);
        fields.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
        let mut block = Vec::new();
        request(&head, length, &mut Encoder::default(), &mut block);
        assert_eq!(decode(&block), expect);
    }

    #[test]
    fn rfc_9113_8_2_2_what_was_for_an_http1_connection_is_not_written() {
        let fields = [
            ("Host", "cart"),
            ("Connection", "TE, Upgrade, keep-alive"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("HTTP2-Settings", "AAMA"),
            ("TE", "gzip"),
            ("TE", "Trailers, deflate"),
            ("Content-Length", "7"),
            ("X-Upper", "Value"),
        ];
        let expect = [
            ":method=POST",
            ":scheme=http",
            ":authority=cart",
            ":path=/a?b",
            "te=trailers",
            "x-upper=Value",
            "content-length=5",
        ];
        check("POST", "/a?b", &fields, Some(5), &expect);
    }

    #[test]
    fn rfc_9113_8_3_1_targets_have_their_forms() {
        let host = [("Host", "cart:81")];
        check(
            "OPTIONS",
            "*",
            &host,
            None,
            &[":method=OPTIONS", ":scheme=http", ":authority=cart:81", ":path=*"],
        );
        check(
            "OPTIONS",
            "",
            &host,
            None,
            &[":method=OPTIONS", ":scheme=http", ":authority=cart:81", ":path=*"],
        );
        check("GET", "", &host, None, &[":method=GET", ":scheme=http", ":authority=cart:81", ":path=/"]);
        check("CONNECT", "", &host, None, &[":method=CONNECT", ":authority=cart:81"]);
        check("GET", "/", &[], None, &[":method=GET", ":scheme=http", ":path=/", "host="]);
    }

    #[test]
    fn rfc_9113_6_10_a_long_block_is_cut_into_frames() {
        for (length, frames) in [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (99, 10)] {
            let mut out = b"before".to_vec();
            let start = begin(&mut out);
            let block: Vec<u8> = (0..length).collect();
            out.extend_from_slice(&block);
            end(start, 5, End::Stream, 10, &mut out);
            let (mut at, mut joined, mut heads) = (start, Vec::new(), Vec::new());
            while at < out.len() {
                let head = FrameHead::parse(out[at..].first_chunk().unwrap());
                joined.extend_from_slice(&out[at + HEAD_BYTES..at + HEAD_BYTES + head.length]);
                at += HEAD_BYTES + head.length;
                heads.push(head);
            }
            assert_eq!((joined, heads.len()), (block, frames));
            assert!(heads[0].kind == Kind::Headers && heads[0].has(END_STREAM));
            assert!(heads[1..].iter().all(|head| head.kind == Kind::Continuation && head.stream == 5));
            let ends: Vec<_> = heads.iter().map(|head| head.has(END_HEADERS)).collect();
            assert_eq!(ends.iter().position(|end| *end), Some(frames - 1));
        }
    }
}
