//! What the sidecar has seen of one endpoint, and of a service as a whole: shared by its workers as plain atomics, so that
//! one worker's finding counts for all. It outlives pushes that keep the endpoint, or the service.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::PeakEwma;
use meshwork_core::policy::RetryBudget;
use meshwork_core::retry::budget::{SLOTS, Spent, Tally, Turn, has_room};

use crate::outliers::{Conduct, Ejections};

#[derive(Debug, Default)]
pub struct EndpointState {
    outstanding: AtomicU32,
    estimate: AtomicU64,
    updated: AtomicU64,
    pub(crate) conduct: Conduct,
}

impl EndpointState {
    /// What the next request would meet, for balancing. Nanoseconds.
    pub(crate) fn load(&self, now: Instant) -> u64 {
        self.ewma().load(now, self.outstanding.load(Ordering::Relaxed))
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(&self) -> Outstanding<'_> {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Outstanding(self)
    }

    /// Takes in how long an answer took. Two workers at once may lose one of two observations, which an
    /// estimate survives.
    pub(crate) fn observe(&self, rtt: Duration, now: Instant) {
        let mut ewma = self.ewma();
        ewma.observe(rtt, now);
        let (estimate, updated) = ewma.to_bits();
        self.estimate.store(estimate, Ordering::Relaxed);
        self.updated.store(updated, Ordering::Relaxed);
    }

    fn ewma(&self) -> PeakEwma {
        PeakEwma::from_bits((self.estimate.load(Ordering::Relaxed), self.updated.load(Ordering::Relaxed)))
    }
}

pub(crate) struct Outstanding<'a>(&'a EndpointState);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of all a service's endpoints together.
#[derive(Debug, Default)]
pub struct BackendState {
    requests: Slots,
    retries: Slots,
    pub(crate) ejections: Ejections,
    /// When the log was last told that the budget is used up, in milliseconds; 0: never.
    exhaustion_told: AtomicU64,
}

/// A budget that is used up says so this often: an outage is one line now and then, not one a request.
const EXHAUSTION_TOLD_INTERVAL: Duration = Duration::from_secs(10);

impl BackendState {
    /// Counts a request's first try. One addition, but for the first of each tenth of the interval.
    pub fn request(&self, budget: &RetryBudget, now: Instant) {
        self.requests.count(Turn::at(now, budget));
    }

    /// Takes one further try out of the budget; `false`: it is used up.
    pub fn try_again(&self, budget: &RetryBudget, now: Instant) -> bool {
        let has_room = has_room(budget, &self.spent(budget, now));
        if has_room {
            self.retries.count(Turn::at(now, budget));
        }
        has_room
    }

    /// Whether the log should be told that the budget is used up.
    pub(crate) fn is_exhaustion_news(&self, now: Instant) -> bool {
        let (now, told) = (now.as_nanos() / 1_000_000 + 1, self.exhaustion_told.load(Ordering::Relaxed));
        let is_due = told == 0 || now.saturating_sub(told) >= EXHAUSTION_TOLD_INTERVAL.as_millis() as u64;
        // Of several workers that find it due one tells.
        is_due
            && self.exhaustion_told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How much of the budget is used, for whoever wants to see it.
    pub fn spent(&self, budget: &RetryBudget, now: Instant) -> Spent {
        let turn = Turn::at(now, budget);
        Spent {
            requests: self.requests.sum(turn),
            retries: self.retries.sum(turn),
            retries_now: self.retries.tally(turn).count(turn),
        }
    }
}

/// Counts of a sliding interval; each word is a [`Tally`].
#[derive(Debug, Default)]
struct Slots([AtomicU64; SLOTS]);

impl Slots {
    fn count(&self, turn: Turn) {
        let word = &self.0[turn.slot()];
        let before = Tally::from_bits(word.fetch_add(1, Ordering::Relaxed));
        if before.is_of(turn) {
            return;
        }
        // The slot is of an earlier interval: whoever sees that first begins it anew, the others add to that.
        let anew = |bits| Some(Tally::from_bits(bits).counted(turn).to_bits());
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, anew); // it always has an answer
    }

    fn tally(&self, turn: Turn) -> Tally {
        Tally::from_bits(self.0[turn.slot()].load(Ordering::Relaxed))
    }

    fn sum(&self, turn: Turn) -> u64 {
        self.0.iter().map(|word| Tally::from_bits(word.load(Ordering::Relaxed)).count(turn)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts mean the same with one worker and with four.
    #[test]
    fn workers_count_together() {
        const EACH: u64 = 20_000;
        let (state, budget) = (BackendState::default(), RetryBudget::default());
        let at = |count: u64| Instant::from_millis(count / 10); // two turns
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|count| state.request(&budget, at(count))));
            }
        });
        let spent = state.spent(&budget, at(EACH));
        // Whoever comes late, with a moment of the turn before, may take its slot for another's: none here.
        assert_eq!(spent.requests, 4 * EACH);
    }

    #[test]
    fn the_log_hears_of_an_outage_now_and_then() {
        let (state, start) = (BackendState::default(), Instant::from_millis(0));
        assert!(state.is_exhaustion_news(start));
        assert!(!state.is_exhaustion_news(start));
        assert!(!state.is_exhaustion_news(start + EXHAUSTION_TOLD_INTERVAL / 2));
        assert!(state.is_exhaustion_news(start + EXHAUSTION_TOLD_INTERVAL));
    }

    #[test]
    fn a_budget_is_used_up_and_comes_back() {
        let (state, budget) = (BackendState::default(), RetryBudget::default());
        let start = Instant::from_millis(0);
        (0..100).for_each(|_| state.request(&budget, start));
        let taken = |now| (0..100).filter(|_| state.try_again(&budget, now)).count();
        assert_eq!(taken(start), 20);
        assert_eq!(taken(start), 0);
        assert_eq!(taken(start + budget.interval), 10, "what is always allowed");
    }
}
