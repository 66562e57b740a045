//! One instance of a service, called by its own address: by clients that got that from a headless service's name, or
//! keep instances' addresses themselves (databases' drivers, brokers' clients).
//!
//! Such a call goes to that instance and no other, by none of the service's routes, but with mutual TLS, and only to
//! the identities that the service declares. Only where the address and port say without doubt which instance is meant;
//! several workloads on one host often have one service port, and then there is none.

use std::net::{IpAddr, SocketAddr};

use super::{Features, endpoint, port_of, served};
use crate::mesh::{Mesh, selects};
use crate::model::{Health, Key, Service, ServicePort, Workload, WorkloadPort};
use crate::name::PortName;
use crate::resource::Listener;

/// The instance that is meant by an address and a port, if there is exactly one.
pub(super) fn listener(
    mesh: &Mesh,
    name: &str,
    address: IpAddr,
    port: u16,
    features: Features,
) -> Option<Listener> {
    if !features.has(Features::CAPTURE) {
        return None; // it would refuse the name that this leads to
    }
    let all: Vec<Candidate<'_>> = mesh
        .workloads_at(address)
        .flat_map(|workload| candidates(mesh, workload, features))
        .filter(|candidate| candidate.port.address.ip().to_canonical() == address)
        .collect();
    // What listens there without the mesh is the application, so its port goes before a service's.
    let by_app = only(all.iter().filter(|candidate| candidate.port.app_port == port));
    let found = match by_app {
        Found::One(one) => one,
        Found::Several => return None,
        Found::None => match only(all.iter().filter(|candidate| candidate.service_port.port == port)) {
            Found::One(one) => one,
            Found::None | Found::Several => return None,
        },
    };
    let target = PortName {
        instance: Some(found.workload.key.name.clone()),
        ..PortName::new(found.service.key.clone(), found.service_port.port)
    };
    Some(Listener { name: name.to_owned(), target, hint: found.service_port.app_protocol, address: None })
}

/// Whether a name that names an instance names one that serves the port.
pub(super) fn exists(mesh: &Mesh, service: &Service, port: &ServicePort, name: &PortName) -> bool {
    let Some(instance) = &name.instance else { return true };
    let workload = mesh.workload(&Key::new(&service.key.namespace, instance));
    workload.is_some_and(|workload| selects(service, workload) && served(service, port, workload).is_some())
}

/// The service's port that an instance's route is for.
pub(super) fn has_port(mesh: &Mesh, name: &PortName) -> bool {
    let service = mesh.service(&name.service);
    service.is_some_and(|service| {
        port_of(service, name.port).is_some_and(|port| exists(mesh, service, port, name))
    })
}

struct Candidate<'a> {
    service: &'a Service,
    service_port: &'a ServicePort,
    workload: &'a Workload,
    port: &'a WorkloadPort,
}

impl Candidate<'_> {
    fn health(&self) -> Health {
        self.workload.health.max(self.port.health)
    }

    fn place(&self) -> (&Key, SocketAddr, u16) {
        (&self.workload.key, self.port.address, self.port.app_port)
    }
}

fn candidates<'a>(
    mesh: &'a Mesh,
    workload: &'a Workload,
    features: Features,
) -> impl Iterator<Item = Candidate<'a>> {
    let services =
        mesh.services_in(&workload.key.namespace).filter(move |service| selects(service, workload));
    let candidate = move |service: &'a Service, service_port: &'a ServicePort| {
        let port = served(service, service_port, workload)?;
        endpoint(workload, port, features)?;
        Some(Candidate { service, service_port, workload, port })
    };
    services.flat_map(move |service| service.ports.iter().filter_map(move |port| candidate(service, port)))
}

enum Found<T> {
    None,
    One(T),
    Several,
}

/// One place, for whichever services: the first of them by name. Who is not well gives way: a workload that came back
/// under a new name is at the address of the one before it.
fn only<'a, 'm: 'a>(candidates: impl Iterator<Item = &'a Candidate<'m>> + Clone) -> Found<&'a Candidate<'m>> {
    let Some(best) = candidates.clone().map(Candidate::health).min() else { return Found::None };
    let mut best = candidates.filter(|candidate| candidate.health() == best);
    let Some(first) = best.next() else { return Found::None };
    if best.all(|other| other.place() == first.place()) { Found::One(first) } else { Found::Several }
}
