//! Decoded fields into a [`Head`], strictly by RFC 9113, 8.2 and 8.3.
//!
//! The fields of a block come one by one and must all be taken, because the decoder's table follows them. The first fault is
//! noted and the rest is skipped. Nothing that HTTP/1 could split or read differently gets into a head.

use super::hpack::{Field, Sensitivity};
use super::{Limits, Reason};
use crate::h1::{decimal, is_authority, is_forbidden_in_trailers, scan};
use crate::head::{Pseudo, Secrecy};
use crate::{Head, Kind, Known, StatusCode};

/// What a block is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadAs {
    Message(Kind),
    /// Nothing: only the decoder's table matters.
    Nothing,
}

/// What a whole block said, beside what stands in the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) content_length: Option<u64>,
}

/// Reads the fields of one block.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    head: &'a mut Head,
    kind: Kind,
    limits: &'a Limits,
    /// Counted on behind a fault: see `list_bytes`.
    list_bytes: usize,
    count: usize,
    cookies: usize,
    hosts: usize,
    /// Which pseudo-header fields were there, a bit each.
    seen: u8,
    facts: Facts,
    fault: Option<Reason>,
    skips: bool,
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const AUTHORITY: u8 = 4;
const PATH: u8 = 8;
const PROTOCOL: u8 = 16;
const STATUS: u8 = 32;

impl<'a> Fields<'a> {
    pub(super) fn new(read_as: ReadAs, head: &'a mut Head, limits: &'a Limits) -> Self {
        let (kind, skips) = match read_as {
            ReadAs::Message(kind) => {
                head.start_fields(kind);
                (kind, false)
            }
            ReadAs::Nothing => (Kind::Trailers, true),
        };
        Self {
            head,
            kind,
            limits,
            list_bytes: 0,
            count: 0,
            cookies: 0,
            hosts: 0,
            seen: 0,
            facts: Facts::default(),
            fault: None,
            skips,
        }
    }

    /// What the block's fields add up to (6.5.2), of malformed and unread ones, too.
    pub(super) fn list_bytes(&self) -> usize {
        self.list_bytes
    }

    pub(super) fn take(&mut self, field: Field<'_>) {
        self.list_bytes += field.list_size();
        if self.fault.is_some() || self.skips {
            return;
        }
        if let Err(reason) = self.read(field) {
            self.fault = Some(reason);
        }
    }

    fn read(&mut self, field: Field<'_>) -> Result<(), Reason> {
        let bytes_max = match self.kind {
            Kind::Request | Kind::Response => self.limits.header_list_bytes_max,
            Kind::Trailers => self.limits.trailer_bytes_max,
        };
        if self.list_bytes > bytes_max {
            return Err(Reason::HeaderListTooLarge);
        }
        match field.name {
            [b':', ..] => self.pseudo(field.name, field.value),
            _ => self.plain(field),
        }
    }

    /// 8.3: each at most once, before all fields, and only those that the kind of message has.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        if self.count > 0 || self.kind == Kind::Trailers {
            return Err(Reason::LatePseudoField);
        }
        let (bit, pseudo) = match (self.kind, name) {
            (Kind::Request, b":method") => (METHOD, Pseudo::Method),
            (Kind::Request, b":scheme") => (SCHEME, Pseudo::Scheme),
            (Kind::Request, b":authority") => (AUTHORITY, Pseudo::Authority),
            (Kind::Request, b":path") => (PATH, Pseudo::Path),
            (Kind::Request, b":protocol") => (PROTOCOL, Pseudo::Protocol),
            (Kind::Response, b":status") => {
                self.see(STATUS)?;
                self.head.push_status(status(value)?);
                return Ok(());
            }
            _ => return Err(Reason::UnknownPseudoField),
        };
        self.see(bit)?;
        let fault = match pseudo {
            Pseudo::Method => (!scan::is_token(value)).then_some(Reason::InvalidMethod),
            Pseudo::Scheme => (!is_scheme(value)).then_some(Reason::InvalidScheme),
            Pseudo::Authority => (!is_authority(value)).then_some(Reason::InvalidAuthority),
            Pseudo::Path => (!scan::is_target(value)).then_some(Reason::InvalidPath),
            Pseudo::Protocol => (!scan::is_token(value)).then_some(Reason::InvalidFieldValue),
        };
        match fault {
            Some(reason) => Err(reason),
            None => {
                self.head.push_pseudo(pseudo, value);
                Ok(())
            }
        }
    }

    fn see(&mut self, bit: u8) -> Result<(), Reason> {
        if self.seen & bit != 0 {
            return Err(Reason::RepeatedPseudoField);
        }
        self.seen |= bit;
        Ok(())
    }

    fn plain(&mut self, Field { name, value, sensitivity }: Field<'_>) -> Result<(), Reason> {
        self.count += 1;
        if self.count > self.limits.fields_max {
            return Err(Reason::TooManyFields);
        }
        if !scan::is_lower_token(name) {
            return Err(Reason::InvalidFieldName);
        }
        if !is_value(value) {
            return Err(Reason::InvalidFieldValue);
        }
        let known = Known::find(name);
        if let Some(known) = known {
            self.known(known, value)?;
            if self.kind == Kind::Trailers && is_forbidden_in_trailers(known) {
                return Ok(()); // as in HTTP/1: left out
            }
        }
        let secrecy = match sensitivity {
            Sensitivity::Plain => Secrecy::Plain,
            Sensitivity::NeverIndexed => Secrecy::NeverIndexed,
        };
        self.head.push_field(known, name, value, secrecy);
        Ok(())
    }

    fn known(&mut self, known: Known, value: &[u8]) -> Result<(), Reason> {
        match known {
            // 8.2.2
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => Err(Reason::ConnectionField),
            Known::Te if !value.eq_ignore_ascii_case(b"trailers") => Err(Reason::InvalidTe),
            Known::ContentLength if self.kind != Kind::Trailers => self.content_length(value),
            Known::Host if self.kind == Kind::Request => self.host(value),
            Known::Cookie => {
                self.cookies += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Reason> {
        if self.facts.content_length.is_some() {
            return Err(Reason::RepeatedContentLength);
        }
        self.facts.content_length = Some(decimal(value).ok_or(Reason::InvalidContentLength)?);
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reason> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(Reason::RepeatedHost);
        }
        // Empty is what a request of HTTP/1.0 becomes that names nobody.
        if value.is_empty() || is_authority(value) { Ok(()) } else { Err(Reason::InvalidAuthority) }
    }

    /// The block is complete: is the message?
    pub(super) fn finish(self) -> Result<Facts, Reason> {
        if let Some(reason) = self.fault {
            return Err(reason);
        }
        match self.kind {
            Kind::Request => self.check_request()?,
            Kind::Response if self.seen & STATUS == 0 => return Err(Reason::MissingPseudoField),
            Kind::Response | Kind::Trailers => {}
        }
        if self.cookies > 1 && self.kind == Kind::Request {
            self.head.join_cookies();
        }
        Ok(self.facts)
    }

    /// 8.3.1; 8.5 for CONNECT; RFC 8441, 4 for CONNECT with a protocol.
    fn check_request(&self) -> Result<(), Reason> {
        let has = |bits: u8| self.seen & bits == bits;
        let method = self.head.pseudo(Pseudo::Method);
        let is_connect = method == b"CONNECT";
        if !has(METHOD) {
            return Err(Reason::MissingPseudoField);
        }
        if has(PROTOCOL) && !is_connect {
            return Err(Reason::ProtocolWithoutConnect);
        }
        if is_connect {
            if !has(AUTHORITY) {
                return Err(Reason::MissingPseudoField);
            }
            if self.facts.content_length.is_some_and(|length| length > 0) {
                return Err(Reason::ConnectWithBody);
            }
            if !has(PROTOCOL) {
                let forbidden = self.seen & (SCHEME | PATH) != 0;
                return if forbidden { Err(Reason::ForbiddenPseudoField) } else { Ok(()) };
            }
        }
        if !has(SCHEME | PATH) {
            return Err(Reason::MissingPseudoField);
        }
        match self.head.pseudo(Pseudo::Path) {
            [b'/', ..] => {}
            b"*" if method == b"OPTIONS" => {}
            _ => return Err(Reason::InvalidPath),
        }
        self.check_authority()
    }

    /// Somebody is named, and only one.
    fn check_authority(&self) -> Result<(), Reason> {
        let host = self.head.get(Known::Host);
        if self.seen & AUTHORITY == 0 {
            return if host.is_some() { Ok(()) } else { Err(Reason::MissingAuthority) };
        }
        let authority = self.head.pseudo(Pseudo::Authority);
        match host {
            Some(host) if !is_same(authority, host, self.head.pseudo(Pseudo::Scheme)) => {
                Err(Reason::HostDiffers)
            }
            _ => Ok(()),
        }
    }
}

/// The same host and port, once the scheme's own port is left out (RFC 3986, 6.2.3).
fn is_same(one: &[u8], other: &[u8], scheme: &[u8]) -> bool {
    let port: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    let bare = |authority: &'_ [u8]| authority.strip_suffix(port).unwrap_or(authority).len();
    one == other || one[..bare(one)].eq_ignore_ascii_case(&other[..bare(other)])
}

/// Three digits. 101 is no status of HTTP/2 (8.6).
fn status(value: &[u8]) -> Result<StatusCode, Reason> {
    let [a, b, c] = value else { return Err(Reason::InvalidStatus) };
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(Reason::InvalidStatus);
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    let status = StatusCode::new(100 * digit(a) + 10 * digit(b) + digit(c));
    status.filter(|status| *status != StatusCode::SWITCHING_PROTOCOLS).ok_or(Reason::InvalidStatus)
}

fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// 8.2.1: no control bytes, no blank around it.
fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    scan::value_length(value) == value.len() && !is_blank(value.first()) && !is_blank(value.last())
}

#[cfg(test)]
mod tests;
