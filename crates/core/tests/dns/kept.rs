//! The cache: for how long, for whom, how many.

use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use meshwork_core::Instant;
use meshwork_core::dns::cache::{BYTES_MAX, Cache, ENTRIES_MAX, LIFETIME_MAX};

use crate::support::{address, answered, asked, read, relayed, theirs, with_edns};

const START: Instant = Instant::from_millis(1_000);

/// Keeps an answer with so many addresses; how many others had to go.
fn keep(cache: &mut Cache, question: &Message, ttl: u32, addresses: u8, now: Instant) -> usize {
    let mut answer = answered(question, 99);
    let owner = question.queries[0].name.to_ascii();
    (0..addresses).for_each(|last| _ = answer.add_answer(address(&owner, ttl, last)));
    let query = read(question);
    cache.keep(&query, relayed(&query, &answer), now)
}

fn find(cache: &Cache, question: &Message, now: Instant) -> Option<Message> {
    cache.answer(&read(question), 512, now).map(|bytes| theirs(&bytes))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answer_is_kept_for_its_time_and_not_longer() {
    let (mut cache, question) = (Cache::default(), asked("example.com.", RecordType::A));
    keep(&mut cache, &question, 60, 1, START);
    let ttl = |now| find(&cache, &question, now).map(|answer| answer.answers[0].ttl);
    assert_eq!(ttl(START), Some(60));
    assert_eq!(ttl(START + Duration::from_millis(1)), Some(59), "rounded to the safe side");
    assert_eq!(ttl(START + seconds(59)), Some(1));
    assert_eq!(ttl(START + seconds(60)), None);
}

#[test]
fn it_is_the_answer_to_the_same_question_only() {
    let (mut cache, question) = (Cache::default(), asked("Example.com.", RecordType::A));
    keep(&mut cache, &question, 60, 1, START);
    assert!(find(&cache, &asked("eXAMPLE.COM.", RecordType::A), START).is_some());
    assert!(find(&cache, &with_edns(question.clone(), 1_232), START).is_some());
    assert!(find(&cache, &asked("example.org.", RecordType::A), START).is_none());
    assert!(find(&cache, &asked("example.com.", RecordType::AAAA), START).is_none());
    let mut signed = with_edns(question.clone(), 1_232);
    signed.edns.as_mut().unwrap().set_dnssec_ok(true);
    assert!(find(&cache, &signed, START).is_none());
    let mut unchecked = question;
    unchecked.metadata.checking_disabled = true;
    assert!(find(&cache, &unchecked, START).is_none());
}

#[test]
fn what_may_live_for_days_is_asked_for_again_within_the_hour() {
    let (mut cache, question) = (Cache::default(), asked("example.com.", RecordType::A));
    keep(&mut cache, &question, 1_000_000, 1, START);
    let last = START + (LIFETIME_MAX - Duration::from_millis(1));
    let last = find(&cache, &question, last).unwrap();
    assert_eq!(last.answers[0].ttl, 1_000_000 - 3_600);
    assert!(find(&cache, &question, START + LIFETIME_MAX).is_none());
}

#[test]
fn a_newer_answer_takes_the_place_of_the_older() {
    let (mut cache, question) = (Cache::default(), asked("example.com.", RecordType::A));
    keep(&mut cache, &question, 60, 1, START);
    let bytes = cache.bytes();
    keep(&mut cache, &question, 10, 1, START + seconds(5));
    assert_eq!((cache.len(), cache.bytes()), (1, bytes));
    assert!(find(&cache, &question, START + seconds(15)).is_none());
}

#[test]
fn of_too_many_those_go_that_would_go_first() {
    let mut cache = Cache::default();
    let question = |n: usize| asked(&format!("h{n}.example."), RecordType::A);
    for n in 0..ENTRIES_MAX {
        // The first ones live longest.
        assert_eq!(keep(&mut cache, &question(n), 3_000 - (n / 8) as u32, 1, START), 0);
    }
    assert_eq!(keep(&mut cache, &question(ENTRIES_MAX), 3_600, 1, START), 1);
    assert_eq!(cache.len(), ENTRIES_MAX);
    assert!(find(&cache, &question(0), START).is_some());
    assert!(find(&cache, &question(ENTRIES_MAX), START).is_some());
    // Those whose time is over make room, and nobody misses them.
    assert_eq!(keep(&mut cache, &question(ENTRIES_MAX + 1), 3_600, 1, START + seconds(2_600)), 0);
    assert!(cache.len() < ENTRIES_MAX);
}

#[test]
fn bytes_are_bounded_too() {
    let mut cache = Cache::default();
    let mut gone = 0;
    for n in 0..2_000 {
        gone += keep(&mut cache, &asked(&format!("h{n}.example."), RecordType::A), 60, 255, START);
        assert!(cache.bytes() <= BYTES_MAX);
    }
    assert!(gone > 0 && cache.len() + gone == 2_000);
    cache.forget_old(START + seconds(60));
    assert_eq!((cache.is_empty(), cache.bytes()), (true, 0));
}

#[test]
fn a_cache_that_was_cleared_is_empty() {
    let (mut cache, question) = (Cache::default(), asked("example.com.", RecordType::A));
    keep(&mut cache, &question, 60, 1, START);
    cache.clear();
    assert!(find(&cache, &question, START).is_none());
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}
