//! The names of a namespace: each service with its virtual address, headless ones with their instances.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Features, served};
use crate::mesh::Mesh;
use crate::model::{Health, Service};
use crate::names::{NameTable, Named};

/// `None`: there is no service in the namespace, or the asker knows no names.
pub(super) fn table(mesh: &Mesh, namespace: &str, features: Features) -> Option<NameTable> {
    if !features.has(Features::CAPTURE) {
        return None;
    }
    let services: BTreeMap<_, _> = mesh
        .services_in(namespace)
        .filter_map(|service| Some((service.key.name.clone(), named(mesh, service)?)))
        .collect();
    (!services.is_empty()).then(|| NameTable { namespace: namespace.to_owned(), services })
}

/// `None`: no address was left for it, which `status.rs` tells.
fn named(mesh: &Mesh, service: &Service) -> Option<Named> {
    let address = service.virtual_address?;
    let ports = service.ports.iter().filter_map(|port| Some((port.name.clone()?, port.port)));
    Some(Named {
        v4: address.v4,
        v6: address.v6,
        ports: ports.collect(),
        instances: if service.headless { instances(mesh, service) } else { BTreeMap::new() },
        headless: service.headless,
    })
}

/// Whoever serves any of its ports, but for those that take nothing new. Who is not well stays: its clients know each
/// instance, and find out better than a table that would come and go.
fn instances(mesh: &Mesh, service: &Service) -> BTreeMap<String, IpAddr> {
    let stays = mesh.selected_by(service).filter(|workload| workload.health != Health::Draining);
    let address = |workload| {
        let port = service.ports.iter().find_map(|port| served(service, port, workload))?;
        Some(port.address.ip().to_canonical())
    };
    stays.filter_map(|workload| Some((workload.key.name.clone(), address(workload)?))).collect()
}
