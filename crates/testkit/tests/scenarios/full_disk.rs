//! A disk is full, under a sidecar and under the control plane's store: what is there is served on, and what could not
//! be written is written once there is room.

use meshwork_proxy::side::Config;
use meshwork_testkit::{App, Load, Log, Mesh, SmallDisk, eventually, workload};
use serde_json::Value;

const SOME: usize = 100;

const WEB_ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: NAME, annotations: { example.com/note: NOTE } }
spec:
  parentRefs: [{ group: '', kind: Service, name: cart }]
  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]
";

/// Of a size that the store must make room for.
fn route(name: &str) -> String {
    WEB_ROUTE.replace("NAME", name).replace("NOTE", &"x".repeat(200_000))
}

/// What the store took room for before is its own; beyond it changes are refused.
const CHANGES_MAX: usize = 100;

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_full_disk_under_a_sidecar_stops_the_writing_and_not_the_traffic() {
    let disk = SmallDisk::new(1_024);
    let log = Log::start();
    let app = App::http("cart").await;
    let mut mesh = Mesh::builder().http2(super::HTTP2).with(workload("cart").serving(80, &app)).start().await;
    let web = mesh.join_in(workload("web"), disk.directory()).await;
    let kept = |kind: &str| web.metrics().total("meshwork_config_writes_total", &[("kind", kind)]);
    eventually("its first config is on disk", async || kept("done") >= 1.0).await;

    disk.fill();
    let load = Load::start(&web, "http://cart/", 2);
    load.goes_on(SOME).await;
    eventually("it cannot write that it knows cart now", async || kept("failed") >= 2.0).await;
    let file = web.state_dir().join("config.bin");
    assert!(log.says(&["cannot keep the config on disk", &file.display().to_string(), "No space left"]));
    load.goes_on(SOME).await;

    let written = kept("done");
    disk.make_room();
    eventually("it is written again", async || kept("done") > written).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);

    // What was written is whole: it serves from there.
    mesh.stop_control().await;
    let web = mesh.come_back(workload("web"), web.stop().await).await;
    assert!(matches!(web.status().config, Config::Stale(_)), "{:?}", web.status());
    assert_eq!(web.get("http://cart/").await.status, 200);
    web.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_full_disk_under_the_store_refuses_changes_and_serves_on() {
    let disk = SmallDisk::new(32 * 1_024);
    let state_dir = disk.path().join("control");
    let (app, stock) = (App::http("cart").await, App::http("stock").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .control(move |settings| settings.state_dir = state_dir)
        .with(workload("cart").serving(80, &app))
        .with(workload("stock").serving(80, &stock))
        .with(workload("web"))
        .start()
        .await;
    let web = mesh.sidecar("web");
    assert_eq!(web.get("http://cart/").await.status, 200);
    let load = Load::start(web, "http://cart/", 2);
    mesh.apply(&route("before")).await;

    disk.fill();
    let refused = async {
        for number in 0..CHANGES_MAX {
            match mesh.operator().apply(&route(&format!("taken-{number}"))).await {
                (200, _) => {}
                (status, answer) => return (status, answer.to_string()),
            }
        }
        panic!("a full disk takes {CHANGES_MAX} changes");
    };
    let (status, message) = refused.await;
    assert_eq!(status, 503, "{message}");
    assert!(
        message.contains("the store cannot be written") && message.contains("free the disk"),
        "{message}"
    );
    assert_eq!(mesh.operator().apply(&route("refused")).await.0, 503, "still");
    // Reads go on, and so do pushes: a name that nobody asked for before is answered.
    let (status, routes) = mesh.api("GET", "/api/v1/namespaces/default/httproutes", "").await;
    assert_eq!(status, 200, "{routes}");
    assert!(names(&routes).contains(&"before".to_owned()), "{:?}", names(&routes));
    assert!(!names(&routes).contains(&"refused".to_owned()), "{:?}", names(&routes));
    assert_eq!(web.get("http://stock/").await.status, 200);
    load.goes_on(SOME).await;

    disk.make_room();
    mesh.apply(&route("after")).await;
    let (_, routes) = mesh.api("GET", "/api/v1/namespaces/default/httproutes", "").await;
    assert!(names(&routes).contains(&"after".to_owned()), "{:?}", names(&routes));
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);
    mesh.stop().await;
}
