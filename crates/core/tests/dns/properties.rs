//! Whatever the bytes: no panic, and every answer repeats ID and question.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use meshwork_core::dns::relay::{Judged, judge};
use meshwork_core::dns::{Code, Query, Received, receive, reply};
use meshwork_core::names::{Asker, Ipv6, Ours, Question, Tables, resolve};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{address, alias, answered, asked, read, soa, with_edns};

fn good_messages() -> Vec<Vec<u8>> {
    let question = with_edns(asked("www.example.com.", RecordType::A), 1_232);
    let mut answer = answered(&question, 7);
    answer.add_answer(alias("www.example.com.", 300, "web.example.com."));
    answer.add_answer(address("web.example.com.", 60, 1)).add_authority(soa("example.com.", 900, 60));
    let service = asked("_http._tcp.cart.default.mesh.", RecordType::SRV);
    [question, answer, service].iter().map(|message| message.to_vec().unwrap()).collect()
}

/// Anything at all, or a good message with a few bytes changed and its end cut off.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let changed = (0..3_usize, vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), 0..20_usize);
    let changed = changed.prop_map(|(which, changes, cut)| {
        let mut message = good_messages().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        message.truncate(message.len() - cut / 4);
        message
    });
    prop_oneof![1 => vec(any::<u8>(), 0..600), 4 => changed]
}

fn check_repeats(query: &Query, sent: &[u8], reply: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(&reply[..2], &query.id.to_be_bytes());
    prop_assert!(reply[2] & 0x80 != 0, "it is no answer");
    let end = sent[12..].iter().scan(0_usize, |skip, byte| {
        if *skip > 0 {
            *skip -= 1;
            return Some(1);
        }
        *skip = usize::from(*byte);
        (*byte != 0).then_some(1)
    });
    let question = 12 + end.count() + 1 + 4;
    prop_assert_eq!(&reply[12..question], &sent[12..question], "the question");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_repeats_id_and_question(message in messages()) {
        let query = match receive(&message) {
            Received::Ignored => return Ok(()),
            Received::Answered(reply) => {
                prop_assert_eq!(&reply[..2], &message[..2]);
                prop_assert!(reply[2] & 0x80 != 0);
                return Ok(());
            }
            Received::Query(query) => query,
        };
        let name = query.name();
        let asker = Asker { namespace: "default", ipv6: Ipv6::Usable, virtual_ranges: &[] };
        let question = Question { name: &name, kind: query.kind() };
        resolve(question, &asker, &Tables::default());
        for ours in [Ours::NoData, Ours::NoName] {
            check_repeats(&query, &message, &reply::ours(&query, &ours, 512))?;
        }
        check_repeats(&query, &message, &reply::failure(&query, Code::ServFail))?;
    }

    #[test]
    fn no_resolver_can_do_harm(message in messages(), edns in any::<bool>(), age in any::<u32>()) {
        let asked = asked("www.example.com.", RecordType::A);
        let asked = if edns { with_edns(asked, 1_232) } else { asked };
        let query = read(&asked);
        let Judged::Answer(relayed) = judge(&query, 7, &message) else { return Ok(()) };
        for room in [512, 65_535] {
            let passed = relayed.answer(&query, age, room);
            prop_assert!(passed.len() <= room);
            check_repeats(&query, &asked.to_vec().unwrap(), &passed)?;
        }
    }
}

/// The strategy above must meet answers, or its test shows nothing.
#[test]
fn an_unchanged_answer_is_one() {
    let query = read(&with_edns(asked("www.example.com.", RecordType::A), 1_232));
    let answer = good_messages().swap_remove(1);
    assert!(matches!(judge(&query, 7, &answer), Judged::Answer(_)));
    assert!(Message::from_vec(&answer).is_ok());
}
