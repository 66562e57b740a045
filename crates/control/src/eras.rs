//! Does this store know all that a sidecar has seen of it? Where it does not, it is an older copy, and what it says
//! must replace nothing until an operator has accepted that.
//!
//! Revisions alone cannot tell: a copy that goes on writes the same numbers for other things. So each start of a
//! control plane begins an *era* of the store, with a random name and the revision at which it began. Every stream
//! is told the era, and tells the last one that it saw with its revision:
//!
//! - an era that the list does not have began after the copy was made;
//! - a revision beyond the end of its era was written after the copy was made.
//!
//! Either way the sidecar has seen what is lost here. It is refused its config and keeps what it has; registrations,
//! leases and certificates go on, since those only add. Who has seen nothing yet is served.
//!
//! `Known` decides (pure); `Eras` keeps the list in the store, and remembers who was refused, for `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use meshwork_core::model::SpiffeId;
use meshwork_xds::session::Seen;
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::lock::lock;
use crate::store::{CommitError, Key, Store, StoreError, Transaction};

/// Starts that are remembered, and accepted losses. A sidecar that slept through a thousand restarts is believed.
const ERAS_MAX: usize = 1_000;

/// Lost eras that are told apart in memory; each is a store that was replaced under running sidecars.
const LOST_MAX: usize = 64;

/// Identities that are listed for a lost era; the rest is counted with them.
const SIDECARS_MAX: usize = 100;

/// Hexadecimal digits of an era's name: 64 bits, as a mesh has a thousand at most.
const ERA_DIGITS: usize = 16;

/// What the store keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Known {
    /// In the order in which they began; the last one is now's.
    eras: Vec<Era>,
    accepted: Vec<Accepted>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Era {
    name: String,
    /// The store's revision when it began, which is the end of the one before.
    begin: u64,
}

/// A loss that an operator has accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Accepted {
    /// Empty: sidecars that know no eras.
    era: String,
    through: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// What the sidecar has seen is in this store.
    Known,
    /// The sidecar has seen what this store does not have.
    Lost,
}

impl Known {
    /// `now`: the store's revision.
    fn judge(&self, era: &str, revision: u64, now: u64) -> Verdict {
        let place = self.eras.iter().position(|known| known.name == era);
        let holds = match place {
            Some(place) => {
                let end = self.eras.get(place + 1).map(|next| next.begin);
                revision <= end.unwrap_or(now)
            }
            // A control plane or sidecar of an older version: numbers are all there is.
            None if era.is_empty() => revision <= now,
            // Perhaps one that was forgotten here.
            None => {
                self.eras.len() >= ERAS_MAX && self.eras.first().is_some_and(|first| revision <= first.begin)
            }
        };
        let accepted = |accepted: &Accepted| accepted.era == era && revision <= accepted.through;
        if holds || self.accepted.iter().any(accepted) { Verdict::Known } else { Verdict::Lost }
    }

    fn begin(&mut self, name: String, begin: u64) {
        self.eras.push(Era { name, begin });
        let forgotten = self.eras.len().saturating_sub(ERAS_MAX);
        self.eras.drain(..forgotten);
    }

    fn accept(&mut self, lost: impl Iterator<Item = (String, u64)>) {
        for (era, revision) in lost {
            // All that a lost era wrote is lost, whoever saw how much of it.
            let through = if era.is_empty() { revision } else { u64::MAX };
            self.accepted.push(Accepted { era, through });
        }
        let forgotten = self.accepted.len().saturating_sub(ERAS_MAX);
        self.accepted.drain(..forgotten);
    }
}

/// What sidecars have seen of an era, and this store does not have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lost {
    /// The newest that any of them saw.
    pub(crate) revision: u64,
    pub(crate) sidecars: BTreeSet<String>,
}

pub(crate) struct Eras {
    store: Store,
    /// Empty: it could not be written, so nothing may rely on it.
    name: String,
    state: Mutex<State>,
}

struct State {
    known: Known,
    lost: BTreeMap<String, Lost>,
}

impl Eras {
    /// Begins an era. A store that can't be written serves nevertheless, without one.
    pub(crate) async fn begin(store: &Store) -> Result<Self, StartError> {
        let mut known = read(store)?;
        let random = meshwork_identity::TokenSecret::generate()
            .map_err(|error| StartError::Identity(error.to_string()))?;
        let mut name: String = random.hash().to_string().chars().take(ERA_DIGITS).collect();
        let before = known.clone();
        known.begin(name.clone(), store.revision());
        if let Err(error) = write(store, &known).await {
            tracing::error!(%error, "this start could not be noted in the store: an older copy of it would be told by its revision alone");
            (known, name) = (before, String::new());
        }
        let state = Mutex::new(State { known, lost: BTreeMap::new() });
        Ok(Self { store: store.clone(), name, state })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a sidecar may be served its config. `Err`: why not, for the sidecar's log and `status`.
    pub(crate) fn admit(&self, id: &SpiffeId, seen: &Seen) -> Result<(), String> {
        // One that has seen nothing says nothing, or an older version's empty text.
        let Ok(revision) = seen.revision.parse() else { return Ok(()) };
        let here = self.store.revision();
        let mut state = self.lock();
        match state.known.judge(&seen.era, revision, here) {
            Verdict::Known => Ok(()),
            Verdict::Lost => {
                state.lose(id, &seen.era, revision);
                Err(format!(
                    "the control plane's store is at revision {here} and does not have what this sidecar has seen, \
                     revision {revision}: it is an older copy, or was replaced. Bring back the newer store, or take \
                     this one as it is with `meshwork accept-store`"
                ))
            }
        }
    }

    /// Eras of which sidecars have seen what is not here, since the start.
    pub(crate) fn lost(&self) -> BTreeMap<String, Lost> {
        self.lock().lost.clone()
    }

    /// An operator takes the store as it is: whoever has seen what is lost takes what is here.
    pub(crate) async fn accept(&self) -> Result<BTreeMap<String, Lost>, CommitError> {
        let (known, lost) = {
            let state = self.lock();
            let mut known = state.known.clone();
            known.accept(state.lost.iter().map(|(era, lost)| (era.clone(), lost.revision)));
            (known, state.lost.clone())
        };
        if lost.is_empty() {
            return Ok(lost);
        }
        write(&self.store, &known).await?;
        let mut state = self.lock();
        state.known = known;
        for era in lost.keys() {
            state.lost.remove(era);
        }
        drop(state);
        Ok(lost)
    }

    /// The state is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn lose(&mut self, id: &SpiffeId, era: &str, revision: u64) {
        if !self.lost.contains_key(era) && self.lost.len() >= LOST_MAX {
            tracing::error!(%id, era, revision, limit = LOST_MAX, "one more lost era of the store is not remembered");
            return;
        }
        let lost = self.lost.entry(era.to_owned()).or_default();
        lost.revision = lost.revision.max(revision);
        let id = id.to_string();
        if lost.sidecars.len() < SIDECARS_MAX && lost.sidecars.insert(id.clone()) {
            tracing::error!(
                id,
                era,
                seen = revision,
                "a sidecar has seen what this store does not have: it is an older copy; the sidecar keeps its config \
                 until the newer store is back, or `meshwork accept-store`"
            );
        }
    }
}

fn read(store: &Store) -> Result<Known, StoreError> {
    let Some(found) = store.get(&Key::eras())? else { return Ok(Known::default()) };
    serde_json::from_slice(&found.value)
        .map_err(|error| StoreError::Read(format!("{}: {error}", Key::eras())))
}

async fn write(store: &Store, known: &Known) -> Result<(), CommitError> {
    // Two numbers and two texts a row: nothing in it can fail to be written as JSON.
    let bytes = serde_json::to_vec(known).map_err(|error| CommitError::Disk(error.to_string()))?;
    store.commit(Transaction::default().put(Key::eras(), bytes)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` from 0 to 100, `b` from 100 on; the store is at 120.
    fn known() -> Known {
        let mut known = Known::default();
        known.begin("a".to_owned(), 0);
        known.begin("b".to_owned(), 100);
        known
    }

    #[track_caller]
    fn check(known: &Known, era: &str, revision: u64, expect: Verdict) {
        assert_eq!(known.judge(era, revision, 120), expect, "{era} {revision}");
    }

    #[test]
    fn what_an_era_wrote_is_known_up_to_its_end() {
        let known = known();
        check(&known, "a", 100, Verdict::Known);
        check(&known, "a", 101, Verdict::Lost); // the number exists here, and means something else
        check(&known, "b", 120, Verdict::Known);
    }

    #[test]
    fn an_era_that_began_after_the_copy_was_made_is_lost_whatever_its_numbers() {
        check(&known(), "c", 119, Verdict::Lost);
    }

    #[test]
    fn without_an_era_the_number_decides() {
        check(&known(), "", 120, Verdict::Known);
        check(&known(), "", 121, Verdict::Lost);
    }

    #[test]
    fn what_was_accepted_is_no_loss_any_more_and_nothing_else() {
        let mut known = known();
        known.accept([("c".to_owned(), 130), (String::new(), 125)].into_iter());
        check(&known, "c", 140, Verdict::Known);
        check(&known, "", 125, Verdict::Known);
        check(&known, "", 126, Verdict::Lost);
        check(&known, "a", 101, Verdict::Lost);
    }

    #[test]
    fn a_thousand_starts_are_remembered_and_who_is_older_is_believed() {
        let mut known = known();
        for number in 0..ERAS_MAX as u64 {
            known.begin(format!("e{number}"), 200 + number);
        }
        assert_eq!(known.eras.len(), ERAS_MAX);
        check(&known, "a", 100, Verdict::Known);
        check(&known, "a", 201, Verdict::Lost);
    }

    #[tokio::test]
    async fn a_copy_is_found_out_by_those_who_saw_more_until_that_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("a.redb"), dir.path().join("b.redb"));
        let id = SpiffeId::new("mesh.local", "default", "web").unwrap();
        let key = |name: &str| Transaction::default().put(Key::token(name), vec![1]);
        let (store, writer) = Store::open(&path, 100).unwrap();
        let eras = Eras::begin(&store).await.unwrap();
        store.commit(key("one")).await.unwrap();
        let seen = |eras: &Eras, store: &Store| Seen {
            era: eras.name().to_owned(),
            revision: store.revision().to_string(),
        };
        let before = seen(&eras, &store);
        drop((eras, store));
        writer.ended().await;
        std::fs::copy(&path, &copy).unwrap();

        let (store, writer) = Store::open(&path, 100).unwrap();
        let eras = Eras::begin(&store).await.unwrap();
        store.commit(key("two")).await.unwrap();
        let after = seen(&eras, &store);
        assert_eq!((eras.admit(&id, &before), eras.admit(&id, &after)), (Ok(()), Ok(())));
        drop((eras, store));
        writer.ended().await;

        let (store, _writer) = Store::open(&copy, 100).unwrap();
        let eras = Eras::begin(&store).await.unwrap();
        for name in ["three", "four", "five"] {
            store.commit(key(name)).await.unwrap(); // past the revision that was seen
        }
        assert_eq!(eras.admit(&id, &before), Ok(()));
        assert!(eras.admit(&id, &after).unwrap_err().contains("accept-store"));
        assert_eq!(eras.lost()[&after.era].sidecars.len(), 1);
        eras.accept().await.unwrap();
        assert_eq!((eras.admit(&id, &after), eras.lost().len()), (Ok(()), 0));
    }
}
