//! Long work in short pieces: after each, workers may go first.
//!
//! A worker that is woken on a core where the side thread is at work would wait for the end of that thread's slice,
//! some milliseconds. So whoever works for longer offers the core now and then. A large config gives way even more
//! (`side/background.rs`), where the machine is not too busy for that.

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
