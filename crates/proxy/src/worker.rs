//! A worker: one thread, one tokio `current_thread` runtime, its own connections, buffers, pool and
//! metric shard. What workers share is the snapshot and the atomics of endpoints and metrics.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::balance::mix;
use meshwork_core::discover::Destination;
use meshwork_core::meant::Served;
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::TaskTracker;

use crate::buffers::Buffers;
use crate::ceilings::Ceilings;
use crate::clients::{Client, Clients, Entered};
use crate::clock::{Clock, WorkerClock};
use crate::drain::Drains;
use crate::futile::Futile;
use crate::live::{Live, Snapshot};
use crate::mark::Mark;
use crate::memory::OnlyHttp1;
use crate::mux::Mux;
use crate::outliers;
use crate::pool::Pool;
use crate::seldom::Seldom;
use crate::settings::PortSpec;
use crate::spoke_first::SpokeFirst;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::{Event, Registry, Shard};

/// How often open connections are looked at: for age, and whether their other ends live.
pub(crate) const TICK_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) const CONNECTION_PANICKED: &str =
    "a connection's task panicked; its connection is closed, others go on";

/// What is done once for all workers is done by one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    First,
    Further,
}

pub(crate) struct Worker {
    seat: Seat,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Rc<WorkerClock>,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) shard: Shard,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) only_http1: RefCell<OnlyHttp1>,
    pub(crate) clients: Rc<Clients>,
    /// Clients that have said nothing yet, and wait for servers that have not either.
    pub(crate) silent: Rc<Clients>,
    pub(crate) drains: Drains,
    /// Tasks that belong to no accepted connection: those of connections to others.
    tasks: RefCell<JoinSet<()>>,
    /// HTTP/2 connections to look at now and then.
    muxes: RefCell<Vec<Weak<Mux>>>,
    snapshot: RefCell<Rc<Held>>,
    /// Scratch for the name of a destination.
    name: RefCell<String>,
    random: Cell<u64>,
}

/// What all workers and the side thread have in common.
pub(crate) struct Shared {
    pub(crate) live: Arc<Live>,
    /// The application's.
    pub(crate) namespace: String,
    /// Our own ports: whoever asks for them would ask in circles.
    pub(crate) own: Vec<SocketAddr>,
    /// The application's ports; of each, in the same order, where connections to it arrive.
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) served: Vec<Served>,
    /// Where the platform's probes are answered.
    pub(crate) probe_port: Option<u16>,
    pub(crate) parent_proxy: Option<String>,
    /// Of the connections that we open.
    pub(crate) mark: Mark,
    pub(crate) access_log: AccessLog,
    pub(crate) futile: Futile,
    pub(crate) ceilings: Ceilings,
    /// When the log was told last: of clients that find no room, of descriptors that are used up, of connections to a
    /// captured port that can't be carried, and of too many that nobody speaks on.
    pub(crate) clients_told: Seldom,
    pub(crate) descriptors_told: Seldom,
    pub(crate) captured_told: Seldom,
    pub(crate) silent_told: Seldom,
    pub(crate) spoke_first: SpokeFirst,
    /// Connections by direction; a drain waits for them.
    pub(crate) inbound: TaskTracker,
    pub(crate) outbound: TaskTracker,
}

/// A snapshot in a worker's hands: its requests count themselves here, not in the shared counter.
pub(crate) struct Held(Arc<Snapshot>);

impl Deref for Held {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl Worker {
    pub(crate) fn new(
        seat: Seat,
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        clock: Clock,
        drains: Drains,
        seed: u64,
    ) -> Self {
        Self {
            seat,
            snapshot: RefCell::new(Rc::new(Held(shared.live.snapshot()))),
            shard: registry.shard(),
            shared,
            registry,
            clock: Rc::new(WorkerClock::new(clock)),
            buffers: Rc::default(),
            pool: RefCell::default(),
            tasks: RefCell::default(),
            muxes: RefCell::default(),
            only_http1: RefCell::default(),
            clients: Rc::default(),
            silent: Rc::default(),
            drains,
            name: RefCell::default(),
            random: Cell::new(seed),
        }
    }

    /// For all workers: how much memory there is. Says after how long that is due again.
    pub(crate) fn look_at_memory(&self) -> Duration {
        match self.seat {
            Seat::First => self.shared.ceilings.memory.look(&self.registry),
            Seat::Further => TICK_INTERVAL,
        }
    }

    /// One more client that has said nothing. At their ceiling the newest of those that are there goes.
    pub(crate) fn enter_silent(&self, client: &Rc<Client>) -> Entered {
        let max = self.shared.ceilings.silent_max;
        if self.silent.count() >= max && self.silent.dismiss_newest_idle() {
            self.registry.count(Event::LimitSilent);
            if self.shared.silent_told.is_due(self.now()) {
                tracing::warn!(
                    max,
                    "a worker has as many connections on which nobody has spoken as it may have: the newest is closed"
                );
            }
        }
        self.silent.enter(client)
    }

    /// Runs a task to its end, or to the worker's.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(self.clock.clone().still_for(task));
    }

    /// Looks after an HTTP/2 connection as long as it lives.
    pub(crate) fn watch(&self, mux: &Rc<Mux>) {
        self.muxes.borrow_mut().push(Rc::downgrade(mux));
    }

    /// Once a second: dead peers, idle connections, tasks that ended; and by the first worker, for all of them,
    /// endpoints that are due.
    pub(crate) fn tick(&self) {
        let now = self.now();
        let snapshot = self.snapshot();
        if self.seat == Seat::First {
            outliers::tend(&snapshot, now, &self.registry);
        }
        let tls_from = snapshot.credentials.as_ref().map_or(0, |credentials| credentials.tls_from);
        self.pool.borrow_mut().reap(now, tls_from);
        self.muxes.borrow_mut().retain(|mux| match mux.upgrade() {
            Some(mux) => {
                mux.tick(now);
                true
            }
            None => false,
        });
        while let Some(ended) = self.tasks.borrow_mut().try_join_next() {
            self.report_panic(&ended, CONNECTION_PANICKED);
        }
    }

    /// A task that ended by a fault of ours is counted; what it costs is said.
    pub(crate) fn report_panic(&self, ended: &Result<(), JoinError>, what: &str) {
        if ended.as_ref().is_err_and(JoinError::is_panic) {
            self.registry.count(Event::Panic);
            tracing::error!("{what}");
        }
    }

    /// The worker ends: so do the tasks, which hold it.
    pub(crate) fn end(&self) {
        drop(self.tasks.take());
    }

    /// The same for as long as a task is polled: see [`WorkerClock`].
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The current version of the mesh, to be held for one request. Clones a worker's own counter: no
    /// line of memory that other workers write is touched.
    pub(crate) fn snapshot(&self) -> Rc<Held> {
        let mut held = self.snapshot.borrow_mut();
        if !self.shared.live.is_current(&held.0) {
            *held = Rc::new(Held(self.shared.live.snapshot()));
        }
        held.clone()
    }

    /// Calls `with` with a destination's name, as a Listener is named; without an allocation.
    pub(crate) fn with_name<T>(&self, destination: &Destination<'_>, with: impl FnOnce(&str) -> T) -> T {
        let mut name = self.name.borrow_mut();
        name.clear();
        // Writing to a String cannot fail.
        let _ = write!(name, "{destination}");
        with(&name)
    }

    /// Not for secrets: balancing, weights, IDs of requests.
    pub(crate) fn random(&self) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        mix(next)
    }

    pub(crate) fn random_wide(&self) -> u128 {
        (u128::from(self.random()) << 64) | u128::from(self.random())
    }
}
