//! A destination, with all that a request to it needs: which backends its rules have, which endpoints
//! those have, how TLS to them is set up, which metric labels count. Made by the side thread (`known.rs`),
//! borrowed by requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use meshwork_core::Head;
use meshwork_core::balance::session::Session;
use meshwork_core::balance::{Candidates, Choice, Tried, Turn, key_of, pick};
use meshwork_core::model::{AppProtocol, Balance, SpiffeId};
use meshwork_core::name::PortName;
use meshwork_core::policy::Traffic;
use meshwork_core::resource::{Cluster, Endpoint, Route, Rule};
use meshwork_core::retry::Where;
use meshwork_core::route;
use rustls::ClientConfig;

use crate::endpoints::{BackendState, EndpointState};
use crate::telemetry::LabelId;
use crate::worker::Worker;

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
    pub(crate) used: AtomicU64,
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

    /// Says that it was used, for [`Live::idle`](crate::Live::idle).
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
    /// What was seen of all its endpoints together.
    pub state: Arc<BackendState>,
}

impl Backend {
    /// What a request, or an opaque connection without a head, is balanced by; `None`: nothing of its own.
    pub(crate) fn key(&self, head: Option<&Head>, worker: &Worker) -> Option<u64> {
        match &self.cluster.balance {
            Balance::Hash { key, .. } => {
                // Its workload's name, as no address is the same on every host: most connections come from 127.0.0.1.
                let snapshot = worker.snapshot();
                let source = snapshot.inbound.as_ref().map(|inbound| inbound.name.as_str());
                key_of(key, head, source)
            }
            Balance::PeakEwma | Balance::RoundRobin | Balance::LeastRequest | Balance::Random => None,
        }
    }

    /// For a client that has brought no cookie to be balanced by, and is to be given one.
    pub(crate) fn session(&self, worker: &Worker) -> Option<Session<'_>> {
        match &self.cluster.balance {
            Balance::Hash { key, .. } => Session::begin(key, worker.random()),
            Balance::PeakEwma | Balance::RoundRobin | Balance::LeastRequest | Balance::Random => None,
        }
    }

    /// An endpoint for one request, and its index. Never one that it has tried, and none that is ejected or has as
    /// much as it may have.
    pub(crate) fn choose(&self, key: Option<u64>, tried: Tried, worker: &Worker) -> Option<(usize, &Member)> {
        let now = worker.now();
        let balance = &self.cluster.balance;
        let number = match balance {
            Balance::PeakEwma | Balance::LeastRequest | Balance::Random => worker.random(),
            Balance::RoundRobin if tried == Tried::default() => self.turn.fetch_add(1, Ordering::Relaxed),
            // Another try takes no turn: of two endpoints, each request would begin with the same one.
            Balance::RoundRobin => self.turn.load(Ordering::Relaxed),
            Balance::Hash { .. } => key.unwrap_or_else(|| worker.random()),
        };
        let load = |index: usize| match balance {
            Balance::LeastRequest => self.members[index].state.outstanding().into(),
            Balance::PeakEwma | Balance::RoundRobin | Balance::Random | Balance::Hash { .. } => {
                self.members[index].state.load(now)
            }
        };
        let view = self.view(now, worker);
        let fitness = |index: usize| view.fitness(&self.members[index]);
        let turn = Turn { number, ejected: view.ejected() };
        match pick(balance, &self.candidates, load, fitness, turn, tried) {
            Choice::Endpoint(index) => Some((index, &self.members[index])),
            Choice::Full | Choice::Nobody => None,
        }
    }

    /// Where a request goes that has failed on the `tried` ones: to one that it has not tried, else to any but the last,
    /// else to the only one.
    pub(crate) fn choose_other(
        &self,
        key: Option<u64>,
        tried: Tried,
        worker: &Worker,
    ) -> Option<((usize, &Member), Where)> {
        let choose = |tried| self.choose(key, tried, worker);
        match choose(tried).or_else(|| choose(tried.last())) {
            Some(other) => Some((other, Where::Elsewhere)),
            None => choose(Tried::default()).map(|same| (same, Where::Same)),
        }
    }

    /// How the service wants to be called.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.cluster.traffic
    }
}

pub struct Member {
    pub endpoint: Endpoint,
    /// How far away it is, where that matters ([`Near::level`](meshwork_core::balance::Near::level)).
    pub(crate) level: usize,
    pub state: Arc<EndpointState>,
}

/// How to set up TLS to a backend: one per (expected identities, bundle, own certificate), because
/// rustls does not ask the verifier when it resumes a session that this configuration stored.
#[derive(Clone)]
pub struct BackendTls {
    pub config: Arc<ClientConfig>,
    pub expected: Arc<BTreeSet<SpiffeId>>,
    /// When our own certificate in it ends.
    pub not_after: SystemTime,
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
