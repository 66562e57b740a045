//! Rows of what is tried again, and what never is, whatever else is the case.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    attempts: 2,
    backoff: Duration::from_millis(20),
    budget: crate::policy::RetryBudget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 },
};

const GET: Call = Call { repeat: Repeat::Idempotent, kind: Kind::Http };
const POST: Call = Call { repeat: Repeat::Once, kind: Kind::Http };
const GRPC: Call = Call { repeat: Repeat::Once, kind: Kind::Grpc };

const RESET: Outcome = Outcome::Unknown(Some(Cause::UpstreamReset));

fn status(status: u16) -> Outcome {
    answered(status, By::Application, None)
}

fn answered(status: u16, by: By, grpc: Option<Told>) -> Outcome {
    Outcome::Answered(Answer { status: StatusCode::new(status).unwrap(), by, grpc })
}

/// A call's end, as a head that is all of the answer tells it.
fn told(grpc: Status) -> Outcome {
    answered(200, By::Application, Some(Told::Known(grpc)))
}

fn rule(codes: &[u16]) -> RuleRetry {
    RuleRetry { codes: BTreeSet::from_iter(codes.iter().copied()), attempts: None, backoff: None }
}

/// After the first try, with another endpoint there and a body that can be sent again.
#[track_caller]
fn check(outcome: Outcome, call: Call, rule: Option<&RuleRetry>, expect: Option<Reason>) {
    let terms = Terms { policy: &POLICY, rule };
    let next = next(outcome, call, Replay::Possible, made(1, outcome), Where::Elsewhere, terms, 0);
    let reason = match next {
        Next::Again(again) => Some(again.reason),
        Next::Return | Next::Spent => None,
    };
    assert_eq!(reason, expect, "{outcome:?} of {call:?}");
}

#[test]
fn what_no_application_saw_is_tried_again_whatever_the_method() {
    for call in [GET, POST, GRPC] {
        check(Outcome::Unreached, call, None, Some(Reason::Unreached));
        check(Outcome::NotProcessed, call, None, Some(Reason::NotProcessed));
        let refused = answered(502, By::Peer(Cause::AppRefused), None);
        check(refused, call, None, Some(Reason::NotProcessed));
    }
}

#[test]
fn what_may_be_repeated_is_tried_again_when_it_broke_or_a_gateway_failed() {
    check(RESET, GET, None, Some(Reason::Reset));
    for code in [502, 503, 504] {
        check(status(code), GET, None, Some(Reason::Status));
    }
    check(answered(502, By::Peer(Cause::AppReset), None), GET, None, Some(Reason::Status));
    for code in [200, 301, 404, 429, 500, 501, 505] {
        check(status(code), GET, None, None);
    }
}

#[test]
fn what_may_have_been_paid_is_not_paid_twice() {
    check(RESET, POST, None, None);
    check(Outcome::Unknown(Some(Cause::AppReset)), POST, None, None);
    for code in [200, 500, 502, 503, 504] {
        check(status(code), POST, None, None);
    }
    check(answered(502, By::Peer(Cause::AppReset), None), POST, None, None);
}

#[test]
fn an_application_that_says_unavailable_may_have_done_half_of_it() {
    check(told(Status::Unavailable), GRPC, None, None);
    check(RESET, GRPC, None, None);
    // The sidecar before it saw that nothing came to it.
    let refused = answered(200, By::Peer(Cause::AppRefused), Some(Told::Known(Status::Unavailable)));
    check(refused, GRPC, None, Some(Reason::NotProcessed));
    let broke = answered(200, By::Peer(Cause::AppReset), Some(Told::Known(Status::Unavailable)));
    check(broke, GRPC, None, None);
}

#[test]
fn a_rule_names_what_else_is_tried_again() {
    check(status(500), POST, Some(&rule(&[500])), Some(Reason::Rule));
    check(status(429), GET, Some(&rule(&[429])), Some(Reason::Rule));
    check(status(503), POST, Some(&rule(&[500])), None);
    // What the mesh would answer, if nothing else did.
    check(RESET, POST, Some(&rule(&[502])), Some(Reason::Rule));
    check(RESET, POST, Some(&rule(&[503])), None);
    // It adds to what is safe, and takes nothing away.
    check(status(503), GET, Some(&rule(&[500])), Some(Reason::Status));
    check(RESET, GET, Some(&rule(&[])), Some(Reason::Reset));
    check(RESET, POST, Some(&rule(&[])), None);
}

#[test]
fn a_rule_names_grpc_statuses_by_the_http_status_that_they_stand_for() {
    for (grpc, code) in [
        (Status::Unavailable, 503),
        (Status::DeadlineExceeded, 504),
        (Status::ResourceExhausted, 429),
        (Status::Internal, 500),
        (Status::Cancelled, 499),
        (Status::Aborted, 409),
    ] {
        check(told(grpc), GRPC, Some(&rule(&[code])), Some(Reason::Rule));
        check(told(grpc), GRPC, Some(&rule(&[200, 302])), None);
    }
    check(told(Status::Ok), GRPC, Some(&rule(&[200])), None);
    check(answered(200, By::Application, Some(Told::Other)), GRPC, Some(&rule(&[500])), Some(Reason::Rule));
    // Broken, it would be answered UNAVAILABLE; and what is no server of gRPC answers in HTTP's words.
    check(RESET, GRPC, Some(&rule(&[503])), Some(Reason::Rule));
    check(status(502), GRPC, Some(&rule(&[502])), Some(Reason::Rule));
}

#[test]
fn a_request_that_its_sender_broke_is_nobodys_to_send_again() {
    check(Outcome::Unknown(None), GET, Some(&rule(&[400, 502])), None);
}

/// What comes of it with these terms.
fn ended(outcome: Outcome, replay: Replay, tries: u32, place: Where, rule: Option<&RuleRetry>) -> Next {
    next(outcome, GET, replay, made(tries, outcome), place, Terms { policy: &POLICY, rule }, u64::MAX)
}

/// So many tries that ended alike.
fn made(tries: u32, outcome: Outcome) -> Tries {
    let mut made = Tries::default();
    (0..tries).for_each(|_| made.count(outcome));
    made
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    for outcome in [Outcome::Unreached, Outcome::NotProcessed, RESET, status(503)] {
        assert_eq!(ended(outcome, Replay::Spent, 1, Where::Elsewhere, None), Next::Return);
    }
}

#[test]
fn tries_end() {
    let after = |tries, rule| ended(RESET, Replay::Possible, tries, Where::Elsewhere, rule);
    assert!(matches!(after(2, None), Next::Again(_)));
    assert_eq!(after(3, None), Next::Spent);
    let once = RuleRetry { attempts: Some(0), ..rule(&[]) };
    assert_eq!(after(1, Some(&once)), Next::Spent);
    let often = RuleRetry { attempts: Some(1_000), ..rule(&[]) };
    assert!(matches!(after(ATTEMPTS_MAX, Some(&often)), Next::Again(_)));
    assert_eq!(after(ATTEMPTS_MAX + 1, Some(&often)), Next::Spent);
}

#[test]
fn to_step_over_endpoints_that_have_gone_takes_nothing_from_the_tries_of_others() {
    let gone = |unreached, reached, outcome| {
        let terms = Terms { policy: &POLICY, rule: None };
        let tries = Tries { reached, unreached };
        next(outcome, GET, Replay::Possible, tries, Where::Elsewhere, terms, 0)
    };
    assert!(matches!(gone(UNREACHED_MAX, 1, Outcome::Unreached), Next::Again(_)));
    assert_eq!(gone(UNREACHED_MAX + 1, 1, Outcome::Unreached), Next::Spent);
    assert!(matches!(gone(UNREACHED_MAX, 2, RESET), Next::Again(_)));
    assert_eq!(gone(UNREACHED_MAX, 3, RESET), Next::Spent);
    let never = RuleRetry { attempts: Some(0), ..rule(&[]) };
    assert_eq!(ended(Outcome::Unreached, Replay::Possible, 1, Where::Elsewhere, Some(&never)), Next::Spent);
}

#[test]
fn an_answer_behind_which_tries_were_spent_is_final() {
    let spent = answered(503, By::Spent, None);
    assert_eq!(ended(spent, Replay::Possible, 1, Where::Elsewhere, None), Next::Spent);
    // Of a good one nobody asks.
    let good = answered(200, By::Spent, None);
    assert_eq!(ended(good, Replay::Possible, 1, Where::Elsewhere, None), Next::Return);
}

#[test]
fn waits_double_and_half_of_each_is_chance() {
    let wait = |outcome, tries, place, random| match next(
        outcome,
        GET,
        Replay::Possible,
        made(tries, outcome),
        place,
        Terms { policy: &POLICY, rule: None },
        random,
    ) {
        Next::Again(again) => again.after.as_millis(),
        Next::Return | Next::Spent => panic!("it would be tried again"),
    };
    assert_eq!((wait(RESET, 1, Where::Elsewhere, 0), wait(RESET, 1, Where::Elsewhere, u64::MAX)), (10, 20));
    assert_eq!((wait(RESET, 2, Where::Elsewhere, 0), wait(RESET, 2, Where::Elsewhere, u64::MAX)), (20, 40));
    // Whoever was told that nothing was done need not wait to ask somebody else.
    assert_eq!(wait(Outcome::NotProcessed, 1, Where::Elsewhere, u64::MAX), 0);
    assert_eq!(wait(Outcome::Unreached, 1, Where::Elsewhere, u64::MAX), 0);
    assert_eq!(wait(Outcome::NotProcessed, 2, Where::Elsewhere, u64::MAX), 40);
    assert_eq!(wait(Outcome::Unreached, 2, Where::Elsewhere, u64::MAX), 0);
    assert_eq!(wait(Outcome::NotProcessed, 1, Where::Same, u64::MAX), 20);
}

#[test]
fn an_only_endpoint_that_cannot_be_reached_is_told_at_once() {
    assert_eq!(ended(Outcome::Unreached, Replay::Possible, 1, Where::Same, None), Next::Return);
    assert!(matches!(ended(RESET, Replay::Possible, 1, Where::Same, None), Next::Again(_)));
}

#[test]
fn only_what_reached_somebody_draws_on_the_budget() {
    assert!(!Reason::Unreached.draws_on_budget());
    for reason in [Reason::NotProcessed, Reason::Reset, Reason::Status, Reason::Rule] {
        assert!(reason.draws_on_budget());
    }
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let cause = || prop::sample::select(Cause::ALL);
    let by = prop_oneof![Just(By::Application), cause().prop_map(By::Peer), Just(By::Spent)];
    let grpc = prop_oneof![
        Just(None),
        Just(Some(Told::Other)),
        prop::sample::select(Status::ALL).prop_map(|status| Some(Told::Known(status))),
    ];
    prop_oneof![
        Just(Outcome::Unreached),
        Just(Outcome::NotProcessed),
        prop::option::of(cause()).prop_map(Outcome::Unknown),
        (200_u16..600, by, grpc).prop_map(|(status, by, grpc)| answered(status, by, grpc)),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    let repeat = prop::sample::select(vec![Repeat::Idempotent, Repeat::Once]);
    let kind = prop::sample::select(vec![Kind::Http, Kind::Grpc]);
    (repeat, kind).prop_map(|(repeat, kind)| Call { repeat, kind })
}

fn rules() -> impl Strategy<Value = Option<RuleRetry>> {
    let codes = prop::collection::btree_set(400_u16..600, 0..40);
    let rule = (codes, prop::option::of(0_u32..20), prop::option::of(0_u64..100_000));
    prop::option::of(rule.prop_map(|(codes, attempts, backoff)| RuleRetry {
        codes,
        attempts,
        backoff: backoff.map(Duration::from_millis),
    }))
}

/// Nobody has processed it, for certain.
fn is_safe(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Unreached | Outcome::NotProcessed => true,
        Outcome::Unknown(_) => false,
        Outcome::Answered(Answer { by: By::Peer(cause), .. }) => cause.certainty() == Certainty::NotProcessed,
        Outcome::Answered(_) => false,
    }
}

proptest! {
    /// The promise: what may have been processed and may not be repeated is sent once, unless a rule names a status.
    #[test]
    fn nothing_is_done_twice_that_nobody_allowed(
        outcome in outcomes(), call in calls(), rule in rules(), tries in 1_u32..12, random: u64, same: bool,
    ) {
        let place = if same { Where::Same } else { Where::Elsewhere };
        let terms = Terms { policy: &POLICY, rule: rule.as_ref() };
        let next = next(outcome, call, Replay::Possible, made(tries, outcome), place, terms, random);
        if let Next::Again(again) = next {
            let is_named = rule.as_ref().is_some_and(|rule| !rule.codes.is_empty());
            prop_assert!(is_safe(outcome) || call.repeat == Repeat::Idempotent || is_named);
            prop_assert!(again.reason != Reason::Rule || is_named);
            let unreached_max = if outcome == Outcome::Unreached { UNREACHED_MAX } else { 0 };
            prop_assert!(tries <= attempts(terms).max(unreached_max) && attempts(terms) <= ATTEMPTS_MAX);
            prop_assert!(again.after <= BACKOFF_MAX);
            prop_assert!(outcome != Outcome::Unknown(None) && !is_spent(outcome));
        }
    }

    /// Whatever else holds, a body that is not at hand any more is never sent in part.
    #[test]
    fn no_body_is_sent_in_part(outcome in outcomes(), call in calls(), rule in rules(), tries in 1_u32..12) {
        let terms = Terms { policy: &POLICY, rule: rule.as_ref() };
        prop_assert_eq!(next(outcome, call, Replay::Spent, made(tries, outcome), Where::Elsewhere, terms, 0), Next::Return);
    }

    /// Answers that are no failure go to whoever asked, whoever made them.
    #[test]
    fn a_good_answer_is_the_answer(status in 200_u16..400, call in calls(), rule in rules(), spent: bool) {
        let by = if spent { By::Spent } else { By::Application };
        let terms = Terms { policy: &POLICY, rule: rule.as_ref() };
        let outcome = answered(status, by, None);
        prop_assert_eq!(next(outcome, call, Replay::Possible, made(1, outcome), Where::Elsewhere, terms, 0), Next::Return);
    }
}
