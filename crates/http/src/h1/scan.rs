//! Which bytes the parts of a head may hold (RFC 9110, 5.5 and 5.6.2), and quick loops over them.
//!
//! A head's bytes are nearly all in values, so these are looked at eight at a time.

/// One true for each byte that a token may hold: names, methods, options.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// How many bytes from the start are of a token.
pub(crate) fn token_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !TOKEN[b as usize]).unwrap_or(bytes.len())
}

pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_length(bytes) == bytes.len()
}

/// A field's name as HTTP/2 has it (RFC 9113, 8.2.1).
pub(crate) fn is_lower_token(bytes: &[u8]) -> bool {
    // A fold without an early end: names are short, and nearly all are good.
    let good = bytes.iter().fold(true, |good, &b| good & TOKEN[b as usize] & !b.is_ascii_uppercase());
    good && !bytes.is_empty()
}

/// How many bytes from the start a field's value may hold: all but control bytes; a tab is allowed.
pub(crate) fn value_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        // Tabs raise the alarm, too, though a value may hold them.
        if has_control(u64::from_le_bytes(*eight))
            && let Some(offset) = eight.iter().position(|&b| is_control(b))
        {
            return at + offset;
        }
        at += 8;
    }
    let rest = &bytes[at..];
    at + rest.iter().position(|&b| is_control(b)).unwrap_or(rest.len())
}

fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') || b == 0x7f
}

/// Whether one of the eight bytes is below 0x20 or is 0x7f. (A byte below n borrows from its top bit
/// when n is taken away; exact for "is there one", which is all that is asked.)
fn has_control(eight: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let below_space = eight.wrapping_sub(ONES * 0x20) & !eight & TOPS;
    let delete = eight ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete & TOPS;
    (below_space | is_delete) != 0
}

/// Whether all bytes may stand in a request target: visible ASCII without `#`, which begins a fragment
/// and is never sent. (Wider than RFC 3986: browsers send `|` and `{` raw, and nobody splits there.)
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    // A fold without an early end: the compiler turns it into vector code.
    let bad = bytes.iter().fold(false, |bad, &b| bad | !(0x21..=0x7e).contains(&b) | (b == b'#'));
    !bad && !bytes.is_empty()
}

/// Without the spaces and tabs around it (OWS).
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let Some(start) = bytes.iter().position(|b| !blank(b)) else { return &[] };
    let end = bytes.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_alike_at_each_position() {
        for byte in 0..=255u8 {
            let ends = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
            for at in 0..20 {
                let mut value = [b'a'; 20];
                value[at] = byte;
                assert_eq!(value_length(&value), if ends { at } else { 20 }, "byte {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn a_byte_after_an_ending_one_changes_nothing() {
        // The subtraction borrows upwards: the bytes above the first hit may look like hits too.
        assert_eq!(value_length(b"abc\r !\x80\x20rest"), 3);
        assert_eq!(value_length(b"\t\t\t\t \t\t\t\r\n"), 8);
    }

    #[test]
    fn tokens_targets_and_blanks() {
        assert_eq!(token_length(b"Content-Type: x"), 12);
        assert!(is_token(b"M-SEARCH") && !is_token(b"") && !is_token(b"a b") && !is_token(b"a\x80"));
        assert!(is_target(b"/a?b={c}|d") && !is_target(b"/a#b") && !is_target(b"/\x7f") && !is_target(b""));
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t"), b"");
    }
}
