//! Integers with a prefix (RFC 7541, 5.1), and the input that they are read from.

use super::DecodeError;

/// Bytes behind the prefix. Five carry 35 bits, more than any length or index of ours; without a bound
/// a sender could write one number through a whole block.
const CONTINUATION_BYTES_MAX: u32 = 5;

/// What is left of a block.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An integer whose first byte holds `prefix` bits of it (1 to 8); the bits above are the caller's.
    pub(super) fn integer(&mut self, prefix: u32) -> Result<usize, DecodeError> {
        let mask = prefix_mask(prefix);
        let value = self.byte()? & mask;
        if value < mask { Ok(usize::from(value)) } else { self.continuation(u64::from(mask)) }
    }

    fn continuation(&mut self, mut value: u64) -> Result<usize, DecodeError> {
        for place in 0..CONTINUATION_BYTES_MAX {
            let byte = self.byte()?;
            value += u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return match u32::try_from(value) {
                    Ok(value) => Ok(value as usize),
                    Err(_) => Err(DecodeError::IntegerOverflow),
                };
            }
        }
        Err(DecodeError::IntegerOverflow)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }
}

/// Appends `value` with `pattern` in the bits above its prefix.
pub(super) fn write(pattern: u8, prefix: u32, value: usize, out: &mut Vec<u8>) {
    let mask = prefix_mask(prefix);
    debug_assert_eq!(pattern & mask, 0, "the pattern lies in the prefix");
    if value < usize::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn prefix_mask(prefix: u32) -> u8 {
    debug_assert!((1..=8).contains(&prefix));
    0xff >> (8 - prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: u32, value: usize, expect: &[u8]) {
        let mut out = Vec::new();
        write(0, prefix, value, &mut out);
        assert_eq!(out, expect);
        assert_eq!(Input::new(expect).integer(prefix), Ok(value));
        for cut in 0..expect.len() {
            assert_eq!(Input::new(&expect[..cut]).integer(prefix), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn integers_of_the_rfc() {
        check(5, 10, &[0x0a]);
        check(5, 1337, &[0x1f, 0x9a, 0x0a]);
        check(8, 42, &[0x2a]);
    }

    #[test]
    fn integers_at_the_edges() {
        check(7, 126, &[0x7e]);
        check(7, 127, &[0x7f, 0x00]);
        check(4, 15 + 127, &[0x0f, 0x7f]);
        check(4, 15 + 128, &[0x0f, 0x80, 0x01]);
        check(8, u32::MAX as usize, &[0xff, 0x80, 0xfe, 0xff, 0xff, 0x0f]);
    }

    #[test]
    fn what_no_sender_needs_is_refused() {
        let too_large: [&[u8]; 3] = [
            &[0xff, 0x81, 0xfe, 0xff, 0xff, 0x0f],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ];
        for bytes in too_large {
            assert_eq!(Input::new(bytes).integer(8), Err(DecodeError::IntegerOverflow));
        }
    }

    #[test]
    fn bits_above_the_prefix_are_not_its() {
        let mut out = Vec::new();
        write(0x40, 6, 3, &mut out);
        assert_eq!(out, [0x43]);
        assert_eq!(Input::new(&out).integer(6), Ok(3));
    }
}
