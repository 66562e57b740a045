//! Envoy and sidecars, both with certificates of the mesh, and each checks who the other is.

use meshwork_testkit::{App, Client, Load, Mesh, eventually, get, workload};

use crate::envoy::{Dialect, Envoy, Setup, app, ask, upstream};

/// Somebody wrote that `vault` is where another service listens.
fn impostor(address: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: vault}}
spec:
  selector: {{app: vault}}
  ports: [{{port: 80}}]
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: vault-1, labels: {{app: vault}}}}
spec:
  address: 127.0.0.1
  serviceAccount: vault
  ports: [{{port: 1, servicePort: 80, address: \"{address}\", transports: [mtls-http2]}}]
"
    )
}

#[tokio::test]
async fn a_sidecar_is_called_by_its_identity_by_delta() {
    to_a_sidecar(Dialect::Delta).await;
}

#[tokio::test]
async fn a_sidecar_is_called_by_its_identity_by_state_of_the_world() {
    to_a_sidecar(Dialect::StateOfTheWorld).await;
}

async fn to_a_sidecar(dialect: Dialect) {
    let cart = App::http("cart").await;
    let mesh = Mesh::builder().with(workload("cart").serving(80, &cart)).start().await;
    let inbound = mesh.sidecar("cart").inbound()[0].to_string();
    mesh.apply(&impostor(&inbound)).await;
    let Some(envoy) = Envoy::carrying(&mesh, dialect, &["cart:80", "vault:80"]).await else { return };
    let mut client = envoy.client("cart:80").await;
    eventually("cart is called", async || app(&ask(&mut envoy.client("cart:80").await, "/").await) == "cart")
        .await;
    assert_eq!(app(&ask(&mut client, "/").await), "cart");
    let caller = cart.last().header("x-forwarded-client-cert").map(str::to_owned);
    assert_eq!(caller.as_deref(), Some("URI=spiffe://mesh.local/ns/default/sa/web"));

    // It has taken the cluster, and takes nobody else for the service.
    let before = cart.begun();
    let refused = ask(&mut envoy.client("vault:80").await, "/").await;
    assert_eq!((refused.status, cart.begun()), (503, before), "{}", refused.text());
    let refusals = envoy.stat("cluster.default/vault_80.ssl.fail_verify_san").await;
    assert!(refusals.is_some_and(|count| count > 0), "refused for another reason: {}", refused.text());
    mesh.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_without_a_failed_request() {
    let cart = App::http("cart").await;
    let mesh = Mesh::builder().with(workload("cart").serving(80, &cart)).start().await;
    mesh.apply(
        "
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 10s}
",
    )
    .await;
    let Some(setup) = Setup::join(&mesh, "web").await else { return };
    let bootstrap = setup.bootstrap(&["--upstream", &upstream("cart:80")]).await;
    let setup = setup.watched();
    let first = std::fs::read(setup.directory().join("certificate.pem")).unwrap();
    let envoy = setup.start(&bootstrap).await;
    let load = Load::through(envoy.listening("cart:80").await, "http://cart/", 1);
    load.goes_on(5).await;
    eventually("it is renewed on disk", async || {
        std::fs::read(envoy.directory().join("certificate.pem")).unwrap() != first
    })
    .await;
    // Both the way to the control plane and that to the cart have it.
    let updates =
        async |name: &str| envoy.stat(&format!("{name}.ssl_context_update_by_sds")).await.unwrap_or(0);
    eventually("Envoy takes it", async || {
        updates("cluster.default/cart_80.client_ssl_socket_factory").await > 1
            && updates("cluster.meshwork.client_ssl_socket_factory").await > 1
    })
    .await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert_eq!(app(&ask(&mut envoy.client("cart:80").await, "/").await), "cart");
    mesh.stop().await;
}

/// `stock` is an application behind an Envoy with an identity of the mesh.
#[tokio::test]
async fn a_sidecar_calls_an_envoy_by_its_identity_and_is_known_there() {
    let stock = App::http("stock").await;
    let mesh = Mesh::builder().with(workload("web")).start().await;
    let Some(setup) = Setup::join(&mesh, "stock").await else { return };
    let serve = format!("127.0.0.1:0={}", stock.address().port());
    let bootstrap = setup.bootstrap(&["--serve", &serve]).await;
    let envoy = setup.start(&bootstrap).await;
    let name = format!("inbound {serve}");
    eventually("it serves", async || envoy.listener(&name).await.is_some()).await;
    let inbound = envoy.listener(&name).await.unwrap();
    mesh.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: stock}}
spec:
  selector: {{app: stock}}
  ports: [{{port: 80}}]
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: stock-1, labels: {{app: stock}}}}
spec:
  address: 127.0.0.1
  serviceAccount: stock
  ports: [{{port: {}, servicePort: 80, address: \"{inbound}\", transports: [mtls-http2]}}]
---{}",
        stock.address().port(),
        impostor(&inbound.to_string())
    ))
    .await;
    let web = mesh.sidecar("web");
    assert_eq!(app(&web.get("http://stock/").await), "stock");
    let caller = stock.last().header("x-forwarded-client-cert").unwrap_or_default().to_owned();
    assert!(caller.ends_with("URI=spiffe://mesh.local/ns/default/sa/web"), "{caller}");

    let before = stock.begun();
    let refused = web.get("http://vault/").await;
    assert_eq!((refused.status, refused.cause(), stock.begun()), (502, Some("wrong_identity"), before));
    // Who has no certificate of the mesh does not get there.
    assert!(Client::new(inbound).send(get("http://stock/")).await.is_err());
    assert_eq!(stock.begun(), before);
    mesh.stop().await;
}
