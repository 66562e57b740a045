//! What the control plane counts of itself, read where a scraper reads it.

use meshwork_core::resource::ResourceType;
use meshwork_xds::type_url;
use meshwork_xds::wire::DeltaDiscoveryRequest;
use tonic::Code;

use crate::common::sidecar::{Follower, enrol, register};
use crate::common::{Plane, service, soon};
use crate::{enrolled, watch_endpoints};

const ACKS: &str = r#"answers_total{kind="ack"}"#;
const PUSHES_TIMED: &str = "push_duration_seconds_count";

/// The value of a series, without `meshwork_control_` before it.
async fn value(plane: &Plane, series: &str) -> f64 {
    let text = String::from_utf8(plane.operator().bytes("/metrics").await).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("meshwork_control_{series} ")));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// Waits until it has come to that.
async fn comes_to(plane: &Plane, series: &str, expect: f64) {
    let mut found = f64::NAN;
    let wait = async {
        while found != expect {
            found = value(plane, series).await;
            tokio::task::yield_now().await;
        }
    };
    let wait = tokio::time::timeout(std::time::Duration::from_secs(10), wait).await;
    assert!(wait.is_ok(), "{series} is {found}, not {expect}");
}

#[tokio::test]
async fn what_is_there_and_what_happened_is_shown() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    operator.apply_ok(&service("default", "cart", 80)).await;
    for (series, at_the_start) in [
        ("registered_sidecars", 0.0),
        (r#"sessions{kind="sidecar"}"#, 0.0),
        (r#"resources{kind="services"}"#, 1.0),
        (r#"certificates_total{kind="enrolled"}"#, 0.0),
        (r#"commits_total{kind="failed"}"#, 0.0),
    ] {
        comes_to(&plane, series, at_the_start).await;
    }
    let commits = value(&plane, r#"commits_total{kind="done"}"#).await;
    let handshakes = value(&plane, r#"tls_handshakes_total{kind="done"}"#).await;

    let token = operator.token("default", "cart").await;
    let cart = enrol(&token).await.unwrap();
    let mut used_up: meshwork_identity::JoinToken = token.parse().unwrap();
    used_up.secret = meshwork_identity::TokenSecret::generate().unwrap();
    assert!(enrol(&used_up.to_string()).await.is_err());
    let renewed = cart.renew().await.unwrap();
    let session = renewed.join("cart-aaaaaa", "cart", 8080).await;
    renewed.register(register("web-aaaaaa", "web", 8080)).await;
    let mut follower = Follower::connect(&renewed, Follower::session("default/cart-aaaaaa")).await;
    follower.want("nobody:80").await;
    while follower.next().await.absent.is_empty() {}
    let unnamed = watch_endpoints(&renewed, "default/cart:80").await;
    for (series, expect) in [
        ("registered_sidecars", 1.0),
        (r#"sessions{kind="sidecar"}"#, 1.0),
        (r#"sessions{kind="unnamed"}"#, 1.0),
        (r#"sessions{kind="grpc"}"#, 0.0),
        (r#"workloads{kind="healthy"}"#, 1.0),
        (r#"certificates_total{kind="enrolled"}"#, 1.0),
        (r#"certificates_total{kind="renewed"}"#, 1.0),
        (r#"certificates_refused_total{kind="token_unknown"}"#, 1.0),
        (r#"registrations_refused_total{kind="other_service"}"#, 1.0),
        (r#"limits_reached_total{kind="connections"}"#, 0.0),
    ] {
        comes_to(&plane, series, expect).await;
    }
    for (series, least) in [
        (r#"commits_total{kind="done"}"#, commits + 1.0),
        (r#"tls_handshakes_total{kind="done"}"#, handshakes + 4.0),
        ("subscriptions", 2.0),
        ("pushes_total", 1.0),
        ("store_keys", 4.0),
        ("store_changes", 2.0),
        ("store_bytes", 4_096.0),
        ("memory_bytes", 1_048_576.0),
        ("descriptors", 8.0),
        ("threads", 2.0),
        ("tasks", 8.0),
        ("certificate_expiry_timestamp_seconds", 1.0e9),
    ] {
        let found = value(&plane, series).await;
        assert!(found >= least, "{series} is {found}, not {least} or more");
    }
    let revision = value(&plane, r#"revision{kind="store"}"#).await;
    comes_to(&plane, r#"revision{kind="model"}"#, revision).await;
    drop((session, follower, unnamed));
    comes_to(&plane, "subscriptions", 0.0).await;
    comes_to(&plane, "registered_sidecars", 0.0).await;
    plane.control.stop().await;
}

#[tokio::test]
async fn a_push_is_timed_until_its_last_reader_has_answered_or_is_gone() {
    let plane = Plane::start().await;
    let mut one = watch_endpoints(&enrolled(&plane, "default", "web").await, "default/cart:80").await;
    let mut other = watch_endpoints(&enrolled(&plane, "default", "app").await, "default/cart:80").await;
    one.take().await;
    other.take().await;
    comes_to(&plane, ACKS, 2.0).await;
    comes_to(&plane, "sessions_behind", 0.0).await;
    let before = value(&plane, PUSHES_TIMED).await;
    let change = |port: u16| {
        let workload = format!(
            "{{apiVersion: meshwork.dev/v1alpha1, kind: Workload, metadata: {{name: cart-1, labels: {{app: cart}}}}, \
             spec: {{address: 10.0.0.{port}, ports: [{{port: 8080}}]}}}}\n"
        );
        service("default", "cart", 80) + &workload
    };

    plane.operator().apply_ok(&change(1)).await;
    one.take().await;
    let response = other.next().await.unwrap();
    comes_to(&plane, ACKS, 3.0).await;
    comes_to(&plane, "sessions_behind", 1.0).await;
    assert_eq!(value(&plane, PUSHES_TIMED).await, before, "one has yet to answer");
    other.answer(&response, Some("not for me")).await;
    comes_to(&plane, PUSHES_TIMED, before + 1.0).await;
    comes_to(&plane, r#"answers_total{kind="nack"}"#, 1.0).await;

    plane.operator().apply_ok(&change(2)).await;
    one.take().await;
    other.next().await.unwrap();
    comes_to(&plane, ACKS, 4.0).await;
    assert_eq!(value(&plane, PUSHES_TIMED).await, before + 1.0);
    drop(other);
    comes_to(&plane, PUSHES_TIMED, before + 2.0).await;
    // What concerns nobody takes no time.
    plane.operator().apply_ok(&service("default", "stock", 80)).await;
    comes_to(&plane, r#"resources{kind="services"}"#, 2.0).await;
    assert_eq!(value(&plane, PUSHES_TIMED).await, before + 2.0);
    plane.control.stop().await;
}

#[tokio::test]
async fn who_asks_for_too_much_is_counted() {
    let plane = Plane::start().await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = web.ads().await;
    let name = "a".repeat(4_096);
    ads.subscribe(&type_url(ResourceType::Listener), &[&name]).await;
    assert!(soon(ads.next()).await.is_err());
    comes_to(&plane, r#"limits_reached_total{kind="session"}"#, 1.0).await;
    plane.control.stop().await;
}

#[tokio::test]
async fn who_is_not_understood_met_no_limit() {
    let plane = Plane::start().await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = web.ads().await;
    ads.send(DeltaDiscoveryRequest {
        type_url: type_url(ResourceType::Listener),
        resource_locators_subscribe: vec![Default::default()],
        ..DeltaDiscoveryRequest::default()
    })
    .await;
    assert_eq!(soon(ads.next()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(value(&plane, r#"limits_reached_total{kind="session"}"#).await, 0.0);
    plane.control.stop().await;
}
