//! Which way a run captures, and why: pure, from what was asked for and what this machine has.

use clap::ValueEnum;

/// What was asked for (`run --capture`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Capture {
    /// What this machine allows: cgroup, else redirect in a network namespace that is not the host's own, else explicit; the log
    /// says which and why
    Auto,
    /// Rules redirect everything in this network namespace, a container's or a pod's; needs the capability NET_ADMIN and nftables
    Redirect,
    /// Rules redirect what the command and its children do, and nobody else's; needs root, nftables and cgroup v2
    Cgroup,
    /// No rules: the command finds the sidecar by proxy variables or local ports, and no names resolve
    Explicit,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Redirect,
    Cgroup,
    Explicit,
}

impl Way {
    /// As `--capture` names it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Cgroup => "cgroup",
            Self::Explicit => "explicit",
        }
    }
}

/// What is done, and why as a sentence. Whether a way is possible here is found out only if that matters; an error says what
/// is missing.
pub(crate) fn choose<C: ToString, R: ToString>(
    asked: Capture,
    cgroup: impl FnOnce() -> Result<(), C>,
    redirect: impl FnOnce() -> Result<(), R>,
) -> (Way, String) {
    let as_asked = || "as --capture says".to_owned();
    match asked {
        Capture::Redirect => (Way::Redirect, as_asked()),
        Capture::Cgroup => (Way::Cgroup, as_asked()),
        Capture::Explicit => (Way::Explicit, as_asked()),
        // One command's rules leave everybody else alone, so they come first.
        Capture::Auto => match cgroup().map_err(|error| error.to_string()) {
            Ok(()) => (Way::Cgroup, "this is root, and nftables and cgroup v2 are here".to_owned()),
            Err(no_cgroup) => match redirect().map_err(|error| error.to_string()) {
                Ok(()) => {
                    (Way::Redirect, format!("this network namespace is not the host's own, and {no_cgroup}"))
                }
                // Both lack the same, mostly.
                Err(no_redirect) if no_redirect == no_cgroup => (Way::Explicit, no_cgroup),
                Err(no_redirect) => (Way::Explicit, format!("{no_cgroup}; and {no_redirect}")),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroup: Result<(), &str>, redirect: Result<(), &str>, way: Way, why: &str) {
        let owned = |known: Result<(), &str>| known.map_err(str::to_owned);
        let chosen = choose(Capture::Auto, || owned(cgroup), || owned(redirect));
        assert_eq!(chosen, (way, why.to_owned()));
    }

    #[test]
    fn auto_takes_what_this_machine_allows_and_says_why() {
        let all = "this is root, and nftables and cgroup v2 are here";
        check(Ok(()), Ok(()), Way::Cgroup, all);
        check(Ok(()), Err("it is the host's"), Way::Cgroup, all);
        let container = "this network namespace is not the host's own, and no cgroup v2";
        check(Err("no cgroup v2"), Ok(()), Way::Redirect, container);
        check(Err("not root"), Err("not root"), Way::Explicit, "not root");
        let neither = "no cgroup v2; and it is the host's";
        check(Err("no cgroup v2"), Err("it is the host's"), Way::Explicit, neither);
    }

    #[test]
    fn what_was_asked_for_is_never_exchanged() {
        let look = || -> Result<(), String> { panic!("nobody has to look") };
        assert_eq!(choose(Capture::Redirect, look, look).0, Way::Redirect);
        assert_eq!(choose(Capture::Cgroup, look, look).0, Way::Cgroup);
        assert_eq!(choose(Capture::Explicit, look, look).0, Way::Explicit);
    }
}
