//! Captured connections to the application: only the mesh comes in, unless the control plane says otherwise.
//!
//! Whoever is captured here is a host at 10.9.0.1 and fd09::1, which calls the application of `cart` at 10.9.9.9 and
//! fd09::9.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use meshwork_core::model::{AppProtocol, MtlsMode};
use meshwork_core::resource::{Inbound, InboundPort, Resource};
use meshwork_proxy::telemetry::Event;
use meshwork_proxy::{ALPN_HTTP1, ALPN_TCP, Captured};

use super::captured::client_hello;
use super::netns::{HOST, at, connect, connect_silent, expect_refused, expect_reset, redirect_to, within};
use super::peers::as_client;
use super::streams::Streams;
use super::support::{Mesh, Sidecar};
use super::talk::{App, Talk, counts, ok};

/// The sidecar of `cart`, which captures what others open to its application.
struct Guard {
    mesh: Mesh,
    cart: Sidecar,
    app: App,
    ports: Vec<SocketAddr>,
}

impl Guard {
    fn start() -> Self {
        let (mesh, app) = (Mesh::new(), App::listen());
        let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let inbound: Vec<_> = everywhere.iter().map(|ip| listen(*ip)).collect();
        let ports: Vec<_> = inbound.iter().map(|listener| listener.local_addr().unwrap()).collect();
        redirect_to(&ports);
        let captured = Captured { inbound, ..Captured::default() };
        let cart = Sidecar::start_captured(&mesh, "cart", &[app.port], captured, |_| {});
        Self { mesh, cart, app, ports }
    }

    /// What the control plane says of the application's port, and of all others.
    fn told(&self, mtls: MtlsMode, of_others: MtlsMode, hint: Option<AppProtocol>) {
        let ports = vec![InboundPort { app_port: self.app.port, hint, service: None, mtls }];
        let inbound = Inbound { name: "default/cart-1".to_owned(), ports, mtls: of_others };
        self.cart.live.apply(vec![Resource::Inbound(inbound)], &[]);
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        HOST.map(|ip| at(ip, self.app.port))
    }

    /// A connection of a sidecar of `web`, on its way to the application's own address.
    fn mesh_client(&self, alpn: &[u8]) -> Talk {
        let config = as_client(&self.mesh.identity("web"), &self.mesh.bundle(), "cart", alpn);
        connect(self.addresses()[0]).with_tls_inside(config)
    }

    fn counted(&self, event: Event) -> u64 {
        self.cart.registry.counted(event)
    }
}

fn listen(ip: IpAddr) -> TcpListener {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None).unwrap();
    if ip.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    socket.listen(64).unwrap();
    socket.into()
}

const FORGED: &str = "GET /a HTTP/1.1\r\nHost: cart\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.test/ns/default/sa/admin\r\n\r\n";

#[test]
fn strict_takes_the_mesh_and_nobody_else() {
    within(|| {
        let guard = Guard::start();
        // Before the control plane has said anything, and after.
        for round in 0..2 {
            for address in guard.addresses() {
                for said in [FORGED, "*1\r\n"] {
                    let mut client = connect(address);
                    client.send(said);
                    client.expect_broken();
                }
            }
            guard.app.expect_nobody();
            let mut client = guard.mesh_client(ALPN_HTTP1);
            client.send(FORGED);
            let mut served = guard.app.accept();
            let request = served.head();
            let caller = "URI=spiffe://mesh.test/ns/default/sa/web";
            assert_eq!(request.get("x-forwarded-client-cert"), Some(caller), "{round}");
            served.send(ok("in"));
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("in");
            drop((client, served));
            guard.told(MtlsMode::Strict, MtlsMode::Strict, None);
        }
        counts(&guard.cart.registry, Event::HandshakePlaintext, 8);
        assert_eq!(guard.counted(Event::PlaintextCarried), 0);
    });
}

#[test]
fn strict_takes_nobody_to_a_port_that_was_not_declared() {
    within(|| {
        let guard = Guard::start();
        let hidden = App::listen_on(HOST[0].parse().unwrap());
        expect_refused(hidden.address());
        hidden.expect_nobody();
        counts(&guard.cart.registry, Event::CapturedRefused, 1);
    });
}

#[test]
fn permissive_takes_others_too_but_believes_nobody_who_says_who_he_is() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Strict, None);
        for address in guard.addresses() {
            let mut client = connect(address);
            client.send(FORGED);
            let mut served = guard.app.accept();
            let request = served.head();
            request.expect("GET /a HTTP/1.1");
            request.expect_without(&["x-forwarded-client-cert"]);
            served.send(ok("in"));
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("in");
        }
        assert_eq!(guard.counted(Event::PlaintextCarried), 2);
        // The mesh is told apart, on the same port.
        let mut client = guard.mesh_client(ALPN_HTTP1);
        client.send(FORGED);
        let caller = "URI=spiffe://mesh.test/ns/default/sa/web";
        assert_eq!(guard.app.accept().head().get("x-forwarded-client-cert"), Some(caller));
        assert_eq!(guard.counted(Event::PlaintextCarried), 2);
        assert_eq!(guard.counted(Event::HandshakeFull), 1);
    });
}

#[test]
fn what_a_lenient_server_would_take_for_a_request_is_judged_as_one() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Strict, None);
        let with = |line: &str| {
            let mut client = connect(guard.addresses()[0]);
            client.send(FORGED.replace("GET /a HTTP/1.1", line));
            client
        };
        for odd in ["GET  /a HTTP/1.1", "GET /a", "GET /\u{1}a HTTP/1.1"] {
            with(odd).head().expect_cause("400", "bad_request");
        }
        guard.app.expect_nobody();
        // Our engine is lenient here itself.
        let _client = with("\r\n\r\nGET /a HTTP/1.1");
        guard.app.accept().head().expect_without(&["x-forwarded-client-cert"]);
    });
}

#[test]
fn permissive_reads_the_requests_of_http2() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Strict, None);
        let mut client = Streams::client(connect(guard.addresses()[0]));
        client.get("/two");
        let mut served = Streams::server(guard.app.accept());
        let (stream, message) = served.head();
        assert_eq!((&*message.first, message.get("x-forwarded-client-cert")), ("GET /two", None));
        served.ok(stream, "in");
    });
}

#[test]
fn permissive_carries_what_is_no_http_as_it_is() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Strict, None);
        let address = guard.addresses()[0];
        // The application's own TLS, by whom it is asked for by name.
        for said in [b"*1\r\n$4\r\nPING\r\n".to_vec(), client_hello("cart.example")] {
            let mut client = connect(address);
            client.send(&said);
            let mut served = guard.app.accept();
            served.expect(&said);
            served.send("+PONG\r\n");
            client.expect("+PONG\r\n");
        }
        // A server that speaks first.
        let mut client = connect_silent(address);
        let mut served = guard.app.accept();
        served.send("220 hello\r\n");
        client.expect("220 hello\r\n");
        // A sidecar that is slow to speak is one still.
        let waiting = connect_silent(address);
        let unused = guard.app.accept();
        let config = as_client(&guard.mesh.identity("web"), &guard.mesh.bundle(), "cart", ALPN_TCP);
        let mut late = waiting.with_tls_inside(config);
        late.send(preamble(guard.app.port));
        late.send("late");
        let mut served = guard.app.accept();
        served.expect("late");
        drop(unused);
        assert_eq!(guard.counted(Event::PlaintextCarried), 3);
    });
}

#[test]
fn an_application_that_speaks_first_is_waited_for_once() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Strict, None);
        let greeted = || {
            let started = Instant::now();
            let mut client = connect_silent(guard.addresses()[0]);
            let mut served = guard.app.accept();
            served.send("220 hello\r\n");
            client.expect("220 hello\r\n");
            started.elapsed()
        };
        assert!(greeted() >= Duration::from_millis(50), "nobody can know yet that it speaks first");
        // One of many is enough: a machine that is busy may make any of them wait.
        let fastest = (0..50).map(|_| greeted()).min().unwrap();
        assert!(fastest < Duration::from_millis(25), "the greeting was held back for {fastest:?}");
    });
}

/// What a sidecar sends before opaque bytes: length, version, port, flags.
fn preamble(app_port: u16) -> Vec<u8> {
    [&[0, 4, 1][..], &app_port.to_be_bytes(), &[0]].concat()
}

#[test]
fn a_port_that_was_not_declared_is_reached_where_its_client_went_and_loopback_stays_closed() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Strict, MtlsMode::Permissive, None);
        let (open, local) = (App::listen_on(HOST[0].parse().unwrap()), App::listen());
        let mut client = connect(open.address());
        client.send(FORGED);
        open.accept().head().expect_without(&["x-forwarded-client-cert"]);
        let mut client = connect(at(HOST[0], local.port));
        client.send("*1\r\n");
        client.expect_broken();
        local.expect_nobody();
        // The application's own port says something else.
        let mut client = connect(guard.addresses()[0]);
        client.send("*1\r\n");
        client.expect_broken();
        guard.app.expect_nobody();
    });
}

#[test]
fn nobody_comes_to_the_captured_port_itself() {
    within(|| {
        let guard = Guard::start();
        guard.told(MtlsMode::Permissive, MtlsMode::Permissive, None);
        for address in [at(HOST[0], guard.ports[0].port()), at(HOST[1], guard.ports[1].port())] {
            expect_reset(TcpStream::connect(address)); // not redirected
        }
        counts(&guard.cart.registry, Event::CapturedRefused, 2);
    });
}
