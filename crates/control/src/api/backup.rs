//! `GET /api/v1/backup`: a copy of the store as it is now, with the mesh's keys in it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use super::{Api, ApiError};
use crate::audit::Change;
use crate::caller::Caller;

pub(super) async fn backup(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let store = api.store.clone();
    // Megabytes are read from the disk: not on a thread that others wait for.
    let made = tokio::task::spawn_blocking(move || store.backup()).await;
    let made = made
        .map_err(|error| ApiError::Internal(error.to_string()))
        .and_then(|made| made.map_err(ApiError::from));
    let outcome = made.as_ref().map(|_| api.store.revision());
    api.audit(&caller, "back up", "the store, keys included", &Change::default(), outcome);
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], made?).into_response())
}
