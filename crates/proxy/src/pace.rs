//! Long work in short pieces: after each, workers may go first.
//!
//! A worker that is woken on a core where the side thread is at work would wait for the end of that thread's slice:
//! Linux lets a running thread finish some milliseconds, and a config of 5 MB takes tens of them. So whoever works
//! long on the side offers the core now and then. A thread of lower priority would not do: it waits just as long to
//! be interrupted, and on a busy machine it would never learn of the endpoints that could help.

use std::time::{Duration, Instant};

/// A piece of work: what a request waits for it at most, less than it takes to pass two sidecars.
const PIECE: Duration = Duration::from_micros(100);

/// For one piece of long work after the other, on one thread.
pub(crate) struct Pace {
    since: Instant,
}

impl Pace {
    pub(crate) fn start() -> Self {
        Self { since: Instant::now() }
    }

    /// Between two steps, each of which is short.
    pub(crate) fn step(&mut self) {
        if self.since.elapsed() >= PIECE {
            std::thread::yield_now();
            self.since = Instant::now();
        }
    }
}
