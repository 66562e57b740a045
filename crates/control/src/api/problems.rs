//! `GET /api/v1/problems`: what is amiss among documents that are each right, all at once; for `meshwork check`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use meshwork_core::manifest::Kind;
use meshwork_core::model::Key as Named;
use meshwork_core::validate::Problem;
use serde::Serialize;

use super::{Api, describe};
use crate::caller::Caller;

/// Resources that are listed; whoever has more mends these first.
const RESOURCES_MAX: usize = 200;

#[derive(Serialize)]
pub(super) struct Problems {
    items: Vec<OfResource>,
}

#[derive(Serialize)]
struct OfResource {
    kind: &'static str,
    namespace: String,
    name: String,
    problems: Vec<Problem>,
}

pub(super) async fn problems(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Json<Problems> {
    let view = api.view().await;
    let mesh = &view.mesh;
    let services = mesh.services().map(|service| (Kind::Service, &service.key));
    let workloads = mesh.workloads().map(|workload| (Kind::Workload, &workload.key));
    let routes = mesh.routes().map(|route| (Kind::HttpRoute, &route.key));
    let policies = mesh.policies().map(|policy| (Kind::TrafficPolicy, &policy.key));
    let of = |(kind, named): (Kind, &Named)| {
        let problems = describe::problems(mesh, kind, named);
        let Named { namespace, name } = named.clone();
        (!problems.is_empty()).then_some(OfResource { kind: kind.name(), namespace, name, problems })
    };
    let seen = |(_, named): &(Kind, &Named)| caller.namespace().is_none_or(|own| own == named.namespace);
    let all = services.chain(workloads).chain(routes).chain(policies).filter(seen);
    Json(Problems { items: all.filter_map(of).take(RESOURCES_MAX).collect() })
}
