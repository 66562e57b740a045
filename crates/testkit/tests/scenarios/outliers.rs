//! One of three instances always fails: it is left out before callers have noticed much, and comes back slowly once it
//! answers well.

use std::time::{Duration, Instant};

use meshwork_testkit::{App, Load, Mesh, Sidecar, eventually, post, workload};

/// From the first bad answer on.
const EJECTED_MAX: Duration = Duration::from_secs(2);

/// Requests while it is out.
const MANY: usize = 1_000;

/// The instances take turns, so their shares are known. What is not tried again shows each bad answer to its caller.
const CATALOG: &str = "
apiVersion: v1
kind: Service
metadata: {name: catalog, annotations: {meshwork.dev/balance: roundRobin}}
spec: {selector: {app: catalog}, ports: [{port: 80, appProtocol: http}]}
---
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog}
spec:
  targetRefs: [{group: '', kind: Service, name: catalog}]
  outlierDetection: {ejection: 8s}
  slowStart: {window: 6s}
";

fn ejections(web: &Sidecar) -> f64 {
    web.metrics().total("meshwork_ejections_total", &[])
}

/// Callers' failures in percent of so many requests.
async fn failures(web: &Sidecar, requests: usize) -> f64 {
    let load = Load::start(web, "http://catalog/items", 4);
    load.goes_on(requests).await;
    let tally = load.stop().await;
    100.0 * tally.failed as f64 / (tally.answered + tally.failed) as f64
}

#[tokio::test]
async fn an_instance_that_always_fails_is_left_out_and_comes_back_slowly() {
    let (one, two, bad) = (App::http("one").await, App::http("two").await, App::http("bad").await);
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    mesh.apply(CATALOG).await;
    let mut instances = Vec::new();
    for app in [&one, &two, &bad] {
        instances.push(mesh.join(workload("catalog").serving(80, app)).await);
    }
    let web = mesh.sidecar("web");
    eventually("all three are called", async || {
        assert_eq!(web.get("http://catalog/").await.status, 200);
        one.count() > 0 && two.count() > 0 && bad.count() > 0
    })
    .await;
    assert_eq!(failures(web, 300).await, 0.0);

    bad.answers_with(503);
    let before = bad.count();
    let load = Load::start(web, "http://catalog/items", 4);
    bad.reached(before + 1).await;
    let first = Instant::now();
    eventually("it is ejected", async || ejections(web) > 0.0).await;
    assert!(first.elapsed() < EJECTED_MAX, "ejected after {:?}", first.elapsed());
    let seen = load.stop().await;
    let config = web.config().await.to_string();
    assert!(config.contains("\"ejectedForMillis\":"), "{config}");
    assert_eq!(web.metrics().total("meshwork_ejected_endpoints", &[]), 1.0);
    eventually("operators are told", async || mesh.status().await.to_string().contains("\"ejected\":[{"))
        .await;

    // Its last requests were on their way.
    let out = bad.count();
    let share = failures(web, MANY).await;
    assert!(share <= 0.1, "{share} % of callers saw a failure; before the ejection {}", seen.failed);
    assert_eq!(bad.count(), out, "nothing goes to who is out");

    bad.answers_with(200);
    let mut client = web.client();
    eventually("it is taken back", async || web.metrics().total("meshwork_ejections_ended_total", &[]) > 0.0)
        .await;
    // Its third grows from a tenth of that, over six seconds.
    let (start, began) = (bad.count(), Instant::now());
    for _ in 0..300 {
        assert_eq!(client.send(post("http://catalog/", "order")).await.unwrap().status, 200);
    }
    let (early, took) = (bad.count() - start, began.elapsed());
    let share = 0.1_f64.max(took.as_secs_f64() / 6.0);
    assert!((early as f64) < 100.0 * share + 35.0, "{early} of 300 within {took:?}");
    eventually("it has its full share", async || {
        let start = bad.count();
        for _ in 0..60 {
            web.get("http://catalog/").await;
        }
        bad.count() - start >= 17
    })
    .await;
    assert_eq!(ejections(web), 1.0);
    mesh.stop().await;
}
