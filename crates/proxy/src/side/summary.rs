//! What operators are told of this sidecar beside its metrics: how it stands with its config, which endpoints it has
//! ejected, what retries and limits did. Goes up with the session, when it differs from the last one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::retry::budget::has_room;
use meshwork_xds::proto::{BackendSummary, Ejected, LimitReached, Summary};
use tokio::sync::watch;

use super::status::Status;
use super::view::config_words;
use crate::clock::Clock;
use crate::destination::Backend;
use crate::live::{Live, Snapshot};
use crate::telemetry::{Event, Registry};

/// How often it is looked whether something changed: soon enough for a person who watches, and with a thousand
/// sidecars five hundred small messages a second at worst.
const INTERVAL: Duration = Duration::from_secs(2);

/// Backends that are told of: more than a person reads.
const BACKENDS_MAX: usize = 64;

/// Sums up until nobody listens any more.
pub(crate) async fn keep(
    live: Arc<Live>,
    registry: Arc<Registry>,
    clock: Clock,
    status: watch::Receiver<Status>,
    summaries: watch::Sender<Summary>,
) {
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !summaries.is_closed() {
        looks.tick().await;
        let now = sum_up(&live.snapshot(), &registry, &status.borrow(), clock.now());
        summaries.send_if_modified(|last| {
            let differs = *last != now;
            *last = now;
            differs
        });
    }
}

fn sum_up(snapshot: &Snapshot, registry: &Registry, status: &Status, now: Instant) -> Summary {
    let (config, reason) = config_words(&status.config);
    let mut backends = BTreeMap::new();
    for backend in snapshot.backends() {
        // Several names lead to one backend.
        if let Some(told) = backend_summary(backend, now)
            && backends.len() < BACKENDS_MAX
        {
            backends.insert(told.backend.clone(), told);
        }
    }
    Summary {
        config: config.to_owned(),
        config_reason: reason.to_owned(),
        backends: backends.into_values().collect(),
        certificate_warning: status.unrenewed.clone().unwrap_or_default(),
        limits: registry
            .limits_reached()
            .map(|(kind, times)| LimitReached { kind: kind.to_owned(), times })
            .collect(),
        retries_withheld: registry.counted(Event::RetryBudgetExhausted),
    }
}

/// `None`: nothing is the matter with it.
fn backend_summary(backend: &Backend, now: Instant) -> Option<BackendSummary> {
    let budget = &backend.traffic().retry.budget;
    let spent = backend.state.spent(budget, now);
    let ejected: Vec<Ejected> = backend
        .members
        .iter()
        .filter(|member| member.state.conduct.ejected_for(now).is_some())
        .map(|member| Ejected {
            address: member.endpoint.address.to_string(),
            workload: member.endpoint.workload.clone(),
            times: member.state.conduct.ejections(),
        })
        .collect();
    (spent.retries > 0 || !ejected.is_empty()).then(|| BackendSummary {
        backend: backend.cluster.name.to_string(),
        requests: spent.requests,
        retries: spent.retries,
        budget_used_up: !has_room(budget, &spent),
        ejected,
    })
}
