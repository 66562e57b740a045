//! `Mesh`: one version of everything that operators and sidecars declared, indexed for `compile`.
//!
//! A version never changes once it is shared: the store clones it (cheap: only the namespaces that change are
//! copied, and their entries are `Arc`s), changes the clone and publishes that. `changed` tells which
//! resources two versions may differ in, so that a push recompiles those and compares their versions.
//!
//! Pure. Everything in here was judged by `validate` before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::manifest::Kind;
use crate::model::{
    HttpRoute, Key, MeshConfig, ParentRef, Service, ServicePort, TargetRef, TrafficPolicy, Transport,
    Workload, WorkloadPort,
};
use crate::name::PortName;
use crate::resource::ResourceType;
use crate::validate::Declared;
use crate::virtual_address::VirtualRanges;

mod addresses;
mod changed;

use addresses::Addresses;
pub use changed::{Changed, Topic, Topics};

/// One version of everything.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    mesh_id: Arc<str>,
    trust_domain: Arc<str>,
    config: MeshConfig,
    roots: Arc<Vec<Vec<u8>>>,
    issuing_root: Arc<str>,
    virtual_ranges: Option<VirtualRanges>,
    /// Who has which address.
    addresses: Arc<Addresses>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Routes by the service that they are bound to, producers' and consumers' alike.
    bound: Arc<BTreeMap<Key, Bound>>,
    /// Policies by the service that they are for.
    targeted: Arc<BTreeMap<Key, Targeted>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Namespace {
    services: BTreeMap<String, Arc<Service>>,
    workloads: BTreeMap<String, Arc<Workload>>,
    routes: BTreeMap<String, Arc<HttpRoute>>,
    policies: BTreeMap<String, Arc<TrafficPolicy>>,
}

type Bound = BTreeMap<Key, Arc<HttpRoute>>;
type Targeted = BTreeMap<Key, Arc<TrafficPolicy>>;

/// Changing a version that nobody else sees yet.
impl Mesh {
    pub fn new(mesh_id: &str, trust_domain: &str) -> Self {
        Self { mesh_id: mesh_id.into(), trust_domain: trust_domain.into(), ..Self::default() }
    }

    pub fn set_config(&mut self, config: MeshConfig) {
        self.config = config;
    }

    /// The trust bundle, DER.
    pub fn set_roots(&mut self, roots: Vec<Vec<u8>>) {
        self.roots = Arc::new(roots);
    }

    /// The hash of the root's key below which leaves are signed.
    pub fn set_issuing_root(&mut self, hash: &str) {
        self.issuing_root = hash.into();
    }

    /// Where services' virtual addresses are.
    pub fn set_virtual_ranges(&mut self, ranges: VirtualRanges) {
        self.virtual_ranges = Some(ranges);
    }

    pub fn put(&mut self, declared: Declared) {
        match declared {
            Declared::Service(service) => self.put_service(service),
            Declared::Workload(workload) => self.put_workload(workload),
            Declared::HttpRoute(route) => self.put_route(route),
            Declared::TrafficPolicy(policy) => self.put_policy(policy),
            Declared::MeshConfig(config) => self.set_config(config),
        }
    }

    /// Removes whatever is there; a mesh without a `MeshConfig` has the default one.
    pub fn remove(&mut self, kind: Kind, key: &Key) {
        match kind {
            Kind::Service => drop(self.remove_service(key)),
            Kind::Workload => drop(self.remove_workload(key)),
            Kind::HttpRoute => drop(self.remove_route(key)),
            Kind::TrafficPolicy => drop(self.remove_policy(key)),
            Kind::MeshConfig => self.set_config(MeshConfig::default()),
        }
    }

    pub fn put_service(&mut self, service: Service) {
        let before = self.service(&service.key).cloned();
        Addresses::move_service(&mut self.addresses, before.as_deref(), Some(&service));
        let Key { namespace, name } = service.key.clone();
        self.namespace_mut(namespace).services.insert(name, Arc::new(service));
    }

    pub fn remove_service(&mut self, key: &Key) -> Option<Arc<Service>> {
        let removed = self.shrink(key, |namespace| namespace.services.remove(&key.name))?;
        Addresses::move_service(&mut self.addresses, Some(&removed), None);
        Some(removed)
    }

    pub fn put_workload(&mut self, workload: Workload) {
        let before = self.workload(&workload.key).cloned();
        Addresses::move_workload(&mut self.addresses, before.as_deref(), Some(&workload));
        let Key { namespace, name } = workload.key.clone();
        self.namespace_mut(namespace).workloads.insert(name, Arc::new(workload));
    }

    pub fn remove_workload(&mut self, key: &Key) -> Option<Arc<Workload>> {
        let removed = self.shrink(key, |namespace| namespace.workloads.remove(&key.name))?;
        Addresses::move_workload(&mut self.addresses, Some(&removed), None);
        Some(removed)
    }

    pub fn put_route(&mut self, route: HttpRoute) {
        self.remove_route(&route.key);
        let route = Arc::new(route);
        let bound = Arc::make_mut(&mut self.bound);
        for parent in &route.parents {
            bound.entry(parent.service.clone()).or_default().insert(route.key.clone(), route.clone());
        }
        let Key { namespace, name } = route.key.clone();
        self.namespace_mut(namespace).routes.insert(name, route);
    }

    pub fn remove_route(&mut self, key: &Key) -> Option<Arc<HttpRoute>> {
        let route = self.shrink(key, |namespace| namespace.routes.remove(&key.name))?;
        let bound = Arc::make_mut(&mut self.bound);
        for parent in &route.parents {
            if let Some(routes) = bound.get_mut(&parent.service) {
                routes.remove(key);
                if routes.is_empty() {
                    bound.remove(&parent.service);
                }
            }
        }
        Some(route)
    }

    pub fn put_policy(&mut self, policy: TrafficPolicy) {
        self.remove_policy(&policy.key);
        let policy = Arc::new(policy);
        let targeted = Arc::make_mut(&mut self.targeted);
        for target in &policy.targets {
            targeted.entry(target.service.clone()).or_default().insert(policy.key.clone(), policy.clone());
        }
        let Key { namespace, name } = policy.key.clone();
        self.namespace_mut(namespace).policies.insert(name, policy);
    }

    pub fn remove_policy(&mut self, key: &Key) -> Option<Arc<TrafficPolicy>> {
        let policy = self.shrink(key, |namespace| namespace.policies.remove(&key.name))?;
        let targeted = Arc::make_mut(&mut self.targeted);
        for target in &policy.targets {
            if let Some(policies) = targeted.get_mut(&target.service) {
                policies.remove(key);
                if policies.is_empty() {
                    targeted.remove(&target.service);
                }
            }
        }
        Some(policy)
    }

    fn namespace_mut(&mut self, name: String) -> &mut Namespace {
        Arc::make_mut(self.namespaces.entry(name).or_default())
    }

    /// Removes something from a namespace, and the namespace with its last entry.
    fn shrink<T>(&mut self, key: &Key, remove: impl FnOnce(&mut Namespace) -> Option<T>) -> Option<T> {
        let namespace = self.namespaces.get_mut(&key.namespace)?;
        let removed = remove(Arc::make_mut(namespace));
        if **namespace == Namespace::default() {
            self.namespaces.remove(&key.namespace);
        }
        removed
    }
}

/// Reading. Everything that is listed comes ordered by key.
impl Mesh {
    pub fn mesh_id(&self) -> &str {
        &self.mesh_id
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    pub fn issuing_root(&self) -> &str {
        &self.issuing_root
    }

    pub fn virtual_ranges(&self) -> Option<VirtualRanges> {
        self.virtual_ranges
    }

    /// Networks whose addresses are worth asking about: the virtual ranges, and wherever a service or a workload is.
    pub fn ranges(&self) -> Vec<IpNet> {
        self.addresses.ranges(self.virtual_ranges)
    }

    /// The service that an address stands for: virtual, or given by Kubernetes. Of several the first by its name.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.services_at(address).next()
    }

    /// All that claim it.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.addresses.services(address).filter_map(|key| self.service(key))
    }

    /// The workloads that are reached at an address.
    pub fn workloads_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        self.addresses.workloads(address).filter_map(|key| self.workload(key))
    }

    pub fn service(&self, key: &Key) -> Option<&Arc<Service>> {
        self.namespaces.get(&key.namespace)?.services.get(&key.name)
    }

    pub fn workload(&self, key: &Key) -> Option<&Arc<Workload>> {
        self.namespaces.get(&key.namespace)?.workloads.get(&key.name)
    }

    pub fn route(&self, key: &Key) -> Option<&Arc<HttpRoute>> {
        self.namespaces.get(&key.namespace)?.routes.get(&key.name)
    }

    pub fn policy(&self, key: &Key) -> Option<&Arc<TrafficPolicy>> {
        self.namespaces.get(&key.namespace)?.policies.get(&key.name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.namespaces.values().flat_map(|namespace| namespace.services.values())
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.namespaces.values().flat_map(|namespace| namespace.workloads.values())
    }

    pub fn routes(&self) -> impl Iterator<Item = &Arc<HttpRoute>> {
        self.namespaces.values().flat_map(|namespace| namespace.routes.values())
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        self.namespaces.values().flat_map(|namespace| namespace.policies.values())
    }

    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.namespaces.get(namespace).into_iter().flat_map(|namespace| namespace.services.values())
    }

    pub fn workloads_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Workload>> {
        self.namespaces.get(namespace).into_iter().flat_map(|namespace| namespace.workloads.values())
    }

    /// The workloads that a service selects, whether they may serve it or not (`serves`).
    pub fn selected_by<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads_in(&service.key.namespace).filter(|workload| selects(service, workload))
    }

    /// The routes of namespace `owner` that are bound to a service's port.
    pub fn routes_bound<'a>(
        &'a self,
        service: &'a Key,
        port: u16,
        owner: &'a str,
    ) -> impl Iterator<Item = &'a Arc<HttpRoute>> {
        let routes = self.bound.get(service).into_iter().flat_map(BTreeMap::values);
        routes.filter(move |route| {
            let bound = |parent: &ParentRef| {
                parent.service == *service && parent.port.is_none_or(|bound| bound == port)
            };
            route.key.namespace == owner && route.parents.iter().any(bound)
        })
    }

    /// All routes that are bound to any port of a service, from any namespace.
    pub fn routes_of(&self, service: &Key) -> impl Iterator<Item = &Arc<HttpRoute>> {
        self.bound.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// The policy that holds for exactly this target, `section` being one port by its name: the oldest, then the
    /// first by name (GEP-713).
    pub fn policy_for(&self, service: &Key, section: Option<&str>) -> Option<&Arc<TrafficPolicy>> {
        let is_target =
            |target: &TargetRef| target.service == *service && target.section.as_deref() == section;
        let policies = self.targeted.get(service).into_iter().flat_map(BTreeMap::values);
        let policies = policies.filter(|policy| policy.targets.iter().any(is_target));
        policies.min_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)))
    }

    /// The policy for a service's port: the one for that port by its name, else the one for the whole service.
    pub fn policy_of(&self, service: &Key, port: &ServicePort) -> Option<&Arc<TrafficPolicy>> {
        let own = port.name.as_deref().and_then(|name| self.policy_for(service, Some(name)));
        own.or_else(|| self.policy_for(service, None))
    }

    /// Whether callers of `namespace` have a view of their own of a service's port (a consumer route).
    pub fn has_view(&self, service: &Key, port: u16, namespace: &str) -> bool {
        service.namespace != namespace && self.routes_bound(service, port, namespace).next().is_some()
    }
}

/// Whether a service's selector chooses a workload. An empty selector chooses none.
pub fn selects(service: &Service, workload: &Workload) -> bool {
    !service.selector.is_empty()
        && service.key.namespace == workload.key.namespace
        && service.selector.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
}

/// The workload's port that stands behind a service's port.
///
/// What the workload registered for comes first: its application's ports are its own business, and
/// `targetPort` can't name those of every replica on a machine.
pub fn port_behind<'a>(port: &ServicePort, workload: &'a Workload) -> Option<&'a WorkloadPort> {
    let registered = workload.ports.iter().find(|candidate| candidate.service_port == Some(port.port));
    let targeted = || workload.ports.iter().find(|candidate| candidate.app_port == port.target_port);
    registered.or_else(targeted)
}

/// Whether a selected workload can prove that it may serve the service. Labels are the workload's own words,
/// its account is not: a workload under an account that the service does not declare would be refused in
/// every handshake, so it is no endpoint. One without a sidecar proves nothing; an operator wrote it down.
pub fn may_serve(service: &Service, workload: &Workload, port: &WorkloadPort) -> bool {
    let plaintext = port.transports.contains(&Transport::Plaintext);
    plaintext || service.accounts.contains(&workload.account)
}
