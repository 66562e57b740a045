//! `POST /api/v1/namespaces/<namespace>/workloads/<name>/drain`: an operator wants a workload to take nothing new.
//!
//! Its sidecar is told over its session, and does the rest as if it were to end: withdraws the workload, finishes what
//! runs. The application is left alone. Nothing of it is kept, so that a restart of the sidecar takes it back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use meshwork_core::model::Key as Named;
use serde::Serialize;

use super::{Api, ApiError, Problem};
use crate::audit::Change;
use crate::caller::Caller;
use crate::registry::Ordered;

#[derive(Serialize)]
pub(super) struct Drains {
    workload: String,
    /// It did before this was asked for.
    already: bool,
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Drains>, ApiError> {
    let workload = Named { namespace, name };
    let drains = order(&api, &caller, &workload).await;
    let outcome = drains.as_ref().map(|_| api.store.revision());
    api.audit(&caller, "drain", &workload.to_string(), &Change::default(), outcome);
    drains.map(|already| Json(Drains { workload: workload.to_string(), already }))
}

async fn order(api: &Api, caller: &Caller, workload: &Named) -> Result<bool, ApiError> {
    if api.view().await.mesh.workload(workload).is_none() {
        return Err(ApiError::NotFound(format!("there is no workload {workload}")));
    }
    match api.standings.order_drain(workload, &caller.who()) {
        Ordered::Told => Ok(false),
        Ordered::Draining => Ok(true),
        Ordered::Nobody => Err(ApiError::Conflict(Problem::new(format!(
            "no sidecar of {workload} is connected that could drain it; stop its process, or delete a Workload that was written by hand"
        )))),
    }
}
