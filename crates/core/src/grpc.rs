//! gRPC as far as an intermediary knows it: which messages are its, what a call's status is, and how the mesh says one.
//!
//! A call's status stands in its trailers, or in the head of an answer that is nothing but a head ("Trailers-Only"). Where
//! an answer has none, whoever made it was no gRPC server, and its HTTP status is translated as gRPC's clients do
//! (`PROTOCOL-HTTP2.md`, `statuscodes.md` and `http-grpc-status-mapping.md` of gRPC).
//!
//! gRPC-Web is another protocol, whose status lies in the body: to the mesh it is plain HTTP.
//!
//! Pure: messages are written into the caller's buffer.

use std::time::Duration;

use meshwork_http::{Head, Known, StatusCode};

/// The field that says how a call ended.
pub const STATUS: &str = "grpc-status";

/// The field that says why, percent-encoded.
pub const MESSAGE: &str = "grpc-message";

/// The field that says how long the caller will wait.
pub const TIMEOUT: &str = "grpc-timeout";

pub const CONTENT_TYPE: &str = "application/grpc";

macro_rules! statuses {
    ($($variant:ident = $number:literal,)*) => {
        /// How a call ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Status { $($variant = $number,)* }

        impl Status {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number, as the field has it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => stringify!($number),)* }
            }
        }
    };
}

statuses! {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Status {
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The server, or the way to it, is to blame: what OpenTelemetry's conventions count as a server's error, as they
    /// count HTTP's 5xx.
    pub const fn is_server_error(self) -> bool {
        match self {
            Self::Unknown
            | Self::DeadlineExceeded
            | Self::Unimplemented
            | Self::Internal
            | Self::Unavailable
            | Self::DataLoss => true,
            Self::Ok
            | Self::Cancelled
            | Self::InvalidArgument
            | Self::NotFound
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::ResourceExhausted
            | Self::FailedPrecondition
            | Self::Aborted
            | Self::OutOfRange
            | Self::Unauthenticated => false,
        }
    }

    /// What a gRPC client makes of an answer without a status of gRPC's own.
    pub const fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown, // 200 too: a call that went well would have said so
        }
    }
}

/// A status as an application told it: bounded, whatever it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Known(Status),
    /// A number that gRPC does not know, or no number.
    Other,
}

impl Told {
    /// The number, or `other`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Known(status) => status.word(),
            Self::Other => "other",
        }
    }

    /// Clients take a status that they do not know for `Unknown`, and so is it judged here.
    pub const fn is_server_error(self) -> bool {
        match self {
            Self::Known(status) => status.is_server_error(),
            Self::Other => true,
        }
    }

    fn parse(value: &[u8]) -> Self {
        let digits = std::str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|digits| digits.parse::<usize>().ok());
        number.and_then(|number| Status::ALL.get(number)).map_or(Self::Other, |status| Self::Known(*status))
    }
}

/// Whether a request is a gRPC call: by its content type alone, as servers tell it.
pub fn is_call(request: &Head) -> bool {
    request.get(Known::ContentType).is_some_and(is_content_type)
}

/// How long a call's caller will wait: `grpc-timeout`, up to eight digits and a unit. What is not written so sets no
/// limit, as with gRPC's servers.
pub fn timeout(request: &Head) -> Option<Duration> {
    let (unit, digits) = request.header(TIMEOUT)?.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// `application/grpc`, alone or with a format (`+proto`) or parameters behind it.
fn is_content_type(value: &[u8]) -> bool {
    let Some((start, rest)) = value.split_at_checked(CONTENT_TYPE.len()) else { return false };
    start.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// The status that a head or trailers tell.
pub fn status(head: &Head) -> Option<Told> {
    head.header(STATUS).map(Told::parse)
}

/// Appends a text as `grpc-message` has it: bytes outside of printable ASCII, and `%`, as `%XX`.
pub fn write_message(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => out.push(byte),
            _ => out.extend([b'%', hex_digit(byte >> 4), hex_digit(byte & 0xf)]),
        }
    }
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(nibble & 0xf)]
}

/// A flag for compression, and the length, big-endian.
const PREFIX_BYTES: u8 = 5;

/// Where one direction of a call stands: between two messages, or within one.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// Bytes of the next message's prefix that came.
    have: u8,
    /// What they say of its length.
    length: u32,
    /// Bytes of the message that are still to come.
    left: u32,
}

impl Messages {
    /// More bytes passed.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= skipped as u32; // at most as many
                bytes = &bytes[skipped..];
                continue;
            }
            // The flag, which comes first, is shifted out again.
            self.length = self.length << 8 | u32::from(*first);
            self.have += 1;
            bytes = rest;
            if self.have == PREFIX_BYTES {
                self.left = std::mem::take(&mut self.length);
                self.have = 0;
            }
        }
    }

    /// The next byte begins a message.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_http::Version;
    use proptest::prelude::*;

    #[test]
    fn a_status_is_its_number() {
        for (number, status) in Status::ALL.iter().enumerate() {
            assert_eq!(usize::from(status.number()), number);
            assert_eq!(status.word(), number.to_string());
            assert_eq!(Told::parse(status.word().as_bytes()), Told::Known(*status));
        }
        assert_eq!(Status::ALL.len(), 17);
    }

    #[test]
    fn a_call_is_told_by_its_content_type() {
        let check = |content_type: Option<&str>, expect: bool| {
            let mut head = Head::default();
            head.start_request(Version::Http2, "POST", "/shop.Payments/Charge");
            if let Some(content_type) = content_type {
                head.append("content-type", content_type.as_bytes());
            }
            assert_eq!(is_call(&head), expect, "{content_type:?}");
        };
        check(Some("application/grpc"), true);
        check(Some("Application/GRPC+proto"), true);
        check(Some("application/grpc; charset=utf-8"), true);
        check(Some("application/grpc-web"), false);
        check(Some("application/grpc-web+proto"), false);
        check(Some("application/json"), false);
        check(Some(""), false);
        check(None, false);
    }

    #[test]
    fn a_status_is_read_from_trailers_or_a_head() {
        let check = |value: &str, expect: Told| {
            let mut trailers = Head::default();
            trailers.start_trailers();
            assert_eq!(status(&trailers), None);
            trailers.append("grpc-status", value.as_bytes());
            assert_eq!(status(&trailers), Some(expect), "{value:?}");
        };
        check("0", Told::Known(Status::Ok));
        check("16", Told::Known(Status::Unauthenticated));
        for odd in ["17", "-1", "+1", "", "ok", "18446744073709551616"] {
            check(odd, Told::Other);
        }
    }

    /// The table of `http-grpc-status-mapping.md`.
    #[test]
    fn an_answer_without_a_status_is_judged_by_its_http_status() {
        let table = [
            (400, Status::Internal),
            (401, Status::Unauthenticated),
            (403, Status::PermissionDenied),
            (404, Status::Unimplemented),
            (429, Status::Unavailable),
            (502, Status::Unavailable),
            (503, Status::Unavailable),
            (504, Status::Unavailable),
            (200, Status::Unknown),
            (301, Status::Unknown),
            (500, Status::Unknown),
        ];
        for (http, grpc) in table {
            assert_eq!(Status::of_http(StatusCode::new(http).unwrap()), grpc, "{http}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let check = |text: &str, expect: &str| {
            let mut out = Vec::new();
            write_message(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        };
        check("no endpoint ~ (2 known)", "no endpoint ~ (2 known)");
        check("100 %", "100 %25");
        check("a\r\nb", "a%0D%0Ab");
        check("é", "%C3%A9");
    }

    proptest! {
        /// Whatever is said fits a header field, and comes out as it went in.
        #[test]
        fn a_message_survives_its_encoding(text: String) {
            let mut out = Vec::new();
            write_message(&text, &mut out);
            prop_assert!(out.iter().all(|b| (b' '..=b'~').contains(b)));
            prop_assert_eq!(decode(&out), text.into_bytes());
        }
    }

    fn decode(mut encoded: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((first, rest)) = encoded.split_first() {
            encoded = rest;
            if *first == b'%' {
                let (digits, rest) = encoded.split_at(2);
                out.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                encoded = rest;
            } else {
                out.push(*first);
            }
        }
        out
    }

    #[track_caller]
    fn check_timeout(written: &str, expect: Option<Duration>) {
        let mut head = Head::default();
        head.start_request(Version::Http2, "POST", "/a/b");
        head.append(TIMEOUT, written.as_bytes());
        assert_eq!(timeout(&head), expect, "{written}");
    }

    #[test]
    fn a_callers_patience_is_digits_and_a_unit() {
        check_timeout("1H", Some(Duration::from_secs(3_600)));
        check_timeout("2M", Some(Duration::from_secs(120)));
        check_timeout("30S", Some(Duration::from_secs(30)));
        check_timeout("99999999m", Some(Duration::from_millis(99_999_999)));
        check_timeout("0u", Some(Duration::ZERO));
        check_timeout("5n", Some(Duration::from_nanos(5)));
        for written in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "1 S"] {
            check_timeout(written, None);
        }
    }

    #[test]
    fn messages_end_where_their_prefixes_say() {
        let stream = [&b"\x00\0\0\0\0"[..], b"\x01\0\0\0\x03abc", b"\xff\0\0\x01\0", &[7; 256]].concat();
        let ends = [0, 5, 13, 274];
        for cut in 0..=stream.len() {
            let mut bytewise = Messages::default();
            stream[..cut].iter().for_each(|byte| bytewise.advance(&[*byte]));
            let mut at_once = Messages::default();
            at_once.advance(&stream[..cut]);
            let expect = ends.contains(&cut);
            assert_eq!((bytewise.is_between(), at_once.is_between()), (expect, expect), "after {cut} bytes");
        }
    }
}
