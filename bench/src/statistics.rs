//! Percentiles of one measurement, and the middle of several.

use serde::Serialize;

/// What the rounds gave for one number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None`: nothing was measured.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { min: rounded(min), median: rounded(median), max: rounded(max) })
    }
}

/// Four digits after the point: more than any of it means, and readable.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// Microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Latencies {
    /// `None`: no request was answered.
    pub(crate) fn of(mut microseconds: Vec<u64>) -> Option<Self> {
        microseconds.sort_unstable();
        let at = |per_mille: usize| nearest_rank(&microseconds, per_mille).map(|value| value as f64);
        Some(Self { p50: at(500)?, p99: at(990)?, p999: at(999)? })
    }
}

/// The smallest value that at least so many of a thousand do not exceed.
fn nearest_rank(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let thousand = Latencies::of((1..=1_000).rev().collect()).unwrap();
        assert_eq!(thousand, Latencies { p50: 500.0, p99: 990.0, p999: 999.0 });
        let one = Latencies::of(vec![7]).unwrap();
        assert_eq!(one, Latencies { p50: 7.0, p99: 7.0, p999: 7.0 });
        // One of a hundred is the hundredth of them: p99 does not see it, p99.9 does.
        let mut slow = vec![1; 99];
        slow.push(1_000);
        assert_eq!(Latencies::of(slow).unwrap(), Latencies { p50: 1.0, p99: 1.0, p999: 1_000.0 });
        assert_eq!(Latencies::of(vec![]), None);
    }
}
