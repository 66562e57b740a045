//! One row for each thing that may happen to a sidecar's session. Values are real resources of a small shop.

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::{AccessLog, Balance, Key, MtlsMode};
use meshwork_core::name::PortName;
use meshwork_core::resource::{
    Cluster, Endpoints, Inbound, Listener, MeshSettings, Route, Rule, TrustBundle, WeightedBackend,
};

use super::*;
use crate::convert::to_wire;
use crate::wire::Any;

const SIDECAR: Audience = Audience::Sidecar(Features::ALL);

fn session() -> ClientSession {
    ClientSession::new(Sidecar {
        workload: "default/web-1".to_owned(),
        trust_domain: "mesh.local".to_owned(),
        version: "0.1.0".to_owned(),
        features: vec!["meshwork.http2".to_owned()],
        mesh_id: None,
    })
}

fn port(service: &str) -> PortName {
    PortName::new(Key::new("default", service), 80)
}

fn settings(mesh_id: &str) -> Resource {
    Resource::MeshSettings(MeshSettings {
        mesh_id: mesh_id.to_owned(),
        trust_domain: "mesh.local".to_owned(),
        access_log: AccessLog::Off,
        issuing_root: String::new(),
        ranges: Vec::new(),
        virtual_ranges: Vec::new(),
        unknown: Default::default(),
    })
}

fn listener(name: &str, target: &str) -> Resource {
    Resource::Listener(Listener { name: name.to_owned(), target: port(target), hint: None, address: None })
}

fn route(name: &str, backends: &[&str]) -> Resource {
    let backends = backends.iter().map(|name| WeightedBackend { cluster: port(name), weight: 1 });
    let rule = Rule {
        name: "default".to_owned(),
        matches: vec![meshwork_core::model::RouteMatch::default()],
        request_headers: Default::default(),
        response_headers: Default::default(),
        backends: backends.collect(),
        timeouts: Default::default(),
        retry: None,
    };
    Resource::Route(Route { name: port(name), rules: vec![rule] })
}

fn cluster(name: &str) -> Resource {
    Resource::Cluster(Cluster {
        name: port(name),
        balance: Balance::RoundRobin,
        identities: BTreeSet::new(),
        traffic: Default::default(),
        hint: None,
    })
}

fn endpoints(name: &str) -> Resource {
    Resource::Endpoints(Endpoints { name: port(name), endpoints: Vec::new() })
}

/// Listener `cart:80` and all that it leads to, in the order of a push.
fn cart() -> [Resource; 4] {
    [cluster("cart"), endpoints("cart"), listener("cart:80", "cart"), route("cart", &["cart"])]
}

fn message(resource: &Resource, version: &str) -> DeltaDiscoveryResponse {
    let reference = convert::reference(resource);
    let type_url = wire::type_url(reference.resource_type);
    let any = Any { type_url: type_url.clone(), value: to_wire(resource, SIDECAR) };
    DeltaDiscoveryResponse {
        type_url,
        nonce: format!("{}-{version}", reference.name),
        resources: vec![wire::Resource {
            name: reference.name,
            version: version.to_owned(),
            resource: Some(any),
            ..wire::Resource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    }
}

fn removal(resource: &Resource) -> DeltaDiscoveryResponse {
    let mut response = message(resource, "0");
    response.removed_resources = response.resources.drain(..).map(|resource| resource.name).collect();
    response
}

/// Adds a field that no version knows.
fn spoil(response: &mut DeltaDiscoveryResponse) {
    let any = response.resources[0].resource.as_mut().unwrap();
    any.value.extend([0xf8, 0x3f, 1]);
}

fn join(response: &mut DeltaDiscoveryResponse, mut other: DeltaDiscoveryResponse) {
    response.resources.append(&mut other.resources);
}

/// A connected session that has met its mesh.
fn met() -> ClientSession {
    let mut session = session();
    session.connected();
    session.response(message(&settings("m"), "1")).unwrap();
    session
}

fn take_all(session: &mut ClientSession, resources: &[Resource]) -> Vec<Reaction> {
    resources.iter().map(|resource| session.response(message(resource, "1")).unwrap()).collect()
}

fn applied(reaction: &Reaction) -> Vec<String> {
    reaction.applied.iter().map(|versioned| convert::reference(&versioned.resource).to_string()).collect()
}

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(ToString::to_string).collect()
}

/// A request as text: `Cluster n=NONCE! +subscribed -unsubscribed held@version`; `!`: a NACK.
fn text(request: &DeltaDiscoveryRequest) -> String {
    let mut text = request.type_url.rsplit('.').next().unwrap_or_default().to_owned();
    if !request.response_nonce.is_empty() {
        text += &format!(" n={}", request.response_nonce);
    }
    if request.error_detail.is_some() {
        text += "!";
    }
    for name in &request.resource_names_subscribe {
        text += &format!(" +{name}");
    }
    for name in &request.resource_names_unsubscribe {
        text += &format!(" -{name}");
    }
    let held: BTreeMap<_, _> = request.initial_resource_versions.iter().collect();
    for (name, version) in held {
        text += &format!(" {name}@{version}");
    }
    text
}

fn texts(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    requests.iter().map(text).collect()
}

#[test]
fn the_first_requests_are_for_the_sidecars_own_and_settings_come_first() {
    let mut session = session();
    session.want("cart:80").unwrap();
    let requests = session.connected();
    let expect =
        ["MeshSettings +default", "Secret +mesh.local", "Inbound +default/web-1", "Listener +cart:80"];
    assert_eq!(texts(&requests), expect);
    let node = requests[0].node.as_ref().unwrap();
    assert_eq!(node.id, "default/web-1");
    assert_eq!(node.client_features, ["meshwork.http2", super::super::DEPENDENTS]);
    assert!(requests[1..].iter().all(|request| request.node.is_none()));
}

#[test]
fn what_is_included_is_taken_once_something_points_to_it() {
    let mut session = met();
    assert_eq!(texts(&session.want("cart:80").unwrap().requests), ["Listener +cart:80"]);
    let reactions = take_all(&mut session, &cart());
    let taken: Vec<_> = reactions.iter().map(applied).collect();
    assert_eq!(taken[..2], [[""; 0], []]);
    assert_eq!(taken[2], ["Listener cart:80"]);
    assert_eq!(taken[3], ["Cluster default/cart:80", "Endpoints default/cart:80", "Route default/cart:80"]);
    // The route is confirmed as soon as the listener points to it, the others with the route.
    let asked: Vec<_> = reactions.iter().map(|reaction| texts(&reaction.requests)).collect();
    assert_eq!(asked[0], ["Cluster n=default/cart:80-1"]);
    assert_eq!(asked[1], ["ClusterLoadAssignment n=default/cart:80-1"]);
    assert_eq!(asked[2], ["RouteConfiguration +default/cart:80", "Listener n=cart:80-1"]);
    assert_eq!(
        asked[3],
        [
            "ClusterLoadAssignment +default/cart:80 default/cart:80@1",
            "Cluster +default/cart:80 default/cart:80@1",
            "RouteConfiguration n=default/cart:80-1",
        ]
    );
}

#[test]
fn a_server_that_includes_nothing_is_asked_step_by_step() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let mut order = cart();
    order.reverse();
    order.swap(0, 1); // listener, route, endpoints, cluster
    order.swap(2, 3);
    let reactions = take_all(&mut session, &order);
    assert!(reactions.iter().all(|reaction| reaction.applied.len() == 1));
    let asked: Vec<_> = reactions.iter().map(|reaction| texts(&reaction.requests)).collect();
    assert_eq!(asked[0][0], "RouteConfiguration +default/cart:80");
    assert_eq!(asked[1][0], "Cluster +default/cart:80");
    assert_eq!(asked[2][0], "ClusterLoadAssignment +default/cart:80");
    assert_eq!(asked[3], ["ClusterLoadAssignment n=default/cart:80-1"]);
}

#[test]
fn a_lost_stream_goes_on_from_what_is_held() {
    let mut session = met();
    session.want("cart:80").unwrap();
    take_all(&mut session, &cart());
    session.disconnected();
    session.want("web:80").unwrap();
    let expect = [
        "MeshSettings +default",
        "Secret +mesh.local",
        "Inbound +default/web-1",
        "ClusterLoadAssignment +default/cart:80 default/cart:80@1",
        "Cluster +default/cart:80 default/cart:80@1",
        "RouteConfiguration +default/cart:80 default/cart:80@1",
        "Listener +cart:80 +web:80 cart:80@1",
    ];
    assert_eq!(texts(&session.connected()), expect);
}

#[test]
fn a_restarted_sidecar_goes_on_from_its_disk() {
    let mut held: Vec<_> =
        cart().map(|resource| Versioned { version: "1".to_owned(), resource }).into_iter().collect();
    held.push(Versioned { version: "1".to_owned(), resource: cluster("unneeded") });
    let mut session = session();
    assert_eq!(names(&session.restore(&held)), ["Cluster default/unneeded:80"]);
    assert_eq!(session.wanted().collect::<Vec<_>>(), ["cart:80"]);
    let requests = texts(&session.connected());
    assert_eq!(requests.last().unwrap(), "Listener +cart:80 cart:80@1");
}

#[test]
fn an_absent_listener_is_told_and_stays_wanted() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let reaction = session.response(removal(&cart()[2])).unwrap();
    assert_eq!(reaction.absent, [Reference::new(ResourceType::Listener, "cart:80")]);
    assert!(reaction.removed.is_empty());
    let reaction = session.response(message(&cart()[2], "1")).unwrap();
    assert_eq!(applied(&reaction), ["Listener cart:80"]);
}

#[test]
fn a_removed_listener_takes_all_along_that_nothing_else_needs() {
    let mut session = met();
    for name in ["cart:80", "cart.default:80", "web:80"] {
        session.want(name).unwrap();
    }
    take_all(&mut session, &cart());
    let alias = [listener("cart.default:80", "cart"), listener("web:80", "web")];
    take_all(&mut session, &alias);
    take_all(&mut session, &[route("web", &["cart"])]);
    let reaction = session.response(removal(&alias[1])).unwrap();
    assert_eq!(reaction.absent, [Reference::new(ResourceType::Listener, "web:80")]);
    assert_eq!(names(&reaction.removed), ["Listener web:80", "Route default/web:80"]);
    let expect = ["RouteConfiguration -default/web:80", "Listener n=web:80-0"];
    assert_eq!(texts(&reaction.requests), expect);
}

#[test]
fn a_dropped_listener_is_given_back() {
    let mut session = met();
    session.want("cart:80").unwrap();
    take_all(&mut session, &cart());
    let reaction = session.drop("cart:80");
    let all =
        ["Cluster default/cart:80", "Endpoints default/cart:80", "Listener cart:80", "Route default/cart:80"];
    assert_eq!(names(&reaction.removed), all);
    let expect = [
        "ClusterLoadAssignment -default/cart:80",
        "Cluster -default/cart:80",
        "RouteConfiguration -default/cart:80",
        "Listener -cart:80",
    ];
    assert_eq!(texts(&reaction.requests), expect);
    assert_eq!(session.held().count(), 1, "only the settings are left");
}

#[test]
fn a_route_that_points_elsewhere_takes_the_new_and_gives_back_the_old() {
    let mut session = met();
    session.want("cart:80").unwrap();
    take_all(&mut session, &cart());
    // The server includes the new cluster before the route.
    assert!(take_all(&mut session, &[cluster("new"), endpoints("new")]).iter().all(|r| r.applied.is_empty()));
    let reaction = session.response(message(&route("cart", &["new"]), "2")).unwrap();
    let expect = ["Cluster default/new:80", "Endpoints default/new:80", "Route default/cart:80"];
    assert_eq!(applied(&reaction), expect);
    assert_eq!(names(&reaction.removed), ["Cluster default/cart:80", "Endpoints default/cart:80"]);
}

#[test]
fn what_nothing_points_to_is_given_back() {
    let mut session = met();
    session.want("cart:80").unwrap();
    take_all(&mut session, &cart());
    take_all(&mut session, &[cluster("stray")]);
    let reaction = session.response(message(&route("cart", &["cart"]), "2")).unwrap();
    let expect = ["Cluster -default/stray:80", "RouteConfiguration n=default/cart:80-2"];
    assert_eq!(texts(&reaction.requests), expect);
    // And if the route that points to it is refused.
    take_all(&mut session, &[cluster("stray")]);
    let mut bad = message(&route("cart", &["stray"]), "3");
    spoil(&mut bad);
    let reaction = session.response(bad).unwrap();
    let expect = ["Cluster -default/stray:80", "RouteConfiguration n=default/cart:80-3!"];
    assert_eq!(texts(&reaction.requests), expect);
}

#[test]
fn what_does_not_exist_and_is_not_needed_is_given_back_at_once() {
    let mut session = met();
    let reaction = session.response(removal(&cluster("stray"))).unwrap();
    assert_eq!(texts(&reaction.requests), ["Cluster n=default/stray:80-0 -default/stray:80"]);
}

#[test]
fn a_bad_resource_spoils_only_itself_and_keeps_its_previous_version() {
    let mut session = met();
    session.want("cart:80").unwrap();
    take_all(&mut session, &[listener("cart:80", "cart"), route("cart", &["a", "b", "c"])]);
    take_all(&mut session, &[cluster("a"), cluster("b"), cluster("c")]);
    for bad in ["a", "b", "c"] {
        let mut response = DeltaDiscoveryResponse {
            type_url: wire::type_url(ResourceType::Cluster),
            nonce: "9".to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        for name in ["a", "b", "c"] {
            let mut part = message(&cluster(name), &format!("2{bad}"));
            if name == bad {
                spoil(&mut part);
            }
            join(&mut response, part);
        }
        let previous: BTreeMap<_, _> = held(&session);
        let reaction = session.response(response).unwrap();
        let [refused] = &reaction.refused[..] else { panic!("{:?}", reaction.refused) };
        assert_eq!(refused.reference.name, format!("default/{bad}:80"));
        assert_eq!(reaction.applied.len(), 2);
        assert_eq!(held(&session)[&refused.reference], previous[&refused.reference]);
        let [nack] = &reaction.requests[..] else { panic!("{:?}", reaction.requests) };
        assert_eq!(text(nack), "Cluster n=9!");
        let told = &nack.error_detail.as_ref().unwrap().message;
        let expect = "holds a field that this version of meshwork does not know";
        assert_eq!(told, &format!("Cluster default/{bad}:80: {expect}"));
    }
}

fn held(session: &ClientSession) -> BTreeMap<Reference, String> {
    session.held().map(|(reference, version)| (reference.clone(), version.to_owned())).collect()
}

#[test]
fn a_resource_of_another_type_than_its_response_is_refused() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let mut response = message(&cart()[2], "1");
    response.resources[0].resource = message(&cart()[3], "1").resources.remove(0).resource;
    assert_eq!(session.response(response).unwrap().refused.len(), 1);
}

#[test]
fn another_meshs_config_is_never_taken() {
    let mut session = met();
    session.disconnected();
    session.connected();
    let fault = session.response(message(&settings("other"), "1")).unwrap_err();
    let (known, met) = ("m".to_owned(), "other".to_owned());
    assert_eq!(fault, StreamFault::ForeignMesh { known, met });
    assert_eq!(session.mesh_id(), Some("m"));
}

#[test]
fn nothing_is_taken_before_the_mesh_is_known() {
    let mut session = met();
    session.disconnected();
    assert_eq!(session.response(message(&cart()[2], "1")), Err(StreamFault::NotConnected));
    session.connected();
    let fault = session.response(message(&cart()[2], "1")).unwrap_err();
    assert_eq!(fault, StreamFault::Unverified(wire::type_url(ResourceType::Listener)));
}

#[test]
fn settings_that_are_refused_still_tell_the_mesh() {
    let mut session = met();
    session.disconnected();
    session.want("cart:80").unwrap();
    session.connected();
    let mut newer = message(&settings("m"), "2");
    spoil(&mut newer);
    assert_eq!(session.response(newer).unwrap().refused.len(), 1);
    assert_eq!(applied(&session.response(message(&cart()[2], "1")).unwrap()), ["Listener cart:80"]);
}

#[test]
fn a_large_response_is_judged_in_steps() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let mut response = message(&cart()[2], "1");
    response.resources = vec![response.resources.remove(0); 7];
    let mut steps = 0;
    session.response_in_steps(response, || steps += 1).unwrap();
    assert_eq!(steps, 7);
}

#[test]
fn a_sidecar_keeps_its_roots_and_ports_when_they_are_removed() {
    let mut session = met();
    let inbound = Resource::Inbound(Inbound {
        name: "default/web-1".to_owned(),
        ports: Vec::new(),
        mtls: MtlsMode::Strict,
    });
    let roots =
        Resource::TrustBundle(TrustBundle { trust_domain: "mesh.local".to_owned(), roots: vec![vec![1]] });
    take_all(&mut session, &[inbound.clone(), roots.clone()]);
    for own in [inbound, roots] {
        assert!(session.response(removal(&own)).unwrap().removed.is_empty());
    }
    assert_eq!(session.held().count(), 3);
}

#[test]
fn wants_have_limits() {
    let mut session = session();
    assert_eq!(session.want(&"a".repeat(NAME_BYTES_MAX + 1)), Err(Unwantable::NameTooLong));
    for port in 0..LISTENERS_MAX {
        session.wanted.insert(format!("cart:{port}"));
    }
    assert_eq!(session.want("web:80"), Err(Unwantable::TooMany));
    assert!(session.want("cart:80").is_ok());
}

fn cart_at(addresses: &[u8]) -> Endpoints {
    let endpoint = |last: &u8| meshwork_core::resource::Endpoint {
        address: ([10, 0, 0, *last], 15_008).into(),
        app_port: 8_080,
        transports: vec![meshwork_core::model::Transport::MtlsHttp1],
        health: meshwork_core::model::Health::Healthy,
        weight: 1,
        locality: Default::default(),
        workload: format!("cart-{last}"),
    };
    Endpoints { name: port("cart"), endpoints: addresses.iter().map(endpoint).collect() }
}

/// What leads from one to the other, as the server sends it.
fn patch(old: &Endpoints, base: &str, new: &Endpoints, version: &str) -> DeltaDiscoveryResponse {
    let value = convert::patch(old, base, new, SIDECAR).unwrap();
    let mut response = message(&Resource::Endpoints(new.clone()), version);
    response.resources[0].resource = Some(Any { type_url: convert::patch_type_url(), value });
    response
}

#[test]
fn a_patch_is_applied_to_what_is_held_and_refused_where_it_does_not_fit() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let [three, four] = [cart_at(&[1, 2, 3]), cart_at(&[1, 2, 3, 4])];
    let [cluster, _, listener, route] = cart();
    take_all(&mut session, &[cluster, Resource::Endpoints(three.clone()), listener, route]);
    let reaction = session.response(patch(&three, "1", &four, "2")).unwrap();
    assert_eq!(reaction.applied[0].resource, Resource::Endpoints(four.clone()));
    assert_eq!(texts(&reaction.requests), ["ClusterLoadAssignment n=default/cart:80-2"]);

    let reaction = session.response(patch(&three, "1", &four, "3")).unwrap();
    assert_eq!(texts(&reaction.requests), ["ClusterLoadAssignment n=default/cart:80-3!"]);
    assert!(reaction.applied.is_empty() && reaction.refused[0].refused.path == "base_version");
    let reaction = session.response(message(&Resource::Endpoints(three.clone()), "3")).unwrap();
    assert_eq!(reaction.applied[0].resource, Resource::Endpoints(three));
}

#[test]
fn a_patch_to_what_was_given_back_is_given_back_too() {
    let mut session = met();
    session.want("cart:80").unwrap();
    let [three, four] = [cart_at(&[1, 2, 3]), cart_at(&[1, 2, 3, 4])];
    let [cluster, _, listener, route] = cart();
    take_all(&mut session, &[cluster, Resource::Endpoints(three.clone()), listener, route]);
    session.drop("cart:80");
    let reaction = session.response(patch(&three, "1", &four, "2")).unwrap();
    assert!(reaction.applied.is_empty() && reaction.refused.is_empty());
    assert_eq!(texts(&reaction.requests), ["ClusterLoadAssignment n=default/cart:80-2 -default/cart:80"]);
}
