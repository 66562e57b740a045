//! `TrafficPolicy` -> model, with the defaults of what is left out.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Problem, Problems, load_balancer, metadata, retry_attempts, retry_backoff};
use crate::manifest;
use crate::model::{Key, TargetRef, TrafficPolicy};
use crate::policy::{ConnectPolicy, Limits, OutlierPolicy, RetryBudget, RetryPolicy, Timeouts, Traffic};

/// Services of one policy; Gateway API's limit for lists of references is 16.
const TARGETS_MAX: usize = 16;
/// More than a sidecar has descriptors or memory for: whoever wants more wants no limit.
const LIMIT_MAX: u32 = 1_000_000;
/// Ends of intervals, ejections and windows. Shorter ones would look at too few requests, and each look costs.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// A handshake over a slow way takes tens of milliseconds.
const CONNECT_MIN: Duration = Duration::from_millis(10);
/// The kernel itself gives up about then.
const CONNECT_MAX: Duration = Duration::from_secs(120);
const IDLE_MIN: Duration = Duration::from_millis(100);
const IDLE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A percentage; of a standard deviation there may be several.
const PERCENT_MAX: u32 = 100;
const STDEV_PERCENT_MAX: u32 = 1_000;

const CURE_DURATION: &str = "choose one between, or leave the field out for its default";
const CURE_NUMBER: &str = "choose one between, or leave the field out for its default";

pub(super) fn judge(document: &manifest::TrafficPolicy) -> Result<TrafficPolicy, Vec<Problem>> {
    let mut problems = Problems::default();
    metadata::judge(document, &mut problems);
    let (key, spec) = (document.key(), &document.spec);
    let targets = targets(&spec.target_refs, &key, &mut problems);
    let (timeouts, connect) = timeouts(spec.timeouts.as_ref(), &mut problems);
    let (balance, distribution) = load_balancer::judge(spec.load_balancer.as_ref(), &mut problems);
    let traffic = Traffic {
        timeouts,
        connect,
        retry: retry(spec, &mut problems),
        limits: limits(spec.limits.as_ref(), &mut problems),
        outlier: outlier(spec.outlier_detection.as_ref(), &mut problems),
        slow_start: problems.duration(
            "spec.slowStart.window",
            spec.slow_start.as_ref().map(|slow_start| slow_start.window),
            (INTERVAL_MIN, INTERVAL_MAX),
            "choose one between, or leave slowStart out: newcomers get their full share at once",
        ),
        distribution,
    };
    let created = problems.created(&document.metadata);
    problems.or(TrafficPolicy { key, targets, balance, traffic, created })
}

fn targets(written: &[manifest::TargetRef], policy: &Key, problems: &mut Problems) -> Vec<TargetRef> {
    problems.count("spec.targetRefs", written.len(), 1, TARGETS_MAX);
    let mut targets: Vec<TargetRef> = Vec::new();
    for (index, manifest::TargetRef { group, kind, name, section_name }) in written.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        if kind != "Service" || !matches!(group.as_str(), "" | "core") {
            let message =
                format!("the target is a {kind} of the group {group:?}, and a policy is for Services");
            problems.add(path.clone(), message, "write kind: Service and group: \"\"");
        }
        problems.label(&format!("{path}.name"), name);
        if let Some(section) = section_name {
            problems.label(&format!("{path}.sectionName"), section);
        }
        let service = Key::new(&policy.namespace, name);
        let target = TargetRef { service, section: section_name.clone() };
        if targets.contains(&target) {
            let message = "the same target stands in the list twice".to_owned();
            problems.add(path, message, "give each target once");
        }
        targets.push(target);
    }
    targets
}

fn timeouts(
    written: Option<&manifest::TrafficTimeouts>,
    problems: &mut Problems,
) -> (Timeouts, ConnectPolicy) {
    let Some(manifest::TrafficTimeouts { request, backend_request, connect, idle }) = written else {
        return Default::default();
    };
    let path = "spec.timeouts";
    let timeouts = Timeouts {
        request: request.map(|limit| limit.0),
        backend_request: backend_request.map(|limit| limit.0),
    };
    super::judge_timeouts(path, timeouts, problems);
    let connect =
        problems.duration(&format!("{path}.connect"), *connect, (CONNECT_MIN, CONNECT_MAX), CURE_DURATION);
    let idle = problems.duration(
        &format!("{path}.idle"),
        *idle,
        (IDLE_MIN, IDLE_MAX),
        "choose one between, or leave it out for the sidecar's own limit",
    );
    let timeout = connect.unwrap_or_else(|| ConnectPolicy::default().timeout);
    // For a service `0s` and nothing are the same: there is nobody behind it whose time-out it could take the place of.
    (timeouts.or(Timeouts::default()), ConnectPolicy { timeout, idle })
}

fn retry(spec: &manifest::TrafficPolicySpec, problems: &mut Problems) -> RetryPolicy {
    let default = RetryPolicy::default();
    let manifest::TrafficRetry { attempts, backoff } = spec.retry.clone().unwrap_or_default();
    RetryPolicy {
        attempts: retry_attempts("spec.retry", attempts, problems).unwrap_or(default.attempts),
        backoff: retry_backoff("spec.retry", backoff, problems).unwrap_or(default.backoff),
        budget: retry_budget(spec.retry_constraint.as_ref(), default.budget, problems),
    }
}

fn retry_budget(
    written: Option<&manifest::RetryConstraint>,
    default: RetryBudget,
    problems: &mut Problems,
) -> RetryBudget {
    let Some(manifest::RetryConstraint { budget, min_retry_rate }) = written else {
        return default;
    };
    let path = "spec.retryConstraint";
    let manifest::Budget { percent, interval } = budget.clone().unwrap_or_default();
    let percent = problems.number(&format!("{path}.budget.percent"), percent, (0, PERCENT_MAX), CURE_NUMBER);
    let second = Duration::from_secs(1);
    let interval = problems.duration(
        &format!("{path}.budget.interval"),
        interval,
        (second, INTERVAL_MAX),
        CURE_DURATION,
    );
    let min = min_retry_rate.as_ref().map(|rate| per_second(&format!("{path}.minRetryRate"), rate, problems));
    RetryBudget {
        percent: percent.unwrap_or(default.percent),
        interval: interval.unwrap_or(default.interval),
        min_per_second: min.unwrap_or(default.min_per_second),
    }
}

/// GEP-3388 writes a count and an interval; what is counted here are whole ones a second.
fn per_second(path: &str, written: &manifest::RequestRate, problems: &mut Problems) -> u32 {
    let manifest::RequestRate { count, interval } = written;
    let count = problems
        .number(&format!("{path}.count"), *count, (0, LIMIT_MAX), CURE_NUMBER)
        .unwrap_or_else(|| RetryBudget::default().min_per_second);
    let second = Duration::from_secs(1);
    let interval = problems
        .duration(&format!("{path}.interval"), *interval, (second, INTERVAL_MAX), CURE_DURATION)
        .unwrap_or(second);
    let millis = interval.as_millis().max(1);
    let scaled = u128::from(count) * 1_000;
    if scaled % millis != 0 {
        let message = format!("{count} in {} is no whole number a second", manifest::Duration(interval));
        problems.add(path.to_owned(), message, "write the count for an interval of 1s");
    }
    (scaled / millis) as u32 // at most LIMIT_MAX, as the interval is a second or more
}

fn limits(written: Option<&manifest::TrafficLimits>, problems: &mut Problems) -> Limits {
    let default = Limits::default();
    let manifest::TrafficLimits { connections, pending_requests, requests, endpoint } =
        written.cloned().unwrap_or_default();
    let endpoint = endpoint.unwrap_or_default();
    let mut limit = |field: &str, written: Option<u32>, default: Option<NonZeroU32>| {
        let cure = "choose one between, or leave it out for no limit but the sidecar's own";
        let path = format!("spec.limits.{field}");
        let judged = problems.number(&path, written, (1, LIMIT_MAX), cure);
        judged.map_or(default, NonZeroU32::new)
    };
    Limits {
        connections: limit("connections", connections, default.connections),
        pending_requests: limit("pendingRequests", pending_requests, default.pending_requests),
        requests: limit("requests", requests, default.requests),
        endpoint_connections: limit(
            "endpoint.connections",
            endpoint.connections,
            default.endpoint_connections,
        ),
        endpoint_requests: limit("endpoint.requests", endpoint.requests, default.endpoint_requests),
    }
}

fn outlier(written: Option<&manifest::OutlierDetection>, problems: &mut Problems) -> OutlierPolicy {
    let default = OutlierPolicy::default();
    let Some(written) = written else { return default };
    let path = |field: &str| format!("spec.outlierDetection.{field}");
    let mut number = |field: &str, written: Option<u32>, bounds: (u32, u32), default: u32| {
        problems.number(&path(field), written, bounds, CURE_NUMBER).unwrap_or(default)
    };
    let any = (0, LIMIT_MAX);
    let percent = (0, PERCENT_MAX);
    let consecutive_5xx = number("consecutive5xx", written.consecutive_5xx, any, default.consecutive_5xx);
    let consecutive_gateway_errors = number(
        "consecutiveGatewayErrors",
        written.consecutive_gateway_errors,
        any,
        default.consecutive_gateway_errors,
    );
    let consecutive_connect_failures = number(
        "consecutiveConnectFailures",
        written.consecutive_connect_failures,
        any,
        default.consecutive_connect_failures,
    );
    let success_rate_stdev_percent = number(
        "successRateStdevPercent",
        written.success_rate_stdev_percent,
        (0, STDEV_PERCENT_MAX),
        default.success_rate_stdev_percent,
    );
    let success_rate_requests_min = number(
        "successRateRequestsMin",
        written.success_rate_requests_min,
        (1, LIMIT_MAX),
        default.success_rate_requests_min,
    );
    let ejected_percent_max =
        number("ejectedPercentMax", written.ejected_percent_max, percent, default.ejected_percent_max);
    let panic_percent = number("panicPercent", written.panic_percent, percent, default.panic_percent);
    let mut duration = |field: &str, written: Option<manifest::Duration>, default: Duration| {
        let bounds = (INTERVAL_MIN, INTERVAL_MAX);
        problems.duration(&path(field), written, bounds, CURE_DURATION).unwrap_or(default)
    };
    let interval = duration("interval", written.interval, default.interval);
    let ejection = duration("ejection", written.ejection, default.ejection);
    let ejection_max = duration("ejectionMax", written.ejection_max, default.ejection_max);
    if ejection > ejection_max {
        let (first, max) = (manifest::Duration(ejection), manifest::Duration(ejection_max));
        let message = format!("the first ejection, {first}, is longer than the longest, {max}");
        problems.add(path("ejection"), message, "shorten it, or give a longer ejectionMax");
    }
    OutlierPolicy {
        consecutive_5xx,
        consecutive_gateway_errors,
        consecutive_connect_failures,
        interval,
        success_rate_stdev_percent,
        success_rate_requests_min,
        ejection,
        ejection_max,
        ejected_percent_max,
        panic_percent,
    }
}
