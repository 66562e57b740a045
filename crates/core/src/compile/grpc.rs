//! What proxyless gRPC is told (gRFCs A27, A28, A29, A31, A32, A41, A44, A50): the same resources as a sidecar, as far
//! as it can honour them. What somebody asked for and gRPC can't do is refused by name; where gRPC merely lacks one of
//! our defaults, it does without.
//!
//! What it shares with Envoy is in `foreign.rs`.

use std::time::Duration;

use super::foreign::{Refused, Way, reachable, resolve, way};
use super::{Features, Unsupported, cluster, endpoints, listener, route};
use crate::discover;
use crate::mesh::Mesh;
use crate::model::{AppProtocol, Balance, RouteMatch, Transport};
use crate::policy::{ConnectPolicy, Distribution, Limits, OutlierPolicy, RetryPolicy, Traffic};
use crate::resource::{Cluster, Listener, Resource, ResourceType, Route, Rule};

/// What its calls use: nothing of capture.
const FEATURES: Features = Features::HTTP2.and(Features::TRAFFIC).and(Features::BALANCE);

/// Statuses of HTTP that stand for one of gRPC by which it tries again (gRFC A44); `core::retry` reads answers so.
pub const RETRIABLE: &[(u16, &str)] = &[
    (429, "resource-exhausted"),
    (499, "cancelled"),
    (500, "internal"),
    (502, "unavailable"),
    (503, "unavailable"),
    (504, "deadline-exceeded"),
];

pub(super) fn compile(
    mesh: &Mesh,
    resource_type: ResourceType,
    name: &str,
    asker_namespace: &str,
) -> Result<Option<Resource>, Vec<Unsupported>> {
    let mut refused = Refused { who: "gRPC", resource: name, all: Vec::new() };
    let compiled = match resource_type {
        ResourceType::Listener => of_name(mesh, name, asker_namespace)
            .map(|found| Resource::Listener(check_listener(found, &mut refused))),
        ResourceType::Route => route::route(mesh, name, FEATURES)
            .map(|found| Resource::Route(honoured(mesh, found, &mut refused))),
        ResourceType::Cluster => {
            cluster(mesh, name, FEATURES).map(|found| Resource::Cluster(secured(mesh, found, &mut refused)))
        }
        ResourceType::Endpoints => endpoints(mesh, name, FEATURES)
            .map(|found| Resource::Endpoints(reachable(mesh, found, &[Transport::MtlsHttp2]))),
        ResourceType::Inbound
        | ResourceType::MeshSettings
        | ResourceType::TrustBundle
        | ResourceType::NameTable => None,
    };
    if refused.all.is_empty() { Ok(compiled) } else { Err(refused.all) }
}

/// `cart:8080`; and `cart`, which is port 80, or the only one.
fn of_name(mesh: &Mesh, name: &str, asker_namespace: &str) -> Option<Listener> {
    listener(mesh, name, asker_namespace, FEATURES).or_else(|| {
        let service = mesh.service(&discover::service(name, asker_namespace)?)?;
        let [port] = &service.ports[..] else { return None };
        let found = listener(mesh, &format!("{name}:{}", port.port), asker_namespace, FEATURES)?;
        Some(Listener { name: name.to_owned(), ..found })
    })
}

fn check_listener(listener: Listener, refused: &mut Refused<'_>) -> Listener {
    refused.when(listener.hint == Some(AppProtocol::Tcp), "appProtocol: tcp");
    listener
}

/// With everything said that a sidecar would look up in the cluster.
fn honoured(mesh: &Mesh, route: Route, refused: &mut Refused<'_>) -> Route {
    let rules = route.rules.into_iter().filter_map(|rule| honoured_rule(mesh, rule, refused)).collect();
    Route { rules, ..route }
}

/// `None`: no call ever matches it.
fn honoured_rule(mesh: &Mesh, mut rule: Rule, refused: &mut Refused<'_>) -> Option<Rule> {
    rule.matches = rule.matches.into_iter().filter_map(of_calls).collect();
    let changes = [&rule.request_headers, &rule.response_headers];
    refused.when(changes.iter().any(|change| **change != Default::default()), "filters that change headers");
    let service = resolve(mesh, &mut rule, refused);
    let per_try = rule.timeouts.backend_request.is_some();
    refused.when(per_try, "a time-out of one try (timeouts.backendRequest)");
    if let Some(retry) = &mut rule.retry {
        let known = |code: &u16| RETRIABLE.iter().any(|(known, _)| known == code);
        let unknown: Vec<u16> = retry.codes.iter().copied().filter(|code| !known(code)).collect();
        refused.when(!unknown.is_empty(), &format!("retries on the statuses {unknown:?}"));
        retry.attempts.get_or_insert(service.retry.attempts);
        retry.backoff.get_or_insert(service.retry.backoff);
        if retry.attempts == Some(0) {
            rule.retry = None; // its least is one
        }
    }
    (!rule.matches.is_empty()).then_some(rule)
}

/// Every call is a POST, so the method says all or nothing.
fn of_calls(wanted: RouteMatch) -> Option<RouteMatch> {
    let possible = wanted.method.as_deref().is_none_or(|method| method == "POST");
    possible.then_some(RouteMatch { method: None, ..wanted })
}

fn secured(mesh: &Mesh, mut cluster: Cluster, refused: &mut Refused<'_>) -> Cluster {
    check_traffic(&cluster.traffic, refused);
    match cluster.balance {
        // To gRPC least request is an experiment that is off, and it would refuse the cluster.
        Balance::RoundRobin | Balance::PeakEwma => {}
        Balance::LeastRequest => refused.when(true, "balance by open requests"),
        Balance::Random => refused.when(true, "balance at random"),
        Balance::Hash { .. } => refused.when(true, "balance by hash"),
    }
    cluster.balance = Balance::RoundRobin;
    if way(mesh, &cluster.name.to_string()) == Way::Clear {
        cluster.identities.clear();
    }
    cluster
}

fn check_traffic(traffic: &Traffic, refused: &mut Refused<'_>) {
    let Traffic { timeouts: _, connect, retry, limits, outlier, slow_start, distribution } = traffic;
    let Limits { connections, pending_requests, requests: _, endpoint_connections, endpoint_requests } =
        limits;
    refused.when(connections.is_some(), "a limit of connections");
    refused.when(*pending_requests != Limits::default().pending_requests, "a limit of pending requests");
    refused.when(endpoint_connections.is_some(), "a limit of connections to one endpoint");
    refused.when(endpoint_requests.is_some(), "a limit of requests to one endpoint");
    let ConnectPolicy { timeout, idle } = *connect;
    refused.when(timeout != ConnectPolicy::default().timeout, "a time-out of connections");
    refused.when(idle.is_some_and(|idle| idle > Duration::ZERO), "an idle time-out of connections");
    refused.when(retry.budget != RetryPolicy::default().budget, "a retry budget");
    refused.when(slow_start.is_some(), "a slow start");
    refused.when(*distribution != Distribution::default(), "a preference for endpoints that are near");
    let known = OutlierPolicy::default();
    let asked = |own: u32, default: u32| own != default && own != 0;
    let in_a_row = asked(outlier.consecutive_5xx, known.consecutive_5xx)
        || asked(outlier.consecutive_gateway_errors, known.consecutive_gateway_errors)
        || asked(outlier.consecutive_connect_failures, known.consecutive_connect_failures);
    refused.when(in_a_row, "outliers by failures in a row");
}

#[cfg(test)]
mod tests;
