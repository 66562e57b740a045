//! Our own answers, as another implementation reads them.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{RData, RecordType};
use meshwork_core::dns::{Code, reply};
use meshwork_core::names::{ADDRESSES_MAX, Data, Ours, Record, TARGETS_MAX};

use crate::support::{asked, name, read, theirs, with_edns};

#[track_caller]
fn reply_to(question: &Message, ours: &Ours, room: usize) -> Message {
    let bytes = reply::ours(&read(question), ours, room);
    assert!(bytes.len() <= room);
    let reply = theirs(&bytes);
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
    assert_eq!(reply.queries, question.queries);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.metadata.recursion_desired, question.metadata.recursion_desired);
    assert_eq!(reply.edns.is_some(), question.edns.is_some());
    reply
}

fn records(data: impl IntoIterator<Item = Data>) -> Ours {
    Ours::Records(data.into_iter().map(|data| Record { ttl_seconds: 30, data }).collect())
}

#[test]
fn addresses_ports_and_names_are_written() {
    let v4 = Ipv4Addr::new(240, 0, 0, 7);
    let v6 = "fd4d:5700::7".parse().unwrap();
    let cart = "cart.default.mesh";
    let srv = Data::Srv { port: 80, target: cart.to_owned() };
    for (kind, ours, expect) in [
        (RecordType::A, Data::A(v4), RData::A(A(v4))),
        (RecordType::AAAA, Data::Aaaa(v6), RData::AAAA(AAAA(v6))),
        (RecordType::PTR, Data::Ptr(cart.to_owned()), RData::PTR(PTR(name("cart.default.mesh.")))),
        (
            RecordType::SRV,
            srv,
            RData::SRV(hickory_proto::rr::rdata::SRV::new(0, 0, 80, name("cart.default.mesh."))),
        ),
    ] {
        let question = asked("CART.default.", kind);
        let reply = reply_to(&question, &records([ours]), 512);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].data, expect);
        assert_eq!((reply.answers[0].ttl, &reply.answers[0].name), (30, &question.queries[0].name));
        assert!(reply.authorities.is_empty());
    }
}

#[test]
fn what_is_not_there_says_how_long_that_may_be_kept() {
    for (text, zone) in [("Pay.default.MESH.", "mesh."), ("mesh.", "mesh."), ("cart.", "cart.")] {
        for (ours, code) in [(Ours::NoData, ResponseCode::NoError), (Ours::NoName, ResponseCode::NXDomain)] {
            let reply = reply_to(&with_edns(asked(text, RecordType::AAAA), 4_096), &ours, 512);
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0));
            let [soa] = &reply.authorities[..] else { panic!("no SOA: {reply:?}") };
            assert!(soa.name.eq_ignore_root(&name(zone)), "{} for {text}", soa.name);
            let RData::SOA(data) = &soa.data else { panic!("no SOA: {soa:?}") };
            assert_eq!((soa.ttl, data.minimum), (5, 5));
        }
    }
}

#[test]
fn what_has_no_room_is_asked_for_again_over_tcp() {
    let many = records((0..60).map(|n| Data::A(Ipv4Addr::new(10, 0, 0, n))));
    let question = asked("db.default.mesh.", RecordType::A);
    let short = reply_to(&question, &many, 512);
    assert!(short.metadata.truncation && short.answers.is_empty());
    let extended = reply_to(&with_edns(question.clone(), 600), &many, 600);
    assert!(extended.metadata.truncation);
    let whole = reply_to(&question, &many, 65_535);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 60);
}

#[test]
fn as_many_as_there_may_be_fit_into_a_message() {
    let (label, port) = ("x".repeat(63), format!("_{}._tcp", "p".repeat(15)));
    let target = format!("{label}.{label}.{label}.mesh");
    let targets = (0..TARGETS_MAX).map(|_| Data::Srv { port: 80, target: target.clone() });
    let question = asked(&format!("{port}.s.n.mesh."), RecordType::SRV);
    assert_eq!(reply_to(&question, &records(targets), 65_535).answers.len(), TARGETS_MAX);
    let addresses = (0..ADDRESSES_MAX).map(|_| Data::Aaaa("fd00::1".parse().unwrap()));
    let question = asked("db.default.mesh.", RecordType::AAAA);
    assert_eq!(reply_to(&question, &records(addresses), 65_535).answers.len(), ADDRESSES_MAX);
}

#[test]
fn a_failure_repeats_the_question() {
    let question = with_edns(asked("cart.", RecordType::A), 1_232);
    let told = theirs(&reply::failure(&read(&question), Code::ServFail));
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((told.metadata.id, &told.queries), (7, &question.queries));
}
