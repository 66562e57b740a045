//! Who is chosen, how often, and in which order: rows, and properties over many draws.

use super::*;
use meshwork_http::Instant;
use proptest::prelude::*;

const H: Health = Health::Healthy;
const U: Health = Health::Unhealthy;
const D: Health = Health::Draining;

fn healthy(weights: &[u32]) -> Candidates {
    Candidates::new(weights.iter().map(|weight| (H, *weight)))
}

/// All that neither hash nor look at loads at rest.
const DRAWING: [Balance; 4] =
    [Balance::PeakEwma, Balance::RoundRobin, Balance::LeastRequest, Balance::Random];

fn idle(_: usize) -> u64 {
    0
}

/// While everybody is fit.
fn pick(
    balance: &Balance,
    candidates: &Candidates,
    load: impl Fn(usize) -> u64,
    turn: u64,
    tried: impl Into<Tried>,
) -> Option<usize> {
    match super::pick(balance, candidates, load, |_| Fitness::FIT, turn, tried) {
        Choice::Endpoint(index) => Some(index),
        Choice::Nobody => None,
        Choice::Full => panic!("nobody is full"),
    }
}

/// Which endpoints are chosen at all in a thousand turns.
#[track_caller]
fn check_reached(endpoints: &[(Health, u32)], avoid: Option<usize>, expect: &[usize]) {
    let candidates = Candidates::new(endpoints.iter().copied());
    for balance in &DRAWING {
        let mut reached: Vec<_> =
            (0..1_000).filter_map(|turn| pick(balance, &candidates, idle, turn, avoid)).collect();
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached, expect, "{balance:?}");
    }
}

#[test]
fn healthy_endpoints_come_first_and_draining_ones_never() {
    check_reached(&[], None, &[]);
    check_reached(&[(D, 1)], None, &[]);
    check_reached(&[(H, 1), (U, 1), (D, 1), (H, 1)], None, &[0, 3]);
    check_reached(&[(D, 1), (U, 1), (U, 1)], None, &[1, 2]);
    check_reached(&[(H, 0), (U, 1)], None, &[1]);
}

#[test]
fn an_avoided_endpoint_is_never_chosen() {
    check_reached(&[(H, 1)], Some(0), &[]);
    check_reached(&[(H, 1), (H, 1), (H, 1)], Some(1), &[0, 2]);
    check_reached(&[(H, 1), (U, 1)], Some(0), &[1]);
    check_reached(&[(H, 1), (U, 1)], Some(1), &[0]);
    check_reached(&[(H, 1), (H, 5)], Some(7), &[0, 1]);
}

#[test]
fn a_third_try_goes_to_neither_of_the_first_two() {
    let candidates = healthy(&[1, 5, 2, 3]);
    let mut tried = Tried::default();
    for index in [2, 0, 2] {
        tried.add(index);
    }
    for balance in &DRAWING {
        let mut reached: Vec<_> =
            (0..1_000).filter_map(|turn| pick(balance, &candidates, idle, turn, tried)).collect();
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached, [1, 3], "{balance:?}");
    }
}

/// Counts choices and holds them against the weights, four standard deviations wide.
#[track_caller]
fn check_shares(balance: &Balance, weights: &[u32], avoid: Option<usize>) {
    const TURNS: u32 = 100_000;
    let candidates = healthy(weights);
    let mut counts = vec![0_u32; weights.len()];
    for turn in 0..TURNS {
        counts[pick(balance, &candidates, idle, turn.into(), avoid).unwrap()] += 1;
    }
    let counted = |index: usize| if Some(index) == avoid { 0 } else { weights[index] };
    let total: u32 = (0..weights.len()).map(counted).sum();
    for (index, count) in counts.iter().enumerate() {
        let p = f64::from(counted(index)) / f64::from(total);
        let mean = f64::from(TURNS) * p;
        let sigma = (mean * (1.0 - p)).sqrt();
        assert!((f64::from(*count) - mean).abs() <= 4.0 * sigma, "{balance:?} {weights:?}: {counts:?}");
    }
}

#[test]
fn idle_endpoints_get_their_weights_share() {
    for balance in &DRAWING {
        check_shares(balance, &[1, 1, 1, 1], None);
        check_shares(balance, &[1, 3, 6], None);
        check_shares(balance, &[1_000_000, 1, 1_000_000], None);
        check_shares(balance, &[10, 0, 30], None);
    }
    check_shares(&Balance::PeakEwma, &[1, 3, 6], Some(1));
    check_shares(&Balance::PeakEwma, &[5, 3, 6], Some(0));
}

#[test]
fn equal_endpoints_take_turns_in_order() {
    let candidates = healthy(&[4, 4, 4]);
    let order: Vec<_> =
        (0..6).filter_map(|turn| pick(&Balance::RoundRobin, &candidates, idle, turn, None)).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_heavy_endpoints_turns_are_spread_out() {
    let candidates = healthy(&[1, 9]);
    let turns: Vec<_> =
        (0..100).filter_map(|turn| pick(&Balance::RoundRobin, &candidates, idle, turn, None)).collect();
    let light: Vec<_> =
        turns.iter().enumerate().filter(|(_, index)| **index == 0).map(|(at, _)| at).collect();
    assert_eq!(light.len(), 10);
    assert!(light.windows(2).all(|pair| pair[1] - pair[0] == 10), "{light:?}");
}

#[test]
fn the_less_loaded_of_two_always_wins() {
    let candidates = healthy(&[1, 1]);
    let load = |index: usize| [9, 3][index];
    assert!((0..1_000).all(|turn| pick(&Balance::PeakEwma, &candidates, load, turn, None) == Some(1)));
}

#[test]
fn open_requests_are_weighed_by_weight() {
    // 2 requests at weight 1 are as much as 6 at weight 3; with one more, the other is chosen whenever both are drawn.
    let candidates = healthy(&[1, 3]);
    let chosen_with = |open: [u64; 2]| {
        let load = |index: usize| open[index];
        let count = |turn: &u64| pick(&Balance::LeastRequest, &candidates, load, *turn, None) == Some(0);
        (0..10_000_u64).filter(count).count()
    };
    assert_eq!(chosen_with([3, 6]), 0);
    assert_eq!(chosen_with([2, 7]), 10_000);
    // A tie goes by weight: 2,500, four standard deviations are 173.
    assert!((2_327..=2_673).contains(&chosen_with([2, 6])), "{}", chosen_with([2, 6]));
}

#[test]
fn who_answers_slowly_has_no_more_open_requests_than_others() {
    // Requests come each millisecond; the first endpoint takes 40 ms, the others 4: by open requests it serves a tenth
    // of what each of them does.
    let candidates = healthy(&[1, 1, 1]);
    let (mut open, mut served) = ([0_u64; 3], [0_u32; 3]);
    let mut ends: std::collections::BTreeMap<u64, Vec<usize>> = Default::default();
    for now in 0..20_000 {
        for index in ends.remove(&now).into_iter().flatten() {
            open[index] -= 1;
        }
        let load = |index: usize| open[index];
        let index = pick(&Balance::LeastRequest, &candidates, load, now, None).unwrap();
        open[index] += 1;
        served[index] += 1;
        ends.entry(now + [40, 4, 4][index]).or_default().push(index);
    }
    assert!(served[0] < 3_000 && served[0] > 500, "{served:?}");
    assert!(served[1].abs_diff(served[2]) < 1_500, "{served:?}");
}

#[test]
fn the_most_loaded_of_many_gets_nothing_and_the_least_loaded_about_twice_its_share() {
    let candidates = healthy(&[1; 10]);
    let load = |index: usize| index as u64;
    let mut counts = [0_u32; 10];
    for turn in 0..10_000 {
        counts[pick(&Balance::PeakEwma, &candidates, load, turn, None).unwrap()] += 1;
    }
    assert_eq!(counts[9], 0);
    // Drawn first or second: 1/10 + 9/10 * 1/9 = 1/5 of the turns, sigma 40.
    assert!((1_840..=2_160).contains(&counts[0]), "{counts:?}");
}

#[test]
fn a_slow_endpoint_among_three_gets_little() {
    // Latencies 1, 1 and 20 ms, one request at a time, each observed.
    let candidates = healthy(&[1, 1, 1]);
    let latency = [1, 1, 20].map(Duration::from_millis);
    let mut records = [PeakEwma::default(); 3];
    let mut counts = [0_u32; 3];
    let mut now = Instant::default();
    for turn in 0..10_000 {
        let load = |index: usize| records[index].load(now, 0);
        let index = pick(&Balance::PeakEwma, &candidates, load, turn, None).unwrap();
        counts[index] += 1;
        now += latency[index];
        records[index].observe(latency[index], now);
    }
    assert!(counts[2] < 100, "{counts:?}");
    assert!(counts[0].abs_diff(counts[1]) < 2_000, "{counts:?}");
}

#[test]
fn a_peak_is_believed_at_once_and_forgotten_slowly() {
    let start = Instant::from_millis(1);
    let mut record = PeakEwma::default();
    record.observe(Duration::from_millis(10), start);
    assert_eq!(record.load(start, 0), 10_000_000);
    assert_eq!(record.load(start, 2), 30_000_000);

    record.observe(Duration::from_millis(50), start);
    assert_eq!(record.load(start, 0), 50_000_000);

    // One decay later 1/e is left of the old estimate.
    let later = start + PEAK_EWMA_DECAY;
    assert_eq!(record.load(later, 0) / 1_000_000, 18);
    record.observe(Duration::from_millis(10), later);
    assert_eq!(record.load(later, 0) / 1_000_000, 24); // 50/e + 10 * (1 - 1/e)
}

#[test]
fn one_slow_answer_of_two_endpoints_is_forgiven_within_seconds() {
    // 100 requests a second, each answered within 2 ms; only the second one's first answer took 100 ms.
    let candidates = healthy(&[1, 1]);
    let mut records = [PeakEwma::default(); 2];
    let mut now = Instant::from_millis(1);
    records[1].observe(Duration::from_millis(100), now);
    let mut turns = [0_u64; 2];
    for turn in 0..1_000 {
        let load = |index: usize| records[index].load(now, 0);
        let index = pick(&Balance::PeakEwma, &candidates, load, turn, None).unwrap();
        turns[index] += 1;
        records[index].observe(Duration::from_millis(2), now + Duration::from_millis(2));
        now += Duration::from_millis(10);
    }
    assert!(turns.into_iter().all(|served| served > 250), "of 10 s, one was left out for 4: {turns:?}");
}

#[test]
fn an_unknown_endpoint_gets_one_request_to_show_itself() {
    let known = {
        let mut record = PeakEwma::default();
        record.observe(Duration::from_secs(60), Instant::default());
        record
    };
    let unknown = PeakEwma::default();
    let now = Instant::default();
    assert!(unknown.load(now, 0) < known.load(now, 0));
    assert!(unknown.load(now, 1) > known.load(now, 100));
}

#[test]
fn observations_may_come_out_of_order() {
    let mut record = PeakEwma::default();
    record.observe(Duration::from_millis(2), Instant::from_millis(500));
    record.observe(Duration::from_millis(1), Instant::from_millis(400));
    assert_eq!(record.load(Instant::from_millis(500), 0), 2_000_000);
}

/// How often each of equal endpoints is chosen in so many turns, by what they are fit for.
fn chosen(balance: &Balance, fitness: &[Fitness], turns: u64) -> Vec<u32> {
    let candidates = healthy(&vec![1; fitness.len()]);
    let mut counts = vec![0; fitness.len()];
    for turn in 0..turns {
        if let Choice::Endpoint(index) =
            super::pick(balance, &candidates, idle, |index| fitness[index], turn, None)
        {
            counts[index] += 1;
        }
    }
    counts
}

const E: Fitness = Fitness::Ejected;
const F: Fitness = Fitness::FIT;

#[test]
fn the_turns_of_who_is_ejected_are_shared_evenly_among_the_rest() {
    for balance in &DRAWING {
        let counts = chosen(balance, &[F, E, F, F, E], 30_000);
        for index in [0, 2, 3] {
            // 10,000 each; four standard deviations are 330.
            assert!((9_670..=10_330).contains(&counts[index]), "{balance:?}: {counts:?}");
        }
        assert_eq!((counts[1], counts[4]), (0, 0));
    }
}

#[test]
fn one_that_is_fit_among_many_is_always_found() {
    let mut fitness = vec![E; 1_000];
    fitness[617] = F;
    for balance in &DRAWING {
        assert_eq!(chosen(balance, &fitness, 500)[617], 500, "{balance:?}");
    }
}

#[test]
fn who_starts_slowly_gets_its_share_of_its_turns() {
    let third = Fitness::Share(Fitness::FULL / 3);
    for balance in &DRAWING {
        let counts = chosen(balance, &[F, F, third], 70_000);
        // 3 : 3 : 1 by draws; round robin hands two thirds of its own turns out again: 10,000 and a little more.
        assert!((9_500..=13_500).contains(&counts[2]), "{balance:?}: {counts:?}");
        assert!(counts[0].abs_diff(counts[1]) < 1_500, "{balance:?}: {counts:?}");
    }
    // Alone it takes everything, and so do two alike.
    assert_eq!(chosen(&Balance::PeakEwma, &[third, E], 1_000), [1_000, 0]);
    let alike = chosen(&Balance::RoundRobin, &[third, third], 10_000);
    assert!((4_700..=5_300).contains(&alike[0]), "{alike:?}");
}

#[test]
fn full_is_told_apart_from_nobody() {
    let check = |fitness: &[Fitness], tried: Option<usize>, expect| {
        let candidates = healthy(&vec![1; fitness.len()]);
        for balance in &DRAWING {
            for turn in 0..50 {
                let choice = super::pick(balance, &candidates, idle, |index| fitness[index], turn, tried);
                assert_eq!(choice, expect, "{balance:?} {fitness:?}");
            }
        }
    };
    check(&[Fitness::Full, Fitness::Full], None, Choice::Full);
    check(&[Fitness::Full, E], None, Choice::Full);
    check(&[E, E], None, Choice::Nobody);
    check(&[Fitness::Full, F, E], None, Choice::Endpoint(1));
    check(&[Fitness::Full, F], Some(1), Choice::Full);
    check(&[F, E], Some(0), Choice::Nobody);
}

#[test]
fn those_said_to_be_unhealthy_help_when_all_others_are_ejected_but_not_when_they_are_full() {
    let candidates = Candidates::new([(H, 1), (U, 1)]);
    let choice = |first: Fitness| {
        let fitness = |index| if index == 0 { first } else { F };
        super::pick(&Balance::PeakEwma, &candidates, idle, fitness, 7, None)
    };
    assert_eq!(choice(F), Choice::Endpoint(0));
    assert_eq!(choice(E), Choice::Endpoint(1));
    assert_eq!(choice(Fitness::Full), Choice::Full);
}

#[test]
fn a_newcomers_share_grows_evenly_from_a_tenth() {
    let window = Duration::from_secs(10);
    let percent = |millis| match Fitness::after(Duration::from_millis(millis), window) {
        Fitness::Share(share) => share * 100 / Fitness::FULL,
        Fitness::Full | Fitness::Ejected => panic!("it may be chosen"),
    };
    let at = [0, 500, 1_000, 2_500, 5_001, 9_990, 10_000, 99_000].map(percent);
    assert_eq!(at, [9, 9, 9, 25, 50, 99, 100, 100]);
    assert_eq!(Fitness::after(Duration::ZERO, Duration::ZERO), Fitness::FIT);
}

proptest! {
    /// Whoever is fit and was not tried is found, and nobody else.
    #[test]
    fn a_choice_is_always_fit(
        endpoints in proptest::collection::vec((1..5_u32, 0..3_u8), 1..40),
        turn: u64,
        tried in proptest::option::of(0..40_usize),
    ) {
        let weights: Vec<_> = endpoints.iter().map(|(weight, _)| *weight).collect();
        let candidates = healthy(&weights);
        let fitness = |index: usize| match endpoints[index].1 {
            0 => Fitness::Share(Fitness::FULL / 10),
            1 => Fitness::Full,
            _ => E,
        };
        let left = |wanted: u8| (0..endpoints.len()).any(|index| Some(index) != tried && endpoints[index].1 == wanted);
        for balance in &DRAWING {
            match super::pick(balance, &candidates, idle, fitness, turn, tried) {
                Choice::Endpoint(index) => prop_assert!(endpoints[index].1 == 0 && Some(index) != tried),
                Choice::Full => prop_assert!(!left(0) && left(1)),
                Choice::Nobody => prop_assert!(!left(0) && !left(1)),
            }
        }
    }

    #[test]
    fn a_choice_is_always_one_that_may_be_chosen(
        endpoints in proptest::collection::vec((0..3_u8, 0..5_u32), 0..12),
        turn: u64,
        first in proptest::option::of(0..12_usize),
        second in proptest::option::of(0..12_usize),
        loads: u64,
    ) {
        let endpoints: Vec<_> = endpoints.into_iter()
            .map(|(health, weight)| ([H, U, D][usize::from(health)], weight)).collect();
        let candidates = Candidates::new(endpoints.iter().copied());
        let mut tried = Tried::from(first);
        second.into_iter().for_each(|index| tried.add(index));
        let may = |index: usize, wanted: Health| {
            endpoints[index].0 == wanted && endpoints[index].1 > 0 && Some(index) != first && Some(index) != second
        };
        let exists = |wanted| (0..endpoints.len()).any(|index| may(index, wanted));
        for balance in &DRAWING {
            let load = |index: usize| (loads >> index) & 3;
            match pick(balance, &candidates, load, turn, tried) {
                Some(index) if exists(H) => prop_assert!(may(index, H)),
                Some(index) => prop_assert!(may(index, U)),
                None => prop_assert!(!exists(H) && !exists(U)),
            }
        }
    }

    #[test]
    fn bits_carry_a_record(millis in 0..100_000_u64, at: u32) {
        let mut record = PeakEwma::default();
        record.observe(Duration::from_millis(millis), Instant::from_millis(at.into()));
        prop_assert_eq!(PeakEwma::from_bits(record.to_bits()), record);
    }
}
