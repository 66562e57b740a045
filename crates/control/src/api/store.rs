//! `POST /api/v1/store/accept`: an operator takes the store as it is, though sidecars have seen what it does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;

use super::{Api, ApiError, Caller, audit};
use crate::eras::Lost;

#[derive(Serialize)]
pub(super) struct Accepted {
    revision: u64,
    /// What is not waited for any more.
    lost: Vec<LostEra>,
}

/// What sidecars have seen, and the store does not have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LostEra {
    era: String,
    /// The newest that any of them saw.
    revision_seen: u64,
    sidecars: Vec<String>,
}

pub(super) async fn accept(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Accepted>, ApiError> {
    let accepted = api.eras.accept().await.map_err(ApiError::from);
    let revision = api.store.revision();
    audit(&caller, "accept", "the store as it is", accepted.as_ref().map(|_| revision));
    accepted.map(|accepted| Json(Accepted { revision, lost: told(accepted) }))
}

pub(super) fn told(lost: BTreeMap<String, Lost>) -> Vec<LostEra> {
    let told = |(era, lost): (String, Lost)| {
        let Lost { revision, sidecars } = lost;
        LostEra { era, revision_seen: revision, sidecars: sidecars.into_iter().collect() }
    };
    lost.into_iter().map(told).collect()
}
