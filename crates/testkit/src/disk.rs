//! A small disk, to be filled by a test: a `tmpfs` in a mount namespace of its own, so that nothing of this machine is
//! mounted over, and nothing stays behind.
//!
//! Others reach it through `/proc/<pid>/root` of the process that holds the namespace.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const FILLER: &str = "filler";

/// Mounts it, says so, and holds it until its standard input ends.
const HOLD: &str = r#"mount -t tmpfs -o "size=$2k,mode=0700" tmpfs "$1" && echo mounted && exec cat"#;

/// Dropped, it is gone with all that is on it.
pub struct SmallDisk {
    holder: Child,
    path: PathBuf,
    _mounted_on: TempDir,
}

impl SmallDisk {
    /// # Panics
    /// If this machine lets nobody mount one: neither root nor, in a user namespace, others.
    pub fn new(kib: u32) -> Self {
        let mounted_on = tempfile::tempdir().expect("a directory to mount it on");
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", HOLD, "sh"]).arg(mounted_on.path()).arg(kib.to_string());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut holder = spawned.unwrap_or_else(|error| panic!("cannot run unshare (util-linux): {error}"));
        let mut said = String::new();
        let out = holder.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("it says something");
        assert_eq!(said.trim(), "mounted", "this machine lets the test mount no tmpfs of its own");
        let inside = mounted_on.path().strip_prefix("/").expect("temporary directories have whole paths");
        let path = PathBuf::from(format!("/proc/{}/root", holder.id())).join(inside);
        Self { holder, path, _mounted_on: mounted_on }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A state directory on it.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn directory(&self) -> TempDir {
        tempfile::tempdir_in(&self.path).expect("a directory on the small disk")
    }

    /// To the last byte.
    ///
    /// # Panics
    /// If it can't be written for another reason.
    pub fn fill(&self) {
        let mut file = File::create(self.path.join(FILLER)).expect("the filler");
        loop {
            match file.write(&[1; 4_096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("cannot fill the small disk: {error}"),
            }
        }
    }

    /// There is room again.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn make_room(&self) {
        fs::remove_file(self.path.join(FILLER)).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
