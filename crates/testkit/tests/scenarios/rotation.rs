//! Certificates that live for seconds, and a new root, under load: nobody notices.

use std::time::{Duration, Instant};

use meshwork_identity::Enrolled;
use meshwork_testkit::{App, Load, Mesh, eventually, workload};
use serde_json::Value;

const LEAF_SECONDS: u64 = 10;

const SHORT_LEAVES: &str = "
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 10s}
";

/// How long at least; the rotation itself takes about 20 s with such leaves. `MESHWORK_TEST_SECONDS=60` for the long version.
fn seconds() -> u64 {
    let given = std::env::var("MESHWORK_TEST_SECONDS").ok();
    given.map_or(6, |seconds| seconds.parse().expect("a number of seconds"))
}

async fn authority(mesh: &Mesh) -> Value {
    let (status, answer) = mesh.api("GET", "/api/v1/ca", "").await;
    assert_eq!(status, 200, "{answer:#}");
    answer
}

fn hashes(authority: &Value) -> Vec<String> {
    let roots = authority["roots"].as_array().unwrap();
    roots.iter().map(|root| root["hash"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn leaves_of_ten_seconds_and_a_new_root_are_not_noticed_under_load() {
    let (cart, page) = (App::http("cart").await, App::http("web").await);
    let mesh = Mesh::builder().http2(super::HTTP2).start().await;
    // Before anybody joins: a leaf that is out keeps its length.
    mesh.apply(SHORT_LEAVES).await;
    let cart_1 = mesh.join(workload("cart").serving(80, &cart)).await;
    let cart_2 = mesh.join(workload("cart").serving(80, &cart)).await;
    let web = mesh.join(workload("web").serving(80, &page)).await;
    let started = Instant::now();
    let load = Load::start(&web, "http://cart/", 4);
    load.goes_on(100).await;
    let before = hashes(&authority(&mesh).await);
    assert_eq!(before.len(), 1);
    let early = mesh.operator().token("default", "late").await;

    let (status, answer) = mesh.api("POST", "/api/v1/ca/rotate", "").await;
    assert_eq!(status, 200, "{answer:#}");
    let (status, refused) = mesh.api("POST", "/api/v1/ca/rotate", "").await;
    assert_eq!(status, 409, "{refused:#}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("being replaced already"), "{refused:#}");
    let stage = async || authority(&mesh).await["rotation"]["stage"].as_str().map(str::to_owned);
    eventually("the new root signs", async || stage().await.as_deref() == Some("renewing")).await;
    let both = hashes(&authority(&mesh).await);
    assert!(both.len() == 2 && both[0] == before[0], "{both:?}");
    for sidecar in [&cart_1, &cart_2, &web] {
        let roots = sidecar.config().await["identity"]["bundle"]["roots"].as_array().unwrap().len();
        assert_eq!(roots, 2, "everybody knew before the new one signed");
    }
    // Tokens of either root are good meanwhile.
    mesh.join(workload("late").with_token(&early)).await.stop().await;
    mesh.join(workload("later")).await.stop().await;

    while stage().await.is_some() {
        assert!(started.elapsed() < Duration::from_secs(120), "{:#}", authority(&mesh).await);
        load.goes_on(50).await;
    }
    let after = hashes(&authority(&mesh).await);
    assert_eq!(after, both[1..], "the new root alone");
    for sidecar in [&cart_1, &cart_2, &web] {
        eventually("the old root is forgotten", async || {
            let identity = sidecar.config().await["identity"].clone();
            identity["bundle"]["roots"] == serde_json::json!(after)
        })
        .await;
        let renewals = sidecar.metrics().total("meshwork_certificate_renewals_total", &[("kind", "renewed")]);
        let least = started.elapsed().as_secs() / LEAF_SECONDS;
        assert!(renewals >= least as f64, "{renewals} renewals in {:?}", started.elapsed());
        let failed = sidecar.metrics().total("meshwork_certificate_renewals_total", &[("kind", "failed")]);
        assert_eq!(failed, 0.0);
    }
    // A token of the root that is gone reaches nobody.
    let late = mesh.try_join(workload("late").with_token(&early)).await;
    let refused = late.err().expect("it joined by a root that is retired").to_string();
    assert!(refused.contains("make a new token"), "{refused}");

    while started.elapsed() < Duration::from_secs(seconds()) {
        load.goes_on(50).await;
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "of {}: {:#?}", tally.answered, tally.failures);
    for sidecar in [cart_1, cart_2, web] {
        sidecar.stop().await;
    }
    mesh.stop().await;
}

/// Short enough that who is told of a new root renews within seconds, long enough that nothing ends meanwhile.
const LEAVES_OF_MINUTES: &str = "
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 120s}
";

/// It knows the old root only: what vouches for the new one must come along with everything that is signed below it.
#[tokio::test]
async fn a_sidecar_that_was_away_while_the_new_root_was_told_meets_nobody_it_cannot_trust() {
    let cart = App::http("cart").await;
    let mut mesh = Mesh::builder().http2(super::HTTP2).start().await;
    mesh.apply(LEAVES_OF_MINUTES).await;
    let serving = mesh.join(workload("cart").serving(80, &cart)).await;
    let web = mesh.join(workload("web")).await;
    assert_eq!(web.get("http://cart/").await.status, 200);
    let state = web.stop().await;
    eventually("it is away", async || {
        let status = mesh.status().await;
        let proxies = status["proxies"].as_array().unwrap();
        proxies.iter().filter(|proxy| proxy["connected"] == true).count() == 1
    })
    .await;

    let (status, answer) = mesh.api("POST", "/api/v1/ca/rotate", "").await;
    assert_eq!(status, 200, "{answer:#}");
    let stage = async || authority(&mesh).await["rotation"]["stage"].as_str().map(str::to_owned);
    eventually("the new root signs", async || stage().await.as_deref() == Some("renewing")).await;
    let both = hashes(&authority(&mesh).await);
    // Written down once it is in use.
    let issuer = || Enrolled::load(serving.state_dir()).unwrap().unwrap().issuing_root().unwrap().to_string();
    eventually("the one that stayed has a certificate of it", async || issuer() == both[1]).await;

    // Without a control plane nobody tells it of the new root but the one that it calls.
    mesh.stop_control().await;
    let web = mesh.come_back(workload("web"), state).await;
    let known = web.config().await["identity"]["bundle"]["roots"].clone();
    assert_eq!(known, serde_json::json!([both[0]]));
    let answer = web.get("http://cart/").await;
    assert_eq!((answer.status, answer.cause()), (200, None), "{answer:?}");
    // And the control plane's own certificate leads back to what it knows, too.
    mesh.start_control().await;
    eventually("it knows both", async || {
        web.config().await["identity"]["bundle"]["roots"].as_array().is_some_and(|roots| roots.len() == 2)
    })
    .await;
    assert_eq!(web.get("http://cart/").await.status, 200);
    for sidecar in [serving, web] {
        sidecar.stop().await;
    }
    mesh.stop().await;
}
