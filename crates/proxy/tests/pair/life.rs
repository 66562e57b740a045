//! A sidecar's end: what runs is finished, what idles is told to go.

use std::thread;

use meshwork_proxy::ALPN_HTTP1;

use super::peers::as_client;
use super::support::{Mesh, Sidecar, endpoint};
use super::talk::{App, Talk, ok};

#[test]
fn a_draining_sidecar_finishes_what_runs_and_keeps_nothing() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let inbound = cart.inbound[0];
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(inbound, app.port)]);
    let config = as_client(&mesh.identity("web"), &mesh.bundle(), "cart", ALPN_HTTP1);
    let mut idle = Talk::tls_to(inbound, config);
    idle.send("GET /idle HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("x"));
    idle.head().expect("HTTP/1.1 200 OK");
    idle.expect("x");
    let mut client = Talk::to(web.outbound);
    client.send("GET /running HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /running HTTP/1.1");

    let draining = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cart.data.drain_inbound());
        cart
    });
    idle.expect_end(); // with TLS's farewell: an end, not a break
    served.send(ok("finished"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("finished");
    draining.join().unwrap().data.stop();
    client.send("GET /gone HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("502", "connect_failed");
    app.expect_nobody();
}
