//! What the figures should be, beside the peers of the same run. A ratio is the median of the rounds' ratios: a machine that
//! others slow down for a while slows down both, if they are measured one after the other.

use std::fmt;

use crate::load::Load;
use crate::results::{Results, Round, Row};
use crate::statistics::Spread;
use crate::topology::Topology;

const OURS: Topology = Topology::MeshworkH2;
const CAPTURED: Topology = Topology::MeshworkCaptured;

/// What capture may add to a request.
const CAPTURE_MAX: f64 = 1.15;

/// One figure of ours: as it is, or divided by a peer's.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) is: f64,
    /// At most.
    pub(crate) needed: f64,
    /// What would be better still; `None`: the same.
    pub(crate) target: Option<f64>,
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Target,
    Needed,
    Missed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Target => "target met",
            Self::Needed => "needed met",
            Self::Missed => "MISSED",
        })
    }
}

impl Goal {
    pub(crate) fn verdict(&self) -> Verdict {
        if self.is > self.needed {
            Verdict::Missed
        } else if self.target.is_none_or(|target| self.is <= target) {
            Verdict::Target
        } else {
            Verdict::Needed
        }
    }
}

type Figure = fn(&Round) -> f64;

/// Load, figure, its name, whose, beside whose, needed, target.
type Ratio = (Load, Figure, &'static str, Topology, Topology, f64, Option<f64>);

const RATIOS: [Ratio; 14] = [
    (Load::H1Small, cpu, "CPU", OURS, Topology::Nginx, 0.75, Some(0.50)),
    (Load::H1Small, cpu, "CPU", OURS, Topology::Envoy, 0.33, Some(0.22)),
    (Load::Rate, cpu, "CPU", OURS, Topology::Nginx, 0.85, Some(0.62)),
    (Load::Rate, cpu, "CPU", OURS, Topology::Envoy, 0.36, Some(0.25)),
    (Load::Rate, p50, "p50", OURS, Topology::Nginx, 0.85, None),
    (Load::H1Large, cpu, "CPU", OURS, Topology::Nginx, 0.65, None),
    // No figure was asked for: to be ahead of it.
    (Load::H1Small, cpu, "CPU", OURS, Topology::Haproxy, 1.0, None),
    (Load::H1Small, cpu, "CPU", CAPTURED, OURS, CAPTURE_MAX, None),
    (Load::Rate, cpu, "CPU", CAPTURED, OURS, CAPTURE_MAX, None),
    (Load::H1Small, total, "CPU with client and application", CAPTURED, OURS, CAPTURE_MAX, None),
    (Load::Rate, total, "CPU with client and application", CAPTURED, OURS, CAPTURE_MAX, None),
    // Behind the same rules: to be ahead of it.
    (
        Load::Connects,
        interval,
        "time between two new connections",
        CAPTURED,
        Topology::EnvoyCaptured,
        1.0,
        None,
    ),
    (Load::Connects, p99, "p99 of a new connection", CAPTURED, Topology::EnvoyCaptured, 1.0, None),
    (Load::Connects, cpu, "CPU of a new connection", CAPTURED, Topology::EnvoyCaptured, 1.0, None),
];

fn cpu(round: &Round) -> f64 {
    round.cpu_s_per_10k
}

fn total(round: &Round) -> f64 {
    round.total_cpu_s_per_10k
}

fn interval(round: &Round) -> f64 {
    1.0 / round.rps
}

fn p99(round: &Round) -> f64 {
    round.p99_us
}

fn p50(round: &Round) -> f64 {
    round.p50_us
}

/// `None`: there was no round.
fn ratio(ours: &Row, theirs: &Row, figure: Figure) -> Option<f64> {
    let of_rounds =
        ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| figure(ours) / figure(theirs));
    Spread::of(of_rounds).map(|spread| spread.median)
}

/// Those that this run has the rows for.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (load, figure, name, whose, peer, needed, target) in RATIOS {
        let (Some(ours), Some(theirs)) = (results.row(whose, load), results.row(peer, load)) else {
            continue;
        };
        let whose = if whose == CAPTURED { "captured" } else { "ours" };
        let what = format!("{name} at {load}, {whose} / {peer}");
        goals.extend(ratio(ours, theirs, figure).map(|is| Goal { what, is, needed, target, unit: "x" }));
    }
    let any = Load::ALL.into_iter().find_map(|load| results.row(OURS, load));
    let mut absolute = |what: &str, is: Option<f64>, needed, target, unit| {
        goals.extend(is.map(|is| Goal { what: what.to_owned(), is, needed, target, unit }));
    };
    absolute("RSS idle", any.and_then(|row| row.rss_idle_mib), 14.0, None, "MiB");
    absolute("RSS at 1,000 connections", any.and_then(|row| row.rss_1000_mib), 32.0, Some(24.0), "MiB");
    absolute("start to first 200", any.and_then(|row| row.start_ms), 80.0, Some(50.0), "ms");
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is: f64, target: Option<f64>, expect: Verdict) {
        let goal = Goal { what: String::new(), is, needed: 0.75, target, unit: "x" };
        assert_eq!(goal.verdict(), expect);
    }

    #[test]
    fn a_goal_is_met_up_to_its_figure() {
        check(0.50, Some(0.50), Verdict::Target);
        check(0.51, Some(0.50), Verdict::Needed);
        check(0.75, None, Verdict::Target);
        check(0.76, Some(0.50), Verdict::Missed);
        check(f64::INFINITY, None, Verdict::Missed);
    }
}
