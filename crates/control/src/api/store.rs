//! `POST /api/v1/store/accept`: an operator takes the store as it is, though sidecars have seen what it does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;

use super::{Api, ApiError};
use crate::audit::Change;
use crate::caller::Caller;
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
    let outcome = accepted.as_ref().map(|_| revision);
    api.audit(&caller, "accept", "the store as it is", &Change::default(), outcome);
    accepted.map(|accepted| Json(Accepted { revision, lost: told(accepted) }))
}

/// The same, without sidecars of other namespaces.
pub(super) fn narrowed(lost: Vec<LostEra>, namespace: &str) -> Vec<LostEra> {
    let of_it = |sidecar: &String| sidecar.split_once('/').is_some_and(|(its, _)| its == namespace);
    let keep = |mut lost: LostEra| {
        lost.sidecars.retain(of_it);
        lost
    };
    lost.into_iter().map(keep).collect()
}

pub(super) fn told(lost: BTreeMap<String, Lost>) -> Vec<LostEra> {
    let told = |(era, lost): (String, Lost)| {
        let Lost { revision, sidecars } = lost;
        LostEra { era, revision_seen: revision, sidecars: sidecars.into_iter().collect() }
    };
    lost.into_iter().map(told).collect()
}
