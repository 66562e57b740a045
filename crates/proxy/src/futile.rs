//! Whether tries behind this sidecar were spent in vain just now.
//!
//! A calls B, B calls C, and C fails: B's sidecar tries C again, and then B's application fails too. If A's sidecar now
//! tried B again, all of that would happen once more; over several hops tries multiply. So B's sidecar tells, with a
//! failure of its application, that tries were spent already, and A's takes that for final (`core::retry::By::Spent`).
//!
//! Nothing ties an application's answer to the calls that it made for it, but time does well enough: an application that
//! fails because its own call failed does so at once. Where another failure of B falls into that moment, it is not tried
//! again elsewhere though it could have been; during an outage behind B, that is the smaller evil.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshwork_core::Instant;

/// How long a failure of the application is laid to what failed behind it: many times what it takes to pass one on.
const MEMORY: Duration = Duration::from_millis(250);

/// When the sidecar last gave up on a request of its application with tries spent. Nanoseconds; 0: never.
#[derive(Debug, Default)]
pub(crate) struct Futile(AtomicU64);

impl Futile {
    pub(crate) fn note(&self, now: Instant) {
        self.0.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            last => now.since(Instant::from_nanos(last)) < MEMORY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_just_now_counts() {
        let (futile, start) = (Futile::default(), Instant::from_millis(7));
        assert!(!futile.is_recent(start), "nothing was noted");
        futile.note(start);
        assert!(futile.is_recent(start + MEMORY / 2));
        assert!(!futile.is_recent(start + MEMORY));
    }
}
