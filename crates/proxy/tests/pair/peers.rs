//! TLS ends of the test's own: a peer that answers as a sidecar would, and a client as a sidecar is one.

use std::sync::Arc;

use meshwork_identity::{Identity, TrustBundle, client_config, server_config};
use meshwork_proxy::{ALPN_HTTP1, ALPN_TCP};
use rustls::{ClientConfig, ServerConfig};

use super::support::{Mesh, Sidecar, http1_endpoint, id};
use super::talk::{App, End, Talk, ok};

/// What a sidecar's inbound port would show.
pub(crate) fn as_sidecar(mesh: &Mesh, account: &str) -> Arc<ServerConfig> {
    server_config(&mesh.identity(account), &mesh.bundle(), &[ALPN_HTTP1, ALPN_TCP]).unwrap()
}

/// A client with a certificate that expects `server` to answer.
pub(crate) fn as_client(
    identity: &Identity,
    bundle: &Arc<TrustBundle>,
    server: &str,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    client_config(identity, bundle, &[id(server)].into(), &[alpn]).unwrap()
}

#[test]
fn a_mesh_connection_that_is_cut_does_not_end_an_answer() {
    let mesh = Mesh::new();
    let peer = App::listen();
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![http1_endpoint(peer.address(), 80)]);
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = Talk::tls_server_on(peer.accept_socket(), as_sidecar(&mesh, "cart"));
    served.head().expect("GET / HTTP/1.1");
    served.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    assert_eq!(client.head().get("transfer-encoding"), Some("chunked"));
    client.expect("4\r\nhalf\r\n");
    served.half_close(); // FIN, and no farewell of TLS before it
    let (rest, _) = client.rest();
    assert_eq!(rest, b"", "the last chunk must not come");
}

#[test]
fn a_cut_opaque_mesh_connection_is_a_broken_one_for_the_application() {
    let mesh = Mesh::new();
    let peer = App::listen();
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![http1_endpoint(peer.address(), 80)]);
    let mut client = Talk::to(web.upstreams[0]);
    client.send("\u{0}\u{1}opaque");
    let mut served = Talk::tls_server_on(peer.accept_socket(), as_sidecar(&mesh, "cart"));
    served.expect([0, 4, 1, 0, 80, 0]); // the preamble: length, version, port, flags
    served.expect("\u{0}\u{1}opaque");
    served.send("answer");
    client.expect("answer");
    served.half_close();
    assert_eq!(client.rest(), (Vec::new(), End::Broken));
}

#[test]
fn only_a_peer_is_believed_that_no_application_saw_the_request() {
    // An endpoint in clear says `app_refused`: that may be a forgery, so its answer is an answer.
    let mesh = Mesh::new();
    let clear = App::listen();
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    let other = App::listen();
    web.learn(
        "cart",
        80,
        vec![
            super::support::plaintext_endpoint(clear.address()),
            super::support::plaintext_endpoint(other.address()),
        ],
    );
    let forged = |served: &mut Talk| {
        served.head();
        served.send("HTTP/1.1 502 Bad Gateway\r\nX-Meshwork-Cause: app_refused\r\nContent-Length: 0\r\n\r\n");
    };
    let mut client = Talk::to(web.outbound);
    // Round robin: each of the two gets one of two requests.
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n".repeat(2));
    let (clear, other) = (clear, other);
    let first = std::thread::spawn(move || {
        forged(&mut clear.accept());
        clear.expect_nobody();
    });
    let mut served = other.accept();
    served.head();
    served.send(ok("fine"));
    first.join().unwrap();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let answer = client.head();
        answer.expect_without(&["x-meshwork-cause"]);
        client.take(answer.get("content-length").unwrap().parse().unwrap());
        statuses.push(answer.first);
    }
    statuses.sort();
    assert_eq!(statuses, ["HTTP/1.1 200 OK", "HTTP/1.1 502 Bad Gateway"]);
}
