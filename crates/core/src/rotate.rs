//! When a certificate is renewed, when somebody is warned of its end, and how a mesh's root is replaced.
//!
//! A leaf is renewed at half of its life; failed renewals are tried again at a bounded rate, more often the nearer the
//! end is. A root is replaced in steps, each of which the control plane writes down before it acts on it: *spreading*
//! (the new root is told to everybody, the old one signs), *renewing* (the new one signs, both are trusted), and
//! then only the new one is left. No step depends on memory, so a control plane that is killed goes on where it was.
//!
//! Pure: clocks and chance are arguments; signing, writing and telling are the callers'.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Between failed renewals at first: thousands of others fail too.
const RETRY_LEAST: Duration = Duration::from_secs(5);
/// Between failed renewals at most: there are hours left then.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// The same once the certificate has ended: somebody waits, and a control plane that is back should be noticed.
const RETRY_ENDED: Duration = Duration::from_secs(30);
/// However short a life is: a control plane is asked no faster.
const RETRY_FLOOR: Duration = Duration::from_millis(250);

/// Over which time the sidecars of a mesh renew when its root was replaced: 10,000 within 5 minutes are 33 a second.
const HURRY_SPREAD_MAX: Duration = Duration::from_secs(300);

/// Between two warnings of one end at least.
const WARN_INTERVAL_MIN: Duration = Duration::from_secs(60);

/// How long the new root waits for sidecars that have not confirmed it. One that is connected confirms within
/// milliseconds; for one that is stuck or away the new leaves bring the old root's signature along.
const SPREAD_SECONDS_MAX: u64 = 60;

/// Clocks of a mesh differ by so much at most, seconds: that is how far NotBefore lies back, too.
const CLOCK_SKEW_SECONDS: u64 = 300;

/// How long a leaf's successor may still be asked for after its end: as long as it lived, but at least an hour, for
/// somebody must start the control plane again, and at most a week, as the key lies on a disk meanwhile.
const GRACE: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(7 * 24 * 3_600));

/// A leaf's life by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was signed; NotBefore lies further back.
    pub begins: SystemTime,
    pub ends: SystemTime,
}

impl Life {
    pub fn length(self) -> Duration {
        self.ends.duration_since(self.begins).unwrap_or_default()
    }

    /// Nothing once it has ended.
    pub fn left(self, now: SystemTime) -> Duration {
        self.ends.duration_since(now).unwrap_or_default()
    }

    /// When to ask for its successor: at half of it, and by chance up to a tenth later, so that sidecars which were
    /// started together do not come together for ever.
    pub fn renewal(self, random: u64) -> SystemTime {
        self.begins + self.length() / 2 + share(self.length() / 10, random)
    }

    /// The same when the mesh signs by another root now: soon, but not all at once.
    pub fn hurried_renewal(self, now: SystemTime, random: u64) -> SystemTime {
        let spread = (self.length() / 10).min(HURRY_SPREAD_MAX);
        (now + share(spread, random)).min(self.renewal(random))
    }

    /// Until the next try after so many failed ones in a row: twice as long each time, but an eighth of what is left
    /// at most.
    pub fn retry_pause(self, now: SystemTime, failed: u32, random: u64) -> Duration {
        let doubled = RETRY_LEAST.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(RETRY_MOST);
        let left = self.left(now);
        let most = if left.is_zero() { RETRY_ENDED } else { (left / 8).max(RETRY_FLOOR) };
        let step = doubled.min(most);
        step / 2 + share(step / 2, random)
    }

    /// How long after its end a successor may be asked for.
    pub fn grace(self) -> Duration {
        self.length().clamp(GRACE.0, GRACE.1)
    }

    /// It should have been renewed long ago: a quarter is left.
    pub fn is_late(self, now: SystemTime) -> bool {
        self.left(now) <= self.length() / 4
    }

    /// What is to be said of its end now; `last`: when it was said last. First when a quarter is left, which is
    /// later than any renewal that works.
    pub fn warning(self, now: SystemTime, last: Option<SystemTime>) -> Option<Warning> {
        if !self.is_late(now) {
            return None;
        }
        let interval = (self.length() / 24).max(WARN_INTERVAL_MIN);
        let ended = now >= self.ends;
        let is_due = match last {
            None => true,
            // The end itself is told at once, and a clock that was set back starts anew.
            Some(last) if ended && last < self.ends => true,
            Some(last) => now.duration_since(last).map_or(true, |since| since >= interval),
        };
        is_due.then_some(if ended { Warning::Ended } else { Warning::Ending })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// It should have been renewed by now.
    Ending,
    Ended,
}

/// How far the replacement of a root is. Seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Rotation {
    /// Both roots are trusted, the old one signs.
    Spreading { since: u64 },
    /// Both roots are trusted, the new one signs. `retire`: nothing that the old one signed is valid then.
    Renewing { since: u64, retire: u64 },
}

/// What to do next about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before so many seconds have gone, unless somebody confirms.
    Wait { seconds: u64 },
    /// Sign by the new root from now on: [`Rotation::renewing`].
    Issue,
    /// Trust the new root alone.
    Retire,
}

impl Rotation {
    pub fn begin(now: u64) -> Self {
        Self::Spreading { since: now }
    }

    /// The new root signs from `now` on. `longest_leaf_end`: when the last leaf of the old one ends; `leaf_seconds`:
    /// how long leaves live.
    pub fn renewing(now: u64, longest_leaf_end: u64, leaf_seconds: u64) -> Self {
        // Clocks differ; where leaves live for seconds, they can't differ much.
        let margin = CLOCK_SKEW_SECONDS.min(leaf_seconds / 4);
        Self::Renewing { since: now, retire: longest_leaf_end.max(now) + margin }
    }

    /// `unconfirmed`: connected sidecars that have not said that they trust the new root.
    pub fn step(self, unconfirmed: usize, now: u64) -> Step {
        let until = match self {
            Self::Spreading { .. } if unconfirmed == 0 => return Step::Issue,
            Self::Spreading { since } => since + SPREAD_SECONDS_MAX,
            Self::Renewing { retire, .. } => retire,
        };
        match (until.saturating_sub(now), self) {
            (0, Self::Spreading { .. }) => Step::Issue,
            (0, Self::Renewing { .. }) => Step::Retire,
            (seconds, _) => Step::Wait { seconds },
        }
    }
}

/// A part of `whole` by chance: nothing to nearly all.
fn share(whole: Duration, random: u64) -> Duration {
    whole.mul_f64((random % 1_024) as f64 / 1_024.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn life(length: Duration) -> Life {
        Life { begins: start(), ends: start() + length }
    }

    #[test]
    fn a_leaf_is_renewed_after_half_of_its_life_and_not_by_all_at_once() {
        assert_eq!(life(DAY).renewal(0), start() + 12 * HOUR);
        let latest = life(DAY).renewal(1_023).duration_since(start()).unwrap();
        assert!(latest > 14 * HOUR && latest < 15 * HOUR, "{latest:?}");
        let short = life(Duration::from_secs(10)).renewal(1_023).duration_since(start()).unwrap();
        assert!(short < Duration::from_secs(6), "{short:?}");
    }

    #[test]
    fn a_new_root_hurries_renewals_but_never_delays_one() {
        let now = start() + HOUR;
        let hurried = life(DAY).hurried_renewal(now, 1_023);
        assert!(hurried > now + Duration::from_secs(290) && hurried < now + Duration::from_secs(300));
        let due = start() + 13 * HOUR;
        assert_eq!(life(DAY).hurried_renewal(due, 0), start() + 12 * HOUR);
    }

    #[test]
    fn failed_renewals_are_tried_less_and_less_often_but_often_enough() {
        let pause = |length, at: Duration, failed| {
            life(length).retry_pause(start() + at, failed, 1_023).as_secs_f32()
        };
        assert!((4.9..5.0).contains(&pause(DAY, 12 * HOUR, 1)));
        assert!((9.9..10.0).contains(&pause(DAY, 12 * HOUR, 2)));
        assert!((299.0..300.0).contains(&pause(DAY, 12 * HOUR, 40)));
        let ten = Duration::from_secs(10);
        assert!(pause(ten, ten / 2, 1) < 0.7, "there are tries left before the end");
        assert!((29.0..30.0).contains(&pause(ten, 2 * ten, 9)), "and after it");
    }

    proptest! {
        #[test]
        fn the_control_plane_is_never_asked_more_than_eight_times_a_second(
            length in 10u64..3_000_000, at in 0u64..6_000_000, failed: u32, random: u64,
        ) {
            let life = life(Duration::from_secs(length));
            let pause = life.retry_pause(start() + Duration::from_secs(at), failed, random);
            prop_assert!(pause >= RETRY_FLOOR / 2 && pause <= RETRY_MOST);
        }
    }

    #[test]
    fn an_end_is_told_of_when_a_quarter_is_left_then_seldom_then_when_it_comes() {
        let life = life(DAY);
        let at = |hours: u32| start() + hours * HOUR;
        assert_eq!(life.warning(at(17), None), None);
        assert_eq!(life.warning(at(18), None), Some(Warning::Ending));
        assert_eq!(life.warning(at(18) + HOUR / 2, Some(at(18))), None);
        assert_eq!(life.warning(at(19), Some(at(18))), Some(Warning::Ending));
        assert_eq!(life.warning(at(24), Some(at(24) - HOUR / 60)), Some(Warning::Ended));
        assert_eq!(life.warning(at(24) + HOUR / 60, Some(at(24))), None);
        assert_eq!(life.warning(at(19), Some(at(23))), Some(Warning::Ending), "the clock was set back");
    }

    #[test]
    fn an_ended_leaf_has_a_successor_for_as_long_as_it_lived() {
        assert_eq!(life(DAY).grace(), DAY);
        assert_eq!(life(Duration::from_secs(10)).grace(), HOUR);
        assert_eq!(life(30 * DAY).grace(), 7 * DAY);
    }

    #[test]
    fn the_new_root_signs_once_everybody_connected_knows_it_or_long_could() {
        let rotation = Rotation::begin(100);
        assert_eq!(rotation.step(1, 100), Step::Wait { seconds: 60 });
        assert_eq!(rotation.step(0, 100), Step::Issue);
        assert_eq!(rotation.step(1, 160), Step::Issue);
        assert_eq!(rotation.step(1, 90), Step::Wait { seconds: 70 }, "the clock was set back");
    }

    #[test]
    fn the_old_root_goes_after_the_last_of_its_leaves() {
        let day = DAY.as_secs();
        let rotation = Rotation::renewing(1_000, 1_000 + day, day);
        assert_eq!(rotation, Rotation::Renewing { since: 1_000, retire: 1_000 + day + 300 });
        assert_eq!(rotation.step(0, 1_000 + day), Step::Wait { seconds: 300 });
        assert_eq!(rotation.step(7, 1_300 + day), Step::Retire);
        assert_eq!(Rotation::renewing(50, 60, 10), Rotation::Renewing { since: 50, retire: 62 });
        assert_eq!(Rotation::renewing(50, 7, 10), Rotation::Renewing { since: 50, retire: 52 });
    }

    #[test]
    fn a_step_is_read_as_it_was_written() {
        for rotation in [Rotation::begin(7), Rotation::renewing(7, 9, 8)] {
            let text = serde_json::to_string(&rotation).unwrap();
            assert_eq!(serde_json::from_str::<Rotation>(&text).unwrap(), rotation, "{text}");
        }
    }
}
