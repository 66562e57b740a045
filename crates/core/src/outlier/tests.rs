//! Who is ejected, why, and for how long: rows, and properties over many findings.

use super::*;
use crate::grpc::{Status, Told};
use Finding::{ConnectFailure, GatewayError, ServerError, Success};
use Reason::{Consecutive5xx, ConsecutiveConnectFailures, ConsecutiveGatewayErrors};
use proptest::prelude::*;

fn policy() -> OutlierPolicy {
    OutlierPolicy { consecutive_5xx: 4, consecutive_gateway_errors: 3, ..OutlierPolicy::default() }
}

/// The reason that each finding of a row gives.
#[track_caller]
fn check(findings: &[Finding], expect: &[Option<Reason>]) {
    let mut streaks = Streaks::default();
    let reasons: Vec<_> = findings.iter().map(|finding| streaks.observe(*finding, &policy())).collect();
    assert_eq!(reasons, expect, "{findings:?}");
}

#[test]
fn failures_in_a_row_are_enough() {
    check(&[ServerError; 4], &[None, None, None, Some(Consecutive5xx)]);
    check(&[GatewayError; 3], &[None, None, Some(ConsecutiveGatewayErrors)]);
    check(&[ConnectFailure; 2], &[None, Some(ConsecutiveConnectFailures)]);
}

#[test]
fn one_success_between_them_begins_the_row_anew() {
    check(
        &[ServerError, ServerError, ServerError, Success, ServerError, ServerError, ServerError],
        &[None; 7],
    );
}

#[test]
fn a_worse_failure_counts_for_the_better_ones_too_but_not_the_reverse() {
    check(&[ServerError, GatewayError, ServerError, GatewayError], &[None, None, None, Some(Consecutive5xx)]);
    check(&[GatewayError, ConnectFailure, GatewayError], &[None, None, Some(ConsecutiveGatewayErrors)]);
    check(&[ConnectFailure, GatewayError, ConnectFailure], &[None, None, Some(ConsecutiveGatewayErrors)]);
}

#[test]
fn the_row_begins_anew_once_it_was_enough() {
    let (no, yes) = (None, Some(ConsecutiveGatewayErrors));
    // The fourth is a fourth 5xx in a row, too.
    check(&[GatewayError; 7], &[no, no, yes, Some(Consecutive5xx), no, yes, no]);
}

#[test]
fn what_the_policy_does_not_look_at_ejects_nobody() {
    let policy = OutlierPolicy {
        consecutive_5xx: 0,
        consecutive_gateway_errors: 0,
        consecutive_connect_failures: 0,
        ..OutlierPolicy::default()
    };
    let mut streaks = Streaks::default();
    assert!((0..200_000).all(|_| streaks.observe(ConnectFailure, &policy).is_none()));
}

#[test]
fn a_reasons_number_is_its_place() {
    for (place, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, place);
    }
}

#[test]
fn statuses_are_judged_as_the_policy_names_them() {
    let rows = [(200, Success), (101, Success), (404, Success), (429, Success), (499, Success)];
    let failures = [(500, ServerError), (501, ServerError), (505, ServerError), (599, ServerError)];
    let gateway = [(502, GatewayError), (503, GatewayError), (504, GatewayError)];
    for (status, expect) in rows.into_iter().chain(failures).chain(gateway) {
        assert_eq!(Finding::of_status(StatusCode::new(status).unwrap()), expect, "{status}");
    }
}

#[test]
fn a_grpc_status_is_judged_like_its_http_status_and_a_clients_own_fault_is_none() {
    for status in Status::ALL {
        let expect = match status {
            Status::Unavailable | Status::DeadlineExceeded => GatewayError,
            Status::Internal | Status::Unknown | Status::DataLoss => ServerError,
            _ => Success,
        };
        assert_eq!(Finding::of_grpc(Told::Known(*status)), expect, "{status:?}");
    }
    assert_eq!(Finding::of_grpc(Told::Other), ServerError);
}

#[test]
fn an_answer_of_the_mesh_is_judged_by_whose_fault_it_is() {
    assert_eq!(Finding::of_cause(Cause::AppRefused), Some(GatewayError));
    assert_eq!(Finding::of_cause(Cause::UpstreamReset), Some(GatewayError));
    assert_eq!(Finding::of_cause(Cause::Draining), Some(GatewayError));
    assert_eq!(Finding::of_cause(Cause::Overloaded), Some(GatewayError));
    for other in [Cause::BadRequest, Cause::NoRoute, Cause::Internal, Cause::NoBackend] {
        assert_eq!(Finding::of_cause(other), None, "{other:?}");
    }
}

fn tallies(rates: &[u32]) -> Vec<Tally> {
    rates.iter().map(|rate| Tally { requests: 100, failures: 100 - rate }).collect()
}

#[track_caller]
fn check_rates(tallies: &[Tally], expect: &[usize]) {
    let found: Vec<_> = far_below(tallies, &OutlierPolicy::default()).collect();
    assert_eq!(found, expect, "{tallies:?}");
}

#[test]
fn an_endpoint_far_below_the_others_is_found_by_its_rate() {
    check_rates(&tallies(&[100, 100, 100, 100, 50]), &[4]);
    check_rates(&tallies(&[99, 98, 99, 100, 99, 97, 40]), &[6]);
    check_rates(&tallies(&[100, 99, 98, 97, 96]), &[]);
    check_rates(&tallies(&[100; 8]), &[]);
    check_rates(&tallies(&[33; 7]), &[]); // whatever rounding does
}

#[test]
fn too_few_endpoints_or_requests_are_not_compared() {
    check_rates(&tallies(&[100, 100, 100, 0]), &[]);
    let mut few = tallies(&[100, 100, 100, 100, 0]);
    few[4] = Tally { requests: 99, failures: 99 };
    check_rates(&few, &[]);
    // Nor do they count for the mean of the others.
    few.push(Tally { requests: 100, failures: 100 });
    check_rates(&few, &[5]);
}

#[test]
fn rates_are_not_looked_at_if_the_policy_says_so() {
    let policy = OutlierPolicy { success_rate_stdev_percent: 0, ..OutlierPolicy::default() };
    assert_eq!(far_below(&tallies(&[100, 100, 100, 100, 0]), &policy).count(), 0);
}

#[test]
fn one_may_always_be_ejected_and_never_more_than_the_share() {
    let check = |ejected, endpoints, expect| {
        assert_eq!(
            may_eject(ejected, endpoints, &OutlierPolicy::default()),
            expect,
            "{ejected} of {endpoints}"
        );
    };
    check(0, 1, true);
    check(1, 2, false);
    check(1, 3, false);
    check(1, 4, true);
    check(2, 4, false);
    check(4, 10, true);
    check(5, 10, false);
}

#[test]
fn with_too_few_left_ejections_are_not_looked_at() {
    let check = |fit, endpoints, expect| {
        assert_eq!(is_panic(fit, endpoints, &OutlierPolicy::default()), expect, "{fit} of {endpoints}");
    };
    check(0, 1, true);
    check(1, 2, false);
    check(1, 3, true);
    check(2, 5, false);
    check(39, 100, true);
    let never = OutlierPolicy { panic_percent: 0, ..OutlierPolicy::default() };
    assert!(!is_panic(0, 5, &never));
}

#[test]
fn each_ejection_is_longer_up_to_a_limit() {
    let policy = OutlierPolicy {
        ejection: Duration::from_secs(5),
        ejection_max: Duration::from_secs(12),
        ..OutlierPolicy::default()
    };
    let mut number = 0;
    let seconds: Vec<_> = (0..5)
        .map(|_| {
            number = next_number(number, &policy);
            (number, duration(number, &policy).as_secs())
        })
        .collect();
    assert_eq!(seconds, [(1, 5), (2, 10), (3, 12), (3, 12), (3, 12)]);
}

#[test]
fn a_maximum_below_the_base_does_not_shorten_it() {
    let policy = OutlierPolicy { ejection_max: Duration::from_secs(1), ..OutlierPolicy::default() };
    assert_eq!(next_number(next_number(0, &policy), &policy), 1);
    assert_eq!(duration(1, &policy), policy.ejection);
}

fn finding() -> impl Strategy<Value = Finding> {
    prop_oneof![Just(Success), Just(ServerError), Just(GatewayError), Just(ConnectFailure)]
}

proptest! {
    /// Whatever comes, a reason is only given at the end of a row of failures as long as the policy says.
    #[test]
    fn a_reason_needs_its_row(findings in proptest::collection::vec(finding(), 0..60)) {
        let policy = policy();
        let mut streaks = Streaks::default();
        for end in 0..findings.len() {
            streaks = Streaks::from_bits(streaks.to_bits());
            let Some(reason) = streaks.observe(findings[end], &policy) else { continue };
            let (length, counts): (u32, fn(&Finding) -> bool) = match reason {
                Consecutive5xx => (policy.consecutive_5xx, |finding| finding.is_failure()),
                ConsecutiveGatewayErrors =>
                    (policy.consecutive_gateway_errors, |finding| matches!(finding, GatewayError | ConnectFailure)),
                ConsecutiveConnectFailures =>
                    (policy.consecutive_connect_failures, |finding| *finding == ConnectFailure),
                Reason::SuccessRate => unreachable!("not by a row"),
            };
            let row = &findings[(end + 1).saturating_sub(length as usize)..=end];
            prop_assert!(row.len() == length as usize && row.iter().all(counts), "{:?}: {:?}", reason, row);
        }
    }

    #[test]
    fn never_is_everybody_far_below(failures in proptest::collection::vec(0..=100_u32, 1..40), stdev in 1..400_u32) {
        let tallies: Vec<_> = failures.iter().map(|failures| Tally { requests: 100, failures: *failures }).collect();
        let policy = OutlierPolicy { success_rate_stdev_percent: stdev, ..OutlierPolicy::default() };
        let found: Vec<_> = far_below(&tallies, &policy).collect();
        prop_assert!(found.len() < tallies.len());
        let best = tallies.iter().map(|tally| tally.failures).min();
        prop_assert!(found.iter().all(|index| Some(tallies[*index].failures) != best));
    }

    /// However failures come, the share of the ejected stays below its ceiling, but for the first.
    #[test]
    fn the_ceiling_holds(endpoints in 1..200_usize, percent in 0..=100_u32) {
        let policy = OutlierPolicy { ejected_percent_max: percent, ..OutlierPolicy::default() };
        let mut ejected = 0;
        while ejected < endpoints as u32 && may_eject(ejected, endpoints, &policy) {
            ejected += 1;
        }
        prop_assert!(ejected >= 1);
        prop_assert!(ejected == 1 || ejected * 100 <= endpoints as u32 * percent);
    }

    #[test]
    fn counting_is_addition(findings in proptest::collection::vec(finding(), 0..200)) {
        let bits = findings.iter().map(|finding| Tally::step(*finding)).sum();
        let failures = findings.iter().filter(|finding| finding.is_failure()).count() as u32;
        prop_assert_eq!(Tally::from_bits(bits), Tally { requests: findings.len() as u32, failures });
    }
}
