//! Who may do what: every route of the API with the role that it takes, in one table.
//!
//! [`Route`] is the list: the router is made of it (`mod.rs`), so that no path is served that does not stand here, and
//! [`Route::need`] has a row for each, or it does not compile. `docs/api.md` shows the table; a test holds it to this one,
//! and `tests/logins.rs` goes over it with a login of every role.
//!
//! [`judge`] decides: pure. [`guard`] stands before each handler and acts on it. What a handler must look into its
//! documents for, it asks [`may_write`]; what it leaves out of lists, [`narrow`].

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Extension;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header};
use meshwork_core::manifest::{Kind, Scope};

use super::ApiError;
use crate::audit::{Audit, Deed};
use crate::caller::{Caller, CertificateEnd, RemoteAddress, Rights};
use crate::logins::{LoginRefused, Logins, Role};
use crate::manifest::Document;
use crate::metrics::Metrics;
use crate::time::unix_seconds;

/// Of a refused request's path, in the log: ours are shorter.
const PATH_CHARS_MAX: usize = 256;

/// Everything that can be asked of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    WhoAmI,
    Status,
    Problems,
    List,
    ListIn,
    Get,
    Describe,
    Authority,
    Metrics,
    Apply,
    Delete,
    Drain,
    CreateToken,
    CreateLogin,
    ListLogins,
    DeleteLogin,
    RotateRoot,
    AcceptStore,
    Backup,
}

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    role: Role,
    place: Place,
}

/// Where a route reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The whole mesh: not for who may see one namespace.
    Mesh,
    /// The namespace in its path.
    InPath,
    /// The handler narrows it to what the caller may see, or refuses what lies elsewhere.
    Narrowed,
}

/// What a request names in its path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Target<'p> {
    namespace: Option<&'p str>,
    kind: Option<Kind>,
}

/// What stands before a handler.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) logins: Logins,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) route: Route,
}

impl Route {
    pub(super) const ALL: [Self; 19] = [
        Self::WhoAmI,
        Self::Status,
        Self::Problems,
        Self::List,
        Self::ListIn,
        Self::Get,
        Self::Describe,
        Self::Authority,
        Self::Metrics,
        Self::Apply,
        Self::Delete,
        Self::Drain,
        Self::CreateToken,
        Self::CreateLogin,
        Self::ListLogins,
        Self::DeleteLogin,
        Self::RotateRoot,
        Self::AcceptStore,
        Self::Backup,
    ];

    /// The one table from a route to what it takes.
    const fn need(self) -> Need {
        use Place::{InPath, Mesh, Narrowed};
        use Role::{Admin, Edit, View};
        let (role, place) = match self {
            Self::WhoAmI | Self::Status | Self::Problems | Self::List | Self::Authority => (View, Narrowed),
            Self::ListIn | Self::Get | Self::Describe => (View, InPath),
            Self::Metrics => (View, Mesh),
            Self::Apply => (Edit, Narrowed),
            Self::Delete => (Edit, InPath),
            Self::Drain
            | Self::CreateToken
            | Self::CreateLogin
            | Self::ListLogins
            | Self::DeleteLogin
            | Self::RotateRoot
            | Self::AcceptStore
            | Self::Backup => (Admin, Mesh),
        };
        Need { role, place }
    }

    /// What it does, as the audit log has it.
    const fn action(self) -> &'static str {
        match self {
            Self::WhoAmI | Self::Status | Self::Problems | Self::Authority | Self::Metrics => "read",
            Self::List | Self::ListIn | Self::Get | Self::Describe | Self::ListLogins => "read",
            Self::Apply => "apply",
            Self::Delete | Self::DeleteLogin => "delete",
            Self::Drain => "drain",
            Self::CreateToken | Self::CreateLogin => "create",
            Self::RotateRoot => "rotate",
            Self::AcceptStore => "accept",
            Self::Backup => "back up",
        }
    }

    /// Below `/api/v1`.
    pub(super) const fn path(self) -> (Method, &'static str) {
        match self {
            Self::WhoAmI => (Method::GET, "/login"),
            Self::Status => (Method::GET, "/status"),
            Self::Problems => (Method::GET, "/problems"),
            Self::List => (Method::GET, "/{kind}"),
            Self::ListIn => (Method::GET, "/namespaces/{namespace}/{kind}"),
            Self::Get => (Method::GET, "/namespaces/{namespace}/{kind}/{name}"),
            Self::Describe => (Method::GET, "/describe/{kind}/{namespace}/{name}"),
            Self::Authority => (Method::GET, "/ca"),
            Self::Metrics => (Method::GET, "/metrics"),
            Self::Apply => (Method::POST, "/apply"),
            Self::Delete => (Method::DELETE, "/namespaces/{namespace}/{kind}/{name}"),
            Self::Drain => (Method::POST, "/namespaces/{namespace}/workloads/{name}/drain"),
            Self::CreateToken => (Method::POST, "/tokens"),
            Self::CreateLogin => (Method::POST, "/login-tokens"),
            Self::ListLogins => (Method::GET, "/login-tokens"),
            Self::DeleteLogin => (Method::DELETE, "/login-tokens/{name}"),
            Self::RotateRoot => (Method::POST, "/ca/rotate"),
            Self::AcceptStore => (Method::POST, "/store/accept"),
            Self::Backup => (Method::GET, "/backup"),
        }
    }
}

/// Lets through who may, as who they are; tells everybody else what they lack.
pub(super) async fn guard(
    State(gate): State<Gate>,
    caller: Option<Extension<Caller>>,
    remote: Option<Extension<RemoteAddress>>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = caller.map_or(Caller::Anonymous, |Extension(caller)| caller);
    let caller = match identify(&gate.logins, caller, remote, request.headers()) {
        Ok(caller) => caller,
        Err((who, refused)) => {
            gate.metrics.logins_refused.count(refused.word());
            return refuse(&gate, &who, &request, refused.into());
        }
    };
    if let (Caller::Login { proven, .. }, Some(end)) = (&caller, request.extensions().get::<CertificateEnd>())
    {
        end.extend_to(proven.record.expires);
    }
    // A path that can't be read names nothing; the handler says what is wrong with it.
    let param = |wanted: &str| {
        let params = params.as_ref().ok()?.iter();
        params.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    let target = Target { namespace: param("namespace"), kind: param("kind").and_then(Kind::from_word) };
    match judge(gate.route.need(), caller.rights(), target) {
        Ok(()) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(lack) => {
            let who = caller.who();
            refuse(&gate, &who, &request, ApiError::Forbidden(format!("{who} {lack}")))
        }
    }
}

/// Refuses documents that lie where the caller may not write.
pub(super) fn may_write(caller: &Caller, documents: &[Document]) -> Result<(), ApiError> {
    for document in documents {
        let need = Need { role: Role::Edit, place: Place::InPath };
        let target = Target { namespace: Some(&document.named.namespace), kind: Some(document.kind) };
        judge(need, caller.rights(), target).map_err(|lack| {
            let (who, kind, named) = (caller.who(), document.kind, &document.named);
            ApiError::Forbidden(format!("{who} {lack} ({kind} {named}); nothing was applied"))
        })?;
    }
    Ok(())
}

/// The namespace of a list: the one that was asked for, or the only one that the caller may see.
pub(super) fn narrow(caller: &Caller, asked: Option<String>) -> Result<Option<String>, ApiError> {
    match (caller.namespace(), asked) {
        (Some(own), Some(asked)) if own != asked => {
            Err(ApiError::Forbidden(format!("{} {}", caller.who(), Lack::OtherNamespace(own.to_owned()))))
        }
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, asked) => Ok(asked),
    }
}

/// Why somebody may not do something; follows who that is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum Lack {
    #[error(
        "may not use the API; it serves operators only, by the socket operator.sock in the state directory or with a login token"
    )]
    NoOperator,
    #[error("may not do this: it takes the role {}", .0.word())]
    Role(Role),
    #[error("may only see and change what is in namespace {0}; name that one (--namespace {0})")]
    OtherNamespace(String),
    #[error(
        "may only change what is in namespace {0}: this is the whole mesh's, and takes a login without namespace"
    )]
    Mesh(String),
}

/// Whether who has `rights` may do what takes `need`, to `target`.
fn judge(need: Need, rights: Option<Rights<'_>>, target: Target<'_>) -> Result<(), Lack> {
    let Some(Rights { role, namespace }) = rights else { return Err(Lack::NoOperator) };
    if role < need.role {
        return Err(Lack::Role(need.role));
    }
    let Some(own) = namespace else { return Ok(()) };
    let is_meshs = target.kind.is_some_and(|kind| kind.scope() == Scope::Mesh);
    match need.place {
        Place::Narrowed => Ok(()),
        // What holds for the whole mesh holds for this namespace: everybody may read it.
        Place::InPath if is_meshs && need.role == Role::View => Ok(()),
        Place::InPath if is_meshs => Err(Lack::Mesh(own.to_owned())),
        Place::InPath if target.namespace == Some(own) => Ok(()),
        Place::InPath => Err(Lack::OtherNamespace(own.to_owned())),
        Place::Mesh => Err(Lack::Mesh(own.to_owned())),
    }
}

/// Who calls, once a login token was looked at; else who it seems to be, and why they are refused. A certificate of the
/// mesh is a sidecar's, whatever token comes with it.
fn identify(
    logins: &Logins,
    caller: Caller,
    remote: Option<Extension<RemoteAddress>>,
    headers: &HeaderMap,
) -> Result<Caller, (String, LoginRefused)> {
    let Caller::Anonymous = caller else { return Ok(caller) };
    let Some(Extension(RemoteAddress(remote))) = remote else { return Ok(caller) };
    let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = presented.and_then(|value| value.strip_prefix("Bearer "));
    let now = unix_seconds(SystemTime::now());
    match logins.prove(presented, remote.ip(), now, Instant::now()) {
        Ok(proven) => Ok(Caller::Login { proven, remote }),
        Err(refused) => Err((format!("somebody from {remote}"), refused)),
    }
}

fn refuse(gate: &Gate, who: &str, request: &Request, refused: ApiError) -> Response {
    // As the caller wrote it: the router has cut off `/api/v1`.
    let path = format!("/api/v1{}", request.uri().path());
    let path: String = path.chars().take(PATH_CHARS_MAX).collect();
    // Whoever was told often enough is not worth a line each.
    if !matches!(refused, ApiError::TooMany(_)) {
        tracing::warn!(who, %path, "the API was refused: {refused}");
        if gate.route.need().role > Role::View {
            let deed = Deed { who, action: gate.route.action(), what: &path };
            gate.audit.refused(&deed, refused.row().1);
        }
    }
    refused.into_response()
}

impl From<LoginRefused> for ApiError {
    fn from(refused: LoginRefused) -> Self {
        let message = refused.to_string();
        match refused {
            LoginRefused::NoToken | LoginRefused::Damaged(_) | LoginRefused::Unknown => {
                Self::Unauthorized(message)
            }
            LoginRefused::TooMany(_) => Self::TooMany(message),
            LoginRefused::Store(_) => Self::Internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: Option<&str> = Some("shop");

    #[track_caller]
    fn check(need: Need, role: Role, namespace: Option<&str>, target: Target<'_>, expect: Result<(), Lack>) {
        assert_eq!(judge(need, Some(Rights { role, namespace }), target), expect);
    }

    fn of(namespace: &str, kind: Kind) -> Target<'_> {
        Target { namespace: Some(namespace), kind: Some(kind) }
    }

    #[test]
    fn a_role_may_do_what_lower_ones_may() {
        let roles = [Role::View, Role::Edit, Role::Admin];
        for needed in roles {
            for role in roles {
                let expect = if role >= needed { Ok(()) } else { Err(Lack::Role(needed)) };
                let need = Need { role: needed, place: Place::Mesh };
                check(need, role, None, Target::default(), expect);
            }
        }
    }

    #[test]
    fn a_login_of_one_namespace_stays_there() {
        let read = Need { role: Role::View, place: Place::InPath };
        let write = Need { role: Role::Edit, place: Place::InPath };
        let elsewhere = || Err(Lack::OtherNamespace("shop".to_owned()));
        let mesh = || Err(Lack::Mesh("shop".to_owned()));
        check(write, Role::Edit, SHOP, of("shop", Kind::Service), Ok(()));
        check(write, Role::Edit, SHOP, of("default", Kind::Service), elsewhere());
        check(read, Role::View, SHOP, of("default", Kind::Service), elsewhere());
        check(read, Role::View, SHOP, Target::default(), elsewhere());
        check(read, Role::View, SHOP, of("shop", Kind::MeshConfig), Ok(()));
        check(write, Role::Edit, SHOP, of("shop", Kind::MeshConfig), mesh());
        check(Need { role: Role::View, place: Place::Mesh }, Role::Edit, SHOP, Target::default(), mesh());
        check(write, Role::Edit, None, of("default", Kind::MeshConfig), Ok(()));
    }

    #[test]
    fn whoever_is_no_operator_may_do_nothing() {
        for route in Route::ALL {
            assert_eq!(judge(route.need(), None, Target::default()), Err(Lack::NoOperator), "{route:?}");
        }
    }

    #[test]
    fn what_writes_takes_more_than_to_view() {
        for route in Route::ALL {
            let is_read = route.path().0 == Method::GET;
            assert!(is_read || route.need().role >= Role::Edit, "{route:?}");
        }
        // They hold secrets, or tell who has some.
        for route in [Route::Backup, Route::ListLogins] {
            assert_eq!(route.need().role, Role::Admin, "{route:?}");
        }
    }

    /// The rows of the table "Roles" in `docs/api.md`.
    #[test]
    fn the_documentation_has_every_route_with_its_role() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
        let page = std::fs::read_to_string(file).unwrap();
        for route in Route::ALL {
            let ((method, path), Need { role, place }) = (route.path(), route.need());
            let place = match place {
                Place::Mesh => "no",
                Place::InPath => "in its own",
                Place::Narrowed => "narrowed to it",
            };
            let row = format!("| `{method} /api/v1{path}` | {} | {place} |", role.word());
            assert!(page.contains(&row), "docs/api.md, \"Roles\", lacks the row\n{row}");
        }
        let rows = page.lines().filter(|line| {
            line.starts_with("| `") && line.contains(" /api/v1") && line.matches(" | ").count() == 2
        });
        assert_eq!(rows.count(), Route::ALL.len(), "a row of the table \"Roles\" has no route");
    }
}
