//! A quick hash of names and fields, by which the encoder finds what is in its tables.
//!
//! It need not withstand somebody who makes values collide: the tables have few entries, and what is found is compared.
//! Names hash alike in any case, because HTTP/1 heads bring them as they were typed.

/// 2^64 divided by the golden ratio: its bits are spread evenly.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// The bit in which a letter's cases differ. Other characters fall together too; that costs a comparison.
const CASE: u64 = 0x2020_2020_2020_2020;

/// Of a name in any case. Constant, so that tables of names are made by the compiler.
pub(super) const fn name(name: &[u8]) -> u64 {
    text(name.len() as u64, name, CASE)
}

/// Of a field, whose name was hashed already.
pub(super) const fn field(name: u64, value: &[u8]) -> u64 {
    text(name.rotate_left(23) ^ value.len() as u64, value, 0)
}

const fn text(seed: u64, mut text: &[u8], case: u64) -> u64 {
    let mut hash = seed;
    while let Some((word, rest)) = text.split_first_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*word) | case);
        text = rest;
    }
    mix(hash, tail(text) | case)
}

/// Fewer than eight bytes as one word; the length is in the seed.
const fn tail(text: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32;
    }
    match text {
        [] => 0,
        _ => text[0] as u64 | (text[text.len() / 2] as u64) << 8 | (text[text.len() - 1] as u64) << 16,
    }
}

/// The high bits depend on all that went in; they are folded into the low ones, which the tables look at.
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    product ^ (product >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_names_case_does_not_matter_but_a_values_does() {
        for text in ["x", "TE", "Age", "Host", "Accept", "X-Request-Id", "Sec-WebSocket-Key"] {
            assert_eq!(name(text.as_bytes()), name(text.to_ascii_lowercase().as_bytes()), "{text}");
            let value = |value: &str| field(name(b"x"), value.as_bytes());
            assert_ne!(value(text), value(&text.to_ascii_uppercase().replace(text, "other")), "{text}");
        }
        assert_ne!(field(1, b"Gzip"), field(1, b"gzip"));
    }

    #[test]
    fn every_byte_and_the_length_count() {
        for length in 0..40 {
            let text = vec![b'a'; length];
            let hash = field(0, &text);
            assert_ne!(hash, field(0, &vec![b'a'; length + 1]));
            for changed in 0..length {
                let mut other = text.clone();
                other[changed] = b'b';
                assert_ne!(hash, field(0, &other), "byte {changed} of {length}");
            }
        }
    }
}
