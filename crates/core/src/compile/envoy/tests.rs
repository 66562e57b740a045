//! What an Envoy is told of a service, and what it is refused.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::compile::{Audience, compile};
use crate::fixture::{self, service};
use crate::model::{BackendRef, HashKey, HashTable, Key, TrafficPolicy, Workload};
use crate::policy::Timeouts;

fn mesh() -> Mesh {
    let mut mesh = Mesh::new("mesh-1", "mesh.local");
    mesh.put_service(service("default", "cart"));
    mesh.put_workload(workload(1, &[Transport::MtlsHttp2, Transport::MtlsHttp1]));
    mesh
}

fn workload(number: u8, transports: &[Transport]) -> Workload {
    let mut workload = fixture::workload("default", "cart", number);
    workload.ports[0].transports = transports.to_vec();
    workload
}

fn told(mesh: &Mesh, resource_type: ResourceType, name: &str) -> Option<Resource> {
    compile(mesh, resource_type, name, "default", Audience::Envoy).unwrap()
}

#[track_caller]
fn check_refused(mesh: &Mesh, resource_type: ResourceType, name: &str, expect: &[&str]) {
    let refused = compile(mesh, resource_type, name, "default", Audience::Envoy).err().unwrap_or_default();
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let expect = expect.iter().map(|what| format!("{name}: Envoy without a sidecar can't honour {what}"));
    assert_eq!(refused, expect.collect::<Vec<_>>());
}

fn policy(mesh: &mut Mesh, balance: Option<Balance>, change: impl FnOnce(&mut Traffic)) {
    let mut policy: TrafficPolicy = fixture::policy("default", "own", "cart");
    (policy.traffic, policy.balance) = (Traffic::default(), balance);
    change(&mut policy.traffic);
    mesh.put_policy(policy);
}

fn rule(mesh: &Mesh) -> Rule {
    match told(mesh, ResourceType::Route, "default/cart:80") {
        Some(Resource::Route(mut route)) => route.rules.remove(0),
        other => panic!("{other:?}"),
    }
}

fn seen(mesh: &Mesh) -> (Cluster, Vec<Endpoints>) {
    let Some(Resource::Cluster(cluster)) = told(mesh, ResourceType::Cluster, "default/cart:80") else {
        panic!("no cluster")
    };
    match told(mesh, ResourceType::Endpoints, "default/cart:80") {
        Some(Resource::Endpoints(endpoints)) => (cluster, vec![endpoints]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_is_named_by_the_service_and_where_to_listen() {
    let Some(Resource::Listener(found)) = told(&mesh(), ResourceType::Listener, "cart:80=127.0.0.1:9000")
    else {
        panic!("no listener")
    };
    assert_eq!(found.name, "cart:80=127.0.0.1:9000");
    assert_eq!(found.address, Some(([127, 0, 0, 1], 9_000).into()));
    assert_eq!(found.target.to_string(), "default/cart:80");
    for name in
        ["cart:80", "cart:80=9000", "pay:80=127.0.0.1:9000", "cart:8=127.0.0.1:9000", "=127.0.0.1:9000"]
    {
        assert_eq!(told(&mesh(), ResourceType::Listener, name), None, "{name}");
    }
}

#[test]
fn a_rule_says_itself_what_a_sidecar_would_look_up() {
    let mut mesh = mesh();
    let safe = rule(&mesh).retry.unwrap();
    assert_eq!((safe.attempts, safe.codes.len()), (Some(2), 0), "what reached nobody is tried again");
    policy(&mut mesh, None, |traffic| {
        traffic.timeouts.request = Some(Duration::from_secs(3));
        traffic.timeouts.backend_request = Some(Duration::from_secs(1));
        traffic.retry.attempts = 0;
    });
    let told = rule(&mesh);
    let expect =
        Timeouts { request: Some(Duration::from_secs(3)), backend_request: Some(Duration::from_secs(1)) };
    assert_eq!(told.timeouts, expect);
    assert_eq!(told.retry, None);
    let mut route = fixture::route("default", "split", "default", "cart");
    route.rules[0].backends = vec![BackendRef { service: Key::new("default", "cart"), port: 80, weight: 0 }];
    route.rules.truncate(1);
    mesh.put_route(route);
    assert_eq!(rule(&mesh).backends, [], "it would refuse weights that add up to nothing");
}

#[test]
fn whoever_is_not_well_is_left_out_while_somebody_is() {
    let mut mesh = mesh();
    let sick = |number| Workload { health: Health::Unhealthy, ..workload(number, &[Transport::MtlsHttp2]) };
    mesh.put_workload(sick(2));
    mesh.put_workload(sick(3));
    let count = |mesh: &Mesh| seen(mesh).1[0].endpoints.len();
    assert_eq!(count(&mesh), 1);
    mesh.put_workload(sick(1));
    assert_eq!(count(&mesh), 3);
}

#[test]
fn one_workload_with_a_sidecar_makes_it_mutual_tls_for_all() {
    let mut mesh = mesh();
    mesh.put_workload(workload(2, &[Transport::Plaintext]));
    mesh.put_workload(workload(3, &[Transport::MtlsHttp1]));
    let (cluster, endpoints) = seen(&mesh);
    let spoken: Vec<_> = endpoints[0].endpoints.iter().map(|endpoint| endpoint.transports.clone()).collect();
    assert_eq!(spoken, [vec![Transport::MtlsHttp2, Transport::MtlsHttp1], vec![Transport::MtlsHttp1]]);
    assert_eq!((cluster.identities.len(), cluster.hint), (1, None));
    mesh.remove_workload(&Key::new("default", "cart-1"));
    mesh.remove_workload(&Key::new("default", "cart-3"));
    let mut grpc = service("default", "cart");
    grpc.ports[0].app_protocol = Some(AppProtocol::Grpc);
    mesh.put_service(grpc);
    let (cluster, endpoints) = seen(&mesh);
    assert_eq!((cluster.identities.len(), cluster.hint), (0, Some(AppProtocol::Grpc)));
    assert_eq!(endpoints[0].endpoints[0].transports, [Transport::Plaintext]);
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    const CLUSTER: &str = "default/cart:80";
    let mut mesh = mesh();
    check_refused(&mesh, ResourceType::Cluster, CLUSTER, &[]);
    policy(&mut mesh, Some(Balance::Random), |traffic| {
        traffic.limits.endpoint_requests = NonZeroU32::new(5);
        traffic.limits.endpoint_connections = NonZeroU32::new(5);
        traffic.retry.budget.min_per_second = 1;
        traffic.slow_start = Some(Duration::from_secs(1));
        traffic.distribution = Distribution::PreferSameZone;
        traffic.outlier.consecutive_5xx = 3;
    });
    let expect = [
        "a limit of requests to one endpoint",
        "a retry budget's least number of tries a second (minRetryRate)",
        "a slow start with balance at random or by hash",
        "a preference for endpoints that are near",
    ];
    check_refused(&mesh, ResourceType::Cluster, CLUSTER, &expect);
    let slow = |traffic: &mut Traffic| traffic.slow_start = Some(Duration::from_secs(1));
    policy(&mut mesh, Some(Balance::LeastRequest), slow);
    check_refused(&mesh, ResourceType::Cluster, CLUSTER, &[]);
    let hash = Balance::Hash { table: HashTable::Maglev { size: 5 }, key: HashKey::Source };
    policy(&mut mesh, Some(hash), slow);
    check_refused(&mesh, ResourceType::Cluster, CLUSTER, &expect[2..3]);
    let mut opaque = service("default", "cart");
    opaque.ports[0].app_protocol = Some(AppProtocol::Tcp);
    mesh.put_service(opaque);
    check_refused(&mesh, ResourceType::Listener, "cart:80=127.0.0.1:1", &["appProtocol: tcp"]);
}
