//! Services that come and move, and instances that die: callers see no failure.

use std::time::Duration;

use meshwork_testkit::{App, Client, Load, Mesh, Sidecar, eventually, get, post, workload};
use tokio::net::TcpStream;

/// Requests that prove a way under load.
const MANY: usize = 300;

/// Long enough that requests are on their way whenever something happens.
const WORK: Duration = Duration::from_millis(2);

#[tokio::test]
async fn a_service_moves_to_another_address_under_load_and_callers_see_no_failure() {
    let (old, new) = (App::http_after("old", WORK).await, App::http_after("new", WORK).await);
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &old))
        .with(workload("web"))
        .start()
        .await;
    let load = Load::start(mesh.sidecar("web"), "http://cart/items", 8);
    old.reached(MANY).await;

    let elsewhere = "127.0.0.2".parse().unwrap();
    let there = mesh.join(workload("cart").serving(80, &new).at(elsewhere)).await;
    assert_eq!(there.inbound()[0].ip(), elsewhere);
    new.reached(MANY).await;

    let here = mesh.take("cart");
    here.drain().await;
    let at_drain = old.count();
    load.goes_on(MANY).await;
    assert_eq!(old.count(), at_drain, "nothing comes to the old address after its drain");
    here.stop().await;
    drop(old);
    load.goes_on(MANY).await;

    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:#?}", tally.failures);
    // Counted once the answer is out, which its reader may see first.
    let counted = [("direction", "outbound"), ("destination", "default/cart"), ("status", "200")];
    eventually("every answer is counted", async || {
        mesh.sidecar("web").metrics().requests(&counted) == tally.answered
    })
    .await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_service_is_found_as_soon_as_its_workload_is_registered() {
    let app = App::http("cart").await;
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    let _cart = mesh.join(workload("cart").serving(80, &app)).await;
    let answer = mesh.sidecar("web").get("http://cart/").await;
    assert_eq!((answer.status, answer.header("x-app")), (200, Some("cart")), "{answer:?}");
    mesh.stop().await;
}

/// Two instances take turns, so the next request is as good as certain to be for the one that died.
const CATALOG: &str = "
apiVersion: v1
kind: Service
metadata: {name: catalog, annotations: {meshwork.dev/balance: roundRobin}}
spec: {selector: {app: catalog}, ports: [{port: 80, appProtocol: http}]}
";

/// Web, and two instances of catalog that were both called.
async fn web_and_two_catalogs(first: &App, second: &App) -> (Mesh, Sidecar, Sidecar) {
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    mesh.apply(CATALOG).await;
    let one = mesh.join(workload("catalog").serving(80, first)).await;
    let other = mesh.join(workload("catalog").serving(80, second)).await;
    eventually("both instances are called", async || {
        assert_eq!(mesh.sidecar("web").get("http://catalog/warm").await.status, 200);
        first.count() > 0 && second.count() > 0
    })
    .await;
    (mesh, one, other)
}

/// Nothing was processed, and that is certain: so even a POST goes to the other instance.
async fn check_served_by_the_other(web: &Sidecar, client: &mut Client) {
    for number in 0..50 {
        for request in [get("http://catalog/"), post("http://catalog/", "order")] {
            let answer = client.send(request).await.unwrap();
            let served = (answer.status, answer.header("x-app"));
            assert_eq!(served, (200, Some("lives")), "request {number}: {answer:?}");
        }
    }
    assert!(web.metrics().total("meshwork_retries_total", &[]) > 0.0, "the dead instance was tried");
}

#[tokio::test]
async fn an_application_dies_and_its_callers_are_served_by_the_other_instance() {
    let (dies, lives) = (App::http("dies").await, App::http("lives").await);
    let (mesh, _its_sidecar, _other) = web_and_two_catalogs(&dies, &lives).await;
    let web = mesh.sidecar("web");
    let mut client = web.client();
    drop(dies);
    check_served_by_the_other(web, &mut client).await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_instance_dies_sidecar_and_all_and_its_callers_are_served_by_the_other() {
    let (dies, lives) = (App::http("dies").await, App::http("lives").await);
    let (mesh, its_sidecar, _other) = web_and_two_catalogs(&dies, &lives).await;
    let web = mesh.sidecar("web");
    let mut client = web.client();
    let address = its_sidecar.inbound()[0];
    drop((dies, its_sidecar));
    eventually("its port is closed", async || TcpStream::connect(address).await.is_err()).await;
    check_served_by_the_other(web, &mut client).await;
    mesh.stop().await;
}
