//! The resources that a snapshot is made of, and how destinations are made of them: recomputed where a
//! change made them stale, kept as they were while parts of the new one are still on their way.
//!
//! Endpoints keep their state (load) over pushes; TLS configurations are kept per set of expected
//! identities, because each has its own store of sessions.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshwork_core::Instant;
use meshwork_core::balance::{Candidates, Near};
use meshwork_core::model::{Health, Locality, SpiffeId};
use meshwork_core::name::PortName;
use meshwork_core::names::Tables;
use meshwork_core::policy::Distribution;
use meshwork_core::resource::{
    Cluster, Endpoints, Inbound, Listener, MeshSettings, NameTable, Resource, ResourceType, Route,
};

use crate::alpn::ALPN_HTTP1;
use crate::destination::{Backend, BackendTls, Destination, Member};
use crate::live::{Credentials, Found};
use crate::pace::Pace;
use crate::telemetry::{Labels, Registry};

/// The resources that the snapshot is made of. Only the side thread writes here.
#[derive(Default)]
pub(crate) struct Known {
    /// `None`: known to be absent.
    listeners: HashMap<String, Option<Arc<Listener>>>,
    routes: HashMap<PortName, Arc<Route>>,
    clusters: HashMap<PortName, Arc<Cluster>>,
    endpoints: HashMap<PortName, Arc<Endpoints>>,
    /// Who points to a route, and to a cluster. A push of thousands of destinations looks each up.
    listeners_of: Pointers<String>,
    routes_of: Pointers<PortName>,
    backends: HashMap<PortName, Arc<Backend>>,
    pub(crate) settings: Option<Arc<MeshSettings>>,
    pub(crate) inbound: Option<Arc<Inbound>>,
    pub(crate) names: Arc<Tables>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    tls: HashMap<BTreeSet<SpiffeId>, BackendTls>,
    tls_made: u64,
    /// Where this sidecar is.
    pub(crate) locality: Locality,
}

/// A resource as it is shared with the snapshots.
pub(crate) enum Shared {
    Listener(Arc<Listener>),
    Route(Arc<Route>),
    Cluster(Arc<Cluster>),
    Endpoints(Arc<Endpoints>),
    Inbound(Arc<Inbound>),
    MeshSettings(Arc<MeshSettings>),
    NameTable(Arc<NameTable>),
}

impl Shared {
    /// A copy.
    pub(crate) fn resource(&self) -> Resource {
        match self {
            Self::Listener(listener) => Resource::Listener(Listener::clone(listener)),
            Self::Route(route) => Resource::Route(Route::clone(route)),
            Self::Cluster(cluster) => Resource::Cluster(Cluster::clone(cluster)),
            Self::Endpoints(endpoints) => Resource::Endpoints(Endpoints::clone(endpoints)),
            Self::Inbound(inbound) => Resource::Inbound(Inbound::clone(inbound)),
            Self::MeshSettings(settings) => Resource::MeshSettings(MeshSettings::clone(settings)),
            Self::NameTable(table) => Resource::NameTable(NameTable::clone(table)),
        }
    }
}

/// What a change makes stale.
#[derive(Default)]
pub(crate) struct Stale {
    names: BTreeSet<String>,
    /// Their backends are made again once, however many resources of theirs came.
    clusters: BTreeSet<PortName>,
    all: bool,
}

/// By what is pointed to, who points there.
struct Pointers<T>(HashMap<PortName, BTreeSet<T>>);

impl<T> Default for Pointers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Ord + Clone> Pointers<T> {
    fn add(&mut self, to: &PortName, from: &T) {
        self.0.entry(to.clone()).or_default().insert(from.clone());
    }

    fn remove(&mut self, to: &PortName, from: &T) {
        if let Some(pointing) = self.0.get_mut(to) {
            pointing.remove(from);
            if pointing.is_empty() {
                self.0.remove(to);
            }
        }
    }

    fn to(&self, to: &PortName) -> impl Iterator<Item = &T> {
        self.0.get(to).into_iter().flatten()
    }
}

impl Known {
    pub(crate) fn set(&mut self, resource: Resource, stale: &mut Stale) {
        match resource {
            Resource::Listener(listener) => {
                self.set_listener(listener.name.clone(), Some(Arc::new(listener)), stale);
            }
            Resource::Route(route) => self.set_route(&route.name.clone(), Some(Arc::new(route)), stale),
            Resource::Cluster(cluster) => {
                stale.clusters.insert(cluster.name.clone());
                self.clusters.insert(cluster.name.clone(), Arc::new(cluster));
            }
            Resource::Endpoints(endpoints) => {
                stale.clusters.insert(endpoints.name.clone());
                self.endpoints.insert(endpoints.name.clone(), Arc::new(endpoints));
            }
            Resource::Inbound(inbound) => self.inbound = Some(Arc::new(inbound)),
            Resource::MeshSettings(settings) => self.settings = Some(Arc::new(settings)),
            // Roots come with the certificate, through `set_credentials`.
            Resource::TrustBundle(_) => {}
            Resource::NameTable(table) => Arc::make_mut(&mut self.names).set(Arc::new(table)),
        }
    }

    pub(crate) fn remove(&mut self, kind: ResourceType, name: &str, stale: &mut Stale) {
        let port = || name.parse::<PortName>().ok();
        match kind {
            ResourceType::Listener => self.set_listener(name.to_owned(), None, stale),
            ResourceType::Route => {
                if let Some(name) = port() {
                    self.set_route(&name, None, stale);
                }
            }
            ResourceType::Cluster => {
                if let Some(name) = port() {
                    self.clusters.remove(&name);
                    stale.clusters.insert(name);
                }
            }
            ResourceType::Endpoints => {
                if let Some(name) = port() {
                    self.endpoints.remove(&name);
                    stale.clusters.insert(name);
                }
            }
            // Ours as long as the sidecar runs: a control plane that forgets them changes nothing.
            ResourceType::Inbound | ResourceType::MeshSettings | ResourceType::TrustBundle => {}
            ResourceType::NameTable => Arc::make_mut(&mut self.names).set_absent(name),
        }
    }

    /// Every resource, but for the roots: what is pointed to comes before what points to it.
    pub(crate) fn resources(&self) -> Vec<Shared> {
        let own = self.settings.iter().cloned().map(Shared::MeshSettings);
        let own = own.chain(self.inbound.iter().cloned().map(Shared::Inbound));
        let endpoints = self.endpoints.values().cloned().map(Shared::Endpoints);
        let clusters = self.clusters.values().cloned().map(Shared::Cluster);
        let routes = self.routes.values().cloned().map(Shared::Route);
        let listeners = self.listeners.values().flatten().cloned().map(Shared::Listener);
        let names = self.names.iter().filter_map(|(_, table)| table.cloned()).map(Shared::NameTable);
        own.chain(names).chain(endpoints).chain(clusters).chain(routes).chain(listeners).collect()
    }

    /// Names that were asked for, absent ones too.
    pub(crate) fn names(&self) -> Vec<String> {
        self.listeners.keys().cloned().collect()
    }

    /// `None`: known to be absent.
    fn set_listener(&mut self, name: String, listener: Option<Arc<Listener>>, stale: &mut Stale) {
        let target = listener.as_ref().map(|listener| listener.target.clone());
        let old = self.listeners.insert(name.clone(), listener).flatten();
        self.unpoint(old, &name);
        if let Some(target) = target {
            self.listeners_of.add(&target, &name);
        }
        stale.names.insert(name);
    }

    fn unpoint(&mut self, old: Option<Arc<Listener>>, name: &String) {
        if let Some(old) = old {
            self.listeners_of.remove(&old.target, name);
        }
    }

    fn set_route(&mut self, name: &PortName, route: Option<Arc<Route>>, stale: &mut Stale) {
        let old = match &route {
            Some(route) => self.routes.insert(name.clone(), route.clone()),
            None => self.routes.remove(name),
        };
        for cluster in old.iter().flat_map(|old| clusters(old)) {
            self.routes_of.remove(cluster, name);
        }
        for cluster in route.iter().flat_map(|route| clusters(route)) {
            self.routes_of.add(cluster, name);
        }
        stale.names.extend(self.listeners_of.to(name).cloned());
    }

    /// The number of the next TLS configuration.
    pub(crate) fn next_tls(&self) -> u64 {
        self.tls_made + 1
    }

    /// A new certificate or new roots: no TLS configuration that was made before is used again.
    pub(crate) fn set_credentials(&mut self, credentials: Credentials) -> Stale {
        self.credentials = Some(Arc::new(credentials));
        self.tls.clear();
        Stale { all: true, ..Stale::default() }
    }

    /// A name that nobody subscribes to any more: neither present nor absent.
    pub(crate) fn forget(&mut self, name: &str) -> Stale {
        let name = name.to_owned();
        let old = self.listeners.remove(&name).flatten();
        self.unpoint(old, &name);
        Stale { names: BTreeSet::from([name]), ..Stale::default() }
    }

    /// Makes stale backends again; the names whose destination must be made again.
    pub(crate) fn affected(&mut self, stale: Stale, now: Instant, pace: &mut Pace) -> BTreeSet<String> {
        let Stale { mut names, mut clusters, all } = stale;
        if all {
            clusters.extend(self.clusters.keys().cloned());
            names.extend(self.listeners.keys().cloned());
        }
        for cluster in &clusters {
            pace.step();
            self.remake_backend(cluster, now);
            let routes = self.routes_of.to(cluster);
            names.extend(routes.flat_map(|route| self.listeners_of.to(route)).cloned());
        }
        names
    }

    fn remake_backend(&mut self, name: &PortName, now: Instant) {
        let (Some(cluster), Some(endpoints)) = (self.clusters.get(name), self.endpoints.get(name)) else {
            self.backends.remove(name);
            return;
        };
        let (cluster, endpoints) = (cluster.clone(), endpoints.clone());
        let old = self.backends.get(name);
        let before: HashMap<SocketAddr, &Member> = old
            .iter()
            .flat_map(|backend| &backend.members)
            .map(|member| (member.endpoint.address, member))
            .collect();
        let turn = old.map_or(0, |backend| backend.turn.load(Ordering::Relaxed));
        let state = old.map(|backend| backend.state.clone()).unwrap_or_default();
        let near = match cluster.traffic.distribution {
            Distribution::Anywhere => Near::ANYWHERE,
            Distribution::PreferSameZone => Near::to(&self.locality),
        };
        let members = endpoints.endpoints.iter().map(|endpoint| Member {
            endpoint: endpoint.clone(),
            level: near.level(endpoint),
            state: before.get(&endpoint.address).map(|member| member.state.clone()).unwrap_or_default(),
        });
        let members: Vec<_> = members.collect();
        state.recount(&members);
        if let Some(window) = cluster.traffic.slow_start {
            // Nobody is new among endpoints that are all new.
            let is_new =
                |member: &&Member| !before.is_empty() && !is_healthy(before.get(&member.endpoint.address));
            members.iter().filter(is_new).for_each(|member| state.start_slowly(member, now, window));
        }
        let candidates = Candidates::of(&endpoints.endpoints, &cluster.balance, near);
        let tls = self.tls(&cluster.identities);
        let backend = Backend { cluster, members, candidates, tls, turn: turn.into(), state };
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
                let expected_ids = Arc::new(expected.clone());
                let not_after = identity.not_after();
                let tls = BackendTls { config, expected: expected_ids, not_after, id: self.tls_made };
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

fn is_healthy(member: Option<&&Member>) -> bool {
    member.is_some_and(|member| member.endpoint.health == Health::Healthy)
}

/// What a route points to.
fn clusters(route: &Route) -> impl Iterator<Item = &PortName> {
    route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.cluster)
}
