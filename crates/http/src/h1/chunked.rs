//! The chunked coding (RFC 9112, 7.1), decoded in place: the caller is told where data lies.
//!
//! A byte of framing is taken as soon as it comes, so a split anywhere changes nothing and nothing is
//! kept. Sizes are plain hexadecimal digits followed by `;` or CR: a sign, a prefix, a blank or an LF
//! alone is what two parsers differ about. Extensions are skipped, and bounded over the whole body.

use super::{Limits, ReceiveError};

/// Digits that 64 bits can fill. Leading zeros count: there is no honest reason for a longer number.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where in the coding the input stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    at: At,
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeFeed { size: u64 },
    Data { remaining: u64 },
    DataReturn,
    DataFeed,
}

/// What comes next in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    NeedMore,
    /// That many bytes from the place reached are data.
    Data(usize),
    /// The last chunk's line was read; trailers follow.
    Last,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self { at: At::Size { value: 0, digits: 0 }, extension_bytes: 0 }
    }

    /// Reads framing up to the next data: how many bytes that took, and what was reached.
    pub(super) fn advance(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, Next), ReceiveError> {
        for (index, &byte) in input.iter().enumerate() {
            if let At::Data { remaining } = self.at {
                let length = usize::try_from(remaining).unwrap_or(usize::MAX).min(input.len() - index);
                self.take_data(remaining - length as u64);
                return Ok((index, Next::Data(length)));
            }
            if self.take_framing(byte, limits)? {
                return Ok((index + 1, Next::Last));
            }
        }
        Ok((input.len(), Next::NeedMore))
    }

    fn take_data(&mut self, remaining: u64) {
        self.at = if remaining == 0 { At::DataReturn } else { At::Data { remaining } };
    }

    /// Takes one byte of framing; true if it ended the last chunk's line.
    fn take_framing(&mut self, byte: u8, limits: &Limits) -> Result<bool, ReceiveError> {
        self.at = match (self.at, byte) {
            (At::Size { value, digits }, _) => match (char::from(byte).to_digit(16), byte) {
                (Some(_), _) if digits == SIZE_DIGITS_MAX => return Err(ReceiveError::InvalidChunkSize),
                (Some(digit), _) => At::Size { value: value << 4 | u64::from(digit), digits: digits + 1 },
                (None, b'\r') if digits > 0 => At::SizeFeed { size: value },
                (None, b';') if digits > 0 => At::Extension { size: value },
                _ => return Err(ReceiveError::InvalidChunkSize),
            },
            (At::Extension { size }, b'\r') => At::SizeFeed { size },
            (At::Extension { .. }, 0..=8 | 10..=31 | 127) => return Err(ReceiveError::InvalidChunkExtension),
            (At::Extension { size }, _) => {
                self.extension_bytes += 1;
                if self.extension_bytes > limits.chunk_extension_bytes_max {
                    return Err(ReceiveError::ChunkExtensionsTooLong);
                }
                At::Extension { size }
            }
            (At::SizeFeed { size: 0 }, b'\n') => return Ok(true),
            (At::SizeFeed { size }, b'\n') => At::Data { remaining: size },
            (At::SizeFeed { .. }, _) => return Err(ReceiveError::InvalidChunkSize),
            (At::DataReturn, b'\r') => At::DataFeed,
            (At::DataFeed, b'\n') => At::Size { value: 0, digits: 0 },
            (At::DataReturn | At::DataFeed, _) => return Err(ReceiveError::MissingChunkEnd),
            (At::Data { .. }, _) => unreachable!("data is no framing: `advance` hands it over"),
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `step` bytes: the data, and what is left behind the last chunk's line.
    fn decode(text: &str, step: usize) -> Result<(String, usize), ReceiveError> {
        let limits = Limits { chunk_extension_bytes_max: 20, ..Limits::default() };
        let (mut chunked, mut data, mut at) = (Chunked::new(), Vec::new(), 0);
        loop {
            let end = text.len().min(at + step);
            let (consumed, next) = chunked.advance(&text.as_bytes()[at..end], &limits)?;
            at += consumed;
            match next {
                Next::NeedMore if end == text.len() => panic!("no last chunk in {text:?}"),
                Next::NeedMore => {}
                Next::Data(length) => {
                    data.extend_from_slice(&text.as_bytes()[at..at + length]);
                    at += length;
                }
                Next::Last => return Ok((String::from_utf8(data).unwrap(), text.len() - at)),
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expect: Result<&str, ReceiveError>) {
        for step in 1..=text.len() {
            let decoded = decode(text, step).map(|(data, _)| data);
            assert_eq!(decoded.as_deref().map_err(|e| *e), expect, "in pieces of {step}");
        }
    }

    #[test]
    fn chunks_are_joined() {
        check("0\r\n", Ok(""));
        check("5\r\nhello\r\n1;a=\"b\";c\r\n!\r\n000\r\n", Ok("hello!"));
        check("00A\r\n0123456789\r\n0\r\n", Ok("0123456789"));
    }

    #[test]
    fn sizes_that_parsers_differ_about_are_refused() {
        for bad in [
            "\r\n",
            " 5\r\n",
            "5 \r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5\n",
            "g\r\n",
            "\n",
            ";a\r\n",
            "5\r5",
            "00000000000000005\r\n",
            "10000000000000000\r\n",
            "5_0\r\n",
            "5,5\r\n",
        ] {
            check(bad, Err(ReceiveError::InvalidChunkSize));
        }
    }

    #[test]
    fn a_chunk_ends_where_its_size_says() {
        check("2\r\nabc\r\n0\r\n", Err(ReceiveError::MissingChunkEnd));
        check("2\r\nab\n0\r\n", Err(ReceiveError::MissingChunkEnd));
        check("2\r\nab\r0\r\n", Err(ReceiveError::MissingChunkEnd));
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body_and_plain() {
        check("1;345678901\r\na\r\n0;2345678901\r\n", Ok("a"));
        check("1;34567890123456789012\r\na\r\n0;2\r\n", Err(ReceiveError::ChunkExtensionsTooLong));
        check("1;a\nb\r\n", Err(ReceiveError::InvalidChunkExtension));
        check("1;a\0b\r\n", Err(ReceiveError::InvalidChunkExtension));
    }
}
