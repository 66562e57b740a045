//! Where state lives on this machine, and who may use it.
//!
//! Root keeps it below `/var/lib/meshwork`, everyone else below `$XDG_STATE_HOME/meshwork` or
//! `~/.local/state/meshwork`: `control/` for the control plane, `sidecars/<namespace>.<service>[-N]/` for sidecars.
//! A sidecar's directory is its workload's identity, so two processes never share one: it is locked for as long
//! as the process lives, and without `--state-dir` the first free directory is taken. That is why replicas on one
//! machine need no flag, and why a restarted workload finds its certificate again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Replicas of one service on one machine that find a directory by themselves. Far above what one
/// machine runs; met only when something starts sidecars in a loop.
const REPLICAS_MAX: usize = 256;

/// Held by the running sidecar.
const LOCK_FILE: &str = "sidecar.lock";

#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    #[error("no place for state: neither XDG_STATE_HOME nor HOME is set; give --state-dir")]
    NoHome,
    #[error("cannot use the state directory {path}: {source}; give another one with --state-dir")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the state directory {0} is in use by another sidecar; give this one its own with --state-dir")]
    InUse(PathBuf),
    #[error("all {REPLICAS_MAX} state directories of this service are in use; give --state-dir")]
    AllInUse,
}

/// A sidecar's directory, ours until this value is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) path: PathBuf,
    /// The lock goes when the file is closed, whatever ends the process.
    _lock: File,
}

/// The control plane's directory.
pub(crate) fn control(given: Option<&Path>) -> Result<PathBuf, StateDirError> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => Ok(base()?.join("control")),
    }
}

/// Takes a sidecar's directory: the given one, or the first that is free.
pub(crate) fn claim(given: Option<&Path>, namespace: &str, service: &str) -> Result<Claim, StateDirError> {
    if let Some(path) = given {
        return claim_one(path)?.ok_or_else(|| StateDirError::InUse(path.to_owned()));
    }
    let parent = base()?.join("sidecars");
    for replica in 1..=REPLICAS_MAX {
        // Neither part of the name can hold a dot, so two services never meet in one directory.
        let name = match replica {
            1 => format!("{namespace}.{service}"),
            _ => format!("{namespace}.{service}.{replica}"),
        };
        if let Some(claim) = claim_one(&parent.join(name))? {
            return Ok(claim);
        }
    }
    Err(StateDirError::AllInUse)
}

/// Directories of this user's sidecars that run at present. Takes none.
pub(crate) fn held_by_sidecars() -> Vec<PathBuf> {
    let Ok(parent) = base().map(|base| base.join("sidecars")) else { return Vec::new() };
    let Ok(directories) = fs::read_dir(parent) else { return Vec::new() };
    let held = |path: &PathBuf| {
        let lock = File::open(path.join(LOCK_FILE));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    };
    directories.flatten().map(|directory| directory.path()).filter(held).collect()
}

/// `None`: another process holds it.
fn claim_one(path: &Path) -> Result<Option<Claim>, StateDirError> {
    let unusable = |source| StateDirError::Unusable { path: path.to_owned(), source };
    // 0700: keys live here.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK_FILE));
    let lock = lock.map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Claim { path: path.to_owned(), _lock: lock })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn base() -> Result<PathBuf, StateDirError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/meshwork"));
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    Ok(state.ok_or(StateDirError::NoHome)?.join("meshwork"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = claim(Some(&path), "default", "cart").unwrap();
        assert!(matches!(claim(Some(&path), "default", "cart"), Err(StateDirError::InUse(_))));
        drop(first);
        assert_eq!(claim(Some(&path), "default", "cart").unwrap().path, path);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let claim = claim(Some(&dir.path().join("s")), "default", "cart").unwrap();
        assert_eq!(fs::metadata(&claim.path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
