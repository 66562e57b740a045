//! Services that move, and instances that die: callers see no failure.

use std::time::Duration;

use meshwork_testkit::{App, Load, Mesh, eventually, workload};

/// Requests that prove a way under load.
const MANY: usize = 300;

/// Long enough that requests are on their way whenever something happens.
const WORK: Duration = Duration::from_millis(2);

#[tokio::test]
async fn a_service_moves_to_another_address_under_load_and_callers_see_no_failure() {
    let (old, new) = (App::http_after("old", WORK).await, App::http_after("new", WORK).await);
    let mut mesh =
        Mesh::builder().with(workload("cart").serving(80, &old)).with(workload("web")).start().await;
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
