//! `meshwork.dev/v1alpha1` `TrafficPolicy`: how Services want to be called. Where Gateway API has a word (time-outs of
//! GEP-1742, `retryConstraint` of GEP-3388) it is used; what is left out keeps its default (`core::policy`).

use serde::{Deserialize, Serialize};

use super::{Duration, Kind, Spec, number};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    pub target_refs: Vec<TargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TrafficTimeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<TrafficRetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TrafficLimits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
}

impl Spec for TrafficPolicySpec {
    const KIND: Kind = Kind::TrafficPolicy;
}

/// A Service of the policy's own namespace (Gateway API `LocalPolicyTargetReferenceWithSectionName`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    pub name: String,
    /// One port, by its name; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTimeouts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficRetry {
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}

/// How many of the requests may be further tries (GEP-3388).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryConstraint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_retry_rate: Option<RequestRate>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRate {
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficLimits {
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub pending_requests: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointLimits>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointLimits {
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
}

/// The words are those of `core::policy::OutlierPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    #[serde(
        default,
        rename = "consecutive5xx",
        deserialize_with = "number::optional_whole",
        skip_serializing_if = "Option::is_none"
    )]
    pub consecutive_5xx: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub consecutive_connect_failures: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub success_rate_stdev_percent: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub success_rate_requests_min: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection_max: Option<Duration>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub ejected_percent_max: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub panic_percent: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    pub window: Duration,
}

/// How endpoints are chosen. Names of algorithms and sizes are Envoy's, `trafficDistribution` is Kubernetes'.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Of `ringHash` and `maglev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// Of `ringHash`.
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<u32>,
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub maximum_ring_size: Option<u32>,
    /// Of `maglev`.
    #[serde(default, deserialize_with = "number::optional_whole", skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    PeakEwma,
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hash {
    #[serde(rename = "type")]
    pub kind: HashType,
    /// Of the header or cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a cookie that who brings none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashType {
    Header,
    Cookie,
    Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    PreferSameZone,
}
