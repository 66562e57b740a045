//! The truth: a mesh that changes at random, compiled as the control plane does it, with resources that are
//! damaged on their way for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_core::compile::{Audience, Features, compile};
use meshwork_core::mesh::{Changed, Mesh};
use meshwork_core::model::{
    BackendRef, Balance, Check, HeaderModifier, Health, HttpRoute, Key, Labels, Locality, ParentRef,
    PathMatch, RouteMatch, RouteRule, Service, ServicePort, Transport, Workload, WorkloadPort,
};
use meshwork_core::resource::{Endpoints, Resource, ResourceType};
use meshwork_core::version::version;
use meshwork_core::virtual_address::{VirtualRange, VirtualRanges};
use meshwork_xds::codec::EncodedResource;
use meshwork_xds::convert::{Reference, patch, points_to, to_wire};

use crate::dice::Dice;

pub(crate) const NAMESPACES: [&str; 2] = ["default", "shop"];
const SERVICES: [&str; 3] = ["cart", "pay", "web"];
const AUDIENCE: Audience = Audience::Sidecar(Features::ALL);

/// Marks the version of a resource that was damaged.
pub(crate) const DAMAGED: char = '!';

pub(crate) struct World {
    pub(crate) now: State,
    /// Every value that a version ever stood for.
    pub(crate) history: BTreeMap<String, Resource>,
    /// Endpoints as they were encoded last and before, by name: what the control plane makes patches of.
    encoded: BTreeMap<String, [Option<Encoded>; 2]>,
}

/// A version and what it stands for.
type Encoded = (Arc<str>, Endpoints);

#[derive(Clone)]
pub(crate) struct State {
    mesh: Mesh,
    pub(crate) damaged: BTreeSet<Reference>,
}

impl State {
    /// Whether the resource may differ between two states.
    pub(crate) fn concerns(
        &self,
        new: &Self,
        namespace: &str,
    ) -> impl FnMut(ResourceType, &str) -> bool + use<> {
        let changed = Changed::between(&self.mesh, &new.mesh);
        let damaged: BTreeSet<_> = self.damaged.symmetric_difference(&new.damaged).cloned().collect();
        let namespace = namespace.to_owned();
        move |resource_type, name| {
            damaged.contains(&Reference::new(resource_type, name))
                || changed.concerns(resource_type, name, &namespace)
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let mut mesh = Mesh::new("mesh-1", "mesh.local");
        mesh.set_roots(vec![vec![1, 2, 3]]);
        Self {
            now: State { mesh, damaged: BTreeSet::new() },
            history: BTreeMap::new(),
            encoded: BTreeMap::new(),
        }
    }

    /// What exists for an asker of that namespace.
    pub(crate) fn truth(&self, namespace: &str, reference: &Reference) -> Option<Resource> {
        let Reference { resource_type, name } = reference;
        compile(&self.now.mesh, *resource_type, name, namespace, AUDIENCE)
            .expect("a sidecar's resource compiles")
    }

    /// The same for the wire.
    pub(crate) fn resolve(&mut self, namespace: &str, reference: &Reference) -> Option<EncodedResource> {
        let resource = self.truth(namespace, reference)?;
        let mut version = version(&resource).to_string();
        self.history.insert(version.clone(), resource.clone());
        let mut body = to_wire(&resource, AUDIENCE);
        if self.now.damaged.contains(reference) {
            version.push(DAMAGED);
            body.extend([0xf8, 0x3f, 1]); // a field that nobody knows
        }
        let encoded = EncodedResource::new(reference, &version, body, points_to(&resource));
        Some(match resource {
            Resource::Endpoints(endpoints) if !version.ends_with(DAMAGED) => {
                self.with_patch(encoded, endpoints)
            }
            _ => encoded,
        })
    }

    fn with_patch(&mut self, encoded: EncodedResource, endpoints: Endpoints) -> EncodedResource {
        let name = endpoints.name.to_string();
        let known = self.encoded.entry(name.clone()).or_default();
        if known[0].as_ref().is_none_or(|(version, _)| version != encoded.version()) {
            known[1] = known[0].replace((Arc::clone(encoded.version()), endpoints.clone()));
        }
        let Some((base, old)) = &known[1] else { return encoded };
        match patch(old, base, &endpoints, AUDIENCE) {
            Some(patch) => encoded.with_patch(&name, base, patch),
            None => encoded,
        }
    }

    pub(crate) fn change(&mut self, dice: &mut Dice) {
        let key = Key::new(*dice.pick(&NAMESPACES), *dice.pick(&SERVICES));
        match dice.below(9) {
            0..=2 => self.now.mesh.put_service(service(key, dice)),
            3..=5 => self.now.mesh.put_workload(workload(key, dice)),
            6 => self.now.mesh.put_route(route(key, dice)),
            7 => drop(self.now.mesh.remove_service(&key)),
            _ => match dice.below(2) {
                0 => drop(self.now.mesh.remove_workload(&workload(key, dice).key)),
                _ => drop(self.now.mesh.remove_route(&route(key, dice).key)),
            },
        }
    }
}

/// What an application might call.
pub(crate) fn destination(dice: &mut Dice) -> String {
    let service = dice.pick(&SERVICES);
    match dice.below(6) {
        0 | 1 => format!("{service}:80"),
        2 => format!("{service}.{}:80", dice.pick(&NAMESPACES)),
        3 => format!("240.0.0.{}:80", dice.below(8)),
        4 => format!("10.0.{}.{}:8080", dice.below(3), 1 + dice.below(3)),
        _ => format!("{service}:{}", 80 + dice.below(3)),
    }
}

/// Where an application might look a name up; one is nobody's.
pub(crate) fn namespace(dice: &mut Dice) -> String {
    (*dice.pick(&[NAMESPACES[0], NAMESPACES[1], "example"])).to_owned()
}

fn service(key: Key, dice: &mut Dice) -> Service {
    let port = |port| ServicePort { name: None, port, target_port: 8080, app_protocol: None };
    let ports = (80..=80 + dice.below(2) as u16).map(port).collect();
    let balance = dice.pick(&[Balance::PeakEwma, Balance::RoundRobin]).clone();
    let accounts = [key.name.clone()].into();
    let (headless, cluster_ip) = (dice.below(3) == 0, None);
    let v4 = [240, 0, 0, dice.below(8) as u8].into();
    let virtual_address = Some(VirtualRanges::new(VirtualRange::default(), "m").address(v4));
    let inbound = Default::default();
    Service {
        selector: labels(&key),
        key,
        ports,
        headless,
        accounts,
        balance,
        cluster_ip,
        inbound,
        virtual_address,
    }
}

fn labels(key: &Key) -> Labels {
    [("app".to_owned(), key.name.clone())].into()
}

fn workload(service: Key, dice: &mut Dice) -> Workload {
    let number = dice.below(3) as u8;
    let place = SERVICES.iter().position(|name| *name == service.name).unwrap_or_default() as u8;
    Workload {
        key: Key::new(service.namespace.clone(), format!("{}-{number}", service.name)),
        labels: labels(&service),
        account: service.name,
        ports: vec![WorkloadPort {
            service_port: None,
            app_port: 8080,
            address: ([10, 0, place, number + 1], 15_008).into(),
            transports: vec![Transport::MtlsHttp1, Transport::MtlsTcp],
            check: Check::Unasked,
            health: Health::Healthy,
        }],
        locality: Locality::default(),
        health: *dice.pick(&[Health::Healthy, Health::Unhealthy, Health::Draining]),
        weight: 1 + dice.below(3) as u32,
    }
}

/// Bound to the service by its own namespace or by the other one, and pointing anywhere.
fn route(service: Key, dice: &mut Dice) -> HttpRoute {
    let rules = (0..1 + dice.below(2)).map(|number| {
        let backend = |dice: &mut Dice| BackendRef {
            service: Key::new(*dice.pick(&NAMESPACES), *dice.pick(&SERVICES)),
            port: 80,
            weight: dice.below(3) as u32,
        };
        let path = PathMatch::Prefix(if number == 0 { "/a".to_owned() } else { "/".to_owned() });
        RouteRule {
            matches: vec![RouteMatch { path, ..RouteMatch::default() }],
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
            backends: (0..dice.below(3)).map(|_| backend(dice)).collect(),
            timeouts: Default::default(),
            retry: None,
        }
    });
    let rules = rules.collect();
    let namespace = *dice.pick(&NAMESPACES);
    HttpRoute {
        key: Key::new(namespace, format!("to-{}", service.name)),
        parents: vec![ParentRef { service, port: None }],
        rules,
        created: 0,
    }
}

/// The wanted and own resources, and all that exists of what they point to.
pub(crate) fn closure(
    roots: impl Iterator<Item = Reference>,
    mut resolve: impl FnMut(&Reference) -> Option<Resource>,
) -> BTreeMap<Reference, Option<Resource>> {
    let mut open: Vec<Reference> = roots.collect();
    let mut found = BTreeMap::new();
    while let Some(reference) = open.pop() {
        if found.contains_key(&reference) {
            continue;
        }
        let resource = resolve(&reference);
        open.extend(resource.iter().flat_map(points_to));
        found.insert(reference, resource);
    }
    found
}

pub(crate) fn own(workload: &str) -> [Reference; 4] {
    let namespace = workload.split('/').next().unwrap_or_default();
    [
        Reference::new(ResourceType::MeshSettings, "default"),
        Reference::new(ResourceType::TrustBundle, "mesh.local"),
        Reference::new(ResourceType::Inbound, workload),
        Reference::new(ResourceType::NameTable, namespace),
    ]
}
