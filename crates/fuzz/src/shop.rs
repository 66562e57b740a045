//! A small mesh: the documents of `docs/examples/`, workloads for its services, and what it all compiles to.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use meshwork_control::fuzzing;
use meshwork_core::compile::{Audience, Features, compile};
use meshwork_core::mesh::Mesh;
use meshwork_core::model::SETTINGS_NAME;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_core::validate::Declared;
use meshwork_core::virtual_address::{VirtualRange, VirtualRanges};
use meshwork_xds::convert::{Reference, points_to};

pub(crate) const MESH_ID: &str = "mesh-1";
pub(crate) const TRUST_DOMAIN: &str = "mesh.local";
pub(crate) const NAMESPACE: &str = "default";
/// The sidecar that asks.
pub(crate) const WORKLOAD: &str = "default/web-1";
pub(crate) const AUDIENCE: Audience = Audience::Sidecar(Features::ALL);

/// What an application might call.
pub(crate) const LISTENERS: [&str; 6] =
    ["cart:80", "cart.default:9000", "ledger:5432", "cart-v2:80", "240.0.0.7:80", "gone:80"];

/// As operators write them.
pub(crate) const EXAMPLES: [&str; 10] = [
    include_str!("../../../docs/examples/accounts.yaml"),
    include_str!("../../../docs/examples/consumer-route.yaml"),
    include_str!("../../../docs/examples/inbound-mode.yaml"),
    include_str!("../../../docs/examples/mesh-config.yaml"),
    include_str!("../../../docs/examples/route.yaml"),
    include_str!("../../../docs/examples/service.yaml"),
    include_str!("../../../docs/examples/split.yaml"),
    include_str!("../../../docs/examples/timeouts.yaml"),
    include_str!("../../../docs/examples/traffic-policy.yaml"),
    include_str!("../../../docs/examples/workload.yaml"),
];

pub(crate) const WORKLOADS: &str = "
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, labels: {app: cart, version: v1}}
spec:
  serviceAccount: cart
  locality: {region: north, zone: a}
  weight: 3
  ports:
  - {port: 8080, address: '10.0.0.1:15008', transports: [mtls-http2, mtls-http1, mtls-tcp]}
  - {port: 9000, address: '10.0.0.1:15008', transports: [mtls-tcp]}
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {name: web-1, labels: {app: web}}
spec:
  serviceAccount: web
  ports: [{port: 8080, address: '[fd00::2]:15008', transports: [mtls-http1]}]
";

/// Each mesh of one of the examples, so that none hides another.
pub(crate) fn meshes() -> Vec<Mesh> {
    let workloads = || WORKLOADS.to_owned();
    EXAMPLES.iter().map(|example| mesh(&[example, "\n---\n", &workloads()].concat())).collect()
}

/// What is declared by good documents.
pub(crate) fn mesh(text: &str) -> Mesh {
    let mut mesh = empty();
    for document in fuzzing::documents(text).expect("good YAML") {
        put(&mut mesh, document.expect("a good document").declared);
    }
    mesh
}

/// As the control plane does it: each service has an address of its own.
pub(crate) fn put(mesh: &mut Mesh, mut declared: Declared) {
    if let Declared::Service(service) = &mut declared {
        let number = u8::try_from(mesh.services().count()).unwrap_or(u8::MAX);
        let address = Ipv4Addr::new(240, 0, 0, number.saturating_add(7));
        service.virtual_address = mesh.virtual_ranges().map(|ranges| ranges.address(address));
    }
    mesh.put(declared);
}

pub(crate) fn empty() -> Mesh {
    let mut mesh = Mesh::new(MESH_ID, TRUST_DOMAIN);
    mesh.set_roots(vec![vec![1, 2, 3]]);
    mesh.set_virtual_ranges(VirtualRanges::new(VirtualRange::default(), MESH_ID));
    mesh
}

/// Every resource that somebody in `NAMESPACE` can ask of the mesh.
pub(crate) fn compiled(mesh: &Mesh) -> Vec<Resource> {
    let mut open: Vec<Reference> = own().to_vec();
    open.extend(LISTENERS.map(|name| Reference::new(ResourceType::Listener, name)));
    let services = mesh.services().flat_map(|service| {
        let host = format!("{}.{}", service.key.name, service.key.namespace);
        service.ports.iter().map(move |port| format!("{host}:{}", port.port))
    });
    open.extend(services.map(|name| Reference::new(ResourceType::Listener, name)));
    open.extend(mesh.workloads().map(|workload| {
        Reference::new(ResourceType::Inbound, format!("{}/{}", workload.key.namespace, workload.key.name))
    }));
    let (mut seen, mut resources) = (std::collections::BTreeSet::new(), Vec::new());
    while let Some(reference) = open.pop() {
        let Reference { resource_type, name } = &reference;
        if !seen.insert(reference.clone()) {
            continue;
        }
        let compiled = compile(mesh, *resource_type, name, NAMESPACE, AUDIENCE);
        if let Some(resource) = compiled.expect("a sidecar of this version honours all of it") {
            open.extend(points_to(&resource));
            resources.push(resource);
        }
    }
    resources
}

/// What a sidecar asks for without being told.
pub(crate) fn own() -> [Reference; 4] {
    [
        Reference::new(ResourceType::MeshSettings, SETTINGS_NAME),
        Reference::new(ResourceType::TrustBundle, TRUST_DOMAIN),
        Reference::new(ResourceType::Inbound, WORKLOAD),
        Reference::new(ResourceType::NameTable, NAMESPACE),
    ]
}

/// All resources of all the meshes, each once.
pub(crate) fn resources() -> &'static [Resource] {
    static RESOURCES: OnceLock<Vec<Resource>> = OnceLock::new();
    RESOURCES.get_or_init(|| {
        let mut resources: Vec<Resource> = Vec::new();
        for resource in meshes().iter().flat_map(compiled) {
            if !resources.contains(&resource) {
                resources.push(resource);
            }
        }
        resources
    })
}
