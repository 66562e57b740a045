//! Calls of every form, with messages from seeds: what comes back is what was sent, message by message.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{EchoClient, GrpcApp, in_pieces, soon};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::iter;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{HTTP2, Way, client, counted, generated, mesh, mesh_with};

/// Around what frames and windows hold: nothing, a frame and a message's prefix of 5 bytes, a first window.
const LENGTHS: [usize; 12] = [0, 1, 5, 100, 1_000, 16_378, 16_379, 16_384, 16_385, 65_530, 65_535, 100_000];

fn messages(seed: u64) -> Vec<Bytes> {
    LENGTHS.iter().enumerate().map(|(n, length)| generated(seed * 1_000 + n as u64, *length)).collect()
}

#[tokio::test]
async fn calls_of_every_form_come_back_byte_for_byte() {
    let ways = [
        (Way::LocalPort, Some(AppProtocol::Grpc)),
        (Way::Tunnel, Some(AppProtocol::Grpc)),
        (Way::LocalPort, None),
        (Way::Tunnel, None),
    ];
    for (way, protocol) in ways {
        let app = GrpcApp::start("payments-1");
        let mesh = mesh_with(app.address().port(), protocol).await;
        let mut client = client(mesh.sidecar("web"), way);
        let mut calls = 0;
        for seed in 0..3 {
            calls += soon(&format!("{way:?}, {protocol:?}"), every_form(&mut client, seed)).await;
        }
        counted(&mesh, "0", calls).await;
        assert_eq!(app.calls(), calls);
        assert_eq!(
            app.last().get("x-forwarded-client-cert").unwrap(),
            "URI=spiffe://mesh.local/ns/default/sa/web",
            "the application knows who calls"
        );
        mesh.stop().await;
    }
}

/// How many calls that were.
async fn every_form(client: &mut EchoClient<Channel>, seed: u64) -> usize {
    let sent = messages(seed);
    for message in &sent {
        let answer = client.unary(message.clone()).await.unwrap();
        assert_eq!(answer.metadata().get("x-app").unwrap(), "payments-1");
        same(answer.get_ref(), message);
    }
    let collected = client.collect(iter(sent.clone())).await.unwrap().into_inner();
    same(&collected, &sent.concat());

    let whole = sent.concat();
    let mut pieces = client.scatter(in_pieces(7_777, &whole)).await.unwrap().into_inner();
    let mut scattered = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(piece.len() <= 7_777);
        scattered.extend_from_slice(&piece);
    }
    same(&scattered, &whole);

    converse(client, &sent).await;
    sent.len() + 3
}

/// Each message is answered before the next one is sent: nothing on the way may wait for a stream's end.
async fn converse(client: &mut EchoClient<Channel>, sent: &[Bytes]) {
    let (questions, asked) = mpsc::channel(1);
    let mut answers = client.chat(ReceiverStream::new(asked)).await.unwrap().into_inner();
    for message in sent {
        questions.send(message.clone()).await.unwrap();
        same(&answers.message().await.unwrap().unwrap(), message);
    }
    drop(questions);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[track_caller]
fn same(have: &[u8], want: &[u8]) {
    // Not `assert_eq`: nobody reads 100,000 bytes.
    assert!(have == want, "{} bytes came, which are not the {} that were sent", have.len(), want.len());
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    let large = generated(1, 9 << 20);
    same(client.unary(large.clone()).await.unwrap().get_ref(), &large);
    converse(&mut client, &[large.clone(), generated(2, 5 << 20)]).await;
    // And two at once, each of them more than any window.
    let mut other = client.clone();
    let (first, second) = tokio::join!(client.unary(large.clone()), other.unary(large.clone()));
    same(first.unwrap().get_ref(), &large);
    same(second.unwrap().get_ref(), &large);
    counted(&mesh, "0", 4).await;
    mesh.stop().await;
}

#[tokio::test]
async fn ten_thousand_messages_keep_their_order() {
    const COUNT: u64 = 10_000;
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::Tunnel);
    let number = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
    let answers = client.chat(iter((0..COUNT).map(number))).await.unwrap().into_inner();
    let came: Vec<Bytes> = soon("all answers", answers.map(Result::unwrap).collect()).await;
    assert!(came.into_iter().eq((0..COUNT).map(number)));

    let whole: Vec<u8> = (0..COUNT).flat_map(u64::to_be_bytes).collect();
    let pieces = client.scatter(in_pieces(8, &whole)).await.unwrap().into_inner();
    let came: Vec<Bytes> = soon("all pieces", pieces.map(Result::unwrap).collect()).await;
    assert!(came.into_iter().eq((0..COUNT).map(number)));
    counted(&mesh, "0", 2).await;
    mesh.stop().await;
}

/// More calls at once than one connection between sidecars carries (256 streams). Over HTTP/1 each has a connection.
#[tokio::test]
async fn a_thousand_calls_are_all_answered_many_of_them_at_once() {
    const AT_ONCE: usize = if HTTP2 { 1_000 } else { 25 };
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let first = client(mesh.sidecar("web"), Way::LocalPort);
    let calls = (0..1_000_u64).map(|n| {
        let mut client = first.clone();
        async move {
            let message = generated(n, 300);
            same(client.unary(message.clone()).await.unwrap().get_ref(), &message);
        }
    });
    let all = stream::iter(calls).buffer_unordered(AT_ONCE).count();
    assert_eq!(timeout(Duration::from_secs(60), all).await.expect("all of them"), 1_000);
    counted(&mesh, "0", 1_000).await;
    mesh.stop().await;
}

/// A reader that takes nothing holds up its own call, and no other of the same connection.
#[tokio::test]
async fn a_stalled_call_holds_up_no_other() {
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    let mut stalled = client.pour(generated(1, 60_000)).await.unwrap().into_inner();
    stalled.message().await.unwrap().unwrap();
    for seed in 0..20 {
        let message = generated(seed, 200_000);
        same(soon("an answer beside it", client.unary(message.clone())).await.unwrap().get_ref(), &message);
    }
    // It was never ended, and goes on where it stood.
    for _ in 0..100 {
        same(&soon("the next message", stalled.message()).await.unwrap().unwrap(), &generated(1, 60_000));
    }
    counted(&mesh, "0", 20).await;
    drop(stalled);
    app.saw_cancelled(1).await;
    mesh.stop().await;
}
