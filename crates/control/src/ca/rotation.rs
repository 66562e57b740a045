//! Replacing the mesh's root, step by step.
//!
//! Each step is one transaction of the store, and takes effect only once that is on the disk; `load` goes on from
//! whichever was the last. So a control plane that is killed at any moment is in one step or in the next.
//!
//! | step | trusted | signs for sidecars | for the control plane itself |
//! |---|---|---|---|
//! | spreading | both | old | old, with the new root's word for it |
//! | renewing | both | new, with the old root's word for it | the same |
//! | over | new | new | new |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::resource::{self, Resource, ResourceType};
use meshwork_core::rotate::{Rotation, Step};
use meshwork_core::version::version;
use meshwork_identity::{Authority, AuthorityError};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Ca, Trust};
use crate::StartError;
use crate::sessions::Sessions;
use crate::store::{Expect, Key, Store, Transaction};
use crate::time::unix_seconds;

/// How often confirmations are looked at while the new root spreads. Then it takes a second or so.
const SPREAD_LOOK: Duration = Duration::from_millis(100);

/// The wall clock is looked at so often at least while the old root waits for its end.
const RENEW_LOOK: Duration = Duration::from_secs(10);

/// After a step that could not be written down.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The root that is to come.
pub(super) struct Replacement {
    rotation: Rotation,
    pub(super) authority: Authority,
    /// The new root's key, signed by the old one: for sidecars that know only that.
    pub(super) vouched_for: CertificateDer<'static>,
    /// The other way round: for who joins with a token of the new root.
    pub(super) vouches_for_old: CertificateDer<'static>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Record {
    rotation: Rotation,
    /// The new authority, in PEM.
    authority: String,
}

/// What `ca status` shows of a rotation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Going {
    pub(crate) rotation: Rotation,
    /// Connected sidecars that have not confirmed the new root.
    pub(crate) unconfirmed: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error("the root is being replaced already ({0}); see `meshwork ca status`")]
    Going(&'static str),
    #[error("the root cannot be replaced: {0}")]
    Failed(#[from] StartError),
}

/// The rotation that was going on when the store was last used.
pub(super) fn load(
    store: &Store,
    current: &Authority,
    now: SystemTime,
) -> Result<Option<Replacement>, StartError> {
    let Some(found) = store.get(&Key::rotation())? else { return Ok(None) };
    let record: Record = serde_json::from_slice(&found.value)
        .map_err(|_| AuthorityError::Damaged("the record of a rotation can't be read".to_owned()))?;
    let authority = Authority::from_pem(&record.authority)?;
    Ok(Some(Replacement::new(record.rotation, authority, current, now)?))
}

impl Replacement {
    fn new(
        rotation: Rotation,
        authority: Authority,
        current: &Authority,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let vouched_for = current.vouch_for(&authority, now)?;
        let vouches_for_old = authority.vouch_for(current, now)?;
        Ok(Self { rotation, authority, vouched_for, vouches_for_old })
    }

    /// Whether leaves are its own by now.
    pub(super) fn signs(&self) -> bool {
        match self.rotation {
            Rotation::Spreading { .. } => false,
            Rotation::Renewing { .. } => true,
        }
    }

    /// The same in another step.
    fn at(&self, rotation: Rotation) -> Result<Self, AuthorityError> {
        let authority = Authority::from_pem(&self.authority.to_pem())?;
        let (vouched_for, vouches_for_old) = (self.vouched_for.clone(), self.vouches_for_old.clone());
        Ok(Self { rotation, authority, vouched_for, vouches_for_old })
    }

    fn record(&self) -> Vec<u8> {
        let record = Record { rotation: self.rotation, authority: self.authority.to_pem() };
        // Numbers and texts always encode.
        serde_json::to_vec(&record).unwrap_or_default()
    }
}

impl Ca {
    /// Makes a new root and begins to tell of it.
    pub(crate) async fn rotate(&self) -> Result<(), RotateError> {
        let _unsigned = self.longest_leaf_end.lock().await;
        let trust = self.trust.load_full();
        if let Some(going) = &trust.replacement {
            return Err(RotateError::Going(stage(going.rotation)));
        }
        let now = SystemTime::now();
        let made = || -> Result<Replacement, StartError> {
            let authority = Authority::create(trust.current.trust_domain(), now)?;
            let rotation = Rotation::begin(unix_seconds(now));
            Ok(Replacement::new(rotation, authority, &trust.current, now)?)
        };
        let new = made()?;
        tracing::info!(root = %new.authority.root_key_hash(), "a new root: everybody is told of it first");
        let transaction =
            Transaction::default().expect(Key::rotation(), Expect::Absent).put(Key::rotation(), new.record());
        self.step_to(transaction, Trust::new(Arc::clone(&trust.current), Some(Arc::new(new)))?).await?;
        self.begun.notify_one();
        Ok(())
    }

    /// `None`: none is going on.
    pub(crate) fn going(&self, sessions: &Sessions) -> Option<Going> {
        let trust = self.trust.load();
        let rotation = trust.replacement.as_ref()?.rotation;
        Some(Going { rotation, unconfirmed: self.unconfirmed(&trust, sessions) })
    }

    /// Takes each step when it is due, until drained.
    pub(crate) async fn keep_rotating(self: Arc<Self>, sessions: Arc<Sessions>, drain: CancellationToken) {
        loop {
            let wait = match self.advance(&sessions, unix_seconds(SystemTime::now())).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%error, "the next step of replacing the root could not be taken; it is tried again");
                    Some(RETRY_PAUSE)
                }
            };
            let waited = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => self.begun.notified().await,
                }
            };
            tokio::select! {
                () = waited => {}
                () = drain.cancelled() => return,
            }
        }
    }

    /// Takes the step that is due; how long there is none, `None`: until somebody begins.
    async fn advance(&self, sessions: &Sessions, now: u64) -> Result<Option<Duration>, StartError> {
        let longest = self.longest_leaf_end.lock().await;
        let trust = self.trust.load_full();
        let Some(going) = &trust.replacement else { return Ok(None) };
        match going.rotation.step(self.unconfirmed(&trust, sessions), now) {
            Step::Wait { seconds } => {
                let look = if going.signs() { RENEW_LOOK } else { SPREAD_LOOK };
                return Ok(Some(Duration::from_secs(seconds).min(look)));
            }
            Step::Issue => {
                // Leaves that were signed when they lived longer count as long as they do.
                let leaf_seconds = self.leaf_ttl().as_secs().max(longest.saturating_sub(now));
                let new = going.at(Rotation::renewing(now, *longest, leaf_seconds))?;
                let transaction = Transaction::default()
                    .expect(Key::rotation(), Expect::Present)
                    .put(Key::rotation(), new.record());
                self.step_to(transaction, Trust::new(Arc::clone(&trust.current), Some(Arc::new(new)))?)
                    .await?;
                tracing::info!("the new root signs: sidecars renew their certificates soon");
            }
            Step::Retire => {
                let authority = Authority::from_pem(&going.authority.to_pem())?;
                let transaction = Transaction::default()
                    .expect(Key::rotation(), Expect::Present)
                    .put(Key::authority(), authority.to_pem().into_bytes())
                    .delete(Key::rotation());
                self.step_to(transaction, Trust::new(Arc::new(authority), None)?).await?;
                tracing::info!("the old root is retired: nothing that it signed is valid any more");
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Writes a step down, then acts on it. Only with `longest_leaf_end` held.
    async fn step_to(&self, transaction: Transaction, trust: Trust) -> Result<(), StartError> {
        self.store.commit(transaction).await.map_err(|error| StartError::Write(error.to_string()))?;
        self.trust.store(Arc::new(trust));
        // Our own certificate first: who is told of new roots may come at once.
        let renewed = self.renew_own();
        self.told.send_replace(self.trust.load().told());
        renewed
    }

    /// Connected sidecars that have not said that they took the bundle as it is now.
    fn unconfirmed(&self, trust: &Trust, sessions: &Sessions) -> usize {
        let bundle = resource::TrustBundle::from(&*trust.bundle);
        let view = self.views.get().map(|views| views.current());
        if view.is_none_or(|view| view.mesh.roots() != bundle.roots) {
            return sessions.all().len().max(1); // nobody can have been told yet
        }
        let wanted = version(&Resource::TrustBundle(bundle)).to_string();
        let confirmed = |stream: &crate::sessions::Stream| {
            stream.session().subscriptions().iter().any(|(reference, subscription)| {
                reference.resource_type == ResourceType::TrustBundle
                    && subscription.acknowledged() == Some(&*wanted)
            })
        };
        // gRPC asks for no bundle: its program finds the new one with the next certificate.
        sessions.all().iter().filter(|stream| stream.foreign().is_none() && !confirmed(stream)).count()
    }
}

/// Its word, as `ca status` says it.
pub(crate) fn stage(rotation: Rotation) -> &'static str {
    match rotation {
        Rotation::Spreading { .. } => "spreading",
        Rotation::Renewing { .. } => "renewing",
    }
}

#[cfg(test)]
mod tests;
