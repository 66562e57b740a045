//! How a service wants to be called, in a Cluster: Envoy's fields where it has one (connect time-out, circuit breakers
//! with the retry budget, outlier detection, panic threshold, slow start, idle time-out of pooled connections), and a
//! `TrafficDetail` for what Envoy says of routes only, or not at all.
//!
//! Sidecars that did not announce the feature get none of it, as sidecars from before; whoever reads none of it takes
//! the defaults, so a newer sidecar understands an older control plane. The feature given, everything is said, so
//! that the control plane's defaults hold and not the reader's.

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use std::num::NonZeroU32;
use std::time::Duration;

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::Balance;
use meshwork_core::policy::{
    Distribution, Limits, OutlierPolicy, RetryBudget, RetryPolicy, Timeouts, Traffic,
};

use super::common::{duration, metadata, read_duration, read_metadata};
use super::open::{Refused, Under, expect, only, open, required};
use crate::proto::TrafficDetail;
use crate::wire::cluster::circuit_breakers::{Thresholds, thresholds};
use crate::wire::cluster::cluster::{
    CommonLbConfig, LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use crate::wire::cluster::{CircuitBreakers, OutlierDetection};
use crate::wire::core::{HttpProtocolOptions, Metadata};
use crate::wire::{BoolValue, Duration as WireDuration, Percent, UInt32Value};

/// A threshold that nobody reaches. Absent, it would mean 1,024 to Envoy.
const NO_LIMIT: u32 = u32::MAX;
/// `enforcing_…`: every endpoint that is found is ejected, or none.
const ALWAYS: u32 = 100;
const NEVER: u32 = 0;

/// The fields of a Cluster that are this file's.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) connect_timeout: Option<WireDuration>,
    pub(super) circuit_breakers: Option<CircuitBreakers>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) common_lb_config: Option<CommonLbConfig>,
    pub(super) common_http_protocol_options: Option<HttpProtocolOptions>,
    pub(super) lb_config: Option<LbConfig>,
    pub(super) metadata: Option<Metadata>,
}

pub(super) fn write(traffic: &Traffic, balance: &Balance, audience: Audience) -> Parts {
    let detail = match audience {
        Audience::Sidecar(features) if !features.has(Features::TRAFFIC) => return Parts::default(),
        Audience::Sidecar(_) => Some(metadata(&write_detail(traffic, balance))),
        Audience::Envoy | Audience::Grpc => None,
    };
    let options =
        |idle| HttpProtocolOptions { idle_timeout: Some(duration(idle)), ..HttpProtocolOptions::default() };
    Parts {
        connect_timeout: Some(duration(traffic.connect.timeout)),
        circuit_breakers: Some(write_limits(&traffic.limits, &traffic.retry.budget)),
        outlier_detection: Some(write_outlier(&traffic.outlier)),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(percent(traffic.outlier.panic_percent)),
            ..CommonLbConfig::default()
        }),
        common_http_protocol_options: traffic.connect.idle.map(options),
        lb_config: traffic.slow_start.and_then(|window| write_slow_start(window, balance)),
        metadata: detail,
    }
}

fn write_detail(traffic: &Traffic, balance: &Balance) -> TrafficDetail {
    let Traffic { timeouts, retry, limits, connect: _, outlier: _, slow_start, distribution } = traffic;
    TrafficDetail {
        request_timeout_ms: timeouts.request.map_or(0, millis),
        backend_request_timeout_ms: timeouts.backend_request.map_or(0, millis),
        retry_attempts: retry.attempts,
        retry_backoff_ms: millis(retry.backoff),
        retry_min_per_second: retry.budget.min_per_second,
        endpoint_requests: limits.endpoint_requests.map_or(0, NonZeroU32::get),
        slow_start_ms: slow_start.filter(|_| !has_slow_start(balance)).map_or(0, millis),
        prefer_same_zone: match distribution {
            Distribution::Anywhere => false,
            Distribution::PreferSameZone => true,
        },
    }
}

/// Whether Envoy's policy has one.
fn has_slow_start(balance: &Balance) -> bool {
    match balance {
        Balance::PeakEwma | Balance::LeastRequest | Balance::RoundRobin => true,
        Balance::Random | Balance::Hash { .. } => false,
    }
}

/// Documents have whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn write_limits(limits: &Limits, budget: &RetryBudget) -> CircuitBreakers {
    let Limits { connections, pending_requests, requests, endpoint_connections, endpoint_requests: _ } =
        limits;
    let value = |limit: &Option<NonZeroU32>| number(limit.map_or(NO_LIMIT, NonZeroU32::get));
    let thresholds = Thresholds {
        max_connections: value(connections),
        max_pending_requests: value(pending_requests),
        max_requests: value(requests),
        retry_budget: Some(thresholds::RetryBudget {
            budget_percent: Some(percent(budget.percent)),
            budget_interval: Some(duration(budget.interval)),
            ..thresholds::RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    let per_host = Thresholds { max_connections: value(endpoint_connections), ..Thresholds::default() };
    CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: vec![per_host] }
}

fn write_outlier(outlier: &OutlierPolicy) -> OutlierDetection {
    let OutlierPolicy {
        consecutive_5xx,
        consecutive_gateway_errors,
        consecutive_connect_failures,
        interval,
        success_rate_stdev_percent,
        success_rate_requests_min,
        ejection,
        ejection_max,
        ejected_percent_max,
        panic_percent: _,
    } = *outlier;
    let count = |count: u32| (count > 0).then_some(UInt32Value { value: count });
    let enforcing = |count: u32| number(if count > 0 { ALWAYS } else { NEVER });
    OutlierDetection {
        consecutive_5xx: count(consecutive_5xx),
        enforcing_consecutive_5xx: enforcing(consecutive_5xx),
        consecutive_gateway_failure: count(consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: enforcing(consecutive_gateway_errors),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: count(consecutive_connect_failures),
        enforcing_consecutive_local_origin_failure: enforcing(consecutive_connect_failures),
        enforcing_local_origin_success_rate: number(NEVER),
        interval: Some(duration(interval)),
        // Envoy's factor is in thousandths.
        success_rate_stdev_factor: count(success_rate_stdev_percent.saturating_mul(10)),
        enforcing_success_rate: enforcing(success_rate_stdev_percent),
        success_rate_request_volume: number(success_rate_requests_min),
        base_ejection_time: Some(duration(ejection)),
        max_ejection_time: Some(duration(ejection_max)),
        max_ejection_percent: number(ejected_percent_max),
        always_eject_one_host: Some(BoolValue { value: true }),
        ..OutlierDetection::default()
    }
}

fn write_slow_start(window: Duration, balance: &Balance) -> Option<LbConfig> {
    let slow_start_config =
        Some(SlowStartConfig { slow_start_window: Some(duration(window)), ..SlowStartConfig::default() });
    match balance {
        Balance::RoundRobin => Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })),
        Balance::PeakEwma | Balance::LeastRequest => {
            let config = LeastRequestLbConfig { slow_start_config, ..LeastRequestLbConfig::default() };
            Some(LbConfig::LeastRequestLbConfig(config))
        }
        Balance::Random | Balance::Hash { .. } => None,
    }
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn percent(value: u32) -> Percent {
    Percent { value: f64::from(value) }
}

/// What a Cluster leaves out is the default.
pub(super) fn read(parts: Parts, balance: &Balance) -> Result<Traffic, Refused> {
    let Parts {
        connect_timeout,
        circuit_breakers,
        outlier_detection,
        common_lb_config,
        common_http_protocol_options,
        lb_config,
        metadata,
    } = parts;
    let mut traffic = Traffic::default();
    if let Some(detail) = read_metadata(metadata)? {
        read_detail(detail, balance, &mut traffic).under("metadata")?;
    }
    if let Some(timeout) = connect_timeout {
        traffic.connect.timeout = read_duration("connect_timeout", timeout)?;
    }
    if let Some(breakers) = circuit_breakers {
        read_limits(breakers, &mut traffic).under("circuit_breakers")?;
    }
    if let Some(detection) = outlier_detection {
        traffic.outlier = read_outlier(detection).under("outlier_detection")?;
    }
    if let Some(config) = common_lb_config {
        traffic.outlier.panic_percent = read_panic(config).under("common_lb_config")?;
    }
    if let Some(options) = common_http_protocol_options {
        traffic.connect.idle = Some(read_idle(options).under("common_http_protocol_options")?);
    }
    if let Some(config) = lb_config {
        traffic.slow_start = Some(read_slow_start(config, balance).under("lb_config")?);
    }
    Ok(traffic)
}

fn read_detail(detail: TrafficDetail, balance: &Balance, traffic: &mut Traffic) -> Result<(), Refused> {
    let TrafficDetail {
        request_timeout_ms,
        backend_request_timeout_ms,
        retry_attempts,
        retry_backoff_ms,
        retry_min_per_second,
        endpoint_requests,
        slow_start_ms,
        prefer_same_zone,
    } = detail;
    let timeout = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    traffic.timeouts = Timeouts {
        request: timeout(request_timeout_ms),
        backend_request: timeout(backend_request_timeout_ms),
    };
    traffic.retry = RetryPolicy {
        attempts: retry_attempts,
        backoff: Duration::from_millis(retry_backoff_ms),
        budget: RetryBudget { min_per_second: retry_min_per_second, ..traffic.retry.budget },
    };
    traffic.limits.endpoint_requests = NonZeroU32::new(endpoint_requests);
    if has_slow_start(balance) {
        expect("slow_start_ms", &slow_start_ms, &0)?;
    }
    traffic.slow_start = timeout(slow_start_ms);
    traffic.distribution =
        if prefer_same_zone { Distribution::PreferSameZone } else { Distribution::Anywhere };
    Ok(())
}

fn read_limits(breakers: CircuitBreakers, traffic: &mut Traffic) -> Result<(), Refused> {
    open!(breakers, CircuitBreakers { thresholds, per_host_thresholds } refuse {});
    let thresholds = only("thresholds", thresholds)?;
    read_thresholds(thresholds, traffic).under("thresholds[0]")?;
    let per_host = only("per_host_thresholds", per_host_thresholds)?;
    traffic.limits.endpoint_connections = read_per_host(per_host).under("per_host_thresholds[0]")?;
    Ok(())
}

fn read_thresholds(message: Thresholds, traffic: &mut Traffic) -> Result<(), Refused> {
    open!(message, Thresholds { max_connections, max_pending_requests, max_requests, retry_budget } refuse {
        priority, max_retries, track_remaining, max_connection_pools
    });
    traffic.limits.connections = read_limit("max_connections", max_connections)?;
    traffic.limits.pending_requests = read_limit("max_pending_requests", max_pending_requests)?;
    traffic.limits.requests = read_limit("max_requests", max_requests)?;
    let budget = required("retry_budget", retry_budget)?;
    let read = || {
        open!(budget, thresholds::RetryBudget { budget_percent, budget_interval } refuse {
            min_retry_concurrency
        });
        let percent = read_percent("budget_percent", budget_percent)?;
        let interval = required("budget_interval", budget_interval)?;
        Ok((percent, read_duration("budget_interval", interval)?))
    };
    let (percent, interval) = read().under("retry_budget")?;
    traffic.retry.budget = RetryBudget { percent, interval, ..traffic.retry.budget };
    Ok(())
}

fn read_per_host(message: Thresholds) -> Result<Option<NonZeroU32>, Refused> {
    open!(message, Thresholds { max_connections } refuse {
        priority, max_pending_requests, max_requests, max_retries, retry_budget, track_remaining,
        max_connection_pools
    });
    read_limit("max_connections", max_connections)
}

fn read_limit(field: &str, limit: Option<UInt32Value>) -> Result<Option<NonZeroU32>, Refused> {
    match required(field, limit)?.value {
        NO_LIMIT => Ok(None),
        limit => NonZeroU32::new(limit)
            .map(Some)
            .ok_or_else(|| Refused::at(field, "is 0, which would let nothing pass; must be 1 or more")),
    }
}

fn read_outlier(detection: OutlierDetection) -> Result<OutlierPolicy, Refused> {
    open!(detection, OutlierDetection {
        consecutive_5xx, interval, base_ejection_time, max_ejection_percent, enforcing_consecutive_5xx,
        enforcing_success_rate, success_rate_request_volume, success_rate_stdev_factor,
        consecutive_gateway_failure, enforcing_consecutive_gateway_failure, split_external_local_origin_errors,
        consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate, max_ejection_time, always_eject_one_host
    } refuse {
        success_rate_minimum_hosts, failure_percentage_threshold, enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin, failure_percentage_minimum_hosts,
        failure_percentage_request_volume, max_ejection_time_jitter,
        successful_active_health_check_uneject_host, monitors, detect_degraded_hosts
    });
    expect("split_external_local_origin_errors", &split_external_local_origin_errors, &true)?;
    expect("enforcing_local_origin_success_rate", &enforcing_local_origin_success_rate, &number(NEVER))?;
    expect("always_eject_one_host", &always_eject_one_host, &Some(BoolValue { value: true }))?;
    let period = |field: &str, value: Option<WireDuration>| read_duration(field, required(field, value)?);
    let value = |field: &str, value: Option<UInt32Value>| Ok(required(field, value)?.value);
    let factor = read_count("success_rate_stdev_factor", success_rate_stdev_factor, enforcing_success_rate)?;
    if factor % 10 != 0 {
        return Err(Refused::at("success_rate_stdev_factor", format!("is {factor}, must be in hundredths")));
    }
    Ok(OutlierPolicy {
        consecutive_5xx: read_count("consecutive_5xx", consecutive_5xx, enforcing_consecutive_5xx)?,
        consecutive_gateway_errors: read_count(
            "consecutive_gateway_failure",
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
        )?,
        consecutive_connect_failures: read_count(
            "consecutive_local_origin_failure",
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
        )?,
        interval: period("interval", interval)?,
        success_rate_stdev_percent: factor / 10,
        success_rate_requests_min: value("success_rate_request_volume", success_rate_request_volume)?,
        ejection: period("base_ejection_time", base_ejection_time)?,
        ejection_max: period("max_ejection_time", max_ejection_time)?,
        ejected_percent_max: value("max_ejection_percent", max_ejection_percent)?,
        ..OutlierPolicy::default()
    })
}

/// 0 where nothing follows from it.
fn read_count(
    field: &str,
    count: Option<UInt32Value>,
    enforcing: Option<UInt32Value>,
) -> Result<u32, Refused> {
    match (count.map(|count| count.value), enforcing.map(|enforcing| enforcing.value)) {
        (None, Some(NEVER)) => Ok(0),
        (Some(count), Some(ALWAYS)) if count > 0 => Ok(count),
        (count, enforcing) => Err(Refused::at(
            field,
            format!(
                "is {count:?} and enforced {enforcing:?}; must be a number enforced at 100, or none at 0"
            ),
        )),
    }
}

fn read_panic(config: CommonLbConfig) -> Result<u32, Refused> {
    open!(config, CommonLbConfig { healthy_panic_threshold } refuse {
        update_merge_window, ignore_new_hosts_until_first_hc, close_connections_on_host_set_change,
        consistent_hashing_lb_config, override_host_status, locality_config_specifier
    });
    read_percent("healthy_panic_threshold", healthy_panic_threshold)
}

fn read_percent(field: &str, percent: Option<Percent>) -> Result<u32, Refused> {
    let Percent { value } = required(field, percent)?;
    let whole = (0.0..=100.0).contains(&value) && value.fract() == 0.0;
    if !whole {
        return Err(Refused::at(field, format!("is {value}, must be a whole number from 0 to 100")));
    }
    Ok(value as u32)
}

fn read_idle(options: HttpProtocolOptions) -> Result<Duration, Refused> {
    open!(options, HttpProtocolOptions { idle_timeout } refuse {
        max_connection_duration, max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
        max_stream_duration, headers_with_underscores_action, max_requests_per_connection
    });
    read_duration("idle_timeout", required("idle_timeout", idle_timeout)?)
}

fn read_slow_start(config: LbConfig, balance: &Balance) -> Result<Duration, Refused> {
    let slow_start = match (config, balance) {
        (LbConfig::RoundRobinLbConfig(config), Balance::RoundRobin) => {
            open!(config, RoundRobinLbConfig { slow_start_config } refuse {});
            slow_start_config
        }
        (LbConfig::LeastRequestLbConfig(config), Balance::PeakEwma | Balance::LeastRequest) => {
            open!(config, LeastRequestLbConfig { slow_start_config } refuse {
                choice_count, active_request_bias
            });
            slow_start_config
        }
        _ => return Err(Refused::here("is of another policy than lb_policy names")),
    };
    open!(required("slow_start_config", slow_start)?, SlowStartConfig { slow_start_window } refuse {
        aggression, min_weight_percent
    });
    let window = required("slow_start_window", slow_start_window).under("slow_start_config")?;
    read_duration("slow_start_config.slow_start_window", window)
}
