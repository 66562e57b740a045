//! Quick hashes of names and fields, by which the encoder finds what is in its tables, and names compared in any case.
//!
//! Eight bytes at a time: a head's names are hashed and compared for every request, and byte by byte that was a third
//! of the time that a head took to be written.
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

/// Whether `name`, in any case, is `lower`, which is in lower case.
pub(super) fn same_name(name: &[u8], lower: &[u8]) -> bool {
    if name.len() != lower.len() {
        return false;
    }
    let (Some(last), Some(lower_last)) = (name.last_chunk::<8>(), lower.last_chunk::<8>()) else {
        return lower_case(tail(name)) == tail(lower);
    };
    let words = name.as_chunks::<8>().0.iter().zip(lower.as_chunks::<8>().0);
    // The last word overlaps the one before it where the length is no multiple of eight.
    words
        .chain([(last, lower_last)])
        .all(|(word, lower)| lower_case(u64::from_le_bytes(*word)) == u64::from_le_bytes(*lower))
}

/// Eight ASCII characters in lower case; bytes above 127 stay.
fn lower_case(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (EACH * 0x7f);
    // The top bit of each byte says whether it is at least `A`, or beyond `Z`. No sum runs over into the next byte.
    let from_a = low + EACH * (0x80 - b'A' as u64);
    let beyond_z = low + EACH * (0x7f - b'Z' as u64);
    let upper = (from_a ^ beyond_z) & !word & (EACH * 0x80);
    word | (upper >> 2)
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
    fn names_are_compared_in_any_case() {
        for byte in 0..=255_u8 {
            for length in 1..24 {
                for at in 0..length {
                    let mut name = vec![b'-'; length];
                    name[at] = byte;
                    assert!(same_name(&name, &name.to_ascii_lowercase()), "{name:?}");
                    let mut other = name.to_ascii_lowercase();
                    other[at] ^= 0x20;
                    assert_eq!(same_name(&name, &other), name.to_ascii_lowercase() == other, "{name:?}");
                    assert!(!same_name(&name, &name[1..]));
                }
            }
        }
        assert!(same_name(b"", b""));
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
