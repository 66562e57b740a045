//! gRPC calls: how they ended is counted, and what the mesh itself says is said in gRPC's words.
//!
//! Here the calls are written as HTTP/1, which the sidecars carry like any request; the framing has its own tests.

use std::sync::Arc;

use meshwork_proxy::telemetry::Registry;

use super::support::{Mesh, Pair, Sidecar, endpoint};
use super::talk::{App, Closed, Head, Talk};
use super::telemetry::shows;

const CALL: &str = "POST /shop.Payments/Charge HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\n\
    Content-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";

/// An answer whose trailers say how the call ended.
fn trailers(status: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: {status}\r\n\r\n"
    )
}

/// An answer that is only a head.
fn only_head(status: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: {status}\r\nContent-Length: 0\r\n\r\n"
    )
}

const NO_GRPC: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";

fn read_answer(client: &mut Talk) {
    if client.head().get("transfer-encoding").is_some() {
        client.chunked();
    }
}

/// Both sidecars count the calls as `(status, cause, how it ended)`.
#[track_caller]
fn both_count(pair: &Pair, expected: &[(&str, &str, &str)]) {
    counts(&pair.web.registry, "outbound", "default", expected, 1);
    counts(&pair.cart.registry, "inbound", "", expected, 1);
}

#[track_caller]
fn counts(
    registry: &Arc<Registry>,
    direction: &str,
    route: &str,
    expected: &[(&str, &str, &str)],
    each: u64,
) {
    let labels = |(status, cause, grpc): &(&str, &str, &str)| {
        format!(
            "direction=\"{direction}\",source=\"default/web\",destination=\"default/cart\",route=\"{route}\",\
             method=\"other\",status=\"{status}\",cause=\"{cause}\",rpc_grpc_status_code=\"{grpc}\""
        )
    };
    let expected: Vec<_> = expected.iter().map(labels).collect();
    let expected: Vec<_> = expected.iter().map(|labels| (labels.as_str(), each)).collect();
    shows(registry, "meshwork_requests_total", &expected);
}

#[test]
fn calls_are_counted_by_how_they_ended() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    let mut served = None;
    for answer in
        [trailers("0"), trailers("5"), only_head("7"), trailers("99"), only_head("none"), NO_GRPC.to_owned()]
    {
        client.send(CALL);
        let served = served.get_or_insert_with(|| app.accept());
        served.head().expect("POST /shop.Payments/Charge HTTP/1.1");
        served.expect([0; 5]);
        served.send(&answer);
        read_answer(&mut client);
    }
    let registry = &pair.web.registry;
    let labels = |status: &str, grpc: &str| {
        format!(
            "direction=\"outbound\",source=\"default/web\",destination=\"default/cart\",route=\"default\",\
             method=\"other\",status=\"{status}\",cause=\"\",rpc_grpc_status_code=\"{grpc}\""
        )
    };
    let expected = [("200", "0", 1), ("200", "5", 1), ("200", "7", 1), ("200", "other", 2), ("503", "14", 1)]
        .map(|(status, grpc, count)| (labels(status, grpc), count));
    let expected: Vec<_> = expected.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
    shows(registry, "meshwork_requests_total", &expected);
}

#[test]
fn a_call_whose_client_leaves_is_counted_as_cancelled() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    client.send(CALL);
    let mut served = app.accept();
    served.head();
    drop(client);
    counts(&pair.web.registry, "outbound", "default", &[("", "", "1")], 1);
}

/// A head that tells a gRPC client all of it.
#[track_caller]
fn expect_grpc(answer: &Head, status: &str, cause: &str) {
    answer.expect_cause("200", cause);
    assert_eq!(answer.get("content-type"), Some("application/grpc"), "{answer:?}");
    assert_eq!(answer.get("grpc-status"), Some(status), "{answer:?}");
    assert_eq!(answer.get("content-length"), Some("0"), "{answer:?}");
    let message = answer.get("grpc-message").unwrap();
    assert!(message.starts_with("meshwork: ") && message.ends_with(&format!("cause: {cause}")), "{message}");
}

#[test]
fn a_call_that_the_mesh_cannot_bring_is_answered_in_grpcs_words() {
    let pair = Pair::start(Closed::new().port());
    let mut client = Talk::to(pair.web.outbound);
    client.send(CALL);
    expect_grpc(&client.head(), "14", "app_refused");
    let refused = &[("200", "app_refused", "14")];
    counts(&pair.web.registry, "outbound", "default", refused, 1);
    // No application saw it, so it was tried again.
    counts(&pair.cart.registry, "inbound", "", refused, 3);
}

#[test]
fn a_call_that_breaks_off_is_answered_in_grpcs_words() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    client.send(CALL);
    let mut served = app.accept();
    served.head();
    served.expect([0; 5]);
    drop(served);
    expect_grpc(&client.head(), "14", "app_reset");
    both_count(&pair, &[("200", "app_reset", "14")]);
}

/// The peer's sidecar says so with status 200, so it is the cause that must be looked at.
#[test]
fn a_call_that_no_application_saw_goes_to_another_endpoint() {
    let (mesh, app, closed) = (Mesh::new(), App::listen(), Closed::new());
    let dead = Sidecar::start(&mesh, "cart", &[closed.port()], &[]);
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn(
        "cart",
        80,
        vec![endpoint(dead.inbound[0], closed.port()), endpoint(alive.inbound[0], app.port)],
    );
    app.serve(|_, talk| {
        talk.expect([0; 5]);
        only_head("0")
    });
    let mut client = Talk::to(web.outbound);
    for _ in 0..2 {
        client.send(CALL);
        let answer = client.head();
        assert_eq!(answer.get("grpc-status"), Some("0"), "{answer:?}");
        answer.expect_without(&["x-meshwork-cause"]);
    }
    assert_eq!(web.retries(), 1); // in turn, the dead one was first once
}
