//! How long a request and each of its tries may take. Whatever is too late is dropped: a stream is reset, a connection
//! of HTTP/1 closed, so that nobody works on for a caller that has gone.
//!
//! What holds is `core::policy`'s and the caller's word; here it becomes moments, and a race against them. Where
//! nobody set a limit there is no timer, and no clock is read.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use meshwork_core::policy::Timeouts;
use tokio::time::{Instant, sleep_until};

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// All tries together, to the end of the answer: `timeouts.request` of the rule or of the service's policy.
    Request,
    /// The same, as the caller set it: `grpc-timeout`.
    Call,
    /// One try, to the end of its answer: `timeouts.backendRequest`.
    Try,
}

/// A moment by which something must be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Instant,
    pub(crate) span: Span,
    /// The limit itself, for who is told of it.
    pub(crate) limit: Duration,
}

/// What holds for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    request: Option<Deadline>,
    of_try: Option<Duration>,
}

impl Patience {
    /// `call`: the caller's own limit. `waited`: since the request's head came.
    pub(crate) fn of(timeouts: Timeouts, call: Option<Duration>, waited: impl FnOnce() -> Duration) -> Self {
        let limit = match (timeouts.request, call) {
            (Some(request), Some(call)) if call < request => Some((call, Span::Call)),
            (Some(request), _) => Some((request, Span::Request)),
            (None, Some(call)) => Some((call, Span::Call)),
            (None, None) => None,
        };
        let request = limit.map(|(limit, span)| {
            let left = limit.saturating_sub(waited());
            Deadline { at: Instant::now() + left, span, limit }
        });
        Self { request, of_try: timeouts.backend_request }
    }

    /// By when a try that begins now must be over.
    pub(crate) fn begin_try(&self) -> Option<Deadline> {
        let Some(limit) = self.of_try else { return self.request };
        let of_try = Deadline { at: Instant::now() + limit, span: Span::Try, limit };
        Some(self.request.filter(|request| request.at <= of_try.at).unwrap_or(of_try))
    }

    /// Whether there is anything left of the request after that wait.
    pub(crate) fn outlasts(&self, wait: Duration) -> bool {
        self.request.is_none_or(|request| Instant::now() + wait < request.at)
    }
}

/// What comes of `work`, unless it takes too long. Borrowed: the caller's frame holds it once, and drops it.
pub(crate) async fn within<T>(
    deadline: Option<Deadline>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Deadline> {
    let Some(deadline) = deadline else { return Ok(work.await) };
    let mut end = pin!(sleep_until(deadline.at));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| Err(deadline)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn timeouts(request: u64, of_try: u64) -> Timeouts {
        let limit = |ms: u64| (ms > 0).then(|| MS(ms));
        Timeouts { request: limit(request), backend_request: limit(of_try) }
    }

    #[track_caller]
    fn check(request: u64, of_try: u64, call: Option<u64>, waited: u64, expect: Option<(Span, u64)>) {
        let start = Instant::now();
        let patience = Patience::of(timeouts(request, of_try), call.map(MS), || MS(waited));
        let found = patience.begin_try().map(|deadline| (deadline.span, deadline.at - start));
        assert_eq!(found, expect.map(|(span, ms)| (span, MS(ms))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_limit_holds() {
        check(0, 0, None, 0, None);
        check(100, 0, None, 0, Some((Span::Request, 100)));
        check(100, 0, None, 30, Some((Span::Request, 70)));
        check(100, 0, Some(50), 0, Some((Span::Call, 50)));
        check(100, 0, Some(200), 0, Some((Span::Request, 100)));
        check(0, 0, Some(50), 60, Some((Span::Call, 0)));
        check(0, 20, None, 0, Some((Span::Try, 20)));
        check(100, 20, None, 0, Some((Span::Try, 20)));
        check(100, 20, None, 90, Some((Span::Request, 10)));
        check(20, 20, None, 0, Some((Span::Request, 20)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_leaves_nothing_is_not_begun() {
        let patience = Patience::of(timeouts(100, 20), None, || MS(0));
        assert!(patience.outlasts(MS(99)) && !patience.outlasts(MS(100)));
        assert!(Patience::default().outlasts(Duration::MAX / 4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_late_ends() {
        let deadline = Patience::of(timeouts(100, 0), None, || MS(0)).begin_try();
        assert_eq!(within(deadline, pin!(tokio::time::sleep(MS(99)))).await, Ok(()));
        assert_eq!(within(deadline, pin!(std::future::pending::<()>())).await, Err(deadline.unwrap()));
        assert_eq!(within(None, pin!(tokio::time::sleep(MS(1_000)))).await, Ok(()));
    }
}
