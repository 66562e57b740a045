//! Files that others read and that only mean something together (a key and its certificate), replaced all at once.
//!
//! They stand in a directory of their own for each version, and the names by which they are known are symbolic links
//! through one: `key.pem` -> `..data/key.pem`, `..data` -> `..3f9a…`. A new version is written whole and then `..data` is
//! renamed onto, which also is the one event that whoever watches the directory (Envoy, by `watched_directory`) sees. It
//! is how Kubernetes publishes secrets, so that programs know how to follow it. The version before stays, for readers who
//! are in the middle of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;

use crate::private_file;

/// The link that is renamed onto.
const CURRENT: &str = "..data";
/// How the directories of versions begin, as Kubernetes has it.
const VERSION_PREFIX: &str = "..";

/// Makes `files` (name, content) those of `directory`, under the version's name, all at once. `version` says what is in
/// them: the same one again changes nothing.
pub(crate) fn publish(directory: &Path, version: &str, files: &[(&str, &str)]) -> io::Result<()> {
    let version = format!("{VERSION_PREFIX}{version}");
    let before = fs::read_link(directory.join(CURRENT)).ok();
    let differs = before.as_deref() != Some(Path::new(&version));
    if differs {
        write(&directory.join(&version), files)?;
        link(directory, CURRENT, Path::new(&version))?;
    }
    for (name, _) in files {
        let target = Path::new(CURRENT).join(name);
        if fs::read_link(directory.join(name)).ok().as_ref() != Some(&target) {
            link(directory, name, &target)?;
        }
    }
    File::open(directory)?.sync_all()?;
    if differs {
        remove_older(directory, &[Some(version.into()), before.map(|before| before.into_os_string())])?;
    }
    Ok(())
}

/// A directory that only its owner may look into.
fn write(place: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    // Left behind by a crash perhaps, with nobody to say how far it got.
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    DirBuilder::new().mode(0o700).create(place)?;
    for (name, content) in files {
        private_file::replace(&place.join(name), |file| file.write_all(content.as_bytes()))?;
    }
    Ok(())
}

/// In the place of whatever is called so.
fn link(directory: &Path, name: &str, target: &Path) -> io::Result<()> {
    let temporary = directory.join(format!("{VERSION_PREFIX}{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(target, &temporary)?;
    fs::rename(&temporary, directory.join(name))
}

fn remove_older(directory: &Path, kept: &[Option<OsString>]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let version = name.to_str().is_some_and(|name| name.starts_with(VERSION_PREFIX));
        if version && entry.file_type()?.is_dir() && !kept.contains(&Some(name)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn version(number: u32) -> [(&'static str, String); 2] {
        [("key.pem", format!("key {number}")), ("certificate.pem", format!("certificate {number}"))]
    }

    fn put(directory: &Path, number: u32) {
        let [(key, one), (certificate, other)] = &version(number);
        publish(directory, &format!("v{number}"), &[(key, one), (certificate, other)]).unwrap();
    }

    fn number(text: &str) -> u32 {
        text.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn plain_files_are_replaced_by_links_and_old_versions_go() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key.pem"), "of an earlier release").unwrap();
        for number in 1..=4 {
            put(directory.path(), number);
            put(directory.path(), number);
            assert_eq!(
                fs::read_to_string(directory.path().join("key.pem")).unwrap(),
                format!("key {number}")
            );
        }
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["..data", "..v3", "..v4", "certificate.pem", "key.pem"]);
        let mode = fs::metadata(directory.path().join("..data")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    /// Whoever resolves the link once, as one who watches the directory does, has a pair, however often it is replaced.
    #[test]
    fn a_reader_never_sees_a_key_with_anothers_certificate() {
        const SEEN: u32 = 50;
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), 1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut last, mut seen) = (0, 0);
                while seen < SEEN {
                    let current =
                        directory.path().join(fs::read_link(directory.path().join(CURRENT)).unwrap());
                    let read = |name| fs::read_to_string(current.join(name)).map(|text| number(&text));
                    // Two replacements since it looked: it is told that the files are gone, and looks again.
                    let (Ok(key), Ok(certificate)) = (read("key.pem"), read("certificate.pem")) else {
                        continue;
                    };
                    assert_eq!(key, certificate);
                    assert!(key >= last, "{key} after {last}");
                    seen += u32::from(key > last);
                    last = key;
                }
            });
            let mut number = 1;
            // It may have ended by failing.
            while !reader.is_finished() {
                number += 1;
                put(directory.path(), number);
            }
        });
    }
}
