//! Answers of our own: names of the mesh with authority, and failures.

use super::query::Query;
use super::walk::HEADER_BYTES;
use super::{Code, UDP_BYTES_MAX, bits, number};
use crate::names::{Data, NEGATIVE_TTL_SECONDS, Ours, Record, ZONE};

/// The name that a question has, as the answer's records repeat it: a pointer to the message's byte 12.
const SAME_NAME: u16 = 0xc000 | HEADER_BYTES as u16;

/// To who sent no question that could be repeated.
pub(super) fn bare(id: u16, flags: u16, code: Code) -> Vec<u8> {
    let kept = flags & (bits::OPCODE | bits::RECURSION_DESIRED | bits::CHECKING_DISABLED);
    let words = [id, bits::RESPONSE | bits::RECURSION_AVAILABLE | kept | code.number(), 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// There is no answer, and why.
pub fn failure(query: &Query, code: Code) -> Vec<u8> {
    let mut message = begin(query, 0, code, [0, 0]);
    append_opt(query, code, &mut message);
    message
}

/// What the mesh says of its own name; shortened to a note that there is more if it has no room.
pub fn ours(query: &Query, ours: &Ours, room: usize) -> Vec<u8> {
    let (code, records, denied): (_, &[Record], _) = match ours {
        Ours::Records(records) => (Code::NoError, records, false),
        Ours::NoData => (Code::NoError, &[], true),
        Ours::NoName => (Code::NxDomain, &[], true),
    };
    let counts = [records.len() as u16, u16::from(denied)];
    let mut message = begin(query, bits::AUTHORITATIVE, code, counts);
    for record in records {
        append(query, record, SAME_NAME, &mut message);
    }
    if denied {
        // Who keeps that there is nothing keeps it as long as this says (RFC 2308).
        let soa = Record { ttl_seconds: NEGATIVE_TTL_SECONDS, data: Data::Soa };
        append(query, &soa, zone(query), &mut message);
    }
    append_opt(query, code, &mut message);
    if message.len() <= room { message } else { truncated(query, bits::AUTHORITATIVE) }
}

/// Over TCP there is more.
pub(super) fn truncated(query: &Query, flags: u16) -> Vec<u8> {
    let mut message = begin(query, flags | bits::TRUNCATED, Code::NoError, [0, 0]);
    append_opt(query, Code::NoError, &mut message);
    message
}

/// Header and question. `counts`: answers, and records of authority.
fn begin(query: &Query, flags: u16, code: Code, counts: [u16; 2]) -> Vec<u8> {
    let kept = query.flags & (bits::RECURSION_DESIRED | bits::CHECKING_DISABLED);
    let flags = bits::RESPONSE | bits::RECURSION_AVAILABLE | kept | flags | (code.number() & bits::CODE);
    let [answers, authorities] = counts;
    let words = [query.id, flags, 1, answers, authorities, u16::from(query.edns.is_some())];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    message.extend_from_slice(&query.question);
    message
}

/// Only to who sent one. The caller has counted it.
pub(super) fn append_opt(query: &Query, code: Code, message: &mut Vec<u8>) {
    if query.edns.is_some() {
        opt(code.number() >> 4, query.edns_flags(), message);
    }
}

/// `code`: the upper bits.
pub(super) fn opt(code: u16, flags: u16, message: &mut Vec<u8>) {
    message.push(0); // the root
    for word in [number::OPT, UDP_BYTES_MAX as u16, code << 8, flags, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
}

/// Where the zone's name stands in the question: the mesh's; of a short name the name itself.
fn zone(query: &Query) -> u16 {
    let name = query.name_bytes();
    let start = name.len().saturating_sub(ZONE.len() + 2);
    let tail = &name[start..];
    let is_zone = usize::from(tail[0]) == ZONE.len()
        && tail.get(1..=ZONE.len()).is_some_and(|label| label.eq_ignore_ascii_case(ZONE.as_bytes()));
    if is_zone { SAME_NAME + start as u16 } else { SAME_NAME }
}

fn append(query: &Query, record: &Record, owner: u16, message: &mut Vec<u8>) {
    let kind = match record.data {
        Data::A(_) => number::A,
        Data::Aaaa(_) => number::AAAA,
        Data::Srv { .. } => number::SRV,
        Data::Ptr(_) => number::PTR,
        Data::Soa => number::SOA,
    };
    for word in [owner, kind, number::INTERNET] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(&record.ttl_seconds.to_be_bytes());
    let length_at = message.len();
    message.extend_from_slice(&[0, 0]);
    match &record.data {
        Data::A(address) => message.extend_from_slice(&address.octets()),
        Data::Aaaa(address) => message.extend_from_slice(&address.octets()),
        Data::Srv { port, target } => {
            for word in [0, 0, *port] {
                message.extend_from_slice(&word.to_be_bytes()); // priority, weight, port
            }
            append_name(target, message);
        }
        Data::Ptr(name) => append_name(name, message),
        Data::Soa => append_soa(zone(query), message),
    }
    let length = (message.len() - length_at - 2) as u16;
    message[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Nobody transfers the zone, so of its numbers only the last one means something.
fn append_soa(zone: u16, message: &mut Vec<u8>) {
    for label in ["ns", "hostmaster"] {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
        message.extend_from_slice(&zone.to_be_bytes());
    }
    let (serial, refresh, retry, expire) = (1_u32, 3_600, 600, 86_400);
    for word in [serial, refresh, retry, expire, NEGATIVE_TTL_SECONDS] {
        message.extend_from_slice(&word.to_be_bytes());
    }
}

/// Of labels that were validated, so each has its place in a byte.
fn append_name(name: &str, message: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
}
