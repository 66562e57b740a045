//! `POST /api/v1/tokens`: a join token for one service.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::{Extension, Json};
use bytes::Bytes;
use meshwork_core::timestamp;
use meshwork_identity::JoinToken;
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, bytes};
use crate::audit::Change;
use crate::caller::Caller;
use crate::time::unix_seconds;
use crate::tokens::TokenError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    service: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default = "default_ttl_seconds")]
    ttl_seconds: u64,
    #[serde(default)]
    once: bool,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// An hour: long enough to walk to the machine.
fn default_ttl_seconds() -> u64 {
    3_600
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    /// The one string that a sidecar needs.
    token: String,
    service: String,
    namespace: String,
    expires: String,
    once: bool,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Made>, ApiError> {
    let wanted: Wanted = serde_json::from_slice(&bytes(body)?)
        .map_err(|error| ApiError::BadRequest(format!("the body is no request for a token: {error}")))?;
    let what = format!("token for {}/{}", wanted.namespace, wanted.service);
    let made = make(&api, wanted).await;
    let outcome = made.as_ref().map(|(_, revision)| *revision);
    api.audit(&caller, "create", &what, &Change::default(), outcome);
    made.map(|(made, _)| Json(made))
}

async fn make(api: &Api, wanted: Wanted) -> Result<(Made, u64), ApiError> {
    let Wanted { service, namespace, ttl_seconds, once } = wanted;
    let now = unix_seconds(SystemTime::now());
    let (secret, record, revision) = api.tokens.create(&namespace, &service, ttl_seconds, once, now).await?;
    let expires = record.expires;
    let token =
        JoinToken { address: api.advertised.clone(), expires, root_hash: api.ca.root_key_hash(), secret };
    let made =
        Made { token: token.to_string(), service, namespace, expires: timestamp::format(expires), once };
    Ok((made, revision))
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let message = error.to_string();
        match error {
            TokenError::Name { .. } | TokenError::SystemNamespace | TokenError::Ttl { .. } => {
                Self::BadRequest(message)
            }
            TokenError::Crypto(_) => Self::Internal(message),
            TokenError::Commit(error) => error.into(),
            TokenError::Store(error) => error.into(),
        }
    }
}
