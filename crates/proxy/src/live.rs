//! What the sidecar knows of the mesh right now: one snapshot, swapped whole.
//!
//! The side thread applies what the control plane sent (`apply`, `set_credentials`); workers borrow the
//! current snapshot for a request from its first decision to its last. A destination that nobody asked
//! about yet is asked for once (`ask`), and the requests for it wait for the first answer.
//!
//! What a snapshot is made of is `known.rs`, what a request finds in it `destination.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use meshwork_core::model::Locality;
use meshwork_core::names::Tables;
use meshwork_core::resource::{Inbound, MeshSettings, Resource, ResourceType};
use meshwork_identity::{ConfigError, Identity, TrustBundle};
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::destination::{Backend, Destination};
use crate::known::{Known, Shared, Stale};
use crate::pace::Pace;
use crate::telemetry::Registry;

/// What may be asked for before it is taken: as many as requests may wait.
const ASKS_MAX: usize = 1_000;

/// What somebody wants to know of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Where a name leads: `cart:80`.
    Destination(String),
    /// The names of a namespace.
    Names(String),
}

/// One version of what the sidecar knows. Immutable.
#[derive(Default)]
pub struct Snapshot {
    pub version: u64,
    pub settings: Option<Arc<MeshSettings>>,
    pub inbound: Option<Arc<Inbound>>,
    pub credentials: Option<Arc<Credentials>>,
    /// Names that resolve, by namespace.
    pub names: Arc<Tables>,
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

    /// Each as often as names and rules lead to it.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let services = self.destinations.values().filter_map(|found| match found {
            Found::Service(destination) => Some(destination),
            Found::Absent => None,
        });
        services.flat_map(|destination| destination.backends.iter().flatten().flatten())
    }
}

/// Who this sidecar is and whom it trusts.
pub struct Credentials {
    pub identity: Arc<Identity>,
    pub bundle: Arc<TrustBundle>,
    /// For inbound connections.
    pub server: Arc<ServerConfig>,
    /// Numbers of TLS configs ([`BackendTls::id`](crate::destination::BackendTls::id)) below it are of certificates
    /// and roots that were replaced.
    pub(crate) tls_from: u64,
}

pub struct Live {
    clock: Clock,
    /// What inbound ports speak, best first.
    alpn: &'static [&'static [u8]],
    current: ArcSwap<Snapshot>,
    versions: watch::Sender<u64>,
    asks: mpsc::Sender<Ask>,
    /// Requests that wait for a first answer.
    waiting: AtomicUsize,
    known: Mutex<Known>,
    /// When names of a namespace were last looked up, in milliseconds on the sidecar's clock; of those only that are
    /// known. The side thread's alone.
    names_used: Mutex<HashMap<String, u64>>,
    /// Snapshots that workers may still hold. The last reference is always this one, so that a snapshot is freed
    /// here, by the side thread: freeing thousands of destinations takes milliseconds, in which a worker would
    /// carry no request.
    replaced: Mutex<Vec<Arc<Snapshot>>>,
    labels: Arc<Registry>,
}

impl Live {
    /// `alpn`: what inbound ports speak, best first ([`Settings::alpn`](crate::Settings::alpn)). The receiver
    /// yields what is asked for.
    pub fn new(
        labels: Arc<Registry>,
        clock: Clock,
        alpn: &'static [&'static [u8]],
    ) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (asks, wanted) = mpsc::channel(ASKS_MAX);
        let live = Self {
            clock,
            alpn,
            current: ArcSwap::default(),
            versions: watch::Sender::new(0),
            asks,
            waiting: AtomicUsize::new(0),
            known: Mutex::default(),
            names_used: Mutex::default(),
            replaced: Mutex::default(),
            labels,
        };
        (Arc::new(live), wanted)
    }

    /// Where this sidecar is. Said before anything else, as what was made is not made again.
    pub fn set_locality(&self, locality: Locality) {
        self.known().locality = locality;
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
        self.asks.try_send(Ask::Destination(name.to_owned())).is_ok()
    }

    /// The tables of names that are known now; [`watch`](Self::watch) wakes when there may be others.
    pub fn names(&self) -> Arc<Tables> {
        self.current.load().names.clone()
    }

    /// Somebody looks up a name of that namespace: its table is asked for unless it is known, and kept for as long as
    /// this is said now and then. Refused (`false`) as [`ask`](Self::ask) is. For the side thread: it takes a lock.
    pub fn ask_names(&self, namespace: &str) -> bool {
        if !self.current.load().names.knows(namespace) {
            return self.asks.try_send(Ask::Names(namespace.to_owned())).is_ok();
        }
        let now = self.clock.now_millis();
        let mut used = self.names_used();
        match used.get_mut(namespace) {
            Some(last) => *last = now,
            None => drop(used.insert(namespace.to_owned(), now)),
        }
        true
    }

    /// Takes what one response of the control plane brought. Removals come after additions.
    pub fn apply(&self, applied: Vec<Resource>, removed: &[(ResourceType, String)]) {
        let mut known = self.known();
        let mut stale = Stale::default();
        let mut pace = Pace::start();
        for resource in applied {
            if let Resource::NameTable(table) = &resource {
                // Whoever asked for it looks into it next.
                self.names_used().entry(table.namespace.clone()).or_insert_with(|| self.clock.now_millis());
            }
            known.set(resource, &mut stale); // and frees the one before it
            pace.step();
        }
        for (kind, name) in removed {
            known.remove(*kind, name, &mut stale);
        }
        self.publish(&mut known, stale);
    }

    /// A new certificate, or new roots: every TLS configuration is made again.
    pub fn set_credentials(
        &self,
        identity: Arc<Identity>,
        bundle: Arc<TrustBundle>,
    ) -> Result<(), ConfigError> {
        let server = meshwork_identity::server_config(&identity, &bundle, self.alpn)?;
        let mut known = self.known();
        let tls_from = known.next_tls();
        let everything = known.set_credentials(Credentials { identity, bundle, server, tls_from });
        self.publish(&mut known, everything);
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
        let stale = known.forget(name);
        self.publish(&mut known, stale);
    }

    /// Whether nobody has looked up a name of that namespace since `before`, or there is none to be found: who still
    /// wants one asks again.
    pub fn are_names_idle(&self, namespace: &str, before: u64) -> bool {
        let snapshot = self.current.load();
        let absent = snapshot.names.iter().any(|(known, table)| known == namespace && table.is_none());
        absent || self.names_used().get(namespace).is_none_or(|used| *used < before)
    }

    /// Forgets the names of a namespace that is no longer subscribed to.
    pub fn forget_names(&self, namespace: &str) {
        self.names_used().remove(namespace);
        let mut known = self.known();
        Arc::make_mut(&mut known.names).forget(namespace);
        self.publish(&mut known, Stale::default());
    }

    fn names_used(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        // A panic left a map of whole entries.
        self.names_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What would have to be known to serve as now; the names are those that were asked for. `None`: nothing came yet.
    pub(crate) fn config(&self) -> Option<(Vec<String>, Vec<Shared>)> {
        let known = self.known();
        known.settings.is_some().then(|| (known.names(), known.resources()))
    }

    /// Frees replaced snapshots that nobody holds any more.
    pub fn tidy(&self) {
        // A panic while freeing left a list of whole snapshots.
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pace = Pace::start();
        for snapshot in std::mem::take(&mut *replaced) {
            // Nobody can come to hold one again: a snapshot is borrowed while it is the current one only.
            match Arc::try_unwrap(snapshot) {
                Ok(Snapshot { destinations, .. }) => destinations.into_values().for_each(|found| {
                    drop(found);
                    pace.step();
                }),
                Err(held) => replaced.push(held),
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while applying left whole resources behind, never half of one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, known: &mut Known, stale: Stale) {
        let mut pace = Pace::start();
        let old = self.current.load_full();
        let mut destinations = old.destinations.clone();
        for name in known.affected(stale, self.clock.now(), &mut pace) {
            pace.step();
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
            names: known.names.clone(),
            destinations,
        };
        let version = snapshot.version;
        self.current.store(Arc::new(snapshot));
        self.versions.send_replace(version);
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.tidy();
    }
}

pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
