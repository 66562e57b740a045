//! How many further tries a service's requests may still have: a share of the requests of a sliding interval, and so many
//! a second whatever the requests (GEP-3388, and the budgets of Finagle before it).
//!
//! A limit per request cannot keep an outage small: with two further tries each, a service whose every endpoint fails gets
//! three times its load, just when it can bear least. A share of all requests can.
//!
//! The interval is cut into slots. A slot's count and its time share one word, so that whoever counts needs one addition
//! and nobody a lock; a slot that is met again an interval later begins anew. Counts are as exact as relaxed atomics make
//! them: of two workers at once each may get the last try.
//!
//! Pure: moments come in, numbers go out. `proxy/src/endpoints.rs` keeps the words.

use std::time::Duration;

use meshwork_http::Instant;

use crate::policy::RetryBudget;

/// The parts of an interval: the window slides in steps of a tenth.
pub const SLOTS: usize = 10;

/// Bits of a tally that count: a million a second for twelve days. The rest holds the time, modulo.
const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const TIME_MASK: u64 = u64::MAX >> COUNT_BITS;

/// A tenth of a budget's interval, numbered since the clock's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

impl Turn {
    pub fn at(now: Instant, budget: &RetryBudget) -> Self {
        let length = (budget.interval.as_nanos() as u64 / SLOTS as u64).max(1);
        Self(now.as_nanos() / length)
    }

    /// Which of the slots counts now.
    pub fn slot(self) -> usize {
        (self.0 % SLOTS as u64) as usize
    }
}

/// What a slot has counted, and when. Fits an atomic; the count is in the low bits, so adding 1 counts one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally(u64);

impl Tally {
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether it counts that turn: adding to its bits is all there is to do.
    pub fn is_of(self, turn: Turn) -> bool {
        self.0 >> COUNT_BITS == turn.0 & TIME_MASK
    }

    /// One more in that turn. What an older turn counted is gone.
    pub fn counted(self, turn: Turn) -> Self {
        let count = if self.is_of(turn) { self.0 & COUNT_MASK } else { 0 };
        Self((turn.0 & TIME_MASK) << COUNT_BITS | (count + 1) & COUNT_MASK)
    }

    /// What it adds to the interval that ends with `turn`: nothing, if it is older.
    pub fn count(self, turn: Turn) -> u64 {
        let age = turn.0.wrapping_sub(self.0 >> COUNT_BITS) & TIME_MASK;
        if age < SLOTS as u64 { self.0 & COUNT_MASK } else { 0 }
    }
}

/// What an interval's slots hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// First tries.
    pub requests: u64,
    /// Further ones.
    pub retries: u64,
    /// Of these, in the present turn.
    pub retries_now: u64,
}

/// Whether one more further try fits.
pub fn has_room(budget: &RetryBudget, spent: &Spent) -> bool {
    let share = u128::from(spent.requests) * u128::from(budget.percent) / 100;
    u128::from(spent.retries) < share || spent.retries_now < always(budget)
}

/// What each turn may have whatever the requests. Counted per turn, not per interval: a quiet service that breaks gets
/// no burst of ten seconds' tries.
fn always(budget: &RetryBudget) -> u64 {
    let turn = budget.interval / SLOTS as u32;
    let thousandths = turn.max(Duration::from_millis(1)).as_millis() * u128::from(budget.min_per_second);
    thousandths.div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: RetryBudget =
        RetryBudget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 };

    /// The words as a sidecar keeps them.
    #[derive(Default)]
    struct Words {
        requests: [u64; SLOTS],
        retries: [u64; SLOTS],
    }

    impl Words {
        fn request(&mut self, now: Instant) {
            count(&mut self.requests, Turn::at(now, &BUDGET));
        }

        /// As often as there is room, up to `wanted`.
        fn retry(&mut self, now: Instant, wanted: u64) -> u64 {
            let turn = Turn::at(now, &BUDGET);
            let room = |words: &Self| has_room(&BUDGET, &words.spent(turn));
            (0..wanted)
                .take_while(|_| {
                    room(self) && {
                        count(&mut self.retries, turn);
                        true
                    }
                })
                .count() as u64
        }

        fn spent(&self, turn: Turn) -> Spent {
            let sum = |slots: &[u64]| slots.iter().map(|bits| Tally::from_bits(*bits).count(turn)).sum();
            let now = Tally::from_bits(self.retries[turn.slot()]);
            Spent { requests: sum(&self.requests), retries: sum(&self.retries), retries_now: now.count(turn) }
        }
    }

    fn count(slots: &mut [u64; SLOTS], turn: Turn) {
        let slot = &mut slots[turn.slot()];
        *slot = Tally::from_bits(*slot).counted(turn).to_bits();
    }

    /// Further tries for each of some seconds of so many requests, each of which would be tried twice more.
    fn outage(per_second: u64, seconds: u64) -> Vec<u64> {
        let mut words = Words::default();
        let second = |second: u64| {
            let each = (0..per_second).map(|request| {
                let now = Instant::from_nanos(second * 1_000_000_000 + request * 1_000_000_000 / per_second);
                words.request(now);
                words.retry(now, 2)
            });
            each.sum()
        };
        (0..seconds).map(second).collect()
    }

    #[test]
    fn an_outage_adds_a_share_from_its_first_second_on() {
        for retries in outage(200, 30) {
            assert!((38..=42).contains(&retries), "{retries} further tries for 200 requests");
        }
    }

    #[test]
    fn few_requests_may_all_be_tried_again() {
        assert_eq!(outage(5, 20), vec![10; 20]);
        assert_eq!(outage(20, 20), vec![10; 20]);
    }

    #[test]
    fn what_is_older_than_the_interval_counts_for_nothing() {
        let mut words = Words::default();
        let start = Instant::from_millis(0);
        (0..1_000).for_each(|_| words.request(start));
        assert_eq!(words.retry(start, 1_000), 200);
        // Still the same requests, and the same share of them.
        let later = start + Duration::from_secs(9);
        assert_eq!(words.retry(later, 1_000), 10);
        let gone = start + Duration::from_secs(10);
        assert_eq!(words.spent(Turn::at(gone, &BUDGET)), Spent { requests: 0, retries: 10, retries_now: 0 });
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let none = RetryBudget { percent: 0, min_per_second: 0, ..BUDGET };
        assert!(!has_room(&none, &Spent { requests: 1_000_000, ..Spent::default() }));
        let odd = RetryBudget { interval: Duration::ZERO, ..BUDGET };
        assert!(has_room(&odd, &Spent::default()), "an interval of nothing is no division by nothing");
        assert_eq!(Turn::at(Instant::from_millis(1), &odd), Turn(1_000_000));
    }

    proptest! {
        /// Whatever the load does, further tries stay within the share of any interval and what is always allowed.
        #[test]
        fn the_share_holds_under_any_load(steps in prop::collection::vec((0_u64..3_000, 0_u64..50), 1..200)) {
            let mut words = Words::default();
            let mut now = Instant::from_millis(0);
            for (pause_millis, requests) in steps {
                now += Duration::from_millis(pause_millis);
                for _ in 0..requests {
                    words.request(now);
                    words.retry(now, 2);
                }
                let spent = words.spent(Turn::at(now, &BUDGET));
                // A share of requests that have left the interval since, at most, may still be in it.
                prop_assert!(spent.retries_now <= 10.max(spent.requests / 5));
            }
        }

        /// A slot's word never says more than was counted in the interval.
        #[test]
        fn a_tally_counts_its_own_turn(before: u64, turn: u64, times in 1_u64..100) {
            let (turn, mut tally) = (Turn(turn), Tally::from_bits(before));
            let had = if tally.is_of(turn) { before & COUNT_MASK } else { 0 };
            prop_assume!(had < COUNT_MASK - 100);
            for _ in 0..times {
                tally = tally.counted(turn);
            }
            prop_assert!(tally.is_of(turn));
            prop_assert_eq!(tally.count(turn), had + times);
            prop_assert_eq!(tally.count(Turn(turn.0.wrapping_add(SLOTS as u64))), 0);
        }
    }
}
