//! A backup of a control plane, checked, and put in the place of its store.

use std::path::{Path, PathBuf};

use meshwork_identity::Authority;

use crate::store::{Backup, InvalidBackup, Key, RestoreError};

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub mesh_id: String,
    pub trust_domain: String,
    /// The store's, as of which it is.
    pub revision: u64,
    pub keys: usize,
}

/// Whether these bytes are a whole backup, and of what.
pub fn check_backup(bytes: &[u8]) -> Result<Summary, RestoreError> {
    summary(&Backup::read(bytes)?)
}

/// Puts a backup's store into a control plane's state directory, which no control plane may use meanwhile. Where the
/// store is kept that was there before; `None`: there was none.
pub fn restore(state_dir: &Path, bytes: &[u8]) -> Result<(Summary, Option<PathBuf>), RestoreError> {
    let backup = Backup::read(bytes)?;
    let summary = summary(&backup)?;
    crate::make_state_dir(state_dir).map_err(|error| RestoreError::File {
        what: "use the state directory",
        path: state_dir.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let kept = backup.restore(&state_dir.join(crate::STORE_FILE))?;
    Ok((summary, kept))
}

/// A store without its authority would found another mesh.
fn summary(backup: &Backup) -> Result<Summary, RestoreError> {
    let text = |key: &Key| backup.value(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let authority = text(&Key::authority()).ok_or(InvalidBackup::Damaged)?;
    let authority =
        Authority::from_pem(&authority).map_err(|error| RestoreError::Authority(error.to_string()))?;
    Ok(Summary {
        mesh_id: text(&Key::mesh_id()).ok_or(InvalidBackup::Damaged)?,
        trust_domain: authority.trust_domain().to_owned(),
        revision: backup.revision,
        keys: backup.keys(),
    })
}
