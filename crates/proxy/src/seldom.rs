//! What would be said with every request is said now and then: an overload is one line in the log, not one a request.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshwork_core::Instant;

/// Between two lines about the same thing: often enough to see that it lasts.
const SAID_INTERVAL: Duration = Duration::from_secs(10);

/// One thing to be said.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// Milliseconds; 0: never.
    said: AtomicU64,
}

impl Seldom {
    /// Of several workers that ask, one is told yes.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let (now, said) = (now.as_nanos() / 1_000_000 + 1, self.said.load(Relaxed));
        let is_due = said == 0 || now.saturating_sub(said) >= SAID_INTERVAL.as_millis() as u64;
        is_due && self.said.compare_exchange(said, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_and_then_now_and_then() {
        let (seldom, start) = (Seldom::default(), Instant::from_millis(0));
        assert!(seldom.is_due(start));
        assert!(!seldom.is_due(start) && !seldom.is_due(start + SAID_INTERVAL / 2));
        assert!(seldom.is_due(start + SAID_INTERVAL));
    }
}
