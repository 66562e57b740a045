//! What the sidecar has seen of one endpoint, and of a service as a whole: shared by its workers as plain atomics, so that
//! one worker's finding counts for all. It outlives pushes that keep the endpoint, or the service.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::PeakEwma;
use meshwork_core::policy::RetryBudget;
use meshwork_core::retry::budget::{SLOTS, Spent, Tally, Turn, has_room};

use crate::limits::{Count, Held};
use crate::outliers::{Conduct, Ejections};
use crate::seldom::Seldom;

#[derive(Debug, Default)]
pub struct EndpointState {
    outstanding: Count,
    pub(crate) connections: Count,
    estimate: AtomicU64,
    updated: AtomicU64,
    pub(crate) conduct: Conduct,
}

impl EndpointState {
    /// What the next request would meet, for balancing. Nanoseconds.
    pub(crate) fn load(&self, now: Instant) -> u64 {
        self.ewma().load(now, self.outstanding.now())
    }

    /// Counts a request until the guard is dropped. `None`: there are as many as there may be.
    pub(crate) fn begin(&self, max: Option<NonZeroU32>) -> Option<Held<'_>> {
        self.outstanding.hold(max)
    }

    /// Requests that are open.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.now()
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

    /// Forgets how long answers took, so that one that was bad for a while gets a request to show itself.
    pub(crate) fn forget(&self) {
        self.estimate.store(0, Ordering::Relaxed);
    }

    fn ewma(&self) -> PeakEwma {
        PeakEwma::from_bits((self.estimate.load(Ordering::Relaxed), self.updated.load(Ordering::Relaxed)))
    }
}

/// Of all a service's endpoints together.
#[derive(Debug, Default)]
pub struct BackendState {
    requests: Slots,
    retries: Slots,
    pub(crate) ejections: Ejections,
    exhaustion_told: Seldom,
    pub(crate) open: Count,
    pub(crate) pending: Count,
    pub(crate) connections: Count,
    pub(crate) limit_told: Seldom,
}

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
        self.exhaustion_told.is_due(now)
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
