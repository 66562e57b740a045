//! Room on the disk, taken before it is needed.
//!
//! The store's file is sparse, and a full disk shows only when a page is written. By then it is too late: the database
//! trusts nothing that it holds any more, and reads nothing until it is opened again. So the room that a commit may
//! need is taken before the commit begins. If there is none the change is refused, and everything else goes on; as soon
//! as there is, the next change is taken.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

/// What a commit writes beside the values: pages of four trees, copied on write, and regions' headers.
const COMMIT_BYTES: u64 = 2 << 20;

/// A value is written as such, into the change log as the new one, and once more as the one before.
const COPIES: u64 = 3;

/// The store's file, for its blocks alone.
pub(super) struct Room(File);

impl Room {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// For a commit of so many bytes of values. An error: it must not begin.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<()> {
        let wanted = COMMIT_BYTES + bytes * COPIES;
        let length = self.0.metadata()?.len();
        loop {
            // Holes inside the file are filled, and so much behind its end is taken, which stays where it is.
            return match fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length + wanted) {
                Ok(()) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.look(wanted),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// On file systems that cannot take it beforehand.
    fn look(&self, wanted: u64) -> io::Result<()> {
        let disk = fstatvfs(&self.0)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) >= wanted {
            Ok(())
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}
