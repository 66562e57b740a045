//! How calls end: errors with all that belongs to them, deadlines, cancellation at either end, and what the mesh
//! itself has to say.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meshwork_testkit::{
    EchoClient, FAIL_MESSAGE, FAIL_METADATA, GrpcApp, Mesh, eventually, failing, soon, workload,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{DESTINATION, HTTP2, PORT, Way, client, counted, generated, mesh};

#[track_caller]
fn check_failure(status: &Status, code: Code, details: &[u8]) {
    assert_eq!((status.code(), status.message()), (code, FAIL_MESSAGE), "{status:?}");
    assert_eq!(status.details(), details);
    let (name, value) = FAIL_METADATA;
    let metadata = status.metadata().get_bin(name).expect("the error's metadata").to_bytes().unwrap();
    assert_eq!(metadata, value);
}

/// An answer without messages is nothing but a head: the status is in it.
#[tokio::test]
async fn an_error_comes_with_its_message_details_and_metadata() {
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    for (code, details) in [(Code::NotFound, generated(1, 500)), (Code::Internal, Bytes::new())] {
        let status = client.fail(failing(code, &details)).await.unwrap_err();
        check_failure(&status, code, &details);
    }
    counted(&mesh, "5", 1).await;
    counted(&mesh, "13", 1).await;
    mesh.stop().await;
}

/// Behind messages it is in the trailers.
#[tokio::test]
async fn an_error_behind_messages_comes_after_all_of_them() {
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::Tunnel);
    let sent = [generated(1, 70_000), generated(2, 10), Bytes::from_static(b"fail")];
    let mut answers = client.chat(tokio_stream::iter(sent.clone())).await.unwrap().into_inner();
    for message in &sent[..2] {
        assert!(answers.message().await.unwrap().unwrap() == message);
    }
    check_failure(&answers.message().await.unwrap_err(), Code::Aborted, b"fail");
    counted(&mesh, "10", 1).await;
    mesh.stop().await;
}

/// The application is told of it, and ends at the same moment; should it not, the client's end reaches it.
#[tokio::test]
async fn a_deadline_ends_a_call_at_both_ends() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    let mut request = Request::new(Bytes::new());
    request.set_timeout(DEADLINE);
    let since = Instant::now();
    let status = soon("the deadline", client.hang(request)).await.unwrap_err();
    // Whose clock was first, the client's (cancelled) or the server's, is chance.
    assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&status.code()), "{status:?}");
    assert!(since.elapsed() >= DEADLINE);
    let told = app.last().get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    assert!(["300m", "300000u", "300000000n"].contains(&told.as_str()), "{told}");
    app.saw_cancelled(1).await;
    mesh.stop().await;
}

/// Without a deadline that it could know of: only the client's leaving can tell the application.
#[tokio::test]
async fn a_client_that_leaves_is_noticed_by_the_application() {
    for way in [Way::LocalPort, Way::Tunnel] {
        let app = GrpcApp::start("payments-1");
        let mesh = mesh(&app).await;
        let mut client = client(mesh.sidecar("web"), way);

        // Before anything is answered.
        let waiting = tokio::spawn({
            let mut client = client.clone();
            async move { client.hang(Bytes::new()).await }
        });
        app.reached(1).await;
        assert_eq!(app.cancelled(), 0);
        waiting.abort();
        app.saw_cancelled(1).await;

        // In the middle of an answer.
        let mut pouring = client.pour(generated(1, 10_000)).await.unwrap().into_inner();
        pouring.message().await.unwrap().unwrap();
        drop(pouring);
        app.saw_cancelled(2).await;

        // The connection is as good as before.
        assert_eq!(client.unary(Bytes::from_static(b"still")).await.unwrap().into_inner(), "still");
        counted(&mesh, "1", 2).await;
        counted(&mesh, "0", 1).await;
        mesh.stop().await;
    }
}

/// The client learns it at once, whatever it was waiting for.
#[tokio::test]
async fn an_application_that_dies_ends_its_calls() {
    let app = GrpcApp::start("payments-1");
    let mesh = mesh(&app).await;
    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.hang(Bytes::new()).await }
    });
    app.reached(1).await;
    let mut pouring = client.pour(generated(1, 10_000)).await.unwrap().into_inner();
    pouring.message().await.unwrap().unwrap();
    drop(app);

    let hung = soon("the end of the call that waits", waiting).await.unwrap().unwrap_err();
    assert_eq!(hung.code(), Code::Unavailable, "{hung:?}");
    assert!(hung.message().ends_with("cause: app_reset"), "{hung:?}");
    let broken = soon("the end of the answer", async {
        loop {
            match pouring.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an answer that broke off looks whole"),
                Err(status) => return status,
            }
        }
    });
    let broken = broken.await;
    assert!([Code::Unavailable, Code::Internal, Code::Unknown].contains(&broken.code()), "{broken:?}");
    mesh.stop().await;
}

/// What the mesh cannot bring, it answers in gRPC's words: status, sentence, cure and cause.
#[tokio::test]
async fn what_the_mesh_answers_is_a_grpc_status() {
    let app = GrpcApp::start("payments-1");
    let mut mesh = Mesh::builder()
        .http2(HTTP2)
        .with(workload("payments").serving_grpc(PORT, &app))
        .with(workload("web").upstream(DESTINATION))
        .start()
        .await;

    let mut client = client(mesh.sidecar("web"), Way::LocalPort);
    client.unary(Bytes::new()).await.unwrap();
    drop(app);
    // Its connection may end a moment before its port does.
    let status = fails_by(&client, "app_refused").await;
    check_cause(&status, Code::Unavailable, "app_refused");

    let payments = mesh.take("payments");
    payments.drain().await;
    payments.stop().await;
    let status = fails_by(&client, "no_endpoint").await;
    check_cause(&status, Code::Unavailable, "no_endpoint");

    mesh.apply(OTHER_PATHS_ONLY).await;
    let status = fails_by(&client, "no_route").await;
    check_cause(&status, Code::Unimplemented, "no_route");
    mesh.stop().await;
}

const OTHER_PATHS_ONLY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: others}
spec:
  parentRefs: [{group: '', kind: Service, name: payments}]
  rules: [{matches: [{path: {type: PathPrefix, value: /other}}], backendRefs: [{name: payments, port: 50051}]}]
";

/// Calls until that is what the mesh says.
async fn fails_by(client: &EchoClient<Channel>, cause: &str) -> Status {
    let failed = async || client.clone().unary(Bytes::new()).await.unwrap_err();
    eventually(cause, async || failed().await.message().ends_with(&format!("cause: {cause}"))).await;
    failed().await
}

#[track_caller]
fn check_cause(status: &Status, code: Code, cause: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let message = status.message();
    assert!(message.starts_with("meshwork: ") && message.contains("; cure: "), "{message}");
    assert!(message.ends_with(&format!("; cause: {cause}")), "{message}");
    assert_eq!(status.metadata().get("x-meshwork-cause").unwrap(), cause);
}
