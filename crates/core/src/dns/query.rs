//! What a client asks: the name, the type, and what it says of the answer that it wants.

use super::{PLAIN_UDP_BYTES_MAX, TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, bits, number};
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

    pub(super) fn class(&self) -> u16 {
        let at = self.question.len() - 2;
        u16::from_be_bytes([self.question[at], self.question[at + 1]])
    }
}
