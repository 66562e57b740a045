//! The sidecar's clock: one origin for all workers, so that moments can be compared; and a worker's view of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time;

use meshwork_core::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: time::Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: time::Instant::now() }
    }

    pub fn now(self) -> Instant {
        // 584 years of nanoseconds fit.
        Instant::from_nanos(self.origin.elapsed().as_nanos() as u64)
    }

    pub fn now_millis(self) -> u64 {
        millis(self.now())
    }
}

/// A worker's. It stands still while one of the worker's tasks is polled: what a request does at one go, it does at one
/// moment, and the clock is read once for that, not once for every decision.
pub(crate) struct WorkerClock {
    clock: Clock,
    stand: Cell<Stand>,
}

#[derive(Clone, Copy)]
enum Stand {
    /// No task is polled: the clock is read by whoever asks.
    Running,
    /// A task is polled that has not asked yet.
    Unread,
    Still(Instant),
}

impl WorkerClock {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, stand: Cell::new(Stand::Running) }
    }

    pub(crate) fn now(&self) -> Instant {
        match self.stand.get() {
            Stand::Running => self.clock.now(),
            Stand::Unread => {
                let now = self.clock.now();
                self.stand.set(Stand::Still(now));
                now
            }
            Stand::Still(now) => now,
        }
    }

    pub(crate) fn now_millis(&self) -> u64 {
        millis(self.now())
    }

    /// The task, for which the clock stands still during each of its polls.
    pub(crate) fn still_for<T>(self: Rc<Self>, task: impl Future<Output = T>) -> impl Future<Output = T> {
        let mut task = Box::pin(task); // an `async` block would have room for it twice
        poll_fn(move |cx| {
            self.stand.set(Stand::Unread);
            let _runs_again = RunsAgain(&self.stand);
            task.as_mut().poll(cx)
        })
    }
}

/// However the poll ends.
struct RunsAgain<'a>(&'a Cell<Stand>);

impl Drop for RunsAgain<'_> {
    fn drop(&mut self) {
        self.0.set(Stand::Running);
    }
}

fn millis(now: Instant) -> u64 {
    now.as_nanos() / 1_000_000
}

/// Seconds since the epoch.
pub(crate) fn unix_seconds(time: time::SystemTime) -> i64 {
    let since = time.duration_since(time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn clock() -> Rc<WorkerClock> {
        Rc::new(WorkerClock::new(Clock::start()))
    }

    /// Until the clock itself has moved on.
    fn pass(clock: &WorkerClock) {
        let start = clock.clock.now();
        while clock.clock.now() == start {
            spin_loop();
        }
    }

    #[test]
    fn a_poll_is_one_moment_and_the_next_one_another() {
        let clock = clock();
        let seen = Cell::new([Instant::default(); 2]);
        let task = clock.clone().still_for(poll_fn(|_| {
            let first = clock.now();
            pass(&clock);
            seen.set([first, clock.now()]);
            Poll::<()>::Pending
        }));
        let mut task = pin!(task);
        let mut poll = || {
            let before = clock.now();
            pass(&clock);
            assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let [first, second] = seen.get();
            assert!(before < first, "the clock is read in each poll");
            assert_eq!(first, second, "and once");
            pass(&clock);
            assert!(clock.now() > second, "behind it the clock runs");
        };
        poll();
        poll();
    }

    #[test]
    fn a_panic_leaves_no_clock_behind_that_stands() {
        let clock = clock();
        let task = clock.clone().still_for(poll_fn(|_| -> Poll<()> {
            clock.now();
            panic!("on purpose");
        }));
        let mut task = pin!(task);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut cx).is_ready())).is_err());
        let start = clock.now();
        pass(&clock);
        assert!(clock.now() > start);
    }
}
