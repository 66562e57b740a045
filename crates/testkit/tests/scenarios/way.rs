//! The way of a request: application -> sidecar -> mutual TLS -> sidecar -> application; and what somebody between
//! the sidecars can see of it.

use std::net::SocketAddr;

use meshwork_testkit::{App, Mesh, Recording, Relay, post, workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nothing of this may be seen between the sidecars.
const MARKER: &str = "MARKER-0a1b2c3d";

/// Cart as everybody finds it is behind the relay: a workload written by hand says so, with cart's account.
fn behind(relay: SocketAddr, service_port: u16, app: &App, protocol: &str, transports: &str) -> String {
    let app_port = app.address().port();
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: cart}}
spec:
  selector: {{way: relay}}
  ports: [{{port: {service_port}, targetPort: {app_port}, appProtocol: {protocol}}}]
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: cart-behind-relay, labels: {{way: relay}}}}
spec:
  serviceAccount: cart
  ports: [{{port: {app_port}, address: '{relay}', transports: [{transports}]}}]
"
    )
}

#[tokio::test]
async fn the_way_is_sidecar_to_sidecar_and_a_relay_between_them_sees_only_tls_records() {
    let app = App::http("cart").await;
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(workload("cart").serving(80, &app))
        .with(workload("web"))
        .start()
        .await;
    let (web, cart) = (mesh.sidecar("web"), mesh.sidecar("cart"));
    let relay = Relay::before(cart.inbound()[0]).await;
    let transports = if super::HTTP2 { "mtls-http2, mtls-http1" } else { "mtls-http1" };
    mesh.apply(&behind(relay.address(), 80, &app, "http", transports)).await;

    let mut client = web.client();
    for _ in 0..3 {
        let mut request = post(&format!("http://cart/{MARKER}"), &format!("body {MARKER}"));
        let forged = "URI=spiffe://mesh.local/ns/default/sa/admin".parse().unwrap();
        request.headers_mut().insert("x-forwarded-client-cert", forged);
        request.headers_mut().insert("x-secret", MARKER.parse().unwrap());
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, format!("body {MARKER}")));
    }

    // The application knows who called, by certificate, whatever the caller said.
    let received = app.last();
    assert_eq!(received.headers.get_all("x-forwarded-client-cert").iter().count(), 1);
    assert_eq!(
        received.header("x-forwarded-client-cert"),
        Some("URI=spiffe://mesh.local/ns/default/sa/web"),
        "{received:?}"
    );
    assert_eq!(
        (received.target.as_str(), received.header("x-secret")),
        (&*format!("/{MARKER}"), Some(MARKER))
    );

    // Both sidecars carried them.
    let out = [("direction", "outbound"), ("source", "default/web"), ("destination", "default/cart")];
    let inward = [("direction", "inbound"), ("source", "default/web"), ("destination", "default/cart")];
    meshwork_testkit::eventually("both sidecars have counted", async || {
        web.metrics().requests(&out) == 3 && cart.metrics().requests(&inward) == 3
    })
    .await;

    let recordings = relay.recordings();
    assert!(!recordings.is_empty(), "the way leads through the relay");
    for recording in &recordings {
        check_only_tls(recording);
    }
    mesh.stop().await;
}

#[tokio::test]
async fn opaque_bytes_between_sidecars_are_tls_records_too() {
    let app = App::tcp_echo().await;
    let cart = workload("cart").serving_tcp(9000, &app);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .with(cart)
        .with(workload("web").upstream("cart:9000"))
        .start()
        .await;
    let relay = Relay::before(mesh.sidecar("cart").inbound()[0]).await;
    mesh.apply(&behind(relay.address(), 9000, &app, "tcp", "mtls-tcp")).await;

    let mut stream = mesh.sidecar("web").connect("cart:9000").await;
    stream.write_all(MARKER.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echo = String::new();
    meshwork_testkit::soon("the echo", stream.read_to_string(&mut echo)).await.unwrap();
    assert_eq!(echo, MARKER);

    let recordings = relay.recordings();
    assert_eq!(recordings.len(), 1, "one connection");
    check_only_tls(&recordings[0]);
    mesh.stop().await;
}

/// Every byte belongs to a TLS 1.3 record, nothing but the two hellos is in clear, and the key exchange is
/// post-quantum.
#[track_caller]
fn check_only_tls(Recording { request, response }: &Recording) {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    for stream in [request, response] {
        let records = records(stream);
        assert_eq!(records[0].0, HANDSHAKE, "a hello begins");
        // In TLS 1.3 certificates and everything after the hellos go as application data (RFC 8446, 5.2).
        let rest = &records[1..];
        assert!(
            rest.iter().all(|(kind, _)| [CHANGE_CIPHER_SPEC, APPLICATION_DATA].contains(kind)),
            "{rest:?}"
        );
        assert!(rest.iter().any(|(kind, _)| *kind == APPLICATION_DATA));
        // A server's X25519MLKEM768 share has 1,120 bytes, a client's 1,216.
        assert!(records[0].1 > 1_120, "the hello has {} bytes", records[0].1);
        for clear in [MARKER, "spiffe://", "HTTP/1.1", "mesh.local"] {
            assert!(!contains(stream, clear.as_bytes()), "{clear} in clear");
        }
    }
}

/// Type and length of every record (RFC 8446, 5.1); the stream must end with a whole one.
#[track_caller]
fn records(mut stream: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, 3, minor, high, low, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!((20..=23).contains(kind) && [1, 3].contains(minor), "no record: {kind} 3.{minor}");
        assert!(length <= 16_384 + 256 && length <= rest.len(), "{length} bytes of {}", rest.len());
        records.push((*kind, length));
        stream = &rest[length..];
    }
    assert!(stream.is_empty(), "no record: {:?}", &stream[..stream.len().min(16)]);
    records
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
