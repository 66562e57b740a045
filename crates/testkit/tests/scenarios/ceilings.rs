//! A sidecar that has no memory left, or no descriptors: its callers are served by others, and it recovers by itself.

use meshwork_testkit::{App, Client, Mesh, Sidecar, eventually, get, post, workload};

/// What the sidecar may have beyond what this process, with all its tests, uses at the start.
const ROOM: u64 = 384 << 20;

/// The instances take turns: by latency, one that has refused would be called rarely for a minute.
const CART: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, annotations: {meshwork.dev/balance: roundRobin}}
spec: {selector: {app: cart}, ports: [{port: 80, appProtocol: http}]}
";

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

fn refused_for_memory(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().total("meshwork_limits_reached_total", &[("kind", "memory")])
}

async fn check_served(client: &mut Client) {
    for request in [get("http://cart/"), post("http://cart/", "order")] {
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status, answer.cause()), (200, None), "{answer:?}");
    }
}

#[tokio::test]
async fn an_instance_past_its_memory_ceiling_costs_its_callers_nothing_and_recovers() {
    let (tight, roomy) = (App::http("tight").await, App::http("roomy").await);
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    mesh.apply(CART).await;
    let one = mesh.join(workload("cart").serving(80, &tight).memory_max(resident() + ROOM)).await;
    let _other = mesh.join(workload("cart").serving(80, &roomy)).await;
    let web = mesh.sidecar("web");
    let mut client = web.client();
    eventually("both are called", async || {
        check_served(&mut web.client()).await;
        tight.count() > 0 && roomy.count() > 0
    })
    .await;

    // Sidecars and this test are one process.
    let ballast = vec![1_u8; ROOM as usize / 3 * 4];
    eventually("the one refuses", async || {
        check_served(&mut web.client()).await;
        refused_for_memory(&one) > 0.0
    })
    .await;
    let at_refusal = tight.count();
    for _ in 0..50 {
        check_served(&mut client).await;
    }
    assert_eq!(tight.count(), at_refusal, "nothing new is taken");
    eventually("operators are told", async || {
        let status = mesh.status().await;
        let proxies = status["proxies"].as_array().unwrap();
        let limits =
            proxies.iter().flat_map(|proxy| proxy["summary"]["limits"].as_array().into_iter().flatten());
        limits.filter(|limit| limit["kind"] == "memory").count() == 1
    })
    .await;

    drop(ballast);
    eventually("it is called again", async || {
        check_served(&mut web.client()).await;
        tight.count() > at_refusal
    })
    .await;
    mesh.stop().await;
}
