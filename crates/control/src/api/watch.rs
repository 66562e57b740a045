//! `?watch=1`: changes as they happen, one JSON object a line.
//!
//! From a revision on it tells what the store's log holds; without one it begins with all there is. The
//! log is read again whenever the store's revision moves, so a slow reader costs nothing but its place in
//! the log, and one that falls out of the log is told so and ends. What the mesh knows of an object (`status`) is of the
//! moment in which a line is written, and moves no revision: no line tells that this alone has changed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use meshwork_core::manifest::Kind;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::objects::{all, prefixes, show, show_now};
use super::{Api, ApiError};
use crate::caller::Caller;
use crate::logins::LoginRefused;
use crate::store::{Change, Prefix, Stored};
use crate::time::unix_seconds;
use crate::view::View;

/// How often a watch without news says where it stands, so that a client that comes back later starts
/// from a revision that the log still has, and a dead connection is noticed.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

pub(super) async fn watch(
    api: &Arc<Api>,
    caller: &Caller,
    kind: Kind,
    namespace: Option<&str>,
    resource_version: Option<u64>,
) -> Result<Response, ApiError> {
    let permit = Arc::clone(&api.watches).try_acquire_owned().map_err(|_| {
        api.metrics.limits_reached.count("watches");
        ApiError::Unavailable("too many watches are open; close some, or ask again later".to_owned())
    })?;
    let prefixes = prefixes(kind, namespace);
    // Subscribed before the first look, so that nothing falls between the two.
    let revisions = api.store.revisions();
    let (through, first) = match resource_version {
        // Looked at once now, so that 410 is the answer's status.
        Some(after) => api.store.changes(after, &prefixes).map(|_| (after, Vec::new()))?,
        None => {
            let (items, revision) = all(api, kind, namespace).await?;
            let mut lines: Vec<Value> =
                items.into_iter().map(|item| json!({"type": "ADDED", "object": item})).collect();
            lines.push(bookmark(revision));
            (revision, lines)
        }
    };
    let watch = Watch {
        api: Arc::clone(api),
        caller: caller.clone(),
        kind,
        prefixes,
        revisions,
        through,
        first,
        ended: false,
        _permit: permit,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, Infallible>(chunk), watch))
    });
    Ok(([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response())
}

struct Watch {
    api: Arc<Api>,
    /// Whose login may end while this goes on.
    caller: Caller,
    kind: Kind,
    prefixes: Vec<Prefix>,
    revisions: watch::Receiver<u64>,
    /// Told up to here.
    through: u64,
    /// What a watch without a revision begins with.
    first: Vec<Value>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next lines, once there are any; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let first = std::mem::take(&mut self.first);
        if !first.is_empty() {
            return Some(encode(&first));
        }
        while !self.ended {
            // A login that is deleted moves the store's revision, and so gets here at once; one that expires at the next
            // bookmark.
            if let Some(refused) = self.refused() {
                return Some(self.end_with(refused));
            }
            match self.api.store.changes(self.through, &self.prefixes) {
                Ok(found) => {
                    self.through = found.through;
                    let lines = self.lines(found.changes).await;
                    if !lines.is_empty() {
                        return Some(encode(&lines));
                    }
                }
                Err(error) => return Some(self.end_with(error.into())),
            }
            if *self.revisions.borrow_and_update() > self.through {
                continue;
            }
            tokio::select! {
                changed = self.revisions.changed() => changed.ok()?,
                () = self.api.drain.cancelled() => return None,
                () = tokio::time::sleep(BOOKMARK_EVERY) => return Some(encode(&[bookmark(self.through)])),
            }
        }
        None
    }
}

impl Watch {
    async fn lines(&self, changes: Vec<Change>) -> Vec<Value> {
        if changes.is_empty() {
            return Vec::new(); // of other kinds, which need not be waited for
        }
        let view = self.api.view().await;
        changes.into_iter().filter_map(|change| line(&view, self.kind, change)).collect()
    }

    /// Why its caller is not to be told more.
    fn refused(&self) -> Option<ApiError> {
        match &self.caller {
            Caller::Login { proven, .. }
                if !self.api.logins.holds(proven, unix_seconds(SystemTime::now())) =>
            {
                Some(LoginRefused::Unknown.into())
            }
            Caller::Login { .. } | Caller::Operator { .. } => None,
            Caller::Workload(_) | Caller::Late(_) | Caller::Anonymous => None,
        }
    }

    fn end_with(&mut self, error: ApiError) -> Bytes {
        self.ended = true;
        let mut line = error.into_json();
        line["type"] = json!("ERROR");
        encode(&[line])
    }
}

fn bookmark(revision: u64) -> Value {
    json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": revision.to_string()}}})
}

/// A change as the client sees it: as a list would show the object now. A value that can't be read any more is left out,
/// with a log line.
fn line(view: &View, kind: Kind, change: Change) -> Option<Value> {
    let Change { revision, key, value, previous } = change;
    let (word, shown) = match (value, previous) {
        (Some(value), previous) => {
            let word = if previous.is_some() { "MODIFIED" } else { "ADDED" };
            (word, show_now(view, kind, &Stored { key, value, revision }))
        }
        // As it was last, at the revision of its end. Its status went with it: the mesh may know another of this name by now.
        (None, previous) => ("DELETED", show(&key, &previous?, revision).map_err(ApiError::from)),
    };
    match shown {
        Ok(object) => Some(json!({"type": word, "object": object})),
        Err(error) => {
            tracing::error!("left out of a watch: {error}");
            None
        }
    }
}

fn encode(lines: &[Value]) -> Bytes {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text.into()
}
