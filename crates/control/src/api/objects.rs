//! One resource, a list of them, and delete.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Api, ApiError, Caller, audit, kind, query, watch};
use crate::manifest::{Kind, Record};
use crate::store::{Expect, Key, Prefix, Stored, Transaction};

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
    Path(word): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query: ListQuery = query(&uri)?;
    let namespace = query.namespace.clone();
    answer(&api, kind(&word)?, namespace, query)
}

pub(super) async fn list_in(
    State(api): State<Arc<Api>>,
    Path((namespace, word)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    answer(&api, kind(&word)?, Some(namespace), query(&uri)?)
}

fn answer(
    api: &Arc<Api>,
    kind: Kind,
    namespace: Option<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    if query.watch.is_some_and(|word| word != "0" && word != "false") {
        return watch::watch(api, kind, namespace.as_deref(), query.resource_version);
    }
    let (items, revision) = all(api, kind, namespace.as_deref())?;
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": revision.to_string()},
        "items": items,
    });
    Ok(Json(list).into_response())
}

/// Every resource of a kind as it is shown, and the revision that they were read at.
pub(super) fn all(api: &Api, kind: Kind, namespace: Option<&str>) -> Result<(Vec<Value>, u64), ApiError> {
    let (stored, revision) = api.store.list(&Prefix::intent(kind.name(), namespace))?;
    let items = stored.into_iter().map(show).collect::<Result<Vec<_>, _>>()?;
    Ok((items, revision))
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Path((namespace, word, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&word)?;
    let stored = api.store.get(&Key::intent(kind.name(), &namespace, &name))?;
    stored.map_or_else(|| Err(absent(kind, &namespace, &name)), show).map(Json)
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, word, name)): Path<(String, String, String)>,
    uri: Uri,
) -> Result<Json<Deleted>, ApiError> {
    let DeleteQuery { resource_version } = query(&uri)?;
    let kind = kind(&word)?;
    let key = Key::intent(kind.name(), &namespace, &name);
    let result = match api.store.get(&key)? {
        None => Err(absent(kind, &namespace, &name)),
        Some(_) => {
            let expect = resource_version.map_or(Expect::Present, Expect::Revision);
            let transaction = Transaction::default().expect(key.clone(), expect).delete(key);
            api.store.commit(transaction).await.map_err(ApiError::from)
        }
    };
    let what = format!("{} {namespace}/{name}", kind.name());
    audit(&caller, "delete", &what, result.as_ref().copied());
    result.map(|revision| Json(Deleted { revision }))
}

pub(super) fn absent(kind: Kind, namespace: &str, name: &str) -> ApiError {
    ApiError::NotFound(format!("there is no {} {name} in namespace {namespace}", kind.name()))
}

/// A stored resource as it is shown.
pub(super) fn show(stored: Stored) -> Result<Value, ApiError> {
    let record = Record::from_bytes(&stored.value)
        .map_err(|error| ApiError::Internal(format!("{} in the store: {error}", stored.key)))?;
    Ok(record.show(stored.revision))
}
