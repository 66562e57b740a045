//! A worker's open ways to endpoints and to the application: HTTP/1 connections that have nothing to do, and
//! HTTP/2 connections, which take many requests at once.
//!
//! Which of them a request takes is decided here; nothing here knows what a request is.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::retry::Repeat;
use socket2::SockRef;

use crate::conn::Conn;
use crate::endpoints::BackendState;
use crate::exchange::Http1;
use crate::failure::Failure;
use crate::mux::Mux;

/// Connections kept open to one endpoint with nothing to do: what a burst of that many requests at once
/// leaves behind; more would hold descriptors that others need.
const IDLE_MAX: usize = 256;

/// Where no policy says otherwise. Shorter than what servers commonly allow (nginx 75 s), so that we are the ones who
/// close.
pub(crate) const IDLE_AGE_MAX: Duration = Duration::from_secs(60);

/// Methods that may not be repeated get a connection that was idle for less than this, because the other
/// end may be closing it just now: the classic 503 of sidecars. Half of the shortest time after which servers are known
/// to close, so that no request is on its way at that moment.
const FRESH: Duration = Duration::from_millis(500);

/// HTTP/2 connections to one endpoint: 16,384 requests at once at 256 each, which no endpoint serves.
const CONNECTIONS_MAX: usize = 64;

/// Of these, so many may be opened because others carry bulk bodies; then bulk and small ones share.
const BULKY_MAX: usize = 8;

/// What tells pooled connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: SocketAddr,
    /// Expected identities, bundle and own certificate (`BackendTls::id`); 0: in clear.
    pub(crate) tls: u64,
}

struct Idle {
    http1: Box<Http1>,
    since: Instant,
    age_max: Duration,
}

/// A worker's open connections.
#[derive(Default)]
pub(crate) struct Pool {
    idle: HashMap<Key, VecDeque<Idle>>,
    http2: HashMap<Key, Connections>,
}

#[derive(Default)]
struct Connections {
    open: Vec<Rc<Mux>>,
    connecting: Option<Rc<Connecting>>,
}

/// HTTP/1: one request at a time.
impl Pool {
    /// The connection that was used last, if it still stands.
    pub(crate) fn take(&mut self, key: Key, repeat: Repeat, now: Instant) -> Option<Box<Http1>> {
        let idle = self.idle.get_mut(&key)?;
        while let Some(Idle { http1, since, age_max }) = idle.pop_back() {
            let age = now.since(since);
            if age > age_max || http1.conn.is_outdated(now) || !is_silent(&http1.conn) {
                continue;
            }
            if repeat == Repeat::Once && age >= FRESH {
                // The rest is older still, but good for others.
                idle.push_back(Idle { http1, since, age_max });
                return None;
            }
            return Some(http1);
        }
        None
    }

    /// `age_max`: how long it may have nothing to do.
    pub(crate) fn put(&mut self, key: Key, http1: Box<Http1>, age_max: Duration, now: Instant) {
        let idle = self.idle.entry(key).or_default();
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { http1, since: now, age_max });
    }

    /// Closes a connection to one of the service's endpoints that has nothing to do.
    pub(crate) fn release_idle(&mut self, service: &Arc<BackendState>) -> bool {
        let is_its = |idle: &Idle| idle.http1.conn.counted().is_some_and(|counted| counted.is_of(service));
        self.idle.values_mut().any(|idle| match idle.iter().position(is_its) {
            Some(found) => idle.remove(found).is_some(),
            None => false,
        })
    }

    /// Whether a request to that endpoint needs no new connection.
    pub(crate) fn has_room(&self, address: SocketAddr, tls: u64) -> bool {
        [tls, 0].into_iter().map(|tls| Key { address, tls }).any(|key| {
            let idle = self.idle.get(&key).is_some_and(|idle| !idle.is_empty());
            idle || self.with_room(key).next().is_some()
        })
    }

    fn with_room(&self, key: Key) -> impl Iterator<Item = &Rc<Mux>> {
        self.http2.get(&key).into_iter().flat_map(|there| &there.open).filter(|mux| mux.can_open())
    }

    /// Closes what is too old, and what was opened with a certificate or roots that were replaced since: TLS configs
    /// are numbered (`BackendTls::id`), those from `tls_from` on are in use.
    pub(crate) fn reap(&mut self, now: Instant, tls_from: u64) {
        let is_replaced = |key: &Key| key.tls != 0 && key.tls < tls_from;
        self.idle.retain(|key, _| !is_replaced(key));
        for (_, connections) in self.http2.iter().filter(|(key, _)| is_replaced(key)) {
            connections.open.iter().for_each(|mux| mux.drain());
        }
        for idle in self.idle.values_mut() {
            idle.retain(|idle| now.since(idle.since) <= idle.age_max);
        }
        self.idle.retain(|_, idle| !idle.is_empty());
    }
}

/// What a request does to get a stream.
pub(crate) enum Choice {
    /// Opens one here.
    Use(Rc<Mux>),
    /// Waits until a connection stands, and asks again.
    Wait(Rc<Connecting>),
    /// Makes a connection: this one, which others wait for too.
    Connect(Rc<Connecting>),
    /// As many connections as there may be have no room.
    Full,
}

/// HTTP/2: many requests at once.
impl Pool {
    /// The oldest connection that has room and carries no bulk: few connections mean large batches.
    pub(crate) fn choose(&mut self, key: Key) -> Choice {
        let connections = self.http2.entry(key).or_default();
        if let Some(mux) = connections.open.iter().find(|mux| mux.can_open() && !mux.is_bulky()) {
            return Choice::Use(mux.clone());
        }
        if let Some(connecting) = &connections.connecting {
            return Choice::Wait(connecting.clone());
        }
        let with_room = || connections.open.iter().filter(|mux| mux.can_open());
        let allowed = if with_room().count() < BULKY_MAX { CONNECTIONS_MAX } else { BULKY_MAX };
        if connections.open.len() < allowed {
            let connecting = Rc::<Connecting>::default();
            connections.connecting = Some(connecting.clone());
            return Choice::Connect(connecting);
        }
        with_room().min_by_key(|mux| mux.load()).map_or(Choice::Full, |mux| Choice::Use(mux.clone()))
    }

    /// A connection may not be made: the least loaded of those that stand, if one has room.
    pub(crate) fn make_do(&mut self, key: Key) -> Option<Rc<Mux>> {
        if let Some(connections) = self.http2.get_mut(&key) {
            connections.connecting = None; // nobody waits for it yet
        }
        let found = self.with_room(key).min_by_key(|mux| mux.load()).cloned();
        self.forget_empty(key);
        found
    }

    /// A connection stands.
    pub(crate) fn opened(&mut self, key: Key, mux: Rc<Mux>) {
        let connections = self.http2.entry(key).or_default();
        connections.open.push(mux);
        if let Some(connecting) = connections.connecting.take() {
            connecting.tell(Told::Done);
        }
    }

    /// No connection came about.
    pub(crate) fn failed(&mut self, key: Key, failure: Rc<Failure>) {
        if let Some(connections) = self.http2.get_mut(&key) {
            if let Some(connecting) = connections.connecting.take() {
                connecting.tell(Told::Failed(failure));
            }
            self.forget_empty(key);
        }
    }

    /// A connection ended.
    pub(crate) fn closed(&mut self, key: Key, mux: &Rc<Mux>) {
        if let Some(connections) = self.http2.get_mut(&key) {
            connections.open.retain(|open| !Rc::ptr_eq(open, mux));
            self.forget_empty(key);
        }
    }

    fn forget_empty(&mut self, key: Key) {
        let is_empty =
            |connections: &Connections| connections.open.is_empty() && connections.connecting.is_none();
        if self.http2.get(&key).is_some_and(is_empty) {
            self.http2.remove(&key);
        }
    }
}

/// A connection on its way, and who waits for it.
#[derive(Default)]
pub(crate) struct Connecting {
    told: RefCell<Option<Told>>,
    waiting: RefCell<Vec<Waker>>,
}

#[derive(Clone)]
enum Told {
    Done,
    Failed(Rc<Failure>),
}

impl Connecting {
    /// Waits until it is known what came of it.
    pub(crate) async fn wait(&self) -> Result<(), Rc<Failure>> {
        poll_fn(|cx| match &*self.told.borrow() {
            Some(Told::Done) => Poll::Ready(Ok(())),
            Some(Told::Failed(failure)) => Poll::Ready(Err(failure.clone())),
            None => {
                self.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn tell(&self, told: Told) {
        *self.told.borrow_mut() = Some(told);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// Whether the other end neither closed nor spoke out of turn, as far as anybody can know.
///
/// What the runtime knows is as old as its last turn, and costs nothing; only if it has heard something is
/// the kernel asked. (Asking it every time is a fifth of a request's system calls, and catches only what
/// came within this turn.)
fn is_silent(conn: &Conn) -> bool {
    if !conn.input().is_empty() || conn.is_ended() {
        return false;
    }
    let mut nobody = Context::from_waker(Waker::noop());
    if conn.socket().poll_read_ready(&mut nobody).is_pending() {
        return true;
    }
    let mut byte = [MaybeUninit::uninit()];
    let peeked = SockRef::from(conn.socket()).peek(&mut byte);
    match peeked {
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        // TLS may have sent a session ticket; a farewell looks the same, and costs a new connection.
        Ok(_) => false,
    }
}
