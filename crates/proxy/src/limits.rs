//! How much a service, and each of its endpoints, may have of one sidecar: what is counted, and what is refused.
//!
//! Counts are atomics that all workers share, so a limit means the same with one worker and with many. A guard counts
//! from the moment it is made until it is dropped; past a limit there is none, and the request is told at once. Nobody
//! waits for room: a queue before something that is full only adds the wait to the answer.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::destination::{Backend, Member};
use crate::endpoints::{BackendState, EndpointState};
use crate::failure::Failure;
use crate::telemetry::Event;
use crate::worker::Worker;

/// A limit of `TrafficPolicy`, by its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Connections,
    PendingRequests,
    Requests,
    EndpointConnections,
    EndpointRequests,
}

impl Limit {
    /// The field, as operators write it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PendingRequests => "pendingRequests",
            Self::Requests => "requests",
            Self::EndpointConnections => "endpoint.connections",
            Self::EndpointRequests => "endpoint.requests",
        }
    }
}

impl From<Limit> for Event {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Connections => Self::LimitConnections,
            Limit::PendingRequests => Self::LimitPendingRequests,
            Limit::Requests => Self::LimitRequests,
            Limit::EndpointConnections => Self::LimitEndpointConnections,
            Limit::EndpointRequests => Self::LimitEndpointRequests,
        }
    }
}

/// Things of one kind that are there now.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU32);

impl Count {
    pub(crate) fn now(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Counts one more, if there may be one more. Never exceeds the limit, however many workers count at once.
    fn add(&self, max: Option<NonZeroU32>) -> bool {
        let Some(max) = max else {
            self.0.fetch_add(1, Relaxed);
            return true;
        };
        self.0.fetch_update(Relaxed, Relaxed, |count| (count < max.get()).then(|| count + 1)).is_ok()
    }

    fn remove(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// One more, until the guard is dropped.
    pub(crate) fn hold(&self, max: Option<NonZeroU32>) -> Option<Held<'_>> {
        self.add(max).then(|| Held(self)) // not `then_some`, whose guard would be dropped
    }
}

/// One of what is counted.
pub(crate) struct Held<'a>(&'a Count);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// A connection in the counts of its endpoint and its service, for as long as it stands.
pub(crate) struct Counted {
    service: Arc<BackendState>,
    endpoint: Arc<EndpointState>,
}

impl Counted {
    pub(crate) fn is_of(&self, service: &Arc<BackendState>) -> bool {
        Arc::ptr_eq(&self.service, service)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.endpoint.connections.remove();
        self.service.connections.remove();
    }
}

/// Who a connection is made for.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) member: &'a Member,
}

impl<'a> Account<'a> {
    /// A request that waits for a connection, until the guard is dropped.
    pub(crate) fn wait(self, worker: &Worker) -> Result<Held<'a>, Failure> {
        let max = self.backend.traffic().limits.pending_requests;
        self.backend
            .state
            .pending
            .hold(max)
            .ok_or_else(|| self.backend.reached(Limit::PendingRequests, worker))
    }

    /// A connection that is about to be made. Where there is no room, one that has nothing to do makes room.
    pub(crate) fn connect(self, worker: &Worker) -> Result<Counted, Failure> {
        let counted = self.try_connect().or_else(|limit| {
            let released = worker.pool.borrow_mut().release_idle(&self.backend.state);
            if released { self.try_connect() } else { Err(limit) }
        });
        counted.map_err(|limit| self.backend.reached(limit, worker))
    }

    fn try_connect(self) -> Result<Counted, Limit> {
        let Self { backend, member } = self;
        let limits = &backend.traffic().limits;
        if !backend.state.connections.add(limits.connections) {
            return Err(Limit::Connections);
        }
        if !member.state.connections.add(limits.endpoint_connections) {
            backend.state.connections.remove();
            return Err(Limit::EndpointConnections);
        }
        Ok(Counted { service: backend.state.clone(), endpoint: member.state.clone() })
    }
}

impl Backend {
    /// A request, from before its first try to the end of its answer.
    pub(crate) fn admit(&self, worker: &Worker) -> Result<Held<'_>, Failure> {
        let max = self.traffic().limits.requests;
        self.state.open.hold(max).ok_or_else(|| self.reached(Limit::Requests, worker))
    }

    /// Why nobody takes the request.
    pub(crate) fn nobody(&self, worker: &Worker) -> Failure {
        let full = || self.members.iter().find_map(|member| self.is_full(member, worker));
        if let Some(limit) = self.limits_endpoints().then(full).flatten() {
            return self.reached(limit, worker);
        }
        let known = self.members.len();
        Failure::NoEndpoint { service: self.cluster.name.to_string(), known, ejected: self.ejected() }
    }

    /// It has as many requests, or connections and no room in them here, as it may have.
    pub(crate) fn is_full(&self, member: &Member, worker: &Worker) -> Option<Limit> {
        let limits = &self.traffic().limits;
        let reached = |count: u32, max: Option<NonZeroU32>| max.is_some_and(|max| count >= max.get());
        if reached(member.state.outstanding(), limits.endpoint_requests) {
            return Some(Limit::EndpointRequests);
        }
        let has_room = || {
            let tls = self.tls.as_ref().map_or(0, |tls| tls.id);
            worker.pool.borrow().has_room(member.endpoint.address, tls)
        };
        let is_full = reached(member.state.connections.now(), limits.endpoint_connections) && !has_room();
        is_full.then_some(Limit::EndpointConnections)
    }

    /// Whether endpoints have limits at all: most services have none.
    pub(crate) fn limits_endpoints(&self) -> bool {
        let limits = &self.traffic().limits;
        limits.endpoint_requests.is_some() || limits.endpoint_connections.is_some()
    }

    /// Says that a limit was met.
    pub(crate) fn reached(&self, limit: Limit, worker: &Worker) -> Failure {
        let limits = &self.traffic().limits;
        let max = match limit {
            Limit::Connections => limits.connections,
            Limit::PendingRequests => limits.pending_requests,
            Limit::Requests => limits.requests,
            Limit::EndpointConnections => limits.endpoint_connections,
            Limit::EndpointRequests => limits.endpoint_requests,
        };
        let failure = Failure::LimitReached {
            service: self.cluster.name.to_string(),
            limit: limit.word(),
            max: max.map_or(0, NonZeroU32::get),
        };
        worker.registry.count(limit.into());
        if self.state.limit_told.is_due(worker.now()) {
            tracing::warn!("{failure}");
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_exceeded_whoever_counts() {
        const MAX: u32 = 7;
        let (count, most) = (Count::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(_held) = count.hold(NonZeroU32::new(MAX)) else { continue };
                        most.fetch_max(count.now(), Relaxed);
                    }
                });
            }
        });
        assert!((1..=MAX).contains(&most.into_inner()));
        assert_eq!(count.now(), 0, "every guard gave back what it had");
    }

    #[test]
    fn without_a_limit_it_only_counts() {
        let count = Count::default();
        let held: Vec<_> = (0..100).filter_map(|_| count.hold(None)).collect();
        assert_eq!((held.len(), count.now()), (100, 100));
        drop(held);
        assert_eq!(count.now(), 0);
    }
}
