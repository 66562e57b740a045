//! The control plane is killed under load and stays away for three lease terms: nobody notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshwork_core::model::Health;
use meshwork_proxy::side::{Config, Registration, Status};
use meshwork_proxy::{Found, Live};
use meshwork_testkit::{App, Load, Mesh, eventually, workload};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Renewed thrice in that time.
const LEASE: Duration = Duration::from_secs(3);

/// In which the load is looked after.
const SOME: usize = 100;

const CONTROL: &str = env!("CARGO_BIN_EXE_control-process");

fn in_the_mesh(status: &Status) -> bool {
    status.config == Config::Current && status.registration == Registration::Registered
}

/// What is healthy behind `cart:80`, as that sidecar knows it.
fn healthy(live: &Live) -> BTreeSet<String> {
    match live.snapshot().find("cart:80") {
        Some(Found::Service(cart)) => cart
            .backends
            .iter()
            .flatten()
            .flatten()
            .flat_map(|backend| &backend.members)
            .filter(|member| member.endpoint.health == Health::Healthy)
            .map(|member| member.endpoint.address.to_string())
            .collect(),
        Some(Found::Absent) | None => BTreeSet::new(),
    }
}

/// Looks at every new snapshot; in the end, those of the endpoints that were missing in any.
fn watch_endpoints(live: Arc<Live>, expected: BTreeSet<String>) -> JoinHandle<BTreeSet<String>> {
    let mut versions = live.watch();
    tokio::spawn(async move {
        let mut missed = BTreeSet::new();
        // Ends with the sidecar, whose is the sender.
        while tokio::time::timeout(LEASE * 2, versions.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            missed.extend(expected.difference(&healthy(&live)).cloned());
        }
        missed
    })
}

fn services(status: &Value) -> &Value {
    &status["services"]
}

#[tokio::test]
async fn a_control_plane_that_is_killed_for_three_lease_terms_costs_no_request_and_no_endpoint() {
    let (one, two) = (App::http("one").await, App::http("two").await);
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .control_apart(CONTROL)
        .control(|settings| settings.lease = LEASE)
        .with(workload("cart").serving(80, &one))
        .with(workload("web"))
        .start()
        .await;
    let second = mesh.join(workload("cart").serving(80, &two)).await;
    let caller = mesh.join(workload("shop")).await;
    let endpoints = [mesh.sidecar("cart").inbound()[0].to_string(), second.inbound()[0].to_string()];
    let endpoints = BTreeSet::from(endpoints);
    let load = Load::start(mesh.sidecar("web"), "http://cart/", 4);
    assert_eq!(caller.get("http://cart/").await.status, 200);
    eventually("both are known", async || healthy(mesh.sidecar("web").live()) == endpoints).await;
    let before = mesh.status().await;
    let watching = watch_endpoints(mesh.sidecar("web").live().clone(), endpoints.clone());

    mesh.kill_control();
    let killed = Instant::now();
    // Meanwhile a sidecar restarts, and serves from its disk.
    let caller = mesh.come_back(workload("shop"), caller.stop().await).await;
    assert_eq!(healthy(caller.live()), endpoints, "as before");
    let after_restart = Load::start(&caller, "http://cart/", 2);
    while killed.elapsed() < LEASE * 3 {
        load.goes_on(SOME).await;
        after_restart.goes_on(SOME).await;
    }

    mesh.start_control().await;
    for sidecar in [mesh.sidecar("web"), mesh.sidecar("cart"), &second, &caller] {
        sidecar.until("back in the mesh", in_the_mesh).await;
    }
    load.goes_on(SOME).await;
    let after = mesh.status().await;
    assert_eq!(services(&after), services(&before), "the same state");
    assert_eq!(after["proxies"].as_array().unwrap().len(), 4);
    // A whole term later nothing was withdrawn either: who is missing would have lapsed by then.
    let back = Instant::now();
    while back.elapsed() < LEASE {
        load.goes_on(SOME).await;
        after_restart.goes_on(SOME).await;
    }
    assert_eq!(services(&mesh.status().await), services(&before), "still the same state");
    for (who, load) in [("web", load), ("shop", after_restart)] {
        let tally = load.stop().await;
        assert_eq!(tally.failed, 0, "{who}: {:#?}", tally.failures);
    }
    mesh.stop().await;
    let missed = watching.await.unwrap();
    assert_eq!(json!(missed), json!([]), "no live endpoint was ever withdrawn");
}
