//! What is counted and logged of one request: begun with its head, finished with its answer.

use std::net::SocketAddr;

use meshwork_core::Instant;
use meshwork_core::cause::Cause;
use meshwork_core::model::AccessLog;
use meshwork_http::{Head, Known, StatusCode};

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
    texts: Option<Box<Texts>>,
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
            texts: (log != AccessLog::Off).then(|| Box::new(Texts::of(head, log))),
        }
    }

    /// The request's ID, once it has one.
    pub(crate) fn identified(&mut self, head: &Head) {
        if let Some(texts) = &mut self.texts {
            texts.request_id = text(head.get(Known::XRequestId).unwrap_or_default());
        }
    }

    pub(crate) fn finish(self, worker: &Worker) {
        let took = worker.now().since(self.started);
        // Requests that reached no rule have no labels of a service: they count as `other`.
        let labels = self.labels.unwrap_or(LabelId::OTHER_OUTBOUND);
        let key = SeriesKey { labels, method: self.method, status: self.status, cause: self.cause };
        worker.shard.request(key, took);
        let Some(texts) = self.texts else { return };
        let failed = self.cause.is_some() || self.status.is_none_or(|status| status.class() == 5);
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
            cause: self.cause.map(Cause::word),
            error: self.error,
            endpoint: self.endpoint.map(|endpoint| endpoint.to_string()),
            tries: self.tries,
            duration_us: took.as_micros(),
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
