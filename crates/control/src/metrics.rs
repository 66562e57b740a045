//! What the control plane counts of itself, as OpenMetrics text; `docs/metrics.md` has each name.
//!
//! What happens is counted where it happens; what is there is looked up when somebody asks (`api/metrics.rs`). A metric has
//! no label or the one label `kind`, whose words are all there from the start: nothing that anybody sends becomes a label.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshwork_core::manifest::Kind as Manifest;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tokio::time::Instant;

use crate::logins::LoginRefused;
use crate::registry::Refused;
use crate::store::CommitError;
use crate::tokens::TokenRefused;

pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Before each name: sidecars have their own, and both stand in one database.
const PREFIX: &str = "meshwork_control";

/// Upper bounds of a push's buckets, in seconds: changes are collected for 20 ms, and most sidecars answer 20 ms later.
const PUSH_SECONDS: [f64; 12] = [0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Who holds a config stream, as far as it said.
pub(crate) const SESSION_KINDS: [&str; 4] = ["sidecar", "grpc", "envoy", "unnamed"];

/// Of these there may be many; there is one MeshConfig.
pub(crate) const RESOURCE_KINDS: [Manifest; 4] =
    [Manifest::Service, Manifest::Workload, Manifest::HttpRoute, Manifest::TrafficPolicy];

pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) pushes: Counter,
    pub(crate) answers: Words<Counter>,
    push_seconds: Histogram,
    pub(crate) certificates: Words<Counter>,
    pub(crate) certificates_refused: Words<Counter>,
    pub(crate) logins_refused: Words<Counter>,
    pub(crate) registrations_refused: Words<Counter>,
    pub(crate) handshakes: Words<Counter>,
    pub(crate) limits_reached: Words<Counter>,
    pub(crate) commits: Words<Counter>,
    pub(crate) now: Gauges,
}

/// What is there; set by whoever is about to show it.
pub(crate) struct Gauges {
    pub(crate) registered: Gauge,
    pub(crate) sessions: Words<Gauge>,
    pub(crate) sessions_behind: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) resources: Words<Gauge>,
    pub(crate) workloads: Words<Gauge>,
    pub(crate) waiting: Words<Gauge>,
    pub(crate) revision: Words<Gauge>,
    pub(crate) store_bytes: Gauge,
    pub(crate) store_keys: Gauge,
    pub(crate) store_changes: Gauge,
    pub(crate) certificate_expiry: Gauge,
    pub(crate) memory_bytes: Gauge,
    pub(crate) descriptors: Gauge,
    pub(crate) threads: Gauge,
    pub(crate) tasks: Gauge,
}

/// A metric that is told apart by one word.
#[derive(Clone)]
pub(crate) struct Words<M>(Family<Kind, M>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind(&'static str);

impl EncodeLabelSet for Kind {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("kind", self.0)].encode(encoder)
    }
}

impl<M: Default> Words<M> {
    fn of(words: &[&'static str]) -> Self {
        let family = Family::default();
        for word in words {
            drop(family.get_or_create(&Kind(word)));
        }
        Self(family)
    }
}

impl Words<Counter> {
    pub(crate) fn count(&self, word: &'static str) {
        debug_assert!(self.0.get(&Kind(word)).is_some(), "{word} is not in the metric's table");
        self.0.get_or_create(&Kind(word)).inc();
    }
}

impl Words<Gauge> {
    pub(crate) fn set(&self, word: &'static str, value: usize) {
        debug_assert!(self.0.get(&Kind(word)).is_some(), "{word} is not in the metric's table");
        set(&self.0.get_or_create(&Kind(word)), value as u64);
    }
}

/// What Prometheus holds is a float of 64 bits anyway.
pub(crate) fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

impl Default for Metrics {
    fn default() -> Self {
        let mut made = Made(Registry::with_prefix(PREFIX));
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        made.0.register("build", "Which version this is", Info::new(version));
        Self {
            pushes: made.one("pushes", "Responses that clients were sent"),
            answers: made.words("answers", "What clients answered", &["ack", "nack"]),
            push_seconds: made.push_seconds(),
            certificates: made.words(
                "certificates",
                "Certificates that were signed for workloads",
                &["enrolled", "renewed"],
            ),
            certificates_refused: made.words(
                "certificates_refused",
                "Enrolments and renewals that were refused",
                &[TokenRefused::WORDS.as_slice(), &["no_certificate", "request", "failed"]].concat(),
            ),
            logins_refused: made.words(
                "logins_refused",
                "Requests of the API without a login that holds",
                &LoginRefused::WORDS,
            ),
            registrations_refused: made.words(
                "registrations_refused",
                "What sidecars said and was refused",
                &Refused::WORDS,
            ),
            handshakes: made.words(
                "tls_handshakes",
                "Connections to the TLS port",
                &["done", "peer_refused", "failed", "timeout"],
            ),
            limits_reached: made.words(
                "limits_reached",
                "Times that a limit was met",
                &[
                    "connections",
                    "operators",
                    "handshakes",
                    "watches",
                    "session",
                    "load_reports",
                    "store_keys",
                    "value_bytes",
                ],
            ),
            commits: made.words(
                "commits",
                "What the store was asked to write",
                &["done", "refused", "failed"],
            ),
            now: Gauges::new(&mut made),
            registry: made.0,
        }
    }
}

impl Gauges {
    fn new(made: &mut Made) -> Self {
        let kinds = RESOURCE_KINDS.map(Manifest::plural);
        Self {
            registered: made.one("registered_sidecars", "Sidecars whose session stands"),
            sessions: made.words("sessions", "Config streams that stand", &SESSION_KINDS),
            sessions_behind: made
                .one("sessions_behind", "Those that were told of endpoints and have not answered"),
            subscriptions: made.one("subscriptions", "Resources that streams are kept up to date about"),
            resources: made.words("resources", "Resources of the mesh", &kinds),
            workloads: made.words("workloads", "Workloads by health", &["healthy", "unhealthy", "draining"]),
            waiting: made.words("waiting", "Those in a queue", &["commits", "handshakes"]),
            revision: made.words(
                "revision",
                "How far the store is, and what was made of it",
                &["store", "model"],
            ),
            store_bytes: made.one("store_bytes", "Size of the store's file"),
            store_keys: made.one("store_keys", "Keys in the store"),
            store_changes: made.one("store_changes", "Revisions in the change log"),
            certificate_expiry: made
                .one("certificate_expiry_timestamp_seconds", "When the own certificate ends"),
            memory_bytes: made.one("memory_bytes", "Resident memory"),
            descriptors: made.one("descriptors", "Open file descriptors"),
            threads: made.one("threads", "Threads of the process"),
            tasks: made.one("tasks", "Tasks of the runtime that have not ended"),
        }
    }
}

/// Metrics as they are made and registered.
struct Made(Registry);

impl Made {
    fn one<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn words<M: Clone + Default>(&mut self, name: &str, help: &str, words: &[&'static str]) -> Words<M>
    where
        Family<Kind, M>: Metric,
    {
        let metric = Words::of(words);
        self.0.register(name, help, metric.0.clone());
        metric
    }

    fn push_seconds(&mut self) -> Histogram {
        let histogram = Histogram::new(PUSH_SECONDS);
        let help = "From a change to the last answer of those whom it concerns";
        self.0.register("push_duration_seconds", help, histogram.clone());
        histogram
    }
}

impl Metrics {
    /// All of them as OpenMetrics text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    pub(crate) fn committed(&self, result: &Result<u64, CommitError>) {
        let (outcome, limit) = match result {
            Ok(_) => ("done", None),
            Err(CommitError::Conflict { .. }) => ("refused", None),
            Err(CommitError::TooLarge { .. }) => ("refused", Some("value_bytes")),
            Err(CommitError::Full { .. }) => ("refused", Some("store_keys")),
            Err(CommitError::Disk(_) | CommitError::Closed) => ("failed", None),
        };
        self.commits.count(outcome);
        if let Some(limit) = limit {
            self.limits_reached.count(limit);
        }
    }

    /// A change sets out that became known at `begun`.
    pub(crate) fn push(&self, begun: Instant) -> Arc<Push> {
        Arc::new(Push { begun, seconds: self.push_seconds.clone(), concerns: AtomicBool::new(false) })
    }
}

/// A change on its way. Each stream that it concerns holds it until its client has answered, or is gone: it has arrived
/// when nobody holds it any more.
pub(crate) struct Push {
    begun: Instant,
    seconds: Histogram,
    /// Whether it concerns anybody: what nobody was told took no time.
    concerns: AtomicBool,
}

impl Push {
    pub(crate) fn concerns_somebody(&self) {
        self.concerns.store(true, Ordering::Relaxed);
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        if *self.concerns.get_mut() {
            self.seconds.observe(self.begun.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_push_has_arrived_when_the_last_who_was_told_has_answered() {
        let metrics = Metrics::default();
        let first = metrics.push(Instant::now());
        first.concerns_somebody();
        let last = Arc::clone(&first);
        drop(metrics.push(Instant::now())); // concerns nobody
        drop(first);
        assert!(metrics.render().contains("push_duration_seconds_count 0"));
        tokio::time::advance(std::time::Duration::from_millis(60)).await;
        drop(last);
        let text = metrics.render();
        for line in [r#"bucket{le="0.05"} 0"#, r#"bucket{le="0.075"} 1"#, "count 1"] {
            let line = format!("meshwork_control_push_duration_seconds_{line}");
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn every_word_is_there_from_the_start() {
        let text = Metrics::default().render();
        assert!(text.contains("meshwork_control_answers_total{kind=\"nack\"} 0"), "{text}");
        assert!(
            text.contains("meshwork_control_certificates_refused_total{kind=\"token_expired\"} 0"),
            "{text}"
        );
        assert!(text.contains("meshwork_control_build_info{version="), "{text}");
    }
}
