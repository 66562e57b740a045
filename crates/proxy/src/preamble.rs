//! What opens an opaque connection between sidecars (ALPN `meshwork-tcp/1`): which port of the workload the
//! bytes are for.
//!
//! Layout, big-endian: `u16` length of what follows; `u8` version, 1; `u16` the application's port; `u8`
//! flags, 0. A receiver skips what a longer preamble holds behind that, so that it can grow.

/// Version, port, flags.
const LENGTH: u16 = 4;

/// A longer one than this is no preamble of ours.
const LENGTH_MAX: u16 = 1_024;

const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) app_port: u16,
    /// Bytes that it took.
    pub(crate) consumed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPreamble {
    #[error("the preamble says that it is {0} bytes long (want 4 to {LENGTH_MAX})")]
    Length(u16),
    #[error("the preamble has version {0} (want {VERSION})")]
    Version(u8),
    #[error("the preamble sets flags {0:#x} that this version does not know")]
    Flags(u8),
}

pub(crate) fn write(app_port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&LENGTH.to_be_bytes());
    out.push(VERSION);
    out.extend_from_slice(&app_port.to_be_bytes());
    out.push(0);
}

/// `None`: more bytes are needed.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Preamble>, InvalidPreamble> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = u16::from_be_bytes(*length);
    if !(LENGTH..=LENGTH_MAX).contains(&length) {
        return Err(InvalidPreamble::Length(length));
    }
    if rest.len() < usize::from(length) {
        return Ok(None);
    }
    match *rest {
        [VERSION, high, low, 0, ..] => {
            let app_port = u16::from_be_bytes([high, low]);
            Ok(Some(Preamble { app_port, consumed: 2 + usize::from(length) }))
        }
        [VERSION, _, _, flags, ..] => Err(InvalidPreamble::Flags(flags)),
        [version, ..] => Err(InvalidPreamble::Version(version)),
        [] => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_read_as_it_was_written_however_it_arrives() {
        let mut bytes = Vec::new();
        write(5_432, &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None));
        }
        bytes.extend_from_slice(b"behind");
        assert_eq!(read(&bytes), Ok(Some(Preamble { app_port: 5_432, consumed: 6 })));
    }

    #[test]
    fn a_longer_preamble_of_a_newer_peer_is_skipped() {
        assert_eq!(read(&[0, 6, 1, 0, 80, 0, 9, 9, 7]), Ok(Some(Preamble { app_port: 80, consumed: 8 })));
    }

    #[test]
    fn what_is_no_preamble_is_refused() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(InvalidPreamble::Length(0x4745)));
        assert_eq!(read(&[0, 4, 2, 0, 80, 0]), Err(InvalidPreamble::Version(2)));
        assert_eq!(read(&[0, 4, 1, 0, 80, 1]), Err(InvalidPreamble::Flags(1)));
        assert_eq!(read(&[0, 0]), Err(InvalidPreamble::Length(0)));
    }
}
