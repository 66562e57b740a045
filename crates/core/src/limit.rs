//! When a sidecar as a whole has enough: of memory, and of clients.
//!
//! A ceiling of memory is left only when there is clearly less again, so that it does not flutter with every request.
//!
//! Pure: what was measured comes in. Measuring, and saying no, is `proxy/src/ceilings.rs`.

/// Of the memory that the machine, or the sidecar's cgroup, has: the rest is the application's.
const MEMORY_PERCENT_MAX: u64 = 50;

/// Of its ceiling: from here on memory is measured often, as it may be reached within a second.
const NEAR_PERCENT_MIN: u64 = 75;

/// Of its ceiling: above it a sidecar that was full takes nothing new yet.
const RECOVERED_PERCENT_MAX: u64 = 90;

/// How much there is of what has a ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    #[default]
    Low,
    /// To be measured often.
    Near,
    /// Nothing new is taken.
    Full,
}

impl Pressure {
    pub fn of(before: Self, used: u64, max: u64) -> Self {
        let above = |percent: u64| u128::from(used) * 100 >= u128::from(max) * u128::from(percent);
        let full_from = if before == Self::Full { RECOVERED_PERCENT_MAX } else { 100 };
        if above(full_from) {
            Self::Full
        } else if above(NEAR_PERCENT_MIN) {
            Self::Near
        } else {
            Self::Low
        }
    }
}

/// The ceiling of memory if nobody names one. `cgroup`: the least limit of those that the sidecar is in.
pub fn memory_max(machine: u64, cgroup: Option<u64>) -> u64 {
    cgroup.map_or(machine, |limit| limit.min(machine)) / 100 * MEMORY_PERCENT_MAX
}

/// Accepted connections that one of so many workers may have: a quarter of the descriptors is kept for connections
/// to others, or clients would be let in whose requests can go nowhere. Of a worker, as each is given the same
/// number and knows its own only.
pub fn clients_max(descriptors: u64, workers: usize) -> usize {
    let all = usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX);
    (all / workers.max(1)).max(1)
}

/// Of those clients, how many may wait in silence for servers that are silent, too. A way was opened for each: together
/// they hold at most half of the descriptors, and a flood of them leaves room for those who speak.
pub fn silent_max(descriptors: u64, workers: usize) -> usize {
    let all = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
    (all / workers.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_sidecar_recovers_only_when_there_is_clearly_less() {
        let mut pressure = Pressure::default();
        let mut at = |used| {
            pressure = Pressure::of(pressure, used, 100);
            pressure
        };
        let seen = [10, 75, 99, 100, 99, 90, 89, 99, 74, 500, 0].map(&mut at);
        use Pressure::{Full, Low, Near};
        assert_eq!(seen, [Low, Near, Near, Full, Full, Full, Near, Near, Low, Full, Low]);
    }

    #[test]
    fn the_default_is_half_of_what_there_is() {
        const GIB: u64 = 1 << 30;
        let check =
            |machine, cgroup, expect: u64| assert_eq!(memory_max(machine, cgroup) / 1_000, expect / 1_000);
        check(8 * GIB, None, 4 * GIB);
        check(8 * GIB, Some(GIB), GIB / 2);
        check(8 * GIB, Some(64 * GIB), 4 * GIB);
    }

    #[test]
    fn a_quarter_of_the_descriptors_is_kept() {
        assert_eq!(clients_max(1_024, 1), 768);
        assert_eq!(clients_max(1_024, 4), 192);
        assert_eq!(clients_max(3, 8), 1);
    }

    #[test]
    fn the_silent_hold_half_of_the_descriptors_at_most() {
        assert_eq!(silent_max(1_024, 1), 256);
        assert_eq!(silent_max(1_024, 4), 64);
        assert_eq!(silent_max(3, 8), 1);
    }

    proptest! {
        #[test]
        fn more_is_never_less_pressure(before in 0..3_u8, used: u64, more: u64, max: u64) {
            let before = [Pressure::Low, Pressure::Near, Pressure::Full][usize::from(before)];
            let rank = |used| Pressure::of(before, used, max) as u8;
            prop_assert!(rank(used) <= rank(used.saturating_add(more)));
        }
    }
}
