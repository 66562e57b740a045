//! `meshwork check`: is this machine, and is the mesh, as it should be? Each finding with its cure.
//!
//! Looks at what is here: the control plane by its socket, and with it the whole mesh; each sidecar that `run` started
//! here, or the one that `--admin` names. Ends with 1 if something does not work, or soon will not.
//!
//! | file | what |
//! |---|---|
//! | `findings.rs` | what the control plane tells, judged: pure |
//! | `capture.rs` | whether this machine can capture, and what is captured here |
//! | `machine.rs` | this machine: ports, sidecars, the way to the control plane |

mod capture;
mod findings;
mod machine;

use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::cli::CheckArgs;
use crate::client::{Client, ClientError};
use crate::{BoxError, login, output};
use capture::Prospect;
use findings::{Finding, Severity};

/// What was looked at, and what was found.
#[derive(Default)]
struct Report {
    checked: Vec<String>,
    findings: Vec<Finding>,
    /// `None`: it was not looked at.
    capture: Option<Prospect>,
}

pub(crate) async fn run(args: CheckArgs) -> Result<ExitCode, BoxError> {
    let mut report = Report::default();
    let client = login::client(&args.reach)?;
    mesh(&client, &mut report).await;
    machine::look(args.admin, &mut report).await;
    if report.checked.is_empty() {
        report.findings.insert(
            0,
            Finding::problem(
                "this machine",
                "neither a control plane nor a sidecar was found",
                "start one, run this as the user who runs it, or name it with --state-dir or --admin",
            ),
        );
    }
    capture::look(&mut report);
    report.findings.sort_by_key(|finding| finding.severity);
    let failed = report.findings.iter().any(|finding| finding.severity == Severity::Problem);
    let answer = json!({"checked": report.checked, "findings": report.findings, "capture": report.capture});
    output::print(args.output.output, &answer, |_| text(&report))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn mesh(client: &Client, report: &mut Report) {
    let asked = async {
        Ok::<_, ClientError>((client.get("/api/v1/status").await?, client.get("/api/v1/problems").await?))
    };
    match asked.await {
        Ok((status, problems)) => {
            let count = |field: &str| status[field].as_array().map_or(0, Vec::len);
            report.checked.push(format!(
                "the control plane of mesh {} at {}: {}, {}",
                output::cell(&status["meshId"]),
                output::cell(&status["address"]),
                output::counted(count("services"), "service", "services"),
                output::counted(count("proxies"), "sidecar", "sidecars")
            ));
            let found = findings::of_mesh(&status, &problems, env!("CARGO_PKG_VERSION"));
            report.findings.extend(found);
            if let Some(address) = status["address"].as_str() {
                report.findings.extend(machine::reach(address).await);
            }
        }
        // Most machines have sidecars only.
        Err(ClientError::NoControlPlane { .. }) => {}
        Err(error) => {
            let cure = "mend what the sentence says; until then only this machine's sidecars are looked at";
            report.findings.push(Finding::problem("the control plane", error.to_string(), cure));
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn text(report: &Report) -> String {
    let mut text: String = report.checked.iter().map(|checked| format!("looked at {checked}\n")).collect();
    if let Some(Prospect { way, why, what }) = &report.capture {
        text.push_str(&format!("\n`meshwork run` means --capture={way} here: {why}\n"));
        text.extend(what.iter().map(|sentence| format!("  {sentence}\n")));
    }
    for Finding { severity, subject, message, cure } in &report.findings {
        let word = match severity {
            Severity::Problem => "PROBLEM",
            Severity::Notice => "notice",
        };
        text.push_str(&format!("\n{word}  {subject}: {message}\n  cure: {cure}\n"));
    }
    if report.findings.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    text
}

/// A field of a sidecar's own words.
fn word<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_looked_at_and_how_each_finding_is_mended() {
        let mut report = Report { checked: vec!["the mesh".to_owned()], ..Report::default() };
        assert_eq!(text(&report), "looked at the mesh\nnothing is wrong\n");
        report.findings = vec![Finding::problem("port 1", "it is taken", "free it")];
        assert_eq!(text(&report), "looked at the mesh\n\nPROBLEM  port 1: it is taken\n  cure: free it\n");
    }
}
