//! The worker's buffers. A connection borrows one while bytes are in it and gives it back as soon as
//! they are gone, so a thousand idle connections hold none.

use std::cell::RefCell;

/// Read in one go: what a socket usually has at most, and four TLS records.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers kept for the next taker. A turn of the loop needs a handful (one read, its plaintext, a
/// write or two); more than that is a burst whose memory is better given back.
const SPARE_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Buffers {
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer with room for [`BUFFER_BYTES`].
    pub(crate) fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back; one of another size is freed, so that one large head or burst does not stay.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() == BUFFER_BYTES && spare.len() < SPARE_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    }
}
