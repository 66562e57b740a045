//! The Huffman code of HPACK (RFC 7541, 5.2 and appendix B).
//!
//! The code is canonical: among codes of one length symbols come in order, and longer codes follow shorter ones. So
//! the lengths below are all there is to know, and both tables are made from them when this file is compiled.
//!
//! Decoding looks up ten bits at a time, which settles every letter, digit and common sign at once. The rest, up to
//! 30 bits long, is found by comparing with where each length's codes end.

use super::DecodeError;

/// By symbol; the last one is the end of the string, which a sender may never write.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // control characters
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // space to '/'
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // '0' to '?'
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // '@' to 'O'
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 'P' to '_'
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // '`' to 'o'
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 'p' to delete
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 128 and on
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The end of the string.
const END: u16 = 256;
const LONGEST: usize = 30;
/// Codes up to here are found with one look: 1,024 entries of two bytes stay in the first cache.
const SHORT: usize = 10;

static CODES: Codes = Codes::new();

struct Codes {
    /// By symbol, the code in the low bits.
    code: [u32; 257],
    /// By the next ten bits: symbol, and length above it; 0 where the code is longer.
    short: [u16; 1 << SHORT],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the first code, and its place in `symbols`.
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    /// By length: where its codes end, as 30 bits from the left.
    end: [u32; LONGEST + 1],
}

impl Codes {
    const fn new() -> Self {
        let mut codes = Self {
            code: [0; 257],
            short: [0; 1 << SHORT],
            symbols: [0; 257],
            first: [0; LONGEST + 1],
            place: [0; LONGEST + 1],
            end: [0; LONGEST + 1],
        };
        let (mut length, mut next, mut place) = (1, 0, 0);
        while length <= LONGEST {
            codes.first[length] = next;
            codes.place[length] = place;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    codes.add(symbol, length, next, place as usize);
                    next += 1;
                    place += 1;
                }
                symbol += 1;
            }
            codes.end[length] = next << (LONGEST - length);
            next <<= 1;
            length += 1;
        }
        codes
    }

    const fn add(&mut self, symbol: usize, length: usize, code: u32, place: usize) {
        self.code[symbol] = code;
        self.symbols[place] = symbol as u16;
        if length <= SHORT {
            let (mut bits, end) =
                ((code as usize) << (SHORT - length), (code as usize + 1) << (SHORT - length));
            while bits < end {
                self.short[bits] = ((length as u16) << 8) | symbol as u16;
                bits += 1;
            }
        }
    }

    /// The symbol that the bits begin with, and its length.
    fn long(&self, bits: u64) -> (u16, u32) {
        let bits = (bits >> (64 - LONGEST)) as u32;
        let mut length = SHORT + 1;
        // The last length's codes end with 30 one bits, so there is always one to be found.
        while length < LONGEST && bits >= self.end[length] {
            length += 1;
        }
        let above = (bits >> (LONGEST - length)) - self.first[length];
        let symbol = self.symbols[usize::from(self.place[length]) + above as usize];
        (symbol, length as u32)
    }
}

/// The bytes that `text` takes when it is coded.
pub(super) fn encoded_length(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // Fewer than 32 bits wait before a code of at most 30 is added.
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let symbol = usize::from(*byte);
        let length = u32::from(LENGTHS[symbol]);
        bits = (bits << length) | u64::from(CODES.code[symbol]);
        count += length;
        if count >= 32 {
            count -= 32;
            out.extend_from_slice(&((bits >> count) as u32).to_be_bytes());
        }
    }
    // The rest, and ones to the byte's end: the beginning of the end-of-string symbol.
    let padding = (8 - count % 8) % 8;
    bits = (bits << padding) | ((1 << padding) - 1);
    count += padding;
    let rest = (bits << (64 - count).min(63)).to_be_bytes();
    out.extend_from_slice(&rest[..count as usize / 8]);
}

/// Appends what `coded` says.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = out.len();
    // The shortest code has five bits. All room is made at once, so the loop checks nothing but the slice's end.
    out.resize(start + coded.len() * 8 / 5, 0);
    let written = decode_into(coded, &mut out[start..]);
    out.truncate(start + written.unwrap_or(0));
    written.map(|_| ())
}

fn decode_into(mut coded: &[u8], out: &mut [u8]) -> Result<usize, DecodeError> {
    // The next bits from the left; below the `count` of them that are known stand ones once the input has ended.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut written = 0;
    loop {
        if count < LONGEST as u32 {
            (bits, count) = refill(bits, count, &mut coded);
        }
        let short = CODES.short[(bits >> (64 - SHORT)) as usize];
        let (symbol, length) = match short {
            0 => CODES.long(bits),
            short => (short & 0xff, u32::from(short >> 8)),
        };
        if length > count {
            return if bits == u64::MAX && count < 8 {
                Ok(written)
            } else {
                Err(DecodeError::HuffmanPadding)
            };
        }
        if symbol == END {
            return Err(DecodeError::HuffmanEndOfString);
        }
        out[written] = symbol as u8;
        written += 1;
        bits <<= length;
        count -= length;
        if coded.is_empty() {
            bits |= ones_below(count);
        }
    }
}

/// At least 56 bits, or all that are left with ones behind them.
fn refill(mut bits: u64, mut count: u32, coded: &mut &[u8]) -> (u64, u32) {
    if let Some(word) = coded.first_chunk::<8>() {
        bits |= u64::from_be_bytes(*word) >> count;
        let taken = (64 - count) / 8;
        *coded = &coded[taken as usize..];
        count += taken * 8;
        // What was read of a byte that is not taken comes again.
        return (bits & !ones_below(count), count);
    }
    while count <= 56 {
        let Some((byte, rest)) = coded.split_first() else { break };
        bits |= u64::from(*byte) << (56 - count);
        count += 8;
        *coded = rest;
    }
    if coded.is_empty() { (bits | ones_below(count), count) } else { (bits, count) }
}

fn ones_below(count: u32) -> u64 {
    u64::MAX.checked_shr(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        assert_eq!(out.len(), encoded_length(text));
        out
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut out = b"before".to_vec();
        decode(coded, &mut out)?;
        assert_eq!(&out[..6], b"before");
        Ok(out.split_off(6))
    }

    #[test]
    fn codes_of_the_rfc() {
        // Appendix B: the first and last code of some lengths.
        for (symbol, length, code) in [
            (usize::from(b'0'), 5, 0x0),
            (usize::from(b't'), 5, 0x9),
            (usize::from(b' '), 6, 0x14),
            (usize::from(b':'), 7, 0x5c),
            (usize::from(b'Z'), 8, 0xfd),
            (usize::from(b'{'), 15, 0x7ffe),
            (usize::from(b'\\'), 19, 0x7fff0),
            (255, 26, 0x3ff_ffee),
            (249, 28, 0xfff_fffe),
            (10, 30, 0x3fff_fffc),
            (22, 30, 0x3fff_fffe),
            (256, 30, 0x3fff_ffff),
        ] {
            assert_eq!((u32::from(LENGTHS[symbol]), CODES.code[symbol]), (length, code), "symbol {symbol}");
        }
    }

    #[test]
    fn every_symbol_comes_back_at_every_place_in_a_byte() {
        for symbol in 0..=255_u8 {
            for before in 0..8 {
                let mut text = vec![b'a'; before];
                text.push(symbol);
                text.extend_from_slice(b"zz");
                text.push(symbol);
                assert_eq!(decoded(&coded(&text)), Ok(text));
            }
        }
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&coded(&all)), Ok(all));
        assert_eq!(decoded(b""), Ok(Vec::new()));
    }

    #[test]
    fn padding_is_fewer_than_eight_ones() {
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[0b0001_1110]), Err(DecodeError::HuffmanPadding));
        assert_eq!(decoded(&[0b0001_1000]), Err(DecodeError::HuffmanPadding));
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(DecodeError::HuffmanPadding));
        assert_eq!(decoded(&[0xff]), Err(DecodeError::HuffmanPadding));
        assert_eq!(decoded(&[0xff; 3]), Err(DecodeError::HuffmanPadding));
    }

    #[test]
    fn the_end_of_the_string_is_never_written() {
        assert_eq!(decoded(&[0xff; 4]), Err(DecodeError::HuffmanEndOfString));
        assert_eq!(decoded(&[0x1f, 0xff, 0xff, 0xff, 0xff]), Err(DecodeError::HuffmanEndOfString));
        assert_eq!(decoded(&[0xff; 40]), Err(DecodeError::HuffmanEndOfString));
    }
}
