//! How long to wait before the next try, with a random part so that a control plane that comes back is not met by
//! all sidecars at once: `Backoff` doubles, `Spacing` keeps what is opened again and again apart.
//!
//! Pure: time and randomness come in.

use std::time::Duration;

use tokio::time::Instant;

/// Between two openings of a stream, or of the connection under it, at least. Whatever the other end does with the
/// stream (refuses it, drops it at once, drops it after its first answer), a sidecar costs it no more.
const REOPEN_LEAST: Duration = Duration::from_secs(2);

/// And up to so much longer: a thousand sidecars that lose their control plane at one moment come back over a second,
/// about as fast as it can greet them.
const REOPEN_SPREAD: Duration = Duration::from_secs(1);

pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// Between half of the step and the whole of it; the next step is twice as long.
    pub(crate) fn pause(&mut self, random: u64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        let share = 0.5 + (random % 1_024) as f64 / 2_048.0;
        step.mul_f64(share)
    }

    /// It worked: the next failure is a new one.
    pub(crate) fn reset(&mut self) {
        self.next = self.least;
    }
}

/// Openings of one thing, kept apart. What stood for long is opened again soon.
#[derive(Default)]
pub(crate) struct Spacing {
    opened: Option<Instant>,
}

impl Spacing {
    /// It is opened now, whatever comes of it.
    pub(crate) fn open(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// Until it may be opened again.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.opened.map_or(Duration::ZERO, |opened| (opened + REOPEN_LEAST).saturating_duration_since(now))
    }

    /// The same with the random part.
    pub(crate) fn pause(&self, now: Instant, random: u64) -> Duration {
        self.left(now) + spread(REOPEN_SPREAD, random)
    }
}

/// A random part of `most`.
pub(crate) fn spread(most: Duration, random: u64) -> Duration {
    most.mul_f64((random % 1_024) as f64 / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_for_long_is_opened_again_soon_and_what_did_not_after_two_seconds() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let mut spacing = Spacing::default();
        assert_eq!(spacing.pause(start, 0), Duration::ZERO, "the first time at once");
        spacing.open(start);
        assert_eq!(spacing.pause(start, 0), REOPEN_LEAST);
        assert_eq!(spacing.pause(start + millis(500), 0), millis(1_500));
        assert_eq!(spacing.pause(start + millis(500), 512), millis(2_000));
        assert_eq!(spacing.pause(start + millis(60_000), 1_023).as_millis(), 999);
    }

    #[test]
    fn pauses_double_up_to_the_most_and_start_again() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(100), millis(400));
        let longest: Vec<_> = (0..4).map(|_| backoff.pause(1_023).as_millis()).collect();
        assert_eq!(longest, [99, 199, 399, 399]);
        backoff.reset();
        assert_eq!(backoff.pause(0), millis(50));
    }
}
