//! Between clients and resolvers: what is asked there, whose answers are believed, and how they are passed on.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use meshwork_core::dns::Code;
use meshwork_core::dns::relay::{Extended, Judged, forwarded, judge};

use crate::support::{address, alias, answered, asked, name, read, relayed, soa, theirs, with_edns};

const HOST: &str = "www.example.com.";

#[test]
fn a_resolver_is_asked_the_same_under_another_id() {
    let mut question = asked("WwW.Example.com.", RecordType::TXT);
    question.metadata.checking_disabled = true;
    question.metadata.authentic_data = true;
    let asked_there = theirs(&forwarded(&read(&question), 99, Extended::AsAsked));
    assert_eq!(asked_there.metadata.id, 99);
    assert_eq!(asked_there.queries, question.queries);
    let metadata = asked_there.metadata;
    assert!(metadata.checking_disabled && metadata.authentic_data && metadata.recursion_desired);
    assert!(asked_there.edns.is_none(), "who says nothing of EDNS may not know it");
}

#[test]
fn what_is_between_two_hops_is_ours() {
    let mut question = with_edns(asked(HOST, RecordType::A), 512);
    question.edns.as_mut().unwrap().set_dnssec_ok(true);
    let query = read(&question);
    let there = theirs(&forwarded(&query, 99, Extended::AsAsked)).edns.unwrap();
    assert_eq!((there.max_payload(), there.flags().dnssec_ok), (1_232, true));
    assert!(theirs(&forwarded(&query, 99, Extended::No)).edns.is_none());
}

#[track_caller]
fn check_judged(answer: &Message, expect: Judged) {
    let query = read(&asked(HOST, RecordType::A));
    assert_eq!(judge(&query, 99, &answer.to_vec().unwrap()), expect);
}

#[test]
fn only_the_answer_to_what_was_asked_is_believed() {
    let question = asked(HOST, RecordType::A);
    let good = answered(&question, 99);
    check_judged(&answered(&question, 98), Judged::Foreign);
    check_judged(&answered(&asked("www.example.org.", RecordType::A), 99), Judged::Foreign);
    check_judged(&answered(&asked(HOST, RecordType::AAAA), 99), Judged::Foreign);
    let mut twice = good.clone();
    twice.queries.push(good.queries[0].clone());
    check_judged(&twice, Judged::Foreign);
    let mut echo = good.clone();
    echo.metadata.message_type = hickory_proto::op::MessageType::Query;
    check_judged(&echo, Judged::Foreign);
    let query = read(&question);
    for length in 0..12 {
        assert_eq!(judge(&query, 99, &good.to_vec().unwrap()[..length]), Judged::Foreign);
    }
    // Some write names in a case of their own.
    let same = answered(&asked("WWW.EXAMPLE.COM.", RecordType::A), 99);
    assert!(matches!(judge(&query, 99, &same.to_vec().unwrap()), Judged::Answer(_)));
}

#[test]
fn a_failure_is_one_resolvers() {
    for (theirs, ours) in [
        (ResponseCode::ServFail, Code::ServFail),
        (ResponseCode::Refused, Code::Refused),
        (ResponseCode::FormErr, Code::FormErr),
        (ResponseCode::NotImp, Code::NotImp),
        (ResponseCode::YXDomain, Code::ServFail),
    ] {
        let mut answer = answered(&asked(HOST, RecordType::A), 99);
        answer.metadata.response_code = theirs;
        check_judged(&answer, Judged::Failed(ours));
    }
    let mut short = answered(&asked(HOST, RecordType::A), 99);
    short.queries.clear();
    short.metadata.response_code = ResponseCode::FormErr;
    check_judged(&short, Judged::Failed(Code::FormErr));
    let mut truncated = answered(&asked(HOST, RecordType::A), 99);
    truncated.metadata.truncation = true;
    check_judged(&truncated, Judged::Truncated);
}

#[test]
fn records_that_are_cut_off_are_no_answer() {
    let question = asked(HOST, RecordType::A);
    let mut answer = answered(&question, 99);
    answer.add_answer(address(HOST, 60, 1));
    let bytes = answer.to_vec().unwrap();
    let question_end = question.to_vec().unwrap().len();
    for length in question_end..bytes.len() {
        let judged = judge(&read(&question), 99, &bytes[..length]);
        assert_eq!(judged, Judged::Failed(Code::ServFail), "{length} bytes");
    }
}

/// Header and times to live are others when an answer is passed on: a name that is read from them would be another one.
#[test]
fn a_name_that_is_read_from_what_changes_is_no_answer() {
    let asked = asked("www.example.com.", RecordType::A);
    let mut answer = answered(&asked, 7);
    answer.add_answer(alias("www.example.com.", 300, "web.example.com."));
    answer.add_answer(address("web.example.com.", 60, 1));
    let bytes = answer.to_vec().unwrap();
    let owner = bytes.len() - 16;
    let (alias_ttl, data) = (owner - 12, owner - 6);
    assert_eq!(bytes[owner..owner + 2], [0xc0, data as u8], "the name that the alias has in its data");
    assert!(matches!(judge(&read(&asked), 7, &bytes), Judged::Answer(_)));
    // Read directly, through a label that reaches into it, and within an alias's data, its own time to live, too.
    let into = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        judge(&read(&asked), 7, &bytes)
    };
    let refused = Judged::Failed(Code::ServFail);
    assert_eq!(into(owner, &[0xc0, 2]), refused);
    assert_eq!(into(owner, &[0xc0, alias_ttl as u8 + 3]), refused);
    assert_eq!(into(owner, &[0xc0, alias_ttl as u8 - 1]), refused);
    assert_eq!(into(data, &[0xc0, alias_ttl as u8 + 1]), refused);
    assert_eq!(into(data, &[0xc0, 2]), refused);
}

#[test]
fn an_answer_passes_with_the_clients_id_and_case() {
    let mut question = asked("wWw.ExAmPlE.CoM.", RecordType::A);
    question.metadata.id = 1_234;
    let mut answer = answered(&asked(HOST, RecordType::A), 99);
    answer.metadata.authentic_data = true;
    answer.add_answer(alias(HOST, 300, "web.example.com."));
    answer.add_answer(address("web.example.com.", 60, 1));
    let query = read(&question);
    let passed = theirs(&relayed(&query, &answer).answer(&query, 0, 512));
    assert_eq!((passed.metadata.id, &passed.queries), (1_234, &question.queries));
    assert!(passed.queries[0].name.eq_case(&question.queries[0].name));
    assert!(passed.metadata.authentic_data && passed.metadata.recursion_available);
    assert_eq!(passed.answers, answer.answers);
}

#[test]
fn times_to_live_grow_less() {
    let question = asked(HOST, RecordType::A);
    let mut answer = answered(&question, 99);
    answer.add_answer(alias(HOST, 300, "web.example.com."));
    answer.add_answer(address("web.example.com.", 60, 1));
    let query = read(&question);
    let kept = relayed(&query, &answer);
    assert_eq!(kept.lifetime_seconds(), Some(60));
    let later = theirs(&kept.answer(&query, 45, 512));
    assert_eq!(later.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [255, 15]);
}

#[test]
fn opt_is_of_one_hop() {
    let question = with_edns(asked(HOST, RecordType::A), 4_096);
    let mut answer = answered(&question, 99);
    answer.add_answer(address(HOST, 60, 1));
    answer.add_additional(address("ns.example.com.", 60, 2));
    let query = read(&question);
    let passed = theirs(&relayed(&query, &answer).answer(&query, 0, 1_232));
    assert_eq!(passed.edns.unwrap().max_payload(), 1_232, "ours, not the resolver's");
    assert_eq!((passed.answers, passed.additionals), (answer.answers.clone(), answer.additionals.clone()));
    // The same to a client that knows no EDNS.
    let plain = read(&asked(HOST, RecordType::A));
    let passed = theirs(&relayed(&query, &answer).answer(&plain, 0, 512));
    assert!(passed.edns.is_none());
    assert_eq!(passed.additionals.len(), 1);
}

#[test]
fn an_opt_record_that_is_not_the_last_takes_along_what_follows() {
    let question = with_edns(asked(HOST, RecordType::A), 4_096);
    let mut answer = answered(&question, 99);
    answer.add_answer(address(HOST, 60, 1));
    let mut bytes = answer.to_vec().unwrap();
    // `ns.` and a pointer to `example.com`, twice: the second one points to the first, behind OPT.
    let place = bytes.len() as u16;
    bytes.extend_from_slice(&[2, b'n', b's', 0xc0, 16, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2]);
    bytes.extend_from_slice(&(0xc000 | place).to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 3]);
    bytes[11] = 3;
    assert_eq!(theirs(&bytes).additionals.len(), 2, "the test's own message");
    let query = read(&question);
    let Judged::Answer(relayed) = judge(&query, 99, &bytes) else { panic!("it is an answer") };
    let passed = theirs(&relayed.answer(&query, 0, 1_232));
    assert_eq!((passed.answers.len(), passed.additionals.len()), (1, 0));
}

#[test]
fn an_unknown_record_passes_untouched() {
    let kind = RecordType::Unknown(65_280);
    let question = asked(HOST, kind);
    let bytes = answered(&question, 99).to_vec().unwrap();
    let data = [0xc0, 12, 255, 0, 1];
    let mut answer = bytes.clone();
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 255, 0, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
    answer.extend_from_slice(&data);
    let query = read(&question);
    let Judged::Answer(relayed) = judge(&query, 99, &answer) else { panic!("it is an answer") };
    assert_eq!(relayed.answer(&query, 0, 512)[bytes.len()..], answer[bytes.len()..]);
}

#[test]
fn what_is_larger_than_the_client_takes_is_truncated() {
    let question = asked(HOST, RecordType::A);
    let mut answer = answered(&question, 99);
    (0..60).for_each(|last| _ = answer.add_answer(address(HOST, 60, last)));
    let query = read(&question);
    let kept = relayed(&query, &answer);
    let short = kept.answer(&query, 0, 512);
    assert!(short.len() <= 512 && theirs(&short).metadata.truncation);
    assert_eq!(theirs(&kept.answer(&query, 0, 65_535)).answers.len(), 60);
}

#[track_caller]
fn check_lifetime(change: impl FnOnce(&mut Message), expect: Option<u32>) {
    let question = asked(HOST, RecordType::A);
    let mut answer = answered(&question, 99);
    change(&mut answer);
    assert_eq!(relayed(&read(&question), &answer).lifetime_seconds(), expect);
}

#[test]
fn what_is_there_is_kept_as_long_as_its_first_record() {
    check_lifetime(|answer| _ = answer.add_answer(address(HOST, 60, 1)), Some(60));
    check_lifetime(|answer| _ = answer.add_answer(address(HOST, 0, 1)), None);
    check_lifetime(|answer| _ = answer.add_answer(address(HOST, u32::MAX, 1)), None); // RFC 2181, 8
    let second = |answer: &mut Message| {
        answer.add_answer(address(HOST, 60, 1)).add_authority(soa("example.com.", 30, 5));
    };
    check_lifetime(second, Some(30));
}

#[test]
fn what_is_not_there_is_kept_as_long_as_its_zone_says() {
    let nothing = |ttl, minimum| {
        move |answer: &mut Message| {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(soa("example.com.", ttl, minimum));
        }
    };
    check_lifetime(nothing(900, 60), Some(60));
    check_lifetime(nothing(30, 600), Some(30));
    check_lifetime(nothing(900, 0), None);
    check_lifetime(|_| {}, None); // no SOA: nobody says
    check_lifetime(|answer| answer.metadata.response_code = ResponseCode::NXDomain, None);
    // A name that leads to nothing is nothing.
    check_lifetime(|answer| _ = answer.add_answer(alias(HOST, 300, "web.example.com.")), None);
    let chain = |answer: &mut Message| {
        answer.add_answer(alias(HOST, 300, "web.example.com.")).add_authority(soa("example.com.", 900, 60));
    };
    check_lifetime(chain, Some(60));
}

#[test]
fn a_client_keeps_what_is_not_there_no_longer_than_we_do() {
    let question = asked(HOST, RecordType::A);
    let mut answer = answered(&question, 99);
    answer.metadata.response_code = ResponseCode::NXDomain;
    answer.add_authority(soa("example.com.", 900, 60));
    let query = read(&question);
    let later = theirs(&relayed(&query, &answer).answer(&query, 45, 512));
    assert_eq!(later.authorities[0].ttl, 15);
    let RData::SOA(data) = &later.authorities[0].data else { panic!("no SOA") };
    assert_eq!((data.minimum, &later.authorities[0].name), (60, &name("example.com.")));
}
