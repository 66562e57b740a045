//! What a client asks: read strictly, as what one reader of a message overlooks the next one may act on.

use super::walk::{HEADER_BYTES, Records, plain_name_end, u16_at, u32_at};
use super::{Code, PLAIN_UDP_BYTES_MAX, TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, bits, number, reply};
use crate::names::Kind;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub(super) flags: u16,
    /// Name, type and class as they came, in the client's own case.
    pub(super) question: Vec<u8>,
    pub(super) edns: Option<Edns>,
}

/// What its OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) udp_bytes: u16,
    /// The flags: DNSSEC OK, and those that nobody has named yet.
    pub(super) flags: u16,
}

/// DO: signatures are wanted, too.
const DNSSEC_OK: u16 = 1 << 15;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Query(Query),
    /// No query that anybody answers; this is what the client is told.
    Answered(Vec<u8>),
    /// An answer, or no message at all: whoever answers it might be answered again, and so on.
    Ignored,
}

/// Reads what a client sent.
pub fn receive(message: &[u8]) -> Received {
    let (Some(id), Some(flags), true) =
        (u16_at(message, 0), u16_at(message, 2), message.len() >= HEADER_BYTES)
    else {
        return Received::Ignored;
    };
    if flags & bits::RESPONSE != 0 {
        return Received::Ignored;
    }
    let bare = |code| Received::Answered(reply::bare(id, flags, code));
    if flags & bits::OPCODE != 0 {
        return bare(Code::NotImp);
    }
    let Some((question, rest)) = question(message) else {
        return bare(Code::FormErr);
    };
    let mut query = Query { id, flags, question: question.to_vec(), edns: None };
    let told = |query: &Query, code| Received::Answered(reply::failure(query, code));
    match edns(message, rest) {
        Ok(None) => {}
        Ok(Some((version, edns))) => {
            query.edns = Some(edns);
            if version > 0 {
                return told(&query, Code::BadVers);
            }
        }
        Err(Unreadable) => return told(&query, Code::FormErr),
    }
    if query.class() != number::INTERNET || (number::TKEY..=number::MAILA).contains(&query.kind_number()) {
        return told(&query, Code::Refused);
    }
    if query.kind_number() == number::OPT {
        return told(&query, Code::FormErr);
    }
    Received::Query(query)
}

/// The only one, and where it ends.
fn question(message: &[u8]) -> Option<(&[u8], usize)> {
    if u16_at(message, 4)? != 1 {
        return None;
    }
    let end = plain_name_end(message, HEADER_BYTES)? + 4;
    Some((message.get(HEADER_BYTES..end)?, end))
}

struct Unreadable;

/// Version and content of the OPT record among what follows the question.
fn edns(message: &[u8], at: usize) -> Result<Option<(u8, Edns)>, Unreadable> {
    let count = |at| u16_at(message, at).ok_or(Unreadable);
    let mut records = Records::from(message, at);
    records.take(count(6)?).ok_or(Unreadable)?;
    records.take(count(8)?).ok_or(Unreadable)?;
    let additional = records.take(count(10)?).ok_or(Unreadable)?;
    let mut found = additional.iter().filter(|record| record.kind == number::OPT);
    let first = found.next();
    if records.end() != message.len() || found.next().is_some() {
        return Err(Unreadable);
    }
    let Some(opt) = first else { return Ok(None) };
    let Some(fields) = u32_at(message, opt.ttl_at).filter(|_| message[opt.start] == 0) else {
        return Err(Unreadable);
    };
    let edns = Edns { udp_bytes: opt.class, flags: fields as u16 };
    Ok(Some(((fields >> 16) as u8, edns)))
}

/// What tells the answers to two queries apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// In lower case.
    question: Vec<u8>,
    /// Recursion desired, authentic data, checking disabled, and DNSSEC OK in the place of another.
    flags: u16,
}

impl Key {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.question.len()
    }
}

impl Query {
    /// In lower case, without a dot at the end. Bytes that no name of ours has are written as numbers.
    pub fn name(&self) -> String {
        let mut text = String::with_capacity(self.question.len());
        let mut rest = self.name_bytes();
        while let [length, after @ ..] = rest
            && *length > 0
        {
            if !text.is_empty() {
                text.push('.');
            }
            let (label, after) = after.split_at(usize::from(*length));
            for byte in label {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                        text.push(char::from(byte.to_ascii_lowercase()));
                    }
                    _ => text.push_str(&format!("\\{byte:03}")),
                }
            }
            rest = after;
        }
        text
    }

    pub fn kind(&self) -> Kind {
        match self.kind_number() {
            number::A => Kind::A,
            number::AAAA => Kind::Aaaa,
            number::SRV => Kind::Srv,
            number::PTR => Kind::Ptr,
            number::SOA => Kind::Soa,
            number::ANY => Kind::Any,
            _ => Kind::Other,
        }
    }

    pub fn key(&self) -> Key {
        let dnssec_ok = self.edns.is_some_and(|edns| edns.flags & DNSSEC_OK != 0);
        let flags = self.forwarded_flags() | if dnssec_ok { DNSSEC_OK } else { 0 };
        Key { question: self.question.to_ascii_lowercase(), flags }
    }

    /// Bytes that its answer may have.
    pub fn room(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => TCP_BYTES_MAX,
            (Transport::Udp, None) => PLAIN_UDP_BYTES_MAX,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.udp_bytes).clamp(PLAIN_UDP_BYTES_MAX, UDP_BYTES_MAX)
            }
        }
    }

    /// Those that mean the same to the next resolver.
    pub(super) fn forwarded_flags(&self) -> u16 {
        self.flags & (bits::RECURSION_DESIRED | bits::AUTHENTIC_DATA | bits::CHECKING_DISABLED)
    }

    pub(super) fn edns_flags(&self) -> u16 {
        self.edns.map_or(0, |edns| edns.flags & DNSSEC_OK)
    }

    pub(super) fn kind_number(&self) -> u16 {
        let at = self.question.len() - 4;
        u16::from_be_bytes([self.question[at], self.question[at + 1]])
    }

    /// Labels with their lengths, the root's at the end.
    pub(super) fn name_bytes(&self) -> &[u8] {
        &self.question[..self.question.len() - 4]
    }

    fn class(&self) -> u16 {
        let at = self.question.len() - 2;
        u16::from_be_bytes([self.question[at], self.question[at + 1]])
    }
}
