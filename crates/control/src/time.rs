//! The clocks. Decisions take the time as an argument; this is where the I/O side reads it.

use std::time::{SystemTime, UNIX_EPOCH};

use meshwork_core::Instant;

/// Seconds since the epoch; 0 for a clock before it.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The monotonic clock of one control plane, counted from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(tokio::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(crate) fn now(self) -> Instant {
        let nanos = self.0.elapsed().as_nanos();
        // 584 years of running.
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Waits until `then`; not at all if it is past.
    pub(crate) async fn sleep_until(self, then: Instant) {
        tokio::time::sleep_until(self.0 + then.since(Instant::default())).await;
    }
}
