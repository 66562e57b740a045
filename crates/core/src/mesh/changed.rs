//! What differs between two versions of the mesh, said so that a resource's name can be held against it.
//!
//! May say too much, never too little: whoever pushes recompiles what is concerned and compares versions.

use super::*;
use crate::compile::{Audience, Meant, envoy};

/// What a resource is about, coarser than its name: of many who want to know, a change looks up those of its topics and
/// asks nobody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Service(Key),
    Address(IpAddr),
    Workload(Key),
    /// The names of a namespace.
    Names(String),
    Settings,
    /// Any service, or what is said of one.
    Services,
    /// Whatever changes.
    Anything,
}

/// The topics of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// It may concern whatever there is.
    All,
    Some(BTreeSet<Topic>),
}

impl Topic {
    /// All that a resource is about, seen from its asker's namespace. A change that concerns it has one of them.
    pub fn of(
        audience: Audience,
        resource_type: ResourceType,
        name: &str,
        asker_namespace: &str,
    ) -> Vec<Self> {
        let service = || name.parse::<PortName>().ok().map(|name| Self::Service(name.service));
        let destination = match audience {
            Audience::Envoy => envoy::destination(name).unwrap_or(name),
            Audience::Sidecar(_) | Audience::Grpc => name,
        };
        let own = match resource_type {
            ResourceType::Listener => match crate::compile::meant(destination, asker_namespace) {
                Some(Meant::Service(key, _)) => Some(Self::Service(key)),
                Some(Meant::Address(address, _)) => Some(Self::Address(address)),
                None => None,
            },
            ResourceType::Route | ResourceType::Cluster | ResourceType::Endpoints => service(),
            ResourceType::Inbound => {
                name.split_once('/').map(|(namespace, name)| Self::Workload(Key::new(namespace, name)))
            }
            ResourceType::MeshSettings => Some(Self::Settings),
            // Roots are everybody's.
            ResourceType::TrustBundle => None,
            ResourceType::NameTable => Some(Self::Names(name.to_owned())),
        };
        let also = match (audience, resource_type) {
            (Audience::Grpc | Audience::Envoy, ResourceType::Route) => Some(Self::Services),
            (Audience::Sidecar(_) | Audience::Grpc | Audience::Envoy, _) => None,
        };
        own.into_iter().chain(also).collect()
    }
}

/// What may differ between two versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The services themselves: their ports, selector, accounts, balance, existence.
    services: BTreeSet<Key>,
    /// Services whose bound routes differ.
    routed: BTreeSet<Key>,
    /// Services whose policies differ.
    shaped: BTreeSet<Key>,
    /// Services whose endpoints may differ.
    served: BTreeSet<Key>,
    /// Workloads whose inbound side may differ.
    workloads: BTreeSet<Key>,
    /// What they stand for may differ.
    addresses: BTreeSet<IpAddr>,
    /// Namespaces whose names may differ.
    named: BTreeSet<String>,
    settings: bool,
    /// What holds for every workload that its services say nothing of.
    inbound: bool,
    roots: bool,
    /// Every identity, hence every cluster.
    trust_domain: bool,
}

impl Changed {
    pub fn between(old: &Mesh, new: &Mesh) -> Self {
        let mut changed = Self {
            trust_domain: old.trust_domain != new.trust_domain,
            roots: old.roots != new.roots || old.trust_domain != new.trust_domain,
            settings: old.mesh_id != new.mesh_id
                || old.trust_domain != new.trust_domain
                || old.config != new.config
                || old.issuing_root != new.issuing_root
                || differ(old, new),
            inbound: old.config.inbound != new.config.inbound,
            ..Self::default()
        };
        let empty = Arc::new(Namespace::default());
        let names: BTreeSet<&String> = old.namespaces.keys().chain(new.namespaces.keys()).collect();
        for name in names {
            let before = old.namespaces.get(name).unwrap_or(&empty);
            let after = new.namespaces.get(name).unwrap_or(&empty);
            if !Arc::ptr_eq(before, after) {
                changed.add_namespace(name, before, after);
            }
        }
        for service in &changed.routed {
            let known = [old, new].into_iter().filter_map(|mesh| mesh.service(service));
            changed.addresses.extend(known.flat_map(|service| service.addresses()));
        }
        changed
    }

    fn add_namespace(&mut self, name: &str, old: &Namespace, new: &Namespace) {
        for service in differing(&old.services, &new.services) {
            self.services.insert(service.key.clone());
            self.named.insert(name.to_owned());
            self.addresses.extend(service.addresses());
            let workloads = old.workloads.values().chain(new.workloads.values());
            for workload in workloads.filter(|workload| selects(service, workload)) {
                self.workloads.insert(workload.key.clone());
                self.addresses.extend(workload.addresses());
            }
        }
        for workload in differing(&old.workloads, &new.workloads) {
            self.workloads.insert(workload.key.clone());
            self.addresses.extend(workload.addresses());
            let services = old.services.values().chain(new.services.values());
            for service in services.filter(|service| selects(service, workload)) {
                self.served.insert(service.key.clone());
                if service.headless {
                    self.named.insert(name.to_owned());
                }
            }
        }
        for route in differing(&old.routes, &new.routes) {
            self.routed.extend(route.parents.iter().map(|parent| parent.service.clone()));
        }
        for policy in differing(&old.policies, &new.policies) {
            self.shaped.extend(policy.targets.iter().map(|target| target.service.clone()));
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the resource of that type and name may differ, seen from the asker's namespace.
    pub fn concerns(&self, resource_type: ResourceType, name: &str, asker_namespace: &str) -> bool {
        let port = |changed: &[&BTreeSet<Key>]| {
            let Ok(PortName { service, instance, .. }) = name.parse::<PortName>() else { return false };
            // Of an instance there is something only while it serves the port.
            let served = instance.is_some() && self.served.contains(&service);
            served || changed.iter().any(|changed| changed.contains(&service))
        };
        match resource_type {
            ResourceType::Listener => match crate::compile::meant(name, asker_namespace) {
                Some(Meant::Service(key, _)) => self.services.contains(&key) || self.routed.contains(&key),
                Some(Meant::Address(address, _)) => self.addresses.contains(&address),
                None => false,
            },
            ResourceType::Route => port(&[&self.services, &self.routed]),
            ResourceType::Cluster => self.trust_domain || port(&[&self.services, &self.shaped]),
            ResourceType::Endpoints => port(&[&self.services, &self.served]),
            ResourceType::Inbound => {
                let workload = name.split_once('/').map(|(namespace, name)| Key::new(namespace, name));
                self.inbound || workload.is_some_and(|workload| self.workloads.contains(&workload))
            }
            ResourceType::MeshSettings => self.settings,
            ResourceType::TrustBundle => self.roots,
            ResourceType::NameTable => self.named.contains(name),
        }
    }

    /// The same of what an audience is told, of which others make more than a sidecar does: their routes hold what
    /// policies say, and their clusters depend on who serves them.
    pub fn concerns_for(
        &self,
        audience: Audience,
        resource_type: ResourceType,
        name: &str,
        asker_namespace: &str,
    ) -> bool {
        let own = self.concerns(resource_type, name, asker_namespace);
        match (audience, resource_type) {
            (Audience::Sidecar(_), _) => own,
            (Audience::Grpc | Audience::Envoy, ResourceType::Route) => {
                own || !self.shaped.is_empty() || !self.services.is_empty()
            }
            (Audience::Grpc | Audience::Envoy, ResourceType::Cluster | ResourceType::Endpoints) => {
                own || self.concerns(ResourceType::Endpoints, name, asker_namespace)
            }
            (Audience::Envoy, ResourceType::Listener) => envoy::destination(name)
                .is_some_and(|name| self.concerns(resource_type, name, asker_namespace)),
            (Audience::Grpc | Audience::Envoy, _) => own,
        }
    }

    /// Who has to be asked about it. Roots, the trust domain and what holds for all workloads change once in years.
    pub fn topics(&self) -> Topics {
        if self.roots || self.trust_domain || self.inbound {
            return Topics::All;
        }
        let services = self.services().into_iter().cloned().map(Topic::Service);
        let addresses = self.addresses.iter().copied().map(Topic::Address);
        let workloads = self.workloads.iter().cloned().map(Topic::Workload);
        let named = self.named.iter().cloned().map(Topic::Names);
        let settings = self.settings.then_some(Topic::Settings);
        let any_service = (!self.services.is_empty() || !self.shaped.is_empty()).then_some(Topic::Services);
        let all = services.chain(addresses).chain(workloads).chain(named).chain(settings).chain(any_service);
        let anything = (!self.is_empty()).then_some(Topic::Anything);
        Topics::Some(all.chain(anything).collect())
    }

    /// The services of which anything differs.
    pub fn services(&self) -> BTreeSet<&Key> {
        self.services.iter().chain(&self.routed).chain(&self.shaped).chain(&self.served).collect()
    }
}

/// Whether the ranges differ. What is shared need not be compared.
fn differ(old: &Mesh, new: &Mesh) -> bool {
    let moved = !Arc::ptr_eq(&old.addresses, &new.addresses) && old.addresses != new.addresses;
    old.virtual_ranges != new.virtual_ranges || (moved && old.ranges() != new.ranges())
}

/// Both versions of each entry that is not the same in both maps.
fn differing<'a, T: PartialEq>(
    old: &'a BTreeMap<String, Arc<T>>,
    new: &'a BTreeMap<String, Arc<T>>,
) -> impl Iterator<Item = &'a Arc<T>> {
    let missing = |from: &'a BTreeMap<String, Arc<T>>, other: &'a BTreeMap<String, Arc<T>>| {
        from.iter().filter_map(move |(name, value)| {
            let same = other.get(name).is_some_and(|other| Arc::ptr_eq(value, other) || value == other);
            (!same).then_some(value)
        })
    };
    missing(old, new).chain(missing(new, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Change};
    use proptest::prelude::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Mesh), expect: &[&str]) {
        let mut old = Mesh::new("m", "mesh.local");
        for name in ["cart", "web"] {
            old.put_service(fixture::service("default", name));
            old.put_workload(fixture::workload("default", name, 1));
        }
        old.put_route(fixture::route("default", "split", "default", "cart"));
        let mut new = old.clone();
        change(&mut new);
        let changed = Changed::between(&old, &new);
        let concerned: Vec<_> = fixture::all_names(&new)
            .into_iter()
            .filter(|(resource_type, name, asker)| {
                asker == "default"
                    && name != "cart.default:80"
                    && changed.concerns(*resource_type, name, asker)
            })
            .map(|(resource_type, name, _)| format!("{resource_type:?} {name}"))
            .filter(|line| !line.contains('?') && !line.contains(":81") && !line.contains("web.default"))
            .filter(|line| !line.contains("10.0.0.1:80"))
            .collect();
        assert_eq!(concerned, expect);
    }

    #[test]
    fn what_does_not_change_concerns_nothing() {
        check(|_| {}, &[]);
        check(|mesh| mesh.put_service(fixture::service("default", "cart")), &[]);
    }

    #[test]
    fn a_workloads_change_concerns_its_endpoints() {
        let drained = |mesh: &mut Mesh| {
            let workload = fixture::workload("default", "cart", 1);
            mesh.put_workload(Workload { health: crate::model::Health::Draining, ..workload });
        };
        check(drained, &["Endpoints default/cart:80", "Inbound default/cart-1"]);
    }

    #[test]
    fn a_routes_change_concerns_its_parents() {
        let removed = |mesh: &mut Mesh| {
            mesh.remove_route(&Key::new("default", "split"));
        };
        check(removed, &["Listener cart:80", "Route default/cart:80"]);
    }

    #[test]
    fn a_policys_change_concerns_the_clusters_that_it_names_and_named() {
        let added = |mesh: &mut Mesh| mesh.put_policy(fixture::policy("default", "slow", "cart"));
        check(added, &["Cluster default/cart:80"]);
        let mut old = Mesh::new("m", "mesh.local");
        old.put_policy(fixture::policy("default", "slow", "cart"));
        let mut new = old.clone();
        new.put_policy(fixture::policy("default", "slow", "web"));
        let changed = Changed::between(&old, &new);
        let concerned = |name: &str| changed.concerns(ResourceType::Cluster, name, "default");
        assert!(concerned("default/cart:80") && concerned("default/web:80") && !concerned("default/pay:80"));
    }

    #[test]
    fn a_services_change_concerns_all_of_it() {
        let removed = |mesh: &mut Mesh| {
            mesh.remove_service(&Key::new("default", "web"));
        };
        // The names are those of the new version: web's own are no longer among them.
        check(removed, &["Inbound default/web-1", "NameTable default"]);
        let accounts = |mesh: &mut Mesh| {
            let service = fixture::service("default", "web");
            mesh.put_service(Service { accounts: BTreeSet::new(), ..service });
        };
        check(
            accounts,
            &[
                "Cluster default/web:80",
                "Endpoints default/web:80",
                "Listener web:80",
                "Route default/web:80",
                "Inbound default/web-1",
                "NameTable default",
            ],
        );
    }

    #[test]
    fn what_an_address_stands_for_changes_with_its_service_its_routes_and_its_workloads() {
        let ranges = fixture::virtual_ranges();
        let at = |last: u8, name: &str| Service {
            virtual_address: Some(ranges.address([240, 0, 0, last].into())),
            ..fixture::service("default", name)
        };
        let mut old = Mesh::new("m", "mesh.local");
        old.set_virtual_ranges(ranges);
        for (number, name) in [(1, "cart"), (2, "web")] {
            old.put_service(at(number, name));
            old.put_workload(fixture::workload("default", name, number));
        }
        let concerned = |change: &dyn Fn(&mut Mesh)| {
            let mut new = old.clone();
            change(&mut new);
            let changed = Changed::between(&old, &new);
            let asked = ["240.0.0.1:80", "240.0.0.2:80", "240.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"];
            let mut found: Vec<_> = asked
                .into_iter()
                .filter(|name| changed.concerns(ResourceType::Listener, name, "shop"))
                .collect();
            let other = [(ResourceType::NameTable, "default"), (ResourceType::MeshSettings, "default")];
            let other = other.into_iter().filter(|(kind, name)| changed.concerns(*kind, name, "shop"));
            found.extend(
                other.map(|(kind, _)| if kind == ResourceType::NameTable { "names" } else { "settings" }),
            );
            found
        };
        assert_eq!(
            concerned(&|mesh| mesh.put_service(at(3, "web"))),
            ["240.0.0.2:80", "240.0.0.3:80", "10.0.0.2:80", "names"]
        );
        let view = |mesh: &mut Mesh| mesh.put_route(fixture::route("shop", "mine", "default", "cart"));
        assert_eq!(concerned(&view), ["240.0.0.1:80"]);
        let sick = |mesh: &mut Mesh| {
            let workload = fixture::workload("default", "cart", 1);
            mesh.put_workload(Workload { health: crate::model::Health::Unhealthy, ..workload });
        };
        assert_eq!(concerned(&sick), ["10.0.0.1:80"]);
        let gone = |mesh: &mut Mesh| drop(mesh.remove_workload(&Key::new("default", "cart-1")));
        assert_eq!(concerned(&gone), ["10.0.0.1:80", "settings"]);
    }

    #[test]
    fn an_endpoints_change_is_about_its_service_and_its_workload_alone() {
        let mut old = Mesh::new("m", "mesh.local");
        for name in ["cart", "web"] {
            old.put_service(fixture::service("default", name));
            old.put_workload(fixture::workload("default", name, 1));
        }
        let mut new = old.clone();
        let workload = fixture::workload("default", "cart", 1);
        new.put_workload(Workload { weight: 7, ..workload.clone() });
        let address = workload.ports[0].address.ip();
        let cart = [
            Topic::Service(Key::new("default", "cart")),
            Topic::Address(address),
            Topic::Workload(workload.key),
            Topic::Anything,
        ];
        assert_eq!(Changed::between(&old, &new).topics(), Topics::Some(cart.into()));
        let mut new = old.clone();
        new.set_roots(vec![vec![1]]);
        assert_eq!(Changed::between(&old, &new).topics(), Topics::All);
    }

    /// Whoever is looked up by topics misses nothing that a look at each name would have found.
    fn has_topic(changed: &Changed, audience: Audience, kind: ResourceType, name: &str, asker: &str) -> bool {
        match changed.topics() {
            Topics::All => true,
            Topics::Some(topics) => {
                Topic::of(audience, kind, name, asker).iter().any(|topic| topics.contains(topic))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn what_differs_is_always_concerned(seed: u64, changes in proptest::collection::vec(any::<u64>(), 1..4)) {
            let old = fixture::random_mesh(seed);
            let mut new = old.clone();
            for change in changes {
                Change::random(change).apply(&mut new);
            }
            let changed = Changed::between(&old, &new);
            let names: BTreeSet<_> = fixture::all_names(&old).into_iter().chain(fixture::all_names(&new)).collect();
            for (resource_type, name, asker) in names {
                let before = fixture::compile(&old, resource_type, &name, &asker);
                let after = fixture::compile(&new, resource_type, &name, &asker);
                prop_assert!(
                    before == after || changed.concerns(resource_type, &name, &asker),
                    "{resource_type:?} {name} for {asker}: {before:?} became {after:?}"
                );
                for audience in [Audience::Sidecar(crate::compile::Features::ALL), Audience::Grpc, Audience::Envoy] {
                    let name = match (audience, resource_type) {
                        (Audience::Envoy, ResourceType::Listener) => format!("{name}=127.0.0.1:9000"),
                        _ => name.clone(),
                    };
                    let [before, after] = [&old, &new]
                        .map(|mesh| crate::compile::compile(mesh, resource_type, &name, &asker, audience));
                    let concerned = changed.concerns_for(audience, resource_type, &name, &asker);
                    prop_assert!(
                        before == after || concerned,
                        "to {audience:?} {resource_type:?} {name} for {asker}: {before:?} became {after:?}"
                    );
                    prop_assert!(
                        !concerned || has_topic(&changed, audience, resource_type, &name, &asker),
                        "{resource_type:?} {name} for {asker} is concerned, but not among {:?}", changed.topics()
                    );
                }
            }
        }
    }
}
