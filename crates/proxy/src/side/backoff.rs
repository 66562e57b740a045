//! How long to wait before the next try: doubling, with a random part so that a control plane that comes
//! back is not met by all sidecars at once.
//!
//! Pure: the randomness comes in.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
