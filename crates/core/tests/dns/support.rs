//! Queries and answers made with another implementation, and short names for what the tests ask.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as TheirQuery};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshwork_core::dns::relay::{Judged, Relayed, judge};
use meshwork_core::dns::{Query, Received, receive};

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A query as a stub resolver sends it, with ID 7.
pub(crate) fn asked(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(TheirQuery::query(name(text), kind));
    message
}

pub(crate) fn with_edns(mut message: Message, udp_bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(udp_bytes);
    message.set_edns(edns);
    message
}

#[track_caller]
pub(crate) fn read(message: &Message) -> Query {
    match receive(&message.to_vec().unwrap()) {
        Received::Query(query) => query,
        other => panic!("no query: {other:?}"),
    }
}

/// What the other implementation makes of our bytes.
#[track_caller]
pub(crate) fn theirs(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

/// A resolver's answer to it, without records.
pub(crate) fn answered(query: &Message, id: u16) -> Message {
    let mut message = query.clone();
    message.metadata.id = id;
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message
}

pub(crate) fn address(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}

pub(crate) fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.example."), name("hostmaster.example."), 1, 3_600, 600, 86_400, minimum);
    Record::from_rdata(name(zone), ttl, RData::SOA(soa))
}

#[track_caller]
pub(crate) fn relayed(query: &Query, answer: &Message) -> Relayed {
    match judge(query, answer.metadata.id, &answer.to_vec().unwrap()) {
        Judged::Answer(relayed) => relayed,
        other => panic!("no answer: {other:?}"),
    }
}
