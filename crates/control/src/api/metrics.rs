//! `GET /metrics`: what the control plane counts, and what is there now, for Prometheus.
//!
//! What is there is looked up here, with each request: a look at each stream and each workload, some milliseconds with
//! thousands of them.

use std::fs;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use meshwork_core::model::Health;

use super::words::health_word;
use super::{Api, ApiError};
use crate::metrics::{CONTENT_TYPE, RESOURCE_KINDS, SESSION_KINDS, set};
use crate::sessions::Foreign;

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    look_at_mesh(&api);
    look_at_streams(&api);
    look_at_store(&api)?;
    look_at_process(&api);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], api.metrics.render()).into_response())
}

fn look_at_mesh(api: &Api) {
    let (now, view) = (&api.metrics.now, api.views.current());
    let mesh = &view.mesh;
    let counts =
        [mesh.services().count(), mesh.workloads().count(), mesh.routes().count(), mesh.policies().count()];
    for (kind, count) in RESOURCE_KINDS.iter().zip(counts) {
        now.resources.set(kind.plural(), count);
    }
    for health in [Health::Healthy, Health::Unhealthy, Health::Draining] {
        let count = mesh.workloads().filter(|workload| workload.health == health).count();
        now.workloads.set(health_word(health), count);
    }
    now.revision.set("model", view.revision as usize);
}

fn look_at_streams(api: &Api) {
    let now = &api.metrics.now;
    let streams = api.sessions.all();
    let (mut subscriptions, mut behind, mut by_kind) = (0, 0, [0; SESSION_KINDS.len()]);
    let [sidecar, grpc, envoy, unnamed] = &mut by_kind;
    for stream in &streams {
        let session = stream.session();
        subscriptions += session.subscriptions().len();
        let of_kind = match session.client().map(|client| Foreign::of(&client.agent)) {
            Some(None) => &mut *sidecar,
            Some(Some(Foreign::Grpc)) => &mut *grpc,
            Some(Some(Foreign::Envoy)) => &mut *envoy,
            None => &mut *unnamed,
        };
        *of_kind += 1;
        drop(session);
        behind += u64::from(stream.is_behind());
    }
    for (kind, count) in SESSION_KINDS.into_iter().zip(by_kind) {
        now.sessions.set(kind, count);
    }
    set(&now.subscriptions, subscriptions as u64);
    set(&now.sessions_behind, behind);
    set(&now.registered, api.standings.connected() as u64);
}

fn look_at_store(api: &Api) -> Result<(), ApiError> {
    let now = &api.metrics.now;
    now.revision.set("store", api.store.revision() as usize);
    now.waiting.set("commits", api.store.waiting());
    set(&now.store_keys, api.store.len()?);
    set(&now.store_changes, api.store.logged()?);
    set(&now.store_bytes, fs::metadata(&api.store_file).map_or(0, |file| file.len()));
    Ok(())
}

/// What cannot be read stays as it was.
fn look_at_process(api: &Api) {
    let now = &api.metrics.now;
    now.waiting.set("handshakes", api.handshakes.seen().waiting);
    set(&now.certificate_expiry, api.ca.own_end());
    set(&now.tasks, tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64);
    let entries = |path| fs::read_dir(path).map(|entries| entries.count() as u64);
    if let Ok(threads) = entries("/proc/self/task") {
        set(&now.threads, threads);
    }
    // One of them is this look itself.
    if let Ok(open) = entries("/proc/self/fd") {
        set(&now.descriptors, open.saturating_sub(1));
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/statm").ok().as_deref().and_then(resident) {
        set(&now.memory_bytes, bytes);
    }
}

/// proc(5): size, resident, shared … in pages.
fn resident(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_second_number() {
        assert_eq!(resident("900 7 3 1 0 2 0"), Some(7 * rustix::param::page_size() as u64));
        assert_eq!(resident("900"), None);
    }
}
