//! Opening the store's file: who may read it, whether it is whole, and whether we can read its format.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};

use super::StoreError;

/// Goes up when an older version could misread what a newer one wrote.
const FORMAT: u64 = 1;

/// Pages of the store that are held in memory, of which half may be such as are being written. Each change is appended to the
/// log, so this fills up with changes that nobody will ask for: the growth of a control plane's memory in its first hours.
/// What is read all the time are the newest pages and the upper levels of the trees, some hundred kilobytes; the rest is a
/// look into the system's own cache away. redb's default is a database server's 1 GiB.
const CACHE_BYTES_MAX: usize = 2 << 20;

/// Numbers about the store itself.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key -> (revision of its last change, value).
pub(super) const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
/// (revision, place in its transaction) -> (key, value, what was there before).
pub(super) const CHANGES: TableDefinition<'_, (u64, u32), Line> = TableDefinition::new("changes");

/// A line of the change log.
pub(super) type Line = (&'static str, Option<&'static [u8]>, Option<&'static [u8]>);

const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";
/// Everything after this revision is in the change log.
const LOG_START_KEY: &str = "log-start";

/// Opens or creates the file; returns its revision too.
pub(super) fn open(path: &Path) -> Result<(Database, u64), StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    // Made by us first, so that it never exists with more rights than 0600.
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .map_err(file_error)?;
    let mut database = Builder::new()
        .set_cache_size(CACHE_BYTES_MAX)
        // Reads the whole file once: a store that others rely on is not trusted by its header alone.
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(|error| explain(path, error))?;
    let revision = prepare(&database, path)?;
    // Only possible while nobody reads or writes; the file would else keep its largest size for ever.
    if let Err(error) = database.compact() {
        tracing::warn!(path = %path.display(), %error, "the store could not be compacted; it stays as large as it is");
    }
    Ok((database, revision))
}

pub(super) fn revision(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, StorageError> {
    Ok(meta.get(REVISION_KEY)?.map_or(0, |found| found.value()))
}

pub(super) fn log_start(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, StorageError> {
    Ok(meta.get(LOG_START_KEY)?.map_or(0, |found| found.value()))
}

pub(super) fn set_revision(
    meta: &mut redb::Table<'_, &'static str, u64>,
    to: u64,
) -> Result<(), StorageError> {
    meta.insert(REVISION_KEY, to).map(drop)
}

pub(super) fn set_log_start(
    meta: &mut redb::Table<'_, &'static str, u64>,
    to: u64,
) -> Result<(), StorageError> {
    meta.insert(LOG_START_KEY, to).map(drop)
}

/// Checks the format of a store that was there; makes the tables of a new one.
fn prepare(database: &Database, path: &Path) -> Result<u64, StoreError> {
    let damaged = |error: redb::Error| damaged(path, error);
    match found_format(database).map_err(damaged)? {
        Some(FORMAT) => {}
        Some(other) => {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
                found: other.to_string(),
                expected: FORMAT,
            });
        }
        None if has_tables(database).map_err(damaged)? => {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
                found: "of another program".to_owned(),
                expected: FORMAT,
            });
        }
        None => create_tables(database).map_err(damaged)?,
    }
    let read = || -> Result<u64, redb::Error> {
        let transaction = database.begin_read()?;
        // All tables are opened here once, so that a foreign one shows now and not at the first request.
        transaction.open_table(VALUES)?;
        transaction.open_table(CHANGES)?;
        Ok(revision(&transaction.open_table(META)?)?)
    };
    read().map_err(damaged)
}

fn found_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    Ok(database.begin_read()?.list_tables()?.next().is_some())
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, FORMAT)?;
        set_revision(&mut meta, 0)?;
        set_log_start(&mut meta, 0)?;
        transaction.open_table(VALUES)?;
        transaction.open_table(CHANGES)?;
    }
    Ok(transaction.commit()?)
}

fn explain(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        // What redb says of a file that is no database at all.
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != std::io::ErrorKind::InvalidData
                && source.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            StoreError::File { path, source }
        }
        other => StoreError::Damaged { path, detail: other.to_string() },
    }
}

fn damaged(path: &Path, error: redb::Error) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), detail: error.to_string() }
}
