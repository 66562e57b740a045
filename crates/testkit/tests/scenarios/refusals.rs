//! What is refused, and that it spoils only itself: documents at `apply`, resources at a sidecar, workloads that
//! claim to be what their token did not name.

use meshwork_testkit::{App, Log, Mesh, Sidecar, eventually, soon, workload};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::sidecar_client::SidecarClient;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::proto::{Register, RegisteredPort, SidecarMessage};
use serde_json::{Value, json};

use crate::ads;
use crate::middle::Middle;

/// A rule that adds a header to every answer of a service.
fn stamped(service: &str, stamp: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: stamp-{service}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}}}]
  rules:
  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-stamp, value: '{stamp}'}}]}}}}]
    backendRefs: [{{name: {service}, port: 80}}]
---
"
    )
}

async fn stamp(web: &Sidecar, service: &str) -> Option<String> {
    let answer = web.get(&format!("http://{service}/")).await;
    assert_eq!((answer.status, answer.cause()), (200, None), "{answer:?}");
    answer.header("x-stamp").map(str::to_owned)
}

#[tokio::test]
async fn a_bad_document_among_good_ones_is_refused_with_line_and_column_and_nothing_is_applied() {
    let (cart, payments) = (App::http("cart").await, App::http("payments").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("payments").serving(80, &payments))
        .with(workload("web"))
        .start()
        .await;
    let web = mesh.sidecar("web");
    mesh.apply(&(stamped("cart", "one") + &stamped("payments", "one"))).await;
    eventually("the routes are in force", async || {
        stamp(web, "cart").await.as_deref() == Some("one")
            && stamp(web, "payments").await.as_deref() == Some("one")
    })
    .await;
    let revision = mesh.status().await["revision"].clone();

    let (before, after) = (stamped("cart", "two"), stamped("payments", "two"));
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: stock}\nspec:\n  ports:\n  - prot: 80\n---\n";
    let (status, answer) = mesh.operator().apply(&(before.clone() + bad + &after)).await;
    let error = &answer["error"];
    let line = before.lines().count() + 6;
    assert_eq!(
        (status, &error["file"], &error["line"], &error["column"]),
        (422, &json!("test.yaml"), &json!(line), &json!(5)),
        "{answer:#}"
    );
    assert!(error["message"].as_str().unwrap().contains("prot"), "{answer:#}");

    // Not even what stood before it: neither in the store nor at the sidecars.
    assert_eq!(mesh.status().await["revision"], revision);
    assert_eq!(mesh.api("GET", "/api/v1/namespaces/default/services/stock", "").await.0, 404);
    // A good change afterwards shows that sidecars heard of nothing in between.
    mesh.apply(&stamped("payments", "three")).await;
    eventually("the good change is in force", async || {
        stamp(web, "payments").await.as_deref() == Some("three")
    })
    .await;
    assert_eq!(stamp(web, "cart").await.as_deref(), Some("one"));
    mesh.stop().await;
}

#[tokio::test]
async fn a_bad_resource_from_a_control_plane_is_nacked_alone_and_the_rest_applies() {
    let (cart, payments) = (App::http("cart").await, App::http("payments").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("payments").serving(80, &payments))
        .start()
        .await;
    let web = mesh.join(workload("web")).await;
    let own = ads::enrolled(&web);
    let state = web.stop().await;
    let (middle, told) = Middle::start(&own).await;
    told.save(state.path()).unwrap();
    let page = App::http("web").await;
    let web = mesh.come_back(workload("web").serving(80, &page), state).await;

    mesh.apply(&(stamped("cart", "one") + &stamped("payments", "one"))).await;
    eventually("the routes are in force", async || {
        stamp(&web, "cart").await.as_deref() == Some("one")
            && stamp(&web, "payments").await.as_deref() == Some("one")
    })
    .await;
    assert_eq!(nacks(&mesh).await, json!([]));

    // Both change at once, and one does not arrive as it should.
    middle.spoil("default/payments:80");
    mesh.apply(&(stamped("cart", "two") + &stamped("payments", "two"))).await;
    eventually("the good one is in force", async || stamp(&web, "cart").await.as_deref() == Some("two"))
        .await;
    eventually("the refusal is told", async || nacks(&mesh).await != json!([])).await;
    let told = nacks(&mesh).await;
    assert_eq!(told.as_array().unwrap().len(), 1, "{told:#}");
    assert_eq!(
        (&told[0]["type"], &told[0]["name"]),
        (&json!("route"), &json!("default/payments:80")),
        "{told:#}"
    );
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(reason.contains("virtual_hosts[0].retry_policy"), "the field is named: {reason}");
    assert_eq!(stamp(&web, "payments").await.as_deref(), Some("one"), "the last good version stays");
    assert!(web.metrics().total("meshwork_config_nacks_total", &[]) >= 1.0);

    // Mended, it applies, and the status is clean.
    middle.spoil_nothing();
    mesh.apply(&stamped("payments", "three")).await;
    eventually("the mended one is in force", async || {
        stamp(&web, "payments").await.as_deref() == Some("three")
    })
    .await;
    eventually("nothing is refused", async || nacks(&mesh).await == json!([])).await;
    web.stop().await;
    mesh.stop().await;
}

/// What web's sidecar refuses, as the control plane's status shows it.
async fn nacks(mesh: &Mesh) -> Value {
    let status = mesh.status().await;
    let proxies = status["proxies"].as_array().unwrap();
    let web = proxies.iter().find(|proxy| proxy["service"] == "web").unwrap_or_else(|| panic!("{status:#}"));
    web["config"]["nacks"].clone()
}

#[tokio::test]
async fn a_workload_with_carts_token_that_claims_to_be_payments_is_refused_and_named() {
    let log = Log::start();
    let app = App::http("cart").await;
    let mesh = Mesh::builder().http2(super::HTTP2).start().await;

    // Our own sidecar sees it itself.
    let claim = workload("payments").with_token_of("cart").serving(80, &app);
    let Err(refused) = mesh.try_join(claim).await else { panic!("payments joined with cart's token") };
    let refused = refused.to_string();
    assert!(refused.contains("for service cart") && refused.contains("for payments"), "{refused}");

    // One that is not so honest is refused by the control plane.
    let cart = mesh.join(workload("cart").serving(80, &app)).await;
    let answer = claim_payments(&cart, &app).await;
    let Down::Refused(refused) = answer else { panic!("want a refusal, not {answer:?}") };
    assert!(refused.reason.contains("may register for service cart only"), "{}", refused.reason);
    assert!(log.says(&["refused a sidecar", "spiffe://mesh.local/ns/default/sa/cart", "payments"]));
    let (_, services) = mesh.api("GET", "/api/v1/services", "").await;
    assert_eq!(services["items"].as_array().unwrap().len(), 1, "there is no payments: {services:#}");
    cart.stop().await;
    mesh.stop().await;
}

/// Registers for payments with cart's certificate.
async fn claim_payments(cart: &Sidecar, app: &App) -> Down {
    let port = RegisteredPort {
        service_port: 80,
        app_port: app.address().port().into(),
        app_protocol: "http".to_owned(),
        address: cart.inbound()[0].to_string(),
        alpn: vec!["http/1.1".to_owned()],
    };
    let register = Register {
        workload: "payments-abcdef".to_owned(),
        service: "payments".to_owned(),
        ports: vec![port],
        version: "0.1.0".to_owned(),
        healthy: true,
        ..Register::default()
    };
    let message = SidecarMessage { sequence: 1, message: Some(Up::Register(register)) };
    let channel = ads::channel(&ads::enrolled(cart)).await;
    // The stream of messages stays open, as a sidecar's does.
    let messages = tokio_stream::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
    let mut answers = SidecarClient::new(channel).session(messages).await.unwrap().into_inner();
    soon("an answer", answers.message()).await.unwrap().unwrap().message.unwrap()
}

#[tokio::test]
async fn an_address_that_proves_another_identity_is_sent_nothing() {
    let app = App::http("payments").await;
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("payments").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    let (web, payments) = (mesh.sidecar("web"), mesh.sidecar("payments"));
    // Payments' address under cart's name and account: a machine that took over an address looks like this.
    let squat = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec: {{selector: {{squat: 'yes'}}, ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]}}
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: squat, labels: {{squat: 'yes'}}}}
spec: {{serviceAccount: cart, ports: [{{port: 8080, address: '{}', transports: [mtls-http1]}}]}}
",
        payments.inbound()[0]
    );
    mesh.apply(&squat).await;
    let answer = web.post("http://cart/", "a secret").await;
    assert_eq!((answer.status, answer.cause()), (502, Some("wrong_identity")), "{answer:?}");
    assert!(
        answer.text().contains("spiffe://mesh.local/ns/default/sa/payments"),
        "it is named: {}",
        answer.text()
    );
    assert_eq!(app.count(), 0);
    assert!(web.metrics().total("meshwork_tls_handshakes_total", &[("kind", "peer_refused")]) >= 1.0);
    // Under its own name it is served.
    assert_eq!(web.get("http://payments/").await.status, 200);
    mesh.stop().await;
}
