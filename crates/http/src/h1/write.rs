//! A head as HTTP/1 text, in one pass. Who frames the message (`send.rs`) says what stands in it beside
//! the head's own fields; fields that frame (`Content-Length`, `Transfer-Encoding`) or that concern this
//! connection alone (`Connection`, `Keep-Alive`, `Proxy-Connection`) are never copied as they are.

use super::parse::is_forbidden_in_trailers;
use super::{BodyLength, list};
use crate::{Head, Known, StatusCode};

/// What the connection is to be after this message, as far as it must be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// The default of HTTP/1.1.
    Unsaid,
    Close,
    /// Said to HTTP/1.0, where it is not the default.
    KeepAlive,
}

/// The text of a request, in origin-form unless the head has a scheme (RFC 9112, 3.2).
pub(super) fn request(head: &Head, length: BodyLength, out: &mut Vec<u8>) {
    out.reserve(head.size_hint());
    put(out, &[head.method().as_bytes(), b" "]);
    let authority = head.authority().unwrap_or_default().as_bytes();
    if head.method() == "CONNECT" {
        out.extend_from_slice(authority);
    } else if head.scheme().is_empty() {
        out.extend_from_slice(head.path_and_query().as_bytes());
    } else {
        put(out, &[head.scheme().as_bytes(), b"://", authority]);
        // `*` has no absolute-form: it is the authority with nothing behind it (RFC 9112, 3.2.4).
        out.extend_from_slice(head.path_and_query().trim_start_matches('*').as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // Exactly one Host, and it names who the target names (RFC 9112, 3.2.2); a request of HTTP/1.0
    // that names nobody gets an empty one, as HTTP/1.1 must have it.
    let host = if head.has_own_authority() || head.get(Known::Host).is_none() {
        put(out, &[b"Host: ", authority, b"\r\n"]);
        Host::Written
    } else {
        Host::Copied
    };
    fields(head, host, out);
    connection(head, Persistence::Unsaid, out);
    framing(length, out);
    out.extend_from_slice(b"\r\n");
}

/// The text of a response; always HTTP/1.1, as a version says what its sender can (RFC 9110, 6.2).
pub(super) fn response(head: &Head, length: BodyLength, persistence: Persistence, out: &mut Vec<u8>) {
    out.reserve(head.size_hint());
    let status = head.status();
    let code = status.as_u16();
    let digits = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
    put(out, &[b"HTTP/1.1 ", &digits, b" ", reason(head, status), b"\r\n"]);
    fields(head, Host::Copied, out);
    connection(head, persistence, out);
    framing(length, out);
    out.extend_from_slice(b"\r\n");
}

/// The last chunk and the trailers that may stand behind it.
pub(super) fn last_chunk(trailers: Option<&Head>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (known, name, value) in trailers.into_iter().flat_map(Head::known_fields) {
        if !known.is_some_and(is_forbidden_in_trailers) {
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// One chunk's size line.
pub(super) fn chunk_size(size: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let count = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..count).rev().map(|digit| DIGITS[size >> (4 * digit) & 0xf]));
    out.extend_from_slice(b"\r\n");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Copied,
    Written,
}

fn fields(head: &Head, host: Host, out: &mut Vec<u8>) {
    for (known, name, value) in head.known_fields() {
        match known {
            Some(
                Known::ContentLength
                | Known::TransferEncoding
                | Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection,
            ) => {}
            Some(Known::Host) if host == Host::Written => {}
            _ => put(out, &[name, b": ", value, b"\r\n"]),
        }
    }
}

/// One `Connection` line: the head's options about other fields (`upgrade`, `te`), and our own about the
/// connection.
fn connection(head: &Head, persistence: Persistence, out: &mut Vec<u8>) {
    let own: &[u8] = match persistence {
        Persistence::Unsaid => b"",
        Persistence::Close => b"close",
        Persistence::KeepAlive => b"keep-alive",
    };
    let is_about_connection =
        |option: &&[u8]| option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive");
    let options = head.values(Known::Connection).flat_map(list).filter(|option| !is_about_connection(option));
    let mut before: &[u8] = b"Connection: ";
    for option in options.chain(Some(own).filter(|own| !own.is_empty())) {
        put(out, &[before, option]);
        before = b", ";
    }
    if before == b", " {
        out.extend_from_slice(b"\r\n");
    }
}

fn framing(length: BodyLength, out: &mut Vec<u8>) {
    match length {
        BodyLength::None | BodyLength::UntilClose => {}
        BodyLength::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyLength::Known(length) => {
            out.extend_from_slice(b"Content-Length: ");
            decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn reason(head: &Head, status: StatusCode) -> &[u8] {
    match head.reason() {
        b"" => status.reason().as_bytes(),
        reason => reason,
    }
}

fn decimal(number: u64, out: &mut Vec<u8>) {
    let (digits, start) = digits(number);
    out.extend_from_slice(&digits[start..]);
}

/// That 2^64 - 1 has.
const DIGITS: usize = 20;

/// A number's decimal digits, and where they begin.
pub(crate) fn digits(mut number: u64) -> ([u8; DIGITS], usize) {
    let mut digits = [b'0'; DIGITS];
    let mut start = DIGITS;
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return (digits, start);
        }
    }
}

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 255, 256, 4096, 65_535, u64::MAX] {
            let (mut ten, mut sixteen) = (Vec::new(), Vec::new());
            decimal(number, &mut ten);
            chunk_size(number as usize, &mut sixteen);
            assert_eq!(ten, number.to_string().as_bytes());
            assert_eq!(sixteen, format!("{number:x}\r\n").as_bytes());
        }
    }
}
