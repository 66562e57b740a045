//! FNV-1a, 128 bits: the same hash in every process, on every machine.

use std::hash::Hasher;

/// A text's hash, the same in every process and every version: addresses are derived from it.
pub(crate) fn hash_of(text: &str) -> u128 {
    let mut hasher = Fnv128::default();
    hasher.write(text.as_bytes());
    hasher.0
}

/// FNV-1a, 128 bits. Chosen for being short and fixed by its definition. It resists no adversary, and need
/// not: whoever can choose a resource's content could as well leave it unchanged.
pub(crate) struct Fnv128(pub(crate) u128);

impl Default for Fnv128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hasher for Fnv128 {
    fn write(&mut self, bytes: &[u8]) {
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }

    // The provided methods write native byte order and width: replaced, each and all.
    fn write_u8(&mut self, i: u8) {
        self.write(&[i]);
    }

    fn write_u16(&mut self, i: u16) {
        self.write(&i.to_le_bytes());
    }

    fn write_u32(&mut self, i: u32) {
        self.write(&i.to_le_bytes());
    }

    fn write_u64(&mut self, i: u64) {
        self.write(&i.to_le_bytes());
    }

    fn write_u128(&mut self, i: u128) {
        self.write(&i.to_le_bytes());
    }

    fn write_usize(&mut self, i: usize) {
        self.write_u64(i as u64);
    }

    fn write_i8(&mut self, i: i8) {
        self.write_u8(i.cast_unsigned());
    }

    fn write_i16(&mut self, i: i16) {
        self.write_u16(i.cast_unsigned());
    }

    fn write_i32(&mut self, i: i32) {
        self.write_u32(i.cast_unsigned());
    }

    fn write_i64(&mut self, i: i64) {
        self.write_u64(i.cast_unsigned());
    }

    fn write_i128(&mut self, i: i128) {
        self.write_u128(i.cast_unsigned());
    }

    fn write_isize(&mut self, i: isize) {
        self.write_i64(i as i64);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // From the test vectors of RFC 9923 (FNV-1a, 128 bits): "" and "a".
        assert_eq!(Fnv128::default().0, 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        let mut hasher = Fnv128::default();
        hasher.write(b"a");
        assert_eq!(hasher.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
