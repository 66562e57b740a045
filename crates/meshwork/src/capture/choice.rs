//! Which way a run captures, and why: pure, from what was asked for and what this machine has.

use clap::ValueEnum;

/// What was asked for (`run --capture`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Capture {
    /// What this machine allows: cgroup, else explicit; the log says which and why
    Auto,
    /// Rules redirect what the command and its children do, and nobody else's; needs root, nftables and cgroup v2
    Cgroup,
    /// No rules: the command finds the sidecar by proxy variables or local ports, and no names resolve
    Explicit,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Cgroup,
    Explicit,
}

/// What this machine has, as far as it was looked at. An error says what is missing.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) root: bool,
    pub(crate) cgroup: Result<(), String>,
    pub(crate) nftables: Result<(), String>,
}

/// What is done, and why as a sentence.
pub(crate) fn choose(asked: Capture, facts: impl FnOnce() -> Facts) -> (Way, String) {
    match asked {
        Capture::Cgroup => (Way::Cgroup, "as --capture says".to_owned()),
        Capture::Explicit => (Way::Explicit, "as --capture says".to_owned()),
        Capture::Auto => match able(facts()) {
            Ok(()) => (Way::Cgroup, "this is root, and nftables and cgroup v2 are here".to_owned()),
            Err(missing) => (Way::Explicit, missing),
        },
    }
}

/// What is missing stands first, in the order in which it would be mended.
fn able(facts: Facts) -> Result<(), String> {
    if !facts.root {
        return Err("this is not root, and only root can make rules".to_owned());
    }
    facts.cgroup?;
    facts.nftables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_what_this_machine_allows_and_says_why() {
        let no = |what: &str| Err(what.to_owned());
        let rows = [
            (true, Ok(()), Ok(()), Way::Cgroup, "this is root"),
            (false, Ok(()), Ok(()), Way::Explicit, "not root"),
            (true, no("no cgroup v2"), no("no nft"), Way::Explicit, "no cgroup v2"),
            (true, Ok(()), no("no nft"), Way::Explicit, "no nft"),
        ];
        for (root, cgroup, nftables, way, why) in rows {
            let (chosen, reason) = choose(Capture::Auto, || Facts { root, cgroup, nftables });
            assert_eq!(chosen, way, "{reason}");
            assert!(reason.contains(why), "{reason}");
        }
    }

    #[test]
    fn what_was_asked_for_is_never_exchanged() {
        let facts = || -> Facts { panic!("nobody has to look") };
        assert_eq!(choose(Capture::Cgroup, facts).0, Way::Cgroup);
        assert_eq!(choose(Capture::Explicit, facts).0, Way::Explicit);
    }
}
