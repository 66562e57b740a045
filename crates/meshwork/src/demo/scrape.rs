//! What a sidecar's /metrics say, and what happened between two looks at them. Pure.

use std::collections::BTreeMap;

/// Requests on one side of a sidecar, since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) requests: u64,
    /// Answered with 500 or above or a gRPC status that is not OK, or not at all.
    pub(super) failed: u64,
    /// gRPC calls among them that ended with status 0, OK.
    pub(super) calls_ok: u64,
    /// Whose other side is known by its certificate.
    pub(super) verified: u64,
    /// Cumulative, by upper bound in microseconds (`u64::MAX`: no bound).
    pub(super) buckets: BTreeMap<u64, u64>,
    /// TLS handshakes that succeeded.
    pub(super) handshakes: u64,
    /// TLS handshakes that were refused or failed.
    pub(super) refused: u64,
}

/// Which side of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Inbound,
    Outbound,
}

impl Side {
    fn direction(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    fn histogram(self) -> &'static str {
        match self {
            Self::Inbound => "http_server_request_duration_seconds_bucket",
            Self::Outbound => "http_client_request_duration_seconds_bucket",
        }
    }

    /// The label that names the peer.
    fn peer(self) -> &'static str {
        match self {
            Self::Inbound => "source",
            Self::Outbound => "destination",
        }
    }
}

impl Sample {
    pub(super) fn read(text: &str, side: Side) -> Self {
        let mut sample = Self::default();
        for line in text.lines() {
            let Some((name, labels, value)) = parse(line) else { continue };
            let label =
                |wanted: &str| labels.iter().find(|(name, _)| name == wanted).map_or("", |(_, v)| v.as_str());
            let count = value as u64;
            if name == "meshwork_requests_total" && label("direction") == side.direction() {
                sample.requests += count;
                let status: u16 = label("status").parse().unwrap_or(0);
                let grpc_status = label("rpc_grpc_status_code"); // empty: no call
                let good = (100..500).contains(&status) && matches!(grpc_status, "" | "0");
                sample.failed += if good { 0 } else { count };
                sample.calls_ok += if grpc_status == "0" { count } else { 0 };
                // `namespace/service`, as its certificate says.
                sample.verified += if label(side.peer()).contains('/') { count } else { 0 };
            } else if name == side.histogram() {
                let bound = label("le").parse::<f64>().ok().filter(|bound| bound.is_finite());
                let micros = bound.map_or(u64::MAX, |seconds| (seconds * 1e6).round() as u64);
                *sample.buckets.entry(micros).or_default() += count;
            } else if name == "meshwork_tls_handshakes_total" {
                match label("kind") {
                    "full" | "resumed" => sample.handshakes += count,
                    _ => sample.refused += count,
                }
            }
        }
        sample
    }

    /// What happened since `before`; all of it if the sidecar was restarted since.
    pub(super) fn since(&self, before: &Self) -> Self {
        if self.requests < before.requests {
            return self.clone();
        }
        let minus = |now: u64, then: u64| now.saturating_sub(then);
        let then = |bound: &u64| before.buckets.get(bound).copied().unwrap_or(0);
        Self {
            requests: minus(self.requests, before.requests),
            failed: minus(self.failed, before.failed),
            calls_ok: minus(self.calls_ok, before.calls_ok),
            verified: minus(self.verified, before.verified),
            buckets: self.buckets.iter().map(|(bound, now)| (*bound, minus(*now, then(bound)))).collect(),
            handshakes: minus(self.handshakes, before.handshakes),
            refused: minus(self.refused, before.refused),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.calls_ok += other.calls_ok;
        self.verified += other.verified;
        self.handshakes += other.handshakes;
        self.refused += other.refused;
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// In milliseconds, within its bucket by straight line; `None` without requests.
    pub(super) fn percentile_ms(&self, percent: u64) -> Option<f64> {
        let total = self.buckets.values().max().copied().filter(|total| *total > 0)?;
        let rank = (total as f64 * percent as f64 / 100.0).max(1.0);
        let (mut lower, mut below) = (0, 0);
        for (bound, cumulative) in &self.buckets {
            if *cumulative as f64 >= rank {
                if *bound == u64::MAX {
                    return Some(lower as f64 / 1e3); // beyond the last bound: at least that
                }
                let share = (rank - below as f64) / (cumulative - below) as f64;
                return Some((lower as f64 + share * (bound - lower) as f64) / 1e3);
            }
            (lower, below) = (*bound, *cumulative);
        }
        None
    }
}

/// Counters of these names, over all their labels.
pub(super) fn total(text: &str, names: &[&str]) -> u64 {
    let counted = text.lines().filter_map(parse).filter(|(name, ..)| names.contains(name));
    counted.map(|(_, _, value)| value as u64).sum()
}

/// In the order in which they stand.
type Labels = Vec<(String, String)>;

/// `name{label="value",…} number …`; `None` for comments.
fn parse(line: &str) -> Option<(&str, Labels, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, value_on) = rest.split_once("=\"")?;
            let (value, after) = quoted(value_on)?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Text up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP meshwork_requests Requests.\n\
        # TYPE meshwork_requests counter\n\
        meshwork_requests_total{direction=\"inbound\",source=\"default/web\",destination=\"default/cart\",route=\"\",method=\"safe\",status=\"200\",cause=\"\"} 90\n\
        meshwork_requests_total{direction=\"inbound\",source=\"default/web\",destination=\"default/cart\",route=\"\",method=\"safe\",status=\"503\",cause=\"no_endpoint\"} 6\n\
        meshwork_requests_total{direction=\"inbound\",source=\"\",destination=\"default/cart\",route=\"a\\\"b\",method=\"safe\",status=\"\",cause=\"\"} 4\n\
        meshwork_requests_total{direction=\"outbound\",source=\"default/cart\",destination=\"default/stock\",route=\"\",method=\"safe\",status=\"200\",cause=\"\"} 7\n\
        http_server_request_duration_seconds_bucket{source=\"default/web\",le=\"0.001\"} 50\n\
        http_server_request_duration_seconds_bucket{source=\"default/web\",le=\"0.002\"} 100\n\
        http_server_request_duration_seconds_bucket{source=\"default/web\",le=\"+Inf\"} 100\n\
        meshwork_tls_handshakes_total{kind=\"full\"} 3\n\
        meshwork_tls_handshakes_total{kind=\"resumed\"} 2\n\
        meshwork_tls_handshakes_total{kind=\"peer_refused\"} 1\n\
        # EOF\n";

    #[test]
    fn a_side_is_read_from_the_metrics() {
        let inbound = Sample::read(TEXT, Side::Inbound);
        assert_eq!((inbound.requests, inbound.failed, inbound.verified), (100, 10, 96));
        assert_eq!((inbound.handshakes, inbound.refused), (5, 1));
        assert_eq!(total(TEXT, &["meshwork_tls_handshakes_total"]), 6);
        let outbound = Sample::read(TEXT, Side::Outbound);
        assert_eq!((outbound.requests, outbound.failed), (7, 0));
    }

    #[test]
    fn a_grpc_call_has_gone_well_if_its_status_says_so() {
        let series = |status: &str, code: &str, count: u32| {
            format!(
                "meshwork_requests_total{{direction=\"inbound\",status=\"{status}\",rpc_grpc_status_code=\"{code}\"}} {count}\n"
            )
        };
        let text = [series("200", "0", 5), series("200", "14", 2), series("", "1", 1)].concat();
        let sample = Sample::read(&text, Side::Inbound);
        assert_eq!((sample.requests, sample.calls_ok, sample.failed), (8, 5, 3));
    }

    #[test]
    fn a_percentile_lies_within_its_bucket() {
        let sample = Sample::read(TEXT, Side::Inbound);
        assert_eq!(sample.percentile_ms(50), Some(1.0));
        assert_eq!(sample.percentile_ms(75), Some(1.5));
        assert_eq!(sample.percentile_ms(100), Some(2.0));
        assert_eq!(Sample::default().percentile_ms(50), None);
    }

    #[test]
    fn only_what_happened_since_is_told() {
        let now = Sample::read(TEXT, Side::Inbound);
        let nothing = now.since(&now);
        assert_eq!((nothing.requests, nothing.percentile_ms(50)), (0, None));
        let restarted = Sample { requests: 1_000, ..Sample::default() };
        assert_eq!(now.since(&restarted), now);
        let mut twice = now.clone();
        twice.add(&now);
        assert_eq!(twice.since(&now), now);
    }

    #[test]
    fn labels_may_hold_anything() {
        let (name, labels, value) = parse(r#"a_total{x="1,}\"\\ \n=",y=""} 3.5 # {trace="t"} 1"#).unwrap();
        assert_eq!((name, value), ("a_total", 3.5));
        assert_eq!(labels, [("x".to_owned(), "1,}\"\\ \n=".to_owned()), ("y".to_owned(), String::new())]);
        assert_eq!(parse("a_total 3").unwrap().2, 3.0);
        assert!(parse("# EOF").is_none());
        assert!(parse("").is_none());
    }
}
