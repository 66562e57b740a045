//! xxHash64 (XXH64 of the xxHash specification, 0.8): where a key lies on a ring or in a table.
//!
//! Envoy hashes the same way, so that an Envoy and a sidecar send one key to one endpoint. It resists no adversary, and need
//! not: who chooses a key chooses for itself where it goes.

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// Bytes that four lanes take at once.
const STRIPE: usize = 32;

pub(crate) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = bytes.split_at(bytes.len() / STRIPE * STRIPE);
    let mut hash = if stripes.is_empty() { seed.wrapping_add(PRIMES[4]) } else { of_stripes(stripes, seed) };
    hash = hash.wrapping_add(bytes.len() as u64);
    let mut eights = rest.chunks_exact(8);
    for eight in &mut eights {
        hash ^= round(0, number(eight));
        hash = hash.rotate_left(27).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]);
    }
    let mut fours = eights.remainder().chunks_exact(4);
    for four in &mut fours {
        hash ^= number(four).wrapping_mul(PRIMES[0]);
        hash = hash.rotate_left(23).wrapping_mul(PRIMES[1]).wrapping_add(PRIMES[2]);
    }
    for byte in fours.remainder() {
        hash ^= u64::from(*byte).wrapping_mul(PRIMES[4]);
        hash = hash.rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    avalanche(hash)
}

fn of_stripes(stripes: &[u8], seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(PRIMES[0]).wrapping_add(PRIMES[1]),
        seed.wrapping_add(PRIMES[1]),
        seed,
        seed.wrapping_sub(PRIMES[0]),
    ];
    for stripe in stripes.chunks_exact(STRIPE) {
        for (lane, eight) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
            *lane = round(*lane, number(eight));
        }
    }
    let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, by)| lane.rotate_left(by));
    let sum = turned.fold(0_u64, u64::wrapping_add);
    lanes
        .iter()
        .fold(sum, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]))
}

fn round(lane: u64, input: u64) -> u64 {
    lane.wrapping_add(input.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIMES[1]);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIMES[2]);
    hash ^ (hash >> 32)
}

/// Little end first; at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reference implementation (python-xxhash, which wraps it) says.
    #[test]
    fn the_hash_is_the_published_one() {
        let check = |text: &str, unseeded, seeded| {
            assert_eq!(
                (xxh64(text.as_bytes(), 0), xxh64(text.as_bytes(), 1)),
                (unseeded, seeded),
                "{text:?}"
            );
        };
        check("", 0xef46_db37_51d8_e999, 0xd5af_ba13_36a3_be4b);
        check("a", 0xd24e_c4f1_a98c_6e5b, 0xdec2_bc81_c3cd_46c6);
        check("abc", 0x44bc_2cf5_ad77_0999, 0xbea9_ca81_9932_8908);
        check("127.0.0.1:8080_17", 0xa38a_fbb4_d88c_72a7, 0xa9aa_27b7_7364_3764);
        check("01234567890123456789012345678901", 0xe5cc_9f41_1ea1_10ba, 0x4893_9576_40ae_5a11);
        check("012345678901234567890123456789012", 0x14c5_04c8_0731_f0bd, 0x2949_c5a3_b599_9d4e);
    }

    /// Every length below 200, each with a seed of its own, folded into one number by the reference implementation.
    #[test]
    fn every_length_is_hashed_as_published() {
        let folded = (0..200_u64).fold(0_u64, |folded, length| {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            folded.wrapping_mul(31).wrapping_add(xxh64(&bytes, length))
        });
        assert_eq!(folded, 0x8dd8_5384_0a7e_fdfe);
    }
}
