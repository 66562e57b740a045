//! What a row of probes means: one that fails is an accident, several in a row are a fact.
//!
//! Pure: probing and waiting are the sidecar's for its own application (`proxy/src/side/health.rs`), and the control
//! plane's for workloads without a sidecar (`control/src/checks/mod.rs`).

/// One lost probe is an accident (a pause for garbage), three in a row are not.
const FAILURES_TO_UNWELL: u32 = 3;

/// Whoever said that it is unwell must be well twice, or it would flap in and out.
const SUCCESSES_TO_WELL: u32 = 2;

#[derive(Clone, Debug)]
pub struct Judge {
    well: bool,
    /// It was seen well.
    proven: bool,
    /// Probes in a row that spoke against `well`.
    against: u32,
}

/// A new finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Well,
    Unwell,
}

impl Judge {
    /// Not well until a probe says so: an application that is being started.
    pub fn unproven() -> Self {
        Self { well: false, proven: false, against: 0 }
    }

    /// Well until probes say otherwise: an endpoint that others may be using.
    pub fn believed() -> Self {
        Self { well: true, proven: false, against: 0 }
    }

    /// Whether any probe ever succeeded.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// The new finding, if it is one.
    pub fn record(&mut self, well: bool) -> Option<Turn> {
        let proven_before = self.proven;
        self.proven |= well;
        if well == self.well {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match (self.well, proven_before) {
            (true, _) => FAILURES_TO_UNWELL,
            (false, true) => SUCCESSES_TO_WELL,
            (false, false) => 1,
        };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.well = well;
        Some(if well { Turn::Well } else { Turn::Unwell })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is a probe that succeeds; the findings are `W`, `U` or nothing.
    #[track_caller]
    fn check(mut judge: Judge, probes: &str, expect: &str) {
        let found: String = probes
            .chars()
            .map(|probe| match judge.record(probe == '+') {
                Some(Turn::Well) => 'W',
                Some(Turn::Unwell) => 'U',
                None => ' ',
            })
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn one_good_probe_starts_and_three_bad_ones_end_it() {
        check(Judge::unproven(), "-++", " W ");
        check(Judge::unproven(), "+--+---", "W     U");
    }

    #[test]
    fn who_was_unwell_must_be_well_twice() {
        check(Judge::unproven(), "+---+-++", "W  U   W");
    }

    #[test]
    fn who_is_believed_is_well_until_three_probes_fail() {
        check(Judge::believed(), "--+---", "     U");
        check(Judge::believed(), "---+", "  UW"); // never seen well: the first time counts
    }
}
