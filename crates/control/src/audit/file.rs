//! The audit log's file: for its owner alone, appended to, set aside when it is long, and bounded in all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Of one file: some 30,000 writes. Then it becomes `audit.log.1`.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Files, the one that is written among them. With 32 MiB in all nobody need look after them; whoever must keep more
/// gathers the log's lines.
const FILES_MAX: usize = 4;

pub(super) struct AuditFile {
    path: PathBuf,
    bytes_max: u64,
    /// With how much is in it; `None`: not opened yet, or given up after an error.
    open: Option<(File, u64)>,
}

impl AuditFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, bytes_max: FILE_BYTES_MAX, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn append(&mut self, line: &str) -> io::Result<()> {
        let (mut file, length) = match self.open.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        let after = length + line.len() as u64;
        if length > 0 && after > self.bytes_max {
            drop(file);
            self.set_aside()?;
            return self.append(line);
        }
        file.write_all(line.as_bytes())?;
        self.open = Some((file, after));
        Ok(())
    }

    /// `audit.log` becomes `audit.log.1`, that one `.2`, and so on; the oldest goes.
    fn set_aside(&self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..FILES_MAX - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // One that was there may be open to others.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn lines_are_appended_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, "before\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut file = AuditFile::new(path.clone());
        file.append("one\n").unwrap();
        file.append("two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_long_file_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut file = AuditFile { bytes_max: 6, ..AuditFile::new(path.clone()) };
        for number in 0..10 {
            file.append(&format!("{number}1\n{number}2\n")).unwrap();
        }
        assert_eq!(names(dir.path()), ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "91\n92\n");
        assert_eq!(fs::read_to_string(dir.path().join("audit.log.3")).unwrap(), "61\n62\n");
    }

    #[test]
    fn one_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-there").join("audit.log");
        let mut file = AuditFile::new(path.clone());
        assert!(file.append("lost\n").is_err());
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.append("kept\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
