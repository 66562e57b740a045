//! What clients send: queries, and what is none.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use meshwork_core::dns::{Received, Transport, receive};
use meshwork_core::names::Kind;

use crate::support::{asked, read, theirs, with_edns};

/// The code that the client is told.
#[track_caller]
fn check_told(message: &[u8], expect: ResponseCode) -> Message {
    match receive(message) {
        Received::Answered(bytes) => {
            let told = theirs(&bytes);
            assert_eq!(told.metadata.response_code, expect);
            assert_eq!(told.metadata.message_type, MessageType::Response);
            assert_eq!(bytes[..2], message[..2], "the ID");
            told
        }
        other => panic!("want {expect}: {other:?}"),
    }
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

#[test]
fn a_query_is_read() {
    for (theirs, ours) in [
        (RecordType::A, Kind::A),
        (RecordType::AAAA, Kind::Aaaa),
        (RecordType::SRV, Kind::Srv),
        (RecordType::PTR, Kind::Ptr),
        (RecordType::SOA, Kind::Soa),
        (RecordType::ANY, Kind::Any),
        (RecordType::HTTPS, Kind::Other),
        (RecordType::Unknown(65_280), Kind::Other),
    ] {
        let query = read(&asked("CaRt.Default.mesh.", theirs));
        assert_eq!((query.id, query.name().as_str(), query.kind()), (7, "cart.default.mesh", ours));
    }
    assert_eq!(read(&asked(".", RecordType::NS)).name(), "");
    assert_eq!(read(&asked("_http._tcp.cart.", RecordType::SRV)).name(), "_http._tcp.cart");
}

#[test]
fn a_dot_within_a_label_divides_nothing() {
    let mut message = bytes(&asked("a-b.mesh.", RecordType::A));
    message[14] = b'.';
    let Received::Query(query) = receive(&message) else { panic!("a strange name is a name") };
    assert_eq!(query.name(), r"a\046b.mesh");
}

#[test]
fn the_size_of_an_answer_is_the_clients_and_ours() {
    let room = |message: &Message, transport| read(message).room(transport);
    let plain = asked("cart.", RecordType::A);
    assert_eq!(room(&plain, Transport::Udp), 512);
    assert_eq!(room(&plain, Transport::Tcp), 65_535);
    for (said, room_there) in [(0, 512), (600, 600), (4_096, 1_232)] {
        assert_eq!(room(&with_edns(plain.clone(), said), Transport::Udp), room_there);
    }
}

#[test]
fn what_is_no_message_or_an_answer_is_ignored() {
    let mut answer = asked("cart.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    for message in [Vec::new(), vec![0; 11], bytes(&answer)] {
        assert_eq!(receive(&message), Received::Ignored, "{message:?}");
    }
}

#[test]
fn what_cannot_be_read_is_a_format_error() {
    let good = bytes(&asked("cart.default.", RecordType::A));
    let header = |counts: [u8; 8]| [&good[..4], &counts, &good[12..]].concat();
    for message in [
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),                      // something after its end
        header([0, 0, 0, 0, 0, 0, 0, 0]),                // no question
        header([0, 2, 0, 0, 0, 0, 0, 0]),                // two of them
        header([0, 1, 0, 0, 0, 0, 0, 1]),                // a record that is not there
        [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(), // a name that points to itself
        [&good[..12], &[0x40, 12, 0, 1, 0, 1]].concat(), // a length of no known kind
        [&good[..12], &[63; 300]].concat(),              // a name without end
    ] {
        check_told(&message, ResponseCode::FormErr);
    }
}

#[test]
fn other_operations_and_other_classes_are_declined() {
    let mut update = asked("cart.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    check_told(&bytes(&update), ResponseCode::NotImp);
    let mut chaos = asked("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let told = check_told(&bytes(&chaos), ResponseCode::Refused);
    assert_eq!(told.queries, chaos.queries);
    check_told(&bytes(&asked("cart.", RecordType::AXFR)), ResponseCode::Refused);
    check_told(&bytes(&asked("cart.", RecordType::IXFR)), ResponseCode::Refused);
}

#[test]
fn a_later_version_of_edns_is_told_ours() {
    let mut message = asked("cart.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    // BADVERS; 16 has two names.
    let told = check_told(&bytes(&message), ResponseCode::from(1, 0));
    assert_eq!(told.edns.unwrap().version(), 0);
    assert_eq!(told.queries, message.queries);
}

#[test]
fn two_opt_records_are_one_too_many() {
    let one = bytes(&with_edns(asked("cart.", RecordType::A), 1_232));
    let opt = &one[one.len() - 11..];
    let mut two = [&one[..], opt].concat();
    two[11] = 2;
    check_told(&two, ResponseCode::FormErr);
}

#[test]
fn options_of_a_client_are_no_obstacle() {
    let mut message = bytes(&with_edns(asked("cart.", RecordType::A), 1_232));
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let length_at = message.len() - 1;
    message[length_at] = cookie.len() as u8;
    message.extend_from_slice(&cookie);
    assert!(matches!(receive(&message), Received::Query(_)));
}
