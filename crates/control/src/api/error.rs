//! What the API answers when it refuses: one table from a refusal to its status and word.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::document::{Flaw, Source};
use crate::manifest::Unreadable;
use crate::store::{ChangesError, CommitError, StoreError};

/// Problems that one answer lists; whoever has more mends these first.
pub(super) const PROBLEMS_MAX: usize = 50;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request itself makes no sense: a query, a path, a body that is no text.
    #[error("{0}")]
    BadRequest(String),
    /// Documents that were refused, each with its place. Never empty.
    #[error("{} problems in the documents", .0.len())]
    Invalid(Vec<Problem>),
    /// Nobody knows who it is.
    #[error("{0}")]
    Unauthorized(String),
    /// It is known who it is, and that they may not.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{}", .0.message)]
    Conflict(Problem),
    #[error("{0}")]
    Gone(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    TooMany(String),
    /// Full, stopping, or a disk that can't be written: another try may succeed.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

/// One thing that is wrong, where it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Problem {
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snippet: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    error: Told,
}

#[derive(Serialize)]
struct Told {
    word: &'static str,
    #[serde(flatten)]
    first: Problem,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Problem>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    pub(crate) fn of(flaw: Flaw, source: &Source<'_>) -> Self {
        Self {
            message: flaw.message,
            file: Some(source.file.to_owned()),
            line: flaw.place.map(|place| place.line),
            column: flaw.place.map(|place| place.column),
            snippet: flaw.place.and_then(|place| source.snippet(place)),
        }
    }
}

impl ApiError {
    /// The one table from a refusal to what the client sees.
    pub(crate) fn row(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Gone(_) => (StatusCode::GONE, "gone"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    fn problems(self) -> Vec<Problem> {
        match self {
            Self::Invalid(problems) => problems,
            Self::Conflict(problem) => vec![problem],
            Self::BadRequest(message)
            | Self::Unauthorized(message)
            | Self::Forbidden(message)
            | Self::NotFound(message)
            | Self::Gone(message)
            | Self::TooLarge(message)
            | Self::TooMany(message)
            | Self::Unavailable(message)
            | Self::Internal(message) => vec![Problem::new(message)],
        }
    }

    /// The body as JSON, as `watch` writes it into its stream too.
    pub(crate) fn into_json(self) -> serde_json::Value {
        let (_, word) = self.row();
        let mut problems = self.problems().into_iter();
        let first = problems.next().unwrap_or_default();
        let more = problems.take(PROBLEMS_MAX - 1).collect();
        serde_json::to_value(Answer { error: Told { word, first, more } }).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _) = self.row();
        let unknown = status == StatusCode::UNAUTHORIZED;
        let mut response = (status, Json(self.into_json())).into_response();
        if unknown {
            // RFC 9110, 15.5.2: which proof would do.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Unreadable> for ApiError {
    fn from(error: Unreadable) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        let message = error.to_string();
        match error {
            CommitError::Conflict { .. } => Self::Conflict(Problem::new(message)),
            CommitError::TooLarge { .. } => Self::TooLarge(message),
            CommitError::Full { .. } | CommitError::Disk(_) | CommitError::Closed => {
                Self::Unavailable(message)
            }
        }
    }
}

impl From<ChangesError> for ApiError {
    fn from(error: ChangesError) -> Self {
        let message = error.to_string();
        match error {
            ChangesError::Gone { .. } => Self::Gone(message),
            ChangesError::Ahead { .. } => Self::BadRequest(message),
            ChangesError::Store(error) => error.into(),
        }
    }
}
