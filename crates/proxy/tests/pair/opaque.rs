//! What is not HTTP, or no longer: WebSocket, tunnels, local ports, servers that speak first.

use std::net::SocketAddr;
use std::thread;

use meshwork_core::model::AppProtocol;
use meshwork_proxy::telemetry::Event;
use meshwork_proxy::{ALPN_HTTP1, ALPN_TCP};

use super::peers::{as_client, as_sidecar};
use super::support::{Mesh, Pair, Sidecar, endpoint};
use super::talk::{App, Closed, Talk, counts, ok};

fn start() -> (Pair, App) {
    let app = App::listen();
    let pair = Pair::start(app.port);
    (pair, app)
}

/// A tunnel to the service, as a client of a proxy opens it.
fn tunnel(proxy: SocketAddr, authority: &str) -> Talk {
    let mut client = Talk::to(proxy);
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    client.head().expect("HTTP/1.1 200 OK");
    client
}

#[test]
fn a_websocket_crosses_the_pair() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.outbound);
    // RFC 6455, 1.3 and 5.7: its own example of a handshake, and "Hello" masked and unmasked.
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let unmasked = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    client.send(
        "GET /chat HTTP/1.1\r\nHost: cart\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    let mut served = app.accept();
    let request = served.head();
    request.expect("GET /chat HTTP/1.1");
    assert_eq!(request.get("upgrade"), Some("websocket"));
    assert_eq!(request.get("connection"), Some("Upgrade"));
    assert_eq!(request.get("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    // The first frame comes with the head.
    served.send(
        [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                .as_slice(),
            &unmasked,
        ]
        .concat(),
    );
    let answer = client.head();
    answer.expect("HTTP/1.1 101 Switching Protocols");
    assert_eq!(answer.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.expect(unmasked);
    for _ in 0..3 {
        client.send(masked);
        served.expect(masked);
        served.send(unmasked);
        client.expect(unmasked);
    }
    served.half_close();
    client.expect_end();
    client.send(masked);
    client.half_close();
    served.expect(masked);
    served.expect_end();
}

/// Sidecars add fields, and each hop reads the head anew: over HTTP/2, or for an upgrade over HTTP/1.
#[test]
fn a_head_with_as_many_fields_as_are_taken_crosses_the_pair() {
    let (pair, app) = start();
    let fields_max = meshwork_http::h1::Limits::default().fields_max;
    for fields in ["", "Upgrade: x\r\nConnection: Upgrade\r\n"] {
        let more = "X: 1\r\n".repeat(fields_max - 1 - fields.lines().count());
        let mut client = Talk::to(pair.web.outbound);
        client.send(format!("GET / HTTP/1.1\r\nHost: cart\r\n{fields}{more}\r\n"));
        let mut served = app.accept();
        served.head().expect("GET / HTTP/1.1");
        // None is added to an answer with a length.
        served.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n",
            "X: 1\r\n".repeat(fields_max - 1)
        ));
        client.head().expect("HTTP/1.1 200 OK");
    }
}

#[test]
fn an_upgrade_that_is_refused_is_an_answer_like_any_other() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET /chat HTTP/1.1\r\nHost: cart\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("no chat"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("no chat");
    client.send("GET /next HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /next HTTP/1.1");
}

#[test]
fn an_upgrade_that_nobody_asked_for_does_not_open_a_tunnel() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    for _ in 0..3 {
        let mut served = app.accept(); // a GET may be repeated, and is
        served.head();
        served.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
    }
    client.head().expect_cause("502", "app_protocol");
}

#[test]
fn http_inside_a_tunnel_is_routed_request_by_request() {
    let (pair, app) = start();
    let mut client = tunnel(pair.web.outbound, "cart:80");
    let mut served = None;
    for path in ["/1", "/2"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: whatever.example\r\n\r\n"));
        let served = served.get_or_insert_with(|| app.accept());
        let request = served.head();
        request.expect(&format!("GET {path} HTTP/1.1"));
        assert_eq!(request.get("host"), Some("whatever.example"));
        assert!(request.get("x-request-id").is_some(), "it passed as opaque bytes");
        served.send(ok("done"));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("done");
    }
    assert_eq!(pair.web.registry.counted(Event::OpaqueOutbound), 0);
}

#[test]
fn opaque_bytes_inside_a_tunnel_pass_as_they_are() {
    let (pair, app) = start();
    let mut client = tunnel(pair.web.outbound, "cart:80");
    client.send([0, 1, 2, 3]);
    let mut served = app.accept();
    served.expect([0, 1, 2, 3]);
    served.send([4, 5]);
    client.expect([4, 5]);
    counts(&pair.web.registry, Event::OpaqueOutbound, 1);
    counts(&pair.cart.registry, Event::OpaqueInbound, 1);
}

#[test]
fn tls_of_the_applications_own_passes_through_a_tunnel() {
    let (pair, app) = start();
    let theirs = Mesh::new(); // a world of its own: the mesh knows nothing of it
    let server = as_sidecar(&theirs, "shop");
    let serving = thread::spawn(move || {
        let mut served = Talk::tls_server_on(app.accept_socket(), server);
        served.head().expect("GET /secret HTTP/1.1");
        served.send(ok("told"));
        served
    });
    let config = as_client(&theirs.identity("guest"), &theirs.bundle(), "shop", ALPN_HTTP1);
    let mut client = tunnel(pair.web.outbound, "cart:80").with_tls_inside(config);
    client.send("GET /secret HTTP/1.1\r\nHost: shop\r\n\r\n");
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("told");
    drop(serving.join().unwrap());
}

#[test]
fn a_tunnel_that_cannot_be_carried_on_breaks_and_brings_no_words_of_ours() {
    let (mesh, dead) = (Mesh::new(), Closed::new());
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(dead.address(), 80)]);
    let mut client = tunnel(web.outbound, "cart:80");
    client.send([0, 1, 2, 3]);
    client.expect_broken();
}

#[test]
fn a_server_that_speaks_first_is_heard_and_remembered() {
    let (pair, app) = start();
    for _ in 0..2 {
        let mut client = Talk::to(pair.web.upstreams[0]);
        let mut served = app.accept(); // though the client has said nothing
        served.send("220 mail.example ESMTP\r\n");
        client.expect("220 mail.example ESMTP\r\n");
        client.send("QUIT\r\n");
        served.expect("QUIT\r\n");
    }
    // It is remembered: now the way is opened before anybody has spoken, even for a client that speaks
    // HTTP at once, which then goes by request as ever.
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send("GET /late HTTP/1.1\r\nHost: cart\r\n\r\n");
    app.accept().expect_broken();
    let mut served = app.accept();
    let request = served.head();
    request.expect("GET /late HTTP/1.1");
    assert!(request.get("x-request-id").is_some(), "it passed as opaque bytes");
    served.send(ok("routed"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("routed");
    // And that is remembered too: nothing is opened in advance any more.
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send("GET /again HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /again HTTP/1.1");
    served.send(ok("kept"));
    client.head().expect("HTTP/1.1 200 OK");
    app.expect_nobody();
}

#[test]
fn a_silent_client_that_wakes_up_with_http_is_routed_as_http() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.upstreams[0]);
    let mut opened = app.accept(); // the way is open
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    opened.expect_broken(); // nothing was sent on it
    let mut served = app.accept();
    assert!(served.head().get("x-request-id").is_some());
    served.send(ok("hello"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("hello");
}

#[test]
fn a_client_that_half_closes_still_hears_the_answer() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send("all of the question\n");
    client.half_close();
    let mut served = app.accept();
    served.expect("all of the question\n");
    served.expect_end();
    served.send("all of the answer");
    drop(served);
    client.expect("all of the answer");
    client.expect_end();
}

#[test]
fn a_server_that_half_closes_still_hears_the_client() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send([0, 1]);
    let mut served = app.accept();
    served.expect([0, 1]);
    served.send("that is all");
    served.half_close();
    client.expect("that is all");
    client.expect_end();
    client.send("more from me");
    served.expect("more from me");
    client.half_close();
    served.expect_end();
}

#[test]
fn a_reset_passes_as_a_reset_both_ways() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send([0, 1]);
    let mut served = app.accept();
    served.expect([0, 1]);
    served.reset();
    client.expect_broken();
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send([0, 1]);
    let mut served = app.accept();
    served.expect([0, 1]);
    client.reset();
    served.expect_broken();
}

#[test]
fn http_that_trickles_in_byte_by_byte_is_still_http() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.web.upstreams[0]);
    for byte in b"GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n" {
        client.send([*byte]);
    }
    let mut served = app.accept();
    assert!(served.head().get("x-request-id").is_some());
}

#[test]
fn a_preamble_leads_to_the_port_that_it_names_and_to_no_other() {
    let (pair, app) = start();
    let identity = pair.mesh.identity("web");
    let config = as_client(&identity, &pair.mesh.bundle(), "cart", ALPN_TCP);
    let preamble = |port: u16| [&[0, 4, 1][..], &port.to_be_bytes(), &[0]].concat();
    let mut client = Talk::tls_to(pair.cart.inbound[0], config.clone());
    for byte in preamble(app.port) {
        client.send([byte]);
    }
    client.send("opaque");
    app.accept().expect("opaque");
    for refused in [preamble(app.port ^ 1), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0, 4, 2, 0, 80, 0]] {
        let before = pair.cart.registry.counted(Event::HandshakeFailed);
        let mut client = Talk::tls_to(pair.cart.inbound[0], config.clone());
        client.send(refused);
        client.expect_broken();
        counts(&pair.cart.registry, Event::HandshakeFailed, before + 1);
    }
    app.expect_nobody();
}

#[test]
fn a_port_that_is_said_to_be_tcp_is_not_looked_into() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let endpoints = vec![endpoint(pair.cart.inbound[0], app.port)];
    pair.web.learn_as("cart", 80, endpoints, "cart", Some(AppProtocol::Tcp));
    let mut client = Talk::to(pair.web.upstreams[0]);
    let request = "GET / HTTP/1.1\r\nHost: cart\r\nConnection: X\r\n\r\n";
    client.send(request);
    app.accept().expect(request);
}

#[test]
fn a_port_that_is_said_to_be_http_waits_for_the_clients_words() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let endpoints = vec![endpoint(pair.cart.inbound[0], app.port)];
    pair.web.learn_as("cart", 80, endpoints, "cart", Some(AppProtocol::Http));
    let mut client = Talk::to(pair.web.upstreams[0]);
    client.send("EHLO mail.example\r\n\r\n");
    client.head().expect_cause("400", "bad_request");
    app.expect_nobody();
}
