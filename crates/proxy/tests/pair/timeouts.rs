//! Who waits too long is told so, and whoever worked for him is told to stop.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshwork_core::policy::{ConnectPolicy, RuleRetry, Timeouts, Traffic};
use meshwork_core::resource::{Endpoint, Resource};
use socket2::{Domain, Socket, Type};

use super::HTTP2;
use super::support::{Mesh, Sidecar, endpoint, plaintext_endpoint, told_of};
use super::talk::{App, End, Talk, alone, eventually, ok};

/// Long enough for everything that must happen before, on a machine that builds beside it.
const SHORT: Duration = Duration::from_millis(300);

const GET: &str = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n";

fn request_limit(limit: Duration) -> Timeouts {
    Timeouts { request: Some(limit), ..Timeouts::default() }
}

fn try_limit(limit: Duration) -> Timeouts {
    Timeouts { backend_request: Some(limit), ..Timeouts::default() }
}

/// What a control plane tells of cart.
struct Told {
    endpoints: Vec<Endpoint>,
    traffic: Traffic,
    rule: Timeouts,
    retry: Option<RuleRetry>,
}

impl Told {
    fn of(endpoints: Vec<Endpoint>, timeouts: Timeouts) -> Self {
        let traffic = Traffic { timeouts, ..Traffic::default() };
        Self { endpoints, traffic, rule: Timeouts::default(), retry: None }
    }

    fn to(self, web: &Sidecar) {
        let mut resources = told_of("cart", 80, self.endpoints, "cart", None);
        for resource in &mut resources {
            match resource {
                Resource::Cluster(cluster) => cluster.traffic = self.traffic.clone(),
                Resource::Route(route) => {
                    route.rules[0].timeouts = self.rule;
                    route.rules[0].retry = self.retry.clone();
                }
                _ => {}
            }
        }
        web.live.apply(resources, &[]);
    }
}

/// `web`, and `cart` before an application; `web` knows nothing yet.
fn sidecars(app: &App) -> (Mesh, Sidecar, Sidecar) {
    let mesh = Mesh::new();
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    (mesh, web, cart)
}

fn ended(talk: &mut Talk) {
    assert_eq!(talk.rest().0, b"", "nothing came but the end");
}

#[test]
fn a_request_without_an_answer_ends_in_time_and_the_application_is_told() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    Told::of(vec![endpoint(cart.inbound[0], app.port)], request_limit(SHORT)).to(&web);
    for request in [GET, POST] {
        let mut client = Talk::to(web.outbound);
        client.send(request);
        let mut served = app.accept();
        served.head();
        client.head().expect_cause("504", "deadline_exceeded");
        ended(&mut served);
    }
    app.expect_nobody(); // a deadline leaves no time for another try
}

#[test]
fn an_answer_that_is_not_whole_in_time_breaks_off() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    for timeouts in [request_limit(SHORT), try_limit(SHORT)] {
        Told::of(vec![endpoint(cart.inbound[0], app.port)], timeouts).to(&web);
        let mut client = Talk::to(web.outbound);
        client.send(GET);
        let mut served = app.accept();
        served.head();
        served.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        client.head().expect("HTTP/1.1 200 OK");
        assert_eq!(client.rest().0, b"4\r\nhalf\r\n", "no last chunk, so nobody takes it for whole");
        ended(&mut served);
    }
}

#[test]
fn an_answer_until_the_connections_end_is_reset_when_it_is_not_whole_in_time() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    Told::of(vec![endpoint(cart.inbound[0], app.port)], request_limit(SHORT)).to(&web);
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.0\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    client.head();
    assert_eq!(client.rest(), (b"half".to_vec(), End::Broken));
}

#[test]
fn what_ends_in_time_is_untouched() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    let both =
        Timeouts { request: Some(Duration::from_secs(60)), backend_request: Some(Duration::from_secs(30)) };
    Told::of(vec![endpoint(cart.inbound[0], app.port)], both).to(&web);
    app.serve(|_, _| ok("fine"));
    let mut client = Talk::to(web.outbound);
    for _ in 0..3 {
        client.send(GET);
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("fine");
    }
}

#[test]
fn a_try_that_takes_too_long_gives_way_to_another_endpoint() {
    let (slow, quick) = (App::listen(), App::listen());
    let mesh = Mesh::new();
    let carts = [&slow, &quick].map(|app| Sidecar::start(&mesh, "cart", &[app.port], &[]));
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    let endpoints = vec![endpoint(carts[0].inbound[0], slow.port), endpoint(carts[1].inbound[0], quick.port)];
    Told::of(endpoints, try_limit(SHORT)).to(&web);
    quick.serve(|_, _| ok("quick"));
    // In turn: one of two begins with the slow one.
    for _ in 0..2 {
        let mut client = Talk::to(web.outbound);
        client.send(GET);
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("quick");
    }
    let mut served = slow.accept();
    served.head();
    ended(&mut served);
}

#[test]
fn a_try_that_may_not_be_repeated_is_told_by_its_own_cause() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    Told::of(vec![endpoint(cart.inbound[0], app.port)], try_limit(SHORT)).to(&web);
    let mut client = Talk::to(web.outbound);
    client.send(POST);
    let mut served = app.accept();
    served.head();
    client.head().expect_cause("504", "backend_request_timeout");
    ended(&mut served);
    app.expect_nobody();
}

#[test]
fn a_rule_goes_before_its_services_policy() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    let mut told = Told::of(vec![endpoint(cart.inbound[0], app.port)], request_limit(SHORT));
    told.rule = request_limit(Duration::ZERO); // without end
    told.to(&web);
    let mut client = Talk::to(web.outbound);
    client.send(GET);
    let mut served = app.accept();
    served.head();
    std::thread::sleep(SHORT * 2); // what must not happen has no event
    served.send(ok("late"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("late");
}

#[test]
fn a_caller_of_grpc_says_itself_how_long_it_waits_and_hears_it_in_grpcs_words() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    Told::of(vec![endpoint(cart.inbound[0], app.port)], Timeouts::default()).to(&web);
    let mut client = Talk::to(web.outbound);
    client.send(
        "POST /shop.Payments/Charge HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
         Grpc-Timeout: 300m\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0",
    );
    let mut served = app.accept();
    served.head();
    served.expect([0; 5]);
    let answer = client.head();
    answer.expect_cause("200", "deadline_exceeded");
    assert_eq!(answer.get("grpc-status"), Some("4"), "{answer:?}");
    ended(&mut served);
    app.expect_nobody();
}

#[test]
fn a_client_that_leaves_is_worked_for_no_longer() {
    let app = App::listen();
    let (_mesh, web, cart) = sidecars(&app);
    Told::of(vec![endpoint(cart.inbound[0], app.port)], Timeouts::default()).to(&web);
    let mut client = Talk::to(web.outbound);
    client.send(POST);
    let mut served = app.accept();
    served.head();
    drop(client);
    ended(&mut served);
}

/// A port whose queue of connections is full: whoever connects hears nothing.
struct Deaf {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Deaf {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if socket.connect_timeout(&address, Duration::from_millis(200)).is_err() {
                return Self { listener, _queued: queued };
            }
            queued.push(socket);
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

#[test]
fn a_connection_is_waited_for_as_long_as_the_policy_says() {
    let (deaf, mesh) = (Deaf::new(), Mesh::new());
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    let mut told = Told::of(vec![endpoint(deaf.address(), 80)], Timeouts::default());
    // Longer than the default, so that no slow machine looks like it.
    told.traffic.connect = ConnectPolicy { timeout: Duration::from_millis(1_700), idle: None };
    told.traffic.retry.attempts = 0;
    told.to(&web);
    let mut client = Talk::to(web.outbound);
    let start = Instant::now();
    client.send(GET);
    client.head().expect_cause("504", "connect_timeout");
    assert!(start.elapsed() >= Duration::from_millis(1_700), "{:?}", start.elapsed());
}

#[test]
fn a_connection_with_nothing_to_do_is_closed_when_the_policy_says() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    let mut told = Told::of(vec![plaintext_endpoint(app.address())], Timeouts::default());
    told.traffic.connect.idle = Some(Duration::from_millis(100));
    told.to(&web);
    let mut client = Talk::to(web.outbound);
    client.send(GET);
    let mut served = app.accept();
    served.head();
    served.send(ok("x"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("x");
    ended(&mut served); // by itself, the sidecar would keep it for a minute

    let mut opaque = Talk::to(web.upstreams[0]);
    opaque.send("\u{0}ask");
    let mut served = app.accept();
    served.expect("\u{0}ask");
    served.send("told");
    opaque.expect("told");
    ended(&mut opaque);
    ended(&mut served);
}

/// Files and sockets of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Each round is this many requests at once, none of which is answered.
const AT_ONCE: usize = 100;
const ROUNDS: usize = 4;
/// What four rounds may add to what the first one needed: far less than what their requests would hold.
const GROWTH_MAX: u64 = 4 * 1024 * 1024;

#[test]
fn time_outs_leave_nothing_behind() {
    alone(module_path!(), "time_outs_leave_nothing_behind", || {
        let app = App::listen();
        let (_mesh, web, cart) = sidecars(&app);
        Told::of(vec![endpoint(cart.inbound[0], app.port)], request_limit(SHORT)).to(&web);
        let round = || {
            let mut clients: Vec<_> = (0..AT_ONCE).map(|_| Talk::to(web.outbound)).collect();
            let body = "x".repeat(10_000);
            let post =
                format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            clients.iter_mut().for_each(|client| client.send(&post));
            clients.iter_mut().for_each(|client| client.head().expect_cause("504", "deadline_exceeded"));
            drop(clients);
            while let Some(mut served) = app.accepted() {
                served.rest();
            }
        };
        // The way between the sidecars stands from the first request on, over HTTP/2.
        round();
        let kept = if HTTP2 { 2 } else { 0 };
        let quiet =
            |before: usize| eventually("all connections are closed", || descriptors() <= before + kept);
        let (before, memory) = (descriptors(), resident_bytes());
        for _ in 0..ROUNDS {
            round();
        }
        quiet(before);
        let growth = resident_bytes().saturating_sub(memory);
        assert!(growth < GROWTH_MAX, "{} KiB more than after the first round", growth >> 10);
    });
}
