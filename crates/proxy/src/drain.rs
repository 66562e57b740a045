//! How a worker's connections learn that they are to go: first to finish what runs, then that its time is up.
//!
//! Each worker has one [`Drain`] a direction, so that none waits for another's lock. A connection's task is woken by the
//! futures; on a request's path only the stage is looked at, a byte that nobody writes but twice in a life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// How long what still runs when its time is up may take for its last words: a gRPC status, a WebSocket's close, and
/// what it takes their readers to close in turn.
const LAST_WORDS_MAX: Duration = Duration::from_secs(3);

/// How far a direction of a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// Nothing new: connections end with what runs on them.
    Finishing,
    /// What still runs gets an end.
    TimeUp,
}

/// One direction's way out, of one worker.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    stage: AtomicU8,
    finishing: CancellationToken,
    time_up: CancellationToken,
}

impl Drain {
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Finishing,
            _ => Stage::TimeUp,
        }
    }

    /// Ready from [`Stage::Finishing`] on.
    pub(crate) fn finishing(&self) -> WaitForCancellationFuture<'_> {
        self.finishing.cancelled()
    }

    /// Ready from [`Stage::TimeUp`] on.
    pub(crate) fn time_up(&self) -> WaitForCancellationFuture<'_> {
        self.time_up.cancelled()
    }

    /// Before anybody is woken, so that whoever is sees it.
    fn advance(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        self.finishing.cancel();
        if stage == Stage::TimeUp {
            self.time_up.cancel();
        }
    }
}

/// Both directions of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    pub(crate) inbound: Arc<Drain>,
    pub(crate) outbound: Arc<Drain>,
}

/// How the connections of one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// By themselves.
    Finished,
    /// So many had to be given an end.
    TimeUp(usize),
}

/// Lets every connection of a direction, on all workers, finish within `time`; what still runs then gets an end.
pub(crate) async fn finish<'a>(
    drains: impl Iterator<Item = &'a Drain> + Clone,
    connections: &TaskTracker,
    time: Duration,
) -> Drained {
    drains.clone().for_each(|drain| drain.advance(Stage::Finishing));
    connections.close();
    if timeout(time, connections.wait()).await.is_ok() {
        return Drained::Finished;
    }
    let left = connections.len();
    drains.for_each(|drain| drain.advance(Stage::TimeUp));
    // Whoever is still there is a peer that reads nothing; it ends with the worker.
    let _ = timeout(LAST_WORDS_MAX, connections.wait()).await;
    Drained::TimeUp(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that ends at that stage.
    fn connection(drain: &Arc<Drain>, connections: &TaskTracker, ends: Stage) {
        let drain = drain.clone();
        connections.spawn(async move {
            match ends {
                Stage::Serving => {}
                Stage::Finishing => drain.finishing().await,
                Stage::TimeUp => drain.time_up().await,
            }
            assert!(drain.stage() >= ends, "woken before it was said");
        });
    }

    #[tokio::test]
    async fn time_is_up_only_for_what_does_not_finish() {
        let (long, short) = (Duration::from_secs(30), Duration::from_millis(20));
        let check = async |ends: &[Stage], time, expect: Drained, stage: Stage| {
            let (drains, connections) = (Drains::default(), TaskTracker::new());
            ends.iter().for_each(|ends| connection(&drains.inbound, &connections, *ends));
            assert_eq!(finish([&*drains.inbound].into_iter(), &connections, time).await, expect);
            assert_eq!((drains.inbound.stage(), connections.len()), (stage, 0));
            assert_eq!(drains.outbound.stage(), Stage::Serving);
        };
        check(&[], long, Drained::Finished, Stage::Finishing).await;
        check(&[Stage::Finishing; 2], long, Drained::Finished, Stage::Finishing).await;
        check(&[Stage::Finishing, Stage::TimeUp], short, Drained::TimeUp(1), Stage::TimeUp).await;
    }
}
