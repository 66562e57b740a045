//! What to do once a try has ended. Deciding is here; waiting and sending are in `proxy/src/http/attempt.rs`.
//!
//! Today only what was certainly not processed is tried again, whatever the method. Idempotent methods,
//! statuses, budgets and back-off are the issue Survive's, and come as further arguments.

pub mod budget;

use meshwork_http::StatusCode;

/// The most tries of one request, the first included. Enough to step over one endpoint that has just gone
/// and one that is going, few enough that an outage is at most tripled.
pub const TRIES_MAX: u32 = 3;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer's head came.
    Answered(StatusCode),
    /// Certainly no application saw the request: connect failed, stream refused, or a verified peer's
    /// sidecar answered with a cause that says so (`Cause::not_processed`).
    NotProcessed,
    /// The connection broke after something was sent.
    Unknown,
}

/// Whether the request's body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// There is none, or all of it that was taken from the downstream is still at hand.
    Possible,
    /// Some of it was sent and let go.
    Spent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Answer the downstream with what there is.
    Return,
    /// Try another endpoint, at once.
    Retry,
}

/// `tries` have been made, the ended one included.
pub fn next(outcome: Outcome, tries: u32, replay: Replay) -> Next {
    match (outcome, replay) {
        (Outcome::NotProcessed, Replay::Possible) if tries < TRIES_MAX => Next::Retry,
        (Outcome::NotProcessed, _) | (Outcome::Answered(_) | Outcome::Unknown, _) => Next::Return,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outcome: Outcome, tries: u32, replay: Replay, expect: Next) {
        assert_eq!(next(outcome, tries, replay), expect);
    }

    #[test]
    fn only_what_was_certainly_not_processed_is_tried_again() {
        check(Outcome::NotProcessed, 1, Replay::Possible, Next::Retry);
        check(Outcome::Unknown, 1, Replay::Possible, Next::Return);
        check(Outcome::Answered(StatusCode::OK), 1, Replay::Possible, Next::Return);
        check(Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE), 1, Replay::Possible, Next::Return);
    }

    #[test]
    fn a_body_that_is_gone_is_not_sent_again() {
        check(Outcome::NotProcessed, 1, Replay::Spent, Next::Return);
    }

    #[test]
    fn tries_end() {
        check(Outcome::NotProcessed, TRIES_MAX - 1, Replay::Possible, Next::Retry);
        check(Outcome::NotProcessed, TRIES_MAX, Replay::Possible, Next::Return);
    }
}
