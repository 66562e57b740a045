//! Few TLS handshakes at a time, in turns between the addresses that they come from.
//!
//! A control plane that comes back is met by every sidecar within a second or two. Our half of a handshake is half a
//! millisecond of key exchange and signatures; a thousand of them side by side are each as slow as all together, and keep
//! everything else that runs here waiting.
//!
//! A place is for that work, never for waiting: it is taken once a client's whole hello is here, and given back when our
//! answer to it has been made and sent, whether the client ever says another word. It is then kept for one more lap of the
//! runtime's queue, so that handshakes that go on, and all other work, stand before those that only begin.
//!
//! Those that wait are taken in turns by source (`handshakes/fair.rs`): a stranger who comes with thousands waits for himself.
//! What somebody else waits for is at most one handshake of each source that waits, at some half a millisecond of a core.

mod fair;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lock::lock;
use crate::metrics::Metrics;
use fair::FairQueue;

/// Handshakes that are answered at once: as many as cores can be at it, and few enough that what else waits for a core is
/// kept from it for a few ms.
const HANDSHAKES_MAX: usize = 16;

/// How often it is logged that some wait.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Handshakes {
    turns: Arc<Turns>,
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
            turns: Arc::default(),
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            told: Mutex::default(),
            metrics,
        }
    }

    /// Begins it when it is the turn of who comes `from` there. What it does until it waits for the first time is done in a
    /// place, the rest without one.
    pub(crate) async fn run<T, F: Future<Output = T>>(&self, from: IpAddr, begin: impl FnOnce() -> F) -> T {
        let place = self.place(from).await;
        let mut handshake = pin!(begin());
        let first = std::future::poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
        tokio::task::yield_now().await;
        drop(place);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => handshake.await,
        }
    }

    /// `None` never: who waits is forgotten with the queue alone, which we hold.
    async fn place(&self, from: IpAddr) -> Option<Place> {
        let place = match self.turns.take(from) {
            Turn::Now(place) => Some(place),
            Turn::Later(later) => {
                let _waiting = Waiting::begin(self);
                later.await.ok()
            }
        };
        self.most.fetch_max(HANDSHAKES_MAX - self.turns.lock().free, Ordering::Relaxed);
        place
    }

    fn tell(&self) {
        // A time that a panic left behind is as good as any.
        let mut told = lock(&self.told);
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

/// Who has a place, and who waits for one.
struct Turns(Mutex<State>);

struct State {
    free: usize,
    /// Empty while a place is free. Each holds a connection, of which there are so many at most.
    queue: FairQueue<oneshot::Sender<Place>>,
}

enum Turn {
    Now(Place),
    Later(oneshot::Receiver<Place>),
}

impl Default for Turns {
    fn default() -> Self {
        Self(Mutex::new(State { free: HANDSHAKES_MAX, queue: FairQueue::default() }))
    }
}

impl Turns {
    /// Nothing that panics is done under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn take(self: &Arc<Self>, from: IpAddr) -> Turn {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            return Turn::Now(Place(Some(Arc::clone(self))));
        }
        let (sender, receiver) = oneshot::channel();
        state.queue.push(from.into(), sender);
        Turn::Later(receiver)
    }

    /// To the next who is still there.
    fn pass_on(self: Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.queue.pop() else {
                state.free += 1;
                return;
            };
            drop(state);
            match next.send(Place(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // Left meanwhile. The place must not be given back here: it is what we are passing on.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

/// Passed on when it is dropped, also by a connection that left just when its turn came.
struct Place(Option<Arc<Turns>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
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
    use std::future::pending;
    use std::net::Ipv4Addr;

    use tokio::task::JoinSet;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    /// All places taken, for as long as they are kept.
    fn full(handshakes: &Handshakes) -> Vec<Place> {
        let take = |_| match handshakes.turns.take(AWAY) {
            Turn::Now(place) => place,
            Turn::Later(_) => panic!("there are fewer"),
        };
        (0..HANDSHAKES_MAX).map(take).collect()
    }

    /// Waits until so many wait.
    async fn waiting(handshakes: &Handshakes, count: usize) {
        while handshakes.seen().waiting != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_thousand_at_once_are_begun_a_few_at_a_time() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let places = full(&handshakes);
        let mut all = JoinSet::new();
        for _ in 0..1_000 {
            let handshakes = handshakes.clone();
            all.spawn(async move { handshakes.run(HOME, || async {}).await });
        }
        waiting(&handshakes, 1_000).await;
        drop(places);
        all.join_all().await;
        let seen = handshakes.seen();
        assert_eq!((seen.most, seen.waiting, seen.most_waiting), (HANDSHAKES_MAX, 0, 1_000));
        assert_eq!(handshakes.turns.lock().free, HANDSHAKES_MAX);
    }

    #[tokio::test]
    async fn clients_that_say_nothing_more_keep_nobody_out() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let mut silent = JoinSet::new();
        for _ in 0..1_000 {
            let handshakes = handshakes.clone();
            silent.spawn(async move { handshakes.run(AWAY, pending::<()>).await });
        }
        handshakes.run(AWAY, || async {}).await;
        // Nobody's time was waited for: each of them is begun, and none is done.
        while handshakes.turns.lock().free < HANDSHAKES_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!((handshakes.seen().waiting, silent.len()), (0, 1_000));
    }

    #[tokio::test]
    async fn who_comes_with_a_thousand_waits_for_himself() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let places = full(&handshakes);
        let begun = Arc::new(Mutex::new(Vec::new()));
        let mut all = JoinSet::new();
        for from in [AWAY; 1_000].into_iter().chain([HOME]) {
            let before = handshakes.seen().waiting;
            let (handshakes, begun) = (handshakes.clone(), begun.clone());
            let held = handshakes.clone();
            all.spawn(async move {
                handshakes.run(from, || async move { begun.lock().unwrap().push(from) }).await
            });
            waiting(&held, before + 1).await;
        }
        drop(places);
        all.join_all().await;
        let place = begun.lock().unwrap().iter().position(|from| *from == HOME);
        assert_eq!(place, Some(1), "after one of the other's");
    }

    #[tokio::test]
    async fn who_leaves_before_its_turn_is_counted_no_more() {
        let handshakes = Arc::new(Handshakes::new(Arc::default()));
        let places = full(&handshakes);
        let mut left = JoinSet::new();
        for _ in 0..10 {
            let handshakes = handshakes.clone();
            left.spawn(async move { handshakes.run(AWAY, pending::<()>).await });
        }
        waiting(&handshakes, 10).await;
        left.shutdown().await;
        assert_eq!(handshakes.seen().waiting, 0);
        drop(places);
        assert_eq!(handshakes.turns.lock().free, HANDSHAKES_MAX, "no place was lost on who had left");
    }

    #[tokio::test]
    async fn a_place_that_came_to_who_had_just_left_is_passed_on() {
        let handshakes = Handshakes::new(Arc::default());
        let places = full(&handshakes);
        let Turn::Later(later) = handshakes.turns.take(HOME) else { panic!("none is free") };
        drop(places);
        assert_eq!(handshakes.turns.lock().free, HANDSHAKES_MAX - 1);
        drop(later);
        assert_eq!(handshakes.turns.lock().free, HANDSHAKES_MAX);
    }
}
