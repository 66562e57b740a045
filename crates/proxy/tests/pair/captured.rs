//! Captured connections: what a rule of the kernel redirects to the sidecar.
//!
//! Each test has a network namespace of its own. Nobody is there but the application at 10.9.0.1 and fd09::1, whose
//! connections are captured, and hosts outside the mesh at 10.9.9.9 and fd09::9.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use meshwork_core::model::{AccessLog, Key, Unknown, UnknownDestinations};
use meshwork_core::name::PortName;
use meshwork_core::resource::{Listener, MeshSettings, Resource, ResourceType};
use meshwork_proxy::telemetry::Event;
use meshwork_proxy::{Ask, Captured, Settings};

use super::any_server::anonymous;
use super::netns::{HOST, at, connect, connect_silent, expect_refused, expect_reset, redirect_to, within};
use super::streams::Streams;
use super::support::{Mesh, Sidecar, TRUST_DOMAIN, endpoint};
use super::talk::{App, Talk, counts, ok};

const VIRTUAL: [&str; 2] = ["240.0.0.7", "fd12::7"];

/// The sidecar of `web`, which captures what the application opens, and the service `cart`.
struct Captive {
    web: Sidecar,
    _cart: Sidecar,
    app: App,
    /// By address family.
    ports: Vec<SocketAddr>,
}

impl Captive {
    fn start() -> Self {
        Self::start_with(UnknownDestinations::default())
    }

    fn start_with(unknown: UnknownDestinations) -> Self {
        Self::start_adjusted(unknown, |_| {})
    }

    fn start_adjusted(unknown: UnknownDestinations, adjust: impl FnOnce(&mut Settings)) -> Self {
        let (mesh, app) = (Mesh::new(), App::listen());
        let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
        let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let outbound: Vec<_> = localhost.iter().map(|ip| TcpListener::bind((*ip, 0)).unwrap()).collect();
        let ports: Vec<_> = outbound.iter().map(|listener| listener.local_addr().unwrap()).collect();
        redirect_to(&ports);
        let captured = Captured { outbound, ..Captured::default() };
        let web = Sidecar::start_captured(&mesh, "web", &[], captured, adjust);
        let ranges: Vec<_> = ["240.0.0.0/8", "fd12::/64"].map(|range| range.parse().unwrap()).into();
        let settings = MeshSettings {
            mesh_id: "m".to_owned(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            access_log: AccessLog::All,
            issuing_root: String::new(),
            ranges: ranges.clone(),
            virtual_ranges: ranges,
            unknown,
        };
        web.live.apply(vec![Resource::MeshSettings(settings)], &[]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
        Self { web, _cart: cart, app, ports }
    }

    /// `cart` under one more name.
    fn call_cart(&self, name: String) {
        let target = PortName::new(Key::new("default", "cart"), 80);
        self.web
            .live
            .apply(vec![Resource::Listener(Listener { name, target, hint: None, address: None })], &[]);
    }

    fn nobody_is(&self, name: &str) {
        self.web.live.apply(Vec::new(), &[(ResourceType::Listener, name.to_owned())]);
    }

    fn counted(&self, event: Event) -> u64 {
        self.web.registry.counted(event)
    }
}

/// A host outside the mesh.
fn outside(family: usize) -> App {
    App::listen_on(HOST[family].parse().unwrap())
}

fn get(host: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn a_virtual_address_is_its_service_in_both_families() {
    within(|| {
        let captive = Captive::start();
        for address in VIRTUAL.map(|ip| at(ip, 80)) {
            captive.call_cart(address.to_string());
            let mut client = connect(address);
            client.send(get("whatever.example"));
            let mut served = captive.app.accept();
            let request = served.head();
            assert_eq!(request.get("host"), Some("whatever.example"));
            let caller = "URI=spiffe://mesh.test/ns/default/sa/web";
            assert_eq!(request.get("x-forwarded-client-cert"), Some(caller));
            served.send(ok("carried"));
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("carried");
            drop((client, served));
            let mut client = connect(address);
            client.send("*1\r\n$4\r\nPING\r\n");
            captive.app.accept().expect("*1\r\n$4\r\nPING\r\n");
        }
        assert_eq!(captive.counted(Event::CapturedAddress), 4);
    });
}

#[test]
fn a_virtual_address_that_nobody_has_is_refused_at_once() {
    within(|| {
        let mut captive = Captive::start();
        for address in VIRTUAL.map(|ip| at(ip, 81)) {
            let mut waiting = connect_silent(address);
            assert_eq!(captive.web.asks.blocking_recv(), Some(Ask::Destination(address.to_string())));
            captive.nobody_is(&address.to_string());
            waiting.expect_broken(); // it has said nothing
            let mut client = connect(address);
            client.send(get("cart"));
            client.head().expect_cause("502", "unknown_service");
            let mut client = connect(address);
            client.send("*1\r\n$4\r\nPING\r\n");
            client.expect_broken();
        }
    });
}

#[test]
fn what_no_service_claims_goes_where_it_was_going() {
    within(|| {
        let captive = Captive::start();
        for family in [0, 1] {
            let host = outside(family);
            let mut client = connect(host.address());
            client.send([0, 1, 2, 3, 255]);
            let mut served = host.accept();
            served.expect([0, 1, 2, 3, 255]);
            served.send("hello");
            client.expect("hello");
            client.half_close();
            served.expect_end();
            served.send("and bye");
            drop(served);
            client.expect("and bye");
            client.expect_end();
        }
        assert_eq!(captive.counted(Event::CapturedUnclaimed), 2);
        assert_eq!(captive.counted(Event::PassthroughConnection), 2);
    });
}

#[test]
fn an_address_outside_that_refuses_breaks_off() {
    within(|| {
        let _captive = Captive::start();
        let nobody = outside(0).address();
        let mut client = connect(nobody);
        client.send("*1\r\n");
        client.expect_broken();
        let mut client = connect(nobody);
        client.send(get("www.example.com"));
        client.head().expect_cause("502", "passthrough_failed");
    });
}

#[test]
fn a_host_that_names_a_service_is_routed_and_any_other_goes_to_the_address() {
    within(|| {
        let captive = Captive::start();
        let (host, elsewhere) = (outside(0), App::listen());
        let mut client = connect(host.address());
        let mut served = None;
        // The last is an address of somebody else's, who must not be called because a client says so.
        let others = ["www.example.com".to_owned(), elsewhere.address().to_string()];
        for (other, number) in others.iter().zip(0..) {
            client.send(get("cart:80"));
            let mut cart = served.take().unwrap_or_else(|| captive.app.accept());
            assert!(cart.head().get("x-forwarded-client-cert").is_some());
            cart.send(ok("cart"));
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("cart");
            served = Some(cart);
            client.send(get(other));
            let mut outside = host.accept();
            let request = outside.head();
            assert_eq!(request.get("host"), Some(&**other), "{number}");
            request.expect_without(&["x-forwarded-client-cert", "x-request-id"]);
            outside.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside");
            client.head().expect("HTTP/1.1 200 OK");
            client.expect("outside");
        }
        elsewhere.expect_nobody();
        assert_eq!(captive.counted(Event::CapturedHttp), 1);
        assert_eq!(captive.counted(Event::PassthroughRequest), 2);
    });
}

#[test]
fn a_name_that_nobody_answers_about_goes_where_it_was_going() {
    within(|| {
        let mut captive = Captive::start();
        let host = outside(0);
        let mut client = connect(host.address());
        client.send(get("example.com"));
        // The control plane stays silent, and the host outside has nothing to do with that.
        let mut served = host.accept();
        served.head().expect("GET /a HTTP/1.1");
        let name = format!("example.com:{}", host.port);
        assert_eq!(captive.web.asks.blocking_recv(), Some(Ask::Destination(name)));
        let mut client = connect(host.address());
        client.send(get("nobody.default.mesh"));
        client.head().expect_cause("503", "unknown_service_yet");
    });
}

#[test]
fn a_proxy_outside_is_spoken_to_as_the_client_does() {
    within(|| {
        let _captive = Captive::start();
        let host = outside(0);
        let mut client = connect(host.address());
        client.send("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\nA: b\r\n\r\n");
        let mut served = host.accept();
        let tunnel = served.head();
        tunnel.expect("CONNECT www.example.com:443 HTTP/1.1");
        assert_eq!(tunnel.get("a"), Some("b"));
        served.send("HTTP/1.1 200 OK\r\n\r\nfrom the other end");
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("from the other end");
        let mut client = connect(host.address());
        client.send("GET http://www.example.com/a HTTP/1.1\r\nHost: www.example.com\r\nProxy-Authorization: Basic x\r\n\r\n");
        let request = host.accept().head();
        request.expect("GET http://www.example.com/a HTTP/1.1");
        assert_eq!(request.get("proxy-authorization"), Some("Basic x"));
    });
}

#[test]
fn http2_with_prior_knowledge_is_routed_by_its_authority() {
    within(|| {
        let captive = Captive::start();
        let host = outside(0);
        let mut client = Streams::client(connect(host.address()));
        client.ask("GET", "cart:80", "/cart", true);
        client.flush();
        let mut cart = Streams::server(captive.app.accept());
        let (stream, message) = cart.head();
        assert_eq!(message.first, "GET /cart");
        cart.ok(stream, "cart");
        client.ask("GET", "www.example.com", "/outside", true);
        client.flush();
        let mut served = Streams::server(host.accept());
        let (stream, message) = served.head();
        assert_eq!(message.first, "GET /outside");
        assert_eq!(message.get("x-forwarded-client-cert"), None);
        served.ok(stream, "outside");
    });
}

/// What a TLS client says first, as rustls says it, with post-quantum key shares.
pub(crate) fn client_hello(name: &'static str) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from(name).unwrap();
    let mut client = rustls::ClientConnection::new(anonymous(b"h2"), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(hello.len() > 1_400, "it fits a segment, and shows nothing");
    hello
}

#[test]
fn a_tls_client_is_carried_to_the_service_that_it_names_and_nothing_is_changed() {
    within(|| {
        let captive = Captive::start();
        let host = outside(0);
        captive.call_cart(format!("cart.default.mesh:{}", host.port));
        let hello = client_hello("cart.default.mesh");
        let mut client = connect(host.address());
        let (first, rest) = hello.split_at(700);
        client.send(first);
        thread::sleep(Duration::from_millis(80)); // as segments come that are far apart: longer than silence is waited for
        client.send(rest);
        let mut served = captive.app.accept();
        served.expect(&hello);
        served.send([22, 3, 3]);
        client.expect([22, 3, 3]);
        host.expect_nobody();
        assert_eq!(captive.counted(Event::CapturedServerName), 1);

        for name in ["www.example.com", "nobody.default"] {
            captive.nobody_is(&format!("nobody.default:{}", host.port));
            let hello = client_hello(name);
            let mut client = connect(host.address());
            client.send(&hello);
            let mut served = host.accept();
            served.expect(&hello);
            served.send([22, 3, 3]);
            client.expect([22, 3, 3]);
        }
        assert_eq!(captive.counted(Event::CapturedServerName), 1);
    });
}

#[test]
fn a_server_that_speaks_first_is_waited_for_once() {
    within(|| {
        let captive = Captive::start();
        let host = outside(0);
        assert!(
            greeted(&host).0 >= Duration::from_millis(50),
            "nobody can know yet that the server speaks first"
        );
        // One of many is enough: a machine that is busy may make any of them wait.
        let fastest = (0..50).map(|_| greeted(&host).0).min().unwrap();
        assert!(fastest < Duration::from_millis(25), "the greeting was held back for {fastest:?}");
        assert_eq!(captive.counted(Event::CapturedUnclaimed), 51);
    });
}

/// A connection whose server speaks first, and how long it took to hear it.
fn greeted(host: &App) -> (Duration, [Talk; 2]) {
    let started = Instant::now();
    let mut client = connect_silent(host.address());
    let mut served = host.accept();
    served.send("220 mail.example ESMTP\r\n");
    client.expect("220 mail.example ESMTP\r\n");
    (started.elapsed(), [client, served])
}

#[test]
fn what_one_worker_learned_of_a_server_all_workers_know() {
    within(|| {
        let two = |settings: &mut Settings| settings.workers = 2;
        let _captive = Captive::start_adjusted(UnknownDestinations::default(), two);
        // Of two connections that stay open each worker has one.
        let mut open = Vec::new();
        let mut second = || {
            let host = outside(0);
            open.push(greeted(&host).1);
            let (took, talks) = greeted(&host);
            open.push(talks);
            took
        };
        // One of many is enough: a machine that is busy may make any of them wait.
        let fastest = (0..20).map(|_| second()).min().unwrap();
        assert!(fastest < Duration::from_millis(25), "the other worker held it back for {fastest:?}");
    });
}

#[test]
fn a_late_http_client_is_still_http_where_the_way_is_open_from_the_start() {
    within(|| {
        let captive = Captive::start();
        let host = outside(0);
        drop(greeted(&host));
        let mut client = connect_silent(host.address());
        let _way = host.accept(); // nobody has said anything on it
        client.send(get("cart:80"));
        let request = captive.app.accept().head();
        assert!(request.get("x-request-id").is_some(), "it passed as opaque bytes");
        // And it is forgotten that this server speaks first.
        let (took, _talks) = greeted(&host);
        assert!(took >= Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn a_client_that_speaks_late_is_still_looked_at() {
    within(|| {
        let captive = Captive::start();
        let host = outside(0);
        let mut client = connect_silent(host.address());
        let waiting = host.accept(); // the silence is over, and the way is open
        client.send(get("cart:80"));
        captive.app.accept().head().expect("GET /a HTTP/1.1");
        drop(waiting);

        let mut client = connect_silent(host.address());
        let mut waiting = host.accept();
        client.send("late\r\n");
        waiting.expect("late\r\n");
    });
}

#[test]
fn a_client_that_speaks_late_to_an_address_that_nobody_has_is_carried_to_the_service_that_it_names() {
    within(|| {
        let captive = Captive::start();
        late_where_nobody_answers(&captive);
        assert_eq!(captive.counted(Event::CapturedServerName), 1);
    });
}

#[test]
fn a_client_that_speaks_late_to_an_address_that_is_denied_is_carried_to_the_service_that_it_names() {
    within(|| {
        let deny = UnknownDestinations { default: Unknown::Deny, ..UnknownDestinations::default() };
        let captive = Captive::start_with(deny);
        late_where_nobody_answers(&captive);
        // Five that say nothing elsewhere; here the one that says nothing, and the one that names somebody else by TLS.
        counts(&captive.web.registry, Event::DeniedConnection, 7);
        assert_eq!(captive.counted(Event::DeniedRequest), 1);
    });
}

fn late_where_nobody_answers(captive: &Captive) {
    let (https, http) = (at(HOST[0], 443), at(HOST[0], 80));
    let elsewhere = outside(0).address();
    let late = |to| {
        let client = connect_silent(to);
        // Elsewhere a client that says nothing is told at once. This one came later, so the first one's silence is over, too.
        expect_refused(elsewhere);
        client
    };
    captive.call_cart("cart.default.mesh:443".to_owned());
    let mut silent = late(https);
    let mut client = late(https);
    let hello = client_hello("cart.default.mesh");
    client.send(&hello);
    captive.app.accept().expect(&hello);
    let mut client = late(https);
    client.send(client_hello("www.example.com"));
    client.expect_broken();
    let mut client = late(http);
    client.send(get("cart"));
    captive.app.accept().head().expect("GET /a HTTP/1.1");
    let mut client = late(http);
    client.send(get("www.example.com"));
    let told = client.head();
    assert!(told.get("x-meshwork-cause").is_some(), "{told:?}");
    silent.expect_broken();
}

#[test]
fn what_is_unknown_may_be_denied_by_namespace() {
    within(|| {
        let namespaces = [("default".to_owned(), Unknown::Deny)].into();
        let captive = Captive::start_with(UnknownDestinations { default: Unknown::Passthrough, namespaces });
        let host = outside(0);
        let mut client = connect(host.address());
        client.send(get("www.example.com"));
        client.head().expect_cause("403", "destination_denied");
        expect_refused(host.address());
        for said in [b"*1\r\n".to_vec(), client_hello("www.example.com")] {
            let mut client = connect(host.address());
            client.send(said);
            client.expect_broken();
        }
        host.expect_nobody();
        assert_eq!(captive.counted(Event::DeniedRequest), 1);
        assert_eq!(captive.counted(Event::DeniedConnection), 3);
        // A service is none the worse for it.
        let mut client = connect(host.address());
        client.send(get("cart:80"));
        captive.app.accept().head().expect("GET /a HTTP/1.1");
        // The proxy port leads to no other places.
        let mut client = Talk::to(captive.web.outbound);
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\n\r\n", host.address()));
        client.head().expect_cause("403", "destination_denied");
    });
}

#[test]
fn nobody_makes_the_sidecar_call_itself() {
    within(|| {
        let captive = Captive::start();
        // Directly, and not redirected.
        for port in &captive.ports {
            expect_reset(TcpStream::connect(port));
        }
        // Redirected, on the way to one of its own.
        let own = [captive.ports[0], captive.ports[1], captive.web.outbound];
        for address in own {
            expect_refused(address);
        }
        counts(&captive.web.registry, Event::CapturedRefused, 5);
        assert_eq!(captive.counted(Event::ConnectedUpstream), 0);
    });
}
