//! What gRPC is told of a service, and what it is refused.

use super::*;
use crate::compile::{Audience, compile};
use crate::fixture::{self, service};
use crate::model::{
    BackendRef, Health, HttpRoute, Key, PathMatch, RouteRule, ServicePort, TrafficPolicy, Workload,
};
use crate::policy::{RuleRetry, Timeouts};

fn mesh() -> Mesh {
    let mut mesh = Mesh::new("mesh-1", "mesh.local");
    mesh.put_service(service("default", "cart"));
    mesh.put_workload(workload("default", "cart", 1));
    mesh
}

fn workload(namespace: &str, service: &str, number: u8) -> Workload {
    let mut workload = fixture::workload(namespace, service, number);
    workload.ports[0].transports.insert(0, Transport::MtlsHttp2);
    workload
}

/// And one that serves in clear.
fn with_clear(mut mesh: Mesh, number: u8) -> Mesh {
    let mut clear = workload("default", "cart", number);
    clear.ports[0].transports = vec![Transport::Plaintext];
    mesh.put_workload(clear);
    mesh
}

fn told(mesh: &Mesh, resource_type: ResourceType, name: &str) -> Option<Resource> {
    compile(mesh, resource_type, name, "default", Audience::Grpc).unwrap()
}

#[track_caller]
fn check_refused(mesh: &Mesh, resource_type: ResourceType, expect: &[&str]) {
    let refused =
        compile(mesh, resource_type, "default/cart:80", "default", Audience::Grpc).err().unwrap_or_default();
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let expect: Vec<String> = expect
        .iter()
        .map(|what| format!("default/cart:80: gRPC without a sidecar can't honour {what}"))
        .collect();
    assert_eq!(refused, expect);
}

fn bound(mesh: &mut Mesh, change: impl FnOnce(&mut RouteRule)) {
    let mut route: HttpRoute = fixture::route("default", "split", "default", "cart");
    route.rules.truncate(1);
    change(&mut route.rules[0]);
    mesh.put_route(route);
}

fn policy(mesh: &mut Mesh, change: impl FnOnce(&mut Traffic)) {
    let mut policy: TrafficPolicy = fixture::policy("default", "own", "cart");
    policy.traffic = Traffic::default();
    change(&mut policy.traffic);
    mesh.put_policy(policy);
}

fn rules(mesh: &Mesh) -> Vec<Rule> {
    match told(mesh, ResourceType::Route, "default/cart:80") {
        Some(Resource::Route(route)) => route.rules,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_target_without_a_port_is_port_80_or_the_only_one() {
    let target = |mesh: &Mesh, name: &str| match told(mesh, ResourceType::Listener, name) {
        Some(Resource::Listener(listener)) => {
            assert_eq!(listener.name, name);
            Some(listener.target.to_string())
        }
        _ => None,
    };
    let mut mesh = mesh();
    assert_eq!(target(&mesh, "cart").as_deref(), Some("default/cart:80"));
    let mut other = service("default", "pay");
    other.ports.truncate(1);
    other.ports[0].port = 50_051;
    mesh.put_service(other.clone());
    assert_eq!(target(&mesh, "pay").as_deref(), Some("default/pay:50051"));
    assert_eq!(target(&mesh, "pay.default").as_deref(), Some("default/pay:50051"));
    assert_eq!(target(&mesh, "pay:80"), None);
    other.ports.push(ServicePort { port: 50_052, ..other.ports[0].clone() });
    mesh.put_service(other);
    assert_eq!(target(&mesh, "pay"), None, "which one?");
}

#[test]
fn one_workload_with_a_sidecar_makes_it_mutual_tls_for_all() {
    let seen = |mesh: &Mesh| {
        let Some(Resource::Cluster(cluster)) = told(mesh, ResourceType::Cluster, "default/cart:80") else {
            panic!("no cluster")
        };
        let Some(Resource::Endpoints(endpoints)) = told(mesh, ResourceType::Endpoints, "default/cart:80")
        else {
            panic!("no endpoints")
        };
        let transports: Vec<_> =
            endpoints.endpoints.iter().flat_map(|endpoint| endpoint.transports.clone()).collect();
        (cluster.identities.len(), transports)
    };
    let alone = mesh();
    assert_eq!(seen(&alone), (1, vec![Transport::MtlsHttp2]));
    assert_eq!(seen(&with_clear(alone.clone(), 2)), (1, vec![Transport::MtlsHttp2]));
    let mut clear = with_clear(alone, 2);
    clear.remove_workload(&Key::new("default", "cart-1"));
    assert_eq!(seen(&clear), (0, vec![Transport::Plaintext]));
    clear.remove_workload(&Key::new("default", "cart-2"));
    assert_eq!(seen(&clear), (1, Vec::new()), "nobody is no reason to go in clear");
}

#[test]
fn the_unhealthy_are_used_when_nobody_else_is_left() {
    let health = |mesh: &Mesh| match told(mesh, ResourceType::Endpoints, "default/cart:80") {
        Some(Resource::Endpoints(endpoints)) => {
            endpoints.endpoints.iter().map(|endpoint| endpoint.health).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let mut mesh = mesh();
    let with = |number, health| {
        let workload = workload("default", "cart", number);
        Workload { health, ..workload }
    };
    mesh.put_workload(with(2, Health::Unhealthy));
    assert_eq!(health(&mesh), [Health::Healthy, Health::Unhealthy]);
    mesh.put_workload(with(1, Health::Draining));
    assert_eq!(health(&mesh), [Health::Healthy], "the draining take nothing");
}

#[test]
fn a_rule_says_itself_what_a_sidecar_would_look_up() {
    let mut mesh = mesh();
    policy(&mut mesh, |traffic| {
        traffic.timeouts.request = Some(Duration::from_secs(3));
        traffic.retry.attempts = 4;
    });
    bound(&mut mesh, |rule| {
        rule.backends = vec![BackendRef { service: Key::new("default", "cart"), port: 80, weight: 1 }];
        rule.retry = Some(RuleRetry { codes: [503].into(), attempts: None, backoff: None });
    });
    let rules = rules(&mesh);
    assert_eq!(rules[0].timeouts, Timeouts { request: Some(Duration::from_secs(3)), backend_request: None });
    let retry = rules[0].retry.clone().unwrap();
    assert_eq!((retry.attempts, retry.backoff), (Some(4), Some(Duration::from_millis(25))));
}

#[test]
fn every_call_is_a_post_and_backends_without_weight_are_none() {
    let mut mesh = mesh();
    bound(&mut mesh, |rule| {
        let wanted = |method: &str| RouteMatch {
            path: PathMatch::Exact(format!("/{method}")),
            method: Some(method.to_owned()),
            headers: Vec::new(),
        };
        rule.matches = vec![wanted("POST"), wanted("GET")];
        rule.backends = vec![BackendRef { service: Key::new("default", "cart"), port: 80, weight: 0 }];
    });
    let rules = rules(&mesh);
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].matches.len(), 1);
    assert_eq!(rules[0].matches[0].method, None);
    assert_eq!(rules[0].backends, []);
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    check_refused(&mesh(), ResourceType::Route, &[]);
    check_refused(&mesh(), ResourceType::Cluster, &[]);
    let mut routed = mesh();
    bound(&mut routed, |rule| {
        rule.backends = vec![BackendRef { service: Key::new("default", "cart"), port: 80, weight: 1 }];
        rule.request_headers.remove = vec!["a".to_owned()];
        rule.timeouts.backend_request = Some(Duration::from_secs(1));
        rule.retry = Some(RuleRetry { codes: [404, 503].into(), attempts: None, backoff: None });
    });
    let expect = [
        "filters that change headers",
        "a time-out of one try (timeouts.backendRequest)",
        "retries on the statuses [404]",
    ];
    check_refused(&routed, ResourceType::Route, &expect);
    let mut limited = mesh();
    policy(&mut limited, |traffic| {
        traffic.limits.connections = std::num::NonZeroU32::new(5);
        traffic.limits.requests = std::num::NonZeroU32::new(5);
        traffic.slow_start = Some(Duration::from_secs(1));
        traffic.outlier.consecutive_5xx = 3;
        traffic.distribution = Distribution::PreferSameZone;
    });
    let mut random = service("default", "cart");
    random.balance = Balance::Random;
    limited.put_service(random);
    let expect = [
        "a limit of connections",
        "a slow start",
        "a preference for endpoints that are near",
        "outliers by failures in a row",
        "balance at random",
    ];
    check_refused(&limited, ResourceType::Cluster, &expect);
}
