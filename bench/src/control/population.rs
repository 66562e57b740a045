//! A mesh of a size: who is there, and who calls whom. Pure, and the same each time.
//!
//! Services are spread over namespaces of 50, as teams have them. Sidecar i is an instance of service i modulo their
//! number; the other endpoints are `Workload`s that an operator applied, in the same way. A sidecar calls ten services: its
//! neighbours by number and some far away, so that each service has about as many callers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use super::settings::Size;

/// Services that one sidecar calls.
pub(super) const CALLS: usize = 10;

/// Services of one namespace.
const TEAM: usize = 50;

/// What is applied at once: below a request's 16 MiB.
const DOCUMENTS_AT_ONCE: usize = 2_500;

/// The sidecars' port for the mesh, and the application's.
const MESH_PORT: u16 = 15_008;
pub(super) const APP_PORT: u16 = 8_080;

#[derive(Clone, Copy, Debug)]
pub(super) struct Population(pub(super) Size);

impl Population {
    pub(super) fn service(service: usize) -> String {
        format!("service-{service}")
    }

    pub(super) fn namespace(service: usize) -> String {
        format!("team-{}", service / TEAM)
    }

    /// What an application writes to call it.
    pub(super) fn listener(service: usize) -> String {
        format!("{}.{}:80", Self::service(service), Self::namespace(service))
    }

    /// The name of its endpoints on the wire.
    pub(super) fn endpoints(service: usize) -> String {
        format!("{}/{}:80", Self::namespace(service), Self::service(service))
    }

    /// Whose instance an endpoint is.
    pub(super) fn service_of(self, endpoint: usize) -> usize {
        endpoint % self.0.services
    }

    pub(super) fn address(endpoint: usize) -> SocketAddr {
        // Below 2^24 endpoints.
        let [_, second, third, last] = u32::try_from(endpoint).unwrap_or(u32::MAX).to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, second, third, last), MESH_PORT))
    }

    /// The services that a sidecar calls, its own not among them.
    pub(super) fn calls(self, sidecar: usize) -> BTreeSet<usize> {
        let services = self.0.services;
        let own = self.service_of(sidecar);
        // Odd steps with a part that grows, so that no two sidecars of a service call the same ten.
        let step = 1 + 2 * (sidecar / services);
        let far = (1..).map(|number| (own + number * step + number * number) % services);
        let mut calls = BTreeSet::new();
        for service in far.take(services * 4) {
            if service != own && calls.len() < CALLS {
                calls.insert(service);
            }
        }
        calls
    }

    /// By service, the sidecars that call it.
    pub(super) fn callers(self) -> Vec<Vec<usize>> {
        let mut callers = vec![Vec::new(); self.0.services];
        for sidecar in 0..self.0.sidecars {
            self.calls(sidecar).into_iter().for_each(|service| callers[service].push(sidecar));
        }
        callers
    }

    /// The endpoints that no sidecar registers.
    pub(super) fn applied(self) -> std::ops::Range<usize> {
        self.0.sidecars..self.0.endpoints
    }

    /// Everything that an operator applies, in parts.
    pub(super) fn manifests(self) -> Vec<String> {
        let services = (0..self.0.services).map(service_document);
        let workloads = self.applied().map(|endpoint| self.workload_document(endpoint, 1));
        let all: Vec<String> = services.chain(workloads).collect();
        all.chunks(DOCUMENTS_AT_ONCE).map(<[String]>::concat).collect()
    }

    /// The smallest change of an endpoint: its share.
    pub(super) fn workload_document(self, endpoint: usize, weight: u32) -> String {
        let service = self.service_of(endpoint);
        let (name, namespace, address) =
            (Self::service(service), Self::namespace(service), Self::address(endpoint));
        let mut text = "---\n".to_owned();
        // A string takes everything.
        let _ = writeln!(
            text,
            r#"{{apiVersion: meshwork.dev/v1alpha1, kind: Workload, metadata: {{name: {name}-{endpoint}, namespace: {namespace}, labels: {{app: {name}}}}},
  spec: {{serviceAccount: {name}, weight: {weight}, ports: [{{port: {APP_PORT}, address: "{address}", transports: [mtls-http2, mtls-http1, mtls-tcp]}}]}}}}"#
        );
        text
    }
}

fn service_document(service: usize) -> String {
    let (name, namespace) = (Population::service(service), Population::namespace(service));
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: {APP_PORT}}}]}}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::settings::PROMISED;
    use super::*;

    #[test]
    fn each_sidecar_calls_ten_others_and_each_service_has_callers() {
        let population = Population(PROMISED);
        for sidecar in 0..PROMISED.sidecars {
            let calls = population.calls(sidecar);
            assert_eq!(calls.len(), CALLS);
            assert!(!calls.contains(&population.service_of(sidecar)));
        }
        let callers = population.callers();
        assert_eq!(callers.iter().map(Vec::len).sum::<usize>(), PROMISED.sidecars * CALLS);
        assert!(callers.iter().all(|callers| (10..=30).contains(&callers.len())));
    }

    #[test]
    fn what_is_applied_and_what_registers_is_all_of_them() {
        let population = Population(PROMISED);
        let parts = population.manifests();
        let documents: usize = parts.iter().map(|part| part.matches("---\n").count()).sum();
        assert_eq!(documents, PROMISED.services + PROMISED.endpoints - PROMISED.sidecars);
        assert!(parts.iter().all(|part| part.len() < 1 << 20));
    }
}
