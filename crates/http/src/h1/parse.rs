//! The text of a complete head into a [`Head`]: start line, then fields, strictly by RFC 9112.
//!
//! The text is copied once, all else are places in it. Where the head ends was found before
//! (`head_end.rs`), which also saw that every line feed follows a carriage return; carriage returns
//! elsewhere are refused here, as they may stand neither in a start line nor in a value.

use super::framing::Facts;
use super::target::Target;
use super::{Limits, ReceiveError, scan};
use crate::{Head, Kind, Known, StatusCode, Version};

/// Fills `head` with the request in `text`, which ends with its empty line.
pub(super) fn request(text: &[u8], limits: &Limits, head: &mut Head) -> Result<Facts, ReceiveError> {
    let line = first_line(text);
    let method = ..scan::token_length(line);
    if line.get(method.end) != Some(&b' ') || method.end == 0 {
        let is_split = line.contains(&b' ') && !line.starts_with(b" ");
        return Err(if is_split { ReceiveError::InvalidMethod } else { ReceiveError::InvalidRequestLine });
    }
    let start = method.end + 1;
    let length = line[start..].iter().position(|&b| b == b' ').ok_or(ReceiveError::InvalidRequestLine)?;
    let target = start..start + length;
    let version = version(&line[target.end + 1..]).map_err(|error| error.in_request())?;
    if target.len() > limits.target_bytes_max {
        return Err(ReceiveError::TargetTooLong);
    }
    head.start_text(Kind::Request, version, text);
    match Target::parse(&line[method], &line[target.clone()])? {
        Target::Origin | Target::Asterisk => head.place_request(0..method.end, target),
        Target::Authority => {
            head.place_request(0..method.end, target.end..target.end);
            head.place_origin(None, target);
        }
        Target::Absolute { scheme, authority, path } => {
            let shift = |range: std::ops::Range<usize>| range.start + start..range.end + start;
            head.place_request(0..method.end, shift(path.clone()));
            head.place_origin(Some(shift(scheme)), shift(authority));
            complete_path(&line[method], &line[shift(path)], head);
        }
    }
    fields(text, line.len() + 2, limits, head)
}

/// Fills `head` with the response in `text`, which ends with its empty line.
pub(super) fn response(text: &[u8], limits: &Limits, head: &mut Head) -> Result<Facts, ReceiveError> {
    let line = first_line(text);
    let (start, rest) = line.split_at(line.iter().position(|&b| b == b' ').unwrap_or(line.len()));
    let version = version(start).map_err(|error| error.in_response())?;
    let (code, reason) = match rest {
        // The blank before an absent reason may be missing: many servers forget it, and nothing can be split there.
        [b' ', a, b, c] | [b' ', a, b, c, b' ', ..] => ([*a, *b, *c], rest.get(5..).unwrap_or_default()),
        _ => return Err(ReceiveError::InvalidStatusLine),
    };
    let status =
        code.iter().try_fold(0u16, |code, b| b.is_ascii_digit().then(|| code * 10 + u16::from(b - b'0')));
    let status = status.and_then(StatusCode::new).ok_or(ReceiveError::InvalidStatusLine)?;
    if scan::value_length(reason) != reason.len() {
        return Err(ReceiveError::InvalidStatusLine);
    }
    head.start_text(Kind::Response, version, text);
    head.place_status(status, line.len() - reason.len()..line.len());
    fields(text, line.len() + 2, limits, head)
}

/// Fills `head` with the trailer section in `text`, without the fields that may not stand there.
pub(super) fn trailers(text: &[u8], limits: &Limits, head: &mut Head) -> Result<(), ReceiveError> {
    head.start_text(Kind::Trailers, Version::Http11, text);
    each_field(text, 0, limits, head, |_, _| Ok(()))?;
    head.remove_where(|name, _| Known::find(name).is_some_and(is_forbidden_in_trailers));
    Ok(())
}

/// RFC 9110, 6.5.1: what frames, routes, authenticates or says how to take the message comes before it.
/// A trailer that a careless reader merged into the head would change a decision already taken.
pub(crate) fn is_forbidden_in_trailers(known: Known) -> bool {
    match known {
        Known::Authorization
        | Known::Connection
        | Known::ContentEncoding
        | Known::ContentLength
        | Known::ContentRange
        | Known::ContentType
        | Known::Cookie
        | Known::Expect
        | Known::Host
        | Known::Http2Settings
        | Known::KeepAlive
        | Known::MaxForwards
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::SetCookie
        | Known::Te
        | Known::Trailer
        | Known::TransferEncoding
        | Known::Upgrade
        | Known::XForwardedClientCert => true,
        Known::Accept
        | Known::Date
        | Known::Traceparent
        | Known::XMeshworkCause
        | Known::XMeshworkRetried
        | Known::XRequestId => false,
    }
}

fn first_line(text: &[u8]) -> &[u8] {
    let feed = memchr::memchr(b'\n', text).unwrap_or(text.len());
    &text[..feed.saturating_sub(1)]
}

enum VersionError {
    Malformed,
    Unsupported,
}

impl VersionError {
    fn in_request(self) -> ReceiveError {
        match self {
            Self::Malformed => ReceiveError::InvalidRequestLine,
            Self::Unsupported => ReceiveError::UnsupportedVersion,
        }
    }

    fn in_response(self) -> ReceiveError {
        match self {
            Self::Malformed => ReceiveError::InvalidStatusLine,
            Self::Unsupported => ReceiveError::UnsupportedVersion,
        }
    }
}

fn version(text: &[u8]) -> Result<Version, VersionError> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(VersionError::Unsupported),
        _ => Err(VersionError::Malformed),
    }
}

/// Gives an absolute-form target without a path the one it means (RFC 9112, 3.2.1 and 3.2.4).
fn complete_path(method: &[u8], path: &[u8], head: &mut Head) {
    match path {
        [b'/', ..] => {}
        [] if method == b"OPTIONS" => head.set_path("*"),
        _ => head.set_rooted_path(path),
    }
}

fn fields(text: &[u8], at: usize, limits: &Limits, head: &mut Head) -> Result<Facts, ReceiveError> {
    let mut facts = Facts::default();
    each_field(text, at, limits, head, |known, value| facts.add(known, value, limits))?;
    Ok(facts)
}

/// Places every field from `at` on, and shows those that have an ID to `known`.
fn each_field(
    text: &[u8],
    mut at: usize,
    limits: &Limits,
    head: &mut Head,
    mut known: impl FnMut(Known, &[u8]) -> Result<(), ReceiveError>,
) -> Result<(), ReceiveError> {
    for _ in 0..=limits.fields_max {
        let line = &text[at..];
        if line.starts_with(b"\r\n") {
            debug_assert_eq!(line.len(), 2, "the head ends at its first empty line");
            return Ok(());
        }
        let name = scan::token_length(line);
        if name == 0 || line.get(name) != Some(&b':') {
            let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
            return Err(if is_folded { ReceiveError::FoldedField } else { ReceiveError::InvalidFieldName });
        }
        let blanks = line[name + 1..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let start = name + 1 + blanks;
        let end = start + scan::value_length(&line[start..]);
        if !line[end..].starts_with(b"\r\n") {
            return Err(ReceiveError::InvalidFieldValue);
        }
        let value =
            start..end - line[start..end].iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
        if let Some(id) = head.place_field(at..at + name, at + value.start..at + value.end) {
            known(id, &line[value])?;
        }
        at += end + 2;
    }
    Err(ReceiveError::TooManyFields)
}
