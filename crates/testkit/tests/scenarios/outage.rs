//! The control plane goes away and comes back: traffic does not notice.

use std::time::{Duration, Instant};

use meshwork_proxy::side::{Config, Registration, Status};
use meshwork_testkit::{App, Load, Log, Mesh, eventually, workload};
use serde_json::json;

const MANY: usize = 300;

fn in_the_mesh(status: &Status) -> bool {
    status.config == Config::Current && status.registration == Registration::Registered
}

#[tokio::test]
async fn traffic_goes_on_without_a_control_plane_and_nothing_is_withdrawn_when_it_is_back() {
    let (cart, catalog, page) = (App::http("cart").await, App::http("catalog").await, App::http("web").await);
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("web").serving(80, &page))
        .start()
        .await;
    let load = Load::start(mesh.sidecar("web"), "http://cart/", 4);
    load.goes_on(MANY).await;

    mesh.stop_control().await;
    let stale = |status: &Status| matches!(status.config, Config::Stale(_));
    for service in ["web", "cart"] {
        mesh.sidecar(service).until("without control plane", stale).await;
        assert_eq!(mesh.sidecar(service).status().ready(), Ok(()), "{service} stays ready");
    }
    load.goes_on(MANY).await;
    // A destination that nobody asked for before cannot be known now, and that is said.
    let unknown = mesh.sidecar("web").get("http://catalog/").await;
    assert_eq!((unknown.status, unknown.cause()), (503, Some("unknown_service_yet")), "{unknown:?}");

    mesh.start_control().await;
    load.goes_on(MANY).await;
    for service in ["web", "cart"] {
        mesh.sidecar(service).until("back in the mesh", in_the_mesh).await;
    }
    let status = mesh.status().await;
    assert!(
        status["proxies"].as_array().unwrap().iter().all(|proxy| proxy["connected"] == true),
        "{status:#}"
    );
    let service = |name: &str| {
        let services = status["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap().clone()
    };
    assert_eq!(service("cart")["endpoints"], json!([mesh.sidecar("cart").inbound()[0].to_string()]));

    // It is a whole control plane again: what joins now is found.
    let _catalog = mesh.join(workload("catalog").serving(80, &catalog)).await;
    eventually("the new service is found", async || {
        mesh.sidecar("web").get("http://catalog/").await.status == 200
    })
    .await;
    load.goes_on(MANY).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);
    mesh.stop().await;
}

#[tokio::test]
async fn a_sidecar_comes_back_from_its_own_disk_without_a_token() {
    let app = App::http("cart").await;
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    let cart = mesh.take("cart");
    let before = mesh.status().await["proxies"].clone();
    assert_eq!(mesh.sidecar("web").get("http://cart/").await.status, 200);
    let state = cart.stop().await;

    let cart = mesh.come_back(workload("cart").serving(80, &app), state).await;
    let endpoints = json!([cart.inbound()[0].to_string()]);
    // It is the same workload at another address, not a second one.
    eventually("the new address is the only one", async || {
        let status = mesh.status().await;
        status["services"][0]["endpoints"] == endpoints
            && status["proxies"][0]["workload"] == before[0]["workload"]
    })
    .await;
    eventually("cart is served again", async || mesh.sidecar("web").get("http://cart/").await.status == 200)
        .await;
    cart.stop().await;
    mesh.stop().await;
}

/// From a sidecar's start to its first answer, without a control plane.
const SERVES_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_sidecar_that_restarts_while_the_control_plane_is_away_serves_within_a_second() {
    let app = App::http("cart").await;
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    assert_eq!(mesh.sidecar("web").get("http://cart/").await.status, 200);
    mesh.stop_control().await;

    // The one that calls: it knows where cart is.
    let state = mesh.take("web").stop().await;
    let begun = Instant::now();
    let web = mesh.come_back(workload("web"), state).await;
    let answer = web.get("http://cart/").await;
    let took = begun.elapsed();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(took < SERVES_WITHIN, "it took {took:?}");
    assert!(matches!(web.status().config, Config::Stale(_)), "{:?}", web.status());

    // With the control plane back it asks for news only.
    mesh.start_control().await;
    web.until("back in the mesh", |status| status.config == Config::Current).await;
    assert_eq!(web.get("http://cart/").await.status, 200);
    web.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_damaged_config_on_disk_is_set_aside_and_asked_for_anew() {
    let app = App::http("cart").await;
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    assert_eq!(mesh.sidecar("web").get("http://cart/").await.status, 200);
    let state = mesh.take("web").stop().await;
    let file = state.path().join("config.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, bytes).unwrap();
    let log = Log::start();
    let web = mesh.come_back(workload("web"), state).await;
    assert_eq!(web.get("http://cart/").await.status, 200);
    let said = ["cannot use the config on disk", &file.display().to_string(), "damaged"];
    assert!(log.says(&said), "the log says which file, and why");
    assert!(web.state_dir().join("config.bin.aside").exists());
    web.stop().await;
    mesh.stop().await;
}
