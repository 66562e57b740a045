//! What opens an opaque connection between sidecars.
//!
//! It is decided once and never otherwise when more bytes come; nothing behind it is touched; a reader never waits for more
//! than its limit; what is written is read.

use meshwork_proxy::fuzzing::{read_preamble, write_preamble};

use crate::Target;

pub(super) const TARGET: Target = Target { name: "preamble", run, seeds, words: &[&[0, 4, 1], &[0, 0xff]] };

/// The length, and the longest that is taken.
const BYTES_MAX: usize = 2 + 1_024;

fn run(bytes: &[u8]) {
    let whole = read_preamble(bytes);
    let mut decided = None;
    for end in 0..=bytes.len().min(BYTES_MAX) {
        let read = read_preamble(&bytes[..end]);
        match (&decided, &read) {
            (None, Ok(None)) => {}
            (None, _) => decided = Some(read),
            (Some(decided), _) => assert_eq!(&read, decided, "another decision after {end} bytes"),
        }
    }
    assert!(decided.is_some() || bytes.len() < BYTES_MAX, "still undecided after {} bytes", bytes.len());
    assert_eq!(decided.unwrap_or(Ok(None)), whole);
    if let Ok(Some((app_port, consumed))) = whole {
        assert!(consumed <= bytes.len().min(BYTES_MAX));
        let mut written = Vec::new();
        write_preamble(app_port, &mut written);
        assert_eq!(read_preamble(&written), Ok(Some((app_port, written.len()))));
        assert_eq!(written[2..], bytes[2..written.len()], "what we would have said");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |port: u16, behind: &[u8]| {
        let mut bytes = Vec::new();
        write_preamble(port, &mut bytes);
        bytes.extend_from_slice(behind);
        bytes
    };
    vec![of(5_432, b"behind"), of(0, b""), of(u16::MAX, &[0; 40])]
}
