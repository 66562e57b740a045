//! Every service has addresses of its own that stay, and whoever connects to one reaches it; names are told.

use std::net::IpAddr;

use meshwork_core::names::Named;
use meshwork_proxy::Found;
use meshwork_testkit::{App, Mesh, Sidecar, eventually, workload};

/// The addresses of a service in `default`, IPv4 first.
async fn addresses(mesh: &Mesh, service: &str) -> Vec<IpAddr> {
    let path = format!("/api/v1/namespaces/default/services/{service}");
    let (status, shown) = mesh.api("GET", &path, "").await;
    assert_eq!(status, 200, "{shown:#}");
    let addresses = shown["status"]["virtualAddresses"].as_array().unwrap();
    addresses.iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

fn url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("http://{v4}/"),
        IpAddr::V6(v6) => format!("http://[{v6}]/"),
    }
}

/// The first request may come before the push that brings the mesh's ranges.
async fn reaches(web: &Sidecar, address: IpAddr) {
    let url = url(address);
    eventually(&url, async || {
        let answer = web.get(&url).await;
        answer.status == 200 && answer.header("x-app") == Some("cart")
    })
    .await;
}

#[tokio::test]
async fn a_services_addresses_lead_to_it() {
    let cart = App::http("cart").await;
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("web"))
        .start()
        .await;
    let web = mesh.sidecar("web");
    let both = addresses(&mesh, "cart").await;
    assert_eq!(both.len(), 2);
    for address in both.clone() {
        reaches(web, address).await;
    }
    // By mutual TLS, as by its name.
    let received = cart.last();
    let client = received.header("x-forwarded-client-cert").unwrap_or_default();
    assert!(client.contains("/ns/default/sa/web"), "{client}");
    let [v4, _] = both[..] else { unreachable!() };
    let before = cart.count();
    let other_port = web.get(&format!("http://{v4}:81/")).await;
    assert_ne!(other_port.status, 200, "it has no such port: {other_port:?}");
    assert_eq!(cart.count(), before);
    mesh.stop().await;
}

#[tokio::test]
async fn addresses_stay_while_the_control_plane_restarts_and_the_service_is_deleted_and_made_again() {
    let cart = App::http("cart").await;
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("web"))
        .start()
        .await;
    let before = addresses(&mesh, "cart").await;
    reaches(mesh.sidecar("web"), before[0]).await;
    mesh.stop_control().await;
    assert_eq!(mesh.sidecar("web").get(&url(before[0])).await.status, 200, "nobody has to be asked");
    mesh.start_control().await;
    assert_eq!(addresses(&mesh, "cart").await, before);
    // A sidecar that registers makes its service: cart's must have done so before it is deleted, not after.
    eventually("cart is back", async || {
        let status = mesh.status().await;
        let proxies = status["proxies"].as_array().unwrap();
        proxies.iter().any(|proxy| proxy["service"] == "cart" && proxy["connected"] == true)
    })
    .await;

    let (status, deleted) = mesh.api("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    assert_eq!(status, 200, "{deleted:#}");
    eventually("the address is nobody's", async || {
        mesh.sidecar("web").get(&url(before[0])).await.status != 200
    })
    .await;
    let again = "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\n\
                 spec:\n  selector: {app: cart}\n  ports: [{port: 80}]\n";
    mesh.apply(again).await;
    assert_eq!(addresses(&mesh, "cart").await, before);
    reaches(mesh.sidecar("web"), before[0]).await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_address_that_a_platform_gave_a_service_leads_to_it_while_it_is_its() {
    let cart = App::http("cart").await;
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &cart))
        .with(workload("web"))
        .start()
        .await;
    let web = mesh.sidecar("web");
    let service = |address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart}}\n\
             spec:\n  clusterIP: {address}\n  selector: {{app: cart}}\n  ports: [{{port: 80}}]\n"
        )
    };
    let [old, new] = ["192.0.2.7", "192.0.2.8"];
    mesh.apply(&service(old)).await;
    // Asked sooner, the request would go to the address itself, as to any host outside.
    is_in_ranges(web, old).await;
    reaches(web, old.parse().unwrap()).await;
    mesh.apply(&service(new)).await;
    is_in_ranges(web, new).await;
    reaches(web, new.parse().unwrap()).await;
    let listener = format!("{old}:80");
    eventually("the old one is nobody's", async || {
        !matches!(web.live().snapshot().find(&listener), Some(Found::Service(_)))
    })
    .await;
    mesh.stop().await;
}

async fn is_in_ranges(sidecar: &Sidecar, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    eventually("the mesh's ranges", async || {
        let snapshot = sidecar.live().snapshot();
        let ranges = snapshot.settings.iter().flat_map(|settings| &settings.ranges);
        ranges.into_iter().any(|net| net.contains(&address))
    })
    .await;
}

/// What a sidecar knows of a service's name now.
fn named(sidecar: &Sidecar, namespace: &str, service: &str) -> Option<Named> {
    let names = sidecar.live().names();
    let (_, table) = names.iter().find(|(known, _)| *known == namespace)?;
    table?.services.get(service).cloned()
}

fn is_absent(sidecar: &Sidecar, namespace: &str) -> bool {
    sidecar.live().names().iter().any(|(known, table)| known == namespace && table.is_none())
}

#[tokio::test]
async fn the_names_of_ones_own_namespace_follow_its_services_and_others_are_told_when_asked_for() {
    let (cart, pay) = (App::http("cart").await, App::http("pay").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("web"))
        .with(workload("cart").serving(80, &cart))
        .start()
        .await;
    let web = mesh.sidecar("web");
    eventually("its namespace's names", async || named(web, "default", "cart").is_some()).await;
    let address = named(web, "default", "cart").unwrap();
    assert_eq!(addresses(&mesh, "cart").await, [IpAddr::from(address.v4), address.v6.into()]);

    let _pay = mesh.join(workload("pay").serving(80, &pay)).await;
    eventually("the new service's name", async || named(web, "default", "pay").is_some()).await;

    assert!(!web.live().names().knows("shop"), "nobody looked there");
    assert!(web.live().ask_names("shop"));
    eventually("that it is absent", async || is_absent(web, "shop")).await;
    let _far = mesh.join(workload("pay").namespace("shop").serving(80, &pay)).await;
    eventually("the names of the other one", async || named(web, "shop", "pay").is_some()).await;

    let (status, _) = mesh.api("DELETE", "/api/v1/namespaces/shop/services/pay", "").await;
    assert_eq!(status, 200);
    eventually("that it is absent again", async || is_absent(web, "shop")).await;
    mesh.stop().await;
}
