//! Who is not let in, and that nobody on the way can read: each refusal is counted, and not a byte of it
//! reaches the application.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use meshwork_identity::Identity;
use meshwork_proxy::telemetry::Event;
use meshwork_proxy::{ALPN_HTTP1, ALPN_TCP};
use rustls::ClientConfig;

use super::any_server::anonymous;
use super::peers::as_client;
use super::support::{Mesh, Pair, Sidecar, endpoint};
use super::talk::{App, Talk, counts, eventually, ok};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

fn start() -> (Pair, App) {
    let app = App::listen();
    let pair = Pair::start(app.port);
    (pair, app)
}

#[test]
fn plaintext_into_the_mtls_port_is_refused() {
    let (pair, app) = start();
    let mut client = Talk::to(pair.cart.inbound[0]);
    client.send(REQUEST);
    assert_eq!(client.rest().0, b"", "not a word to a stranger");
    counts(&pair.cart.registry, Event::HandshakePlaintext, 1);
    app.expect_nobody();
}

/// A client that says its request right after its handshake, as far as it gets.
fn knock(address: SocketAddr, config: Arc<ClientConfig>) -> Vec<u8> {
    let mut client = Talk::tls_to(address, config);
    // In TLS 1.3 the client is done before the server has judged it, so the words may go out.
    let _ = client.try_send(REQUEST);
    client.rest().0
}

#[test]
fn a_strangers_certificate_is_refused_whatever_it_says() {
    let (pair, app) = start();
    let stranger = Mesh::new(); // of the same trust domain's name, and of its own root
    let config = as_client(&stranger.identity("web"), &pair.mesh.bundle(), "cart", ALPN_HTTP1);
    assert_eq!(knock(pair.cart.inbound[0], config), b"");
    counts(&pair.cart.registry, Event::HandshakeRefusedPeer, 1);
    app.expect_nobody();
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (pair, app) = start();
    assert_eq!(knock(pair.cart.inbound[0], anonymous(ALPN_HTTP1)), b"");
    counts(&pair.cart.registry, Event::HandshakeFailed, 1);
    app.expect_nobody();
}

#[test]
fn a_protocol_that_is_not_the_meshs_is_refused() {
    let (pair, app) = start();
    let config = |alpn| as_client(&pair.mesh.identity("web"), &pair.mesh.bundle(), "cart", alpn);
    assert_eq!(knock(pair.cart.inbound[0], config(b"imap")), b"");
    counts(&pair.cart.registry, Event::HandshakeFailed, 1);
    let mut none = ClientConfig::clone(&config(ALPN_HTTP1));
    none.alpn_protocols.clear();
    assert_eq!(knock(pair.cart.inbound[0], Arc::new(none)), b"");
    counts(&pair.cart.registry, Event::HandshakeFailed, 2);
    app.expect_nobody();
}

#[test]
fn the_right_certificate_for_the_wrong_service_gets_no_request() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let payments = Sidecar::start(&mesh, "payments", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![endpoint(payments.inbound[0], app.port)]);
    let mut client = Talk::to(web.outbound);
    client.send(REQUEST);
    client.head().expect_cause("502", "wrong_identity");
    counts(&web.registry, Event::HandshakeRefusedPeer, 1);
    // Opaque bytes go there as little.
    let mut client = Talk::to(web.upstreams[0]);
    client.send("\u{0}\u{1}opaque");
    client.expect_broken();
    counts(&web.registry, Event::HandshakeRefusedPeer, 2);
    app.expect_nobody();
}

#[test]
fn a_strangers_endpoint_gets_no_request() {
    let (mesh, stranger, app) = (Mesh::new(), Mesh::new(), App::listen());
    let false_cart = Sidecar::start(&stranger, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(false_cart.inbound[0], app.port)]);
    let mut client = Talk::to(web.outbound);
    client.send(REQUEST);
    client.head().expect_cause("502", "tls_failed");
    counts(&web.registry, Event::HandshakeRefusedPeer, 1);
    app.expect_nobody();
}

/// Short enough to wait for, long enough for two handshakes before.
const SHORT_LIFE: Duration = Duration::from_secs(4);

fn wait_for_the_end_of(identity: &Identity) {
    eventually("the certificate expires", || !identity.is_valid(SystemTime::now()));
}

#[test]
fn a_client_whose_certificate_expired_does_not_resume_its_session() {
    let (pair, app) = start();
    app.serve(|_, _| ok("hello"));
    let identity = pair.mesh.identity_for("web", SHORT_LIFE);
    let config = as_client(&identity, &pair.mesh.bundle(), "cart", ALPN_HTTP1);
    for resumed in [0, 1] {
        let mut client = Talk::tls_to(pair.cart.inbound[0], config.clone());
        client.send(REQUEST);
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("hello");
        assert_eq!(pair.cart.registry.counted(Event::HandshakeResumed), resumed);
    }
    wait_for_the_end_of(&identity);
    assert_eq!(knock(pair.cart.inbound[0], config), b"");
    counts(&pair.cart.registry, Event::HandshakeRefusedPeer, 1);
}

#[test]
fn a_server_whose_certificate_expired_gets_no_request_on_a_resumed_session() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let identity = mesh.identity_for("cart", SHORT_LIFE);
    cart.live.set_credentials(identity.clone(), mesh.bundle()).unwrap();
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    // Opaque connections are never pooled: each is a handshake.
    for resumed in [0, 1] {
        let mut client = Talk::to(web.upstreams[0]);
        client.send("\u{0}ask");
        let mut served = app.accept();
        served.expect("\u{0}ask");
        served.send("told");
        client.expect("told");
        assert_eq!(web.registry.counted(Event::HandshakeResumed), resumed);
    }
    wait_for_the_end_of(&identity);
    let mut client = Talk::to(web.upstreams[0]);
    client.send("\u{0}ask");
    client.expect_broken();
    counts(&web.registry, Event::HandshakeRefusedPeer, 1);
    app.expect_nobody();
}

#[test]
fn what_one_service_proved_is_not_resumed_for_another() {
    // Two services at one address: the session that `cart` earned there must not serve `payments`.
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80", "payments:80"]);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    web.learn("payments", 80, vec![endpoint(cart.inbound[0], app.port)]);
    let mut client = Talk::to(web.upstreams[0]);
    client.send("\u{0}ask");
    let mut served = app.accept();
    served.expect("\u{0}ask");
    served.send("told");
    client.expect("told");
    let mut client = Talk::to(web.upstreams[1]);
    client.send("\u{0}ask");
    client.expect_broken();
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: payments\r\n\r\n");
    client.head().expect_cause("502", "wrong_identity");
    app.expect_nobody();
}

/// Passes bytes on both ways and keeps them.
fn relay(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = super::support::bind();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keep = seen.clone();
    thread::spawn(move || {
        while let Ok((from, _)) = listener.accept() {
            let to = TcpStream::connect(to).unwrap();
            let ways = [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)];
            for (mut from, mut to) in ways {
                let direction = {
                    let mut kept = keep.lock().unwrap();
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                let keep = keep.clone();
                thread::spawn(move || {
                    let mut piece = [0; 16 * 1024];
                    while let Ok(count @ 1..) = from.read(&mut piece) {
                        keep.lock().unwrap()[direction].extend_from_slice(&piece[..count]);
                        if to.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, seen)
}

/// The types of the TLS records that these bytes are; panics if they are anything else.
fn record_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind @ 20..=23, 3, 1 | 3, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        types.push(*kind);
        bytes = rest.get(length..).unwrap_or_default(); // the last one may be on its way
    }
    assert!(bytes.is_empty(), "not TLS: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(64)]));
    types
}

#[test]
fn between_the_sidecars_there_are_only_tls_records() {
    const MARKER: &str = "MARKER-5f3a-of-the-body";
    const APPLICATION_DATA: u8 = 23;
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let (between, seen) = relay(cart.inbound[0]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![endpoint(between, app.port)]);
    let mut client = Talk::to(web.outbound);
    client.send(format!(
        "POST /{MARKER} HTTP/1.1\r\nHost: cart\r\nX-A: {MARKER}\r\nContent-Length: {}\r\n\r\n{MARKER}",
        MARKER.len()
    ));
    let mut served = app.accept();
    assert_eq!(served.head().get("x-a"), Some(MARKER));
    served.expect(MARKER);
    served.send(ok(MARKER));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect(MARKER);
    let mut client = Talk::to(web.upstreams[0]);
    client.send(format!("\u{0}{MARKER}"));
    let mut served = app.accept();
    served.expect(format!("\u{0}{MARKER}"));
    served.send(MARKER);
    client.expect(MARKER);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4, "two connections, two directions each");
    for direction in &*seen {
        assert!(record_types(direction).contains(&APPLICATION_DATA), "it was carried here");
        for needle in [MARKER.as_bytes(), b"HTTP/1.1", b"spiffe://"] {
            assert!(!direction.windows(needle.len()).any(|window| window == needle), "{needle:?}");
        }
    }
}

#[test]
fn no_word_of_an_opaque_client_counts_before_its_preamble() {
    let (pair, app) = start();
    let config = as_client(&pair.mesh.identity("web"), &pair.mesh.bundle(), "cart", ALPN_TCP);
    let mut client = Talk::tls_to(pair.cart.inbound[0], config);
    client.send([0, 4]);
    client.half_close();
    assert_eq!(client.rest().0, b"");
    counts(&pair.cart.registry, Event::HandshakeFailed, 1);
    app.expect_nobody();
}
