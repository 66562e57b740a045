//! What is counted and logged of one request: begun with its head, finished with its answer.

use std::net::SocketAddr;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::cause::Cause;
use meshwork_core::grpc::{self, Status, Told};
use meshwork_core::model::AccessLog;
use meshwork_core::retry::{Call, Kind, Repeat};
use meshwork_http::{Head, Known, StatusCode};

use crate::failure::Failure;
use crate::telemetry::access_log::{Line, TEXT_MAX, epoch_millis};
use crate::telemetry::{LabelId, MethodClass, SeriesKey};
use crate::worker::Worker;

pub(crate) struct Record {
    started: Instant,
    method: MethodClass,
    /// Where it is counted, once that is known.
    pub(crate) labels: Option<LabelId>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) tries: u32,
    pub(crate) status: Option<StatusCode>,
    pub(crate) cause: Option<Cause>,
    pub(crate) error: Option<String>,
    grpc: Grpc,
    texts: Option<Box<Texts>>,
}

/// What is known of a call's end, if the request is one of gRPC.
#[derive(Clone, Copy)]
enum Grpc {
    NoCall,
    /// Nobody said yet how it ended.
    Open,
    Told(Told),
}

/// Kept only while the access log is on.
struct Texts {
    log: AccessLog,
    method: String,
    authority: String,
    path: String,
    request_id: String,
}

impl Record {
    pub(crate) fn begin(head: &Head, log: AccessLog, worker: &Worker) -> Self {
        Self {
            started: worker.now(),
            method: MethodClass::of(head.method()),
            labels: None,
            endpoint: None,
            tries: 0,
            status: None,
            cause: None,
            error: None,
            // Every call is a POST, so nothing else is searched for a content type.
            grpc: if head.method() == "POST" && grpc::is_call(head) { Grpc::Open } else { Grpc::NoCall },
            texts: (log != AccessLog::Off).then(|| Box::new(Texts::of(head, log))),
        }
    }

    /// The request's ID, once it has one.
    pub(crate) fn identified(&mut self, head: &Head) {
        if let Some(texts) = &mut self.texts {
            texts.request_id = text(head.get(Known::XRequestId).unwrap_or_default());
        }
    }

    /// Since the request's head came.
    pub(crate) fn elapsed(&self, worker: &Worker) -> Duration {
        worker.now().since(self.started)
    }

    /// Another sidecar says why it answered itself.
    pub(crate) fn refused(&mut self, cause: Option<Cause>) {
        self.cause = cause;
        self.error = cause.map(|cause| format!("the other sidecar says: {}", cause.sentence()));
    }

    /// What the request is, to whoever decides whether it is tried again.
    pub(crate) fn call(&self, request: &Head) -> Call {
        let kind = match self.grpc {
            Grpc::NoCall => Kind::Http,
            Grpc::Open | Grpc::Told(_) => Kind::Grpc,
        };
        Call { repeat: Repeat::of(request.method()), kind }
    }

    /// Reads how a gRPC call ended, if the head of its answer or its trailers say so; the last word counts.
    pub(crate) fn answered(&mut self, head: &Head) {
        match self.grpc {
            Grpc::NoCall => {}
            Grpc::Open | Grpc::Told(_) => self.grpc = grpc::status(head).map_or(self.grpc, Grpc::Told),
        }
    }

    /// How the application said that a gRPC call ended.
    pub(crate) fn told(&self) -> Option<Told> {
        match self.grpc {
            Grpc::Told(told) => Some(told),
            Grpc::NoCall | Grpc::Open => None,
        }
    }

    /// The answer broke off after its head.
    pub(crate) fn ended_by(&mut self, failure: &Failure) {
        self.cause = failure.cause();
        self.error = Some(failure.to_string());
    }

    /// As the client takes it: what was told; else what the mesh says, or what the HTTP status means.
    fn grpc_status(&self) -> Option<Told> {
        match (self.grpc, self.cause, self.status) {
            (Grpc::NoCall, ..) => None,
            // A client that left before the end has cancelled its call, whatever was on the way to it.
            (Grpc::Open | Grpc::Told(_), None, None) => Some(Told::Known(Status::Cancelled)),
            (Grpc::Told(told), ..) => Some(told),
            (Grpc::Open, Some(cause), _) => Some(Told::Known(cause.grpc_status())),
            (Grpc::Open, None, Some(status)) => Some(Told::Known(Status::of_http(status))),
        }
    }

    pub(crate) fn finish(self, worker: &Worker) {
        let took = worker.now().since(self.started);
        // Requests that reached no rule have no labels of a service: they count as `other`.
        let labels = self.labels.unwrap_or(LabelId::OTHER_OUTBOUND);
        let grpc = self.grpc_status();
        let key = SeriesKey { labels, method: self.method, status: self.status, cause: self.cause, grpc };
        worker.shard.request(key, took);
        let Some(texts) = self.texts else { return };
        let failed = self.cause.is_some()
            || self.status.is_none_or(|status| status.class() == 5)
            || grpc.is_some_and(Told::is_server_error);
        match texts.log {
            AccessLog::All => {}
            AccessLog::Errors if failed => {}
            AccessLog::Errors | AccessLog::Off => return,
        }
        let ends = worker.registry.ends(labels);
        worker.shared.access_log.write(Line {
            time: epoch_millis(),
            direction: ends.direction,
            source: ends.source,
            destination: ends.destination,
            route: ends.route,
            method: texts.method,
            authority: texts.authority,
            path: texts.path,
            status: self.status.map(StatusCode::as_u16),
            grpc_status: grpc,
            cause: self.cause.map(Cause::word),
            error: self.error,
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            tries: self.tries,
            duration_us: took.as_micros(),
            bytes_sent: None,
            bytes_received: None,
            request_id: texts.request_id,
        });
    }
}

impl Texts {
    fn of(head: &Head, log: AccessLog) -> Self {
        Self {
            log,
            method: text(head.method().as_bytes()),
            authority: text(head.authority().unwrap_or_default().as_bytes()),
            path: text(head.path().as_bytes()), // without the query: it may hold secrets
            request_id: String::new(),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned()
}
