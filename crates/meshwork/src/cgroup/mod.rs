//! A cgroup v2 for one command and all that it starts: made, emptied, removed.
//!
//! | file | what |
//! |---|---|
//! | `place.rs` | where on this machine, and how nftables is told: pure |
//! | `owner.rs` | whose it is, by its name |
//! | `leftovers.rs` | what runs left that were killed |
//!
//! Rules keep the inode of a cgroup, not its path: it is made before they are loaded, and never made again under its name.
//! A process that is in it stays in it with all its children, unless root moves them; only then are sockets matched.

pub(crate) mod leftovers;
mod owner;
mod place;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshwork_core::capture::{CgroupPath, Scope};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use owner::{Owner, Standing};
pub(crate) use place::{Place, PlaceError};

/// Killed processes are gone at once but for those that wait for a disk or a network file system. Past it what is left
/// stays captured, and the next start tries again.
const EMPTY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("cannot read {path}: {source}; is /proc mounted?")]
    Proc { path: &'static str, source: io::Error },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(
        "cannot make the cgroup {}: {source}; run meshwork as root where cgroup v2 is writable, or give --capture=explicit",
        .path.display()
    )]
    Make { path: PathBuf, source: io::Error },
    #[error("the kernel is too old: it has no {}, so it can't end a whole cgroup; use 5.14 or later", .0.display())]
    TooOld(PathBuf),
    #[error("nftables has no way to write the path of the cgroup {}", .0.display())]
    Path(PathBuf),
    #[error(
        "cannot remove the cgroup {}: {source}; what runs there stays captured, and the next start tries again",
        .path.display()
    )]
    Remove { path: PathBuf, source: io::Error },
}

/// Where a cgroup of this process goes.
pub(crate) fn find_place() -> Result<Place, CgroupError> {
    let read = |path| fs::read_to_string(path).map_err(|source| CgroupError::Proc { path, source });
    Ok(place::place(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?)
}

/// Whoever makes it removes it; what is killed before that leaves it to `leftovers.rs`.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    nft_path: CgroupPath,
    level: u32,
}

impl Cgroup {
    /// Makes one that is empty.
    pub(crate) fn make(place: &Place, name: &str) -> Result<Self, CgroupError> {
        let path = place.directory.join(name);
        let nft_path = place.nft_path(name).ok_or_else(|| CgroupError::Path(path.clone()))?;
        fs::create_dir(&path).map_err(|source| CgroupError::Make { path: path.clone(), source })?;
        let made = Self { path, nft_path, level: place.level + 1 };
        let kill = made.path.join("cgroup.kill");
        if !kill.exists() {
            made.remove()?;
            return Err(CgroupError::TooOld(kill));
        }
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How rules name it.
    pub(crate) fn scope(&self) -> Scope {
        Scope::Cgroup { path: self.nft_path.clone(), level: self.level }
    }

    /// Ends what runs there, and removes it.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        remove(&self.path)
    }
}

/// Kills everything in the cgroup, waits until nothing is left, and removes it with what is below. No cgroup: nothing to do.
fn remove(path: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Remove { path: path.to_owned(), source };
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => wait_until_empty(path).map_err(failed)?,
        // The cgroup is gone, or the kernel knows no such file: then it must be empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    remove_directories(path).map_err(failed)
}

/// The kernel tells of a change by an exceptional event on this file.
fn wait_until_empty(path: &Path) -> io::Result<()> {
    let begun = Instant::now();
    let name = path.join("cgroup.events");
    let file = fs::File::open(&name)?;
    loop {
        // Read by its name: what is read once through a descriptor is not news any more.
        if fs::read_to_string(&name)?.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let left = EMPTY_MAX.checked_sub(begun.elapsed());
        let Some(left) = left else {
            let what =
                format!("processes in it have not ended {} s after they were killed", EMPTY_MAX.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        };
        // At most a tick: between the reading and the waiting it may have changed.
        let tick = Timespec::try_from(left.min(Duration::from_millis(10))).unwrap_or_default();
        poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&tick))?;
    }
}

/// A command may have made cgroups of its own in it. Files of a cgroup go with it.
fn remove_directories(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Removed, also if a test fails.
    struct Made(Cgroup);

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = self.0.remove();
        }
    }

    /// One of our own, or a word why not.
    fn made(name: &str) -> Option<Made> {
        let place = find_place().ok().filter(|_| rustix::process::geteuid().is_root());
        assert!(place.is_some() || std::env::var_os("CI").is_none(), "cgroups need root and cgroup v2");
        if place.is_none() {
            println!("NOT CHECKED: cgroups need root and cgroup v2");
        }
        let name = format!("{}_{name}", Owner::this().unwrap().name());
        Some(Made(Cgroup::make(&place?, &name).unwrap()))
    }

    #[test]
    fn what_runs_in_it_ends_with_it_children_and_cgroups_of_its_own_included() {
        let Some(made) = made("remove") else { return };
        let cgroup = &made.0;
        let inner = cgroup.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let script = "echo 0 > $0/cgroup.procs; sleep 300 & echo in; wait";
        let mut shells: Vec<_> = [cgroup.path(), &inner]
            .into_iter()
            .map(|path| {
                let mut shell =
                    Command::new("sh").args(["-c", script]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
                let mut said = [0; 3];
                io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut said).unwrap();
                shell
            })
            .collect();
        let processes = fs::read_to_string(cgroup.path().join("cgroup.procs")).unwrap();
        assert_eq!(processes.lines().count(), 2, "{processes}");
        cgroup.remove().unwrap();
        assert!(!cgroup.path().exists());
        for shell in &mut shells {
            assert!(!shell.wait().unwrap().success());
        }
        cgroup.remove().unwrap(); // and again: nothing to do
    }

    #[test]
    fn one_is_never_made_where_one_is() {
        let Some(made) = made("twice") else { return };
        let cgroup = &made.0;
        let name = cgroup.path().file_name().unwrap().to_str().unwrap();
        let error = Cgroup::make(&find_place().unwrap(), name).unwrap_err();
        assert!(
            matches!(&error, CgroupError::Make { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
        );
        cgroup.remove().unwrap();
    }
}
