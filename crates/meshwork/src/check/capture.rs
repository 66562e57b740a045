//! Whether connections could be captured on this machine, by which way and if not, why; what that would capture and what would
//! pass by; and what is captured here now. Changes nothing: rules are only tried, against a cgroup that is gone again.
//!
//! Who lacks something is told as a notice: a mesh works without capture, too.

use meshwork_core::capture::TableName;
use serde::Serialize;

use super::Report;
use super::findings::Finding;
use crate::capture::choice::{self, Capture, Way};
use crate::capture::{ability, kernel, network};

/// What `meshwork run` does here unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Prospect {
    pub(super) way: &'static str,
    pub(super) why: String,
    /// Sentences that say what is captured, refused, or passes.
    pub(super) what: Vec<String>,
}

pub(super) fn look(report: &mut Report) {
    let said = |tried: Result<(), ability::Inability>| tried.map_err(|error| error.to_string());
    let (cgroup, rules) = (said(ability::cgroup()), said(ability::rules()));
    let redirect = || rules.clone().and_then(|()| said(ability::redirect()));
    let (way, why) = choice::choose(Capture::Auto, || cgroup.clone(), redirect);
    report.capture = Some(Prospect { way: way.word(), why, what: what(way) });
    if !rustix::process::geteuid().is_root() {
        report
            .checked
            .push("whether capture is possible: only as root (run `meshwork check` as root, too)".to_owned());
        return;
    }
    for (name, outcome) in [("capture=redirect", rules), ("capture=cgroup", cgroup)] {
        match outcome {
            Ok(()) => report.checked.push(format!("what {name} needs: it is here")),
            Err(message) => report.findings.push(Finding::notice(
                name,
                message,
                "mend what the sentence says; until then use `meshwork run --capture=explicit`",
            )),
        }
    }
    if network::is_the_hosts() {
        let whose =
            "whose network namespace this is: the host's own, which `meshwork run` never captures as a whole";
        report.checked.push(whose.to_owned());
    }
    let captured = kernel::tables().unwrap_or_default(); // that they can't be listed was said above
    if !captured.is_empty() {
        let tables: Vec<&str> = captured.iter().map(TableName::as_str).collect();
        let tables = tables.join(", ");
        report
            .checked
            .push(format!("what is captured here: the tables {tables} (see `meshwork capture show`)"));
    }
}

/// Whose connections, then the rules' own words for which of them, then what no rule sees.
fn what(way: Way) -> Vec<String> {
    let (whose, unseen): (&str, &[&str]) = match way {
        Way::Cgroup => (
            "whose: the command's, and of all that it starts",
            &[
                "passes: other programs of this host, and sockets that they hand to the command",
                "passes: UDP (but questions to name servers), ICMP and raw sockets",
            ],
        ),
        Way::Redirect => (
            "whose: every program's in this network namespace",
            &["passes: UDP (but questions to name servers), ICMP and raw sockets"],
        ),
        Way::Explicit => (
            "whose: nobody's; the command gets proxy variables, and what ignores them passes by (docs/clients.md)",
            &[],
        ),
    };
    let rules = ability::sentences(way);
    let all = [whose.to_owned()].into_iter().chain(rules).chain(unseen.iter().map(|text| (*text).to_owned()));
    all.filter(|sentence| sentence != "passes: everything but TCP").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_a_notice_and_what_was_seen_is_said() {
        let mut report = Report::default();
        look(&mut report);
        let said = report.checked.len() + report.findings.len();
        assert!(said > 0, "nothing was said");
        for finding in &report.findings {
            assert_eq!(finding.severity, super::super::Severity::Notice, "{}", finding.message);
        }
    }

    #[test]
    fn what_would_be_captured_is_what_the_rules_say() {
        let says = |way, sentence: &str| what(way).iter().any(|said| said.starts_with(sentence));
        for way in [Way::Cgroup, Way::Redirect] {
            for sentence in [
                "captured: outbound TCP",
                "captured: inbound TCP",
                "captured: questions to name servers",
                "refused: UDP to virtual addresses",
                "passes: loopback",
                "passes: link-local",
                "passes: UDP (but questions to name servers), ICMP and raw sockets",
            ] {
                assert!(says(way, sentence), "{way:?} does not say: {sentence}");
            }
        }
        assert!(says(Way::Cgroup, "passes: other programs of this host"));
        assert!(!says(Way::Redirect, "passes: other programs of this host"));
        assert_eq!(what(Way::Explicit).len(), 1);
    }
}
