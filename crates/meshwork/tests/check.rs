//! `meshwork check` and `meshwork status` against real processes.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use support::load::application;
use support::{Mesh, wait_for};

/// (exit code, findings' messages).
fn check(mesh: &Mesh, admin: &str) -> (Option<i32>, Vec<(String, String)>) {
    let mut check = mesh.operate(["check", "-o", "json", "--admin", admin]);
    let output = check.output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = answer["findings"].as_array().unwrap().iter();
    let findings = findings.map(|finding| {
        assert!(!text(finding, "cure").is_empty(), "{finding:#}");
        (text(finding, "severity"), text(finding, "message"))
    });
    (output.status.code(), findings.collect())
}

fn says(findings: &[(String, String)], severity: &str, message: &str) -> bool {
    findings.iter().any(|(found, text)| found == severity && text.contains(message))
}

fn no_problem(findings: &[(String, String)]) -> bool {
    !findings.iter().any(|(severity, _)| severity == "problem")
}

/// `check` wakes a person: a command that ran to its end is no reason, neither one that only calls nor one that serves.
#[test]
fn whoever_took_its_leave_is_no_problem_and_whoever_only_calls_needs_no_service() {
    let mesh = Mesh::start();
    let port = format!("80:{}", application());
    let cart = mesh.start_run("cart", "cart", &["--port", &port], ["sleep", "1000"]);
    let well = |what: &str| {
        wait_for(what, || {
            let (code, findings) = check(&mesh, &cart.admin);
            (code == Some(0) && no_problem(&findings)).then_some(())
        });
    };
    well("a mesh without problems");
    let mut web = mesh.start_run("web", "web", &[], ["sleep", "1000"]);
    well("a mesh without problems, with one that only calls");
    let (_, findings) = check(&mesh, &cart.admin);
    assert!(!says(&findings, "notice", "no service selects the workload"), "{findings:#?}");
    web.process.signal(Signal::TERM);
    web.process.ended();

    for (service, flags) in [("job", &[][..]), ("pay", &["--port", &port])] {
        let ended = mesh.run(service, service, flags, ["true"]).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        let (code, findings) = check(&mesh, &cart.admin);
        assert!(code == Some(0) && no_problem(&findings), "{service}: {findings:#?}");
    }
}

#[test]
fn a_mesh_is_well_until_something_is_wrong_and_then_that_is_named_with_its_cure() {
    let mut mesh = Mesh::start();
    let app = application();
    let port = format!("80:{app}");
    let cart = mesh.start_run("cart", "cart", &["--port", &port], ["sleep", "1000"]);
    let admin = cart.admin.clone();
    wait_for("a mesh without problems", || {
        let (code, findings) = check(&mesh, &admin);
        (code == Some(0) && no_problem(&findings)).then_some(())
    });
    let table = mesh.operate(["check", "--admin", &admin]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("looked at the control plane of mesh") && table.contains(&admin), "{table}");
    assert!(table.contains(": 1 service, 1 sidecar\n"), "{table}");
    let status = String::from_utf8(mesh.operate(["status"]).output().unwrap().stdout).unwrap();
    assert!(status.contains("VERSION") && status.contains(env!("CARGO_PKG_VERSION")), "{status}");

    // A document that does not fit: a notice, since what is missing may come.
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: lost}\nspec:\n  parentRefs: [{group: '', kind: Service, name: nobody}]\n  rules: [{backendRefs: [{name: nobody, port: 80}]}]\n---\napiVersion: meshwork.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: idle}\nspec: {targetRefs: [{group: '', kind: Service, name: nobody}], timeouts: {connect: 1s}}\n";
    let file = mesh.path().join("lost.yaml");
    std::fs::write(&file, route).unwrap();
    let applied = mesh.operate(["apply", "-f", file.to_str().unwrap()]).output().unwrap();
    assert!(applied.status.success(), "{applied:?}");
    let (code, findings) = check(&mesh, &admin);
    assert!(
        code == Some(0)
            && says(&findings, "notice", "there is no Service default/nobody")
            && says(&findings, "notice", "so the policy does nothing"),
        "{findings:#?}"
    );

    // Without control plane the sidecar says what it lacks.
    mesh.kill_control();
    wait_for("the sidecar to notice", || {
        let (code, findings) = check(&mesh, &admin);
        (code == Some(1) && says(&findings, "problem", "its config is stale")).then_some(())
    });
    drop(cart);
    let (code, findings) = check(&mesh, &admin);
    assert!(code == Some(1) && says(&findings, "problem", "admin port does not answer"), "{findings:#?}");
}
