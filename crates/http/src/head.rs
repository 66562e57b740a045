//! The head of a request or response: one byte buffer, a table of slices into it, and edits.
//!
//! Parsed once; never a map, never a `String` per header. An edit drops a field by mark or appends
//! bytes at the buffer's end, so nothing moves. A head is cleared and filled again by the connection
//! that owns it: after the first request it allocates nothing. It is written in one pass, as HTTP/1
//! text (`h1/write.rs`) or as HPACK (`h2/write.rs`).
//!
//! Decisions (`core`: route, filter, authorize) borrow it.

use std::ops::Range;

use crate::{Known, StatusCode};

/// A piece of the head's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// A head is at most a few times 64 KiB long: its limits are far below 4 GiB.
    fn of(range: Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    /// The fields after a body (RFC 9110, 6.5): nothing but fields.
    Trailers,
}

/// The version in which the head arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
    known: Option<Known>,
    secrecy: Secrecy,
    dropped: bool,
}

/// Whether a field that is passed on may be kept in a table of HPACK (RFC 7541, 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrecy {
    Plain,
    /// It arrived so, and must go on so.
    NeverIndexed,
}

/// A request's or a response's head. See the file's header for how it is stored.
///
/// Invariant: every span lies in `bytes`; names are tokens (RFC 9110, 5.6.2) and values hold no CR, LF
/// or NUL, because whoever fills the head (`h1/parse.rs`, `h2/fields.rs`) refuses them.
#[derive(Clone, Debug)]
pub struct Head {
    bytes: Vec<u8>,
    kind: Kind,
    version: Version,
    /// Request only.
    method: Span,
    scheme: Span,
    authority: Option<Span>,
    path: Span,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    protocol: Span,
    /// Response only.
    status: StatusCode,
    reason: Span,
    fields: Vec<Field>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            kind: Kind::Request,
            version: Version::Http11,
            method: Span::default(),
            scheme: Span::default(),
            authority: None,
            path: Span::default(),
            protocol: Span::default(),
            status: StatusCode::OK,
            reason: Span::default(),
            fields: Vec::new(),
        }
    }
}

/// Filling: by parsers, and by the mesh when it answers itself.
impl Head {
    /// Empties the head and makes it a request; the buffers stay.
    pub fn start_request(&mut self, version: Version, method: &str, path: &str) {
        self.clear(Kind::Request, version);
        self.method = self.push(method.as_bytes());
        self.path = self.push(path.as_bytes());
    }

    /// Empties the head and makes it a response; the buffers stay.
    pub fn start_response(&mut self, version: Version, status: StatusCode, reason: &[u8]) {
        self.clear(Kind::Response, version);
        self.status = status;
        self.reason = self.push(reason);
    }

    /// Empties the head and makes it a trailer section; the buffers stay.
    pub fn start_trailers(&mut self) {
        self.clear(Kind::Trailers, Version::Http11);
    }

    fn clear(&mut self, kind: Kind, version: Version) {
        self.bytes.clear();
        self.fields.clear();
        self.kind = kind;
        self.version = version;
        self.method = Span::default();
        self.scheme = Span::default();
        self.authority = None;
        self.path = Span::default();
        self.protocol = Span::default();
        self.reason = Span::default();
    }

    fn push(&mut self, piece: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(piece);
        Span { start, end: self.bytes.len() as u32 }
    }

    /// Adds a field behind those that are there.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        debug_assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "a value would split the head");
        let field = Field {
            name: self.push(name.as_bytes()),
            value: self.push(value),
            known: Known::find(name.as_bytes()),
            secrecy: Secrecy::Plain,
            dropped: false,
        };
        self.fields.push(field);
    }

    /// Drops every field of that name and adds one with `value`.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Drops every field of that name, in any case.
    pub fn remove(&mut self, name: &str) {
        self.remove_where(|field, _| field.eq_ignore_ascii_case(name.as_bytes()));
    }

    pub fn remove_known(&mut self, known: Known) {
        for field in &mut self.fields {
            field.dropped |= field.known == Some(known);
        }
    }

    /// Drops every field whose (name, value) the predicate accepts.
    pub fn remove_where(&mut self, mut predicate: impl FnMut(&[u8], &[u8]) -> bool) {
        let Self { bytes, fields, .. } = self;
        for field in fields.iter_mut().filter(|field| !field.dropped) {
            field.dropped = predicate(slice(bytes, field.name), slice(bytes, field.value));
        }
    }

    /// Replaces path and query, which a client of HTTP/1 writes as `/path?query` (or `*`).
    pub fn set_path(&mut self, path: &str) {
        self.path = self.push(path.as_bytes());
    }

    /// Replaces the authority; see [`Head::authority`].
    pub fn set_authority(&mut self, authority: &str) {
        self.authority = Some(self.push(authority.as_bytes()));
    }

    pub(crate) fn clear_protocol(&mut self) {
        self.protocol = Span::default();
    }

    /// Replaces a response's status and version; the reason phrase was the old one's.
    pub(crate) fn set_status(&mut self, version: Version, status: StatusCode) {
        (self.version, self.status, self.reason) = (version, status, Span::default());
    }

    pub fn set_scheme(&mut self, scheme: &str) {
        self.scheme = self.push(scheme.as_bytes());
    }

    /// Replaces the method: an upgrade of HTTP/1 is a GET, the same in HTTP/2 an extended CONNECT.
    pub fn set_method(&mut self, method: &str) {
        self.method = self.push(method.as_bytes());
    }

    /// Makes a CONNECT an extended one; see [`Head::protocol`].
    pub fn set_protocol(&mut self, protocol: &str) {
        self.protocol = self.push(protocol.as_bytes());
    }
}

/// Filling from text that was received in one piece: it is copied once, and all else are places in it.
impl Head {
    /// Empties the head and takes a copy of the text.
    pub(crate) fn start_text(&mut self, kind: Kind, version: Version, text: &[u8]) {
        self.clear(kind, version);
        self.bytes.extend_from_slice(text);
    }

    pub(crate) fn place_request(&mut self, method: Range<usize>, path: Range<usize>) {
        self.method = Span::of(method);
        self.path = Span::of(path);
    }

    /// Sets the path `/` followed by a query that lacks one.
    pub(crate) fn set_rooted_path(&mut self, query: &[u8]) {
        let Span { start, .. } = self.push(b"/");
        let Span { end, .. } = self.push(query);
        self.path = Span { start, end };
    }

    pub(crate) fn place_origin(&mut self, scheme: Option<Range<usize>>, authority: Range<usize>) {
        self.scheme = scheme.map(Span::of).unwrap_or_default();
        self.authority = Some(Span::of(authority));
    }

    pub(crate) fn place_status(&mut self, status: StatusCode, reason: Range<usize>) {
        self.status = status;
        self.reason = Span::of(reason);
    }

    pub(crate) fn place_field(&mut self, name: Range<usize>, value: Range<usize>) -> Option<Known> {
        let known = Known::find(&self.bytes[name.clone()]);
        let (name, value) = (Span::of(name), Span::of(value));
        self.fields.push(Field { name, value, known, secrecy: Secrecy::Plain, dropped: false });
        known
    }
}

/// A pseudo-header field of HTTP/2 (RFC 9113, 8.3) that has its place in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
}

/// Filling from fields that were decoded one by one (HPACK): names in lower case, checked by the caller.
impl Head {
    /// Empties the head; what is not said afterwards stays empty.
    pub(crate) fn start_fields(&mut self, kind: Kind) {
        self.clear(kind, Version::Http2);
        self.status = StatusCode::OK;
    }

    pub(crate) fn push_pseudo(&mut self, pseudo: Pseudo, value: &[u8]) {
        let span = self.push(value);
        match pseudo {
            Pseudo::Method => self.method = span,
            Pseudo::Scheme => self.scheme = span,
            Pseudo::Authority => self.authority = Some(span),
            Pseudo::Path => self.path = span,
            Pseudo::Protocol => self.protocol = span,
        }
    }

    /// What was pushed, without the look at its characters that text costs; of an authority only an own one.
    pub(crate) fn pseudo(&self, pseudo: Pseudo) -> &[u8] {
        let span = match pseudo {
            Pseudo::Method => self.method,
            Pseudo::Scheme => self.scheme,
            Pseudo::Authority => self.authority.unwrap_or_default(),
            Pseudo::Path => self.path,
            Pseudo::Protocol => self.protocol,
        };
        slice(&self.bytes, span)
    }

    pub(crate) fn push_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub(crate) fn push_field(&mut self, known: Option<Known>, name: &[u8], value: &[u8], secrecy: Secrecy) {
        let field = Field { name: self.push(name), value: self.push(value), known, secrecy, dropped: false };
        self.fields.push(field);
    }

    /// Joins all `cookie` fields into the first: HTTP/2 lets a client send them apart (RFC 9113, 8.2.3), for everybody else it is one.
    pub(crate) fn join_cookies(&mut self) {
        let start = self.bytes.len() as u32;
        let mut first = None;
        for index in 0..self.fields.len() {
            let Field { known, value, dropped, .. } = self.fields[index];
            if known != Some(Known::Cookie) || dropped {
                continue;
            }
            match first {
                None => first = Some(index),
                Some(first) => {
                    if self.fields[index].secrecy == Secrecy::NeverIndexed {
                        self.fields[first].secrecy = Secrecy::NeverIndexed;
                    }
                    self.fields[index].dropped = true;
                }
            }
            // An empty one adds nothing, and would leave a blank at an end, where no value may have one (8.2.1).
            if value.start < value.end {
                if self.bytes.len() > start as usize {
                    self.bytes.extend_from_slice(b"; ");
                }
                self.bytes.extend_from_within(value.start as usize..value.end as usize);
            }
        }
        if let Some(first) = first {
            self.fields[first].value = Span { start, end: self.bytes.len() as u32 };
        }
    }
}

/// What intermediaries need (`forward.rs`, `h1/write.rs`).
impl Head {
    /// Drops every field that a `Connection` field names, except those that `keeps` says: they hold for
    /// all readers of the message, whatever the sender says.
    pub(crate) fn remove_connection_options(&mut self, keeps: impl Fn(Known) -> bool) {
        for index in 0..self.fields.len() {
            let connection = self.fields[index];
            if connection.known != Some(Known::Connection) || connection.dropped {
                continue;
            }
            let Self { bytes, fields, .. } = self;
            for option in crate::h1::list(slice(bytes, connection.value)) {
                for field in fields.iter_mut().filter(|field| !field.known.is_some_and(&keeps)) {
                    field.dropped |= slice(bytes, field.name).eq_ignore_ascii_case(option);
                }
            }
        }
    }

    /// Turns an absolute-form target into origin-form: the authority becomes the only `Host`.
    pub(crate) fn lower_authority(&mut self) {
        self.scheme = Span::default();
        let Some(authority) = self.authority.take() else { return };
        let host = self.fields.iter_mut().find(|field| field.known == Some(Known::Host));
        match host {
            Some(host) => (host.value, host.dropped) = (authority, false),
            None => {
                let name = self.push(b"Host");
                let known = Some(Known::Host);
                let secrecy = Secrecy::Plain;
                self.fields.push(Field { name, value: authority, known, secrecy, dropped: false });
            }
        }
    }

    /// The authority is given apart from `Host`, by a target or by `:authority`.
    pub(crate) fn has_own_authority(&self) -> bool {
        self.authority.is_some()
    }

    /// All (known, name, value) in order.
    pub(crate) fn known_fields(&self) -> impl Iterator<Item = (Option<Known>, &[u8], &[u8])> {
        let live = self.fields.iter().filter(|field| !field.dropped);
        live.map(|field| (field.known, slice(&self.bytes, field.name), slice(&self.bytes, field.value)))
    }

    /// As [`Head::known_fields`], with each field's secrecy.
    pub(crate) fn secret_fields(&self) -> impl Iterator<Item = (Option<Known>, &[u8], &[u8], Secrecy)> {
        let live = self.fields.iter().filter(|field| !field.dropped);
        live.map(|field| {
            (field.known, slice(&self.bytes, field.name), slice(&self.bytes, field.value), field.secrecy)
        })
    }

    /// The bytes and the number of fields that writing it takes, about.
    pub(crate) fn size_hint(&self) -> usize {
        self.bytes.len() + 4 * self.fields.len()
    }
}

/// Reading.
impl Head {
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// `GET`, `POST`, …; empty on a response. Case matters (RFC 9110, 9.1).
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// Path and query: `/items?limit=3`, `*` (OPTIONS), empty (CONNECT).
    pub fn path_and_query(&self) -> &str {
        self.text(self.path)
    }

    /// The path alone, without the query.
    pub fn path(&self) -> &str {
        let path = self.path_and_query();
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// `http` or `https` where the request line or `:scheme` said so, else empty.
    pub fn scheme(&self) -> &str {
        self.text(self.scheme)
    }

    /// What an extended CONNECT (RFC 8441) asks to be spoken on its stream: `websocket`; empty on every other request.
    pub fn protocol(&self) -> &str {
        self.text(self.protocol)
    }

    /// Who is asked: the authority of an absolute-form or CONNECT target or of `:authority`, which
    /// beats `Host` (RFC 9112, 3.2.2); else `Host`. As sent: perhaps with a port, in any case.
    pub fn authority(&self) -> Option<&str> {
        match self.authority {
            Some(span) => Some(self.text(span)),
            None => self.get(Known::Host).and_then(|host| std::str::from_utf8(host).ok()),
        }
    }

    /// Of a response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason phrase as received; HTTP/2 has none.
    pub fn reason(&self) -> &[u8] {
        slice(&self.bytes, self.reason)
    }

    /// The first value under this name.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.values(known).next()
    }

    /// All values under this name, in order.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let live = self.fields.iter().filter(move |field| field.known == Some(known) && !field.dropped);
        live.map(|field| slice(&self.bytes, field.value))
    }

    /// The first value under a name that has no ID, or may have one; the name in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// All (name, value) pairs in order; names as received, in any case.
    pub fn fields(&self) -> Fields<'_> {
        Fields { head: self, next: 0 }
    }

    /// Bytes that the head's buffers hold, for limits and memory accounting.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Field>()
    }

    fn text(&self, span: Span) -> &str {
        // Methods, targets and schemes are ASCII: whoever fills the head refuses anything else.
        std::str::from_utf8(slice(&self.bytes, span)).unwrap_or_default()
    }
}

fn slice(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.start as usize..span.end as usize]
}

/// The fields of a head in order, without the dropped ones.
pub struct Fields<'a> {
    head: &'a Head,
    next: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let field = self.head.fields.get(self.next)?;
            self.next += 1;
            if !field.dropped {
                let bytes = &self.head.bytes;
                return Some((slice(bytes, field.name), slice(bytes, field.value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Head {
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/items?limit=3");
        head.append("Host", b"cart");
        head.append("X-A", b"1");
        head.append("x-a", b"2");
        head
    }

    #[test]
    fn a_head_is_read_by_id_and_by_name() {
        let head = request();
        assert_eq!(head.path(), "/items");
        assert_eq!(head.authority(), Some("cart"));
        assert_eq!(head.header("X-a"), Some(&b"1"[..]));
        assert_eq!(head.get(Known::Host), Some(&b"cart"[..]));
    }

    #[test]
    fn edits_drop_and_append() {
        let mut head = request();
        head.set("x-a", b"3");
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(fields, [(&b"Host"[..], &b"cart"[..]), (b"x-a", b"3")]);
    }

    #[test]
    fn a_targets_authority_beats_host() {
        let mut head = request();
        head.set_authority("other:81");
        assert_eq!(head.authority(), Some("other:81"));
    }
}
