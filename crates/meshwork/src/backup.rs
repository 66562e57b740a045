//! `meshwork backup` and `meshwork restore`: a copy of the control plane's store in a file, and back.
//!
//! A copy is asked of the running control plane, checked, and written whole or not at all, for its owner alone: it
//! holds the mesh's keys. Restoring needs no control plane, and none may run on the state directory.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use meshwork_control::Summary;
use meshwork_identity::private_file;

use crate::cli::{BackupArgs, RestoreArgs};
use crate::output::print_text;
use crate::{BoxError, login, state_dir};

/// A backup's size, as much as a control plane answers with.
const FILE_BYTES_MAX: u64 = 128 << 20;

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes, more than a backup can have ({FILE_BYTES_MAX})", .path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
}

pub(crate) async fn backup(args: &BackupArgs) -> Result<(), BoxError> {
    let client = login::client(&args.reach)?;
    let bytes = client.get_bytes("/api/v1/backup").await?;
    let summary = meshwork_control::check_backup(&bytes)?;
    let failed = |source| BackupError::Write { path: args.file.clone(), source };
    let path = std::path::absolute(&args.file).map_err(failed)?;
    private_file::replace(&path, |file| file.write_all(&bytes)).map_err(failed)?;
    print_text(&format!(
        "{} written: {}; whoever reads it has the mesh's keys",
        args.file.display(),
        told(&summary)
    ))?;
    Ok(())
}

pub(crate) fn restore(args: &RestoreArgs) -> Result<(), BoxError> {
    let bytes = read(&args.file)?;
    let state_dir = state_dir::control(args.state.state_dir.as_deref())?;
    let (summary, kept) = meshwork_control::restore(&state_dir, &bytes)?;
    let kept = kept.map_or(String::new(), |kept| format!("; the store before it is {}", kept.display()));
    print_text(&format!("{} restored: {}{kept}", state_dir.display(), told(&summary)))?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, BackupError> {
    let failed = |source| BackupError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(BackupError::TooLarge { path: path.to_owned(), bytes });
    }
    fs::read(path).map_err(failed)
}

fn told(summary: &Summary) -> String {
    let Summary { mesh_id, trust_domain, revision, keys } = summary;
    format!("mesh {mesh_id} ({trust_domain}) at revision {revision}, {keys} keys")
}
