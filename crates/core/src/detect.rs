//! Which protocol does a client speak? Decided from the first bytes, before anything is sent anywhere.
//!
//! A decision never changes when more bytes come. HTTP/1 is recognised by its whole request line, not by
//! the method alone, since other protocols of text begin with a word and a space too (`get key` of
//! memcached, `EHLO host` of SMTP).
//!
//! Pure: how long to wait for more bytes, and what silence means, is the caller's (`proxy/src/detect.rs`).

/// The most bytes that a decision may take: the largest TLS record (RFC 8446, 5.1), which is more than any
/// request line that the HTTP engine takes.
pub const DETECT_BYTES_MAX: usize = 16 * 1024;

/// The longest method that is taken for one. The longest registered one has 17 bytes (UPDATEREDIRECTREF).
const METHOD_BYTES_MAX: usize = 32;

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Nothing is decided: wait for more. Never returned for `DETECT_BYTES_MAX` bytes or more.
    NeedMore,
    Http1,
    /// With prior knowledge (h2c).
    Http2,
    /// A ClientHello.
    Tls,
    /// None of these: bytes that are not parsed.
    Opaque,
}

/// What the first bytes of a connection say.
pub fn detect(first_bytes: &[u8]) -> Detected {
    let bytes = &first_bytes[..first_bytes.len().min(DETECT_BYTES_MAX)];
    match http2(bytes) {
        Prefix::Whole => return Detected::Http2,
        Prefix::Part => return Detected::NeedMore,
        Prefix::No => {}
    }
    match tls(bytes) {
        Prefix::Whole => return Detected::Tls,
        Prefix::Part => return Detected::NeedMore,
        Prefix::No => {}
    }
    http1(bytes, bytes.len() == DETECT_BYTES_MAX)
}

/// Whether the bytes are HTTP/2's preface; `None`: too few to say. For ports where only HTTP is spoken.
pub fn preface(first_bytes: &[u8]) -> Option<bool> {
    match http2(first_bytes) {
        Prefix::Whole => Some(true),
        Prefix::Part => None,
        Prefix::No => Some(false),
    }
}

/// Whether a server that speaks first speaks HTTP/2: many send their SETTINGS before they hear from a client (RFC 9113,
/// 3.4). `None`: too few bytes to say.
pub fn server_preface(first_bytes: &[u8]) -> Option<bool> {
    let fits = |at: usize, byte: u8| first_bytes.get(at).is_none_or(|b| *b == byte);
    // A frame's head: 24 bits of length, type 4, no flags, stream 0. Settings have 6 bytes each.
    let fits_head = fits(0, 0) && fits(3, 4) && (4..9).all(|at| fits(at, 0));
    let whole = match first_bytes {
        [_, high, low, ..] => u16::from_be_bytes([*high, *low]) % 6 == 0,
        _ => true,
    };
    match fits_head && whole {
        true if first_bytes.len() >= 9 => Some(true),
        true => None,
        false => Some(false),
    }
}

/// Whether a server that is lenient might read a request of HTTP where this file sees none: a method, and a blank. What
/// claims to be nothing else must not be carried past the checks that requests get.
pub fn may_be_request(first_bytes: &[u8]) -> bool {
    let bytes = first_bytes.trim_ascii_start();
    let method = bytes.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    method.len() < bytes.len() && METHODS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(method))
}

/// Those that are in common use (RFC 9110, 9.3, and PATCH).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// How far the bytes are what was looked for.
enum Prefix {
    Whole,
    /// All that is there fits, but it is not all.
    Part,
    No,
}

fn http2(bytes: &[u8]) -> Prefix {
    if bytes.starts_with(HTTP2_PREFACE) {
        Prefix::Whole
    } else if HTTP2_PREFACE.starts_with(bytes) {
        Prefix::Part
    } else {
        Prefix::No
    }
}

/// A record of type handshake (22), version 3.x (whatever x is: RFC 8446, 5.1, has readers ignore it), with a length
/// that a first record may have, in it a ClientHello (1: RFC 8446, 4).
fn tls(bytes: &[u8]) -> Prefix {
    let fits = |at: usize, accept: fn(u8) -> bool| bytes.get(at).is_none_or(|b| accept(*b));
    let fits_head = fits(0, |b| b == 22) && fits(1, |b| b == 3) && fits(5, |b| b == 1);
    let length = match bytes {
        [_, _, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    };
    // 4: the smallest handshake message is its header; 2^14: the largest plaintext record.
    let fits_length = length.is_none_or(|length| (4..=1 << 14).contains(&length));
    match fits_head && fits_length {
        true if bytes.len() >= 6 => Prefix::Whole,
        true => Prefix::Part,
        false => Prefix::No,
    }
}

/// `method SP target SP HTTP/d.d CRLF`, after at most one empty line (RFC 9112, 2.2 and 3).
fn http1(bytes: &[u8], at_limit: bool) -> Detected {
    let bytes = match bytes {
        [] | [b'\r'] => return Detected::NeedMore,
        [b'\r', b'\n', rest @ ..] | rest => rest,
    };
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or(bytes);
    let ended = line.len() < bytes.len();
    let method_bytes = line.iter().position(|b| !is_token(*b)).unwrap_or(line.len());
    if method_bytes > METHOD_BYTES_MAX {
        return Detected::Opaque;
    }
    let (method, rest) = line.split_at(method_bytes);
    match rest {
        [] if ended => Detected::Opaque,
        [] => Detected::NeedMore,
        [b' ', rest @ ..] if !method.is_empty() => http1_target(rest, ended, at_limit),
        _ => Detected::Opaque,
    }
}

/// What follows the method and its space.
fn http1_target(rest: &[u8], ended: bool, at_limit: bool) -> Detected {
    let rest = match rest {
        [rest @ .., b'\r'] => rest,
        rest => rest,
    };
    // A target's bytes are visible (RFC 3986 leaves only ASCII; some clients send UTF-8, which the engine
    // judges), and nothing but one space stands between them and the version.
    let visible = |b: &u8| *b >= b' ' && *b != 0x7f;
    if rest.first() == Some(&b' ') || !rest.iter().all(visible) {
        return Detected::Opaque;
    }
    if ended {
        return if ends_with_version(rest) { Detected::Http1 } else { Detected::Opaque };
    }
    // A line so long that was a request line so far: HTTP, and the engine answers 414.
    if at_limit { Detected::Http1 } else { Detected::NeedMore }
}

fn ends_with_version(rest: &[u8]) -> bool {
    match rest {
        [_, .., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

/// A byte of a token (RFC 9110, 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(bytes: &[u8], expect: Detected) {
        assert_eq!(detect(bytes), expect, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn http1_is_known_by_its_request_line() {
        check(b"GET / HTTP/1.1\r\n", Detected::Http1);
        check(b"GET / HTTP/1.1\n", Detected::Http1);
        check(b"\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n", Detected::Http1);
        check(b"VERSION-CONTROL /a%20b?c HTTP/1.1\r\n", Detected::Http1);
        check(b"CONNECT cart:80 HTTP/1.1\r\n", Detected::Http1);
        check(b"PRI /x HTTP/1.1\r\n", Detected::Http1);
        for part in
            [&b""[..], b"G", b"GET", b"GET ", b"GET / HTTP/1.1", b"\r", b"\r\n", b"PRI * HTTP/2.0\r\n"]
        {
            check(part, Detected::NeedMore);
        }
    }

    #[test]
    fn http2_is_known_by_its_preface() {
        check(HTTP2_PREFACE, Detected::Http2);
        check(&HTTP2_PREFACE[..23], Detected::NeedMore);
    }

    #[test]
    fn an_http2_server_that_speaks_first_is_known_by_its_settings() {
        let settings = [0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        assert_eq!(server_preface(&settings), Some(true));
        assert_eq!(server_preface(&[0, 0, 0, 4, 0, 0, 0, 0, 0]), Some(true));
        assert!((0..9).all(|length| server_preface(&settings[..length]).is_none()));
        for other in [
            &b"220 mail.example.com ESMTP\r\n"[..],
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"+OK POP3\r\n",
            &[0x4a, 0, 0, 0, 10, b'8', b'.', b'0'], // MySQL
            &[0, 0, 13, 4, 0, 0, 0, 0, 0],          // no whole settings
            &[0, 0, 12, 4, 1, 0, 0, 0, 0],          // an acknowledgement, of what?
        ] {
            assert_eq!(server_preface(other), Some(false), "{other:?}");
        }
    }

    #[test]
    fn tls_is_known_by_its_client_hello() {
        check(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], Detected::Tls);
        check(&[22, 3, 76, 2, 0, 1], Detected::Tls);
        check(&[22, 3, 1, 2, 0], Detected::NeedMore);
        check(&[22, 3, 1, 2, 0, 2], Detected::Opaque);
        check(&[22, 3, 1, 0xff, 0xff, 1], Detected::Opaque);
        check(&[23, 3, 1, 2, 0, 1], Detected::Opaque);
    }

    #[test]
    fn other_protocols_of_text_are_not_http() {
        check(b"get key\r\n", Detected::Opaque);
        check(b"EHLO mail.example\r\n", Detected::Opaque);
        check(b"GET /\r\n", Detected::Opaque); // HTTP/0.9
        check(b"*1\r\n$4\r\nPING\r\n", Detected::Opaque);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Detected::Opaque);
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Detected::Opaque);
        check(b"\0\0\0\x08\x04\xd2\x16\x2f", Detected::Opaque); // PostgreSQL asks for TLS
        check(b"GET  / HTTP/1.1\r\n", Detected::Opaque);
        check(b"GET /\0 HTTP/1.1\r\n", Detected::Opaque);
        check(&[b'A'; METHOD_BYTES_MAX + 1], Detected::Opaque);
    }

    #[test]
    fn what_a_lenient_server_might_take_for_a_request_is_known() {
        for odd in
            ["GET  / HTTP/1.1\r\n", "\r\n\r\nGET /", " post\t/ HTTP/1.1", "GET /\0 HTTP/1.1", "GET key\r\n"]
        {
            assert!(may_be_request(odd.as_bytes()), "{odd:?}");
        }
        for other in
            ["", "GET", "*1\r\n$4\r\nPING\r\n", "EHLO mail.example\r\n", "\0\0\0\x08GET /", "GETS key\r\n"]
        {
            assert!(!may_be_request(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_request_line_past_the_limit_is_left_to_the_engine() {
        let mut line = b"GET /".to_vec();
        line.resize(DETECT_BYTES_MAX, b'a');
        check(&line, Detected::Http1);
        check(&line[..DETECT_BYTES_MAX - 8], Detected::NeedMore);
    }

    /// Bytes that come near to a protocol, so that decisions happen at many places.
    fn near_protocols() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            Just(HTTP2_PREFACE.to_vec()),
            Just(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n".to_vec()),
            Just(b"\r\nPOST /a HTTP/1.0\r\n".to_vec()),
            Just(vec![22, 3, 1, 2, 0, 1, 0, 1]),
            Just(Vec::new()),
        ];
        (start, proptest::collection::vec(any::<u8>(), 0..40), any::<proptest::sample::Index>(), any::<u8>())
            .prop_map(|(mut bytes, tail, at, byte)| {
                bytes.extend(tail);
                if !bytes.is_empty() && byte < 128 {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            })
    }

    proptest! {
        #[test]
        fn a_decision_stays_whatever_comes_after(bytes in near_protocols()) {
            let mut decided = Detected::NeedMore;
            for end in 0..=bytes.len() {
                let now = detect(&bytes[..end]);
                if decided != Detected::NeedMore {
                    prop_assert_eq!(now, decided);
                }
                decided = now;
            }
        }

        #[test]
        fn the_limit_always_decides(byte in any::<u8>(), start in "[A-Z]{0,5} ?[ -~]{0,20}") {
            let mut bytes = start.into_bytes();
            bytes.resize(DETECT_BYTES_MAX, byte);
            let decided = detect(&bytes);
            prop_assert_ne!(decided, Detected::NeedMore);
            bytes.push(b'\n');
            prop_assert_eq!(detect(&bytes), decided);
        }
    }
}
