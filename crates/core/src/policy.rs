//! How a service wants to be called: who waits how long, what is tried again, how much is enough, who is left out.
//!
//! `TrafficPolicy` and `HTTPRoute` say it, `compile` fills in what they leave open (the `Default`s here), and the
//! sidecar of the caller keeps to it: `retry`, `limit`, `outlier` and `balance` decide by these values.
//!
//! No floats: resources are compared and hashed. Shares are in percent.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

/// Of one request. A rule's own go before its service's (`or`). `None`: nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// From the request's head to the end of the answer, all tries together (Gateway API `timeouts.request`).
    pub request: Option<Duration>,
    /// Of one try (Gateway API `timeouts.backendRequest`).
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// A rule's time-outs with the service's where the rule says nothing; a rule's `0s` means none at all.
    pub fn or(self, service: Self) -> Self {
        let or = |own: Option<Duration>, service| own.or(service).filter(|limit| !limit.is_zero());
        Self {
            request: or(self.request, service.request),
            backend_request: or(self.backend_request, service.backend_request),
        }
    }
}

/// What a rule wants tried again beyond what is safe by itself (Gateway API `HTTPRouteRetry`, GEP-1731). Whoever
/// writes it has said that requests of this rule may reach an application twice, whatever their method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRetry {
    /// Statuses of answers that are tried again. Of a gRPC call the status that its `grpc-status` stands for
    /// (`UNAVAILABLE`: 503).
    pub codes: BTreeSet<u16>,
    /// Further tries after the first; `None`: as the service says.
    pub attempts: Option<u32>,
    /// Before the first further try; it doubles from one to the next. `None`: as the service says.
    pub backoff: Option<Duration>,
}

/// What a service says to its callers: a compiled `TrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    pub timeouts: Timeouts,
    pub connect: ConnectPolicy,
    pub retry: RetryPolicy,
    pub limits: Limits,
    pub outlier: OutlierPolicy,
    /// How long a newcomer, or an endpoint that comes back, takes to get its full share; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    pub distribution: Distribution,
}

/// Whether endpoints that are near the caller go before others (Kubernetes' `trafficDistribution`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Distribution {
    #[default]
    Anywhere,
    /// The caller's zone, then its region, then everybody, each as far as it can bear it.
    PreferSameZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectPolicy {
    /// Of TCP; the TLS handshake on it may take a few times as long.
    pub timeout: Duration,
    /// A connection without a request is closed then; an opaque one without a byte, too. `None`: the sidecar's own limit.
    pub idle: Option<Duration>,
}

impl Default for ConnectPolicy {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), idle: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Further tries after the first.
    pub attempts: u32,
    /// Before the first further try, with jitter; it doubles from one to the next.
    pub backoff: Duration,
    pub budget: RetryBudget,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 2, backoff: Duration::from_millis(25), budget: RetryBudget::default() }
    }
}

/// How many of a service's requests may be further tries, of all workers together (GEP-3388).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// Of the requests within `interval`.
    pub percent: u32,
    pub interval: Duration,
    /// That many a second are always allowed, or nobody with few requests could ever try again.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 }
    }
}

/// Of one calling sidecar, all workers together. `None`: no limit but the sidecar's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// To all endpoints of the service together.
    pub connections: Option<NonZeroU32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<NonZeroU32>,
    /// Requests without the end of their answer.
    pub requests: Option<NonZeroU32>,
    pub endpoint_connections: Option<NonZeroU32>,
    pub endpoint_requests: Option<NonZeroU32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            pending_requests: NonZeroU32::new(1_024),
            requests: None,
            endpoint_connections: None,
            endpoint_requests: None,
        }
    }
}

/// When an endpoint that answers badly is left out, and for how long (Envoy's `outlier_detection`). A gRPC status
/// counts like the HTTP status that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutlierPolicy {
    /// 5xx in a row; 0: not looked at.
    pub consecutive_5xx: u32,
    /// 502, 503, 504, resets and time-outs in a row; 0: not looked at.
    pub consecutive_gateway_errors: u32,
    /// Connections in a row that could not be made; 0: not looked at.
    pub consecutive_connect_failures: u32,
    /// Success rates are compared so often.
    pub interval: Duration,
    /// An endpoint's rate may be so many hundredths of a standard deviation below the service's mean; 0: not looked at.
    pub success_rate_stdev_percent: u32,
    /// Endpoints with fewer requests in an interval are not compared.
    pub success_rate_requests_min: u32,
    /// The first ejection; each further one is as much longer, up to `ejection_max`.
    pub ejection: Duration,
    pub ejection_max: Duration,
    /// At most this share of a service's endpoints is ejected at once, but one always may be. Those that take no
    /// connection bear no load, so they are neither ejected under it nor counted.
    pub ejected_percent_max: u32,
    /// With a smaller share of the endpoints fit, ejections are not looked at: the rest would not bear the load. Who is
    /// not healthy by its own check or lease still comes last.
    pub panic_percent: u32,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 5,
            consecutive_connect_failures: 2,
            interval: Duration::from_secs(10),
            success_rate_stdev_percent: 190,
            success_rate_requests_min: 100,
            ejection: Duration::from_secs(5),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 50,
            panic_percent: 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_timeouts_go_before_its_services() {
        let seconds = |request: Option<u64>, backend_request: Option<u64>| Timeouts {
            request: request.map(Duration::from_secs),
            backend_request: backend_request.map(Duration::from_secs),
        };
        let service = seconds(Some(10), Some(2));
        assert_eq!(Timeouts::default().or(service), service);
        assert_eq!(seconds(Some(3), None).or(service), seconds(Some(3), Some(2)));
        assert_eq!(seconds(None, Some(0)).or(service), seconds(Some(10), None));
        assert_eq!(seconds(Some(0), Some(0)).or(Timeouts::default()), Timeouts::default());
    }
}
