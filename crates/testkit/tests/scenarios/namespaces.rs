//! Two namespaces with the same names.

use meshwork_testkit::{App, Mesh, workload};

#[tokio::test]
async fn two_namespaces_with_a_cart_each_see_their_own() {
    let (ours, theirs) = (App::http("ours").await, App::http("theirs").await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &ours))
        .with(workload("cart").namespace("shop").serving(80, &theirs))
        .with(workload("web"))
        .with(workload("web").namespace("shop"))
        .start()
        .await;
    let check = async |caller: &str, url: &str, app: &App, expect: &str| {
        let answer = mesh.sidecar(caller).get(url).await;
        assert_eq!(
            (answer.status, answer.header("x-app")),
            (200, Some(expect)),
            "{caller} -> {url}: {answer:?}"
        );
        let namespace = caller.strip_suffix("/web").unwrap_or("default");
        let who = format!("URI=spiffe://mesh.local/ns/{namespace}/sa/web");
        assert_eq!(app.last().header("x-forwarded-client-cert"), Some(&*who));
    };
    check("web", "http://cart/", &ours, "ours").await;
    check("shop/web", "http://cart/", &theirs, "theirs").await;
    // Whoever names a namespace gets that one.
    check("web", "http://cart.shop/", &theirs, "theirs").await;
    check("shop/web", "http://cart.default.mesh/", &ours, "ours").await;
    check("web", "http://cart.shop.svc.cluster.local/", &theirs, "theirs").await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_service_is_found_only_in_the_namespace_where_it_is() {
    let app = App::http("stock").await;
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("stock").namespace("shop").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    let answer = mesh.sidecar("web").get("http://stock.default.mesh/").await;
    assert_eq!((answer.status, answer.cause()), (502, Some("unknown_service")), "{answer:?}");
    assert_eq!(mesh.sidecar("web").get("http://stock.shop/").await.status, 200);
    assert_eq!(app.count(), 1);
    mesh.stop().await;
}
