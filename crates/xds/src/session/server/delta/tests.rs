//! One row for each rule of the protocol, over a world of names and versions.

mod everything;

use super::*;
use crate::codec::Encoded as _;
use crate::session::server::{Answer, RefusedName};
use crate::wire::{Status, core::Node};

/// What exists: reference -> version and what it points to.
#[derive(Clone, Default)]
struct World(BTreeMap<Reference, (String, Vec<Reference>)>);

fn cluster(name: &str) -> Reference {
    Reference::new(ResourceType::Cluster, name)
}

impl World {
    /// A Listener `cart:80` and all that it leads to, at version 1.
    fn cart() -> Self {
        let mut world = Self::default();
        let of = |resource_type| Reference::new(resource_type, "cart");
        world.put(Reference::new(ResourceType::Listener, "cart:80"), "1", vec![of(ResourceType::Route)]);
        world.put(of(ResourceType::Route), "1", vec![of(ResourceType::Cluster)]);
        world.put(of(ResourceType::Cluster), "1", vec![of(ResourceType::Endpoints)]);
        world.put(of(ResourceType::Endpoints), "1", vec![]);
        world
    }

    fn put(&mut self, reference: Reference, version: &str, points_to: Vec<Reference>) {
        self.0.insert(reference, (version.to_owned(), points_to));
    }

    fn resolve(&self) -> impl FnMut(ResourceType, &str) -> Option<EncodedResource> + '_ {
        |resource_type, name| {
            let reference = Reference::new(resource_type, name);
            let (version, points_to) = self.0.get(&reference)?;
            Some(EncodedResource::new(&reference, version, Vec::new(), points_to.clone()))
        }
    }
}

/// Sends a request, gives what comes back as text, one line a response: `Cluster +cart@1 -web`.
fn ask(session: &mut ServerSession, world: &World, request: DeltaDiscoveryRequest) -> Vec<String> {
    let outcome = session.request(request, "7", &mut world.resolve()).unwrap();
    outcome.responses.iter().map(text).collect()
}

fn change(session: &mut ServerSession, world: &World) -> Vec<String> {
    session.changed(&mut |_, _| true, "8", &mut world.resolve()).iter().map(text).collect()
}

fn text(response: &DeltaResponse) -> String {
    use prost::Message as _;
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    let response = wire::DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
    let mut text = response.type_url.rsplit('.').next().unwrap_or_default().to_owned();
    for resource in response.resources {
        text += &format!(" +{}@{}", resource.name, resource.version);
    }
    for name in response.removed_resources {
        text += &format!(" -{name}");
    }
    text
}

fn request(resource_type: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: wire::type_url(resource_type), ..DeltaDiscoveryRequest::default() }
}

fn subscribe(resource_type: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { resource_names_subscribe, ..request(resource_type) }
}

fn unsubscribe(resource_type: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { resource_names_unsubscribe, ..request(resource_type) }
}

fn holding(version: &str, request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
    let names = request.resource_names_subscribe.iter();
    let initial_resource_versions = names.map(|name| (name.clone(), version.to_owned())).collect();
    DeltaDiscoveryRequest { initial_resource_versions, ..request }
}

fn from_sidecar(request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
    let client_features = vec![DEPENDENTS.to_owned()];
    DeltaDiscoveryRequest { node: Some(Node { client_features, ..Node::default() }), ..request }
}

fn ack(resource_type: ResourceType, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..request(resource_type) }
}

fn nack(resource_type: ResourceType, nonce: &str) -> DeltaDiscoveryRequest {
    let error = Status { code: 3, message: "bad".to_owned(), details: Vec::new() };
    DeltaDiscoveryRequest { error_detail: Some(error), ..ack(resource_type, nonce) }
}

fn subscription(session: &ServerSession, reference: &Reference) -> Subscription {
    session.subscriptions.get(reference).cloned().unwrap()
}

use ResourceType::{Cluster, Endpoints, Listener, Route};

#[test]
fn every_new_name_is_answered_also_one_that_does_not_exist() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    let answer = ask(&mut session, &world, subscribe(Cluster, &["cart", "nobody"]));
    assert_eq!(answer, ["Cluster +cart@1", "Cluster -nobody"]);
}

#[test]
fn what_is_held_is_sent_again_only_when_it_changed() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart", "nobody"]));
    assert!(change(&mut session, &world).is_empty());
    world.put(cluster("cart"), "2", vec![]);
    assert_eq!(change(&mut session, &world), ["Cluster +cart@2"]);
    assert!(change(&mut session, &world).is_empty());
    world.put(cluster("nobody"), "1", vec![]);
    assert_eq!(change(&mut session, &world), ["Cluster +nobody@1"]);
    world.0.remove(&cluster("cart"));
    assert_eq!(change(&mut session, &world), ["Cluster -cart"]);
}

#[test]
fn only_what_is_concerned_is_looked_at() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart", "web"]));
    let mut looked_at = Vec::new();
    let mut resolve = |_: ResourceType, name: &str| {
        looked_at.push(name.to_owned());
        None
    };
    session.changed(&mut |_, _| true, "8", &mut resolve);
    session.changed(&mut |_, name| name == "cart", "9", &mut resolve);
    assert_eq!(looked_at, ["web", "cart", "cart"]);
}

#[test]
fn a_model_that_went_there_and_back_between_two_changes_leaves_nothing_behind() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    session.changed(&mut |_, _| true, "7", &mut world.resolve());
    world.put(cluster("cart"), "2", vec![]);
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["cart"])), ["Cluster +cart@2"]);
    world.put(cluster("cart"), "1", vec![]);
    // To the caller nothing differs from the model of the last call.
    let push = session.changed(&mut |_, _| false, "8", &mut world.resolve());
    assert_eq!(push.iter().map(text).collect::<Vec<_>>(), ["Cluster +cart@1"]);
}

#[test]
fn a_name_subscribed_to_again_is_sent_again() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    for _ in 0..2 {
        assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["cart"])), ["Cluster +cart@1"]);
    }
    ask(&mut session, &world, unsubscribe(Cluster, &["cart"]));
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["cart"])), ["Cluster +cart@1"]);
}

#[test]
fn a_new_stream_goes_on_from_what_the_client_holds() {
    let check = |held: &str, name: &str, expect: &[&str]| {
        let mut session = ServerSession::new();
        let first = holding(held, subscribe(Cluster, &[name]));
        assert_eq!(ask(&mut session, &World::cart(), first), expect);
    };
    check("1", "cart", &[]);
    check("0", "cart", &["Cluster +cart@1"]);
    check("1", "nobody", &["Cluster -nobody"]);
}

#[test]
fn what_a_client_holds_from_before_it_has_taken() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, holding("1", subscribe(Cluster, &["cart"])));
    let held = subscription(&session, &cluster("cart"));
    assert_eq!((held.sent(), held.acknowledged()), (Some("1"), Some("1")));
}

#[test]
fn versions_held_count_in_the_first_request_of_a_type_only() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["web"]));
    let late = holding("1", subscribe(Cluster, &["cart"]));
    assert_eq!(ask(&mut session, &world, late), ["Cluster +cart@1"]);
    let other_type = holding("1", subscribe(Route, &["cart"]));
    assert!(ask(&mut session, &world, other_type).is_empty());
}

#[test]
fn a_refused_version_is_not_sent_again_but_the_next_one_is() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    ask(&mut session, &world, ack(Cluster, "1"));
    world.put(cluster("cart"), "2", vec![]);
    change(&mut session, &world);
    let outcome = session.request(nack(Cluster, "2"), "8", &mut world.resolve()).unwrap();
    assert!(outcome.responses.is_empty());
    let refused = vec![RefusedName { name: "cart".to_owned(), reason: "bad".to_owned() }];
    assert_eq!(outcome.answer, Some(Answer::Refused { resource_type: Cluster, refused }));
    let subscribed = subscription(&session, &cluster("cart"));
    assert_eq!((subscribed.acknowledged(), subscribed.sent()), (Some("1"), Some("2")));
    assert_eq!(subscribed.refused().map(|refusal| &*refusal.version), Some("2"));
    assert!(change(&mut session, &world).is_empty());
    world.put(cluster("cart"), "3", vec![]);
    assert_eq!(change(&mut session, &world), ["Cluster +cart@3"]);
    ask(&mut session, &world, ack(Cluster, "3"));
    let subscribed = subscription(&session, &cluster("cart"));
    assert_eq!((subscribed.acknowledged(), subscribed.refused()), (Some("3"), None));
}

#[test]
fn a_sidecar_refuses_by_name_and_takes_the_rest() {
    use prost::{Message as _, Name as _};
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    world.put(cluster("web"), "1", vec![]);
    ask(&mut session, &world, subscribe(Cluster, &["cart", "web"]));
    let bad = crate::proto::RefusedResource {
        name: "web".to_owned(),
        path: "lb_policy".to_owned(),
        reason: "is 9".to_owned(),
    };
    let details = crate::proto::RefusedResources { resources: vec![bad] };
    let any =
        wire::Any { type_url: crate::proto::RefusedResources::type_url(), value: details.encode_to_vec() };
    let error = Status { code: 3, message: String::new(), details: vec![any] };
    let request = DeltaDiscoveryRequest { error_detail: Some(error), ..ack(Cluster, "1") };
    ask(&mut session, &world, request);
    assert_eq!(subscription(&session, &cluster("cart")).acknowledged(), Some("1"));
    let web = subscription(&session, &cluster("web"));
    assert_eq!(web.acknowledged(), None);
    assert_eq!(web.refused().map(|refusal| refusal.reason.as_str()), Some("lb_policy: is 9"));
}

#[test]
fn a_late_ack_is_about_its_own_response() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    world.put(cluster("cart"), "2", vec![]);
    change(&mut session, &world);
    ask(&mut session, &world, ack(Cluster, "1"));
    assert_eq!(subscription(&session, &cluster("cart")).acknowledged(), Some("1"));
    assert!(session.awaits_answer(Cluster, "cart"));
    ask(&mut session, &world, ack(Cluster, "2"));
    assert_eq!(subscription(&session, &cluster("cart")).acknowledged(), Some("2"));
    assert!(!session.awaits_answer(Cluster, "cart"));
    let again = session.request(ack(Cluster, "2"), "8", &mut world.resolve()).unwrap();
    assert_eq!(again, Outcome::default());
}

#[test]
fn who_unsubscribed_hears_no_more() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    ask(&mut session, &world, unsubscribe(Cluster, &["cart", "never"]));
    world.put(cluster("cart"), "2", vec![]);
    assert!(change(&mut session, &world).is_empty());
    ask(&mut session, &world, ack(Cluster, "1"));
}

#[test]
fn a_sidecar_gets_all_four_for_a_name_and_dependents_first() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    let all = ["Cluster +cart@1", "ClusterLoadAssignment +cart@1", "Listener +cart:80@1"];
    let answer = ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    assert_eq!(answer[..3], all);
    assert_eq!(answer[3..], ["RouteConfiguration +cart@1"]);
}

#[test]
fn others_get_what_they_asked_for() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    assert_eq!(ask(&mut session, &world, subscribe(Listener, &["cart:80"])), ["Listener +cart:80@1"]);
}

#[test]
fn confirming_what_was_included_sends_nothing_but_asking_again_does() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    assert!(ask(&mut session, &world, subscribe(Cluster, &["cart"])).is_empty());
    assert_eq!(ask(&mut session, &world, subscribe(Cluster, &["cart"])), ["Cluster +cart@1"]);
}

#[test]
fn what_was_included_is_kept_up_to_date_until_it_is_given_back() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    let endpoints = Reference::new(Endpoints, "cart");
    world.put(endpoints.clone(), "2", vec![]);
    assert_eq!(change(&mut session, &world), ["ClusterLoadAssignment +cart@2"]);
    ask(&mut session, &world, unsubscribe(Endpoints, &["cart"]));
    world.put(endpoints, "3", vec![]);
    assert!(change(&mut session, &world).is_empty());
}

#[test]
fn what_was_included_goes_with_what_led_to_it() {
    let (mut session, world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    ask(&mut session, &world, unsubscribe(Listener, &["cart:80"]));
    let left: Vec<_> = session.subscriptions().keys().map(ToString::to_string).collect();
    assert_eq!(left, ["Cluster cart", "Endpoints cart"]);
}

#[test]
fn a_route_brings_the_cluster_that_it_newly_points_to() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    world.put(Reference::new(Route, "cart"), "2", vec![cluster("cart"), cluster("canary"), cluster("gone")]);
    world.put(cluster("canary"), "1", vec![]);
    let push = change(&mut session, &world);
    assert_eq!(push, ["Cluster +canary@1", "RouteConfiguration +cart@2", "Cluster -gone"]);
}

#[test]
fn removals_come_last_and_what_points_goes_first() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, from_sidecar(subscribe(Listener, &["cart:80"])));
    ask(&mut session, &world, subscribe(ResourceType::MeshSettings, &["default"]));
    world.0.clear();
    world.put(Reference::new(ResourceType::MeshSettings, "default"), "1", vec![]);
    let expect = [
        "MeshSettings +default@1",
        "RouteConfiguration -cart",
        "Listener -cart:80",
        "ClusterLoadAssignment -cart",
        "Cluster -cart",
    ];
    assert_eq!(change(&mut session, &world), expect);
}

#[test]
fn a_wildcard_is_answered_with_nothing() {
    let world = World::cart();
    for first in [request(Cluster), subscribe(Cluster, &["*"])] {
        let mut session = ServerSession::new();
        assert_eq!(ask(&mut session, &world, first), ["Cluster"]);
        assert!(ask(&mut session, &world, ack(Cluster, "1")).is_empty());
    }
    // An ACK may be a type's first request, where the server included.
    assert!(ask(&mut ServerSession::new(), &world, ack(Cluster, "1")).is_empty());
}

#[test]
fn names_of_an_unknown_type_do_not_exist() {
    let mut session = ServerSession::new();
    let names = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/meshwork.v9.NameTable".to_owned(),
        resource_names_subscribe: vec!["default".to_owned(), "default".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(ask(&mut session, &World::cart(), names), ["NameTable -default"]);
}

#[test]
fn endpoints_that_went_as_their_cluster_changed_are_told_of_once() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    ask(&mut session, &world, subscribe(Endpoints, &["cart"]));
    world.put(cluster("cart"), "2", vec![]);
    world.0.remove(&Reference::new(Endpoints, "cart"));
    assert_eq!(change(&mut session, &world), ["Cluster +cart@2", "ClusterLoadAssignment -cart"]);
}

#[test]
fn a_client_that_is_behind_is_told_the_newest_once_it_caught_up() {
    let (mut session, mut world) = (ServerSession::new(), World::cart());
    ask(&mut session, &world, subscribe(Cluster, &["cart"]));
    for version in 2..200 {
        world.put(cluster("cart"), &version.to_string(), vec![]);
        change(&mut session, &world);
    }
    assert!(session.awaits_answer(Cluster, "cart"));
    assert_eq!(session.in_flight.len(), IN_FLIGHT_MAX);
    assert_eq!(ask(&mut session, &world, ack(Cluster, "1")), ["Cluster +cart@199"]);
    for nonce in 2..=IN_FLIGHT_MAX + 1 {
        assert!(ask(&mut session, &world, ack(Cluster, &nonce.to_string())).is_empty());
    }
    assert!(session.in_flight.is_empty());
    assert!(!session.awaits_answer(Cluster, "cart"));
}

#[test]
fn the_limits_end_the_stream() {
    let world = World::cart();
    let refuse = |session: &mut ServerSession, request| session.request(request, "7", &mut world.resolve());
    let mut session = ServerSession::new();
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    let violation = refuse(&mut session, subscribe(Cluster, &[&long]));
    assert_eq!(violation, Err(Violation::NameTooLong(NAME_BYTES_MAX + 1)));
    let names: Vec<String> = (0..=SUBSCRIPTIONS_MAX).map(|i| i.to_string()).collect();
    let many = DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(Cluster) };
    assert_eq!(refuse(&mut session, many), Err(Violation::TooManySubscriptions));
    let mut session = ServerSession::new();
    let mut violation = Ok(Outcome::default());
    for _ in 0..=UNANSWERED_MAX {
        assert!(violation.is_ok());
        violation = refuse(&mut session, subscribe(Cluster, &["cart"]));
    }
    assert_eq!(violation, Err(Violation::Unanswered));
}

#[test]
fn a_large_push_comes_in_several_responses() {
    let mut session = ServerSession::new();
    let mut resolve = |resource_type: ResourceType, name: &str| {
        let body = vec![0; RESPONSE_BYTES / 3];
        Some(EncodedResource::new(&Reference::new(resource_type, name), "1", body, Vec::new()))
    };
    let request = subscribe(Cluster, &["a", "b", "c", "d", "e"]);
    let responses = session.request(request, "7", &mut resolve).unwrap().responses;
    let counts: Vec<_> = responses.iter().map(|response| response.resources.len()).collect();
    assert_eq!(counts, [2, 2, 1]);
    assert!(responses.iter().all(|response| response.encoded_len() < RESPONSE_BYTES + 1_000));
    assert!(responses.windows(2).all(|pair| pair[0].nonce != pair[1].nonce));
}

/// Endpoints of cart at a version that is also known as what differs from `base`.
fn cart_at(version: &str, base: &str) -> EncodedResource {
    let reference = Reference::new(Endpoints, "cart");
    EncodedResource::new(&reference, version, Vec::new(), Vec::new()).with_patch(
        "cart",
        &base.into(),
        Vec::new(),
    )
}

/// `full` or `patch`, as each response tells the one resource in it.
fn forms(responses: &[DeltaResponse]) -> Vec<&'static str> {
    use prost::Message as _;
    let form = |response: &DeltaResponse| {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        let message = wire::DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
        let inner = message.resources[0].resource.as_ref().unwrap().type_url.clone();
        if inner == message.type_url { "full" } else { "patch" }
    };
    responses.iter().map(form).collect()
}

#[test]
fn only_who_has_taken_the_version_before_is_told_what_differs() {
    let mut session = ServerSession::new();
    let resolve = |version: &'static str, base: &'static str| {
        move |_: ResourceType, _: &str| Some(cart_at(version, base))
    };
    let first = session.request(subscribe(Endpoints, &["cart"]), "1", &mut resolve("1", "0")).unwrap();
    assert_eq!(forms(&first.responses), ["full"]);
    // It has not said yet that it took it.
    let second = session.changed(&mut |_, _| true, "2", &mut resolve("2", "1"));
    assert_eq!(forms(&second), ["full"]);
    for response in first.responses.iter().chain(&second) {
        assert!(ask(&mut session, &World::default(), ack(Endpoints, &response.nonce)).is_empty());
    }
    let third = session.changed(&mut |_, _| true, "3", &mut resolve("3", "2"));
    assert_eq!(forms(&third), ["patch"]);
    ask(&mut session, &World::default(), ack(Endpoints, &third[0].nonce));
    // What differs from a version that was never sent here is no use.
    let fifth = session.changed(&mut |_, _| true, "5", &mut resolve("5", "4"));
    assert_eq!(forms(&fifth), ["full"]);
}

#[test]
fn who_refuses_a_patch_is_told_all_and_who_refuses_all_is_left_alone() {
    let mut session = ServerSession::new();
    let resolve = |version: &'static str, base: &'static str| {
        move |_: ResourceType, _: &str| Some(cart_at(version, base))
    };
    let held = holding("1", subscribe(Endpoints, &["cart"]));
    assert!(session.request(held, "1", &mut resolve("1", "0")).unwrap().responses.is_empty());
    let told = session.changed(&mut |_, _| true, "2", &mut resolve("2", "1"));
    assert_eq!(forms(&told), ["patch"], "what it held from an earlier stream it took then");
    let again =
        session.request(nack(Endpoints, &told[0].nonce), "2", &mut resolve("2", "1")).unwrap().responses;
    assert_eq!(forms(&again), ["full"]);
    let then =
        session.request(nack(Endpoints, &again[0].nonce), "2", &mut resolve("2", "1")).unwrap().responses;
    assert!(then.is_empty());
}
