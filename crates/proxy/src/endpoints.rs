//! What the sidecar has seen of one endpoint: shared by its workers as plain atomics, so that one
//! worker's finding counts for all. It outlives pushes that keep the endpoint.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::PeakEwma;

#[derive(Debug, Default)]
pub struct EndpointState {
    outstanding: AtomicU32,
    estimate: AtomicU64,
    updated: AtomicU64,
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
