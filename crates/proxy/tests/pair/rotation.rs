//! Certificates and roots are replaced while connections stand: nothing is cut under a request, and nothing new begins
//! on what an old certificate opened.

use std::time::{Duration, SystemTime};

use meshwork_proxy::ALPN_HTTP1;
use meshwork_proxy::telemetry::{Event, Gauge};

use super::peers::as_client;
use super::support::{Mesh, Pair, Sidecar, endpoint};
use super::talk::{App, Talk, counts, eventually, ok};

/// A head that promises ten bytes.
const TEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";

fn ask(client: &mut Talk) {
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("hello");
}

#[test]
fn a_new_certificate_cuts_no_request_and_leaves_no_old_connection_behind() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut running = Talk::to(pair.web.outbound);
    running.send("GET /long HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut long = app.accept();
    long.head();
    long.send(TEN);
    long.send("first");
    running.head().expect("HTTP/1.1 200 OK");
    running.expect("first");

    pair.web.live.set_credentials(pair.mesh.identity("web"), pair.mesh.bundle()).unwrap();
    pair.cart.live.set_credentials(pair.mesh.identity("cart"), pair.mesh.bundle()).unwrap();
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("hello"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("hello");
    counts(&pair.web.registry, Event::HandshakeFull, 2);
    assert_eq!(pair.web.registry.counted(Event::HandshakeResumed), 0, "tickets die with their certificate");
    // Looked at twice and still carrying: only what has nothing to do may go.
    let old = pair.cart.registry.value(Gauge::OpenInbound);
    assert_eq!(old, 2);

    long.send("other");
    running.expect("other");
    eventually("the old connection is gone", || pair.cart.registry.value(Gauge::OpenInbound) == 1);
}

/// Handshakes of today take milliseconds, and connections retire 2 s before an end.
const SHORT_LIFE: Duration = Duration::from_secs(5);

#[test]
fn a_pooled_connection_takes_no_request_once_the_peers_certificate_ends() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let identity = mesh.identity_for("cart", SHORT_LIFE);
    cart.live.set_credentials(identity.clone(), mesh.bundle()).unwrap();
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    app.serve(|_, _| ok("hello"));
    let mut client = Talk::to(web.outbound);
    ask(&mut client);
    ask(&mut client);
    counts(&web.registry, Event::HandshakeFull, 1);
    cart.live.set_credentials(mesh.identity("cart"), mesh.bundle()).unwrap();
    eventually("the certificate ends", || !identity.is_valid(SystemTime::now()));
    ask(&mut client);
    counts(&web.registry, Event::HandshakeFull, 2);
    eventually("the old connection is gone", || cart.registry.value(Gauge::OpenInbound) == 1);
}

#[test]
fn a_client_that_does_not_retire_its_connection_is_sent_away_after_its_certificates_end() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let connect = |life| {
        let identity = pair.mesh.identity_for("web", life);
        Talk::tls_to(pair.cart.inbound[0], as_client(&identity, &pair.mesh.bundle(), "cart", ALPN_HTTP1))
    };
    // One never pauses: its next request is there when the answer goes out.
    let mut busy = connect(SHORT_LIFE);
    busy.send("GET /first HTTP/1.1\r\nHost: cart\r\n\r\nGET /next HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head().expect("GET /first HTTP/1.1");
    let mut idle = connect(SHORT_LIFE + Duration::from_secs(1));
    app.serve(|_, _| ok("hello"));
    ask(&mut idle);
    idle.expect_end(); // between two requests, and with a farewell
    served.send(ok("first"));
    busy.head().expect("HTTP/1.1 200 OK");
    busy.expect("first");
    busy.expect_end();
}
