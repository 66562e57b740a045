//! One resource, a list of them, and delete.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::Uri;
use meshwork_core::manifest::{Kind, Scope};
use meshwork_core::mesh::Mesh;
use meshwork_core::model::{Key as Named, TargetRef, TrafficPolicy, VirtualAddress};
use meshwork_core::status::{self, Standing};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::narrow;
use super::words::health_word;
use super::{Api, ApiError, kind, query, watch};
use crate::audit::Change;
use crate::caller::Caller;
use crate::manifest::{self, Record, Unreadable};
use crate::store::{Expect, Key, Prefix, Stored, Transaction};
use crate::time::unix_seconds;
use crate::view::View;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    namespace: Option<String>,
    watch: Option<String>,
    resource_version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteQuery {
    resource_version: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Deleted {
    revision: u64,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(word): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query: ListQuery = query(&uri)?;
    let namespace = narrow(&caller, query.namespace.clone())?;
    answer(&api, &caller, kind(&word)?, namespace, query).await
}

pub(super) async fn list_in(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, word)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    answer(&api, &caller, kind(&word)?, Some(namespace), query(&uri)?).await
}

async fn answer(
    api: &Arc<Api>,
    caller: &Caller,
    kind: Kind,
    namespace: Option<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    if query.watch.is_some_and(|word| word != "0" && word != "false") {
        return watch::watch(api, caller, kind, namespace.as_deref(), query.resource_version).await;
    }
    let (items, revision) = all(api, kind, namespace.as_deref()).await?;
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": revision.to_string()},
        "items": items,
    });
    Ok(Json(list).into_response())
}

/// Where resources of a kind stand in the store. Workloads are written by operators or by the registry.
pub(super) fn prefixes(kind: Kind, namespace: Option<&str>) -> Vec<Prefix> {
    let namespace = namespace.filter(|_| kind.scope() == Scope::Namespace);
    let mut prefixes = vec![Prefix::intent(kind.name(), namespace)];
    if kind == Kind::Workload {
        prefixes.push(Prefix::registrations(namespace));
    }
    prefixes
}

/// Every resource of a kind as it is shown, and the revision from which changes go on.
pub(super) async fn all(
    api: &Api,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<(Vec<Value>, u64), ApiError> {
    let view = api.view().await;
    let mut items = Vec::new();
    let mut revision = u64::MAX;
    for prefix in prefixes(kind, namespace) {
        let (stored, read_at) = api.store.list(&prefix)?;
        // The older of two lists: what came between is told twice rather than never.
        revision = revision.min(read_at);
        for stored in stored {
            match show_now(&view, kind, &stored) {
                Ok(item) => items.push(item),
                // One that a newer version wrote must not hide the others.
                Err(error) => tracing::error!("left out of a list: {error}"),
            }
        }
    }
    Ok((items, revision))
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Path((namespace, word, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&word)?;
    let stored = find(&api, kind, &manifest::named(kind, &namespace, &name))?;
    Ok(Json(show_now(&*api.view().await, kind, &stored)?))
}

/// One resource, whoever wrote it.
pub(super) fn find(api: &Api, kind: Kind, named: &Named) -> Result<Stored, ApiError> {
    if let Some(stored) = api.store.get(&manifest::key(kind, named))? {
        return Ok(stored);
    }
    let registered = match kind {
        Kind::Workload => api.store.get(&Key::registration(&named.namespace, &named.name))?,
        Kind::MeshConfig | Kind::Service | Kind::HttpRoute | Kind::TrafficPolicy => None,
    };
    registered.ok_or_else(|| absent(kind, named))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, word, name)): Path<(String, String, String)>,
    uri: Uri,
) -> Result<Json<Deleted>, ApiError> {
    let DeleteQuery { resource_version } = query(&uri)?;
    let kind = kind(&word)?;
    let named = manifest::named(kind, &namespace, &name);
    let result = remove(&api, kind, &named, resource_version).await;
    let what = format!("{kind} {named}");
    let change = match &result {
        Ok((_, manifest)) => Change::of(&what, manifest.as_ref(), None),
        Err(_) => Change::default(),
    };
    api.audit(&caller, "delete", &what, &change, result.as_ref().map(|(revision, _)| *revision));
    if result.is_ok() {
        api.view().await; // whoever asks next, a sidecar too, is told of it
    }
    result.map(|(revision, _)| Json(Deleted { revision }))
}

/// Since when it is gone, and what it was.
async fn remove(
    api: &Api,
    kind: Kind,
    named: &Named,
    version: Option<u64>,
) -> Result<(u64, Option<Value>), ApiError> {
    let key = manifest::key(kind, named);
    let Some(stored) = api.store.get(&key)? else {
        let registered = find(api, kind, named).is_ok();
        return Err(if registered {
            let how = "stop its sidecar, or wait until its lease has lapsed for good";
            ApiError::BadRequest(format!("{kind} {named} is registered by its sidecar; {how}"))
        } else {
            absent(kind, named)
        });
    };
    let record = Record::read(&key, &stored.value).ok();
    let address = record.as_ref().and_then(|record| record.address);
    let expect = version.map_or(Expect::Present, Expect::Revision);
    let mut transaction = Transaction::default().expect(key.clone(), expect).delete(key);
    if let Some(address) = address {
        let now = unix_seconds(SystemTime::now());
        transaction = api.addresses.take_back(transaction, named, address, now)?;
    }
    let revision = api.store.commit(transaction).await?;
    Ok((revision, record.map(|record| record.manifest)))
}

fn absent(kind: Kind, named: &Named) -> ApiError {
    let Named { namespace, name } = named;
    ApiError::NotFound(match kind.scope() {
        Scope::Namespace => format!("there is no {kind} {name} in namespace {namespace}"),
        Scope::Mesh => format!("there is no {kind} {name}"),
    })
}

/// A stored resource as it is shown.
pub(super) fn show(key: &Key, value: &[u8], revision: u64) -> Result<Value, Unreadable> {
    Ok(Record::read(key, value)?.show(revision))
}

/// The same, with what the mesh knows of it now.
pub(super) fn show_now(view: &View, kind: Kind, stored: &Stored) -> Result<Value, ApiError> {
    let mut shown = show(&stored.key, &stored.value, stored.revision)?;
    let (namespace, name) = stored.key.namespace_and_name();
    let named = Named::new(namespace, name);
    let status = match kind {
        Kind::Workload => {
            let workload = view.mesh.workload(&named);
            workload.map(|workload| json!({"health": health_word(workload.worst_health())}))
        }
        Kind::TrafficPolicy => view.mesh.policy(&named).map(|policy| policy_status(&view.mesh, policy)),
        Kind::Service => view.mesh.service(&named).and_then(|service| service.virtual_address).map(addresses),
        Kind::HttpRoute | Kind::MeshConfig => None,
    };
    if let Some(status) = status {
        shown["status"] = status;
    }
    Ok(shown)
}

fn addresses(address: VirtualAddress) -> Value {
    json!({"virtualAddresses": address.ips().map(|ip| ip.to_string())})
}

/// As Gateway API's policies tell it (GEP-713): a condition `Accepted` for each target.
fn policy_status(mesh: &Mesh, policy: &TrafficPolicy) -> Value {
    let ancestor = |target: &TargetRef| {
        let standing = status::standing(mesh, policy, target);
        let mut ancestor = json!({"group": "", "kind": "Service", "name": target.service.name});
        if let Some(section) = &target.section {
            ancestor["sectionName"] = json!(section);
        }
        let accepted = if standing == Standing::Accepted { "True" } else { "False" };
        let condition = json!({
            "type": "Accepted", "status": accepted, "reason": standing.reason(), "message": standing.to_string(),
        });
        json!({"ancestorRef": ancestor, "controllerName": "meshwork.dev/control", "conditions": [condition]})
    };
    json!({"ancestors": policy.targets.iter().map(ancestor).collect::<Vec<_>>()})
}
