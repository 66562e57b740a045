//! `/api/v1/login-tokens`: who may come from other machines. `GET /api/v1/login`: who the caller is.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use bytes::Bytes;
use meshwork_core::timestamp;
use meshwork_identity::LoginToken;
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, Problem, bytes};
use crate::audit::Change;
use crate::caller::Caller;
use crate::logins::{LoginError, LoginRecord, Role, Wanted};
use crate::time::unix_seconds;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    name: Option<String>,
    role: Role,
    /// Left out: the whole mesh.
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default = "default_ttl_seconds")]
    ttl_seconds: u64,
}

/// A week: what is used gets a new one, what was forgotten ends.
fn default_ttl_seconds() -> u64 {
    7 * 24 * 3_600
}

#[derive(Serialize)]
pub(super) struct Made {
    /// The one string that `meshwork login` needs.
    token: String,
    #[serde(flatten)]
    login: Shown,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    name: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    created: String,
    expires: String,
    made_by: String,
}

#[derive(Serialize)]
pub(super) struct List {
    items: Vec<Shown>,
}

#[derive(Serialize)]
pub(super) struct Deleted {
    revision: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WhoAmI {
    mesh_id: String,
    trust_domain: String,
    who: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// Left out on the operator socket, where the kernel says who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Made>, ApiError> {
    let asked: Asked = serde_json::from_slice(&bytes(body)?)
        .map_err(|error| ApiError::BadRequest(format!("the body is no request for a login: {error}")))?;
    let made = make(&api, &caller, asked).await;
    let what = match &made {
        Ok((made, _)) => format!("login {}", made.login.name),
        Err(_) => "a login".to_owned(),
    };
    let worth = made.as_ref().ok().and_then(|(made, _)| serde_json::to_value(&made.login).ok());
    let change = Change::of(&what, None, worth.as_ref());
    api.audit(&caller, "create", &what, &change, made.as_ref().map(|(_, revision)| *revision));
    made.map(|(made, _)| Json(made))
}

async fn make(api: &Api, caller: &Caller, asked: Asked) -> Result<(Made, u64), ApiError> {
    let Asked { name, role, namespace, ttl_seconds } = asked;
    let now = unix_seconds(SystemTime::now());
    let wanted = Wanted { name, role, namespace, ttl_seconds, made_by: caller.who() };
    let (secret, record, revision) = api.logins.create(wanted, now).await?;
    let token = LoginToken {
        address: api.advertised.clone(),
        expires: record.expires,
        name: record.name.clone(),
        root_hash: api.ca.root_key_hash(),
        secret,
    };
    Ok((Made { token: token.to_string(), login: show(record) }, revision))
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<List>, ApiError> {
    let logins = api.logins.list(unix_seconds(SystemTime::now()))?;
    Ok(Json(List { items: logins.into_iter().map(show).collect() }))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let deleted = api.logins.delete(&name).await.map_err(ApiError::from);
    // The path's, so of any length.
    let what = format!("login {}", name.chars().take(64).collect::<String>());
    api.audit(&caller, "delete", &what, &Change::default(), deleted.as_ref().copied());
    deleted.map(|revision| Json(Deleted { revision }))
}

pub(super) async fn who_am_i(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<WhoAmI>, ApiError> {
    let Some(rights) = caller.rights() else {
        return Err(ApiError::Forbidden(format!("{} is no operator", caller.who())));
    };
    let expires = match &caller {
        Caller::Login { proven, .. } => Some(timestamp::format(proven.record.expires)),
        Caller::Operator { .. } | Caller::Workload(_) | Caller::Late(_) | Caller::Anonymous => None,
    };
    Ok(Json(WhoAmI {
        mesh_id: api.ca.mesh_id.clone(),
        trust_domain: api.ca.trust_domain(),
        who: caller.who(),
        role: rights.role,
        namespace: rights.namespace.map(str::to_owned),
        expires,
    }))
}

fn show(record: LoginRecord) -> Shown {
    Shown {
        created: timestamp::format(record.created),
        expires: timestamp::format(record.expires),
        name: record.name,
        role: record.role,
        namespace: record.namespace,
        made_by: record.made_by,
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        let message = error.to_string();
        match error {
            LoginError::Name { .. } | LoginError::AdminOfNamespace | LoginError::Ttl { .. } => {
                Self::BadRequest(message)
            }
            LoginError::Taken(_) => Self::Conflict(Problem::new(message)),
            LoginError::Full => Self::Unavailable(message),
            LoginError::Absent(_) => Self::NotFound(message),
            LoginError::Crypto(_) => Self::Internal(message),
            LoginError::Commit(error) => error.into(),
            LoginError::Store(error) => error.into(),
        }
    }
}
