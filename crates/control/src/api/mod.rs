//! The HTTP/JSON API (`docs/api.md`): what operators and the CLI ask and declare.
//!
//! Every request carries who sent it ([`Caller`], settled by `server.rs` when the connection was accepted).
//! Only operators get past the door: a sidecar's certificate can never read or write config here.
//!
//! | file | what |
//! |---|---|
//! | `apply.rs` | documents in, all or nothing |
//! | `objects.rs` | one resource or a list of them; delete |
//! | `watch.rs` | changes as they happen |
//! | `tokens.rs` | join tokens |
//! | `drain.rs` | tells a sidecar to drain its workload |
//! | `store.rs` | takes an older copy of the store as it is |
//! | `backup.rs` | a copy of the store |
//! | `authority.rs` | what signs and what is trusted; replacing the root |
//! | `problems.rs` | what is amiss among all documents |
//! | `status.rs`, `describe.rs` | what the mesh makes of it |
//! | `error.rs` | the one table of refusals |

mod apply;
mod authority;
mod backup;
mod describe;
mod drain;
mod error;
mod objects;
mod problems;
mod status;
mod store;
mod tokens;
mod watch;

pub(crate) use error::{ApiError, Problem};

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::{StatusCode, Uri};
use meshwork_core::manifest::Kind;
use meshwork_core::model::SpiffeId;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::ca::Ca;
use crate::eras::Eras;
use crate::handshakes::Handshakes;
use crate::registry::Standings;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::view::{View, Views};

/// One request's body. A mesh of 10,000 services fits into one `apply`.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long a reader waits for the model to follow what was written: it takes 20 ms.
const VIEW_WAIT_MAX: Duration = Duration::from_secs(2);

/// Watches at once: each holds a connection and a task. Operators and tools, not sidecars, watch here.
const WATCHES_MAX: usize = 256;

/// Who sent a request; a request extension.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Caller {
    /// Over the operator socket: this user of this machine.
    Operator { uid: u32 },
    /// Over TLS with a certificate of the mesh.
    Workload(SpiffeId),
    /// The same, but it ended a while ago: good for its own renewal.
    Late(SpiffeId),
    /// Over TLS without a certificate.
    Anonymous,
}

/// What the handlers stand on.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) addresses: Addresses,
    pub(crate) views: Views,
    pub(crate) standings: Arc<Standings>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) tokens: Tokens,
    pub(crate) ca: Arc<Ca>,
    pub(crate) eras: Arc<Eras>,
    /// Where sidecars reach us, for join tokens.
    pub(crate) advertised: String,
    pub(crate) handshakes: Arc<Handshakes>,
    /// Ends the watches.
    pub(crate) drain: CancellationToken,
    pub(crate) watches: Arc<Semaphore>,
}

impl Api {
    /// The mesh as of everything that was written before the request came: whoever applied sees what
    /// became of it. A model that is stuck is shown as it is.
    async fn view(&self) -> Arc<View> {
        let mut views = self.views.clone();
        let wait = tokio::time::timeout(VIEW_WAIT_MAX, views.at_least(self.store.revision()));
        wait.await.ok().flatten().unwrap_or_else(|| self.views.current())
    }
}

/// A body's bytes, or why there are none.
fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::TooLarge(format!("the body is larger than {} MiB; split it", BODY_BYTES_MAX >> 20))
        }
        _ => ApiError::BadRequest(rejection.body_text()),
    })
}

/// Watches at once that `Api::watches` has room for.
pub(crate) fn watch_places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WATCHES_MAX))
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    let inside = Router::new()
        .route("/apply", post(apply::apply))
        .route("/tokens", post(tokens::create))
        .route("/status", get(status::status))
        .route("/problems", get(problems::problems))
        .route("/store/accept", post(store::accept))
        .route("/backup", get(backup::backup))
        .route("/ca", get(authority::status))
        .route("/ca/rotate", post(authority::rotate))
        .route("/describe/{kind}/{namespace}/{name}", get(describe::describe))
        .route("/{kind}", get(objects::list))
        .route("/namespaces/{namespace}/{kind}", get(objects::list_in))
        .route("/namespaces/{namespace}/{kind}/{name}", get(objects::get).delete(objects::delete))
        .route("/namespaces/{namespace}/workloads/{name}/drain", post(drain::drain))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(operators_only))
        .with_state(api);
    Router::new()
        .route("/healthz", get(|| async { Json(serde_json::json!({"ok": true})) }))
        .nest("/api/v1", inside)
        .fallback(|uri: Uri| async move { ApiError::NotFound(format!("there is no {} here", uri.path())) })
        .method_not_allowed_fallback(|uri: Uri| async move {
            ApiError::BadRequest(format!("{} does not take this method", uri.path()))
        })
}

async fn operators_only(caller: Option<Extension<Caller>>, request: Request, next: Next) -> Response {
    let who = match caller.map(|Extension(caller)| caller) {
        Some(Caller::Operator { .. }) => return next.run(request).await,
        Some(Caller::Workload(id) | Caller::Late(id)) => id.to_string(),
        Some(Caller::Anonymous) | None => "a caller without certificate".to_owned(),
    };
    tracing::warn!(who, path = request.uri().path(), "the API was refused to a caller that is no operator");
    ApiError::Forbidden(format!(
        "{who} may not use the API; it serves operators only, over operator.sock in the state directory"
    ))
    .into_response()
}

impl Caller {
    /// For the audit log.
    fn who(&self) -> String {
        match self {
            Self::Operator { uid } => format!("uid {uid}"),
            Self::Workload(id) | Self::Late(id) => id.to_string(),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }
}

/// One line for every write, whether it was done or not.
fn audit(caller: &Caller, action: &'static str, what: &str, outcome: Result<u64, &ApiError>) {
    let who = caller.who();
    match outcome {
        Ok(revision) => {
            tracing::info!(target: "meshwork::audit", who, action, what, revision, "written");
        }
        Err(error) => {
            let (_, word) = error.row();
            tracing::info!(target: "meshwork::audit", who, action, what, word, "refused");
        }
    }
}

/// The query as a value; a field that is not known is refused, as everywhere.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    axum::extract::Query::<T>::try_from_uri(uri)
        .map(|query| query.0)
        .map_err(|error| ApiError::BadRequest(error.body_text()))
}

fn kind(word: &str) -> Result<Kind, ApiError> {
    Kind::from_word(word).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        let known = known.join(", ");
        ApiError::NotFound(format!("there is no kind {word:?}; there are {known}"))
    })
}
