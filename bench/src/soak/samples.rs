//! What the processes hold, and whether it is flat: the mean of the last fifth of the looks against that of the second,
//! by when caches are full and every code path was used.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use crate::failure::{Doing as _, Result};
use crate::process_files;

/// What is looked at, and how much more the last fifth's mean may be: a share, and a step for what is small.
const TOLERANCES: [(&str, f64, f64); 6] = [
    // An allocator gives pages back late, and an instance more or less is a connection with its buffers.
    ("RSS MiB", 0.10, 2.0),
    // Blocking calls of the runtime end 10 s after their use.
    ("threads", 0.0, 2.0),
    // Those of an instance that just comes or goes, and of connections that wait for their last answer.
    ("tasks", 0.10, 16.0),
    // Instances that just come or go, and connections that wait for their last answer.
    ("descriptors", 0.10, 16.0),
    // Instances have names of their own, of which there are as many as slots.
    ("series", 0.05, 8.0),
    // A control plane's are those of all instances that are there, some of which just come or go.
    ("subscriptions", 0.10, 8.0),
];

#[derive(Default)]
pub(super) struct Samples(BTreeMap<(&'static str, &'static str), Vec<f64>>);

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) of: &'static str,
    pub(super) what: &'static str,
    pub(super) second_fifth: f64,
    pub(super) last_fifth: f64,
    pub(super) tolerance: f64,
    pub(super) is_flat: bool,
}

impl Samples {
    /// `metrics`: what it shows of itself, as OpenMetrics text.
    pub(super) fn look(&mut self, of: &'static str, id: u32, metrics: &str) -> Result<()> {
        let count = |what: &str| {
            let path = format!("/proc/{id}/{what}");
            fs::read_dir(&path).map(|entries| entries.count() as f64).doing(|| format!("reading {path}"))
        };
        let mut add = |what, value| self.0.entry((of, what)).or_default().push(value);
        add("RSS MiB", process_files::resident_mib(id)?);
        add("threads", count("task")?);
        add("descriptors", count("fd")?);
        let lines: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        add("series", lines.len() as f64);
        for what in ["tasks", "subscriptions"] {
            // A control plane's names begin with `meshwork_control_`.
            let value = |line: &&str| {
                let rest = line.strip_prefix("meshwork_")?;
                rest.strip_prefix("control_")
                    .unwrap_or(rest)
                    .strip_prefix(what)?
                    .strip_prefix(' ')?
                    .parse()
                    .ok()
            };
            add(what, lines.iter().find_map(value).unwrap_or(f64::NAN));
        }
        Ok(())
    }

    /// For who watches.
    pub(super) fn newest(&self) -> String {
        let rss = self.0.iter().filter(|((_, what), _)| *what == "RSS MiB");
        let texts = rss
            .map(|((of, _), values)| format!("{of} {:.1} MiB", values.last().copied().unwrap_or_default()));
        texts.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let all = self.0.iter().filter_map(|((of, what), values)| {
            let (_, share, step) = TOLERANCES.iter().find(|(known, ..)| known == what)?;
            Some(verdict(of, what, values, *share, *step))
        });
        all.collect()
    }
}

/// A value that was not found (NaN) is not flat.
fn verdict(of: &'static str, what: &'static str, values: &[f64], share: f64, step: f64) -> Verdict {
    let fifth = (values.len() / 5).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let second_fifth = mean(values.get(fifth..2 * fifth).unwrap_or(values));
    let last_fifth = mean(&values[values.len().saturating_sub(fifth)..]);
    let tolerance = second_fifth * share + step;
    Verdict { of, what, second_fifth, last_fifth, tolerance, is_flat: last_fifth <= second_fifth + tolerance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: impl IntoIterator<Item = f64>, is_flat: bool) {
        let values: Vec<f64> = values.into_iter().collect();
        assert_eq!(verdict("sidecar", "RSS MiB", &values, 0.10, 2.0).is_flat, is_flat, "{values:?}");
    }

    #[test]
    fn what_settles_or_jitters_is_flat_and_what_grows_is_not() {
        check((0..100).map(|look| if look < 15 { f64::from(look) } else { 20.0 }), true);
        check((0..100).map(|look| 20.0 + f64::from(look % 7)), true);
        check((0..100).map(|look| 20.0 + f64::from(look) * 0.1), false);
        check((0..100).map(|look| 20.0 - f64::from(look) * 0.1), true);
        check([20.0, f64::NAN, f64::NAN, 20.0, 20.0], false);
    }
}
