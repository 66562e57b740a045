//! Sidecars that speak HTTP/2 with each other among those that don't: who is told what, and that all of them reach
//! each other.

use meshwork_core::model::AppProtocol;
use meshwork_testkit::{App, Mesh, Sidecar, eventually, workload};
use serde_json::{Value, json};

/// What a sidecar was told of the ways to cart's one endpoint.
async fn transports_of_cart(sidecar: &Sidecar) -> Value {
    sidecar.config().await["destinations"]["cart:80"]["rules"][0]["backends"][0]["endpoints"]["members"][0]
        ["transports"]
        .clone()
}

#[tokio::test]
async fn only_sidecars_that_speak_http2_are_told_of_others_that_do() {
    let app = App::http("cart").await;
    let mesh = Mesh::builder()
        .with(workload("cart").serving(80, &app).http2(true))
        .with(workload("web").http2(true))
        .with(workload("old").http2(false))
        .start()
        .await;
    let (cart, web, old) = (mesh.sidecar("cart"), mesh.sidecar("web"), mesh.sidecar("old"));
    assert_eq!(cart.config().await["alpn"], json!(["h2", "http/1.1", "meshwork-tcp/1"]));
    assert_eq!(old.config().await["alpn"], json!(["http/1.1", "meshwork-tcp/1"]));
    for sidecar in [web, old] {
        assert_eq!(sidecar.get("http://cart/").await.status, 200);
    }
    assert_eq!(transports_of_cart(web).await, json!(["mtls-http2", "mtls-http1", "mtls-tcp"]));
    assert_eq!(transports_of_cart(old).await, json!(["mtls-http1", "mtls-tcp"]));

    for (service, features) in [
        (
            "cart",
            json!([
                "meshwork.http2",
                "meshwork.traffic",
                "meshwork.capture",
                "meshwork.balance",
                "meshwork.patches"
            ]),
        ),
        ("old", json!(["meshwork.traffic", "meshwork.capture", "meshwork.balance", "meshwork.patches"])),
    ] {
        eventually("what it can is told", async || {
            let status = mesh.status().await;
            let mut proxies = status["proxies"].as_array().unwrap().iter();
            proxies.any(|proxy| proxy["service"] == service && proxy["features"] == features)
        })
        .await;
    }
    let (_, described) = mesh.api("GET", "/api/v1/describe/service/default/cart", "").await;
    assert_eq!(described["endpoints"][0]["transports"], json!(["mtls-http2", "mtls-http1", "mtls-tcp"]));
    mesh.stop().await;
}

#[tokio::test]
async fn an_old_sidecar_among_new_ones_is_called_as_it_can() {
    let app = App::http("cart").await;
    let cart = workload("cart").serving(80, &app).http2(false);
    let mesh = Mesh::builder().with(cart).with(workload("web").http2(true)).start().await;
    let web = mesh.sidecar("web");
    assert_eq!(web.post("http://cart/", "order").await.text(), "order");
    assert_eq!(transports_of_cart(web).await, json!(["mtls-http1", "mtls-tcp"]));
    mesh.stop().await;
}

/// Cart with a declared protocol, applied by an operator before cart comes.
fn declared(app: &App, protocol: &str) -> String {
    let port = app.address().port();
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec:
  selector: {{app: cart}}
  ports: [{{port: 80, targetPort: {port}, appProtocol: {protocol}}}]
"
    )
}

#[tokio::test]
async fn what_an_application_speaks_is_registered_unless_an_operator_said_so_before() {
    for (operators, expect) in [(None, "http2"), (Some("grpc"), "grpc")] {
        let app = App::http("cart").await;
        let mesh = Mesh::builder().start().await;
        if let Some(protocol) = operators {
            mesh.apply(&declared(&app, protocol)).await;
        }
        let cart = mesh.join(workload("cart").serving_as(80, &app, AppProtocol::Http2)).await;
        eventually("cart is told of its own port", async || {
            cart.config().await["inbound"]["ports"][0]["appProtocol"] == expect
        })
        .await;
        cart.stop().await;
        mesh.stop().await;
    }
}
