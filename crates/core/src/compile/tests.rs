//! One name, one resource: what each type of resource is made of.

use super::*;
use crate::fixture::{self, route, rule, service, workload};
use crate::model::{
    AppProtocol, BackendRef, Balance, HashKey, HashTable, Health, HttpRoute, MeshConfig, ParentRef,
    PathMatch, RouteMatch, Unknown,
};
use crate::policy::{Distribution, RuleRetry, Timeouts, Traffic};
use crate::resource::{Route, Rule};
use std::time::Duration;

mod addresses;
mod precedence;

/// `cart` in `default` and in `shop`, with a workload each.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new("mesh-1", "mesh.local");
    for (namespace, number) in [("default", 1), ("shop", 2)] {
        mesh.put_service(service(namespace, "cart"));
        mesh.put_workload(workload(namespace, "cart", number));
    }
    mesh
}

fn compiled(mesh: &Mesh, resource_type: ResourceType, name: &str) -> Option<Resource> {
    fixture::compile(mesh, resource_type, name, "default")
}

#[track_caller]
fn check_listener(mesh: &Mesh, name: &str, asker: &str, expect: Option<&str>) {
    let target = match fixture::compile(mesh, ResourceType::Listener, name, asker) {
        Some(Resource::Listener(listener)) => {
            assert_eq!(listener.name, name);
            Some(listener.target.to_string())
        }
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(target.as_deref(), expect, "{name} for {asker}");
}

#[test]
fn a_listeners_name_is_what_the_application_wrote() {
    for name in [
        "cart:80",
        "cart",
        "cart.default:80",
        "cart.default.mesh:80",
        "cart.default.svc:80",
        "cart.default.svc.cluster.local:80",
    ] {
        check_listener(&mesh(), name, "default", Some("default/cart:80"));
    }
    for name in
        ["cart:81", "Cart:80", "cart.:80", "cart:080", "web:80", "10.0.0.9:80", "a b", "", "cart.a.b.mesh"]
    {
        check_listener(&mesh(), name, "default", None);
    }
}

#[test]
fn two_namespaces_each_see_their_own_cart() {
    check_listener(&mesh(), "cart:80", "default", Some("default/cart:80"));
    check_listener(&mesh(), "cart:80", "shop", Some("shop/cart:80"));
    check_listener(&mesh(), "cart.default:80", "shop", Some("default/cart:80"));
}

#[test]
fn the_ports_hint_is_told() {
    let mut mesh = mesh();
    let mut hinted = service("default", "cart");
    hinted.ports[0].app_protocol = Some(AppProtocol::Tcp);
    mesh.put_service(hinted);
    let Some(Resource::Listener(listener)) = compiled(&mesh, ResourceType::Listener, "cart:80") else {
        panic!("no listener");
    };
    assert_eq!(listener.hint, Some(AppProtocol::Tcp));
}

#[track_caller]
fn rules(mesh: &Mesh, name: &str) -> Option<Vec<Rule>> {
    match compiled(mesh, ResourceType::Route, name) {
        Some(Resource::Route(Route { rules, name: compiled })) => {
            assert_eq!(compiled.to_string(), name);
            Some(rules)
        }
        None => None,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_rules(mesh: &Mesh, name: &str, expect: &[&str]) {
    let rules = rules(mesh, name).unwrap();
    let names: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, expect, "{name}");
}

#[test]
fn a_service_without_routes_goes_to_itself() {
    let rules = rules(&mesh(), "default/cart:80").unwrap();
    assert_eq!(rules[0].name, "default");
    assert_eq!(rules[0].matches, [RouteMatch::default()]);
    assert_eq!(rules[0].backends[0].cluster.to_string(), "default/cart:80");
    assert_eq!(self::rules(&mesh(), "default/cart:81"), None);
    assert_eq!(self::rules(&mesh(), "default/web:80"), None);
}

#[test]
fn a_consumer_route_is_seen_by_its_own_namespace_only() {
    let mut mesh = mesh();
    mesh.put_route(route("default", "producer", "default", "cart"));
    mesh.put_route(route("shop", "consumer", "default", "cart"));
    check_listener(&mesh, "cart.default:80", "shop", Some("default/cart:80?from=shop"));
    check_listener(&mesh, "cart.default:80", "default", Some("default/cart:80"));
    check_listener(&mesh, "cart.default:80", "other", Some("default/cart:80"));
    check_rules(&mesh, "default/cart:80?from=shop", &["shop/consumer#0"]);
    check_rules(&mesh, "default/cart:80", &["default/producer#0"]);
    assert_eq!(rules(&mesh, "default/cart:80?from=other"), None);
    assert_eq!(rules(&mesh, "default/cart:80?from=default"), None);

    mesh.remove_route(&Key::new("shop", "consumer"));
    check_listener(&mesh, "cart.default:80", "shop", Some("default/cart:80"));
}

#[test]
fn a_route_for_one_port_leaves_the_others_alone() {
    let mut mesh = mesh();
    let mut two_ports = service("default", "cart");
    two_ports.ports.push(ServicePort { port: 81, ..two_ports.ports[0].clone() });
    mesh.put_service(two_ports);
    let mut split = route("default", "split", "default", "cart");
    split.parents = vec![ParentRef { service: Key::new("default", "cart"), port: Some(81) }];
    mesh.put_route(split);
    check_rules(&mesh, "default/cart:80", &["default"]);
    check_rules(&mesh, "default/cart:81", &["default/split#0"]);
}

#[test]
fn a_route_that_leaves_a_parent_leaves_it_altogether() {
    let mut mesh = mesh();
    mesh.put_service(service("default", "web"));
    mesh.put_route(route("default", "split", "default", "cart"));
    mesh.put_route(route("default", "split", "default", "web"));
    check_rules(&mesh, "default/cart:80", &["default"]);
    check_rules(&mesh, "default/web:80", &["default/split#0"]);
}

fn matching(path: PathMatch, method: Option<&str>, headers: &[&str]) -> RouteMatch {
    let headers = headers.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
    RouteMatch { path, method: method.map(str::to_owned), headers }
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.to_owned())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.to_owned())
}

/// One rule with all of these matches, in the wrong order; what comes out is the order of precedence.
#[test]
fn precedence_is_among_matches_and_gateway_apis() {
    let in_order = [
        matching(exact("/a"), None, &[]),
        matching(prefix("/a/long"), None, &[]),
        matching(prefix("/a/b"), Some("GET"), &["x", "y"]),
        matching(prefix("/a/b/"), Some("GET"), &["x"]),
        matching(prefix("/a/b"), None, &["x", "y"]),
        matching(prefix("/a/b"), None, &[]),
        matching(prefix("/"), Some("GET"), &[]),
        matching(prefix("/"), None, &[]),
    ];
    let mut mesh = mesh();
    let mut split = route("default", "split", "default", "cart");
    split.rules = vec![rule(in_order.iter().rev().cloned().collect(), Vec::new())];
    mesh.put_route(split);
    let compiled: Vec<_> =
        rules(&mesh, "default/cart:80").unwrap().into_iter().flat_map(|rule| rule.matches).collect();
    assert_eq!(compiled, in_order);
}

#[test]
fn matches_of_a_rule_that_stand_side_by_side_are_one_rule() {
    let mut mesh = mesh();
    let mut two = route("default", "two", "default", "cart");
    let get = matching(prefix("/a"), Some("GET"), &[]);
    let (outer, inner) = (matching(prefix("/"), None, &[]), matching(prefix("/a/b"), None, &[]));
    two.rules = vec![rule(vec![outer, inner], Vec::new()), rule(vec![get.clone(), get], Vec::new())];
    mesh.put_route(two);
    check_rules(&mesh, "default/cart:80", &["default/two#0", "default/two#1", "default/two#0"]);
    let lengths: Vec<_> =
        rules(&mesh, "default/cart:80").unwrap().iter().map(|rule| rule.matches.len()).collect();
    assert_eq!(lengths, [1, 2, 1]);
}

#[test]
fn of_equal_matches_the_oldest_route_wins_then_the_name_then_the_rule() {
    let mut mesh = mesh();
    for (name, created) in [("a-young", 2), ("c-old", 1), ("b-old", 1)] {
        let mut bound = HttpRoute { created, ..route("default", name, "default", "cart") };
        bound.rules.push(bound.rules[0].clone());
        mesh.put_route(bound);
    }
    check_rules(
        &mesh,
        "default/cart:80",
        &[
            "default/b-old#0",
            "default/b-old#1",
            "default/c-old#0",
            "default/c-old#1",
            "default/a-young#0",
            "default/a-young#1",
        ],
    );
}

#[test]
fn a_backend_that_does_not_exist_stays_in_the_rule() {
    // The share that would go there is answered by 500 `no_backend`, not given to the others (Gateway API).
    let mut mesh = mesh();
    let mut split = route("default", "split", "default", "cart");
    split.rules[0].backends.push(BackendRef { service: Key::new("default", "gone"), port: 80, weight: 1 });
    mesh.put_route(split);
    assert_eq!(rules(&mesh, "default/cart:80").unwrap()[0].backends.len(), 2);
    assert_eq!(compiled(&mesh, ResourceType::Cluster, "default/gone:80"), None);
}

#[test]
fn a_cluster_names_who_may_answer() {
    let Some(Resource::Cluster(cluster)) = compiled(&mesh(), ResourceType::Cluster, "shop/cart:80") else {
        panic!("no cluster");
    };
    let identities: Vec<_> = cluster.identities.iter().map(ToString::to_string).collect();
    assert_eq!(identities, ["spiffe://mesh.local/ns/shop/sa/cart"]);
    assert_eq!(compiled(&mesh(), ResourceType::Cluster, "shop/cart:80?from=default"), None);
}

#[track_caller]
fn check_endpoints(mesh: &Mesh, expect: &[&str]) {
    let Some(Resource::Endpoints(endpoints)) = compiled(mesh, ResourceType::Endpoints, "default/cart:80")
    else {
        panic!("no endpoints");
    };
    let text =
        |endpoint: &Endpoint| format!("{} {} {:?}", endpoint.workload, endpoint.address, endpoint.health);
    let endpoints: Vec<_> = endpoints.endpoints.iter().map(text).collect();
    assert_eq!(endpoints, expect);
}

#[test]
fn endpoints_are_the_selected_workloads_in_order() {
    let mut mesh = mesh();
    mesh.put_workload(Workload { health: Health::Draining, ..workload("default", "cart", 9) });
    mesh.put_workload(workload("default", "cart", 3));
    mesh.put_workload(workload("default", "web", 4));
    check_endpoints(
        &mesh,
        &["cart-1 10.0.0.1:15008 Healthy", "cart-3 10.0.0.3:15008 Healthy", "cart-9 10.0.0.9:15008 Draining"],
    );
}

#[test]
fn a_workload_with_another_account_is_no_endpoint_whatever_its_labels() {
    let mut mesh = mesh();
    let stranger = Workload { account: "web".to_owned(), ..workload("default", "cart", 2) };
    mesh.put_workload(stranger);
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15008 Healthy"]);

    let mut declared = service("default", "cart");
    declared.accounts.insert("web".to_owned());
    mesh.put_service(declared);
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15008 Healthy", "cart-2 10.0.0.2:15008 Healthy"]);
}

#[test]
fn a_plaintext_workload_has_no_account_to_prove() {
    let mut mesh = mesh();
    let mut plain = Workload { account: "other".to_owned(), ..workload("default", "cart", 2) };
    plain.ports[0].transports = vec![Transport::Plaintext];
    mesh.put_workload(plain);
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15008 Healthy", "cart-2 10.0.0.2:15008 Healthy"]);
}

#[test]
fn an_address_stands_once_with_the_healthier_workload() {
    let mut mesh = mesh();
    let same_address = |number: u8, health| {
        let ports = workload("default", "cart", 1).ports;
        Workload { ports, health, ..workload("default", "cart", number) }
    };
    mesh.put_workload(same_address(0, Health::Unhealthy));
    mesh.put_workload(same_address(2, Health::Healthy));
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15008 Healthy"]);
    mesh.remove_workload(&Key::new("default", "cart-1"));
    check_endpoints(&mesh, &["cart-2 10.0.0.1:15008 Healthy"]);
}

#[test]
fn a_workload_without_weight_or_without_the_port_is_no_endpoint() {
    let mut mesh = mesh();
    mesh.put_workload(Workload { weight: 0, ..workload("default", "cart", 1) });
    let mut other_port = workload("default", "cart", 2);
    other_port.ports[0].app_port = 9090;
    mesh.put_workload(other_port);
    check_endpoints(&mesh, &[]);
}

#[test]
fn replicas_on_one_machine_serve_a_service_port_from_ports_of_their_own() {
    let mut mesh = mesh();
    for (number, app_port) in [(1, 8080), (2, 8082)] {
        let mut registered = workload("default", "cart", number);
        registered.ports[0] =
            WorkloadPort { service_port: Some(80), app_port, ..registered.ports[0].clone() };
        mesh.put_workload(registered);
    }
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15008 Healthy", "cart-2 10.0.0.2:15008 Healthy"]);
    let Some(Resource::Inbound(inbound)) = compiled(&mesh, ResourceType::Inbound, "default/cart-2") else {
        panic!("no inbound");
    };
    assert_eq!(inbound.ports[0].app_port, 8082);
    assert_eq!(inbound.ports[0].service, Some(PortName::new(Key::new("default", "cart"), 80)));
}

#[test]
fn a_registered_port_is_no_other_services_port_by_its_number() {
    let mut mesh = mesh();
    let mut registered = workload("default", "cart", 1);
    let first = registered.ports[0].clone();
    // 80 is served by 9090; that 8080, which `targetPort` names, belongs to 81 must not matter.
    registered.ports[0] = WorkloadPort { service_port: Some(81), ..first.clone() };
    let address = ([10, 0, 0, 1], 15009).into();
    registered.ports.push(WorkloadPort { service_port: Some(80), app_port: 9090, address, ..first });
    mesh.put_workload(registered);
    check_endpoints(&mesh, &["cart-1 10.0.0.1:15009 Healthy"]);
}

#[test]
fn transports_are_those_that_the_asker_speaks() {
    let mut mesh = mesh();
    let mut newer = workload("default", "cart", 1);
    newer.ports[0].transports.insert(0, Transport::MtlsHttp2);
    mesh.put_workload(newer);
    let transports = |features| {
        let audience = Audience::Sidecar(features);
        match compile(&mesh, ResourceType::Endpoints, "default/cart:80", "default", audience) {
            Ok(Some(Resource::Endpoints(endpoints))) => endpoints.endpoints[0].transports.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(transports(Features::default()), [Transport::MtlsHttp1, Transport::MtlsTcp]);
    let newer = Features::from_names(["meshwork.http2", "meshwork.of-tomorrow"]);
    assert_eq!(transports(newer), [Transport::MtlsHttp2, Transport::MtlsHttp1, Transport::MtlsTcp]);
    assert_eq!(newer.names().collect::<Vec<_>>(), ["meshwork.http2"]);
}

fn traffic(mesh: &Mesh, name: &str, features: Features) -> Traffic {
    match compile(mesh, ResourceType::Cluster, name, "default", Audience::Sidecar(features)) {
        Ok(Some(Resource::Cluster(cluster))) => cluster.traffic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_says_what_its_services_policy_says() {
    let mut mesh = mesh();
    let cart = "default/cart:80";
    assert_eq!(traffic(&mesh, cart, Features::ALL), Traffic::default());
    let whole = fixture::policy("default", "z", "cart");
    let mut of_port = fixture::policy("default", "a", "cart");
    of_port.targets[0].section = Some("http".to_owned());
    of_port.traffic.retry.attempts = 0;
    mesh.put_policy(whole.clone());
    mesh.put_policy(of_port.clone());
    assert_eq!(traffic(&mesh, cart, Features::ALL), whole.traffic, "the port has no such name");
    assert_eq!(traffic(&mesh, "shop/cart:80", Features::ALL), Traffic::default(), "of another namespace");
    let mut named = service("default", "cart");
    named.ports[0].name = Some("http".to_owned());
    mesh.put_service(named);
    assert_eq!(traffic(&mesh, cart, Features::ALL), of_port.traffic, "the port's own goes first");
    assert_eq!(traffic(&mesh, cart, Features::HTTP2), Traffic::default(), "whoever can't is not told");
    mesh.remove_policy(&of_port.key);
    assert_eq!(traffic(&mesh, cart, Features::ALL), whole.traffic);
}

#[test]
fn a_policys_way_to_balance_goes_before_the_services_for_those_who_can() {
    let mut mesh = mesh();
    let mut named = service("default", "cart");
    named.balance = Balance::RoundRobin;
    mesh.put_service(named);
    let mut policy = fixture::policy("default", "a", "cart");
    policy.traffic.distribution = Distribution::PreferSameZone;
    mesh.put_policy(policy.clone());
    let cluster = |mesh: &Mesh, features| {
        let audience = Audience::Sidecar(features);
        match compile(mesh, ResourceType::Cluster, "default/cart:80", "default", audience) {
            Ok(Some(Resource::Cluster(cluster))) => (cluster.balance, cluster.traffic.distribution),
            other => panic!("{other:?}"),
        }
    };
    let near = Distribution::PreferSameZone;
    assert_eq!(cluster(&mesh, Features::ALL), (Balance::RoundRobin, near), "it says nothing of that");
    let table = HashTable::Maglev { size: 251 };
    let by_hash = Balance::Hash { table, key: HashKey::Source };
    policy.balance = Some(by_hash.clone());
    mesh.put_policy(policy);
    assert_eq!(cluster(&mesh, Features::ALL), (by_hash, near));
    let before = Features::HTTP2.and(Features::TRAFFIC);
    assert_eq!(cluster(&mesh, before), (Balance::RoundRobin, Distribution::Anywhere));
}

#[test]
fn a_rules_timeouts_and_retry_are_for_those_who_can() {
    let mut mesh = mesh();
    let mut patient = route("default", "patient", "default", "cart");
    let timeouts = Timeouts { request: Some(Duration::from_secs(10)), backend_request: None };
    let retry = RuleRetry { codes: [503].into(), attempts: Some(1), backoff: None };
    let rule = &mut patient.rules[0];
    (rule.timeouts, rule.retry) = (timeouts, Some(retry.clone()));
    let mut refusing = patient.clone();
    mesh.put_route(patient);
    let said = |mesh: &Mesh, features| {
        let audience = Audience::Sidecar(features);
        match compile(mesh, ResourceType::Route, "default/cart:80", "default", audience) {
            Ok(Some(Resource::Route(route))) => (route.rules[0].timeouts, route.rules[0].retry.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said(&mesh, Features::ALL), (timeouts, Some(retry)));
    let none = Timeouts { request: Some(Duration::ZERO), backend_request: None };
    assert_eq!(said(&mesh, Features::HTTP2), (none, None));
    refusing.rules[0].backends.clear();
    mesh.put_route(refusing);
    for features in [Features::ALL, Features::HTTP2] {
        assert_eq!(said(&mesh, features), (Timeouts::default(), None), "it answers by itself");
    }
}

#[test]
fn an_endpoint_of_which_the_asker_speaks_nothing_is_none_for_it() {
    let mut mesh = mesh();
    let mut newest = workload("default", "cart", 1);
    newest.ports[0].transports = vec![Transport::MtlsHttp2];
    mesh.put_workload(newest);
    let count = |features| {
        let audience = Audience::Sidecar(features);
        match compile(&mesh, ResourceType::Endpoints, "default/cart:80", "default", audience) {
            Ok(Some(Resource::Endpoints(endpoints))) => endpoints.endpoints.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((count(Features::default()), count(Features::HTTP2)), (0, 1));
}

#[test]
fn a_workloads_inbound_side_knows_its_ports_and_services() {
    let mut mesh = mesh();
    let mut hinted = service("default", "cart");
    hinted.ports[0].app_protocol = Some(AppProtocol::Http);
    mesh.put_service(hinted);
    let mut two_ports = workload("default", "cart", 1);
    two_ports.ports.insert(0, WorkloadPort { app_port: 9090, ..two_ports.ports[0].clone() });
    mesh.put_workload(two_ports);
    let Some(Resource::Inbound(inbound)) = compiled(&mesh, ResourceType::Inbound, "default/cart-1") else {
        panic!("no inbound");
    };
    let service = Some(PortName::new(Key::new("default", "cart"), 80));
    assert_eq!(
        inbound.ports,
        [
            InboundPort { app_port: 8080, hint: Some(AppProtocol::Http), service, mtls: MtlsMode::Strict },
            InboundPort { app_port: 9090, hint: None, service: None, mtls: MtlsMode::Strict },
        ]
    );
    assert_eq!(inbound.mtls, MtlsMode::Strict);
    assert_eq!(compiled(&mesh, ResourceType::Inbound, "default/cart-7"), None);
}

fn inbound_of(mesh: &Mesh, features: Features) -> (MtlsMode, Vec<MtlsMode>) {
    let audience = Audience::Sidecar(features);
    match compile(mesh, ResourceType::Inbound, "default/cart-1", "default", audience) {
        Ok(Some(Resource::Inbound(inbound))) => {
            (inbound.mtls, inbound.ports.iter().map(|port| port.mtls).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn plaintext_is_taken_where_the_service_says_so_else_where_the_mesh_does() {
    let (strict, permissive) = (MtlsMode::Strict, MtlsMode::Permissive);
    let mut mesh = mesh();
    assert_eq!(inbound_of(&mesh, Features::ALL), (strict, vec![strict]));
    mesh.set_config(MeshConfig { inbound: permissive, ..MeshConfig::default() });
    assert_eq!(inbound_of(&mesh, Features::ALL), (permissive, vec![permissive]));
    let says = |name: &str, mode| {
        let mut made = service("default", name);
        made.inbound.ports = [(80, mode)].into();
        made
    };
    mesh.put_service(says("cart", strict));
    assert_eq!(inbound_of(&mesh, Features::ALL), (permissive, vec![strict]));
    mesh.set_config(MeshConfig::default());
    mesh.put_service(says("cart", permissive));
    assert_eq!(inbound_of(&mesh, Features::ALL), (strict, vec![permissive]));
    assert_eq!(inbound_of(&mesh, Features::TRAFFIC), (strict, vec![strict]), "one from before takes none");
    // Another service of the same workload: the stricter word holds, and who may not serve says nothing.
    let mut other = says("all", strict);
    other.selector = fixture::labels(&[("app", "cart")]);
    mesh.put_service(other.clone());
    assert_eq!(inbound_of(&mesh, Features::ALL), (strict, vec![permissive]));
    other.accounts = ["cart".to_owned()].into();
    mesh.put_service(other);
    assert_eq!(inbound_of(&mesh, Features::ALL), (strict, vec![strict]));
}

#[test]
fn what_becomes_of_unknown_destinations_is_told_to_those_who_can() {
    let mut mesh = mesh();
    let unknown = UnknownDestinations { default: Unknown::Deny, ..UnknownDestinations::default() };
    mesh.set_config(MeshConfig { unknown: unknown.clone(), ..MeshConfig::default() });
    let told = |features| {
        let audience = Audience::Sidecar(features);
        match compile(&mesh, ResourceType::MeshSettings, "default", "default", audience) {
            Ok(Some(Resource::MeshSettings(settings))) => settings.unknown,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((told(Features::ALL), told(Features::TRAFFIC)), (unknown, UnknownDestinations::default()));
}

#[test]
fn settings_and_trust_bundle_have_one_name_each() {
    let mut mesh = mesh();
    mesh.set_roots(vec![vec![1], vec![2]]);
    assert!(compiled(&mesh, ResourceType::MeshSettings, "default").is_some());
    assert!(compiled(&mesh, ResourceType::MeshSettings, "other").is_none());
    let Some(Resource::TrustBundle(bundle)) = compiled(&mesh, ResourceType::TrustBundle, "mesh.local") else {
        panic!("no bundle");
    };
    assert_eq!(bundle.roots, [vec![1], vec![2]]);
    assert!(compiled(&mesh, ResourceType::TrustBundle, "other.local").is_none());
}

#[test]
fn two_ports_of_a_service_may_lead_to_one_of_the_application() {
    let mut mesh = mesh();
    let mut twice = workload("default", "cart", 1);
    twice.ports[0].service_port = Some(80);
    twice.ports.push(WorkloadPort { service_port: Some(81), ..twice.ports[0].clone() });
    mesh.put_workload(twice);
    let Some(Resource::Inbound(inbound)) = compiled(&mesh, ResourceType::Inbound, "default/cart-1") else {
        panic!("no inbound");
    };
    assert_eq!(inbound.ports.len(), 1);
}
