//! A copy of the store as it is at one revision, as bytes; and a store made of it again.
//!
//! All keys with the revisions of their last change, the number of the format before, SHA-256 of everything behind.
//! The change log is not in it: a watch that goes on afterwards is told to list again.
//!
//! A store is restored beside its place, read back, and only then put there, in one step; one that was there is kept
//! under another name. So a restore that fails, or is killed at any moment, leaves what was there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::file::{self, META, VALUES};
use super::{Store, StoreError};

const MAGIC: &[u8] = b"meshwork-backup\n";

/// Goes up when an older version could misread what a newer one wrote.
const FORMAT: u32 = 1;

/// Stores that were replaced and are kept. Whoever restores more often has looked at the first ones.
const KEPT_MAX: usize = 100;

/// What stands at one key.
type Record = (String, u64, Vec<u8>);

/// A backup that was read, and is whole.
pub(crate) struct Backup {
    pub(crate) revision: u64,
    records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidBackup {
    #[error("that is no backup of a control plane")]
    Foreign,
    #[error(
        "the backup has format {found}, this version of meshwork reads format {FORMAT}; use the version that wrote it"
    )]
    Format { found: u32 },
    #[error("the backup is damaged: it is cut short, or its checksum is wrong; use another one")]
    Damaged,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Backup(#[from] InvalidBackup),
    #[error("the backup holds no certificate authority ({0}); use another one")]
    Authority(String),
    #[error("{0} is in use: stop the control plane before its store is replaced")]
    InUse(PathBuf),
    #[error("cannot {what} {path}: {source}; what was there is unchanged")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the restored store could not be made: {0}; what was there is unchanged")]
    Store(#[from] StoreError),
    #[error("the restored store is not what the backup holds; what was there is unchanged")]
    NotTheSame,
}

impl Store {
    /// Everything as of one revision, while others go on writing.
    pub(crate) fn backup(&self) -> Result<Vec<u8>, StoreError> {
        let read = || -> Result<Vec<u8>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let revision = file::revision(&transaction.open_table(META)?)?;
            let values = transaction.open_table(VALUES)?;
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&FORMAT.to_be_bytes());
            bytes.extend_from_slice(&revision.to_be_bytes());
            bytes.extend_from_slice(&values.len()?.to_be_bytes());
            for entry in values.iter()? {
                let (key, value) = entry?;
                let (changed, value) = value.value();
                put(&mut bytes, key.value().as_bytes());
                bytes.extend_from_slice(&changed.to_be_bytes());
                put(&mut bytes, value);
            }
            let hash = digest(&SHA256, &bytes);
            bytes.extend_from_slice(hash.as_ref());
            Ok(bytes)
        };
        read().map_err(|error| StoreError::Read(error.to_string()))
    }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    // A value has a MiB at most (`writer.rs`).
    bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(part);
}

impl Backup {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, InvalidBackup> {
        let body = bytes.strip_prefix(MAGIC).ok_or(InvalidBackup::Foreign)?;
        let (format, _) = body.split_first_chunk().ok_or(InvalidBackup::Damaged)?;
        match u32::from_be_bytes(*format) {
            FORMAT => {}
            found => return Err(InvalidBackup::Format { found }),
        }
        let end = bytes.len().checked_sub(SHA256_OUTPUT_LEN).ok_or(InvalidBackup::Damaged)?;
        let (content, hash) = bytes.split_at(end);
        if digest(&SHA256, content).as_ref() != hash {
            return Err(InvalidBackup::Damaged);
        }
        let rest = content.get(MAGIC.len() + size_of::<u32>()..).ok_or(InvalidBackup::Damaged)?;
        let mut parts = Parts(rest);
        let (revision, count) = (parts.number()?, parts.number()?);
        let mut records = Vec::new();
        for _ in 0..count {
            let key = String::from_utf8(parts.bytes()?.to_vec()).map_err(|_| InvalidBackup::Damaged)?;
            records.push((key, parts.number()?, parts.bytes()?.to_vec()));
        }
        if parts.0.is_empty() { Ok(Self { revision, records }) } else { Err(InvalidBackup::Damaged) }
    }

    pub(crate) fn value(&self, key: &super::Key) -> Option<&[u8]> {
        self.records.iter().find(|(found, ..)| found == key.as_str()).map(|(.., value)| &**value)
    }

    pub(crate) fn keys(&self) -> usize {
        self.records.len()
    }

    /// Puts a store of it at `path`. Where the one is that was there before; `None`: there was none.
    pub(crate) fn restore(&self, path: &Path) -> Result<Option<PathBuf>, RestoreError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| RestoreError::File { what, path, source }
        };
        let _held = hold(path)?;
        let fresh = path.with_extension("redb.restoring");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove what an earlier restore left in", &fresh)(error));
            }
            Ok(()) | Err(_) => {}
        }
        self.write(&fresh)?;
        self.compare(&fresh)?;
        let kept = keep(path).map_err(failed("keep the store that is there,", path))?;
        fs::rename(&fresh, path).map_err(failed("put the restored store at", path))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("write the directory", directory))?;
        Ok(kept)
    }

    fn write(&self, path: &Path) -> Result<(), RestoreError> {
        let (database, _) = file::open(path)?;
        let write = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut values = transaction.open_table(VALUES)?;
                for (key, changed, value) in &self.records {
                    values.insert(key.as_str(), (*changed, value.as_slice()))?;
                }
                let mut meta = transaction.open_table(META)?;
                file::set_revision(&mut meta, self.revision)?;
                // The log begins here: whoever asks for what was before lists again.
                file::set_log_start(&mut meta, self.revision)?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| StoreError::Read(error.to_string()).into())
    }

    /// Reads back what was written, as a control plane would.
    fn compare(&self, path: &Path) -> Result<(), RestoreError> {
        let (database, revision) = file::open(path)?;
        let read = || -> Result<Vec<Record>, redb::Error> {
            let values = database.begin_read()?.open_table(VALUES)?;
            let mut records = Vec::new();
            for entry in values.iter()? {
                let (key, value) = entry?;
                let (changed, value) = value.value();
                records.push((key.value().to_owned(), changed, value.to_vec()));
            }
            Ok(records)
        };
        let records = read().map_err(|error| StoreError::Read(error.to_string()))?;
        let same = revision == self.revision && records == self.records;
        if same { Ok(()) } else { Err(RestoreError::NotTheSame) }
    }
}

/// Keeps control planes out of the store that is there, until dropped.
fn hold(path: &Path) -> Result<Option<File>, RestoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RestoreError::File { what: "open", path: path.to_owned(), source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(RestoreError::InUse(path.to_owned())),
        Err(fs::TryLockError::Error(source)) => {
            Err(RestoreError::File { what: "lock", path: path.to_owned(), source })
        }
    }
}

/// A second name for the store that is there; the first one is about to be another's.
fn keep(path: &Path) -> io::Result<Option<PathBuf>> {
    for number in 1..=KEPT_MAX {
        let kept = path.with_extension(format!("redb.replaced-{number}"));
        match fs::hard_link(path, &kept) {
            Ok(()) => return Ok(Some(kept)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{KEPT_MAX} replaced stores are kept already; remove some")))
}

struct Parts<'b>(&'b [u8]);

impl<'b> Parts<'b> {
    fn number(&mut self) -> Result<u64, InvalidBackup> {
        let (number, rest) = self.0.split_first_chunk().ok_or(InvalidBackup::Damaged)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    fn bytes(&mut self) -> Result<&'b [u8], InvalidBackup> {
        let (length, rest) = self.0.split_first_chunk().ok_or(InvalidBackup::Damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (bytes, rest) = rest.split_at_checked(length).ok_or(InvalidBackup::Damaged)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

    use super::super::{ChangesError, Expect, Key, Prefix, Transaction};
    use super::*;

    async fn filled(dir: &Path) -> (Store, super::super::Writer) {
        let (store, writer) = Store::open(&dir.join("mesh.redb"), 100).unwrap();
        for name in ["cart", "web", "cart"] {
            let value = format!("{name} {}", store.revision()).into_bytes();
            store
                .commit(Transaction::default().put(Key::intent("Service", "default", name), value))
                .await
                .unwrap();
        }
        store.commit(Transaction::default().put(Key::mesh_id(), b"m1".to_vec())).await.unwrap();
        (store, writer)
    }

    #[tokio::test]
    async fn a_restored_store_is_the_one_that_was_copied() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, _writer) = filled(dir.path()).await;
        let bytes = store.backup().unwrap();
        // What is written meanwhile is not in it.
        store.commit(Transaction::default().put(Key::mesh_id(), b"later".to_vec())).await.unwrap();
        let backup = Backup::read(&bytes).unwrap();
        assert_eq!((backup.revision, backup.value(&Key::mesh_id())), (4, Some(&b"m1"[..])));
        let path = other.path().join("mesh.redb");
        assert_eq!(backup.restore(&path).unwrap(), None);
        let (restored, _writer) = Store::open(&path, 100).unwrap();
        assert_eq!(restored.backup().unwrap(), bytes);
        let gone = restored.changes(3, &[Prefix::all_intent()]);
        assert!(matches!(gone, Err(ChangesError::Gone { .. })), "{gone:?}");
        let key = Key::intent("Service", "default", "cart");
        let next = Transaction::default().expect(key.clone(), Expect::Revision(3)).put(key, b"x".to_vec());
        assert_eq!(restored.commit(next).await, Ok(5), "and it goes on from there");
    }

    #[tokio::test]
    async fn a_damaged_backup_is_refused_wherever_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = filled(dir.path()).await.0.backup().unwrap();
        for cut in 0..bytes.len() {
            assert!(Backup::read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 1;
            assert!(Backup::read(&spoiled).is_err(), "spoiled at {at}");
        }
        assert_eq!(Backup::read(b"PK").err(), Some(InvalidBackup::Foreign));
        let mut newer = bytes;
        newer[MAGIC.len() + 3] = 2;
        assert_eq!(Backup::read(&newer).err(), Some(InvalidBackup::Format { found: 2 }));
    }

    #[tokio::test]
    async fn a_store_in_use_is_not_replaced_and_one_that_is_replaced_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.redb");
        let (store, writer) = filled(dir.path()).await;
        let backup = Backup::read(&store.backup().unwrap()).unwrap();
        assert!(matches!(backup.restore(&path), Err(RestoreError::InUse(_))));
        store.commit(Transaction::default().put(Key::mesh_id(), b"later".to_vec())).await.unwrap();
        drop(store);
        writer.ended().await;
        let kept = backup.restore(&path).unwrap().unwrap();
        let mesh_id = |path: &Path| {
            let (store, _) = Store::open(path, 100).unwrap();
            store.get(&Key::mesh_id()).unwrap().unwrap().value
        };
        assert_eq!((mesh_id(&path), mesh_id(&kept)), (b"m1".to_vec(), b"later".to_vec()));
    }

    /// Whoever looks, or dies, at any moment between has the one store or the other.
    #[tokio::test]
    async fn the_one_store_takes_the_others_place_in_a_single_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.redb");
        let (store, writer) = filled(dir.path()).await;
        let backup = Backup::read(&store.backup().unwrap()).unwrap();
        drop(store);
        writer.ended().await;
        let seen = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MODIFY | WatchFlags::MOVE;
        inotify::add_watch(&seen, dir.path(), changes).unwrap();
        backup.restore(&path).unwrap();

        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut events = inotify::Reader::new(&seen, &mut buffer);
        let mut of_store = Vec::new();
        while let Ok(event) = events.next() {
            if event.file_name() == Some(c"mesh.redb") {
                of_store.push(event.events());
            }
        }
        assert_eq!(of_store, [ReadFlags::MOVED_TO]);
    }

    #[tokio::test]
    async fn a_restore_that_was_killed_leaves_what_was_there_and_the_next_one_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.redb");
        let (store, writer) = filled(dir.path()).await;
        let bytes = store.backup().unwrap();
        drop(store);
        writer.ended().await;
        // Killed while the new one was written, and after the old one got its second name.
        fs::write(path.with_extension("redb.restoring"), b"half of a store").unwrap();
        keep(&path).unwrap().unwrap();
        let (store, writer) = Store::open(&path, 100).unwrap();
        assert_eq!(store.backup().unwrap(), bytes, "a control plane that starts then finds its own");
        drop(store);
        writer.ended().await;
        let backup = Backup::read(&bytes).unwrap();
        let kept = backup.restore(&path).unwrap().unwrap();
        assert!(kept.ends_with("mesh.redb.replaced-2"), "{kept:?}");
        assert!(!path.with_extension("redb.restoring").exists());
    }
}
