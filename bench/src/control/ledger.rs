//! From what was written and what was acknowledged to how long each change took. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A change of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) service: usize,
    /// The store's, as of which it is there.
    pub(super) revision: u64,
    /// When it was sent to the control plane: parsing, writing to disk and compiling count.
    pub(super) at: Duration,
}

/// A sidecar confirmed a service's endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    pub(super) service: usize,
    pub(super) sidecar: usize,
    /// As of which it was told.
    pub(super) revision: u64,
    /// When it had answered.
    pub(super) at: Duration,
}

/// How long each change took until the last of its subscribers had confirmed it; `None`: somebody has not.
pub(super) fn latencies(
    changes: &[Change],
    acks: &[Ack],
    callers: &[Vec<usize>],
    left_out: &BTreeSet<usize>,
) -> Vec<Option<Duration>> {
    let mut of: BTreeMap<(usize, usize), Vec<Ack>> = BTreeMap::new();
    for ack in acks {
        of.entry((ack.service, ack.sidecar)).or_default().push(*ack);
    }
    let first = |change: &Change, sidecar: usize| {
        let acks = of.get(&(change.service, sidecar)).map(Vec::as_slice).unwrap_or_default();
        acks.iter().filter(|ack| ack.revision >= change.revision).map(|ack| ack.at).min()
    };
    let last = |change: &Change| {
        let subscribers = callers[change.service].iter().filter(|sidecar| !left_out.contains(sidecar));
        let mut last = Duration::ZERO;
        for sidecar in subscribers {
            last = last.max(first(change, *sidecar)?);
        }
        Some(last.saturating_sub(change.at))
    };
    changes.iter().map(last).collect()
}

/// Milliseconds that a share of them do not exceed.
pub(super) fn percentile_ms(latencies: &[Duration], per_mille: usize) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
    let found = sorted.get(rank - 1).map_or(0.0, Duration::as_secs_f64);
    (found * 1e4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ack(sidecar: usize, revision: u64, at: u64) -> Ack {
        Ack { service: 0, sidecar, revision, at: ms(at) }
    }

    #[test]
    fn a_change_has_arrived_when_the_last_subscriber_has_it() {
        let changes = [7, 8].map(|revision| Change { service: 0, revision, at: ms(100 + revision) });
        let callers = [vec![1, 2, 3]];
        // Two changes in one push, which sidecar 2 was told in turn.
        let acks = [ack(1, 8, 120), ack(2, 7, 118), ack(2, 8, 131), ack(3, 8, 119), ack(9, 6, 500)];
        let none = BTreeSet::new();
        assert_eq!(latencies(&changes, &acks, &callers, &none), [Some(ms(13)), Some(ms(23))]);
        assert_eq!(latencies(&changes, &acks[1..], &callers, &none), [None, None]);
        assert_eq!(latencies(&changes, &acks[1..], &callers, &[1].into())[1], Some(ms(23)));
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let all: Vec<_> = (1..=100).map(ms).collect();
        assert_eq!((percentile_ms(&all, 500), percentile_ms(&all, 990)), (50.0, 99.0));
        assert_eq!(percentile_ms(&[], 500), 0.0);
    }
}
