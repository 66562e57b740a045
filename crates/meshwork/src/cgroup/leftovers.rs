//! What runs left that were killed with -9: cgroups in which processes may still run, and tables that capture them.
//!
//! First the processes, then the rules: whoever outlived its sidecar is refused every connection until it is ended, and
//! nothing leaves in clear. What belongs to somebody who lives, or whom we can't judge, is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use meshwork_core::capture::TableName;

use super::{CgroupError, Owner, Standing, find_place, remove};
use crate::capture::kernel::{self, KernelError};
use crate::capture::network::{Claim, NetworkError};

/// Cgroups that are looked at. Above what a busy machine has; past it the rest is not found, and said so.
const CGROUPS_MAX: usize = 65_536;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LeftoverError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Ends and removes all of it in this network namespace; says what it was.
pub(crate) fn clear() -> Result<(), LeftoverError> {
    // Without cgroup v2 nothing can be left of it.
    if let Ok(place) = find_place() {
        for path in cgroups(&place.mount) {
            match owner(&path).filter(|owner| owner.standing() == Standing::Gone) {
                Some(owner) if owner.is_of_this_network() => {
                    remove(&path)?;
                    tracing::info!(cgroup = %path.display(), "removed what a run left that was killed");
                }
                // Of a network where its rules may still hold: only if nobody is in it, and then nobody else needs it.
                Some(_) => drop(fs::remove_dir(&path)),
                None => {}
            }
        }
    }
    for table in kernel::tables()? {
        // Of a whole namespace, which is free if nobody holds it. (Its processes are not ours to end: in a container they
        // went with it, elsewhere they were refused until now.)
        if table == TableName::of_run()
            && let Some(_claim) = Claim::try_take()?
        {
            kernel::remove(&table)?;
            tracing::info!(%table, "removed the rules and routes of a run that was killed");
        }
        if Owner::of(table.as_str()).is_some_and(|owner| owner.standing() == Standing::Gone) {
            kernel::remove(&table)?;
            tracing::info!(%table, "removed the rules and routes of a run that was killed");
        }
    }
    Ok(())
}

fn owner(path: &Path) -> Option<Owner> {
    Owner::of(path.file_name()?.to_str()?)
}

/// All directories below `root` that bear an owner's name; what is below those is theirs.
fn cgroups(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting, mut seen) = (Vec::new(), vec![root.to_owned()], 0);
    while let Some(directory) = waiting.pop() {
        seen += 1;
        if seen > CGROUPS_MAX {
            tracing::warn!(
                "there are more than {CGROUPS_MAX} cgroups: what killed runs left may be among the others"
            );
            break;
        }
        // One that is gone meanwhile has nothing below.
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        for path in entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
        {
            if owner(&path).is_some() {
                found.push(path);
            } else {
                waiting.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bears_an_owners_name_is_found_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let ours = [root.path().join("meshwork_1_2_3_4"), root.path().join("a/b/meshwork_1_2_3_5")];
        for path in ours.iter().chain(&[root.path().join("a/c"), ours[0].join("meshwork_5_6_7_8")]) {
            fs::create_dir_all(path).unwrap();
        }
        let mut found = cgroups(root.path());
        found.sort();
        let mut expect = ours.to_vec();
        expect.sort();
        assert_eq!(found, expect);
    }
}
