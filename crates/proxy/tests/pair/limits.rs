//! What a service may have of one sidecar: past it the answer comes at once, with one worker and with four.

use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use meshwork_core::policy::Limits;
use meshwork_core::resource::{Endpoint, Resource};
use meshwork_proxy::telemetry::Event;

use super::support::{Mesh, Sidecar, endpoint, http1_endpoint, told_of};
use super::talk::{App, Talk, eventually, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

/// Answers are given while it is open.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.is_open.lock().unwrap() = open;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.is_open.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// `web`, and instances of `cart` behind one gate.
struct Shop {
    web: Sidecar,
    gate: Arc<Gate>,
    _carts: Vec<Sidecar>,
}

impl Shop {
    fn start(instances: usize, limits: Limits, workers: usize) -> Self {
        Self::start_with(instances, limits, workers, endpoint)
    }

    fn start_with(
        instances: usize,
        limits: Limits,
        workers: usize,
        known_as: fn(std::net::SocketAddr, u16) -> Endpoint,
    ) -> Self {
        let (mesh, gate) = (Mesh::new(), Arc::<Gate>::default());
        let apps: Vec<_> = (0..instances).map(|_| App::listen()).collect();
        let ports: Vec<_> = apps.iter().map(|app| app.port).collect();
        for app in apps {
            let gate = gate.clone();
            app.serve(move |_, _| {
                gate.pass();
                ok("fine")
            });
        }
        let carts: Vec<_> = ports.iter().map(|port| Sidecar::start(&mesh, "cart", &[*port], &[])).collect();
        let web = Sidecar::start_with(&mesh, "web", &[], &["cart:80"], |settings| settings.workers = workers);
        let endpoints = carts.iter().zip(ports).map(|(cart, port)| known_as(cart.inbound[0], port));
        learn(&web, endpoints.collect(), limits);
        Self { web, gate, _carts: carts }
    }

    fn counted(&self, event: Event) -> u64 {
        self.web.registry.counted(event)
    }

    /// A request on a connection of its own.
    fn ask(&self) -> Talk {
        let mut client = Talk::to(self.web.outbound);
        client.send(GET);
        client
    }

    /// One more is refused at once.
    #[track_caller]
    fn check_refused(&self, limit: Event) {
        let before = self.counted(limit);
        let mut client = Talk::to(self.web.outbound);
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            client.send(GET);
            let head = client.head();
            best = best.min(start.elapsed());
            head.expect_cause("503", "overloaded");
            client.take(head.get("content-length").unwrap().parse().unwrap());
        }
        // The best of them: others share this machine.
        assert!(best < Duration::from_millis(1), "{best:?}");
        assert!(self.counted(limit) >= before + 20);
    }
}

fn learn(web: &Sidecar, endpoints: Vec<Endpoint>, limits: Limits) {
    let mut told = told_of("cart", 80, endpoints, "cart", None);
    for resource in &mut told {
        if let Resource::Cluster(cluster) = resource {
            cluster.traffic.limits = limits;
        }
    }
    web.live.apply(told, &[]);
}

fn is_fine(mut asked: Talk) {
    asked.head().expect("HTTP/1.1 200 OK");
    asked.expect("fine");
}

#[track_caller]
fn check_requests(workers: usize) {
    let limits = Limits { requests: NonZeroU32::new(3), ..Limits::default() };
    let shop = Shop::start(2, limits, workers);
    let mut asked: Vec<_> = (0..8).map(|_| shop.ask()).collect();
    eventually("five of eight are refused", || shop.counted(Event::LimitRequests) == 5);
    shop.check_refused(Event::LimitRequests);
    shop.gate.set(true);
    let answers = asked.iter_mut().map(|asked| asked.head().first[9..12].to_owned());
    assert_eq!(answers.filter(|status| status == "200").count(), 3);
    eventually("there is room again", || {
        let mut client = shop.ask();
        client.head().first.contains("200")
    });
}

#[test]
fn a_services_requests_are_limited_with_one_worker() {
    check_requests(1);
}

#[test]
fn a_services_requests_are_limited_the_same_with_four_workers() {
    check_requests(4);
}

#[track_caller]
fn check_endpoint_requests(workers: usize) {
    let limits = Limits { endpoint_requests: NonZeroU32::new(2), ..Limits::default() };
    let shop = Shop::start(3, limits, workers);
    let mut asked: Vec<_> = (0..7).map(|_| shop.ask()).collect();
    // Each of the three has two: whoever was drawn and full was stepped over. The seventh finds nobody.
    eventually("one of seven is refused", || shop.counted(Event::LimitEndpointRequests) > 0);
    shop.check_refused(Event::LimitEndpointRequests);
    shop.gate.set(true);
    let answers = asked.iter_mut().map(|asked| asked.head().first[9..12].to_owned());
    assert_eq!(answers.filter(|status| status == "200").count(), 6);
}

#[test]
fn an_endpoint_that_is_full_is_stepped_over_with_one_worker() {
    check_endpoint_requests(1);
}

#[test]
fn an_endpoint_that_is_full_is_stepped_over_the_same_with_four_workers() {
    check_endpoint_requests(4);
}

#[test]
fn connections_to_an_endpoint_are_limited_and_another_one_is_called() {
    // Of HTTP/1, as one of HTTP/2 carries all of them.
    let limits = Limits { endpoint_connections: NonZeroU32::new(1), ..Limits::default() };
    let shop = Shop::start_with(4, limits, 1, http1_endpoint);
    let asked: Vec<_> = (0..4).map(|_| shop.ask()).collect();
    eventually("four are open", || {
        let mut client = shop.ask();
        client.head().get("x-meshwork-cause") == Some("overloaded")
    });
    shop.check_refused(Event::LimitEndpointConnections);
    shop.gate.set(true);
    asked.into_iter().for_each(is_fine);
}

#[test]
fn a_connection_that_has_nothing_to_do_makes_room_for_another() {
    let limits = Limits { connections: NonZeroU32::new(1), ..Limits::default() };
    let shop = Shop::start_with(3, limits, 1, http1_endpoint);
    shop.gate.set(true);
    // They take turns, so each request needs another connection than the one before.
    for _ in 0..9 {
        is_fine(shop.ask());
    }
    assert_eq!(shop.counted(Event::LimitConnections), 0);
    assert_eq!(shop.counted(Event::ConnectedUpstream), 9);
}

#[test]
fn opaque_connections_are_limited_too() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    let limits = Limits { connections: NonZeroU32::new(2), ..Limits::default() };
    learn(&web, vec![endpoint(cart.inbound[0], app.port)], limits);
    let ask = || {
        let mut client = Talk::to(web.upstreams[0]);
        client.send("\u{0}ask");
        client
    };
    let mut open: Vec<_> = (0..2)
        .map(|_| {
            let client = ask();
            let mut served = app.accept();
            served.expect("\u{0}ask");
            (client, served)
        })
        .collect();
    ask().expect_broken();
    assert_eq!(web.registry.counted(Event::LimitConnections), 1);
    drop(open.pop());
    eventually("there is room again", || {
        let refused = web.registry.counted(Event::LimitConnections);
        let (mut client, mut served) = (ask(), None);
        // Given up sooner, it would be taken for the next one.
        eventually("it is carried or refused", || {
            served = app.accepted();
            served.is_some() || web.registry.counted(Event::LimitConnections) > refused
        });
        let Some(mut served) = served else { return false };
        served.expect("\u{0}ask");
        served.send("told");
        client.expect("told");
        true
    });
}

#[test]
fn requests_that_wait_for_a_connection_are_limited() {
    // Nobody answers the handshake, so whoever came first waits.
    let (mesh, mute) = (Mesh::new(), App::listen());
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    let limits = Limits { pending_requests: NonZeroU32::new(2), ..Limits::default() };
    learn(&web, vec![endpoint(mute.address(), 80)], limits);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Talk::to(web.outbound);
            client.send(GET);
            client
        })
        .collect();
    let _taken = mute.accept_socket();
    eventually("the third is refused", || {
        let mut client = Talk::to(web.outbound);
        client.send(GET);
        client.head().get("x-meshwork-cause") == Some("overloaded")
    });
    assert!(web.registry.counted(Event::LimitPendingRequests) > 0);
    drop(waiting);
}
