//! What clients report of the services that they call (LRS), and what is left of a client that was killed.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwork_testkit::{App, GrpcApp, Mesh, eventually, get};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::client::Client;
use crate::envoy::{Dialect, Envoy, app, ask};
use crate::yaml;

const TARGET: &str = "xds:///payments:50051";

/// `UNIMPLEMENTED`, which nobody tries again.
const UNIMPLEMENTED: &str = "0c";

/// As short as gRPC takes it.
const EVERY: Duration = Duration::from_secs(1);

async fn mesh() -> Mesh {
    Mesh::builder().control(|settings| settings.load_interval = EVERY).start().await
}

/// `payments`, whose only instance is that application.
async fn serve_payments(mesh: &Mesh, payments: &GrpcApp) {
    let instance = yaml::instance("payments", 0, payments.address().port(), 50051);
    mesh.apply(&(yaml::service("payments", 50051, "grpc") + &instance)).await;
}

async fn serve(mesh: &Mesh, name: &str, app: &App) {
    mesh.apply(&(yaml::service(name, 80, "http") + &yaml::instance(name, 0, app.address().port(), 80))).await;
}

/// What the only client that reports says of a service: null where it says nothing.
async fn reported(mesh: &Mesh, backend: &str) -> Value {
    let status = mesh.status().await;
    let loads = status["loads"].as_array().cloned().unwrap_or_default();
    assert!(loads.len() < 2, "{loads:#?}");
    let backends = loads.first().and_then(|load| load["backends"].as_array().cloned()).unwrap_or_default();
    backends.into_iter().find(|found| found["backend"] == backend).unwrap_or_default()
}

fn counts(load: &Value) -> [Option<u64>; 5] {
    ["issued", "succeeded", "errors", "inProgress", "dropped"].map(|field| load[field].as_u64())
}

async fn eventually_reported(mesh: &Mesh, backend: &str, expect: [u64; 5]) {
    let what = format!("{backend} is reported with {expect:?}");
    eventually(&what, async || counts(&reported(mesh, backend).await) == expect.map(Some)).await;
}

/// After a restart of the control plane: each client tries again when its own pause is over, which grows as long as nobody
/// answers.
async fn comes_back(mesh: &Mesh, backend: &str) {
    let told = async {
        while reported(mesh, backend).await.is_null() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(60), told).await.is_ok(), "{backend} is reported again");
}

async fn eventually_forgotten(mesh: &Mesh) {
    eventually("nothing is left of the client", async || {
        let status = mesh.status().await;
        status["loads"] == json!([]) && status["clients"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn grpc_reports_what_it_calls() {
    let mut mesh = mesh().await;
    let payments = GrpcApp::start("payments");
    serve_payments(&mesh, &payments).await;
    let Some(client) = Client::join(&mesh, "web").await else { return };
    let fail =
        json!({"do": "call", "target": TARGET, "count": 7, "method": "Fail", "message": UNIMPLEMENTED});
    assert_eq!(client.call(TARGET, 30).await.ended(0), 30);
    assert_eq!(client.order(fail.clone()).await.ended(12), 7);
    eventually_reported(&mesh, "default/payments:50051", [37, 30, 7, 0, 0]).await;
    let told = mesh.status().await["loads"][0].clone();
    assert_eq!((&told["program"], &told["service"]), (&json!("grpc"), &json!("web")), "{told:#}");
    assert_eq!((&told["node"], &told["leftOut"]), (&json!("default/web"), &json!(0)), "{told:#}");

    mesh.stop_control().await;
    assert_eq!(client.call(TARGET, 5).await.ended(0), 5, "without a control plane");
    mesh.start_control().await;
    comes_back(&mesh, "default/payments:50051").await;
    // What nobody could be told is told now.
    eventually_reported(&mesh, "default/payments:50051", [5, 5, 0, 0, 0]).await;
    assert_eq!(client.order(fail).await.ended(12), 7);
    eventually_reported(&mesh, "default/payments:50051", [12, 5, 7, 0, 0]).await;
    drop(client);
    eventually_forgotten(&mesh).await;
    mesh.stop().await;
}

#[tokio::test]
async fn envoy_reports_what_it_carries() {
    let mut mesh = mesh().await;
    let (cart, slow) = (App::http("cart").await, App::http_after("slow", Duration::from_secs(600)).await);
    serve(&mesh, "cart", &cart).await;
    serve(&mesh, "slow", &slow).await;
    let services = ["cart:80", "slow:80"];
    let Some(envoy) = Envoy::carrying(&mesh, Dialect::Delta, &services).await else { return };
    // What a service was called before its first report is not counted.
    for backend in ["default/cart:80", "default/slow:80"] {
        eventually_reported(&mesh, backend, [0; 5]).await;
    }
    let mut client = envoy.client("cart:80").await;
    for _ in 0..20 {
        assert_eq!(app(&ask(&mut client, "/").await), "cart");
    }
    cart.answers_with(503);
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "/").await.status, 503);
    }
    let mut waiting = envoy.client("slow:80").await;
    let hangs = tokio::spawn(async move { waiting.send(get("http://slow/")).await });
    eventually_reported(&mesh, "default/cart:80", [23, 20, 3, 0, 0]).await;
    eventually_reported(&mesh, "default/slow:80", [1, 0, 0, 1, 0]).await;
    let status = mesh.status().await;
    let told = &status["loads"][0];
    assert_eq!((&told["program"], &told["service"]), (&json!("envoy"), &json!("web")), "{told:#}");
    // Neither its own clusters nor the way to the control plane.
    assert_eq!(told["backends"].as_array().map(Vec::len), Some(2), "{told:#}");

    mesh.stop_control().await;
    mesh.start_control().await;
    comes_back(&mesh, "default/slow:80").await;
    eventually_reported(&mesh, "default/slow:80", [0, 0, 0, 1, 0]).await;
    let before = counts(&reported(&mesh, "default/cart:80").await);
    cart.answers_with(200);
    assert_eq!(app(&ask(&mut client, "/").await), "cart");
    let once_more = |count: Option<u64>| count.map(|count| count + 1);
    let expect = [once_more(before[0]), once_more(before[1]), before[2], before[3], before[4]];
    eventually("it goes on reporting", async || counts(&reported(&mesh, "default/cart:80").await) == expect)
        .await;
    drop(envoy);
    eventually_forgotten(&mesh).await;
    hangs.abort();
    mesh.stop().await;
}

/// What this thread logs, and with it the control plane in it.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn of(&self, parts: &[&str]) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// To the control plane it is a connection that breaks in the middle of a stream (`h2 protocol error`): processes end, and
/// nobody need be woken for it.
#[tokio::test]
async fn a_client_that_is_killed_is_no_more_than_a_line_for_who_looks_for_it() {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let ours = Targets::new().with_target("meshwork_control", LevelFilter::DEBUG);
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer).with(ours));
    let mesh = mesh().await;
    let (cart, payments) = (App::http("cart").await, GrpcApp::start("payments"));
    serve(&mesh, "cart", &cart).await;
    serve_payments(&mesh, &payments).await;
    let Some(client) = Client::join(&mesh, "web").await else { return };
    assert_eq!(client.call(TARGET, 1).await.ended(0), 1);
    eventually_reported(&mesh, "default/payments:50051", [1, 1, 0, 0, 0]).await;
    drop(client);
    eventually_forgotten(&mesh).await;
    let Some(envoy) = Envoy::carrying(&mesh, Dialect::Delta, &["cart:80"]).await else { return };
    eventually_reported(&mesh, "default/cart:80", [0; 5]).await;
    drop(envoy);
    eventually_forgotten(&mesh).await;
    for what in ["an ADS stream broke off", "a stream of load reports broke off"] {
        let told = lines.of(&[what]);
        assert!(told.len() >= 2 && told.iter().all(|line| line.contains("DEBUG")), "{told:#?}");
    }
    for level in [" WARN ", " ERROR "] {
        assert_eq!([lines.of(&[level, "stream"]), lines.of(&[level, "connection"])], [[""; 0]; 2]);
    }
    mesh.stop().await;
}
