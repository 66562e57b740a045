//! From the model to what a proxy asks for, one resource at a time.
//!
//! A Listener's name is what the application wrote, and means something in the asker's namespace only. All
//! other names are canonical: the same name is the same resource for every asker, so whoever calls this may
//! remember it by name and audience.
//!
//! Pure. Whether a session may ask for a name at all (an `Inbound` of another workload, another namespace's
//! view) is judged by whoever holds its certificate.

pub mod envoy;
mod foreign;
pub mod grpc;
mod instance;
mod names;
mod route;

pub use route::DEFAULT_RULE;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::discover::{self, Host};
use crate::mesh::{Mesh, may_serve, port_behind, selects};
use crate::model::{
    Key, MtlsMode, SETTINGS_NAME, Service, ServicePort, SpiffeId, Transport, UnknownDestinations, Workload,
    WorkloadPort,
};
use crate::name::PortName;
use crate::policy::Distribution;
use crate::resource::{
    Cluster, Endpoint, Endpoints, Inbound, InboundPort, Listener, MeshSettings, Resource, ResourceType,
    TrustBundle,
};
use crate::virtual_address::VirtualRanges;

/// The port of a name that has none.
pub const PORT_DEFAULT: u16 = 80;

/// For whom a resource is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    Sidecar(Features),
    Envoy,
    /// Proxyless gRPC.
    Grpc,
}

/// What a sidecar announced in `node.client_features`. Names that are not known here are a newer sidecar's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Features(u32);

impl Features {
    /// It speaks HTTP/2 to other sidecars (`Transport::MtlsHttp2`).
    pub const HTTP2: Self = Self(1);

    /// It understands what a service or rule says of time-outs, retries, limits and outliers (`core::policy`).
    pub const TRAFFIC: Self = Self(2);

    /// It captures connections: it understands instances' own addresses, and names.
    pub const CAPTURE: Self = Self(4);

    /// It balances by open requests, at random and by hash, and prefers endpoints that are near.
    pub const BALANCE: Self = Self(8);

    /// It takes what changed of a service's endpoints, as long as it holds the rest.
    pub const PATCHES: Self = Self(16);

    /// What a sidecar of this version can.
    pub const ALL: Self =
        Self::HTTP2.and(Self::TRAFFIC).and(Self::CAPTURE).and(Self::BALANCE).and(Self::PATCHES);

    const NAMES: &[(&str, Self)] = &[
        ("meshwork.http2", Self::HTTP2),
        ("meshwork.traffic", Self::TRAFFIC),
        ("meshwork.capture", Self::CAPTURE),
        ("meshwork.balance", Self::BALANCE),
        ("meshwork.patches", Self::PATCHES),
    ];

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = |name| Self::NAMES.iter().find(|(known, _)| *known == name);
        Self(names.into_iter().filter_map(known).fold(0, |bits, (_, feature)| bits | feature.0))
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, feature)| self.has(*feature)).map(|(name, _)| *name)
    }

    pub const fn has(self, feature: Self) -> bool {
        self.0 & feature.0 == feature.0
    }
}

/// Something in a resource that its audience can't honour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {what}")]
pub struct Unsupported {
    pub resource: String,
    pub what: String,
}

/// Compiles one resource; `None`: there is none of that name.
pub fn compile(
    mesh: &Mesh,
    resource_type: ResourceType,
    name: &str,
    asker_namespace: &str,
    audience: Audience,
) -> Result<Option<Resource>, Vec<Unsupported>> {
    let features = match audience {
        Audience::Sidecar(features) => features,
        Audience::Grpc => return grpc::compile(mesh, resource_type, name, asker_namespace),
        Audience::Envoy => return envoy::compile(mesh, resource_type, name, asker_namespace),
    };
    Ok(match resource_type {
        ResourceType::Listener => listener(mesh, name, asker_namespace, features).map(Resource::Listener),
        ResourceType::Route => route::route(mesh, name, features).map(Resource::Route),
        ResourceType::Cluster => cluster(mesh, name, features).map(Resource::Cluster),
        ResourceType::Endpoints => endpoints(mesh, name, features).map(Resource::Endpoints),
        ResourceType::Inbound => inbound(mesh, name, features).map(Resource::Inbound),
        ResourceType::MeshSettings => settings(mesh, name, features).map(Resource::MeshSettings),
        ResourceType::TrustBundle => trust_bundle(mesh, name).map(Resource::TrustBundle),
        ResourceType::NameTable => names::table(mesh, name, features).map(Resource::NameTable),
    })
}

/// What a Listener's name means, whether it exists or not.
#[derive(Debug, PartialEq)]
pub(crate) enum Meant {
    Service(Key, u16),
    Address(IpAddr, u16),
}

/// Names are asked for in lower case and without a trailing dot, addresses with their port; any other spelling is
/// another name, and means nothing.
pub(crate) fn meant(name: &str, asker_namespace: &str) -> Option<Meant> {
    let destination = discover::destination(name, PORT_DEFAULT).ok()?;
    let in_full = name == destination.to_string();
    match &destination.host {
        Host::Name(host) if *name == **host || in_full => {
            Some(Meant::Service(discover::service(host, asker_namespace)?, destination.port))
        }
        Host::Ip(address) if in_full => Some(Meant::Address(*address, destination.port)),
        Host::Name(_) | Host::Ip(_) => None,
    }
}

fn listener(mesh: &Mesh, name: &str, asker_namespace: &str, features: Features) -> Option<Listener> {
    let (service, port) = match meant(name, asker_namespace)? {
        Meant::Service(key, port) => (mesh.service(&key)?, port),
        Meant::Address(address, port) => match mesh.service_at(address) {
            Some(service) => (service, port),
            None => return instance::listener(mesh, name, address, port, features),
        },
    };
    let service_port = port_of(service, port)?;
    let from = mesh.has_view(&service.key, port, asker_namespace).then(|| asker_namespace.to_owned());
    let target = PortName { from, ..PortName::new(service.key.clone(), port) };
    Some(Listener { name: name.to_owned(), target, hint: service_port.app_protocol, address: None })
}

fn port_of(service: &Service, port: u16) -> Option<&ServicePort> {
    service.ports.iter().find(|service_port| service_port.port == port)
}

/// The service's port that a Cluster or its Endpoints are named by, of an instance only if it serves that.
fn named<'a>(mesh: &'a Mesh, name: &str) -> Option<(PortName, &'a Service, &'a ServicePort)> {
    let name: PortName = name.parse().ok().filter(|name: &PortName| name.from.is_none())?;
    let service = mesh.service(&name.service)?;
    let port = port_of(service, name.port)?;
    instance::exists(mesh, service, port, &name).then_some((name, service, port))
}

fn cluster(mesh: &Mesh, name: &str, features: Features) -> Option<Cluster> {
    let (name, service, port) = named(mesh, name)?;
    let identity =
        |account: &String| SpiffeId::new(mesh.trust_domain(), &service.key.namespace, account).ok();
    let identities = service.accounts.iter().filter_map(identity).collect();
    let policy = mesh.policy_of(&service.key, port).filter(|_| features.has(Features::TRAFFIC));
    let mut traffic = policy.map(|policy| policy.traffic.clone()).unwrap_or_default();
    let mut balance =
        policy.and_then(|policy| policy.balance.clone()).unwrap_or_else(|| service.balance.clone());
    if !features.has(Features::BALANCE) {
        // One from before would refuse what it does not know: it goes by the service's annotation, which has only what it does.
        balance = service.balance.clone();
        traffic.distribution = Distribution::default();
    }
    Some(Cluster { name, balance, identities, traffic, hint: None })
}

fn endpoints(mesh: &Mesh, name: &str, features: Features) -> Option<Endpoints> {
    let (name, service, port) = named(mesh, name)?;
    let mut by_address: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    let is_meant = |workload: &Workload| name.instance.as_ref().is_none_or(|one| *one == workload.key.name);
    for workload in mesh.selected_by(service).filter(|workload| is_meant(workload)) {
        let endpoint = served(service, port, workload).and_then(|port| endpoint(workload, port, features));
        if let Some(endpoint) = endpoint {
            by_address
                .entry(endpoint.address)
                // Two workloads claim the address: one of them restarted under a new name. The healthier one
                // is it; workloads come ordered by name, so the choice is the same everywhere.
                .and_modify(|known| {
                    if endpoint.health < known.health {
                        known.clone_from(&endpoint);
                    }
                })
                .or_insert(endpoint);
        }
    }
    Some(Endpoints { name, endpoints: by_address.into_values().collect() })
}

/// The workload's port that serves a service's port, if it may.
fn served<'a>(service: &Service, port: &ServicePort, workload: &'a Workload) -> Option<&'a WorkloadPort> {
    port_behind(port, workload).filter(|found| may_serve(service, workload, found))
}

/// `None`: it takes no requests, or speaks nothing that the asker understands.
fn endpoint(workload: &Workload, port: &WorkloadPort, features: Features) -> Option<Endpoint> {
    let spoken = |transport: &&Transport| match transport {
        Transport::MtlsHttp2 => features.has(Features::HTTP2),
        Transport::MtlsHttp1 | Transport::MtlsTcp | Transport::Plaintext => true,
    };
    let transports: Vec<_> = port.transports.iter().filter(spoken).copied().collect();
    (workload.weight > 0 && !transports.is_empty()).then(|| Endpoint {
        address: port.address,
        app_port: port.app_port,
        transports,
        // The worse of the two.
        health: workload.health.max(port.health),
        weight: workload.weight,
        locality: workload.locality.clone(),
        workload: workload.key.name.clone(),
    })
}

fn inbound(mesh: &Mesh, name: &str, features: Features) -> Option<Inbound> {
    let (namespace, workload_name) = name.split_once('/')?;
    let workload = mesh.workload(&Key::new(namespace, workload_name))?;
    let mut ports: Vec<_> = workload.ports.iter().map(|port| inbound_port(mesh, workload, port)).collect();
    // Two ports of a service may lead to one of the application: one socket, the first one's hint.
    ports.sort_by_key(|port| port.app_port);
    ports.dedup_by_key(|port| port.app_port);
    let mut mtls = mesh.config().inbound;
    if !features.has(Features::CAPTURE) {
        // One from before takes no plaintext whatever it is told, and knows no modes of ports.
        mtls = MtlsMode::Strict;
        ports.iter_mut().for_each(|port| port.mtls = mtls);
    }
    Some(Inbound { name: name.to_owned(), ports, mtls })
}

fn inbound_port(mesh: &Mesh, workload: &Workload, port: &WorkloadPort) -> InboundPort {
    let services = mesh.services_in(&workload.key.namespace).filter(|service| selects(service, workload));
    let serving: Vec<(&Service, &ServicePort)> = services
        .flat_map(|service| service.ports.iter().map(|service_port| (&**service, service_port)))
        .filter(|(service, service_port)| {
            served(service, service_port, workload).is_some_and(|found| found.app_port == port.app_port)
        })
        .collect();
    // Of several that say something of one port, the stricter is right: nobody is let in by another's word.
    let said =
        serving.iter().filter_map(|(service, service_port)| service.inbound.of(service_port.port)).min();
    let serving = serving.first();
    InboundPort {
        app_port: port.app_port,
        hint: serving.and_then(|(_, service_port)| service_port.app_protocol),
        service: serving.map(|(service, port)| PortName::new(service.key.clone(), port.port)),
        mtls: said.unwrap_or_else(|| mesh.config().inbound),
    }
}

fn settings(mesh: &Mesh, name: &str, features: Features) -> Option<MeshSettings> {
    // A sidecar from before would refuse settings that say more than it knows.
    let capture = features.has(Features::CAPTURE);
    let virtual_ranges = mesh.virtual_ranges().filter(|_| capture);
    let virtual_ranges = virtual_ranges.into_iter().flat_map(VirtualRanges::nets).collect();
    (name == SETTINGS_NAME).then(|| MeshSettings {
        mesh_id: mesh.mesh_id().to_owned(),
        trust_domain: mesh.trust_domain().to_owned(),
        access_log: mesh.config().access_log,
        issuing_root: mesh.issuing_root().to_owned(),
        ranges: mesh.ranges(),
        virtual_ranges,
        unknown: if capture { mesh.config().unknown.clone() } else { UnknownDestinations::default() },
    })
}

fn trust_bundle(mesh: &Mesh, name: &str) -> Option<TrustBundle> {
    (name == mesh.trust_domain())
        .then(|| TrustBundle { trust_domain: name.to_owned(), roots: mesh.roots().to_vec() })
}

#[cfg(test)]
mod tests;
