//! A gRPC client keeps one connection for hours: unless each call is balanced on its own, one instance does all the work.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use meshwork_testkit::{GrpcApp, Mesh, Sidecar, eventually, grpc_client_by_connect, workload};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{DESTINATION, HTTP2, PORT, Way, client};

/// Round robin: half is half, and not luck.
pub(super) const IN_TURN: &str = "
apiVersion: v1
kind: Service
metadata: {name: payments, annotations: {meshwork.dev/balance: roundRobin}}
spec:
  selector: {app: payments}
  ports: [{port: 50051, appProtocol: grpc}]
";

/// `web`, and payments twice.
pub(super) async fn mesh(apps: [&GrpcApp; 2]) -> (Mesh, Sidecar) {
    let payments = |app| workload("payments").serving_grpc(PORT, app);
    let mesh =
        Mesh::builder().http2(HTTP2).with(payments(apps[0])).with(workload("web").upstream(DESTINATION));
    let mesh = mesh.start().await;
    let second = mesh.join(payments(apps[1])).await;
    (mesh, second)
}

#[tokio::test]
async fn the_calls_of_one_tunnel_go_to_both_endpoints() {
    let (one, two) = (GrpcApp::start("payments-1"), GrpcApp::start("payments-2"));
    let (mesh, second) = mesh([&one, &two]).await;
    mesh.apply(IN_TURN).await;
    let web = mesh.sidecar("web");
    let (mut client, made) = grpc_client_by_connect(web.outbound_http(), DESTINATION);
    let tunnels = || web.metrics().total("meshwork_connections_total", &[("kind", "outbound")]);
    let before = tunnels();
    for _ in 0..200 {
        client.unary(Bytes::from_static(b"pay")).await.unwrap();
    }
    assert_eq!((one.calls() + two.calls(), made.load(Ordering::Relaxed)), (200, 1));
    assert!((95..=105).contains(&one.calls()), "{} of 200", one.calls());
    assert_eq!(tunnels() - before, 1.0);
    second.stop().await;
    mesh.stop().await;
}

/// By load: calls that are under way count.
#[tokio::test]
async fn calls_beside_each_other_go_to_both_endpoints() {
    let (one, two) = (GrpcApp::start("payments-1"), GrpcApp::start("payments-2"));
    let (mesh, second) = mesh([&one, &two]).await;
    let client = client(mesh.sidecar("web"), Way::LocalPort);
    let mut open = JoinSet::new();
    for count in 1..=40 {
        let mut client = client.clone();
        open.spawn(async move { client.hang(Bytes::new()).await });
        eventually("the next call", async || one.calls() + two.calls() == count).await;
    }
    assert!((15..=25).contains(&one.calls()), "{} of 40", one.calls());
    drop(open);
    one.saw_cancelled(one.calls()).await;
    two.saw_cancelled(two.calls()).await;
    second.stop().await;
    mesh.stop().await;
}

/// An instance that drains takes no further call, and none is lost: the connection of the client stays.
#[tokio::test]
async fn an_instance_leaves_while_one_connection_goes_on_calling() {
    let (one, two) = (GrpcApp::start("payments-1"), GrpcApp::start("payments-2"));
    let (mesh, second) = mesh([&one, &two]).await;
    mesh.apply(IN_TURN).await;
    let (mut client, made) = grpc_client_by_connect(mesh.sidecar("web").outbound_http(), DESTINATION);
    let enough = CancellationToken::new();
    let calling = tokio::spawn({
        let enough = enough.clone();
        async move {
            let mut answered = 0;
            while !enough.is_cancelled() {
                let answer = client.unary(Bytes::from_static(b"pay")).await;
                answer.unwrap_or_else(|status| panic!("after {answered} calls: {status:?}"));
                answered += 1;
            }
            answered
        }
    });
    two.reached(50).await;
    second.drain().await;
    let after = two.calls();
    second.stop().await;
    one.reached(one.calls() + 100).await;
    enough.cancel();
    assert_eq!(calling.await.unwrap(), one.calls() + after);
    assert_eq!(two.calls(), after, "nothing comes after the drain");
    assert_eq!(made.load(Ordering::Relaxed), 1, "one connection all the time");
    mesh.stop().await;
}
