//! The resources that a snapshot is made of, and how destinations are made of them: recomputed where a
//! change made them stale, kept as they were while parts of the new one are still on their way.
//!
//! Endpoints keep their state (load) over pushes; TLS configurations are kept per set of expected
//! identities, because each has its own store of sessions.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshwork_core::balance::Candidates;
use meshwork_core::model::SpiffeId;
use meshwork_core::name::PortName;
use meshwork_core::resource::{
    Cluster, Endpoints, Inbound, Listener, MeshSettings, Resource, ResourceType, Route,
};

use crate::destination::{Backend, BackendTls, Destination, Member};
use crate::endpoints::EndpointState;
use crate::live::{ALPN_HTTP1, Credentials, Found};
use crate::telemetry::{Labels, Registry};

/// The resources that the snapshot is made of. Only the side thread writes here.
#[derive(Default)]
pub(crate) struct Known {
    /// `None`: known to be absent.
    listeners: HashMap<String, Option<Arc<Listener>>>,
    routes: HashMap<PortName, Arc<Route>>,
    clusters: HashMap<PortName, Arc<Cluster>>,
    endpoints: HashMap<PortName, Arc<Endpoints>>,
    backends: HashMap<PortName, Arc<Backend>>,
    pub(crate) settings: Option<Arc<MeshSettings>>,
    pub(crate) inbound: Option<Arc<Inbound>>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    tls: HashMap<BTreeSet<SpiffeId>, BackendTls>,
    tls_made: u64,
}

/// What a change makes stale.
#[derive(Default)]
pub(crate) struct Stale {
    pub(crate) names: BTreeSet<String>,
    pub(crate) all: bool,
}

impl Known {
    pub(crate) fn set(&mut self, resource: Resource, stale: &mut Stale) {
        match resource {
            Resource::Listener(listener) => {
                stale.names.insert(listener.name.clone());
                self.listeners.insert(listener.name.clone(), Some(Arc::new(listener)));
            }
            Resource::Route(route) => {
                self.stale_by_route(&route.name, stale);
                self.routes.insert(route.name.clone(), Arc::new(route));
            }
            Resource::Cluster(cluster) => {
                let name = cluster.name.clone();
                self.clusters.insert(name.clone(), Arc::new(cluster));
                self.stale_by_backend(&name, stale);
            }
            Resource::Endpoints(endpoints) => {
                let name = endpoints.name.clone();
                self.endpoints.insert(name.clone(), Arc::new(endpoints));
                self.stale_by_backend(&name, stale);
            }
            Resource::Inbound(inbound) => self.inbound = Some(Arc::new(inbound)),
            Resource::MeshSettings(settings) => self.settings = Some(Arc::new(settings)),
            // Roots come with the certificate, through `set_credentials`.
            Resource::TrustBundle(_) => {}
        }
    }

    pub(crate) fn remove(&mut self, kind: ResourceType, name: &str, stale: &mut Stale) {
        let port = || name.parse::<PortName>().ok();
        match kind {
            ResourceType::Listener => {
                stale.names.insert(name.to_owned());
                self.listeners.insert(name.to_owned(), None);
            }
            ResourceType::Route => {
                if let Some(name) = port() {
                    self.stale_by_route(&name, stale);
                    self.routes.remove(&name);
                }
            }
            ResourceType::Cluster => {
                if let Some(name) = port() {
                    self.clusters.remove(&name);
                    self.stale_by_backend(&name, stale);
                }
            }
            ResourceType::Endpoints => {
                if let Some(name) = port() {
                    self.endpoints.remove(&name);
                    self.stale_by_backend(&name, stale);
                }
            }
            // Ours as long as the sidecar runs: a control plane that forgets them changes nothing.
            ResourceType::Inbound | ResourceType::MeshSettings | ResourceType::TrustBundle => {}
        }
    }

    fn stale_by_route(&self, route: &PortName, stale: &mut Stale) {
        let pointing = self.listeners.values().flatten().filter(|listener| listener.target == *route);
        stale.names.extend(pointing.map(|listener| listener.name.clone()));
    }

    fn stale_by_backend(&mut self, cluster: &PortName, stale: &mut Stale) {
        let routes = self.routes.values().filter(|route| {
            route.rules.iter().flat_map(|rule| &rule.backends).any(|backend| backend.cluster == *cluster)
        });
        for route in routes {
            self.stale_by_route(&route.name, stale);
        }
        self.remake_backend(cluster);
    }

    /// A new certificate or new roots: no TLS configuration that was made before is used again.
    pub(crate) fn set_credentials(&mut self, credentials: Credentials) -> Stale {
        self.credentials = Some(Arc::new(credentials));
        self.tls.clear();
        Stale { all: true, ..Stale::default() }
    }

    /// A name that nobody subscribes to any more: neither present nor absent.
    pub(crate) fn forget(&mut self, name: &str) -> Stale {
        self.listeners.remove(name);
        Stale { names: BTreeSet::from([name.to_owned()]), all: false }
    }

    /// The names whose destination must be made again.
    pub(crate) fn affected(&mut self, stale: &Stale) -> BTreeSet<String> {
        if !stale.all {
            return stale.names.clone();
        }
        let clusters: Vec<_> = self.clusters.keys().cloned().collect();
        for cluster in clusters {
            self.remake_backend(&cluster);
        }
        self.listeners.keys().cloned().collect()
    }

    fn remake_backend(&mut self, name: &PortName) {
        let (Some(cluster), Some(endpoints)) = (self.clusters.get(name), self.endpoints.get(name)) else {
            self.backends.remove(name);
            return;
        };
        let (cluster, endpoints) = (cluster.clone(), endpoints.clone());
        let old = self.backends.get(name);
        let states: HashMap<SocketAddr, Arc<EndpointState>> = old
            .iter()
            .flat_map(|backend| &backend.members)
            .map(|member| (member.endpoint.address, member.state.clone()))
            .collect();
        let turn = old.map_or(0, |backend| backend.turn.load(Ordering::Relaxed));
        let members = endpoints.endpoints.iter().map(|endpoint| Member {
            endpoint: endpoint.clone(),
            state: states.get(&endpoint.address).cloned().unwrap_or_default(),
        });
        let members = members.collect();
        let candidates = Candidates::of(&endpoints.endpoints);
        let tls = self.tls(&cluster.identities);
        let backend = Backend { cluster, members, candidates, tls, turn: turn.into() };
        self.backends.insert(name.clone(), Arc::new(backend));
    }

    fn tls(&mut self, expected: &BTreeSet<SpiffeId>) -> Option<BackendTls> {
        if let Some(tls) = self.tls.get(expected) {
            return Some(tls.clone());
        }
        let Credentials { identity, bundle, .. } = &**self.credentials.as_ref()?;
        if expected.is_empty() {
            return None;
        }
        // The ALPN protocol is chosen per connection (`connect.rs`), the session store is shared.
        match meshwork_identity::client_config(identity, bundle, expected, &[ALPN_HTTP1]) {
            Ok(config) => {
                self.tls_made += 1;
                let tls = BackendTls { config, expected: Arc::new(expected.clone()), id: self.tls_made };
                self.tls.insert(expected.clone(), tls.clone());
                Some(tls)
            }
            Err(error) => {
                tracing::error!(%error, "cannot set up TLS to {expected:?}");
                None
            }
        }
    }

    /// The destination behind a name; the old one while parts of the new one are still on their way.
    pub(crate) fn found(
        &self,
        name: &str,
        old: Option<&Found>,
        labels: &Registry,
        now_millis: u64,
    ) -> Option<Found> {
        let Some(listener) = self.listeners.get(name)? else {
            return Some(Found::Absent);
        };
        let Some(route) = self.routes.get(&listener.target) else {
            return old.cloned();
        };
        let backends = route.rules.iter().map(|rule| {
            rule.backends.iter().map(|backend| self.backends.get(&backend.cluster).cloned()).collect()
        });
        let used = match old {
            Some(Found::Service(old)) => old.used.load(Ordering::Relaxed),
            Some(Found::Absent) | None => now_millis,
        };
        let service = listener.target.service.to_string();
        let label = |rule: &str| labels.outbound(&Labels { peer: service.clone(), route: rule.to_owned() });
        Some(Found::Service(Arc::new(Destination {
            name: listener.target.clone(),
            hint: listener.hint,
            route: route.clone(),
            backends: backends.collect(),
            labels: route.rules.iter().map(|rule| label(&rule.name)).collect(),
            unmatched: label(""),
            used: used.into(),
        })))
    }
}
