//! Floods: what a peer may send for nothing, counted in tokens.
//!
//! A bucket is full at first; each frame of its kind takes a token, time and honest work give some back. The clock is looked
//! at only when a bucket is empty, so that the path of every frame is one subtraction.

use super::{ConnectionError, Limits, Rate};
use crate::Instant;

#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    tokens: u32,
    /// When time last gave tokens.
    given: Instant,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, given: Instant::default() }
    }

    /// Takes a token, or says that this is a flood.
    pub(super) fn take(&mut self, now: Instant, flood: ConnectionError) -> Result<(), ConnectionError> {
        if self.tokens == 0 {
            let millis = now.since(self.given).as_millis();
            let tokens = millis * u128::from(self.rate.per_second) / 1_000;
            if tokens == 0 {
                return Err(flood);
            }
            self.given = now;
            self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(self.rate.burst.max(1));
        }
        self.tokens -= 1;
        Ok(())
    }

    /// Honest work makes up for that many frames.
    pub(super) fn earn(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.rate.burst);
    }
}

#[derive(Debug)]
pub(super) struct Floods {
    pub(super) resets: Bucket,
    pub(super) settings: Bucket,
    pub(super) pings: Bucket,
    pub(super) empty_data: Bucket,
    pub(super) window_updates: Bucket,
    pub(super) priorities: Bucket,
    pub(super) unknown_frames: Bucket,
    pub(super) late_frames: Bucket,
}

/// Frames that may still be on their way when we reset a stream: a first window in small frames.
const LATE_FRAMES_OF_A_RESET: u32 = 64;

/// DATA of ours for which a peer may send one more WINDOW_UPDATE than two a frame.
const BYTES_OF_A_WINDOW_UPDATE: usize = 512;

impl Floods {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            resets: Bucket::new(limits.resets),
            settings: Bucket::new(limits.settings),
            pings: Bucket::new(limits.pings),
            empty_data: Bucket::new(limits.empty_data),
            window_updates: Bucket::new(limits.window_updates),
            priorities: Bucket::new(limits.priorities),
            unknown_frames: Bucket::new(limits.unknown_frames),
            late_frames: Bucket::new(limits.late_frames),
        }
    }

    /// A head went or came. Browsers send PRIORITY and WINDOW_UPDATE with each request.
    pub(super) fn head_passed(&mut self) {
        self.pings.earn(1);
        self.priorities.earn(1);
        self.window_updates.earn(2);
    }

    /// DATA with bytes came.
    pub(super) fn data_came(&mut self) {
        self.pings.earn(1);
        self.empty_data.earn(1);
    }

    pub(super) fn data_went(&mut self, bytes: usize) {
        self.pings.earn(1);
        self.window_updates.earn(2 + (bytes / BYTES_OF_A_WINDOW_UPDATE) as u32);
    }

    /// A stream came to its end at both ends.
    pub(super) fn stream_completed(&mut self) {
        self.resets.earn(1);
        self.late_frames.earn(2);
    }

    /// We reset a stream: its peer does not know yet.
    pub(super) fn stream_reset(&mut self) {
        self.late_frames.earn(LATE_FRAMES_OF_A_RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: ConnectionError = ConnectionError::PingFlood;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 10 });
        let at = |millis| Instant::from_millis(millis);
        for _ in 0..3 {
            assert_eq!(bucket.take(at(0), FLOOD), Ok(()));
        }
        assert_eq!(bucket.take(at(99), FLOOD), Err(FLOOD));
        assert_eq!(bucket.take(at(100), FLOOD), Ok(()));
        assert_eq!(bucket.take(at(100), FLOOD), Err(FLOOD));
        bucket.earn(1);
        assert_eq!(bucket.take(at(100), FLOOD), Ok(()));
    }

    #[test]
    fn time_never_gives_more_than_the_burst() {
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 10 });
        let taken = (0..10).filter(|_| bucket.take(Instant::from_millis(1_000_000), FLOOD).is_ok()).count();
        assert_eq!(taken, 6, "the burst, and once more what time has given since the start");
        bucket.earn(100);
        let taken = (0..10).filter(|_| bucket.take(Instant::from_millis(1_000_000), FLOOD).is_ok()).count();
        assert_eq!(taken, 3);
    }
}
