//! Whether connections could be captured on this machine, and what is captured here now. Changes nothing: rules are only
//! tried, and the kernel is asked.
//!
//! Who lacks something is told as a notice: a mesh works without capture, too.

use meshwork_core::capture::{self, Exempt, MARK, Plan, Scope, Selection, TableName};

use super::Report;
use super::findings::Finding;
use crate::capture::kernel;
use crate::cgroup;

pub(super) fn look(report: &mut Report) {
    if !rustix::process::geteuid().is_root() {
        report.checked.push("nothing of capture, as only root can (run `meshwork check` as root)".to_owned());
        return;
    }
    let lacking = [
        ("capture=redirect", kernel::try_rules(&plan()).map_err(|error| sentence(&error))),
        ("capture=cgroup", cgroup::find_place().map(|_| ()).map_err(|error| sentence(&error))),
    ];
    for (way, outcome) in lacking {
        match outcome {
            Ok(()) => report.checked.push(format!("what {way} needs: it is here")),
            Err(message) => report.findings.push(Finding::notice(
                way,
                message,
                "mend what the sentence says; until then use `meshwork run --capture=explicit`",
            )),
        }
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

fn sentence(error: &dyn std::error::Error) -> String {
    error.to_string()
}

/// What `meshwork capture apply` would apply.
fn plan() -> Plan {
    Plan {
        table: TableName::of_namespace(),
        scope: Scope::Namespace,
        exempt: Exempt::Mark(MARK),
        exclude_users: Vec::new(),
        outbound: capture::OUTBOUND_PORT,
        inbound: Some(capture::INBOUND_PORT),
        dns: Some(capture::DNS_PORT),
        virtual_ranges: capture::virtual_ranges_default(),
        outgoing: Selection::default(),
        incoming: Selection::default(),
    }
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
}
