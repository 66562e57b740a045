//! What an Envoy is told: the same resources as a sidecar, as far as it can honour them, for the services that it was told
//! to carry. What somebody asked for and Envoy can't do is refused by name; where it merely lacks one of our defaults, it
//! does with what is nearest.
//!
//! It listens where it is told to, so a Listener's name holds the address too: `cart:8080=127.0.0.1:9000`, as
//! `--upstream` has it. One address leads to one service, as with a sidecar's own: the Route behind it is the one that
//! everybody has, a change of one service is no other's affair, and what Envoy refuses of one spoils no other. (Virtual
//! hosts by `Host` would make one resource of all services that an Envoy carries.)

use std::net::SocketAddr;

use super::foreign::{Refused, Way, reachable, resolve, way};
use super::{Features, Unsupported, cluster, endpoints, listener, named, route, trust_bundle};
use crate::mesh::Mesh;
use crate::model::{AppProtocol, Balance, Health, Transport};
use crate::policy::{Distribution, RetryBudget, RuleRetry, Traffic};
use crate::resource::{Cluster, Endpoints, Listener, Resource, ResourceType, Route, Rule};

/// What its requests use: nothing of capture.
const FEATURES: Features = Features::HTTP2.and(Features::TRAFFIC).and(Features::BALANCE);

/// The service's part of a Listener's name.
pub fn destination(name: &str) -> Option<&str> {
    upstream(name).map(|(destination, _)| destination)
}

fn upstream(name: &str) -> Option<(&str, SocketAddr)> {
    let (destination, address) = name.split_once('=')?;
    Some((destination, address.parse().ok()?))
}

pub(super) fn compile(
    mesh: &Mesh,
    resource_type: ResourceType,
    name: &str,
    asker_namespace: &str,
) -> Result<Option<Resource>, Vec<Unsupported>> {
    let mut refused = Refused { who: "Envoy", resource: name, all: Vec::new() };
    let compiled = match resource_type {
        ResourceType::Listener => {
            listening(mesh, name, asker_namespace, &mut refused).map(Resource::Listener)
        }
        ResourceType::Route => route::route(mesh, name, FEATURES)
            .map(|found| Resource::Route(honoured(mesh, found, &mut refused))),
        ResourceType::Cluster => {
            cluster(mesh, name, FEATURES).map(|found| Resource::Cluster(spoken(mesh, found, &mut refused)))
        }
        ResourceType::Endpoints => {
            endpoints(mesh, name, FEATURES).map(|found| Resource::Endpoints(usable(mesh, found)))
        }
        ResourceType::TrustBundle => trust_bundle(mesh, name).map(Resource::TrustBundle),
        ResourceType::Inbound | ResourceType::MeshSettings | ResourceType::NameTable => None,
    };
    if refused.all.is_empty() { Ok(compiled) } else { Err(refused.all) }
}

fn listening(mesh: &Mesh, name: &str, asker_namespace: &str, refused: &mut Refused<'_>) -> Option<Listener> {
    let (destination, address) = upstream(name)?;
    let found = listener(mesh, destination, asker_namespace, FEATURES)?;
    refused.when(found.hint == Some(AppProtocol::Tcp), "appProtocol: tcp");
    Some(Listener { name: name.to_owned(), address: Some(address), ..found })
}

/// With everything said that a sidecar would look up in the cluster.
fn honoured(mesh: &Mesh, route: Route, refused: &mut Refused<'_>) -> Route {
    let rules = route.rules.into_iter().map(|rule| honoured_rule(mesh, rule, refused)).collect();
    Route { rules, ..route }
}

fn honoured_rule(mesh: &Mesh, mut rule: Rule, refused: &mut Refused<'_>) -> Rule {
    let service = resolve(mesh, &mut rule, refused);
    if rule.backends.is_empty() {
        return rule;
    }
    // Without codes only what certainly reached nobody is tried again: what a service does whose routes say nothing.
    let mut retry = rule.retry.take().unwrap_or_else(|| RuleRetry {
        codes: Default::default(),
        attempts: None,
        backoff: None,
    });
    let attempts = *retry.attempts.get_or_insert(service.retry.attempts);
    retry.backoff.get_or_insert(service.retry.backoff);
    rule.retry = (attempts > 0).then_some(retry);
    rule
}

fn spoken(mesh: &Mesh, mut cluster: Cluster, refused: &mut Refused<'_>) -> Cluster {
    check_traffic(&cluster.traffic, &cluster.balance, refused);
    if cluster.balance == Balance::PeakEwma {
        cluster.balance = Balance::LeastRequest; // the nearest that it has
    }
    let name = cluster.name.to_string();
    if way(mesh, &name) == Way::Clear {
        cluster.identities.clear();
        cluster.hint = named(mesh, &name).and_then(|(_, _, port)| port.app_protocol);
    }
    cluster
}

fn check_traffic(traffic: &Traffic, balance: &Balance, refused: &mut Refused<'_>) {
    let Traffic { timeouts: _, connect: _, retry, limits, outlier: _, slow_start, distribution } = traffic;
    refused.when(limits.endpoint_requests.is_some(), "a limit of requests to one endpoint");
    let RetryBudget { percent: _, interval: _, min_per_second } = retry.budget;
    // It has one of tries at a time.
    let of_rate = min_per_second != RetryBudget::default().min_per_second;
    refused.when(of_rate, "a retry budget's least number of tries a second (minRetryRate)");
    let slow = match balance {
        Balance::PeakEwma | Balance::LeastRequest | Balance::RoundRobin => false,
        Balance::Random | Balance::Hash { .. } => slow_start.is_some(),
    };
    refused.when(slow, "a slow start with balance at random or by hash");
    refused.when(*distribution != Distribution::default(), "a preference for endpoints that are near");
}

/// Those that it can reach and that are well: too few of these make it "panic" and use all that it knows of.
fn usable(mesh: &Mesh, endpoints: Endpoints) -> Endpoints {
    let mut endpoints = reachable(mesh, endpoints, &[Transport::MtlsHttp2, Transport::MtlsHttp1]);
    endpoints.endpoints.retain(|endpoint| endpoint.health == Health::Healthy);
    endpoints
}

#[cfg(test)]
mod tests;
