//! What to do once a try has ended. Deciding is here; waiting and sending are in `proxy/src/http/attempt.rs`.
//!
//! | how the try ended | tried again |
//! |---|---|
//! | no connection was made | whatever the method, elsewhere |
//! | whoever was reached says that no application saw the request | whatever the method |
//! | broke before the answer's head, or answered 502, 503, 504 | what may be repeated (RFC 9110, 9.2.2) |
//! | anything else | if the rule's `retry` names the answer's status |
//!
//! A gRPC call is a POST, and its status stands in other words: of an application that says `UNAVAILABLE` nobody knows
//! what it did first. An answer of a peer who says that tries were spent behind it already is final: tries at each of
//! several hops would multiply.
//!
//! Pure: outcomes come in, a decision goes out. Whether the service's budget allows it is `budget.rs`, as taking from it
//! is no pure thing; which endpoint comes next is `balance.rs`.

pub mod budget;

use std::time::Duration;

use meshwork_http::StatusCode;

use crate::cause::{Cause, Certainty};
use crate::grpc::{Status, Told};
use crate::policy::{RetryPolicy, RuleRetry};

/// Tries that reach nobody, beyond which a request gives up. When half of a service's machines have just gone, one request
/// in 64 meets six of them in a row; each has left the choice after two such tries. A refusal costs nothing, an address
/// that is silent a connect time-out.
pub const UNREACHED_MAX: u32 = 6;

/// Endpoints that a request remembers to have failed on. Past it the oldest is forgotten, so the last ones never come again
/// while there are others.
pub const ENDPOINTS_TRIED_MAX: usize = 6;
const _: () = assert!(ENDPOINTS_TRIED_MAX == UNREACHED_MAX as usize, "each try of these is elsewhere");

/// Further tries that a policy or a rule may ask for. Whoever needs more has an outage, which tries make worse.
pub const ATTEMPTS_MAX: u32 = 10;

/// The longest wait before a try, however often it has doubled: the longest that may be written, too. A client that waits
/// longer would rather hear of the failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No connection came about: nobody was sent anything.
    Unreached,
    /// Somebody was, and says that no application saw it: stream refused, connection given up before it.
    NotProcessed,
    /// It broke before an answer's head came, and may have been processed. `None`: by the fault of who sent it, who left
    /// or broke it off.
    Unknown(Option<Cause>),
    /// An answer's head came.
    Answered(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// Who made it.
    pub by: By,
    /// A gRPC call's, if its answer is nothing but a head.
    pub grpc: Option<Told>,
}

/// Who made an answer, as far as it can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Application,
    /// A verified peer's sidecar, with its reason.
    Peer(Cause),
    /// Whoever it was: a verified peer's sidecar says that further tries behind it were spent in vain.
    Spent,
}

/// Tries that have been made, the ended one included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Whoever it was got something to do.
    pub reached: u32,
    pub unreached: u32,
}

impl Tries {
    /// One more has ended.
    pub fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unreached => self.unreached += 1,
            Outcome::NotProcessed | Outcome::Unknown(_) | Outcome::Answered(_) => self.reached += 1,
        }
    }

    /// Whether there may be no further one, as this one ended so. Who reached nobody was no load: to step over endpoints
    /// that have just gone takes nothing from the tries that are.
    fn are_spent(self, reason: Reason, attempts: u32) -> bool {
        match reason {
            Reason::Unreached => attempts == 0 || self.unreached > attempts.max(UNREACHED_MAX),
            Reason::NotProcessed | Reason::Reset | Reason::Status | Reason::Rule => self.reached > attempts,
        }
    }
}

/// What is asked, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub repeat: Repeat,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Twice is as good as once.
    Idempotent,
    /// Twice may be a payment too many.
    Once,
}

impl Repeat {
    /// RFC 9110, 9.2.2.
    pub fn of(method: &str) -> Self {
        match method {
            "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Once,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Grpc,
}

/// Whether the request's body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// There is none, or all of it that was taken from the downstream is still at hand.
    Possible,
    /// Some of it was sent and let go.
    Spent,
}

/// Where a further try would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// To an endpoint that this request has not just failed on.
    Elsewhere,
    /// There is only this one.
    Same,
}

/// What the service and the rule say, and what chance does.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub policy: &'a RetryPolicy,
    pub rule: Option<&'a RuleRetry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Answer the downstream with what there is: it is good, or another try would be no better or no longer safe.
    Return,
    /// The same, of a failure that would be tried again if tries had not been spent already, here or further on.
    Spent,
    /// Try again.
    Again(Again),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    pub reason: Reason,
    pub after: Duration,
}

/// Why a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Unreached,
    NotProcessed,
    /// It broke, and may be repeated.
    Reset,
    /// 502, 503 or 504, and may be repeated.
    Status,
    /// The rule names its status.
    Rule,
}

impl Reason {
    /// Whether it takes from the service's budget, which keeps load off applications. A try that reached nobody was no
    /// load; so to step over it is not either, however many endpoints have just gone.
    pub const fn draws_on_budget(self) -> bool {
        match self {
            Self::Unreached => false,
            Self::NotProcessed | Self::Reset | Self::Status | Self::Rule => true,
        }
    }
}

/// `tries` have been made, the ended one included. `random` makes the wait differ from others'.
pub fn next(
    outcome: Outcome,
    call: Call,
    replay: Replay,
    tries: Tries,
    place: Where,
    terms: Terms<'_>,
    random: u64,
) -> Next {
    let Some(reason) = reason(outcome, call, terms.rule) else { return Next::Return };
    match (reason, place, replay) {
        (_, _, Replay::Spent) => return Next::Return,
        // An address that took no connection takes none a moment later either.
        (Reason::Unreached, Where::Same, Replay::Possible) => return Next::Return,
        (_, _, Replay::Possible) => {}
    }
    if tries.are_spent(reason, attempts(terms)) || is_spent(outcome) {
        return Next::Spent;
    }
    let at_once = match (reason, place) {
        (Reason::Unreached, Where::Elsewhere) => true,
        (Reason::NotProcessed, Where::Elsewhere) => tries.reached == 1,
        (Reason::Unreached | Reason::NotProcessed, Where::Same) => false,
        (Reason::Reset | Reason::Status | Reason::Rule, Where::Elsewhere | Where::Same) => false,
    };
    let after = if at_once { Duration::ZERO } else { backoff(terms, tries.reached, random) };
    Next::Again(Again { reason, after })
}

/// Why it should be tried again, if nothing stood against it.
fn reason(outcome: Outcome, call: Call, rule: Option<&RuleRetry>) -> Option<Reason> {
    let (failed, status, told) = match outcome {
        Outcome::Unreached => return Some(Reason::Unreached),
        Outcome::NotProcessed => return Some(Reason::NotProcessed),
        Outcome::Unknown(None) => return None,
        Outcome::Unknown(Some(cause)) => {
            (Reason::Reset, cause.status(), Some(Told::Known(cause.grpc_status())))
        }
        Outcome::Answered(Answer { by: By::Peer(cause), .. })
            if cause.certainty() == Certainty::NotProcessed =>
        {
            return Some(Reason::NotProcessed);
        }
        Outcome::Answered(Answer { status, grpc, .. }) => (Reason::Status, status, grpc),
    };
    if call.repeat == Repeat::Idempotent && is_gateway_error(status) {
        return Some(failed);
    }
    let status = match (call.kind, told) {
        (Kind::Grpc, Some(told)) => http_status(told),
        (Kind::Grpc, None) | (Kind::Http, _) => Some(status.as_u16()),
    };
    let is_named = rule?.codes.contains(&status?);
    is_named.then_some(Reason::Rule)
}

/// What says of itself that whoever answers stands before the one who should have.
fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// The HTTP status by which a rule's `codes` name a gRPC status (`google.rpc.Code`); `None`: none does.
fn http_status(told: Told) -> Option<u16> {
    let Told::Known(status) = told else { return Some(500) };
    match status {
        Status::Ok => None,
        Status::InvalidArgument | Status::FailedPrecondition | Status::OutOfRange => Some(400),
        Status::Unauthenticated => Some(401),
        Status::PermissionDenied => Some(403),
        Status::NotFound => Some(404),
        Status::AlreadyExists | Status::Aborted => Some(409),
        Status::ResourceExhausted => Some(429),
        Status::Cancelled => Some(499),
        Status::Unknown | Status::Internal | Status::DataLoss => Some(500),
        Status::Unimplemented => Some(501),
        Status::Unavailable => Some(503),
        Status::DeadlineExceeded => Some(504),
    }
}

fn is_spent(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Answered(Answer { by: By::Spent, .. }))
}

/// Further tries that one request may have.
fn attempts(terms: Terms<'_>) -> u32 {
    let asked = terms.rule.and_then(|rule| rule.attempts).unwrap_or(terms.policy.attempts);
    asked.min(ATTEMPTS_MAX)
}

/// Doubled from one try to the next, half of it by chance: those who failed together do not come back together, and
/// nobody comes back at once.
fn backoff(terms: Terms<'_>, reached: u32, random: u64) -> Duration {
    let first = terms.rule.and_then(|rule| rule.backoff).unwrap_or(terms.policy.backoff);
    let whole = first.saturating_mul(1 << reached.saturating_sub(1).min(ATTEMPTS_MAX)).min(BACKOFF_MAX);
    let half = whole / 2;
    half + half * (random >> 32) as u32 / u32::MAX
}

#[cfg(test)]
mod tests;
