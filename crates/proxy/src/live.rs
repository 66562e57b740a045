//! What the sidecar knows of the mesh right now: one snapshot, swapped whole.
//!
//! The side thread applies what the control plane sent (`apply`, `set_credentials`); workers borrow the
//! current snapshot for a request from its first decision to its last. A destination that nobody asked
//! about yet is asked for once (`ask`), and the requests for it wait for the first answer.
//!
//! Everything a request needs is prepared here: which backends a rule has, how TLS to them is to be
//! set up, which metric labels count. Endpoints keep their state (load) over pushes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use meshwork_core::balance::{Candidates, Tried, pick};
use meshwork_core::model::{AppProtocol, Balance, SpiffeId};
use meshwork_core::name::PortName;
use meshwork_core::resource::{
    Cluster, Endpoint, Endpoints, Inbound, Listener, MeshSettings, Resource, ResourceType, Route, Rule,
};
use meshwork_core::{Instant, route};
use meshwork_identity::{ConfigError, Identity, TrustBundle};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::endpoints::EndpointState;
use crate::telemetry::{LabelId, Labels, Registry};

/// Names that workers may ask for before the side thread has taken them: as many as requests may wait.
const ASKS_MAX: usize = 1_000;

/// ALPN protocol IDs that our sidecars speak, best first.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
pub const ALPN_TCP: &[u8] = b"meshwork-tcp/1";

/// One version of what the sidecar knows. Immutable.
#[derive(Default)]
pub struct Snapshot {
    pub version: u64,
    pub settings: Option<Arc<MeshSettings>>,
    pub inbound: Option<Arc<Inbound>>,
    pub credentials: Option<Arc<Credentials>>,
    destinations: HashMap<String, Found>,
}

/// What is known about a name that was asked for.
#[derive(Clone)]
pub enum Found {
    Service(Arc<Destination>),
    /// The control plane says that there is no such service.
    Absent,
}

impl Snapshot {
    /// By the Listener's name (`cart:80`); `None`: never asked, or no answer yet.
    pub fn find(&self, name: &str) -> Option<&Found> {
        self.destinations.get(name)
    }

    /// Names and what they lead to, for `/config`.
    pub fn destinations(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.destinations.iter().map(|(name, found)| (name.as_str(), found))
    }
}

/// Who this sidecar is and whom it trusts.
pub struct Credentials {
    pub identity: Arc<Identity>,
    pub bundle: Arc<TrustBundle>,
    /// For inbound connections.
    pub server: Arc<ServerConfig>,
}

/// A service's port as this sidecar's application sees it, with all that a request to it needs.
pub struct Destination {
    pub name: PortName,
    pub hint: Option<AppProtocol>,
    pub route: Arc<Route>,
    /// `backends[rule][backend]`, parallel to the route; `None`: that backend does not exist.
    pub backends: Vec<Vec<Option<Arc<Backend>>>>,
    /// Metric labels by rule.
    pub labels: Vec<LabelId>,
    /// For requests that match no rule, and for opaque connections.
    pub unmatched: LabelId,
    /// Milliseconds on the sidecar's clock; names idle for long are dropped.
    used: AtomicU64,
}

impl Destination {
    /// Draws one of the rule's backends by weight; `None`: there is none, or it does not exist.
    pub(crate) fn backend(&self, rule: &Rule, random: u64) -> Option<&Backend> {
        let chosen = route::backend(rule, random)?;
        let place = index_of(&rule.backends, chosen);
        self.backends[index_of(&self.route.rules, rule)][place].as_deref()
    }

    pub(crate) fn labels(&self, rule: &Rule) -> LabelId {
        self.labels[index_of(&self.route.rules, rule)]
    }

    /// Says that it was used, for [`Live::idle`].
    pub fn touch(&self, now_millis: u64) {
        // A request in the same second need not write: workers share this line.
        if self.used.load(Ordering::Relaxed) + 1_000 < now_millis {
            self.used.store(now_millis, Ordering::Relaxed);
        }
    }
}

/// A cluster with its endpoints.
pub struct Backend {
    pub cluster: Arc<Cluster>,
    pub members: Vec<Member>,
    /// Who of them may be chosen.
    pub candidates: Candidates,
    /// `None`: no certificate yet, or nobody may serve it by mTLS.
    pub tls: Option<BackendTls>,
    /// The next turn of round robin, shared by all workers.
    pub turn: AtomicU64,
}

impl Backend {
    /// An endpoint for one request, and its index. Never one that it has tried.
    pub(crate) fn choose(&self, tried: Tried, random: u64, now: Instant) -> Option<(usize, &Member)> {
        let turn = match self.cluster.balance {
            Balance::PeakEwma => random,
            Balance::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let load = |index: usize| self.members[index].state.load(now);
        let index = pick(self.cluster.balance, &self.candidates, load, turn, tried)?;
        Some((index, &self.members[index]))
    }
}

pub struct Member {
    pub endpoint: Endpoint,
    pub state: Arc<EndpointState>,
}

/// How to set up TLS to a backend: one per (expected identities, bundle, own certificate), because
/// rustls does not ask the verifier when it resumes a session that this configuration stored.
#[derive(Clone)]
pub struct BackendTls {
    pub config: Arc<ClientConfig>,
    pub expected: Arc<BTreeSet<SpiffeId>>,
    /// Tells configurations apart in the key of pooled connections.
    pub id: u64,
}

impl BackendTls {
    /// Everybody expected is of one trust domain: federation will make this a set.
    pub(crate) fn trust_domain(&self) -> &str {
        self.expected.first().map_or("", SpiffeId::trust_domain)
    }
}

/// The place of an element that was borrowed from the slice.
fn index_of<T>(all: &[T], one: &T) -> usize {
    all.iter().position(|element| std::ptr::eq(element, one)).unwrap_or_default()
}

pub struct Live {
    clock: Clock,
    current: ArcSwap<Snapshot>,
    versions: watch::Sender<u64>,
    asks: mpsc::Sender<String>,
    /// Requests that wait for a first answer.
    waiting: AtomicUsize,
    known: Mutex<Known>,
    labels: Arc<Registry>,
}

impl Live {
    /// The receiver yields names that workers want to know about.
    pub fn new(labels: Arc<Registry>, clock: Clock) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (asks, wanted) = mpsc::channel(ASKS_MAX);
        let live = Self {
            clock,
            current: ArcSwap::default(),
            versions: watch::Sender::new(0),
            asks,
            waiting: AtomicUsize::new(0),
            known: Mutex::default(),
            labels,
        };
        (Arc::new(live), wanted)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Cheap: whether `held` is still the current one.
    pub(crate) fn is_current(&self, held: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.current.load(), held)
    }

    /// Wakes at each new snapshot.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Counts a request that waits for a first answer until the guard is dropped; `None`: too many do.
    pub(crate) fn wait(&self, waiting_max: usize) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        (before < waiting_max).then_some(waiting)
    }

    /// Wants to know where `name` leads. Refused (`false`) when the queue is full: the side thread is stuck.
    pub fn ask(&self, name: &str) -> bool {
        self.asks.try_send(name.to_owned()).is_ok()
    }

    /// Takes what one response of the control plane brought. Removals come after additions.
    pub fn apply(&self, applied: Vec<Resource>, removed: &[(ResourceType, String)]) {
        let mut known = self.known();
        let mut stale = Stale::default();
        for resource in applied {
            known.set(resource, &mut stale);
        }
        for (kind, name) in removed {
            known.remove(*kind, name, &mut stale);
        }
        self.publish(&mut known, &stale);
    }

    /// A new certificate, or new roots: every TLS configuration is made again.
    pub fn set_credentials(
        &self,
        identity: Arc<Identity>,
        bundle: Arc<TrustBundle>,
    ) -> Result<(), ConfigError> {
        let server = meshwork_identity::server_config(&identity, &bundle, &[ALPN_HTTP1, ALPN_TCP])?;
        let mut known = self.known();
        known.credentials = Some(Arc::new(Credentials { identity, bundle, server }));
        known.tls.clear();
        let everything = Stale { all: true, ..Stale::default() };
        self.publish(&mut known, &everything);
        Ok(())
    }

    /// Names that no request used since `before` (milliseconds on the sidecar's clock).
    pub fn idle(&self, before: u64) -> Vec<String> {
        let snapshot = self.current.load();
        let idle = snapshot.destinations.iter().filter(|(_, found)| match found {
            Found::Service(destination) => destination.used.load(Ordering::Relaxed) < before,
            Found::Absent => true,
        });
        idle.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets a name that is no longer subscribed to.
    pub fn forget(&self, name: &str) {
        let mut known = self.known();
        known.listeners.remove(name);
        let stale = Stale { names: BTreeSet::from([name.to_owned()]), all: false };
        self.publish(&mut known, &stale);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while applying left whole resources behind, never half of one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, known: &mut Known, stale: &Stale) {
        let old = self.current.load();
        let mut destinations = old.destinations.clone();
        for name in known.affected(stale) {
            match known.found(&name, old.find(&name), &self.labels, self.clock.now_millis()) {
                Some(found) => destinations.insert(name, found),
                None => destinations.remove(&name),
            };
        }
        let snapshot = Snapshot {
            version: old.version + 1,
            settings: known.settings.clone(),
            inbound: known.inbound.clone(),
            credentials: known.credentials.clone(),
            destinations,
        };
        let version = snapshot.version;
        self.current.store(Arc::new(snapshot));
        self.versions.send_replace(version);
    }
}

pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The resources that the snapshot is made of. Only the side thread writes here.
#[derive(Default)]
struct Known {
    /// `None`: known to be absent.
    listeners: HashMap<String, Option<Arc<Listener>>>,
    routes: HashMap<PortName, Arc<Route>>,
    clusters: HashMap<PortName, Arc<Cluster>>,
    endpoints: HashMap<PortName, Arc<Endpoints>>,
    backends: HashMap<PortName, Arc<Backend>>,
    settings: Option<Arc<MeshSettings>>,
    inbound: Option<Arc<Inbound>>,
    credentials: Option<Arc<Credentials>>,
    tls: HashMap<BTreeSet<SpiffeId>, BackendTls>,
    tls_made: u64,
}

/// What a change makes stale.
#[derive(Default)]
struct Stale {
    names: BTreeSet<String>,
    all: bool,
}

impl Known {
    fn set(&mut self, resource: Resource, stale: &mut Stale) {
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

    fn remove(&mut self, kind: ResourceType, name: &str, stale: &mut Stale) {
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
                    self.stale_by_backend(&name, stale);
                    self.clusters.remove(&name);
                }
            }
            ResourceType::Endpoints => {
                if let Some(name) = port() {
                    self.stale_by_backend(&name, stale);
                    self.endpoints.remove(&name);
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

    /// The names whose destination must be made again.
    fn affected(&mut self, stale: &Stale) -> BTreeSet<String> {
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
    fn found(&self, name: &str, old: Option<&Found>, labels: &Registry, now_millis: u64) -> Option<Found> {
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
