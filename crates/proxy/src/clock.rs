//! The sidecar's clock: one origin for all workers, so that moments can be compared.

use std::time;

use meshwork_core::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: time::Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: time::Instant::now() }
    }

    pub fn now(self) -> Instant {
        // 584 years of nanoseconds fit.
        Instant::from_nanos(self.origin.elapsed().as_nanos() as u64)
    }

    pub fn now_millis(self) -> u64 {
        self.now().as_nanos() / 1_000_000
    }
}
