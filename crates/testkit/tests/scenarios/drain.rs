//! Instances that go in order: no request is lost, and what can't finish is told so in its own words.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use meshwork_core::model::AppProtocol;
use meshwork_proxy::side::Status;
use meshwork_testkit::{App, GrpcApp, Load, Mesh, eventually, grpc_client, soon, workload};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tonic::Code;

use super::http2::{App as AnyApp, Client, Speaks};

/// Requests of a whole rolling restart; the long version has 20,000 and more.
const REQUESTS: usize = 3_000;

/// Long enough that requests are on their way whenever something happens.
const WORK: Duration = Duration::from_millis(1);

const INSTANCES: usize = 3;

/// For what would never end by itself.
const SHORT: Duration = Duration::from_millis(200);

fn requests() -> usize {
    std::env::var("MESHWORK_TEST_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(REQUESTS)
}

#[tokio::test]
async fn all_instances_are_restarted_under_load_and_no_request_fails() {
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web")).start().await;
    let mut instances = VecDeque::new();
    for number in 0..INSTANCES {
        let app = App::http_after(&format!("cart-{number}"), WORK).await;
        let sidecar = mesh.join(workload("cart").serving(80, &app)).await;
        instances.push_back((app, sidecar));
    }
    let load = Load::start(mesh.sidecar("web"), "http://cart/items", 16);
    for number in 0..INSTANCES {
        load.goes_on(requests() / (INSTANCES + 1)).await;
        let (old, sidecar) = instances.pop_front().unwrap();
        sidecar.drain().await;
        let at_end = old.count();
        load.goes_on(50).await;
        assert_eq!(old.count(), at_end, "nothing comes to an application that is told to end");
        drop(old);
        let state = sidecar.stop().await;
        let new = App::http_after(&format!("cart-{number}-again"), WORK).await;
        let sidecar = mesh.come_back(workload("cart").serving(80, &new), state).await;
        new.reached(20).await;
        instances.push_back((new, sidecar));
    }
    load.goes_on(requests() / (INSTANCES + 1)).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "of {}: {:#?}", tally.answered, tally.failures);
    assert!(tally.answered >= requests() * 3 / 4);
    mesh.stop().await;
}

/// Nobody can be told then: callers learn it from the instance itself, request by request.
#[tokio::test]
async fn an_instance_drains_without_a_control_plane_and_no_request_fails() {
    let (goes, stays) = (App::http_after("goes", WORK).await, App::http_after("stays", WORK).await);
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &goes))
        .with(workload("web"))
        .start()
        .await;
    let _other = mesh.join(workload("cart").serving(80, &stays)).await;
    let load = Load::start(mesh.sidecar("web"), "http://cart/items", 4);
    goes.reached(50).await;
    stays.reached(50).await;
    mesh.stop_control().await;
    let cart = mesh.take("cart");
    cart.until("without control plane", |status: &Status| status.ready().is_ok()).await;

    cart.drain().await;
    assert_eq!(cart.status().ready(), Err("it is draining".to_owned()));
    drop(goes);
    load.goes_on(100).await;
    cart.stop().await;
    load.goes_on(300).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "of {}: {:#?}", tally.answered, tally.failures);
    mesh.stop().await;
}

#[tokio::test]
async fn a_grpc_stream_ends_as_unavailable_when_a_drains_time_is_up() {
    let app = GrpcApp::start("payments");
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("payments").serving_grpc(80, &app).drain(SHORT))
        .with(workload("web").upstream("payments:80"))
        .start()
        .await;
    let mut client = grpc_client(mesh.sidecar("web").upstream("payments:80"));
    let (questions, asked) = mpsc::channel(1);
    let mut answers = client.chat(ReceiverStream::new(asked)).await.unwrap().into_inner();
    questions.send(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(soon("an answer", answers.message()).await.unwrap().unwrap(), "one");
    let hanging = tokio::spawn({
        let mut client = client.clone();
        async move { client.hang(Bytes::new()).await }
    });
    app.reached(2).await;

    let payments = mesh.take("payments");
    payments.drain().await;
    let ended = soon("the stream's end", answers.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("cause: drained"), "{ended:?}");
    let unanswered = soon("the call's end", hanging).await.unwrap().unwrap_err();
    assert_eq!(unanswered.code(), Code::Unavailable, "{unanswered:?}");
    // The stream is to hyper only over, as its messages are.
    app.saw_cancelled(1).await;
    payments.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_websocket_is_closed_as_going_away_when_a_drains_time_is_up() {
    let mut pairs = vec![(Speaks::Http1, Speaks::Http1), (Speaks::Http2, Speaks::Http1)];
    if super::HTTP2 {
        pairs.push((Speaks::Http2, Speaks::Http2));
    }
    for (client_speaks, app_speaks) in pairs {
        let app = AnyApp::start(app_speaks).await;
        let hint = if app_speaks == Speaks::Http1 { AppProtocol::Http } else { AppProtocol::Http2 };
        let cart = workload("cart").port(80, app.address.port(), Some(hint)).drain(SHORT);
        let web = workload("web").upstream("cart:80");
        let mut mesh = Mesh::builder().http2(super::HTTP2).with(cart).with(web).start().await;
        let stream: TcpStream = mesh.sidecar("web").connect("cart:80").await;
        let mut client = Client::on(stream, client_speaks).await;
        client.ask(Method::GET, "/", "").await;
        let mut socket = client.open_websocket().await;
        socket.send(Message::text("one")).await.unwrap();
        assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("one"));

        let cart = mesh.take("cart");
        let (closed, ()) = tokio::join!(soon("its close", socket.next()), cart.drain());
        let what = format!("{client_speaks:?} to {app_speaks:?}: {closed:?}");
        let Some(Ok(Message::Close(Some(close)))) = closed else { panic!("{what}") };
        assert_eq!(close.code, CloseCode::Away, "{what}");
        cart.stop().await;
        mesh.stop().await;
    }
}

/// What readiness and the registry say of it, while what runs goes on.
#[tokio::test]
async fn a_draining_workload_is_not_ready_and_has_no_endpoint_while_what_runs_is_finished() {
    let slow = App::http_after("slow", Duration::from_secs(1)).await;
    let mut mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &slow))
        .with(workload("web"))
        .start()
        .await;
    let cart = mesh.take("cart");
    let draining = async {
        slow.asked(1).await;
        cart.drain().await;
        assert_eq!(slow.count(), 1, "it was waited for");
    };
    let observing = async {
        cart.until("draining", |status| status.ready() == Err("it is draining".to_owned())).await;
        eventually("its endpoint is gone", async || mesh.status().await["services"][0]["healthy"] == 0).await;
        assert_eq!(slow.count(), 0, "all that while it works");
    };
    let (answer, (), ()) = tokio::join!(mesh.sidecar("web").get("http://cart/"), draining, observing);
    assert_eq!(answer.status, 200, "{answer:?}");
    cart.stop().await;
    mesh.stop().await;
}
