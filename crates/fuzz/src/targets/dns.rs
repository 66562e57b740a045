//! Messages of the DNS, from an application and from a resolver.
//!
//! Every answer repeats ID and question and has the room that it was given; what we write another implementation reads, with
//! the same name; a resolver's answer reaches the client with no other records and no longer lives than it had.

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use meshwork_core::dns::own::{self, Family};
use meshwork_core::dns::relay::{Extended, Judged, forwarded, judge};
use meshwork_core::dns::{Code, Query, Received, Transport, hosts, receive, reply, resolv_conf};
use meshwork_core::names::{Answer, Asker, Ipv6, Ours, Question, Tables, resolve};
use meshwork_core::resource::Resource;

use crate::{Target, shop};

pub(super) const QUERY: Target = Target { name: "dns_query", run: query, seeds: queries, words: WORDS };

pub(super) const ANSWER: Target = Target { name: "dns_answer", run: answer, seeds: answers, words: WORDS };

const WORDS: &[&[u8]] = &[
    &[0xc0, 0x0c],
    &[0, 1, 0, 1],
    &[0, 28, 0, 1],
    &[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0],
    &[0, 5, 0, 1],
    &[0, 6, 0, 1],
    &[0, 33, 0, 1],
    &[0, 0, 0, 60, 0, 4, 192, 0, 2, 1],
    b"\x04cart\x07default\x04mesh\x00",
    b"\x04cart\x00",
    &[63],
    &[0xff],
    &[0x40],
    &[0x80, 0],
    &[0x84, 0],
    &[0x82, 0],
    b"nameserver ",
    b"search ",
    b"options ndots:",
    b"\n",
    b"127.0.0.1 ",
];

const ID: u16 = 7;

fn query(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        files(text);
    }
    let query = match receive(bytes) {
        Received::Ignored => return,
        Received::Answered(reply) => {
            assert_eq!(reply[..2], bytes[..2], "another ID");
            assert!(reply[2] & 0x80 != 0 && reply.len() <= bytes.len() + 11, "{} bytes", reply.len());
            return;
        }
        Received::Query(query) => query,
    };
    let name = query.name();
    assert!(name.is_ascii() && !name.ends_with('.') && name == name.to_ascii_lowercase());
    for extended in [Extended::AsAsked, Extended::No] {
        let asked = forwarded(&query, ID, extended);
        let Received::Query(again) = receive(&asked) else { panic!("what we ask is no query") };
        assert_eq!((again.id, again.name(), again.kind()), (ID, name.clone(), query.kind()));
        assert_eq!(
            (extended == Extended::AsAsked).then(|| again.key()),
            (extended == Extended::AsAsked).then(|| query.key())
        );
        let theirs = Message::from_vec(&asked).expect("another implementation reads it");
        assert_eq!(theirs.queries.len(), 1);
    }
    let asker = Asker { namespace: shop::NAMESPACE, ipv6: Ipv6::Usable, virtual_ranges: &[] };
    let resolved = resolve(Question { name: &name, kind: query.kind() }, &asker, &tables());
    for transport in [Transport::Udp, Transport::Tcp] {
        let room = query.room(transport);
        if let Answer::Ours(ours) = &resolved {
            check_reply(&query, bytes, &reply::ours(&query, ours, room), room);
        }
        // What is ours has two labels, or ends with the zone: there is room for the names that its records add.
        if name.ends_with(".mesh") || name.matches('.').count() < 2 {
            for ours in [Ours::NoData, Ours::NoName] {
                check_reply(&query, bytes, &reply::ours(&query, &ours, room), room);
            }
        }
        for code in [Code::ServFail, Code::Refused, Code::NotImp, Code::FormErr, Code::NxDomain] {
            check_reply(&query, bytes, &reply::failure(&query, code), room);
        }
    }
}

fn check_reply(query: &Query, sent: &[u8], reply: &[u8], room: usize) {
    assert!(reply.len() <= room, "{} bytes for {room}", reply.len());
    assert_eq!(reply[..2], query.id.to_be_bytes());
    assert!(reply[2] & 0x80 != 0, "it is no answer");
    let theirs = Message::from_vec(reply).expect("another implementation reads it");
    assert_eq!(theirs.queries.len(), 1, "the question");
    let end = question_end(reply);
    assert_eq!(reply[12..end], sent[12..end], "the question as it was asked");
}

/// Of a message with one question, whose name is written out.
fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] > 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

fn tables() -> Tables {
    let mut tables = Tables::default();
    for resource in shop::resources() {
        if let Resource::NameTable(table) = resource {
            tables.set(table.clone().into());
        }
    }
    tables
}

/// Files of a host, which anybody may have written.
fn files(text: &str) {
    let servers = resolv_conf::servers(text);
    assert!((1..=resolv_conf::SERVERS_MAX).contains(&servers.len()));
    for name in ["cart", "cart.default", "cart."] {
        let candidates = resolv_conf::candidates(text, name);
        assert!(candidates.iter().any(|candidate| candidate == name.trim_end_matches('.')), "not as it is");
        let _ = hosts::addresses(text, name);
    }
    let captured = resolv_conf::captured(text, shop::NAMESPACE);
    assert_eq!(resolv_conf::servers(&captured), ["127.0.0.1"], "{captured}");
    assert!(resolv_conf::candidates(&captured, "cart").iter().any(|name| name == "cart.default.mesh"));
}

/// The first byte says which query the rest is an answer to.
fn answer(bytes: &[u8]) {
    let Some((first, message)) = bytes.split_first() else { return };
    let family = if first & 1 == 0 { Family::V4 } else { Family::V6 };
    let name = if first & 2 == 0 { "www.example.com" } else { "cart" };
    let mut query = own::question(name, family).expect("a name");
    if first & 4 != 0 {
        let mut asked = forwarded(&query, ID, Extended::No);
        asked[11] = 1;
        asked.extend_from_slice(WORDS[3]);
        let Received::Query(extended) = receive(&asked) else { panic!("a query with OPT") };
        query = extended;
    }
    if !message.starts_with(&(ID ^ 1).to_be_bytes()) {
        assert_eq!(judge(&query, ID ^ 1, message), Judged::Foreign, "it answers another's query");
    }
    let Judged::Answer(relayed) = judge(&query, ID, message) else { return };
    let asked = forwarded(&query, query.id, Extended::AsAsked);
    let theirs = Message::from_vec(message).ok();
    for (age, room) in [(0, 65_535), (60, 65_535), (0, 512), (u32::MAX, 1_232)] {
        let passed = relayed.answer(&query, age, room);
        assert!(passed.len() <= room && passed.len() <= message.len() + 64);
        assert_eq!(passed[..2], query.id.to_be_bytes());
        let end = question_end(&asked);
        assert_eq!(passed[12..end], asked[12..end], "the question as it was asked");
        if let (Some(theirs), 65_535) = (&theirs, room) {
            check_passed(theirs, &passed, age);
        }
    }
    check_addresses(&relayed, theirs.as_ref(), family);
}

/// What records hold of other kinds is not looked into: a name there that points to what changes is another one then, or
/// none. (Nobody writes such: RFC 3597, 4, has their names without pointers.)
const LOOKED_INTO: &[RecordType] = &[
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::MX,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
];

/// The same records, living no longer.
fn check_passed(theirs: &Message, passed: &[u8], age: u32) {
    let sections = [&theirs.answers, &theirs.authorities, &theirs.additionals];
    let are_looked_into =
        sections.into_iter().flatten().all(|record| LOOKED_INTO.contains(&record.record_type()));
    let passed = match Message::from_vec(passed) {
        Ok(passed) => passed,
        Err(error) if are_looked_into => panic!("what it read once it reads again: {error}"),
        Err(_) => return,
    };
    assert_eq!(passed.answers.len(), theirs.answers.len());
    for (before, after) in theirs.answers.iter().zip(&passed.answers) {
        assert_eq!(before.name, after.name);
        let is_looked_into = LOOKED_INTO.contains(&before.record_type());
        assert!(!is_looked_into || before.data == after.data, "{before:?} became {after:?}");
        assert!(after.ttl <= before.ttl.saturating_sub(age), "it lives longer");
    }
}

fn check_addresses(relayed: &meshwork_core::dns::relay::Relayed, theirs: Option<&Message>, family: Family) {
    let found = own::addresses(relayed);
    let Some(theirs) = theirs else { return };
    let kinds = [RecordType::A, RecordType::AAAA];
    let addresses = theirs.answers.iter().filter(|record| kinds.contains(&record.record_type()));
    let known: Vec<std::net::IpAddr> = addresses
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        })
        .collect();
    assert!(
        found.iter().all(|address| known.contains(address)),
        "{found:?} of {known:?}, asked for {family:?}"
    );
}

fn queries() -> Vec<Vec<u8>> {
    let names = [
        "cart",
        "cart.default.mesh",
        "_http._tcp.cart.default.mesh",
        "www.example.com",
        "7.0.0.240.in-addr.arpa",
    ];
    let query = |name: &str, kind: u8| {
        let mut message = forwarded(&own::question(name, Family::V4).expect("a name"), ID, Extended::No);
        let at = message.len() - 3;
        message[at] = kind;
        message
    };
    let mut seeds: Vec<Vec<u8>> =
        names.iter().flat_map(|name| [1, 28, 33, 12, 6, 255].map(|kind| query(name, kind))).collect();
    let mut extended = query("cart", 1);
    extended[11] = 1;
    extended.extend_from_slice(WORDS[3]);
    seeds.push(extended);
    seeds.push(
        b"search example.com # ours\noptions ndots:2\nnameserver 10.0.0.1\n127.0.0.1 localhost cart\n"
            .to_vec(),
    );
    seeds
}

fn answers() -> Vec<Vec<u8>> {
    let seed = |first: u8, name: &str, counts: [u8; 3], records: &[u8]| {
        let family = if first & 1 == 0 { Family::V4 } else { Family::V6 };
        let mut message = forwarded(&own::question(name, family).expect("a name"), ID, Extended::No);
        (message[2], message[3]) = (0x81, 0x80);
        (message[7], message[9], message[11]) = (counts[0], counts[1], counts[2]);
        message.extend_from_slice(records);
        message.insert(0, first);
        message
    };
    let address = [&[0xc0, 0x0c][..], &[0, 1, 0, 1], &[0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat();
    let alias = [&[0xc0, 0x0c][..], &[0, 5, 0, 1, 0, 0, 1, 44, 0, 6], b"\x03web\xc0\x10"].concat();
    let target = [&[0xc0, 0x2d][..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2]].concat();
    let soa = [
        &[0xc0, 0x10][..],
        &[0, 6, 0, 1, 0, 0, 3, 132, 0, 26],
        b"\x01n\xc0\x10\x01h\xc0\x10",
        &[0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 2, 88, 0, 1, 81, 128, 0, 0, 0, 60][..18],
    ]
    .concat();
    let six = [
        &[0xc0, 0x0c][..],
        &[0, 28, 0, 1, 0, 0, 0, 60, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    .concat();
    vec![
        seed(0, "www.example.com", [1, 0, 0], &address),
        seed(0, "www.example.com", [2, 0, 0], &[alias, target].concat()),
        seed(0, "www.example.com", [0, 1, 0], &soa),
        seed(1, "www.example.com", [1, 0, 1], &[&six[..], WORDS[3]].concat()),
        seed(6, "cart", [1, 0, 1], &[&address[..], WORDS[3]].concat()),
        seed(2, "cart", [0, 0, 0], &[]),
    ]
}
