//! The registry: which workloads there are, as their sidecars say, and how each stands.
//!
//! A registration is written into the store when it changes; leases and health live in memory and reach the
//! model through [`Standings`]. Who a sidecar is, its certificate says (`session.rs`), never its message.
//!
//! | file | what |
//! |---|---|
//! | `leases.rs` | who is there, who was silent for too long: pure |
//! | `record.rs` | a registration -> the `Workload` and the `Service` that it makes |
//! | `session.rs` | `meshwork.v1.Sidecar/Session`: one stream a sidecar |

mod leases;
mod record;
mod session;

pub(crate) use session::{SidecarService, Sidecars};

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use meshwork_core::Instant;
use meshwork_core::model::{Health, Key as Named, SpiffeId, Workload};
use meshwork_core::validate::Declared;
use meshwork_xds::proto::{ControlMessage, DrainOrder, Summary, control_message};
use tokio::sync::{Notify, RwLock, oneshot};
use tokio_util::sync::CancellationToken;

use crate::addresses::{Addresses, Given};
use crate::caller::CertificateEnd;
use crate::lock::lock;
use crate::manifest::{Record, Unreadable};
use crate::store::{CommitError, Expect, Key, Prefix, Store, StoreError, Transaction};
use crate::time::{Clock, unix_seconds};
use leases::{Lapse, Leases};
use record::{Registration, with_ports};
use session::Answers;

/// Tries when others change the same service at the same moment. Of those who try together at least one
/// gets through each time, so this is how many replicas may bring new ports to one service at once.
const TRIES_MAX: usize = 64;

/// After a removal that the store could not do.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);

/// How often it is noticed at least that time passes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A look that comes so late: this process did not run (stopped, starved, a machine that slept).
const ABSENCE: Duration = Duration::from_secs(3);

/// How every workload stands: leases, and what of it the model has yet to hear.
pub(crate) struct Standings {
    clock: Clock,
    state: Mutex<State>,
    /// For the model: something is dirty.
    dirty: Notify,
    /// For the lapse task: the next deadline may be an earlier one.
    moved: Notify,
}

struct State {
    leases: Leases,
    /// What checks of workloads without sidecar found, by address; those only that were judged once. At most one for
    /// each check.
    checked: BTreeMap<Named, BTreeMap<SocketAddr, Checked>>,
    connected: BTreeMap<Named, Connected>,
    /// Workloads whose health may differ from what the model knows. At most all of them.
    dirty: BTreeSet<Named>,
    /// Who waits for the next view. At most one a session.
    waiting: Vec<oneshot::Sender<u64>>,
}

/// What the control plane's check of a port found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checked {
    pub(crate) health: Health,
    /// Why it is not well; else empty.
    pub(crate) detail: String,
}

/// A sidecar's session, for `status`.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    /// The newest session of a workload counts; what an older one does any more is nothing to it.
    session: u64,
    pub(crate) id: SpiffeId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) version: String,
    pub(crate) certificate_end: CertificateEnd,
    /// When it registered; a message's way is no part of it worth telling.
    pub(crate) clock_ahead_seconds: Option<i64>,
    /// What it told last of what it sees.
    pub(crate) summary: Summary,
    orders: Answers,
}

/// What became of an operator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// Its sidecar does it.
    Told,
    /// It was done before.
    Draining,
    /// No session stands, or one that takes nothing.
    Nobody,
}

#[derive(Clone)]
pub(crate) struct Registry {
    store: Store,
    addresses: Addresses,
    pub(crate) standings: Arc<Standings>,
    /// Registrations share it, a removal has it alone: a workload that comes back at the last moment must not be
    /// removed behind its registration.
    removal: Arc<RwLock<()>>,
}

/// Why a registration was refused: a sentence for the sidecar's log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{id} may register for service {} only, not for {service:?}; start the sidecar with a token of service {service:?}", .id.account())]
    OtherService { id: SpiffeId, service: String },
    #[error(
        "workload {workload} belongs to account {owner}, and {id} is not it; remove this sidecar's state directory, so that it gets a name of its own"
    )]
    OtherAccount { id: SpiffeId, workload: String, owner: String },
    #[error(
        "this control plane is of mesh {own}, the sidecar belongs to mesh {other}; give it a token of this mesh, or another state directory"
    )]
    OtherMesh { own: String, other: String },
    #[error(
        "a Workload {0} was written by an operator; give the sidecar another state directory, or delete that Workload"
    )]
    WrittenByHand(Named),
    #[error("the registration does not hold: {0}")]
    Invalid(String),
    #[error("the lease of {0} ended while its sidecar was silent; register again")]
    LeaseOver(Named),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Refused {
    /// For the metric.
    pub(crate) const WORDS: [&str; 7] =
        ["other_service", "other_account", "other_mesh", "written_by_hand", "invalid", "lease_over", "store"];

    fn word(&self) -> &'static str {
        let [other_service, other_account, other_mesh, by_hand, invalid, lease_over, store] = Self::WORDS;
        match self {
            Self::OtherService { .. } => other_service,
            Self::OtherAccount { .. } => other_account,
            Self::OtherMesh { .. } => other_mesh,
            Self::WrittenByHand(_) => by_hand,
            Self::Invalid(_) => invalid,
            Self::LeaseOver(_) => lease_over,
            Self::Unreadable(_) | Self::Store(_) | Self::Commit(_) => store,
        }
    }
}

impl Standings {
    pub(crate) fn new(clock: Clock, term: Duration, kept: Duration) -> Self {
        let state = State {
            leases: Leases::new(term, kept),
            checked: BTreeMap::new(),
            connected: BTreeMap::new(),
            dirty: BTreeSet::new(),
            waiting: Vec::new(),
        };
        Self { clock, state: Mutex::new(state), dirty: Notify::new(), moved: Notify::new() }
    }

    /// Waits until the model has something to hear.
    pub(crate) async fn changed(&self) {
        self.dirty.notified().await;
    }

    /// What the model has to look at, and who waits for the view that comes of it.
    pub(crate) fn take(&self) -> (BTreeSet<Named>, Vec<oneshot::Sender<u64>>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.dirty), std::mem::take(&mut state.waiting))
    }

    /// Gives a workload the health that it has now, and each of its ports its own.
    pub(crate) fn stand(&self, workload: &mut Workload) {
        let state = self.lock();
        workload.health = state.leases.health(&workload.key);
        let checked = state.checked.get(&workload.key);
        for port in &mut workload.ports {
            let found = checked.and_then(|checked| checked.get(&port.address));
            port.health = found.map_or(Health::Healthy, |checked| checked.health);
        }
    }

    /// What checks found of a workload without sidecar.
    pub(crate) fn checked(&self, workload: &Named) -> BTreeMap<SocketAddr, Checked> {
        self.lock().checked.get(workload).cloned().unwrap_or_default()
    }

    pub(crate) fn check(&self, workload: &Named, address: SocketAddr, found: Checked) {
        self.lock().checked.entry(workload.clone()).or_default().insert(address, found);
        self.mark(workload);
    }

    /// It is not checked any more.
    pub(crate) fn uncheck(&self, workload: &Named, address: SocketAddr) {
        let mut state = self.lock();
        let Some(checked) = state.checked.get_mut(workload) else { return };
        checked.remove(&address);
        if checked.is_empty() {
            state.checked.remove(workload);
        }
        drop(state);
        self.mark(workload);
    }

    /// Since the sidecar's last word, and what is known of its session if there is one.
    pub(crate) fn standing(&self, workload: &Named) -> (Option<Duration>, Option<Connected>) {
        let state = self.lock();
        (state.leases.age(workload, self.clock.now()), state.connected.get(workload).cloned())
    }

    /// Sidecars whose session stands.
    pub(crate) fn connected(&self) -> usize {
        self.lock().connected.len()
    }

    /// Tells a workload's sidecar to drain it, as `who` wants it.
    pub(crate) fn order_drain(&self, workload: &Named, who: &str) -> Ordered {
        let state = self.lock();
        if state.leases.health(workload) == Health::Draining {
            return Ordered::Draining;
        }
        let order = DrainOrder { reason: format!("`meshwork drain` of {who}") };
        let message = ControlMessage { message: Some(control_message::Message::DrainOrder(order)) };
        let told = state.connected.get(workload).map(|connected| connected.orders.try_send(Ok(message)));
        if let Some(Ok(())) = told { Ordered::Told } else { Ordered::Nobody }
    }

    pub(crate) fn term(&self) -> Duration {
        self.lock().leases.term()
    }

    /// The number of the first view that knows all that happened up to now.
    async fn next_view(&self) -> Option<u64> {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting.push(sender);
        self.dirty.notify_one();
        receiver.await.ok()
    }

    fn mark(&self, workload: &Named) {
        self.lock().dirty.insert(workload.clone());
        self.dirty.notify_one();
    }

    /// The state is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Registry {
    /// Reads who was registered before; each is kept for one full term, and longer until the first is back.
    pub(crate) fn open(
        store: Store,
        addresses: Addresses,
        standings: Arc<Standings>,
    ) -> Result<Self, StoreError> {
        let registry = Self { store, addresses, standings, removal: Arc::default() };
        let now = registry.standings.clock.now();
        for stored in registry.store.list(&Prefix::registrations(None))?.0 {
            let read = Record::read(&stored.key, &stored.value)
                .and_then(|record| Ok((record.declared(&stored.key)?, record.drained)));
            match read {
                Ok((Declared::Workload(workload), drained)) => {
                    let leases = &mut registry.standings.lock().leases;
                    leases.remember(workload.key.clone(), &workload.account, now);
                    if drained {
                        leases.drain(&workload.key);
                    }
                }
                Ok((
                    Declared::Service(_)
                    | Declared::HttpRoute(_)
                    | Declared::TrafficPolicy(_)
                    | Declared::MeshConfig(_),
                    _,
                )) => {
                    tracing::error!(key = %stored.key, "a registration is no workload");
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
        Ok(registry)
    }

    /// Writes the registration and begins its lease. The workload is in the next view.
    async fn register(
        &self,
        registration: &Registration,
        connected: Connected,
        healthy: bool,
    ) -> Result<(), Refused> {
        let workload = registration.workload.key();
        let _no_removal = self.removal.read().await;
        self.write(registration, &connected.id).await?;
        let now = self.standings.clock.now();
        let mut state = self.standings.lock();
        state.leases.register(workload.clone(), &registration.service.name, healthy, now);
        state.connected.insert(workload.clone(), connected);
        drop(state);
        self.standings.mark(&workload);
        self.standings.moved.notify_one();
        Ok(())
    }

    async fn write(&self, registration: &Registration, id: &SpiffeId) -> Result<(), Refused> {
        let mut tries = 1;
        loop {
            let transaction = self.transaction(registration, id)?;
            match self.store.commit(transaction).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Workload and service in one step, so that a workload that moved is never at two addresses.
    fn transaction(&self, registration: &Registration, id: &SpiffeId) -> Result<Transaction, Refused> {
        let now = unix_seconds(SystemTime::now());
        let workload = registration.workload.key();
        let by_hand = Key::intent("Workload", &workload.namespace, &workload.name);
        if self.store.get(&by_hand)?.is_some() {
            return Err(Refused::WrittenByHand(workload));
        }
        let key = Key::registration(&workload.namespace, &workload.name);
        let (expect, created) = match self.store.get(&key)? {
            None => (Expect::Absent, now),
            Some(stored) => {
                let record = Record::read(&key, &stored.value)?;
                let owner = record.manifest["spec"]["serviceAccount"].as_str().unwrap_or_default();
                if owner != id.account() {
                    let (id, owner) = (id.clone(), owner.to_owned());
                    return Err(Refused::OtherAccount { id, workload: workload.name, owner });
                }
                (Expect::Revision(stored.revision), record.created)
            }
        };
        let manifest = meshwork_core::manifest::Manifest::Workload(registration.workload.clone());
        let transaction = Transaction::default()
            .expect(by_hand, Expect::Absent)
            .expect(key.clone(), expect)
            .put(key, Record::new(created, &manifest).to_bytes());
        self.add_service(transaction, registration, now)
    }

    /// The service that the workload serves: made if there is none, and given the ports that are new if it
    /// was made here.
    fn add_service(
        &self,
        transaction: Transaction,
        registration: &Registration,
        now: u64,
    ) -> Result<Transaction, Refused> {
        let service = &registration.service;
        let key = Key::intent("Service", &service.namespace, &service.name);
        match self.store.get(&key)? {
            // It offers nothing: it only calls others.
            None if registration.workload.spec.ports.is_empty() => Ok(transaction),
            None => {
                let manifest = with_ports(None, registration).map_err(Refused::Invalid)?;
                let (transaction, address) =
                    self.addresses.give(transaction, service, &mut Given::default(), now)?;
                let record = Record { address, ..Record::new(now, &manifest) };
                Ok(transaction.expect(key.clone(), Expect::Absent).put(key, record.to_bytes()))
            }
            Some(stored) => {
                let record = Record::read(&key, &stored.value)?;
                if !record.is_managed() {
                    return Ok(transaction);
                }
                let manifest =
                    with_ports(Some(record.manifest(&key)?), registration).map_err(Refused::Invalid)?;
                let record = Record { address: record.address, ..Record::new(record.created, &manifest) };
                Ok(transaction
                    .expect(key.clone(), Expect::Revision(stored.revision))
                    .put(key, record.to_bytes()))
            }
        }
    }

    fn renew(&self, workload: &Named) -> Result<(), Refused> {
        self.touch(workload, |leases, now| leases.renew(workload, now))
    }

    fn report(&self, workload: &Named, healthy: bool) -> Result<(), Refused> {
        self.touch(workload, |leases, now| leases.report(workload, healthy, now))
    }

    /// Returns once a view without the workload's endpoints is published: its number.
    async fn drain(&self, workload: &Named) -> Result<Option<u64>, Refused> {
        self.touch(workload, |leases, _| leases.drain(workload))?;
        Ok(self.standings.next_view().await)
    }

    /// Remembers on disk that a workload has said goodbye: whoever starts on this store must not send anybody there.
    async fn keep_drained(&self, workload: &Named) -> Result<(), Refused> {
        let _no_removal = self.removal.read().await;
        let key = Key::registration(&workload.namespace, &workload.name);
        let Some(stored) = self.store.get(&key)? else { return Ok(()) };
        let record = Record { drained: true, ..Record::read(&key, &stored.value)? };
        let transaction = Transaction::default().expect(key.clone(), Expect::Revision(stored.revision));
        match self.store.commit(transaction.put(key, record.to_bytes())).await {
            // It has registered again since: it is back.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn touch(
        &self,
        workload: &Named,
        change: impl FnOnce(&mut Leases, Instant) -> Option<bool>,
    ) -> Result<(), Refused> {
        let now = self.standings.clock.now();
        let changed = change(&mut self.standings.lock().leases, now);
        if changed.ok_or_else(|| Refused::LeaseOver(workload.clone()))? {
            self.standings.mark(workload);
            self.standings.moved.notify_one();
        }
        Ok(())
    }

    /// Only the newest session's words count.
    fn summarize(&self, workload: &Named, session: u64, summary: Summary) {
        let mut state = self.standings.lock();
        if let Some(connected) = state.connected.get_mut(workload).filter(|found| found.session == session) {
            connected.summary = summary;
        }
    }

    /// The stream is over; the lease runs on.
    fn disconnected(&self, workload: &Named, session: u64) {
        let mut state = self.standings.lock();
        if state.connected.get(workload).is_some_and(|connected| connected.session == session) {
            state.connected.remove(workload);
        }
    }

    /// Lets leases lapse until drained.
    pub(crate) async fn watch_leases(self, drain: CancellationToken) {
        let clock = self.standings.clock;
        let mut looked = clock.now();
        loop {
            let now = clock.now();
            self.forgive_own_absence(looked, now);
            looked = now;
            let next = self.standings.lock().leases.next();
            let due = async {
                match next {
                    Some(next) => clock.sleep_until(next.min(now + LOOK_INTERVAL)).await,
                    None => tokio::time::sleep(LOOK_INTERVAL).await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.standings.moved.notified() => continue,
                () = drain.cancelled() => return,
            }
            // Not after an absence: what sidecars sent meanwhile has yet to be read.
            if clock.now() - looked < ABSENCE {
                self.lapse().await;
                // A removal waits for the disk: that is no absence of the sidecars.
                looked = clock.now();
            }
        }
    }

    /// A process that was stopped or starved heard nobody, which is not their fault.
    fn forgive_own_absence(&self, looked: Instant, now: Instant) {
        let absence = now - looked;
        if absence >= ABSENCE {
            tracing::warn!(
                ?absence,
                "the control plane itself was absent; every lease runs for a full term from now"
            );
            self.standings.lock().leases.prolong(now);
        }
    }

    async fn lapse(&self) {
        let lapses = self.standings.lock().leases.expire(self.standings.clock.now());
        for lapse in lapses {
            match lapse {
                Lapse::Marked(workload) => {
                    tracing::warn!(%workload, "a sidecar was silent for a whole lease; its endpoints count as unhealthy");
                    self.standings.mark(&workload);
                }
                Lapse::Over(workload) => self.remove(workload).await,
            }
        }
    }

    async fn remove(&self, workload: Named) {
        let _no_registration = self.removal.write().await;
        if !self.standings.lock().leases.has_lapsed(&workload) {
            return; // it is back
        }
        let key = Key::registration(&workload.namespace, &workload.name);
        match self.store.commit(Transaction::default().delete(key)).await {
            Ok(_) => {
                tracing::info!(%workload, "removed a workload whose lease is long over");
                self.standings.lock().leases.remove(&workload);
            }
            Err(error) => {
                tracing::error!(%workload, %error, "a workload could not be removed");
                tokio::time::sleep(REMOVE_AGAIN).await;
            }
        }
    }
}
