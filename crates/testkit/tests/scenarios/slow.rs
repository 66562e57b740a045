//! A service that hangs: its callers are told in time, it is told to stop, and nothing is left behind.

use std::time::Duration;

use meshwork_testkit::{Answer, App, Mesh, Sidecar, eventually, get, post, workload};
use tokio::task::JoinSet;

/// Requests at once.
const CALLERS: usize = 40;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3_600);

/// cart hangs; its policy says how long that is borne.
async fn mesh(app: &App, timeouts: &str) -> Mesh {
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, app))
        .with(workload("web"))
        .start()
        .await;
    // Before anybody called cart: what web is told first is with it.
    mesh.apply(&format!(
        "
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: cart}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: cart}}]
  timeouts: {timeouts}
"
    ))
    .await;
    mesh
}

async fn calls(web: &Sidecar, is_post: bool) -> Vec<Answer> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = web.client();
        callers.spawn(async move {
            let request = if is_post { post("http://cart/", "order") } else { get("http://cart/") };
            client.send(request).await.expect("an answer, whatever it says")
        });
    }
    callers.join_all().await
}

/// What a sidecar holds for its callers and for its application.
fn open_connections(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().total("meshwork_open_connections", &[])
}

#[tokio::test]
async fn callers_of_a_service_that_hangs_are_told_in_time_and_it_is_told_to_stop() {
    let app = App::http_after("cart", FOREVER).await;
    let mesh = mesh(&app, "{request: 2s, backendRequest: 400ms}").await;
    let (web, cart) = (mesh.sidecar("web"), mesh.sidecar("cart"));
    let before = open_connections(web);

    // What may have been processed is sent once, and its caller hears that one try was too long.
    for answer in calls(web, true).await {
        assert_eq!((answer.status, answer.cause()), (504, Some("backend_request_timeout")), "{answer:?}");
    }
    // On a busy machine a try may be over before its connection stands.
    let arrived = app.begun();
    assert!(
        (1..=CALLERS).contains(&arrived),
        "{arrived} arrivals of {CALLERS} orders, each of which is sent once"
    );
    app.rested().await;
    assert_eq!(app.count(), 0, "and was given up, not answered");

    // What may be repeated is, as long as the budget and the whole request's time allow.
    for answer in calls(web, false).await {
        let cause = answer.cause().expect("the mesh answers");
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(["backend_request_timeout", "deadline_exceeded"].contains(&cause), "{answer:?}");
    }
    app.rested().await;

    eventually("web holds what it held before", async || open_connections(web) <= before).await;
    // Over HTTP/2 the one way between the sidecars stands.
    let kept = if super::HTTP2 { 1.0 } else { 0.0 };
    eventually("cart holds no caller's connection", async || open_connections(cart) <= kept).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_worked_for_no_longer_wherever_it_waits() {
    let app = App::http_after("cart", FOREVER).await;
    let mesh = mesh(&app, "{request: 1h}").await;
    let web = mesh.sidecar("web");
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = web.client();
        callers.spawn(
            async move { client.send(post("http://cart/", "order")).await.map(|answer| answer.status) },
        );
    }
    eventually("all are being worked for", async || app.begun() == CALLERS).await;
    callers.shutdown().await;
    app.rested().await;
    assert_eq!(app.count(), 0);
    eventually("web counts them as gone", async || {
        web.metrics().requests(&[("direction", "outbound"), ("status", "")]) == CALLERS
    })
    .await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_rule_may_give_a_slow_path_more_time_than_its_service_has() {
    let app = App::http_after("cart", Duration::from_millis(600)).await;
    let mesh = mesh(&app, "{request: 200ms}").await;
    mesh.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: exports}
spec:
  parentRefs: [{group: \"\", kind: Service, name: cart}]
  rules:
  - matches: [{path: {value: /export}}]
    timeouts: {request: 0s}
    backendRefs: [{name: cart, port: 80}]
  - backendRefs: [{name: cart, port: 80}]
",
    )
    .await;
    let web = mesh.sidecar("web");
    let answer = web.get("http://cart/export").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = web.get("http://cart/").await;
    assert_eq!((answer.status, answer.cause()), (504, Some("deadline_exceeded")), "{answer:?}");

    // A changed policy reaches whoever uses the service, and a deleted one is none.
    let (status, _) = mesh.api("DELETE", "/api/v1/namespaces/default/trafficpolicies/cart", "").await;
    assert_eq!(status, 200);
    eventually("the limit is gone", async || web.get("http://cart/").await.status == 200).await;
    mesh.stop().await;
}
