//! What is wrong with a mesh, as the control plane tells of it: each finding with its cure. Pure.

use serde::Serialize;
use serde_json::Value;

use crate::output::counted;
use crate::show::minute;

/// How far two clocks may differ. Certificates begin five minutes before they are made, so there is no harm up to
/// that; half a minute is already somebody's broken NTP.
const CLOCKS_APART_SECONDS_MAX: i64 = 30;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Something does not work, or soon will not: `check` ends with 1.
    Problem,
    /// Worth knowing.
    Notice,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What it is about: a sidecar, a resource, a port.
    pub(crate) subject: String,
    pub(crate) message: String,
    pub(crate) cure: String,
}

impl Finding {
    pub(crate) fn problem(subject: &str, message: impl Into<String>, cure: &str) -> Self {
        Self::of(Severity::Problem, subject, message, cure)
    }

    pub(crate) fn notice(subject: &str, message: impl Into<String>, cure: &str) -> Self {
        Self::of(Severity::Notice, subject, message, cure)
    }

    fn of(severity: Severity, subject: &str, message: impl Into<String>, cure: &str) -> Self {
        Self { severity, subject: subject.to_owned(), message: message.into(), cure: cure.to_owned() }
    }
}

/// What `GET /api/v1/status` and `/api/v1/problems` show. `version`: this program's.
pub(crate) fn of_mesh(status: &Value, problems: &Value, version: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let control = text(&status["version"]);
    findings.extend(of_versions("the control plane", control, "this program", version));
    for lost in list(&status["lost"]) {
        findings.push(Finding::problem(
            "the control plane's store",
            format!(
                "it does not have what {} seen (up to revision {}): it is an older copy, and whoever saw more keeps \
                 that config",
                counted(list(&lost["sidecars"]).len(), "sidecar has", "sidecars have"),
                lost["revisionSeen"]
            ),
            "bring back the newer store, or take this one as it is with `meshwork accept-store`",
        ));
    }
    findings.extend(list(&status["services"]).iter().filter_map(of_service));
    for proxy in list(&status["proxies"]) {
        of_proxy(proxy, control, &mut findings);
    }
    for resource in list(&problems["items"]) {
        let subject = subject(&resource["kind"], resource);
        for problem in list(&resource["problems"]) {
            let message = format!("{}: {}", text(&problem["path"]), text(&problem["message"]));
            findings.push(Finding::notice(&subject, message, text(&problem["cure"])));
        }
    }
    findings
}

fn of_service(service: &Value) -> Option<Finding> {
    let count = |field: &str| service[field].as_u64().unwrap_or(0);
    let (healthy, unhealthy, draining) = (count("healthy"), count("unhealthy"), count("draining"));
    let subject = format!("service {}/{}", text(&service["namespace"]), text(&service["name"]));
    let message = format!("none of its endpoints is healthy ({unhealthy} unhealthy, {draining} draining)");
    // Without any endpoint it is a problem of the documents, and told with those.
    match (healthy, unhealthy, draining) {
        (1.., ..) | (0, 0, 0) => None,
        // They said that they leave, and soon there is none.
        (0, 0, 1..) => {
            let cure = "nothing, if they were meant to end; else start another";
            Some(Finding::notice(&subject, message, cure))
        }
        (0, 1.., _) => {
            let cure = "`meshwork describe service` lists them; look at the applications, or at their sidecars' logs";
            Some(Finding::problem(&subject, message, cure))
        }
    }
}

fn of_proxy(proxy: &Value, control: &str, findings: &mut Vec<Finding>) {
    let subject = format!("sidecar {}/{}", text(&proxy["namespace"]), text(&proxy["workload"]));
    if proxy["connected"] == false {
        // It took its leave, and is on the list until its lease ends.
        if proxy["health"] == "draining" {
            return;
        }
        let age = proxy["leaseAgeSeconds"].as_f64().unwrap_or(0.0);
        findings.push(Finding::problem(
            &subject,
            format!("it is not connected; its last word came {age:.0} s ago"),
            "start it again, or find out why it cannot reach the control plane; if it is gone for good, it leaves \
             the list ten minutes after its lease",
        ));
        return;
    }
    findings.extend(of_versions(&subject, text(&proxy["version"]), "the control plane", control));
    let lacks: Vec<&str> = list(&proxy["lacks"]).iter().map(text).collect();
    if !lacks.is_empty() {
        let message = format!("it lacks what this control plane knows: {}", lacks.join(", "));
        findings.push(Finding::notice(&subject, message, "update it, if what it lacks is wanted"));
    }
    for nack in list(&proxy["config"]["nacks"]) {
        let [kind, name, reason] = ["type", "name", "reason"].map(|field| text(&nack[field]));
        findings.push(Finding::problem(
            &subject,
            format!("it refused {kind} {name} and keeps the version before: {reason}"),
            "change what the resource is made of, or update the sidecar",
        ));
    }
    findings.extend(of_config(&subject, &proxy["summary"]));
    findings.extend(of_clock(&subject, proxy["clockAheadSeconds"].as_i64()));
    findings.extend(of_certificate(&subject, &proxy["trafficStops"]));
    for backend in list(&proxy["summary"]["backends"]) {
        of_backend(&subject, backend, findings);
    }
}

fn of_config(subject: &str, summary: &Value) -> Option<Finding> {
    let reason = text(&summary["configReason"]);
    matches!(text(&summary["config"]), "kept" | "stale" | "missing" | "refused").then(|| {
        let message = format!("its config is not the newest: {reason}");
        Finding::problem(subject, message, "mend what the sentence says; traffic goes on meanwhile")
    })
}

fn of_clock(subject: &str, ahead: Option<i64>) -> Option<Finding> {
    let ahead = ahead.filter(|ahead| ahead.abs() > CLOCKS_APART_SECONDS_MAX)?;
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    Some(Finding::problem(
        subject,
        format!(
            "its clock is {} s {side} the control plane's; certificates fail if clocks differ",
            ahead.abs()
        ),
        "let both machines keep their time by NTP",
    ))
}

fn of_certificate(subject: &str, stops: &Value) -> Option<Finding> {
    let (at, reason) = (stops["at"].as_str()?, text(&stops["reason"]));
    let message = format!("its certificate is not renewed ({reason}): its traffic stops at {}", minute(at));
    let cure = "mend what the sentence says before that; where it cannot be, start the sidecar again with a new join token";
    Some(Finding::problem(subject, message, cure))
}

fn of_backend(subject: &str, backend: &Value, findings: &mut Vec<Finding>) {
    let name = text(&backend["backend"]);
    for ejected in list(&backend["ejected"]) {
        let [address, workload] = ["address", "workload"].map(|field| text(&ejected[field]));
        findings.push(Finding::notice(
            subject,
            format!("it has ejected {workload} ({address}) from {name}, as it answers badly"),
            "look at that workload's log; it is taken back by itself",
        ));
    }
    if backend["budgetUsedUp"] == true {
        findings.push(Finding::problem(
            subject,
            format!("its retry budget for {name} is used up: what fails there is answered as it is"),
            "mend the service; its endpoints fail more often than retries may hide",
        ));
    }
}

/// One minor version either way is supported.
fn of_versions(subject: &str, version: &str, than: &str, other: &str) -> Option<Finding> {
    if version == other || version.is_empty() || other.is_empty() {
        return None;
    }
    let message = format!("it is of version {version}, {than} of {other}");
    Some(match (minor(version), minor(other)) {
        (Some((major, minor)), Some((other_major, other_minor)))
            if major == other_major && minor.abs_diff(other_minor) <= 1 =>
        {
            Finding::notice(subject, message, "update the older one when it suits you")
        }
        _ => Finding::problem(subject, message, "update: one minor version either way is supported"),
    })
}

fn minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn subject(kind: &Value, resource: &Value) -> String {
    format!("{} {}/{}", text(kind), text(&resource["namespace"]), text(&resource["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A sidecar with which all is well, but for what is changed.
    fn proxy(change: impl FnOnce(&mut Value)) -> Value {
        let mut proxy = json!({
            "namespace": "default", "workload": "cart-1", "version": "0.1.0", "connected": true, "lacks": [],
            "clockAheadSeconds": 1, "certificateExpires": "2026-11-23T14:05:09Z",
            "config": {"nacks": []}, "summary": {"config": "current", "backends": []},
        });
        change(&mut proxy);
        json!({"version": "0.1.0", "lost": [], "services": [], "proxies": [proxy]})
    }

    #[track_caller]
    fn check(status: &Value, expect: &[(Severity, &str)]) {
        let findings = of_mesh(status, &json!({"items": []}), "0.1.0");
        assert_eq!(findings.len(), expect.len(), "{findings:#?}");
        for (finding, (severity, message)) in findings.iter().zip(expect) {
            assert_eq!(finding.severity, *severity, "{finding:?}");
            assert!(finding.message.contains(message), "{finding:?}");
            assert!(!finding.cure.is_empty());
        }
    }

    #[test]
    fn a_mesh_that_is_well_has_no_findings() {
        check(&proxy(|_| {}), &[]);
    }

    #[test]
    fn a_sidecar_that_is_gone_is_that_and_nothing_else() {
        let gone = proxy(|proxy| {
            proxy["connected"] = json!(false);
            proxy["leaseAgeSeconds"] = json!(20.4);
            proxy["version"] = json!("");
        });
        check(&gone, &[(Severity::Problem, "20 s ago")]);
    }

    #[test]
    fn a_sidecar_that_drained_and_is_gone_took_its_leave() {
        let gone = |health: &str| {
            proxy(|proxy| {
                proxy["connected"] = json!(false);
                proxy["health"] = json!(health);
            })
        };
        check(&gone("draining"), &[]);
        check(&gone("unhealthy"), &[(Severity::Problem, "not connected")]);
    }

    #[test]
    fn one_minor_version_apart_is_a_notice_and_more_a_problem() {
        check(&proxy(|proxy| proxy["version"] = json!("0.2.7")), &[(Severity::Notice, "0.2.7")]);
        check(&proxy(|proxy| proxy["version"] = json!("0.3.0")), &[(Severity::Problem, "0.3.0")]);
        check(&proxy(|proxy| proxy["version"] = json!("1.1.0")), &[(Severity::Problem, "1.1.0")]);
        check(
            &proxy(|proxy| proxy["lacks"] = json!(["meshwork.http2"])),
            &[(Severity::Notice, "meshwork.http2")],
        );
    }

    #[test]
    fn refused_and_kept_config_is_a_problem() {
        let nack = json!({"type": "route", "name": "default/cart:80", "reason": "no such field"});
        let nacked = proxy(|proxy| proxy["config"]["nacks"] = json!([nack]));
        check(&nacked, &[(Severity::Problem, "refused route default/cart:80")]);
        let kept =
            proxy(|proxy| proxy["summary"] = json!({"config": "kept", "configReason": "an older copy"}));
        check(&kept, &[(Severity::Problem, "an older copy")]);
        let lost = json!({"version": "0.1.0", "lost": [{"revisionSeen": 9, "sidecars": ["a", "b"]}]});
        check(&lost, &[(Severity::Problem, "what 2 sidecars have seen (up to revision 9)")]);
        let lost = json!({"version": "0.1.0", "lost": [{"revisionSeen": 9, "sidecars": ["a"]}]});
        check(&lost, &[(Severity::Problem, "what 1 sidecar has seen (up to revision 9)")]);
    }

    #[test]
    fn clocks_and_certificates_are_looked_at() {
        check(
            &proxy(|proxy| proxy["clockAheadSeconds"] = json!(-400)),
            &[(Severity::Problem, "400 s behind")],
        );
        let stops = json!({"at": "2026-11-23T14:05:09Z", "reason": "no such account"});
        let message = "not renewed (no such account): its traffic stops at 14:05 (UTC), 2026-11-23";
        check(&proxy(|proxy| proxy["trafficStops"] = stops), &[(Severity::Problem, message)]);
    }

    #[test]
    fn ejections_and_budgets_are_told_by_the_sidecar_that_made_them() {
        let backend = json!({"backend": "default/pay:80", "budgetUsedUp": true,
            "ejected": [{"address": "10.0.0.1:80", "workload": "pay-1"}]});
        let told = proxy(|proxy| proxy["summary"]["backends"] = json!([backend]));
        check(
            &told,
            &[(Severity::Notice, "ejected pay-1"), (Severity::Problem, "retry budget for default/pay:80")],
        );
    }

    #[test]
    fn a_service_is_well_while_one_endpoint_is() {
        let of = |healthy: u64| {
            let service = json!({"namespace": "default", "name": "cart", "healthy": healthy, "unhealthy": 1});
            json!({"version": "0.1.0", "services": [service]})
        };
        check(&of(1), &[]);
        check(&of(0), &[(Severity::Problem, "none of its endpoints is healthy")]);
    }

    /// As with a service that nobody serves any more: whoever ended it knows.
    #[test]
    fn a_service_whose_endpoints_all_take_their_leave_is_a_notice() {
        let of = |unhealthy: u64| {
            let service = json!({"namespace": "default", "name": "cart", "healthy": 0, "unhealthy": unhealthy, "draining": 1});
            json!({"version": "0.1.0", "services": [service]})
        };
        check(&of(0), &[(Severity::Notice, "(0 unhealthy, 1 draining)")]);
        check(&of(1), &[(Severity::Problem, "(1 unhealthy, 1 draining)")]);
    }

    #[test]
    fn problems_of_documents_are_told_with_their_place() {
        let problem = json!({"path": "spec.selector", "message": "no workload", "cure": "start one"});
        let problems =
            json!({"items": [{"kind": "Service", "namespace": "a", "name": "b", "problems": [problem]}]});
        let findings = of_mesh(&json!({}), &problems, "0.1.0");
        assert_eq!(findings, [Finding::notice("Service a/b", "spec.selector: no workload", "start one")]);
    }
}
