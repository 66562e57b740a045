//! Judges endpoints by their answers: who fails too often is left out for a while (Envoy's `outlier_detection`).
//!
//! Each try is a `Finding`. Too many failures in a row, or a success rate far below the service's other endpoints,
//! eject an endpoint; each further ejection is longer, and good time makes the next one shorter again. Only so
//! many are ejected at once, and with too few left ejections are not looked at.
//!
//! Pure: what was seen comes in, a verdict goes out. Records are plain values that fit an atomic each, and are kept
//! by the caller (`proxy/src/endpoints.rs`, `proxy/src/outliers.rs`); who may be chosen is `balance`'s matter.

use std::time::Duration;

use meshwork_http::StatusCode;

use crate::cause::{Cause, Certainty, Fault};
use crate::grpc;
use crate::policy::OutlierPolicy;

/// Endpoints with enough requests in an interval before any is compared with the others, as in Envoy: among fewer, even
/// one that always fails is within 1.9 standard deviations of the mean.
const COMPARED_MIN: usize = 5;

/// Percent by which rates must differ to be different, so that rounding ejects nobody.
const RATE_EPSILON: f64 = 1e-6;

/// What one try showed of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Success,
    /// A 5xx of the application's own.
    ServerError,
    /// 502, 503, 504, an answer that broke off, or none in time.
    GatewayError,
    /// No connection could be made.
    ConnectFailure,
}

impl Finding {
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// As the HTTP status that a gRPC status stands for. What is the client's own doing is no failure.
    pub fn of_grpc(told: grpc::Told) -> Self {
        use grpc::Status;
        match told {
            grpc::Told::Other => Self::ServerError, // to its client it is `Unknown`
            grpc::Told::Known(status) => match status {
                Status::Unavailable | Status::DeadlineExceeded => Self::GatewayError,
                Status::Internal | Status::Unknown | Status::DataLoss => Self::ServerError,
                Status::Ok
                | Status::Cancelled
                | Status::InvalidArgument
                | Status::NotFound
                | Status::AlreadyExists
                | Status::PermissionDenied
                | Status::ResourceExhausted
                | Status::FailedPrecondition
                | Status::Aborted
                | Status::OutOfRange
                | Status::Unimplemented
                | Status::Unauthenticated => Self::Success,
            },
        }
    }

    /// What an answer of an endpoint's own sidecar says of that endpoint. One that takes nothing, whoever's fault that
    /// is, is no place for requests. `None`: somebody else is at fault, and another endpoint would answer alike.
    pub fn of_cause(cause: Cause) -> Option<Self> {
        match (cause.certainty(), cause.fault()) {
            (Certainty::NotProcessed, _) | (_, Fault::Upstream) => Some(Self::of_status(cause.status())),
            (Certainty::Final, Fault::Downstream | Fault::Mesh) => None,
        }
    }

    pub fn is_failure(self) -> bool {
        self != Self::Success
    }
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Consecutive5xx,
    ConsecutiveGatewayErrors,
    ConsecutiveConnectFailures,
    SuccessRate,
}

impl Reason {
    pub const ALL: [Self; 4] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayErrors,
        Self::ConsecutiveConnectFailures,
        Self::SuccessRate,
    ];

    /// What metric and log say: the policy's field.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::ConsecutiveConnectFailures => "consecutive_connect_failures",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// Failures in a row, by kind. Each kind includes the ones that are worse: who can't be connected to is no better
/// than who answers 503.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streaks {
    server_errors: u16,
    gateway_errors: u16,
    connect_failures: u16,
}

impl Streaks {
    /// Takes in one finding. `Some`: that is enough; the streak begins anew, whatever comes of it.
    pub fn observe(&mut self, finding: Finding, policy: &OutlierPolicy) -> Option<Reason> {
        let grown = |streak: u16, grows: bool| if grows { streak.saturating_add(1) } else { 0 };
        self.server_errors = grown(self.server_errors, finding.is_failure());
        let gateway = matches!(finding, Finding::GatewayError | Finding::ConnectFailure);
        self.gateway_errors = grown(self.gateway_errors, gateway);
        self.connect_failures = grown(self.connect_failures, finding == Finding::ConnectFailure);
        // The most precise reason first.
        let rows = [
            (
                &mut self.connect_failures,
                policy.consecutive_connect_failures,
                Reason::ConsecutiveConnectFailures,
            ),
            (&mut self.gateway_errors, policy.consecutive_gateway_errors, Reason::ConsecutiveGatewayErrors),
            (&mut self.server_errors, policy.consecutive_5xx, Reason::Consecutive5xx),
        ];
        let mut found = None;
        for (streak, enough, reason) in rows {
            if enough > 0 && u32::from(*streak) >= enough.min(u16::MAX.into()) {
                *streak = 0;
                found = found.or(Some(reason));
            }
        }
        found
    }

    /// For an atomic of the caller; nothing in a row is 0.
    pub fn to_bits(self) -> u64 {
        let [a, b, c] = [self.server_errors, self.gateway_errors, self.connect_failures].map(u64::from);
        a | b << 16 | c << 32
    }

    pub fn from_bits(bits: u64) -> Self {
        Self {
            server_errors: bits as u16,
            gateway_errors: (bits >> 16) as u16,
            connect_failures: (bits >> 32) as u16,
        }
    }
}

/// An endpoint's requests in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u32,
    pub failures: u32,
}

impl Tally {
    /// What one finding adds to [`Tally::to_bits`], so that counting is one addition to the caller's atomic.
    pub fn step(finding: Finding) -> u64 {
        Self { requests: 1, failures: finding.is_failure().into() }.to_bits()
    }

    pub fn to_bits(self) -> u64 {
        u64::from(self.requests) << 32 | u64::from(self.failures)
    }

    pub fn from_bits(bits: u64) -> Self {
        Self { requests: (bits >> 32) as u32, failures: bits as u32 }
    }

    /// In percent; `None`: too few requests to say.
    fn success_rate(self, policy: &OutlierPolicy) -> Option<f64> {
        let enough = self.requests > 0 && self.requests >= policy.success_rate_requests_min;
        let succeeded = self.requests.saturating_sub(self.failures);
        enough.then(|| 100.0 * f64::from(succeeded) / f64::from(self.requests))
    }
}

/// Who of these fared far worse than the rest: below the mean by more than the policy's standard deviations.
pub fn far_below(tallies: &[Tally], policy: &OutlierPolicy) -> impl Iterator<Item = usize> {
    let bound = if policy.success_rate_stdev_percent == 0 { None } else { bound(tallies, policy) };
    tallies.iter().enumerate().filter_map(move |(index, tally)| {
        let rate = tally.success_rate(policy)?;
        (rate < bound? - RATE_EPSILON).then_some(index)
    })
}

fn bound(tallies: &[Tally], policy: &OutlierPolicy) -> Option<f64> {
    let rates = || tallies.iter().filter_map(|tally| tally.success_rate(policy));
    let count = rates().count();
    if count < COMPARED_MIN {
        return None;
    }
    let mean = rates().sum::<f64>() / count as f64;
    let variance = rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count as f64;
    Some(mean - f64::from(policy.success_rate_stdev_percent) / 100.0 * variance.sqrt())
}

/// One more may be ejected. One always may be, or a service of one or two endpoints would have no protection.
pub fn may_eject(ejected: u32, endpoints: usize, policy: &OutlierPolicy) -> bool {
    ejected == 0 || (u64::from(ejected) + 1) * 100 <= endpoints as u64 * u64::from(policy.ejected_percent_max)
}

/// So few of the endpoints are fit that ejections are not looked at: the rest would not bear the load.
pub fn is_panic(fit: usize, endpoints: usize, policy: &OutlierPolicy) -> bool {
    (fit as u64) * 100 < endpoints as u64 * u64::from(policy.panic_percent)
}

/// The number of an endpoint's next ejection, after so many that good time has not forgiven. It stops growing
/// where the time does, so that forgiving begins at once.
pub fn next_number(before: u32, policy: &OutlierPolicy) -> u32 {
    let is_longest = before > 0 && policy.ejection.saturating_mul(before) >= policy.ejection_max;
    if is_longest { before } else { before.saturating_add(1) }
}

/// How long the ejection of that number lasts.
pub fn duration(number: u32, policy: &OutlierPolicy) -> Duration {
    policy.ejection.saturating_mul(number).min(policy.ejection_max.max(policy.ejection))
}

#[cfg(test)]
mod tests;
