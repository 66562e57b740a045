//! Wildcards, and Endpoints after their Cluster: what Envoy needs beside the rest.

use super::*;
use crate::session::server::everything::CARRIED_MAX;
use crate::wire::{ListValue, Struct, Value, value::Kind};

/// A world in which `cart:80=127.0.0.1:9000` leads to the cluster `cart`, and `pay` is another one.
fn world() -> World {
    let mut world = World::cart();
    let route = Reference::new(Route, "cart");
    world.put(Reference::new(Listener, CARRIED), "1", vec![route]);
    for resource_type in [Cluster, Endpoints] {
        world.put(Reference::new(resource_type, "pay"), "1", vec![]);
    }
    world
}

const CARRIED: &str = "cart:80=127.0.0.1:9000";

/// The route leads to these clusters.
fn lead(world: &mut World, version: &str, clusters: &[&str]) {
    let clusters = clusters.iter().map(|name| cluster(name)).collect();
    world.put(Reference::new(Route, "cart"), version, clusters);
}

fn carrying(upstreams: &[&str], request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
    let text = |text: &&str| Value { kind: Some(Kind::StringValue((*text).to_owned())) };
    let list = ListValue { values: upstreams.iter().map(text).collect() };
    let field = |name: &str, kind| Struct { fields: [(name.to_owned(), Value { kind: Some(kind) })].into() };
    let ours = field("upstreams", Kind::ListValue(list));
    let metadata = Some(field("meshwork", Kind::StructValue(ours)));
    DeltaDiscoveryRequest { node: Some(Node { metadata, ..Node::default() }), ..request }
}

fn started(world: &World) -> ServerSession {
    let mut session = ServerSession::new();
    let answer = ask(&mut session, world, carrying(&[CARRIED], request(Cluster)));
    assert_eq!(answer, ["Cluster +cart@1"]);
    session
}

#[test]
fn everything_is_what_the_client_carries_and_where_that_leads() {
    let mut world = world();
    let mut session = started(&world);
    assert_eq!(ask(&mut session, &world, subscribe(Endpoints, &["cart"])), ["ClusterLoadAssignment +cart@1"]);
    assert_eq!(ask(&mut session, &world, request(Listener)), [format!("Listener +{CARRIED}@1")]);
    assert_eq!(ask(&mut session, &world, subscribe(Route, &["cart"])), ["RouteConfiguration +cart@1"]);
    // What comes, comes before the route that leads there; what goes, goes after it.
    lead(&mut world, "2", &["cart", "pay"]);
    assert_eq!(change(&mut session, &world), ["Cluster +pay@1", "RouteConfiguration +cart@2"]);
    lead(&mut world, "3", &["pay"]);
    assert_eq!(change(&mut session, &world), ["RouteConfiguration +cart@3", "Cluster -cart"]);
    assert_eq!(change(&mut session, &world), [""; 0]);
    world.0.remove(&Reference::new(Listener, CARRIED));
    assert_eq!(change(&mut session, &world), [format!("Listener -{CARRIED}"), "Cluster -pay".to_owned()]);
}

#[test]
fn whoever_carries_nothing_is_told_so_at_once() {
    let mut session = ServerSession::new();
    assert_eq!(ask(&mut session, &world(), request(Cluster)), ["Cluster"]);
    assert_eq!(ask(&mut session, &world(), subscribe(Listener, &["*"])), ["Listener"]);
}

#[test]
fn a_wildcard_goes_on_beside_names_and_ends_when_it_is_given_up() {
    let world = world();
    let mut session = started(&world);
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["pay"])), ["Cluster +pay@1"]);
    // It can't know whether that is part of everything: it is told.
    assert_eq!(ask(&mut session, &world, unsubscribe(Cluster, &["pay"])), ["Cluster +pay@1"]);
    assert_eq!(change(&mut session, &world), ["Cluster -pay"]);
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["cart"])), ["Cluster +cart@1"]);
    assert_eq!(ask(&mut session, &world, unsubscribe(Cluster, &["*"])), [""; 0]);
    assert_eq!(session.subscriptions.keys().collect::<Vec<_>>(), [&cluster("cart")]);
    assert_eq!(ask(&mut session, &world, unsubscribe(Cluster, &["cart"])), [""; 0]);
    assert_eq!(ask(&mut session, &world, request(Cluster)), [""; 0], "it is not the first request any more");
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["*"])), ["Cluster +cart@1"]);
}

#[test]
fn after_a_reconnect_what_is_held_and_good_is_not_sent_and_what_went_is_told() {
    let world = world();
    let mut first = carrying(&[CARRIED], request(Cluster));
    first.initial_resource_versions =
        [("cart", "1"), ("old", "1")].map(|(name, version)| (name.to_owned(), version.to_owned())).into();
    assert_eq!(ask(&mut ServerSession::new(), &world, first.clone()), ["Cluster -old"]);
    first.initial_resource_versions.insert("cart".to_owned(), "0".to_owned());
    let mut session = ServerSession::new();
    assert_eq!(ask(&mut session, &world, first), ["Cluster +cart@1", "Cluster -old"]);
    // It holds them, and waits for them nevertheless.
    let endpoints = holding("1", subscribe(Endpoints, &["cart"]));
    assert_eq!(ask(&mut session, &world, endpoints), ["ClusterLoadAssignment +cart@1"]);
}

#[test]
fn a_cluster_that_changes_is_followed_by_its_endpoints_though_these_did_not() {
    let mut world = world();
    let mut session = started(&world);
    ask(&mut session, &world, subscribe(Endpoints, &["cart", "pay"]));
    world.put(cluster("cart"), "2", vec![]);
    assert_eq!(change(&mut session, &world), ["Cluster +cart@2", "ClusterLoadAssignment +cart@1"]);
    assert_eq!(change(&mut session, &world), [""; 0]);
    world.put(cluster("cart"), "3", vec![]);
    world.put(Reference::new(Endpoints, "cart"), "2", vec![]);
    assert_eq!(change(&mut session, &world), ["Cluster +cart@3", "ClusterLoadAssignment +cart@2"]);
}

#[test]
fn our_own_sidecars_are_not_sent_endpoints_again() {
    let mut world = World::cart();
    let mut session = ServerSession::new();
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    world.put(cluster("cart"), "2", vec![Reference::new(Endpoints, "cart")]);
    assert_eq!(change(&mut session, &world), ["Cluster +cart@2"]);
}

#[test]
fn more_than_anybody_carries_ends_the_stream() {
    let names: Vec<String> = (0..=CARRIED_MAX).map(|port| format!("cart:80=127.0.0.1:{port}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused =
        ServerSession::new().request(carrying(&names, request(Cluster)), "7", &mut world().resolve());
    assert_eq!(refused, Err(Violation::TooManyCarried));
}
