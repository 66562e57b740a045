//! gRPC to workloads without a sidecar, written by hand: it goes to the applications themselves.

use std::time::Duration;

use meshwork_testkit::{GrpcApp, Mesh, eventually};
use serde_json::{Value, json};

use crate::client::Client;
use crate::yaml;

const TARGET: &str = "xds:///payments:50051";

fn service(name: &str) -> String {
    yaml::service(name, 50051, "grpc")
}

fn instance(service: &str, number: usize, app: &GrpcApp) -> String {
    yaml::instance(service, number, app.address().port(), 50051)
}

fn route(rule: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: payments}}
spec:
  parentRefs: [{{kind: Service, group: \"\", name: payments}}]
  rules: [{{{rule}}}]
"
    )
}

/// `payments` with that many applications, and a client of it.
async fn start<const N: usize>() -> Option<(Mesh, [GrpcApp; N], Client)> {
    let mesh = Mesh::builder().start().await;
    let apps = std::array::from_fn(|number| GrpcApp::start(&format!("payments-{number}")));
    let instances = apps.iter().enumerate().map(|(number, app)| instance("payments", number, app));
    mesh.apply(&(service("payments") + &instances.collect::<String>())).await;
    let client = Client::join(&mesh, "web").await?;
    Some((mesh, apps, client))
}

#[tokio::test]
async fn calls_are_balanced_and_follow_the_endpoints() {
    let Some((mesh, [one, two], client)) = start().await else { return };
    // Until both connections stand, one takes all.
    eventually("both are called", async || {
        let told = client.call(TARGET, 2).await;
        assert_eq!(told.failed(), 0, "{told:?}");
        told.answered_by("payments-0") == 1 && told.answered_by("payments-1") == 1
    })
    .await;
    let told = client.call(TARGET, 100).await;
    assert_eq!((told.answered_by("payments-0"), told.answered_by("payments-1")), (50, 50), "{told:?}");
    // Without a port: it has one only.
    let told = client.call("xds:///payments", 10).await;
    assert_eq!(told.ended(0), 10, "{told:?}");

    // It has a stream for each target that it called.
    eventually("status tells of it, and that it took all", async || {
        let status = mesh.status().await;
        assert_eq!(status["proxies"], json!([]), "it is no sidecar");
        let clients = status["clients"].as_array().cloned().unwrap_or_default();
        let took = |client: &Value| {
            let config = &client["config"];
            assert_eq!(
                (&client["program"], &client["service"]),
                (&json!("grpc"), &json!("web")),
                "{client:#}"
            );
            config["subscribed"] == config["acknowledged"] && config["nacks"] == json!([])
        };
        !clients.is_empty() && clients.iter().all(took)
    })
    .await;

    let three = GrpcApp::start("payments-2");
    mesh.apply(&instance("payments", 2, &three)).await;
    let (status, _) = mesh.api("DELETE", "/api/v1/namespaces/default/workloads/payments-0", "").await;
    assert_eq!(status, 200);
    eventually("the new one is called and the old one is not", async || {
        let told = client.call(TARGET, 10).await;
        assert_eq!(told.failed(), 0, "{told:?}");
        told.answered_by("payments-0") == 0 && told.answered_by("payments-2") == 5
    })
    .await;
    // It was closed to calls before it went.
    drop(one);
    let told = client.call(TARGET, 20).await;
    assert_eq!((told.answered_by("payments-1"), told.answered_by("payments-2")), (10, 10), "{told:?}");
    assert!(two.calls() > 50);
    mesh.stop().await;
}

#[tokio::test]
async fn routes_weigh_match_and_end_in_time() {
    let Some((mesh, [_one], client)) = start().await else { return };
    let canary = GrpcApp::start("canary");
    let backends = |stable: u32, canary: u32| {
        format!(
            "backendRefs: [{{name: payments, port: 50051, weight: {stable}}}, {{name: canary, port: 50051, weight: {canary}}}]"
        )
    };
    mesh.apply(&(service("canary") + &instance("canary", 0, &canary))).await;
    mesh.apply(&route(&backends(3, 1))).await;
    eventually("the canary is called", async || {
        let told = client.call(TARGET, 10).await;
        assert_eq!(told.failed(), 0, "{told:?}");
        told.answered_by("canary") > 0
    })
    .await;
    let told = client.call(TARGET, 800).await;
    // 600 of 800, and 6 sigma of 12.2 to either side.
    assert!((527..=673).contains(&told.answered_by("payments-0")), "{told:?}");
    assert_eq!(told.failed(), 0, "{told:?}");

    let element = "matches: [{path: {type: PathPrefix, value: /meshwork.test.v1.Echo}, \
                   headers: [{name: who, value: tester}]}], ";
    mesh.apply(&route(&format!("{element}{}", backends(0, 1)))).await;
    let metadata = json!([["who", "tester"]]);
    eventually("those that match go to the canary", async || {
        let order = json!({"do": "call", "target": TARGET, "count": 5, "metadata": metadata});
        client.order(order).await.answered_by("canary") == 5
    })
    .await;
    let told = client.call(TARGET, 5).await;
    assert_eq!(told.ended(14), 5, "nothing matches: {told:?}");

    mesh.apply(&route(&format!("timeouts: {{request: 300ms}}, {}", backends(1, 0)))).await;
    eventually("whoever hangs is ended by the route", async || {
        let order = json!({"do": "call", "target": TARGET, "count": 1, "method": "Hang", "timeout": 20});
        let began = tokio::time::Instant::now();
        client.order(order).await.ended(4) == 1 && began.elapsed() < Duration::from_secs(10)
    })
    .await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_route_says_what_is_tried_again() {
    let Some((mesh, [app], client)) = start().await else { return };
    let backend = "backendRefs: [{name: payments, port: 50051}]";
    mesh.apply(&route(&format!("retry: {{codes: [503], attempts: 2, backoff: 10ms}}, {backend}"))).await;
    let fails = |status: u8| {
        let message = format!("{status:02x}");
        json!({"do": "call", "target": TARGET, "count": 1, "method": "Fail", "message": message})
    };
    eventually("UNAVAILABLE is tried three times", async || {
        let before = app.calls();
        let told = client.order(fails(14)).await;
        assert_eq!(told.failed(), 1, "{told:?}");
        app.calls() - before == 3
    })
    .await;
    let before = app.calls();
    assert_eq!(client.order(fails(5)).await.ended(5), 1);
    assert_eq!(app.calls() - before, 1, "NOT_FOUND is not among the codes");
    mesh.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_restarts_costs_no_call() {
    let Some((mut mesh, [_one, _two], client)) = start().await else { return };
    assert_eq!(client.call(TARGET, 10).await.ended(0), 10);
    client.order(json!({"do": "start", "target": TARGET})).await;
    mesh.stop_control().await;
    assert_eq!(client.call(TARGET, 50).await.ended(0), 50, "without a control plane");
    mesh.start_control().await;
    let three = GrpcApp::start("payments-2");
    mesh.apply(&instance("payments", 2, &three)).await;
    // It comes back when its own pause is over.
    eventually("what changes after the restart reaches it", async || {
        client.call(TARGET, 10).await.answered_by("payments-2") > 0
    })
    .await;
    let told = client.order(json!({"do": "stop"})).await;
    assert_eq!(told.failed(), 0, "{told:?}");
    assert!(told.ended(0) > 100, "{told:?}");
    mesh.stop().await;
}

#[tokio::test]
async fn what_grpc_cannot_honour_is_refused_by_name_and_described() {
    let Some((mesh, [_app], client)) = start().await else { return };
    let backend = "backendRefs: [{name: payments, port: 50051}]";
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}]";
    mesh.apply(&route(&format!("{filter}, {backend}"))).await;
    let (_, described) = mesh.api("GET", "/api/v1/describe/service/default/payments", "").await;
    let unsupported = described["unsupported"].as_array().cloned().unwrap_or_default();
    assert_eq!(
        unsupported,
        [json!({
            "audience": "grpc",
            "resource": "default/payments:50051",
            "what": "gRPC without a sidecar can't honour filters that change headers"
        })]
    );
    // Never told of a route, it can't call: it does not go on as if nothing had been asked for.
    let told = client.order(json!({"do": "call", "target": TARGET, "count": 1, "timeout": 1})).await;
    assert_eq!(told.failed(), 1, "{told:?}");
    mesh.apply(&route(backend)).await;
    eventually("it can be honoured again", async || client.call(TARGET, 1).await.ended(0) == 1).await;
    let (_, described) = mesh.api("GET", "/api/v1/describe/service/default/payments", "").await;
    assert!(described["unsupported"].is_null(), "{described:#}");
    mesh.stop().await;
}
