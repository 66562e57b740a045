//! Few TLS handshakes at a time, in the order in which their clients spoke.
//!
//! A control plane that comes back is met by every sidecar within a second or two. A handshake is half a millisecond
//! of signatures and two round trips; a thousand of them side by side are each as slow as all together, and may all be
//! given up before the first is done. One after the other, most are done soon, and who waits is not forgotten: its
//! time begins with its turn.
//!
//! A place is for work, not for waiting: it is taken once the client's first bytes are here, and a client that is
//! slow afterwards goes on without one, so that a few that say nothing keep nobody out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Handshakes at once. Enough that the round trips of a wide network keep no core idle (640 a second at 100 ms), and
/// few enough that each is done in 0.1 s on two cores.
const HANDSHAKES_MAX: usize = 64;

/// How long one is counted among them. Who is not done by then waits for its client.
const PLACE_MAX: Duration = Duration::from_secs(1);

/// How often it is logged that some wait.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Handshakes {
    places: Semaphore,
    waiting: AtomicUsize,
    most: AtomicUsize,
    most_waiting: AtomicUsize,
    /// When it was last logged that some wait.
    told: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// As `status` shows them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    /// The most that ran at a time, and the most that may.
    most: usize,
    max: usize,
    /// Clients that wait for their turn now, and the most that did at a time.
    pub(crate) waiting: usize,
    most_waiting: usize,
}

impl Handshakes {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            places: Semaphore::new(HANDSHAKES_MAX),
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            told: Mutex::default(),
            metrics,
        }
    }

    /// Does it when it is its turn.
    pub(crate) async fn run<T>(&self, handshake: impl Future<Output = T>) -> T {
        let place = match self.places.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => {
                let _waiting = Waiting::begin(self);
                // Never closed, so there is always one.
                self.places.acquire().await.ok()
            }
        };
        self.most.fetch_max(HANDSHAKES_MAX - self.places.available_permits(), Ordering::Relaxed);
        tokio::pin!(handshake);
        tokio::select! {
            done = &mut handshake => return done,
            () = tokio::time::sleep(PLACE_MAX) => drop(place),
        }
        handshake.await
    }

    fn tell(&self) {
        // A time that a panic left behind is as good as any.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::info!(
                "more than {HANDSHAKES_MAX} sidecars connect at once: the others wait for their turn"
            );
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            most: self.most.load(Ordering::Relaxed),
            max: HANDSHAKES_MAX,
            waiting: self.waiting.load(Ordering::Relaxed),
            most_waiting: self.most_waiting.load(Ordering::Relaxed),
        }
    }
}

/// Counted while it is there; the connection may be gone before its turn.
struct Waiting<'a>(&'a Handshakes);

impl<'a> Waiting<'a> {
    fn begin(of: &'a Handshakes) -> Self {
        let before = of.waiting.fetch_add(1, Ordering::Relaxed);
        of.tell();
        of.metrics.limits_reached.count("handshakes");
        of.most_waiting.fetch_max(before + 1, Ordering::Relaxed);
        Self(of)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thousand_at_once_are_done_a_few_at_a_time() {
        let (handshakes, running) =
            (Arc::new(Handshakes::new(Arc::default())), Arc::new(AtomicUsize::new(0)));
        let mut all = JoinSet::new();
        for _ in 0..1_000 {
            let (handshakes, running) = (handshakes.clone(), running.clone());
            all.spawn(async move {
                let work = async {
                    let at_once = running.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    running.fetch_sub(1, Ordering::Relaxed);
                    at_once
                };
                handshakes.run(work).await
            });
        }
        let most = all.join_all().await.into_iter().max();
        assert_eq!(most, Some(HANDSHAKES_MAX));
        let seen = handshakes.seen();
        assert_eq!((seen.most, seen.waiting, seen.most_waiting), (HANDSHAKES_MAX, 0, 1_000 - HANDSHAKES_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_keep_nobody_out() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let mut silent = JoinSet::new();
        for _ in 0..HANDSHAKES_MAX {
            let handshakes = handshakes.clone();
            silent.spawn(async move { handshakes.run(std::future::pending::<()>()).await });
        }
        while handshakes.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        handshakes.run(async {}).await;
        assert_eq!(begun.elapsed().as_secs(), PLACE_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_its_turn_is_counted_no_more() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let mut silent = JoinSet::new();
        for _ in 0..=HANDSHAKES_MAX {
            let handshakes = handshakes.clone();
            silent.spawn(async move { handshakes.run(std::future::pending::<()>()).await });
        }
        while handshakes.seen().waiting == 0 {
            tokio::task::yield_now().await;
        }
        silent.shutdown().await;
        assert_eq!(handshakes.seen().waiting, 0);
    }
}
