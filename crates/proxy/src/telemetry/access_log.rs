//! The access log: one JSON object a line on standard error, off unless `MeshConfig` says otherwise.
//!
//! Workers only hand over what they know; formatting and writing happen on a thread of its own. A full
//! queue drops lines and counts them: traffic never waits for a log.

use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use meshwork_core::grpc::Told;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Event, Registry};

/// Lines that may wait: a second of a busy sidecar.
const LINES_MAX: usize = 16_384;

/// One finished request, or one connection that was carried as it was. Every text is bounded where it is taken from the request.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line {
    /// Milliseconds since the epoch, at the request's end.
    pub(crate) time: u128,
    pub(crate) direction: &'static str,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) route: String,
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "number_or_other")]
    pub(crate) grpc_status: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<&'static str>,
    /// The sentence behind the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    pub(crate) tries: u32,
    pub(crate) duration_us: u128,
    /// Of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_received: Option<u64>,
    pub(crate) request_id: String,
}

/// Text from a request is cut here: a log line is no place for a kilobyte of path.
pub(crate) const TEXT_MAX: usize = 256;

pub(crate) struct AccessLog {
    lines: Sender<Line>,
    registry: Arc<Registry>,
}

impl AccessLog {
    /// Starts the writing thread; it ends when the last sender is gone.
    pub(crate) fn start(registry: Arc<Registry>) -> std::io::Result<Self> {
        // This queue grows as lines wait; the standard library's takes 5 MiB at once, though most sidecars never log.
        let (lines, queue) = channel(LINES_MAX);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(queue))?;
        Ok(Self { lines, registry })
    }

    pub(crate) fn write(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.registry.count(Event::AccessLogDropped);
        }
    }
}

fn write(mut queue: Receiver<Line>) {
    while let Some(line) = queue.blocking_recv() {
        let Ok(mut text) = serde_json::to_vec(&line) else { continue };
        text.push(b'\n');
        // Whoever closed standard error wants no log.
        let _ = std::io::stderr().lock().write_all(&text);
    }
}

fn number_or_other<S: Serializer>(told: &Option<Told>, serializer: S) -> Result<S::Ok, S::Error> {
    match told {
        Some(Told::Known(status)) => serializer.serialize_u8(status.number()),
        Some(other @ Told::Other) => serializer.serialize_str(other.word()),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn epoch_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

#[cfg(test)]
mod tests {
    use meshwork_core::grpc::Status;

    use super::*;

    #[test]
    fn a_call_is_logged_with_its_status_as_a_number() {
        let logged = |grpc_status| {
            let line = Line {
                time: 0,
                direction: "outbound",
                source: String::new(),
                destination: String::new(),
                route: String::new(),
                method: String::new(),
                authority: String::new(),
                path: String::new(),
                status: Some(200),
                grpc_status,
                cause: None,
                error: None,
                endpoint: None,
                tries: 1,
                duration_us: 0,
                bytes_sent: None,
                bytes_received: None,
                request_id: String::new(),
            };
            serde_json::to_value(line).unwrap().get("grpc_status").cloned()
        };
        assert_eq!(logged(Some(Told::Known(Status::Unavailable))), Some(14.into()));
        assert_eq!(logged(Some(Told::Other)), Some("other".into()));
        assert_eq!(logged(None), None);
    }
}
