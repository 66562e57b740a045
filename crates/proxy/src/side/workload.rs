//! The workload's name: `<service>-<6 hexadecimal digits>`, drawn once and kept in the state directory, so that
//! a restarted sidecar is the same workload.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "workload";
const DIGITS: usize = 6;

#[derive(Debug, thiserror::Error)]
#[error("can't keep the workload's name in {}: {source}; check that the state directory belongs to this user", .path.display())]
pub(crate) struct WorkloadNameError {
    path: PathBuf,
    source: io::Error,
}

/// The kept one if it is this service's, else a new one made of `random`.
pub(crate) fn name(state_dir: &Path, service: &str, random: u64) -> Result<String, WorkloadNameError> {
    let path = state_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(kept) if is_name(kept.trim(), service) => return Ok(kept.trim().to_owned()),
        Ok(_) => {} // another service's, or damaged: a new name costs nothing
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(WorkloadNameError { path, source }),
    }
    let name = format!("{service}-{:06x}", random & 0xff_ffff);
    write(&path, &name).map_err(|source| WorkloadNameError { path, source })?;
    Ok(name)
}

fn is_name(text: &str, service: &str) -> bool {
    let digits = text.strip_prefix(service).and_then(|rest| rest.strip_prefix('-'));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn write(path: &Path, name: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_for_its_service() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(name(dir.path(), "cart", 0xffff_ff00_00ab).unwrap(), "cart-0000ab");
        assert_eq!(name(dir.path(), "cart", 7).unwrap(), "cart-0000ab");
        assert_eq!(name(dir.path(), "car", 7).unwrap(), "car-000007");
        fs::write(dir.path().join(FILE), "cart-zzzzzz").unwrap();
        assert_eq!(name(dir.path(), "cart", 1).unwrap(), "cart-000001");
        let error = name(&dir.path().join("absent"), "cart", 1).unwrap_err().to_string();
        assert!(error.contains("state directory"), "{error}");
    }
}
