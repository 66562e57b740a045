//! The shop's customers: a steady rate of requests to `web`, each answer judged and counted.
//!
//! Open loop: a slow answer does not slow the customers down. It begins once the shop answers at all, and from then on
//! every failure counts. What was measured is written to a file, whole, several times a second.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::BoxError;
use crate::demo::http::HttpClient;

/// Requests a second. Each makes five between services; enough for figures, little enough for a laptop.
const RATE: u32 = 100;

/// Requests under way at once. Whoever finds no room waits at the door: on a machine that is busy elsewhere the
/// customers slow down too, and a shop that is stuck fails those inside by their time-out.
const UNDER_WAY_MAX: usize = 256;

/// Latencies kept for exact percentiles: an hour at the rate above. Later ones are not kept.
const LATENCIES_MAX: usize = 400_000;

/// Failures that are kept with their reason.
const REASONS_MAX: usize = 10;

const REPORT_EVERY: Duration = Duration::from_millis(250);

/// The shop counts as open after this many good answers in a row.
const OPEN_AFTER: usize = 20;

/// How long the shop may take to open.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// What the customers saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Good answers by the version of cart that made them.
    pub(crate) versions: BTreeMap<String, u64>,
    /// The first failures.
    pub(crate) reasons: Vec<String>,
}

#[derive(Default)]
struct Tally {
    report: Report,
    latencies_micros: Vec<u32>,
}

struct Outcome {
    latency: Duration,
    /// The cart's version, or what went wrong.
    result: Result<String, String>,
}

pub(super) async fn run(file: &Path, stopped: impl Future<Output = ()>) -> Result<(), BoxError> {
    let http = Arc::new(HttpClient::by_environment()?);
    tokio::pin!(stopped);
    tokio::select! {
        open = wait_until_open(&http) => open?,
        () = &mut stopped => return Ok(()),
    }
    let mut tally = Tally::default();
    let mut customers = JoinSet::new();
    let mut next = interval(Duration::from_secs(1) / RATE);
    next.set_missed_tick_behavior(MissedTickBehavior::Burst); // the rate holds over a hiccup
    let mut report = interval(REPORT_EVERY);
    loop {
        tokio::select! {
            _ = next.tick(), if customers.len() < UNDER_WAY_MAX => {
                customers.spawn(visit(http.clone()));
            }
            Some(Ok(outcome)) = customers.join_next() => tally.count(outcome),
            _ = report.tick() => write(file, &tally.report())?,
            () = &mut stopped => break,
        }
    }
    while let Some(outcome) = customers.join_next().await {
        tally.count(outcome?);
    }
    Ok(write(file, &tally.report())?)
}

/// Workloads register one by one; before the last one is there, failures say nothing of the mesh.
async fn wait_until_open(http: &Arc<HttpClient>) -> Result<(), BoxError> {
    let since = Instant::now();
    let mut pause = interval(Duration::from_millis(50));
    let mut in_a_row = 0;
    while in_a_row < OPEN_AFTER {
        pause.tick().await;
        match visit(http.clone()).await.result {
            Ok(_) => in_a_row += 1,
            Err(reason) if since.elapsed() > OPEN_MAX => {
                return Err(format!("the shop never opened: {reason}").into());
            }
            Err(_) => in_a_row = 0,
        }
    }
    Ok(())
}

async fn visit(http: Arc<HttpClient>) -> Outcome {
    let start = Instant::now();
    let answer = http.get("web", "http://web/").await;
    let result = match answer {
        Err(error) => Err(format!("web: {error}")),
        Ok((status, body)) if !status.is_success() => {
            let body = String::from_utf8_lossy(&body);
            Err(format!("web answered {status}: {}", body.chars().take(300).collect::<String>()))
        }
        Ok((_, body)) => version(&body).ok_or_else(|| "web's answer is not the shop's page".to_owned()),
    };
    Outcome { latency: start.elapsed(), result }
}

/// Also proves that every part of the page arrived: the whole chain answered.
fn version(body: &[u8]) -> Option<String> {
    let page: Value = serde_json::from_slice(body).ok()?;
    let cart = &page["cart"];
    let whole =
        cart["catalog"]["items"].is_array() && cart["payments"]["total"] == 4_200 && cart["stock"] == 42;
    cart["version"].as_str().filter(|_| whole).map(str::to_owned)
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        self.report.requests += 1;
        if self.latencies_micros.len() < LATENCIES_MAX {
            self.latencies_micros.push(u32::try_from(outcome.latency.as_micros()).unwrap_or(u32::MAX));
        }
        match outcome.result {
            Ok(version) => *self.report.versions.entry(version).or_default() += 1,
            Err(reason) => {
                self.report.failed += 1;
                if self.report.reasons.len() < REASONS_MAX {
                    self.report.reasons.push(reason);
                }
            }
        }
    }

    fn report(&mut self) -> Report {
        self.report.p50_ms = percentile(&mut self.latencies_micros, 50);
        self.report.p99_ms = percentile(&mut self.latencies_micros, 99);
        self.report.clone()
    }
}

/// In milliseconds; reorders the latencies.
fn percentile(latencies_micros: &mut [u32], percent: usize) -> f64 {
    if latencies_micros.is_empty() {
        return 0.0;
    }
    let at = (latencies_micros.len() * percent / 100).min(latencies_micros.len() - 1);
    let (_, micros, _) = latencies_micros.select_nth_unstable(at);
    f64::from(*micros) / 1_000.0
}

/// Renamed into place: the reader never sees half a report.
fn write(file: &Path, report: &Report) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(report)?)?;
    std::fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut latencies: Vec<u32> = (1..=100).rev().map(|ms| ms * 1_000).collect();
        assert_eq!(percentile(&mut latencies, 50), 51.0);
        assert_eq!(percentile(&mut latencies, 99), 100.0);
        assert_eq!(percentile(&mut [], 50), 0.0);
    }

    #[test]
    fn every_request_is_counted_once() {
        let mut tally = Tally::default();
        let outcome = |result: Result<&str, &str>| Outcome {
            latency: Duration::from_millis(2),
            result: result.map(str::to_owned).map_err(str::to_owned),
        };
        for result in [Ok("v1"), Ok("v2"), Ok("v1"), Err("web: broke")] {
            tally.count(outcome(result));
        }
        let report = tally.report();
        assert_eq!((report.requests, report.failed, report.p50_ms), (4, 1, 2.0));
        assert_eq!(report.versions, BTreeMap::from([("v1".to_owned(), 2), ("v2".to_owned(), 1)]));
        assert_eq!(report.reasons, ["web: broke"]);
    }

    #[test]
    fn a_page_counts_only_if_the_whole_chain_answered() {
        let page = |stock: u32| {
            let cart = serde_json::json!({"version": "v2", "catalog": {"items": []}, "payments": {"total": 4_200}, "stock": stock});
            serde_json::json!({ "cart": cart }).to_string()
        };
        assert_eq!(version(page(42).as_bytes()), Some("v2".to_owned()));
        assert_eq!(version(page(0).as_bytes()), None);
        assert_eq!(version(b"{}"), None);
    }
}
