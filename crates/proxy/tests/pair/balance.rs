//! Which endpoint a request goes to, as its service's policy says: by what it carries, by open requests, by distance. What
//! callers see; that shares are as they should be is shown in `core/src/balance`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meshwork_core::model::{AppProtocol, Balance, HashKey, HashTable, Key, Locality, MtlsMode};
use meshwork_core::name::PortName;
use meshwork_core::policy::{Distribution, OutlierPolicy, Traffic};
use meshwork_core::resource::{Endpoint, Endpoints, Inbound, Resource};
use meshwork_proxy::telemetry::Event;

use super::support::{Mesh, Sidecar, plaintext_endpoint, told_of};
use super::talk::{App, Talk, counts, eventually, ok};

const RING: HashTable = HashTable::Ring { size_min: 1_024, size_max: 65_536 };
const MAGLEV: HashTable = HashTable::Maglev { size: 1_009 };
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const KEYS: u32 = 40;

/// An application that answers with its own number, or badly while it is told to.
struct Named {
    endpoint: Endpoint,
    is_bad: Arc<AtomicBool>,
}

fn apps(count: u32) -> Vec<Named> {
    let start = |number: u32| {
        let app = App::listen();
        let is_bad = Arc::new(AtomicBool::new(false));
        let named = Named { endpoint: plaintext_endpoint(app.address()), is_bad: is_bad.clone() };
        app.serve(
            move |_, _| {
                if is_bad.load(Ordering::Relaxed) { BAD.to_owned() } else { ok(&number.to_string()) }
            },
        );
        named
    };
    (0..count).map(start).collect()
}

fn endpoints(apps: &[Named]) -> Vec<Endpoint> {
    apps.iter().map(|app| app.endpoint.clone()).collect()
}

/// A caller of `cart`, which is balanced so.
fn web(balance: Balance, traffic: Traffic, endpoints: Vec<Endpoint>, zone: &str) -> Sidecar {
    let web = Sidecar::start_with(&Mesh::new(), "web", &[], &["cart:80"], |settings| {
        settings.locality = locality(zone);
    });
    let mut told = told_of("cart", 80, endpoints, "cart", Some(AppProtocol::Http));
    for resource in &mut told {
        if let Resource::Cluster(cluster) = resource {
            (cluster.balance, cluster.traffic) = (balance.clone(), traffic.clone());
        }
    }
    web.live.apply(told, &[]);
    web
}

fn locality(zone: &str) -> Locality {
    Locality { region: "eu".to_owned(), zone: zone.to_owned() }
}

fn by(table: HashTable, key: HashKey) -> Balance {
    Balance::Hash { table, key }
}

/// The number of the application that answers.
fn ask(client: &mut Talk, method: &str, fields: &str) -> u32 {
    client.send(format!("{method} / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n{fields}\r\n"));
    let head = client.head();
    head.expect("HTTP/1.1 200 OK");
    let length = head.get("content-length").unwrap().parse().unwrap();
    String::from_utf8(client.take(length)).unwrap().parse().unwrap()
}

/// By key, who answers; on a connection for each, so that nothing hangs on that.
fn owners(web: &Sidecar, method: &str, fields: impl Fn(u32) -> String) -> Vec<u32> {
    (0..KEYS).map(|key| ask(&mut Talk::to(web.outbound), method, &fields(key))).collect()
}

#[test]
fn a_key_goes_to_one_endpoint_whatever_else_the_request_is() {
    let apps = apps(3);
    for (table, key) in [
        (RING, HashKey::Header("x-user".to_owned())),
        (MAGLEV, HashKey::Header("x-user".to_owned())),
        (RING, HashKey::Cookie { name: "session".to_owned(), given: None }),
    ] {
        let web = web(by(table, key), Traffic::default(), endpoints(&apps), "a");
        let fields = |key| format!("X-User: u{key}\r\nCookie: theme=dark; session=u{key}\r\n");
        let (one, other) = (owners(&web, "GET", fields), owners(&web, "POST", fields));
        assert_eq!(one, other, "{table:?}");
        assert_eq!(one.iter().collect::<BTreeSet<_>>().len(), 3, "{one:?}");
    }
}

#[test]
fn a_request_without_a_key_goes_anywhere() {
    let apps = apps(3);
    let web = web(by(RING, HashKey::Header("x-user".to_owned())), Traffic::default(), endpoints(&apps), "a");
    // The chance that 120 random ones leave one of three out is 3 * (2/3)^120.
    let reached: BTreeSet<_> = (0..3).flat_map(|_| owners(&web, "GET", |_| String::new())).collect();
    assert_eq!(reached.len(), 3);
}

#[test]
fn who_brings_no_cookie_is_given_one_and_comes_back_to_the_same_endpoint() {
    let apps = apps(3);
    let key = HashKey::Cookie { name: "session".to_owned(), given: Some(Duration::from_secs(60)) };
    let web = web(by(RING, key), Traffic::default(), endpoints(&apps), "a");
    let mut reached = BTreeSet::new();
    for _ in 0..KEYS {
        let mut client = Talk::to(web.outbound);
        client.send("GET / HTTP/1.1\r\nHost: cart\r\nCookie: theme=dark\r\n\r\n");
        let head = client.head();
        let set = head.get("set-cookie").expect("a cookie");
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/; HttpOnly");
        let length = head.get("content-length").unwrap().parse().unwrap();
        let first: u32 = String::from_utf8(client.take(length)).unwrap().parse().unwrap();
        // A POST, too; and who has brought it is given no other.
        client.send(format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\nCookie: {pair}\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.get("set-cookie"), None);
        let length = head.get("content-length").unwrap().parse().unwrap();
        assert_eq!(String::from_utf8(client.take(length)).unwrap().parse(), Ok(first), "{pair}");
        reached.insert(first);
    }
    assert_eq!(reached.len(), 3);
}

#[test]
fn keys_of_an_ejected_endpoint_go_on_to_others_and_nobody_elses_move() {
    for table in [RING, MAGLEV] {
        let apps = apps(3);
        let outlier = OutlierPolicy { ejection: Duration::from_secs(300), ..OutlierPolicy::default() };
        let traffic = Traffic { outlier, ..Traffic::default() };
        let web = web(by(table, HashKey::Header("x-user".to_owned())), traffic, endpoints(&apps), "a");
        let fields = |key| format!("X-User: u{key}\r\n");
        let before = owners(&web, "GET", fields);
        apps[1].is_bad.store(true, Ordering::Relaxed);
        // Its failures are tried again, where its keys are at home next; after some of them it is ejected.
        let tried = owners(&web, "GET", fields);
        eventually("it is ejected", || {
            owners(&web, "GET", fields);
            web.registry.counted(Event::EjectedGatewayErrors) == 1
        });
        let retries = web.registry.counted(Event::RetryStatus);
        let ejected = owners(&web, "GET", fields);
        assert_eq!(web.registry.counted(Event::RetryStatus), retries, "nothing goes to who is ejected");
        assert_eq!(tried, ejected, "another try goes where the key goes while it is out");
        for (key, (before, after)) in before.iter().zip(&ejected).enumerate() {
            assert!(*after != 1 && (*before == 1 || before == after), "u{key}: {before} {after}");
        }
    }
}

#[test]
fn all_that_one_workload_sends_goes_to_one_endpoint_by_source_opaque_connections_too() {
    let apps = apps(4);
    let named = |name: &str| {
        let web = web(by(MAGLEV, HashKey::Source), Traffic::default(), endpoints(&apps), "a");
        let inbound = Inbound { name: name.to_owned(), ports: Vec::new(), mtls: MtlsMode::Strict };
        web.live.apply(vec![Resource::Inbound(inbound)], &[]);
        web
    };
    let mut reached = BTreeSet::new();
    for number in 0..12 {
        let web = named(&format!("default/web-{number}"));
        let mut owners: BTreeSet<_> = owners(&web, "GET", |_| String::new()).into_iter().collect();
        // The same service as opaque bytes: its applications answer whoever speaks HTTP.
        let opaque = told_of("cart", 80, endpoints(&apps), "cart", Some(AppProtocol::Tcp));
        let opaque = opaque.into_iter().filter(|told| matches!(told, Resource::Listener(_))).collect();
        web.live.apply(opaque, &[]);
        for _ in 0..5 {
            owners.insert(ask(&mut Talk::to(web.upstreams[0]), "GET", ""));
        }
        counts(&web.registry, Event::OpaqueOutbound, 5);
        assert_eq!(owners.len(), 1, "{owners:?}");
        reached.append(&mut owners);
    }
    assert!(reached.len() > 1, "workloads differ");
}

#[test]
fn who_has_fewer_open_requests_is_called() {
    let slow = App::listen();
    let quick = apps(1);
    let alone = vec![plaintext_endpoint(slow.address())];
    let both = vec![alone[0].clone(), quick[0].endpoint.clone()];
    let web = web(Balance::LeastRequest, Traffic::default(), alone, "a");
    // Three, as of the last answer the end may not have been counted yet when the next request comes.
    let open: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Talk::to(web.outbound);
            client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
            let mut taken = slow.accept();
            taken.head().expect("POST / HTTP/1.1");
            (client, taken)
        })
        .collect();
    let name = PortName::new(Key::new("default", "cart"), 80);
    web.live.apply(vec![Resource::Endpoints(Endpoints { name, endpoints: both })], &[]);
    for _ in 0..100 {
        assert_eq!(ask(&mut Talk::to(web.outbound), "POST", ""), 0);
    }
    for (mut client, mut taken) in open {
        taken.send(ok("late"));
        client.head().expect("HTTP/1.1 200 OK");
    }
}

#[test]
fn at_random_all_are_called() {
    let apps = apps(3);
    let web = web(Balance::Random, Traffic::default(), endpoints(&apps), "a");
    let reached: BTreeSet<_> = (0..3).flat_map(|_| owners(&web, "GET", |_| String::new())).collect();
    assert_eq!(reached.len(), 3);
}

#[test]
fn requests_stay_in_the_callers_zone_until_it_cannot_bear_them() {
    let apps = apps(4);
    let mut all = endpoints(&apps);
    for (endpoint, zone) in all.iter_mut().zip(["a", "a", "b", "b"]) {
        endpoint.locality = locality(zone);
    }
    let outlier = OutlierPolicy { ejection: Duration::from_secs(300), ..OutlierPolicy::default() };
    let distribution = Distribution::PreferSameZone;
    let traffic = Traffic { outlier, distribution, ..Traffic::default() };
    let web = web(Balance::RoundRobin, traffic, all, "a");
    let reached = |web: &Sidecar| -> BTreeSet<u32> {
        (0..3).flat_map(|_| owners(web, "GET", |_| String::new())).collect()
    };
    assert_eq!(reached(&web), [0, 1].into());
    // With half of the zone gone the other half keeps 70 %, and zone b takes the rest.
    apps[0].is_bad.store(true, Ordering::Relaxed);
    eventually("it is ejected", || {
        owners(&web, "GET", |_| String::new());
        web.registry.counted(Event::EjectedGatewayErrors) == 1
    });
    assert_eq!(reached(&web), [1, 2, 3].into());
    apps[1].is_bad.store(true, Ordering::Relaxed);
    eventually("it is ejected, too", || {
        owners(&web, "GET", |_| String::new());
        web.registry.counted(Event::EjectedGatewayErrors) == 2
    });
    assert_eq!(reached(&web), [2, 3].into());
}
