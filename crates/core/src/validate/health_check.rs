//! `healthCheck` of a port: how the control plane finds out whether somebody is well who has no sidecar to say so.

use std::time::Duration;

use super::Problems;
use crate::manifest::{self, HealthCheckType};
use crate::model::{Check, HealthCheck, Probe, Transport};

/// A control plane that checks thousands of workloads must not be made to do so all the time.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Whoever is looked at more seldom is not checked.
const INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Below a round trip to another continent everything would be unwell.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// A probe holds a socket for so long.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Longest path, and longest name of a gRPC service: what fits into a log line.
const TEXT_BYTES_MAX: usize = 1_024;

pub(super) fn judge(
    path: &str,
    written: Option<&manifest::HealthCheck>,
    transports: &[Transport],
    problems: &mut Problems,
) -> Check {
    let Some(written) = written else { return Check::Unasked };
    for (field, given, of) in [
        ("path", written.path.is_some(), HealthCheckType::Http),
        ("status", written.status.is_some(), HealthCheckType::Http),
        ("service", written.service.is_some(), HealthCheckType::Grpc),
    ] {
        if given && written.check_type != of {
            problems.add(
                format!("{path}.{field}"),
                format!("a check of type {} has no {field}", written.check_type.word()),
                "leave it out, or choose the type that has it",
            );
        }
    }
    let probe = match written.check_type {
        HealthCheckType::None => return Check::Off,
        HealthCheckType::Tcp => Probe::Tcp,
        HealthCheckType::Http => http(path, written, problems),
        HealthCheckType::Grpc => Probe::Grpc { service: written.service.clone().unwrap_or_default() },
    };
    if probe != Probe::Tcp && !transports.contains(&Transport::Plaintext) {
        problems.add(
            format!("{path}.type"),
            "the port is reached by mTLS, behind which only a sidecar can look".to_owned(),
            "choose type tcp, or leave the check to its sidecar (`--health`)",
        );
    }
    if written.service.as_ref().is_some_and(|service| service.len() > TEXT_BYTES_MAX) {
        problems.add(
            format!("{path}.service"),
            "the name is too long".to_owned(),
            "write at most 1,024 bytes",
        );
    }
    let interval = span(path, "interval", written.interval, HealthCheck::INTERVAL_DEFAULT, problems);
    let timeout_default = HealthCheck::TIMEOUT_DEFAULT.min(interval);
    let timeout = span(path, "timeout", written.timeout, timeout_default, problems);
    if timeout > interval {
        problems.add(
            format!("{path}.timeout"),
            format!("{} is longer than the interval", manifest::Duration(timeout)),
            "a probe must have ended before the next one begins",
        );
    }
    Check::Asked(HealthCheck { probe, interval, timeout })
}

fn http(path: &str, written: &manifest::HealthCheck, problems: &mut Problems) -> Probe {
    let target = written.path.clone().unwrap_or_else(|| "/".to_owned());
    let plain = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !target.starts_with('/') || !plain || target.len() > TEXT_BYTES_MAX {
        problems.add(
            format!("{path}.path"),
            "this can't be asked for".to_owned(),
            "write a path that begins with '/', percent-encoded, of at most 1,024 bytes",
        );
    }
    if written.status.is_some_and(|status| !(200..=599).contains(&status)) {
        problems.add(
            format!("{path}.status"),
            "no answer has this status".to_owned(),
            "write 200 to 599, or leave it out for 200 to 399",
        );
    }
    Probe::Http { path: target, status: written.status }
}

fn span(
    path: &str,
    field: &str,
    written: Option<manifest::Duration>,
    default: Duration,
    problems: &mut Problems,
) -> Duration {
    let Some(manifest::Duration(given)) = written else { return default };
    let (min, max) = match field {
        "interval" => (INTERVAL_MIN, INTERVAL_MAX),
        _ => (TIMEOUT_MIN, TIMEOUT_MAX),
    };
    if !(min..=max).contains(&given) {
        let [given, min, max] = [given, min, max].map(manifest::Duration);
        let message = format!("{given} is not between {min} and {max}");
        problems.add(format!("{path}.{field}"), message, "choose a time between these two");
    }
    given
}
