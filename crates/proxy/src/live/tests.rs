//! What a push makes of the snapshot, and what a request then finds in it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use meshwork_core::model::{Balance, HeaderModifier, Health, Key, Locality, RouteMatch, SpiffeId, Transport};
use meshwork_core::name::PortName;
use meshwork_core::policy::Traffic;
use meshwork_core::resource::{
    Cluster, Endpoint, Endpoints, Listener, NameTable, Resource, ResourceType, Route, Rule, WeightedBackend,
};
use meshwork_identity::{Authority, KeyAndCsr};

use super::*;
use crate::alpn::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP};

fn live() -> Arc<Live> {
    Live::new(Registry::new("default/web".to_owned()), Clock::start(), &[ALPN_HTTP2, ALPN_HTTP1, ALPN_TCP]).0
}

fn name() -> PortName {
    PortName::new(Key::new("default", "cart"), 80)
}

fn listener() -> Resource {
    Resource::Listener(Listener { name: "cart:80".to_owned(), target: name(), hint: None, address: None })
}

fn route() -> Resource {
    let rule = Rule {
        name: "default".to_owned(),
        matches: vec![RouteMatch::default()],
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        backends: vec![WeightedBackend { cluster: name(), weight: 1 }],
        timeouts: Default::default(),
        retry: None,
    };
    Resource::Route(Route { name: name(), rules: vec![rule] })
}

fn cluster() -> Resource {
    let identities = BTreeSet::from([SpiffeId::new("mesh.test", "default", "cart").unwrap()]);
    Resource::Cluster(Cluster {
        name: name(),
        balance: Balance::PeakEwma,
        identities,
        traffic: Traffic::default(),
        hint: None,
    })
}

fn endpoints(ports: &[u16]) -> Resource {
    let endpoint = |port: &u16| Endpoint {
        address: ([127, 0, 0, 1], *port).into(),
        app_port: 8080,
        transports: vec![Transport::MtlsHttp1],
        health: Health::Healthy,
        weight: 1,
        locality: Locality::default(),
        workload: format!("cart-{port}"),
    };
    Resource::Endpoints(Endpoints { name: name(), endpoints: ports.iter().map(endpoint).collect() })
}

fn credentials(live: &Live) {
    let authority = Authority::create("mesh.test", SystemTime::now()).unwrap();
    let KeyAndCsr { key, csr_der } = KeyAndCsr::generate().unwrap();
    let web = SpiffeId::new("mesh.test", "default", "web").unwrap();
    let hour = std::time::Duration::from_secs(3_600);
    let issued = authority.issue(&csr_der, &web, hour, SystemTime::now()).unwrap();
    let chain = issued.chain_der.into_iter().map(Into::into).collect();
    let identity = Identity::new(chain, key).unwrap();
    live.set_credentials(Arc::new(identity), Arc::new(authority.bundle().clone())).unwrap();
}

fn destination(live: &Live) -> Option<Arc<Destination>> {
    match live.snapshot().find("cart:80")? {
        Found::Service(destination) => Some(destination.clone()),
        Found::Absent => panic!("absent"),
    }
}

/// The first rule's first backend.
fn backend(live: &Live) -> Option<Arc<crate::Backend>> {
    destination(live)?.backends[0][0].clone()
}

#[test]
fn a_destination_is_there_once_its_parts_are_whatever_their_order() {
    let parts = [listener(), route(), cluster(), endpoints(&[1])];
    for first in 0..parts.len() {
        let live = live();
        for step in 0..parts.len() {
            live.apply(vec![parts[(first + step) % parts.len()].clone()], &[]);
        }
        assert_eq!(backend(&live).unwrap().members.len(), 1, "beginning with part {first}");
    }
}

fn table(namespace: &str) -> Resource {
    Resource::NameTable(NameTable { namespace: namespace.to_owned(), ..NameTable::default() })
}

#[test]
fn names_are_asked_for_until_they_are_known_and_kept_while_somebody_looks_them_up() {
    let (live, mut asks) = Live::new(Registry::new("default/web".to_owned()), Clock::start(), &[ALPN_HTTP1]);
    assert!(live.ask_names("shop"));
    assert_eq!(asks.try_recv(), Ok(Ask::Names("shop".to_owned())));
    live.apply(vec![table("shop")], &[(ResourceType::NameTable, "gone".to_owned())]);
    assert!(live.names().knows("shop") && live.names().knows("gone"));
    assert!(live.ask_names("shop") && live.ask_names("gone"));
    assert!(asks.try_recv().is_err(), "both are known");
    assert!(!live.are_names_idle("shop", 0) && live.are_names_idle("shop", u64::MAX));
    assert!(live.are_names_idle("gone", 0), "what does not exist is asked for again");
    assert_eq!(live.config().map(|(_, resources)| resources.len()), None, "nothing without settings");
    let held = live.names();
    live.forget_names("shop");
    assert!(!live.names().knows("shop") && held.knows("shop"), "who reads goes on reading what it holds");
    assert!(live.ask_names("shop"));
    assert_eq!(asks.try_recv(), Ok(Ask::Names("shop".to_owned())));
}

#[test]
fn a_name_is_unknown_then_absent_then_there_then_forgotten() {
    let live = live();
    assert!(live.snapshot().find("cart:80").is_none());
    live.apply(vec![], &[(ResourceType::Listener, "cart:80".to_owned())]);
    assert!(matches!(live.snapshot().find("cart:80"), Some(Found::Absent)));
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    assert!(destination(&live).is_some());
    live.forget("cart:80");
    assert!(live.snapshot().find("cart:80").is_none());
}

#[test]
fn an_endpoint_keeps_its_state_when_others_come_and_go() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1, 2]), listener(), route()], &[]);
    let before = backend(&live).unwrap();
    live.apply(vec![endpoints(&[2, 3])], &[]);
    let after = backend(&live).unwrap();
    assert!(Arc::ptr_eq(&before.members[1].state, &after.members[0].state), "port 2 is the same endpoint");
    assert!(!Arc::ptr_eq(&before.members[0].state, &after.members[1].state), "port 3 is another than port 1");
}

#[test]
fn a_snapshot_that_is_held_does_not_change() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    let held = live.snapshot();
    live.apply(vec![], &[(ResourceType::Listener, "cart:80".to_owned())]);
    assert!(matches!(held.find("cart:80"), Some(Found::Service(_))));
    assert!(!live.is_current(&held));
}

#[test]
fn a_removed_cluster_leaves_a_rule_without_that_backend() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    live.apply(vec![], &[(ResourceType::Cluster, name().to_string())]);
    assert!(backend(&live).is_none());
    assert!(destination(&live).is_some(), "the route still answers, with its cause");
}

#[test]
fn a_removed_route_keeps_the_last_one_until_its_successor_comes() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    live.apply(vec![], &[(ResourceType::Route, name().to_string())]);
    assert!(destination(&live).is_some());
}

#[test]
fn pushes_share_a_tls_configuration_and_a_new_certificate_makes_a_new_one() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    assert!(backend(&live).unwrap().tls.is_none(), "no certificate yet");
    credentials(&live);
    let first = backend(&live).unwrap().tls.clone().unwrap();
    live.apply(vec![endpoints(&[1, 2])], &[]);
    let second = backend(&live).unwrap().tls.clone().unwrap();
    assert_eq!(first.id, second.id, "sessions stay resumable over a push");
    credentials(&live);
    let third = backend(&live).unwrap().tls.clone().unwrap();
    assert_ne!(first.id, third.id, "pooled connections of the old certificate are not used again");
    assert!(!Arc::ptr_eq(&first.config, &third.config), "nor its sessions");
}

#[test]
fn an_unused_name_is_idle_and_a_used_one_is_not() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    destination(&live).unwrap().touch(100_000);
    assert!(live.idle(50_000).is_empty());
    assert_eq!(live.idle(200_000), ["cart:80"]);
}

#[test]
fn inbound_ports_speak_what_they_were_started_with_best_first() {
    let live = live();
    credentials(&live);
    let snapshot = live.snapshot();
    let server = &snapshot.credentials.as_ref().unwrap().server;
    assert_eq!(server.alpn_protocols, [ALPN_HTTP2, ALPN_HTTP1, ALPN_TCP]);
}

#[test]
fn a_worker_that_lets_go_of_a_replaced_snapshot_frees_nothing() {
    let live = live();
    live.apply(vec![cluster(), endpoints(&[1]), listener(), route()], &[]);
    let held = live.snapshot();
    let seen = Arc::downgrade(&held);
    live.apply(vec![endpoints(&[2])], &[]);
    drop(held); // the worker has met the next one
    assert!(seen.upgrade().is_some(), "freed by whoever let go last");
    live.tidy();
    assert!(seen.upgrade().is_none(), "and freed by its owner");
}

#[test]
fn a_route_that_points_elsewhere_is_followed_there_and_no_longer_where_it_pointed() {
    let live = live();
    let of = |service: &str| PortName::new(Key::new("default", service), 80);
    let pointing_to = |service: &str| {
        let Resource::Route(mut route) = route() else { unreachable!() };
        route.rules[0].backends[0].cluster = of(service);
        Resource::Route(route)
    };
    let parts = |service: &str, ports: &[u16]| {
        let (Resource::Cluster(mut cluster), Resource::Endpoints(mut endpoints)) =
            (cluster(), endpoints(ports))
        else {
            unreachable!()
        };
        (cluster.name, endpoints.name) = (of(service), of(service));
        vec![Resource::Cluster(cluster), Resource::Endpoints(endpoints)]
    };
    live.apply(parts("v1", &[1]), &[]);
    live.apply(parts("v2", &[1]), &[]);
    live.apply(vec![listener(), pointing_to("v1")], &[]);
    live.apply(vec![pointing_to("v2")], &[]);
    live.apply(parts("v2", &[1, 2, 3]), &[]);
    assert_eq!(backend(&live).unwrap().members.len(), 3, "what it points to has changed");
    let before = destination(&live).unwrap();
    live.apply(parts("v1", &[1, 2]), &[]);
    assert!(
        Arc::ptr_eq(&before, &destination(&live).unwrap()),
        "what it pointed to is no part of it any more"
    );
}
