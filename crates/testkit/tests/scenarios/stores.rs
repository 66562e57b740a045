//! The control plane comes back on an older copy of its store, or on an empty one: sidecars keep what they have, say
//! so, and go on; nothing that lives is withdrawn.

use std::fs;

use meshwork_proxy::side::{Config, Registration, Status};
use meshwork_testkit::{App, Load, Log, Mesh, Sidecar, eventually, workload};
use serde_json::{Value, json};

/// Answers under load between two steps.
const MANY: usize = 100;

const SERVICES: [&str; 2] = ["cart", "web"];

fn kept(status: &Status) -> bool {
    matches!(status.config, Config::Kept(_))
}

fn in_the_mesh(status: &Status) -> bool {
    status.config == Config::Current && status.registration == Registration::Registered
}

fn stamped(stamp: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: stamp}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - filters:
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-stamp, value: {stamp}}}]}}}}
    backendRefs: [{{name: cart, port: 80}}]
"
    )
}

async fn stamp(caller: &Sidecar) -> String {
    let answer = caller.get("http://cart/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-stamp").unwrap_or_default().to_owned()
}

fn keeps(sidecar: &Sidecar, why: &str) -> bool {
    sidecar.metrics().total("meshwork_config_kept", &[("kind", why)]) == 1.0
}

/// The store's revision of which its config is.
fn version(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().total("meshwork_config_version", &[])
}

fn endpoints(status: &Value, name: &str) -> Value {
    let services = status["services"].as_array().unwrap();
    services.iter().find(|service| service["name"] == name).unwrap()["endpoints"].clone()
}

/// What `status` says of a sidecar's own words.
fn told(status: &Value, service: &str) -> Value {
    let proxies = status["proxies"].as_array().unwrap();
    proxies.iter().find(|proxy| proxy["service"] == service).unwrap()["summary"].clone()
}

#[tokio::test]
async fn on_an_older_copy_of_the_store_sidecars_keep_their_config_until_an_operator_accepts_it() {
    let log = Log::start();
    let (cart, page, stock) = (App::http("cart").await, App::http("web").await, App::http("stock").await);
    let mut mesh = Mesh::builder()
        .with(workload("cart").serving(80, &cart))
        .with(workload("web").serving(80, &page))
        .start()
        .await;
    mesh.apply(&stamped("old")).await;
    let web = mesh.take("web");
    eventually("the route is in force", async || stamp(&web).await == "old").await;
    mesh.stop_control().await;
    let copied = version(mesh.sidecar("cart")).max(version(&web));
    let (store, copy) = (mesh.store_file(), mesh.store_file().with_extension("copy"));
    fs::copy(&store, &copy).unwrap();
    mesh.start_control().await;
    let newer = mesh.join(workload("stock").serving(80, &stock)).await;
    mesh.apply(&stamped("new")).await;
    eventually("what came after the copy is in force", async || {
        stamp(&web).await == "new" && web.get("http://stock/").await.status == 200
    })
    .await;
    // Who has seen nothing of it has nothing to keep.
    eventually("cart's sidecar saw some", async || version(mesh.sidecar("cart")) > copied).await;
    let load = Load::start(&web, "http://cart/", 2);
    load.goes_on(MANY).await;

    mesh.stop_control().await;
    fs::rename(&copy, &store).unwrap();
    mesh.start_control().await;
    for sidecar in [mesh.sidecar("cart"), &web, &newer] {
        sidecar.until("keeping its config", kept).await;
        sidecar.until("registered", |status| status.registration == Registration::Registered).await;
        assert_eq!(sidecar.status().ready(), Ok(()));
        assert!(keeps(sidecar, "older_store"));
    }
    assert!(log.says(&["ERROR", "refused the control plane's config", "older copy", "accept-store"]));
    assert_eq!(stamp(&web).await, "new", "what was taken back in the store is still in force here");
    assert_eq!(web.get("http://stock/").await.status, 200);
    load.goes_on(MANY).await;
    // A sidecar that restarts knows from its disk what it has seen.
    eventually("its config is on disk", async || {
        newer.metrics().total("meshwork_config_writes_total", &[("kind", "done")]) > 0.0
    })
    .await;
    let state = newer.stop().await;
    let newer = mesh.come_back(workload("stock").serving(80, &stock), state).await;
    newer.until("keeping its config", kept).await;
    // The mesh's side: who keeps what, and who registered anew what the copy did not know.
    eventually("the control plane tells of it", async || {
        let status = mesh.status().await;
        let lost = status["lost"][0]["sidecars"].as_array().map(Vec::len);
        lost == Some(3) && told(&status, "web")["config"] == "kept"
    })
    .await;
    let status = mesh.status().await;
    assert_eq!(endpoints(&status, "stock"), json!([newer.inbound()[0].to_string()]));
    // Who has seen nothing newer is served what is there.
    let fresh = mesh.join(workload("batch")).await;
    assert_eq!(stamp(&fresh).await, "old");

    let (code, accepted) = mesh.api("POST", "/api/v1/store/accept", "").await;
    assert_eq!((code, accepted["lost"].as_array().map(Vec::len)), (200, Some(1)), "{accepted:#}");
    for sidecar in [mesh.sidecar("cart"), &web, &newer] {
        sidecar.until("back in the mesh", in_the_mesh).await;
        assert!(!keeps(sidecar, "older_store"));
    }
    eventually("the older config is in force", async || stamp(&web).await == "old").await;
    eventually("the new address is known", async || web.get("http://stock/").await.status == 200).await;
    load.goes_on(MANY).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);
    assert_eq!(mesh.status().await["lost"], json!([]));
    for sidecar in [web, newer, fresh] {
        sidecar.stop().await;
    }
    mesh.stop().await;
}

#[tokio::test]
async fn on_an_empty_store_sidecars_refuse_the_new_mesh_and_are_back_with_the_old_one() {
    let log = Log::start();
    let (cart, page) = (App::http("cart").await, App::http("web").await);
    let mut mesh = Mesh::builder()
        .with(workload("cart").serving(80, &cart))
        .with(workload("web").serving(80, &page))
        .start()
        .await;
    let load = Load::start(mesh.sidecar("web"), "http://cart/", 2);
    load.goes_on(MANY).await;

    mesh.stop_control().await;
    let (store, aside) = (mesh.store_file(), mesh.store_file().with_extension("aside"));
    fs::rename(&store, &aside).unwrap();
    mesh.start_control().await;
    for service in SERVICES {
        let sidecar = mesh.sidecar(service);
        sidecar.until("keeping its config", kept).await;
        assert_eq!(sidecar.status().ready(), Ok(()), "{service} serves on");
        assert!(keeps(sidecar, "other_mesh"));
    }
    assert!(log.says(&["ERROR", "refused the control plane's config", "not this mesh's control plane"]));
    load.goes_on(MANY).await;
    let status = mesh.status().await;
    assert_eq!((&status["services"], &status["proxies"]), (&json!([]), &json!([])), "nobody moved over");

    mesh.stop_control().await;
    fs::rename(&aside, &store).unwrap();
    mesh.start_control().await;
    for service in SERVICES {
        mesh.sidecar(service).until("back in the mesh", in_the_mesh).await;
        assert!(!keeps(mesh.sidecar(service), "other_mesh"));
    }
    load.goes_on(MANY).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);
    mesh.stop().await;
}
