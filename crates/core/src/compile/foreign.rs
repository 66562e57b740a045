//! What programs without a sidecar (gRPC, Envoy) have in common: they do themselves what a sidecar would do. So a rule
//! says all that a sidecar would look up, and there is one way to a service: to the applications of workloads without
//! sidecar, or with mutual TLS to the sidecars. A service of which one workload has a sidecar is called by mutual TLS
//! only, as whoever calls in clear could not tell who answers.

use super::{Unsupported, named, port_of};
use crate::mesh::Mesh;
use crate::model::{Service, ServicePort, Transport};
use crate::name::PortName;
use crate::policy::Traffic;
use crate::resource::{Endpoints, Rule};

/// What was asked for and can't be done.
pub(super) struct Refused<'a> {
    pub(super) who: &'static str,
    pub(super) resource: &'a str,
    pub(super) all: Vec<Unsupported>,
}

impl Refused<'_> {
    pub(super) fn when(&mut self, asked: bool, what: &str) {
        if asked {
            let what = format!("{} without a sidecar can't honour {what}", self.who);
            self.all.push(Unsupported { resource: self.resource.to_owned(), what });
        }
    }
}

/// Resolves the rule's time-outs, and gives what the service says otherwise: neither gRPC nor Envoy knows these things
/// of a cluster.
pub(super) fn resolve(mesh: &Mesh, rule: &mut Rule, refused: &mut Refused<'_>) -> Traffic {
    if rule.backends.iter().all(|backend| backend.weight == 0) {
        rule.backends.clear(); // either would refuse the whole route
    }
    let mut told: Vec<Traffic> =
        rule.backends.iter().map(|backend| traffic_of(mesh, &backend.cluster)).collect();
    told.dedup_by(|one, other| (one.timeouts, one.retry) == (other.timeouts, other.retry));
    refused.when(told.len() > 1, "backends of one rule whose policies differ in time-outs or retries");
    let service = told.into_iter().next().unwrap_or_default();
    rule.timeouts = rule.timeouts.or(service.timeouts);
    service
}

fn traffic_of(mesh: &Mesh, backend: &PortName) -> Traffic {
    let service = mesh.service(&backend.service);
    let port = service.and_then(|service| port_of(service, backend.port));
    let policy = port.and_then(|port| mesh.policy_of(&backend.service, port));
    policy.map(|policy| policy.traffic.clone()).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Mtls,
    /// Nobody of the service has a sidecar.
    Clear,
}

/// One for all endpoints of a cluster. Mutual TLS where there is any doubt.
pub(super) fn way(mesh: &Mesh, cluster: &str) -> Way {
    let Some((_, service, port)) = named(mesh, cluster) else { return Way::Mtls };
    let mut transports = transports(mesh, service, port).peekable();
    let clear = transports.peek().is_some() && transports.all(|known| known == [Transport::Plaintext]);
    if clear { Way::Clear } else { Way::Mtls }
}

fn transports<'a>(
    mesh: &'a Mesh,
    service: &'a Service,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a [Transport]> {
    let serving = mesh.selected_by(service).filter_map(|workload| super::served(service, port, workload));
    serving.map(|port| port.transports.as_slice())
}

/// Those that it can reach, by mutual TLS as one of `secured`. The unhealthy count as healthy once nobody else is left.
pub(super) fn reachable(mesh: &Mesh, mut endpoints: Endpoints, secured: &[Transport]) -> Endpoints {
    use crate::model::Health::{Draining, Healthy, Unhealthy};
    let spoken = match way(mesh, &endpoints.name.to_string()) {
        Way::Mtls => secured,
        Way::Clear => &[Transport::Plaintext],
    };
    for endpoint in &mut endpoints.endpoints {
        endpoint.transports.retain(|transport| spoken.contains(transport));
    }
    endpoints.endpoints.retain(|endpoint| !endpoint.transports.is_empty() && endpoint.health != Draining);
    let nobody = endpoints.endpoints.iter().all(|endpoint| endpoint.health != Healthy);
    for endpoint in &mut endpoints.endpoints {
        if nobody && endpoint.health == Unhealthy {
            endpoint.health = Healthy;
        }
    }
    endpoints
}
