//! Endpoints that answer badly are left out for a while, and come back: what callers see, with one worker and with four.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use meshwork_core::resource::Endpoint;
use meshwork_proxy::telemetry::{Event, Gauge};

use super::peers::as_sidecar;
use super::support::{Mesh, Sidecar, endpoint, http1_endpoint};
use super::talk::{App, Closed, Talk, counts, eventually, ok};

const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// An application that answers badly while it is told to, and counts.
struct Moody {
    port: u16,
    is_bad: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Moody {
    fn start(bad: &'static str) -> Self {
        let app = App::listen();
        let moody = Self {
            port: app.port,
            is_bad: Arc::new(AtomicBool::new(true)),
            count: Arc::new(AtomicUsize::new(0)),
        };
        let (is_bad, count) = (moody.is_bad.clone(), moody.count.clone());
        app.serve(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            if is_bad.load(Ordering::Relaxed) { bad.to_owned() } else { ok("fine") }
        });
        moody
    }

    fn be_good(&self) {
        self.is_bad.store(false, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// `web`, and instances of `cart` that take turns.
struct Shop {
    web: Sidecar,
    _carts: Vec<Sidecar>,
}

impl Shop {
    fn start(ports: &[u16], workers: usize) -> Self {
        let mesh = Mesh::new();
        let carts: Vec<_> = ports.iter().map(|port| Sidecar::start(&mesh, "cart", &[*port], &[])).collect();
        let web = Sidecar::start_with(&mesh, "web", &[], &["cart:80"], |settings| settings.workers = workers);
        let endpoints = carts.iter().zip(ports).map(|(cart, port)| endpoint(cart.inbound[0], *port));
        web.learn("cart", 80, endpoints.collect::<Vec<Endpoint>>());
        Self { web, _carts: carts }
    }

    /// The status of a request on a connection of its own, so that workers take turns. A POST, as nobody tries that again.
    fn post(&self) -> String {
        let mut client = Talk::to(self.web.outbound);
        client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
        client.head().first[9..12].to_owned()
    }

    fn posts(&self, count: usize, status: &str) -> usize {
        (0..count).filter(|_| self.post() == status).count()
    }
}

#[track_caller]
fn check_ejected_and_taken_back(workers: usize) {
    let (bad, good, other) = (Moody::start(BAD), Moody::start(BAD), Moody::start(BAD));
    good.be_good();
    other.be_good();
    let shop = Shop::start(&[bad.port, good.port, other.port], workers);
    // They take turns, whichever worker: the bad one has its five failures after fifteen requests.
    assert_eq!(shop.posts(15, "503"), 5);
    let registry = &shop.web.registry;
    counts(registry, Event::EjectedGatewayErrors, 1);
    assert_eq!(registry.value(Gauge::EjectedEndpoints), 1);
    assert_eq!(shop.posts(30, "200"), 30);
    assert_eq!(bad.count(), 5, "nothing goes to who is ejected");
    // Both others, evenly.
    assert!(good.count().abs_diff(other.count()) < 25, "{} and {}", good.count(), other.count());
    bad.be_good();
    eventually("it is called again", || shop.post() == "200" && bad.count() > 5);
    counts(registry, Event::EjectionEnded, 1);
    eventually("nobody is out", || registry.value(Gauge::EjectedEndpoints) == 0);
}

#[test]
fn who_always_fails_is_left_out_and_taken_back() {
    check_ejected_and_taken_back(1);
}

#[test]
fn one_workers_finding_counts_for_all() {
    check_ejected_and_taken_back(4);
}

#[test]
fn no_more_than_half_are_ejected_and_where_all_fail_callers_get_the_applications_own_answer() {
    let apps = [Moody::start(BAD), Moody::start(BAD), Moody::start(BAD), Moody::start(BAD)];
    let shop = Shop::start(&[apps[0].port, apps[1].port, apps[2].port, apps[3].port], 1);
    assert_eq!(shop.posts(100, "503"), 100);
    let registry = &shop.web.registry;
    assert_eq!(registry.counted(Event::EjectedGatewayErrors), 2);
    assert!(registry.counted(Event::EjectionWithheld) > 0);
    assert_eq!(apps.iter().map(Moody::count).sum::<usize>(), 100);
}

#[test]
fn a_service_of_one_endpoint_is_called_though_it_is_ejected() {
    let app = Moody::start(BAD);
    let shop = Shop::start(&[app.port], 1);
    assert_eq!(shop.posts(6, "503"), 6);
    assert_eq!(shop.web.registry.counted(Event::EjectedGatewayErrors), 1);
    app.be_good();
    assert_eq!(shop.posts(10, "200"), 10);
    assert!(shop.web.registry.counted(Event::EjectionsIgnored) >= 10);
}

#[test]
fn an_application_that_crashes_in_its_answers_is_left_out() {
    let good = Moody::start(BAD);
    good.be_good();
    let app = App::listen();
    let port = app.port;
    std::thread::spawn(move || {
        loop {
            let mut talk = app.accept();
            talk.head();
            talk.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"); // and ends
        }
    });
    let shop = Shop::start(&[port, good.port], 1);
    eventually("it is ejected", || {
        shop.post();
        shop.web.registry.counted(Event::EjectedGatewayErrors) == 1
    });
    assert_eq!(shop.posts(10, "200"), 10);
}

#[test]
fn who_cannot_be_connected_to_is_left_out_at_once() {
    let (mesh, good, closed) = (Mesh::new(), Moody::start(BAD), Closed::new());
    good.be_good();
    let cart = Sidecar::start(&mesh, "cart", &[good.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![endpoint(closed.address(), 80), endpoint(cart.inbound[0], good.port)]);
    let mut client = Talk::to(web.outbound);
    for _ in 0..12 {
        client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("fine");
    }
    assert_eq!(web.registry.counted(Event::EjectedConnectFailures), 1);
    assert_eq!(web.registry.counted(Event::ConnectFailed), 2);
}

/// More than a request may try: the first ones step over some, until those are left out.
#[test]
fn where_most_endpoints_have_gone_the_last_one_serves() {
    let (mesh, good) = (Mesh::new(), Moody::start(BAD));
    good.be_good();
    let cart = Sidecar::start(&mesh, "cart", &[good.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    let gone: Vec<Closed> = (0..6).map(|_| Closed::new()).collect();
    let mut endpoints: Vec<_> = gone.iter().map(|closed| endpoint(closed.address(), 80)).collect();
    endpoints.push(endpoint(cart.inbound[0], good.port));
    web.learn("cart", 80, endpoints);
    let mut client = Talk::to(web.outbound);
    for _ in 0..40 {
        client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("fine");
    }
    assert_eq!(web.registry.counted(Event::EjectedConnectFailures), 6);
    assert_eq!(web.registry.counted(Event::EjectionsIgnored), 0);
}

#[test]
fn what_is_not_the_endpoints_fault_does_not_count_against_it() {
    // Five answers in a row whose cause blames the client, or the mesh: as a sidecar that is itself overloaded.
    let (mesh, peer) = (Mesh::new(), App::listen());
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, vec![http1_endpoint(peer.address(), 80)]);
    let config = as_sidecar(&mesh, "cart");
    std::thread::spawn(move || {
        let mut served = Talk::tls_server_on(peer.accept_socket(), config);
        for cause in ["internal", "no_route"].into_iter().cycle() {
            served.head();
            served
                .send(format!("HTTP/1.1 500 Oops\r\nX-Meshwork-Cause: {cause}\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let mut client = Talk::to(web.outbound);
    for cause in ["internal", "no_route"].into_iter().cycle().take(20) {
        client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        client.head().expect_cause("500", cause);
    }
    assert_eq!(web.registry.counted(Event::Ejected5xx), 0);
}
