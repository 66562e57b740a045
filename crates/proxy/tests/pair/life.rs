//! A sidecar's end: what runs is finished, what idles is told to go.

use std::thread;
use std::time::Duration;

use meshwork_proxy::ALPN_HTTP1;

use super::peers::as_client;
use super::support::{Mesh, Pair, Sidecar, endpoint};
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

    let draining = draining(cart, Duration::from_secs(30));
    idle.expect_end(); // with TLS's farewell: an end, not a break
    served.send(ok("finished"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("finished");
    draining.join().unwrap().data.stop();
    client.send("GET /gone HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("502", "connect_failed");
    app.expect_nobody();
}

/// Drains a sidecar on a thread of its own.
pub(crate) fn draining(cart: Sidecar, time: Duration) -> thread::JoinHandle<Sidecar> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cart.data.drain_inbound(time));
        cart
    })
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_connection_that_comes_during_a_drain_is_told_so_and_its_post_goes_elsewhere() {
    let (mesh, app, other) = (Mesh::new(), App::listen(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let there = Sidecar::start(&mesh, "cart", &[other.port], &[]);
    let both = vec![endpoint(cart.inbound[0], app.port), endpoint(there.inbound[0], other.port)];
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    let inbound = cart.inbound[0];
    web.learn("cart", 80, vec![both[0].clone()]);
    let mut running = Talk::to(web.outbound);
    running.send(post("/running"));
    let mut served = app.accept();
    served.head().expect("POST /running HTTP/1.1");
    let config = as_client(&mesh.identity("web"), &mesh.bundle(), "cart", ALPN_HTTP1);
    let mut idle = Talk::tls_to(inbound, config.clone());
    let draining = draining(cart, Duration::from_secs(30));
    idle.expect_end(); // so it drains
    let mut late = Talk::tls_to(inbound, config);
    late.send("GET /late HTTP/1.1\r\nHost: cart\r\n\r\n");
    let told = late.head();
    told.expect_cause("503", "draining");
    assert_eq!(told.get("connection"), Some("close"));

    other.serve(|_, _| ok("elsewhere"));
    web.learn("cart", 80, both);
    for _ in 0..4 {
        let mut client = Talk::to(web.outbound);
        client.send(post("/new"));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("elsewhere");
    }
    served.send(ok("finished"));
    running.head().expect("HTTP/1.1 200 OK");
    running.expect("finished");
    draining.join().unwrap();
    app.expect_nobody();
}

#[test]
fn what_does_not_finish_in_a_drains_time_is_told_so_or_broken() {
    let app = App::listen();
    let Pair { mesh: _mesh, web, cart } = Pair::start(app.port);
    let mut half = Talk::to(web.outbound);
    half.send("GET /half HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut answers = app.accept();
    answers.head();
    answers.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    half.head().expect("HTTP/1.1 200 OK");
    half.expect("4\r\nhalf\r\n");
    let mut silent = Talk::to(web.outbound);
    silent.send(post("/silent"));
    let mut never = app.accept();
    never.head();

    let cart = draining(cart, Duration::from_millis(50)).join().unwrap();
    // It may have been processed, so nobody sent it twice.
    silent.head().expect_cause("503", "drained");
    assert_eq!(half.rest().0, b"", "the last chunk must not come");
    app.expect_nobody();
    cart.data.stop();
}
