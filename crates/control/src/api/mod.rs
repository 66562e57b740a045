//! The HTTP/JSON API (`docs/api.md`): what operators and the CLI ask and declare.
//!
//! Every request carries who sent it ([`Caller`]): settled by `server.rs` when the connection was accepted, and for operators
//! from afar by the login token that comes with the request. What each route takes stands in `access.rs`: a sidecar's
//! certificate can never read or write config here.
//!
//! | file | what |
//! |---|---|
//! | `access.rs` | every route with the role that it takes |
//! | `apply.rs` | documents in, all or nothing |
//! | `objects.rs` | one resource or a list of them; delete |
//! | `watch.rs` | changes as they happen |
//! | `tokens.rs`, `logins.rs` | join tokens; login tokens |
//! | `drain.rs` | tells a sidecar to drain its workload |
//! | `store.rs` | takes an older copy of the store as it is |
//! | `backup.rs` | a copy of the store |
//! | `authority.rs` | what signs and what is trusted; replacing the root |
//! | `problems.rs` | what is amiss among all documents |
//! | `metrics.rs` | what the control plane counts |
//! | `status.rs`, `loads.rs`, `describe.rs` | what the mesh makes of it |
//! | `words.rs` | the words for it |
//! | `error.rs` | the one table of refusals |

mod access;
mod apply;
mod authority;
mod backup;
mod describe;
mod drain;
mod error;
mod loads;
mod logins;
mod metrics;
mod objects;
mod problems;
mod status;
mod store;
mod tokens;
mod watch;
mod words;

pub(crate) use error::{ApiError, Problem};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{StatusCode, Uri};
use meshwork_core::manifest::Kind;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::audit::{Audit, Change, Deed};
use crate::ca::Ca;
use crate::caller::Caller;
use crate::eras::Eras;
use crate::handshakes::Handshakes;
use crate::loads::Loads;
use crate::logins::Logins;
use crate::metrics::Metrics;
use crate::registry::Standings;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::view::{View, Views};
use access::{Gate, Route};

/// One request's body. A mesh of 10,000 services fits into one `apply`.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long a reader waits for the model to follow what was written: it takes 20 ms.
const VIEW_WAIT_MAX: Duration = Duration::from_secs(2);

/// Watches at once: each holds a connection and a task. Operators and tools, not sidecars, watch here.
const WATCHES_MAX: usize = 256;

/// Texts of an `apply` that are read at once, which takes a core for seconds where they are as large as they may be. Who comes
/// then waits for as long.
const READINGS_MAX: usize = 2;

/// What the handlers stand on.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) addresses: Addresses,
    pub(crate) views: Views,
    pub(crate) standings: Arc<Standings>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) tokens: Tokens,
    pub(crate) logins: Logins,
    pub(crate) audit: Arc<Audit>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) eras: Arc<Eras>,
    /// Where sidecars reach us, for join tokens.
    pub(crate) advertised: String,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) metrics: Arc<Metrics>,
    /// The store's file.
    pub(crate) store_file: PathBuf,
    /// Ends the watches.
    pub(crate) drain: CancellationToken,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) readings: Arc<Semaphore>,
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

/// Texts at once that `Api::readings` has room for.
pub(crate) fn reading_places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(READINGS_MAX))
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = |route: Route| {
        let (audit, metrics) = (Arc::clone(&api.audit), Arc::clone(&api.metrics));
        let gate = Gate { logins: api.logins.clone(), audit, metrics, route };
        handler(route).route_layer(middleware::from_fn_with_state(gate, access::guard))
    };
    let routes = Route::ALL.into_iter();
    let inside = routes.fold(Router::new(), |router, route| router.route(route.path().1, guarded(route)));
    // Where scrapers look first.
    let metrics = Router::new().route("/metrics", guarded(Route::Metrics)).with_state(Arc::clone(&api));
    let inside = inside.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(api);
    metrics
        .route("/healthz", get(|| async { Json(serde_json::json!({"ok": true})) }))
        .nest("/api/v1", inside)
        .fallback(|uri: Uri| async move { ApiError::NotFound(format!("there is no {} here", uri.path())) })
        .method_not_allowed_fallback(|uri: Uri| async move {
            ApiError::BadRequest(format!("{} does not take this method", uri.path()))
        })
}

/// What answers; the method is the same as in [`Route::path`], a test holds them to each other.
fn handler(route: Route) -> MethodRouter<Arc<Api>> {
    match route {
        Route::WhoAmI => get(logins::who_am_i),
        Route::Status => get(status::status),
        Route::Problems => get(problems::problems),
        Route::List => get(objects::list),
        Route::ListIn => get(objects::list_in),
        Route::Get => get(objects::get),
        Route::Describe => get(describe::describe),
        Route::Authority => get(authority::status),
        Route::Metrics => get(metrics::metrics),
        Route::Apply => post(apply::apply),
        Route::Delete => delete(objects::delete),
        Route::Drain => post(drain::drain),
        Route::CreateToken => post(tokens::create),
        Route::CreateLogin => post(logins::create),
        Route::ListLogins => get(logins::list),
        Route::DeleteLogin => delete(logins::delete),
        Route::RotateRoot => post(authority::rotate),
        Route::AcceptStore => post(store::accept),
        Route::Backup => get(backup::backup),
    }
}

impl Api {
    /// One line for every write, whether it was done or not; a change is told of those that were done.
    fn audit(
        &self,
        caller: &Caller,
        action: &'static str,
        what: &str,
        change: &Change,
        outcome: Result<u64, &ApiError>,
    ) {
        let who = caller.who();
        let deed = Deed { who: &who, action, what };
        match outcome {
            Ok(revision) => self.audit.written(&deed, change, revision),
            Err(error) => self.audit.refused(&deed, error.row().1),
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
