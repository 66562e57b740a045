//! For `crates/fuzz` alone: what this crate reads of others' bytes and shows nobody.

use crate::preamble;

pub use crate::side::kept::fuzzing::{Kept, read_kept};

/// Writes what opens an opaque connection between sidecars.
pub fn write_preamble(app_port: u16, out: &mut Vec<u8>) {
    preamble::write(app_port, out);
}

/// The application's port and the bytes that it took; `None`: more bytes are needed.
pub fn read_preamble(bytes: &[u8]) -> Result<Option<(u16, usize)>, String> {
    match preamble::read(bytes) {
        Ok(read) => Ok(read.map(|preamble| (preamble.app_port, preamble.consumed))),
        Err(error) => Err(error.to_string()),
    }
}
