//! The store: what must outlive the process, in one `redb` file with one writer.
//!
//! Three kinds of key live in it: intent (what operators declared), identity (mesh ID, authority, tokens,
//! virtual addresses) and registrations (what sidecars told of themselves; written on change, never on renewal).
//! Every transaction that changes something takes the next revision; a key remembers the revision of its last
//! change, which is the `resourceVersion` that operators see. Changes to intent and registrations are also
//! kept in a bounded log, from which a watch goes on at any revision that is still in it.
//!
//! That is what etcd offers too, so that another store can stand here later: revisions, compare-and-swap
//! over several keys, a log that ends somewhere. What the bytes mean is the callers' affair.
//!
//! | file | what |
//! |---|---|
//! | `backup.rs` | a copy of everything, and a store made of it |
//! | `file.rs` | opening: permissions, damage, format version |
//! | `key.rs` | keys and their prefixes |
//! | `room.rs` | room on the disk, taken before it is needed |
//! | `transaction.rs` | what one commit asks for, and what it may answer |
//! | `writer.rs` | the one thread that writes |

mod backup;
mod file;
mod key;
mod room;
mod transaction;
mod writer;

pub(crate) use backup::Backup;
pub use backup::{InvalidBackup, RestoreError};
pub(crate) use key::{Key, Prefix};
pub(crate) use transaction::{CommitError, Expect, Transaction};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::Metrics;
use file::{CHANGES, VALUES};
use room::Room;
use writer::{Commit, Disk};

/// Transactions that may wait for the writer. It commits what waits together, so a full queue means a
/// disk that is stuck; callers then wait, and an API request ends with their client's patience.
const COMMITS_WAITING_MAX: usize = 1_024;

/// Changes that one look into the log returns, so that a watch far behind costs bounded memory.
const CHANGES_READ_MAX: usize = 1_000;

/// A handle; cloning it is cheap. The file is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Store {
    database: Arc<Database>,
    commits: mpsc::Sender<Commit>,
    revision: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
}

/// Ends the writer when the store is closed: see [`Store::open`].
pub(crate) struct Writer(std::thread::JoinHandle<()>);

/// Why the store can't be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot create or read {path}: {source}; give a directory that this user may write")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path} is used by another process; stop the other control plane or choose another --state-dir")]
    InUse { path: PathBuf },
    #[error(
        "{path} is not a Meshwork store or is damaged ({detail}); restore it from a backup, or move it away to start an empty mesh"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "{path} has format {found}, this version of meshwork reads format {expected}; run the version that wrote it"
    )]
    Foreign { path: PathBuf, found: String, expected: u64 },
    #[error("the store cannot be read: {0}")]
    Read(String),
}

/// A value and the revisions of its first and last change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) value: Vec<u8>,
    pub(crate) revision: u64,
}

/// One line of the change log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    /// `None`: deleted.
    pub(crate) value: Option<Vec<u8>>,
    /// What stood there before; `None`: nothing.
    pub(crate) previous: Option<Vec<u8>>,
}

/// A stretch of the change log.
#[derive(Debug, PartialEq)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<Change>,
    /// The revision up to which this tells everything; ask on from here.
    pub(crate) through: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangesError {
    #[error(
        "revision {asked} is no longer in the change log, which begins after {oldest}; list again and watch from there"
    )]
    Gone { asked: u64, oldest: u64 },
    #[error("revision {asked} is not reached yet; the store is at {current}")]
    Ahead { asked: u64, current: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens or creates the store in `path` and starts its writer, which ends once every handle is
    /// dropped; [`Writer::ended`] waits for that.
    ///
    /// `changes_kept`: revisions that the change log holds.
    pub(crate) fn open(path: &Path, changes_kept: u64) -> Result<(Self, Writer), StoreError> {
        let (database, revision) = file::open(path)?;
        let database = Arc::new(database);
        let (commits, waiting) = mpsc::channel(COMMITS_WAITING_MAX);
        let (revision_sender, revision) = watch::channel(revision);
        let file_error = |source| StoreError::File { path: path.to_owned(), source };
        let room = Room::of(path).map_err(file_error)?;
        let disk = Disk { database: Arc::clone(&database), room, changes_kept };
        let thread = writer::start(disk, waiting, revision_sender).map_err(file_error)?;
        Ok((Self { database, commits, revision, metrics: Arc::default() }, Writer(thread)))
    }

    /// The same one; what this handle and its clones commit is counted.
    pub(crate) fn counted(self, metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), ..self }
    }

    /// Commits durably, all or nothing. Returns the store's revision after it.
    pub(crate) async fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        let (answer, answered) = oneshot::channel();
        let commit = Commit { transaction, answer };
        let result = match self.commits.send(commit).await {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Closed)),
            Err(_) => Err(CommitError::Closed),
        };
        self.metrics.committed(&result);
        result
    }

    /// Transactions that wait for the writer.
    pub(crate) fn waiting(&self) -> usize {
        self.commits.max_capacity() - self.commits.capacity()
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(VALUES)?;
            let found = table.get(key.as_str())?;
            Ok(found.map(|found| stored(key.clone(), found.value())))
        };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }

    /// Those that are there of some keys, and the revision of which this is the state.
    pub(crate) fn get_all<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<(BTreeMap<Key, Stored>, u64), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(VALUES)?;
            let mut values = BTreeMap::new();
            for key in keys {
                if let Some(found) = table.get(key.as_str())? {
                    values.insert(key.clone(), stored(key.clone(), found.value()));
                }
            }
            Ok((values, file::revision(&transaction.open_table(file::META)?)?))
        };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }

    /// Everything under `prefix` in the order of keys, and the revision of which this is the state.
    pub(crate) fn list(&self, prefix: &Prefix) -> Result<(Vec<Stored>, u64), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(VALUES)?;
            let mut values = Vec::new();
            for entry in table.range(prefix.as_str()..prefix.end().as_str())? {
                let (key, value) = entry?;
                values.push(stored(Key::read(key.value()), value.value()));
            }
            Ok((values, file::revision(&transaction.open_table(file::META)?)?))
        };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }

    /// The revision of the last commit.
    pub(crate) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Tells of each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.clone()
    }

    /// What changed under any of `prefixes` after revision `after`.
    pub(crate) fn changes(&self, after: u64, prefixes: &[Prefix]) -> Result<Changes, ChangesError> {
        let current = self.revision();
        if after > current {
            return Err(ChangesError::Ahead { asked: after, current });
        }
        self.read_changes(after, prefixes)
            .map_err(|error| StoreError::Read(error.to_string()))?
            .map_err(|oldest| ChangesError::Gone { asked: after, oldest })
    }

    /// The inner error is the oldest revision from which the log can still be told.
    fn read_changes(&self, after: u64, prefixes: &[Prefix]) -> Result<Result<Changes, u64>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(file::META)?;
        let oldest = file::log_start(&meta)?;
        if after < oldest {
            return Ok(Err(oldest));
        }
        let mut through = file::revision(&meta)?;
        let mut changes: Vec<Change> = Vec::new();
        for entry in transaction.open_table(CHANGES)?.range((after + 1, 0)..)? {
            let (place, line) = entry?;
            let revision = place.value().0;
            // Only whole revisions: what one transaction changed is told together.
            if changes.len() >= CHANGES_READ_MAX
                && changes.last().is_some_and(|last| last.revision < revision)
            {
                through = revision - 1;
                break;
            }
            let (key, value, previous) = line.value();
            if prefixes.iter().any(|prefix| prefix.contains(key)) {
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                let key = Key::read(key);
                changes.push(Change { revision, key, value: owned(value), previous: owned(previous) });
            }
        }
        Ok(Ok(Changes { changes, through }))
    }

    /// How many keys there are; for `status`.
    pub(crate) fn len(&self) -> Result<u64, StoreError> {
        let read =
            || -> Result<u64, redb::Error> { Ok(self.database.begin_read()?.open_table(VALUES)?.len()?) };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }

    /// Revisions that the change log holds now.
    pub(crate) fn logged(&self) -> Result<u64, StoreError> {
        let read = || -> Result<u64, redb::Error> {
            let meta = self.database.begin_read()?.open_table(file::META)?;
            Ok(file::revision(&meta)? - file::log_start(&meta)?)
        };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }
}

fn stored(key: Key, (revision, value): (u64, &[u8])) -> Stored {
    Stored { key, value: value.to_vec(), revision }
}

impl Writer {
    /// Waits until the last handle is gone and everything accepted is on the disk.
    pub(crate) async fn ended(self) {
        // A writer that panicked has answered its callers with `Closed` already: nothing more to tell.
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

#[cfg(test)]
mod tests;
