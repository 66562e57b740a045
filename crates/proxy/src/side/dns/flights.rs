//! Queries on their way to a resolver: who asks the same meanwhile waits for that answer, and nobody is asked twice. A
//! program that starts looks up one name on each of its threads; and who can have many equal queries sent at once has as
//! many chances to guess the answer to one of them.
//!
//! Each is led by a query that waits, so there are at most as many as may wait (`answer.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_core::dns::Code;
use meshwork_core::dns::query::Key;
use meshwork_core::dns::relay::Relayed;
use tokio::sync::watch;

/// What came of it.
pub(super) type Landed = Result<Arc<Relayed>, Code>;

type State = watch::Receiver<Option<Landed>>;

#[derive(Default)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<Key, State>>,
}

/// What a query has to do.
pub(super) enum Turn<'a> {
    /// To ask.
    Lead(Lead<'a>),
    /// To wait for who asked.
    Follow(Follower),
}

/// Dropped, others may ask again.
pub(super) struct Lead<'a> {
    flights: &'a Flights,
    key: Key,
    state: watch::Sender<Option<Landed>>,
}

pub(super) struct Follower(State);

impl Flights {
    pub(super) fn join(&self, key: Key) -> Turn<'_> {
        let mut under_way = self.under_way();
        if let Some(state) = under_way.get(&key) {
            return Turn::Follow(Follower(state.clone()));
        }
        let (state, followed) = watch::channel(None);
        under_way.insert(key.clone(), followed);
        Turn::Lead(Lead { flights: self, key, state })
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        // A panic left a map of whole entries.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead<'_> {
    /// Tells all who wait.
    pub(super) fn land(self, landed: Landed) {
        self.state.send_replace(Some(landed));
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.flights.under_way().remove(&self.key);
    }
}

impl Follower {
    /// `None`: whoever asked gave up, as its client broke off.
    pub(super) async fn landed(mut self) -> Option<Landed> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::dns::own::{Family, question};

    use super::*;

    fn key(name: &str) -> Key {
        question(name, Family::V4).unwrap().key()
    }

    #[track_caller]
    fn lead<'a>(flights: &'a Flights, name: &str) -> Lead<'a> {
        match flights.join(key(name)) {
            Turn::Lead(lead) => lead,
            Turn::Follow(_) => panic!("somebody asks for {name}"),
        }
    }

    #[track_caller]
    fn follow(flights: &Flights, name: &str) -> Follower {
        match flights.join(key(name)) {
            Turn::Follow(follower) => follower,
            Turn::Lead(_) => panic!("nobody asks for {name}"),
        }
    }

    #[tokio::test]
    async fn who_asks_the_same_hears_the_same_also_late() {
        let flights = Flights::default();
        let first = lead(&flights, "a.example");
        let (second, third) = (follow(&flights, "A.example."), follow(&flights, "a.example"));
        let _other = lead(&flights, "b.example");
        first.land(Err(Code::Refused));
        for follower in [second, third] {
            assert_eq!(follower.landed().await, Some(Err(Code::Refused)));
        }
        drop(lead(&flights, "a.example")); // it is over
    }

    #[tokio::test]
    async fn who_gives_up_leaves_it_to_the_next() {
        let flights = Flights::default();
        let first = lead(&flights, "a.example");
        let second = follow(&flights, "a.example");
        drop(first);
        assert_eq!(second.landed().await, None);
        drop(lead(&flights, "a.example"));
        assert!(flights.under_way().is_empty());
    }
}
