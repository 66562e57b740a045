//! A question of our own, and the addresses in its answer: how a sidecar finds the control plane's name by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::query::Query;
use super::receive::{Received, receive};
use super::relay::Relayed;
use super::walk::{HEADER_BYTES, Records, plain_name_end, u16_at};
use super::{bits, number};

/// Of which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// The query for a name's addresses; `None`: no name of the DNS is written so.
pub fn question(name: &str, family: Family) -> Option<Query> {
    let kind = match family {
        Family::V4 => number::A,
        Family::V6 => number::AAAA,
    };
    let words = [0, bits::RECURSION_DESIRED, 1, 0, 0, 0];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length =
            u8::try_from(label.len()).ok().filter(|length| (1..=LABEL_BYTES_MAX).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend([kind, number::INTERNET].iter().flat_map(|word| word.to_be_bytes()));
    match receive(&message) {
        Received::Query(query) => Some(query),
        Received::Answered(_) | Received::Ignored => None,
    }
}

/// RFC 1035, 2.3.4.
const LABEL_BYTES_MAX: u8 = 63;

/// What the answer has of the family that was asked for. Names that stand for others are between them, and resolvers follow
/// those.
pub fn addresses(answer: &Relayed) -> Vec<IpAddr> {
    let message = answer.message();
    let read = || Records::from(message, question_end(message)?).take(u16_at(message, 6)?);
    let answers = read().unwrap_or_default();
    let addresses = answers.iter().filter_map(|record| {
        let data = &message[record.data.clone()];
        match record.kind {
            _ if record.class != number::INTERNET => None,
            number::A => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
            number::AAAA => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
            _ => None,
        }
    });
    addresses.collect()
}

/// An answer that was judged repeats its one question.
fn question_end(message: &[u8]) -> Option<usize> {
    Some(plain_name_end(message, HEADER_BYTES)? + 4)
}

#[cfg(test)]
mod tests {
    use super::super::relay::{Extended, Judged, forwarded, judge};
    use super::*;

    #[test]
    fn a_question_is_one_for_a_resolver() {
        let query = question("Control.example.", Family::V6).unwrap();
        assert_eq!(query.name(), "control.example");
        let message = forwarded(&query, 7, Extended::AsAsked);
        let expect =
            b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07Control\x07example\x00\x00\x1c\x00\x01";
        assert_eq!(message, expect);
        for odd in ["", ".", "a..b", ".a", &"x".repeat(64), &"abcdefg.".repeat(33)] {
            assert_eq!(question(odd, Family::V4), None, "{odd}");
        }
    }

    #[test]
    fn an_answers_addresses_are_all_of_its_records() {
        let query = question("c.example", Family::V4).unwrap();
        let mut message = forwarded(&query, 7, Extended::AsAsked);
        message[2] |= 0x80;
        message[7] = 3;
        // It is called `d` there; `d` has two addresses.
        message.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01d\xc0\x0e");
        message.extend(b"\x01d\xc0\x0e\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01");
        message.extend(b"\x01d\xc0\x0e\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x02");
        let Judged::Answer(relayed) = judge(&query, 7, &message) else { panic!("not taken") };
        let expect: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(addresses(&relayed), expect);
    }
}
