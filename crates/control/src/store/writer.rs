//! The one thread that writes. It takes every transaction that waits and commits them together: one
//! fsync for a burst of registrations instead of one each. Each transaction still succeeds or fails alone,
//! as its conditions are judged before it changes anything.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::{Database, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::file::{self, CHANGES, Line, META, VALUES};
use super::room::Room;
use super::{CommitError, Key, Transaction};

/// Transactions that share a commit. Enough to carry 10,000 registrations in well under a second, few
/// enough that nobody waits long for the one fsync at the end.
const TRANSACTIONS_MAX: usize = 256;

/// One resource's bytes. A hundred times what a large `HTTPRoute` has; etcd's limit is 1.5 MiB.
pub(super) const VALUE_BYTES_MAX: usize = 1 << 20;

/// Keys in all: ten times the mesh of 10,000 workloads that we claim.
const KEYS_MAX: u64 = 200_000;

pub(super) struct Commit {
    pub(super) transaction: Transaction,
    pub(super) answer: oneshot::Sender<Result<u64, CommitError>>,
}

/// Ends when every sender of `waiting` is gone.
pub(super) fn start(
    disk: Disk,
    waiting: mpsc::Receiver<Commit>,
    revision: watch::Sender<u64>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("store".to_owned()).spawn(move || write_all(&disk, waiting, &revision))
}

/// What is written to.
pub(super) struct Disk {
    pub(super) database: Arc<Database>,
    pub(super) room: Room,
    /// Revisions that the change log holds.
    pub(super) changes_kept: u64,
}

fn write_all(disk: &Disk, mut waiting: mpsc::Receiver<Commit>, revision: &watch::Sender<u64>) {
    let mut works = true;
    let mut group = Vec::with_capacity(TRANSACTIONS_MAX);
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < TRANSACTIONS_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            group.push(next);
        }
        let (transactions, answers): (Vec<_>, Vec<_>) =
            group.drain(..).map(|commit| (commit.transaction, commit.answer)).unzip();
        let results = write_group(disk, &transactions, revision);
        tell(&mut works, &results);
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever asked may have gone; the commit stands.
            let _ = answer.send(result);
        }
    }
}

type Results = Vec<Result<u64, CommitError>>;

/// Where all together cannot be written, each is tried alone: one that changes nothing needs no room.
fn write_group(disk: &Disk, transactions: &[Transaction], revision: &watch::Sender<u64>) -> Results {
    match write(disk, transactions) {
        Ok((results, reached)) => {
            revision.send_replace(reached);
            results
        }
        Err(_) if transactions.len() > 1 => transactions
            .iter()
            .flat_map(|transaction| write_group(disk, std::slice::from_ref(transaction), revision))
            .collect(),
        Err(error) => vec![Err(CommitError::Disk(error.to_string()))],
    }
}

/// Once when it stops working, once when it works again: whoever is refused is told by the answer.
fn tell(works: &mut bool, results: &Results) {
    let failed = results.iter().find_map(|result| match result {
        Err(CommitError::Disk(reason)) => Some(reason),
        _ => None,
    });
    match failed {
        Some(reason) if *works => tracing::error!(
            reason,
            "the store cannot be written: what is there is served on, changes are refused until there is room"
        ),
        None if !*works => tracing::info!("the store is written again"),
        Some(_) | None => {}
    }
    *works = failed.is_none();
}

/// Applies a group in one durable transaction of the file. An error means that none of it happened.
fn write(disk: &Disk, transactions: &[Transaction]) -> Result<(Results, u64), redb::Error> {
    let Disk { database, room, changes_kept } = disk;
    let file = database.begin_write()?;
    let mut results = Vec::with_capacity(transactions.len());
    let mut reached;
    {
        let mut meta = file.open_table(META)?;
        let before = file::revision(&meta)?;
        reached = before;
        let mut tables = Tables::open(&file)?;
        for transaction in transactions {
            results.push(match tables.judge(transaction)? {
                Err(refusal) => Err(refusal),
                Ok(()) => {
                    reached += u64::from(tables.apply(transaction, reached + 1)?);
                    Ok(reached)
                }
            });
        }
        if reached == before {
            drop((meta, tables));
            file.abort()?; // nothing changed: no fsync
            return Ok((results, before));
        }
        file::set_revision(&mut meta, reached)?;
        let start = file::log_start(&meta)?;
        let wanted = reached.saturating_sub(*changes_kept);
        if wanted > start {
            tables.changes.retain_in((0, 0)..=(wanted, u32::MAX), |_, _| false)?;
            file::set_log_start(&mut meta, wanted)?;
        }
    }
    // A write that fails would close the whole database, for readers too, so the room is there before it begins.
    if let Err(error) = room.reserve(transactions.iter().map(Transaction::bytes).sum()) {
        file.abort()?;
        return Err(redb::Error::Io(error));
    }
    file.commit()?;
    Ok((results, reached))
}

struct Tables<'t> {
    values: Table<'t, &'static str, (u64, &'static [u8])>,
    changes: Table<'t, (u64, u32), Line>,
}

impl<'t> Tables<'t> {
    fn open(file: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self { values: file.open_table(VALUES)?, changes: file.open_table(CHANGES)? })
    }

    /// Whether the transaction may be done, before any of it is.
    fn judge(&self, transaction: &Transaction) -> Result<Result<(), CommitError>, redb::Error> {
        for (key, expect) in &transaction.expectations {
            let found = self.values.get(key.as_str())?.map(|found| found.value().0);
            if let Some((expected, found)) = expect.refusal(found) {
                return Ok(Err(CommitError::Conflict { key: key.clone(), expected, found }));
            }
        }
        let mut added = 0;
        for (key, value) in &transaction.changes {
            let Some(value) = value else { continue };
            if value.len() > VALUE_BYTES_MAX {
                let (bytes, max) = (value.len(), VALUE_BYTES_MAX);
                return Ok(Err(CommitError::TooLarge { key: key.clone(), bytes, max }));
            }
            added += u64::from(self.values.get(key.as_str())?.is_none());
        }
        if added > 0 && self.values.len()? + added > KEYS_MAX {
            return Ok(Err(CommitError::Full { max: KEYS_MAX }));
        }
        Ok(Ok(()))
    }

    /// Returns whether anything changed; only then is `revision` taken.
    fn apply(&mut self, transaction: &Transaction, revision: u64) -> Result<bool, redb::Error> {
        // A key named twice: the last word counts, and the log tells it once.
        let last: BTreeMap<&Key, &Option<Vec<u8>>> =
            transaction.changes.iter().map(|(key, value)| (key, value)).collect();
        let mut place = 0;
        let mut changed = false;
        for (key, value) in last {
            let previous = self.values.get(key.as_str())?.map(|found| found.value().1.to_vec());
            if previous == *value {
                continue;
            }
            changed = true;
            match value {
                Some(value) => drop(self.values.insert(key.as_str(), (revision, value.as_slice()))?),
                None => drop(self.values.remove(key.as_str())?),
            }
            if key.is_logged() {
                let line = (key.as_str(), value.as_deref(), previous.as_deref());
                self.changes.insert((revision, place), line)?;
                place += 1;
            }
        }
        Ok(changed)
    }
}
