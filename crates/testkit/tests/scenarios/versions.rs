//! The same model has the same versions everywhere: a version is of what a resource says, never of how a process
//! happened to order it.

use std::collections::BTreeSet;

use meshwork_core::resource::ResourceType;
use meshwork_testkit::{Mesh, workload};
use meshwork_xds::convert;
use tokio::process::Command;

use super::ads;

/// What a line of ours begins with, among those of the test runner.
const LINE: &str = "version:";

/// Much of everything that has an order: ports, labels, accounts, rules, headers, weights, endpoints.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, annotations: {meshwork.dev/accounts: 'cart,cart-a,cart-b,cart-c', meshwork.dev/balance: roundRobin}}
spec: {selector: {app: cart, tier: middle, zone: a}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: raw, port: 9000, targetPort: 9000, appProtocol: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: catalog}
spec: {selector: {app: catalog}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules:
  - matches:
    - {path: {type: Exact, value: /a}, headers: [{name: x-a, value: '1'}, {name: x-b, value: '2'}, {name: x-c, value: '3'}]}
    - {path: {type: PathPrefix, value: /b}, method: POST}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-d, value: d}, {name: x-e, value: e}], add: [{name: x-f, value: f}], remove: [x-g, x-h, x-i]}}
    backendRefs: [{name: cart, port: 80, weight: 7}, {name: catalog, port: 80, weight: 3}]
  - backendRefs: [{name: cart, port: 80}]
---
";

fn shop() -> String {
    let workload = |service: &str, number: usize| {
        format!(
            "
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: {service}-{number}, labels: {{app: {service}, tier: middle, zone: a}}}}
spec:
  serviceAccount: {service}
  locality: {{region: r{number}, zone: z{number}}}
  ports:
  - {{port: 8080, address: '127.0.0.1:{}', transports: [mtls-http1, mtls-tcp]}}
  - {{port: 9000, address: '127.0.0.1:{}', transports: [mtls-tcp]}}
---
",
            20_000 + number,
            21_000 + number
        )
    };
    let workloads = (0..20).map(|number| workload(if number % 2 == 0 { "cart" } else { "catalog" }, number));
    SHOP.to_owned() + &workloads.collect::<String>()
}

#[tokio::test]
async fn a_control_plane_tells_a_version_for_everything_on_the_way_to_a_service() {
    let mesh = Mesh::builder().start().await;
    mesh.apply(&shop()).await;
    let web = mesh.join(workload("web")).await;
    // Listener, route, cluster and endpoints of both ports; cluster and endpoints of the route's other backend; and
    // the settings and the trust bundle that every sidecar gets.
    let held = ads::fetch(&ads::enrolled(&web), "default/web-1", &["cart:80", "cart.default:9000"], 12).await;
    let own = [ResourceType::MeshSettings, ResourceType::TrustBundle]; // of one mesh only
    let lines: BTreeSet<String> = held
        .iter()
        .map(|held| (convert::reference(&held.resource), &held.version))
        .filter(|(reference, _)| !own.contains(&reference.resource_type))
        .map(|(reference, version)| format!("{LINE}{reference} {version}"))
        .collect();
    assert_eq!(lines.len(), 10, "{lines:#?}");
    let versions: BTreeSet<&str> = lines.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(versions.len(), 10, "what differs has another version: {lines:#?}");
    // For whoever runs this test to compare.
    for line in &lines {
        println!("\n{line}");
    }
    web.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn the_same_model_compiled_in_two_processes_gives_the_same_versions() {
    let (one, other) = tokio::join!(versions_of_another_process(), versions_of_another_process());
    assert_eq!(one.len(), 10, "{one:#?}");
    assert_eq!(one, other);
}

/// Runs the test above in a process of its own.
async fn versions_of_another_process() -> Vec<String> {
    const TEST: &str = "versions::a_control_plane_tells_a_version_for_everything_on_the_way_to_a_service";
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{text}");
    text.lines().filter(|line| line.starts_with(LINE)).map(str::to_owned).collect()
}
