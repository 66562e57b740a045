//! Prints the metrics as OpenMetrics text: shards are added up here, on the side thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;

use super::metrics::{BUCKETS_MICROS, Event, Gauge, LabelId, Registry, SeriesKey, WORD_LABEL, lock};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Registry {
    /// All metrics as OpenMetrics text.
    pub fn render(self: &Arc<Self>) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Printer(self.clone())));
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &registry);
        out
    }
}

struct Printer(Arc<Registry>);

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Printer")
    }
}

#[derive(Default)]
struct Latency {
    buckets: [u64; BUCKETS_MICROS.len() + 1],
    sum_seconds: f64,
}

impl Collector for Printer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (requests, latencies) = self.sums();
        let mut family = encoder.encode_descriptor(
            "meshwork_requests",
            "Requests that got an answer, or lost their client",
            None,
            MetricType::Counter,
        )?;
        for (key, count) in requests {
            family
                .encode_family(&self.request_labels(key))?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        for (direction, name, help) in [
            (
                "inbound",
                "http_server_request_duration_seconds",
                "From a request's head to the end of its answer, inbound",
            ),
            (
                "outbound",
                "http_client_request_duration_seconds",
                "From a request's head to the end of its answer, outbound",
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (id, latency) in &latencies {
                let ends = self.0.ends(*id);
                if ends.direction != direction {
                    continue;
                }
                let bounds = BUCKETS_MICROS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(latency.buckets).collect();
                let labels =
                    [("source", ends.source), ("destination", ends.destination), ("route", ends.route)];
                let count = latency.buckets.iter().sum();
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    latency.sum_seconds,
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        self.encode_workers(&mut encoder)?;
        self.encode_words(&mut encoder)
    }
}

impl Printer {
    fn sums(&self) -> (Vec<(SeriesKey, u64)>, BTreeMap<LabelId, Latency>) {
        let lists: Vec<_> = lock(&self.0.shards).clone();
        let mut requests: Vec<(SeriesKey, u64)> = Vec::new();
        let mut latencies: BTreeMap<LabelId, Latency> = BTreeMap::new();
        for list in lists {
            // Cloned, so that a worker that meets a new series hardly ever waits for us.
            let series = lock(&list).clone();
            for (key, series) in series {
                let count = series.requests.load(Ordering::Relaxed);
                match requests.iter_mut().find(|(held, _)| *held == key) {
                    Some((_, sum)) => *sum += count,
                    None => requests.push((key, count)),
                }
                let latency = latencies.entry(key.labels).or_default();
                for (sum, bucket) in latency.buckets.iter_mut().zip(&series.latency.buckets) {
                    *sum += bucket.load(Ordering::Relaxed);
                }
                latency.sum_seconds += series.latency.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
            }
        }
        (requests, latencies)
    }

    fn request_labels(&self, key: SeriesKey) -> Vec<(&'static str, String)> {
        let ends = self.0.ends(key.labels);
        let mut labels = vec![
            ("direction", ends.direction.to_owned()),
            ("source", ends.source),
            ("destination", ends.destination),
            ("route", ends.route),
            ("method", key.method.word().to_owned()),
            ("status", key.status.map_or_else(String::new, |status| status.to_string())),
            ("cause", key.cause.map_or("", |cause| cause.word()).to_owned()),
        ];
        // To Prometheus an empty label is none; calls of gRPC alone have this one.
        labels.extend(key.grpc.map(|told| ("rpc_grpc_status_code", told.word().to_owned())));
        labels
    }

    fn encode_workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("meshwork_worker_connections", "Accepted connections that a worker has open");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (worker, open) in self.0.worker_connections().into_iter().enumerate() {
            let value = i64::try_from(open).unwrap_or(i64::MAX);
            family.encode_family(&[("worker", worker.to_string())])?.encode_gauge(&value)?;
        }
        let help = "Tasks of the sidecar that have not ended";
        let mut tasks = encoder.encode_descriptor("meshwork_tasks", help, None, MetricType::Gauge)?;
        encode_value(&mut tasks, MetricType::Gauge, i64::try_from(self.0.tasks()).unwrap_or(i64::MAX))
    }

    fn encode_words(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let events = Event::ALL.iter().map(|event| (event.name(), self.0.counted(*event) as i64));
        let gauges = Gauge::ALL.iter().map(|gauge| (gauge.name(), self.0.value(*gauge)));
        Self::encode_table(encoder, MetricType::Counter, events)?;
        Self::encode_table(encoder, MetricType::Gauge, gauges)
    }

    /// Words of one metric stand side by side in their table.
    fn encode_table(
        encoder: &mut DescriptorEncoder<'_>,
        kind: MetricType,
        words: impl Iterator<Item = ((&'static str, &'static str), i64)>,
    ) -> fmt::Result {
        let mut words = words.peekable();
        while let Some(((metric, _), _)) = words.peek().copied() {
            let mut family = encoder.encode_descriptor(metric, "See docs/metrics.md", None, kind)?;
            while let Some(((_, word), value)) = words.next_if(|((name, _), _)| *name == metric) {
                if word.is_empty() {
                    encode_value(&mut family, kind, value)?;
                } else {
                    encode_value(&mut family.encode_family(&[(WORD_LABEL, word)])?, kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: MetricType, value: i64) -> fmt::Result {
    match kind {
        MetricType::Gauge => metric.encode_gauge(&value),
        _ => metric.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_core::grpc::{Status, Told};
    use meshwork_http::StatusCode;

    use super::super::metrics::{Labels, MethodClass};
    use super::*;

    fn rendered() -> String {
        let registry = Registry::new("default/web".to_owned());
        let labels =
            registry.outbound(&Labels { peer: "default/cart".to_owned(), route: "default".to_owned() });
        let key = SeriesKey {
            labels,
            method: MethodClass::Safe,
            status: Some(StatusCode::OK),
            cause: None,
            grpc: None,
        };
        // Two workers that saw the same kind of request.
        for micros in [700, 20_000_000] {
            registry.shard().request(key, Duration::from_micros(micros));
        }
        for told in [Told::Known(Status::Unavailable), Told::Other] {
            let call = SeriesKey { method: MethodClass::Other, grpc: Some(told), ..key };
            registry.shard().request(call, Duration::from_micros(800));
        }
        registry.add_worker(Arc::new(3.into()));
        registry.add_worker(Arc::new(4.into()));
        registry.count(Event::ConnectFailed);
        registry.set(Gauge::ConfigVersion, 7);
        registry.render()
    }

    #[track_caller]
    fn check(line: &str) {
        let text = rendered();
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }

    #[test]
    fn workers_are_added_up() {
        let labels =
            r#"direction="outbound",source="default/web",destination="default/cart",route="default""#;
        check(&format!(r#"meshwork_requests_total{{{labels},method="safe",status="200",cause=""}} 2"#));
    }

    #[test]
    fn grpc_calls_are_told_apart_by_their_status() {
        for word in ["14", "other"] {
            let labels =
                r#"direction="outbound",source="default/web",destination="default/cart",route="default""#;
            let rest = format!(r#"method="other",status="200",cause="",rpc_grpc_status_code="{word}""#);
            check(&format!("meshwork_requests_total{{{labels},{rest}}} 1"));
        }
    }

    #[test]
    fn a_histogram_ends_with_infinity() {
        let labels = r#"source="default/web",destination="default/cart",route="default""#;
        let metric = "http_client_request_duration_seconds";
        check(&format!(r#"{metric}_bucket{{le="0.001",{labels}}} 3"#));
        check(&format!(r#"{metric}_bucket{{le="10.0",{labels}}} 3"#));
        check(&format!(r#"{metric}_bucket{{le="+Inf",{labels}}} 4"#));
        check(&format!("{metric}_count{{{labels}}} 4"));
    }

    #[test]
    fn each_worker_shows_its_connections() {
        check(r#"meshwork_worker_connections{worker="0"} 3"#);
        check(r#"meshwork_worker_connections{worker="1"} 4"#);
    }

    #[tokio::test]
    async fn tasks_are_those_that_run() {
        let registry = Registry::new("default/web".to_owned());
        registry.add_this_runtime();
        let running = tokio::spawn(std::future::pending::<()>());
        assert!(registry.render().lines().any(|line| line == "meshwork_tasks 1"));
        running.abort();
        assert!(running.await.is_err());
        assert!(registry.render().lines().any(|line| line == "meshwork_tasks 0"));
    }

    #[test]
    fn a_metric_without_labels_prints_none() {
        check("meshwork_connect_failures_total 1");
        check("meshwork_config_version 7");
        check("# EOF");
    }
}
