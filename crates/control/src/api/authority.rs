//! `GET /api/v1/ca`: what signs, what is trusted, until when. `POST /api/v1/ca/rotate`: replaces the root.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use meshwork_core::manifest::Duration;
use meshwork_core::rotate::Rotation;
use meshwork_core::timestamp;
use serde::Serialize;

use super::{Api, ApiError, Problem};
use crate::audit::Change;
use crate::ca::{Going, RotateError};
use crate::caller::Caller;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    trust_domain: String,
    /// How long leaves live that are signed now.
    leaf_ttl: String,
    roots: Vec<Root>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<RotationStatus>,
    /// No leaf that is out ends later.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_leaf_ends: Option<String>,
    control_certificate_expires: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    /// SHA-256 of its key.
    hash: String,
    /// `signs` or `trusted`.
    state: &'static str,
    expires: String,
    /// When the issuing certificate below it does.
    issuing_expires: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RotationStatus {
    stage: &'static str,
    since: String,
    /// Connected sidecars that have not confirmed the new root.
    unconfirmed: usize,
    /// When the old root is retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    retires: Option<String>,
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Json<Status> {
    Json(now(&api).await)
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Status>, ApiError> {
    let rotated = api.ca.rotate().await.map_err(ApiError::from);
    api.audit(
        &caller,
        "rotate",
        "the root",
        &Change::default(),
        rotated.as_ref().map(|()| api.store.revision()),
    );
    rotated?;
    Ok(Json(now(&api).await))
}

async fn now(api: &Api) -> Status {
    let shown = api.ca.shown().await;
    let root = |root: crate::ca::ShownRoot| Root {
        hash: root.hash.to_string(),
        state: if root.signs { "signs" } else { "trusted" },
        expires: timestamp::format(root.ends),
        issuing_expires: timestamp::format(root.intermediate_ends),
    };
    Status {
        trust_domain: api.ca.trust_domain(),
        leaf_ttl: Duration(api.ca.leaf_ttl()).to_string(),
        roots: shown.roots.into_iter().map(root).collect(),
        rotation: api.ca.going(&api.sessions).map(going),
        last_leaf_ends: Some(shown.longest_leaf_end).filter(|end| *end > 0).map(timestamp::format),
        control_certificate_expires: timestamp::format(shown.own_end),
    }
}

fn going(going: Going) -> RotationStatus {
    let (stage, since, retires) = match going.rotation {
        Rotation::Spreading { since } => ("spreading", since, None),
        Rotation::Renewing { since, retire } => ("renewing", since, Some(timestamp::format(retire))),
    };
    RotationStatus { stage, since: timestamp::format(since), unconfirmed: going.unconfirmed, retires }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        let message = error.to_string();
        match error {
            RotateError::Going(_) => Self::Conflict(Problem::new(message)),
            RotateError::Failed(_) => Self::Unavailable(message),
        }
    }
}
