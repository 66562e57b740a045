//! Finds where a head (or a trailer section) ends: at its first empty line.
//!
//! What was looked at is not looked at again, so a head that arrives byte by byte costs as much as one
//! that arrives at once. Lines must end with CR LF: an LF alone is refused as soon as it is seen,
//! because some parsers take it for a line's end and others do not (request smuggling lives there).

use super::ReceiveError;

/// How far the end was looked for. Positions count from the head's first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadEnd {
    looked: usize,
    line: usize,
}

impl HeadEnd {
    /// The length of the head that `bytes` begins with, through its empty line; `None` if it goes on.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReceiveError> {
        while let Some(offset) = memchr::memchr(b'\n', &bytes[self.looked..]) {
            let feed = self.looked + offset;
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Err(ReceiveError::BareLineFeed);
            }
            let is_empty = feed - 1 == self.line;
            self.looked = feed + 1;
            self.line = feed + 1;
            if is_empty {
                return Ok(Some(feed + 1));
            }
        }
        self.looked = bytes.len();
        Ok(None)
    }

    /// The first line has not ended yet.
    pub(super) fn in_first_line(&self) -> bool {
        self.line == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<Option<usize>, ReceiveError>) {
        let bytes = text.as_bytes();
        assert_eq!(HeadEnd::default().find(bytes), expect, "at once");
        let mut end = HeadEnd::default();
        let found = (0..=bytes.len()).map(|n| end.find(&bytes[..n])).find(|found| *found != Ok(None));
        assert_eq!(found.unwrap_or(Ok(None)), expect, "byte by byte");
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        check("a\r\n\r\n", Ok(Some(5)));
        check("a\r\nb\r\n\r\nrest\r\n\r\n", Ok(Some(8)));
        check("\r\n", Ok(Some(2)));
        check("a\r\n\r", Ok(None));
        check("", Ok(None));
    }

    #[test]
    fn a_line_feed_alone_is_refused() {
        check("a\nb", Err(ReceiveError::BareLineFeed));
        check("a\r\n\nb", Err(ReceiveError::BareLineFeed));
        check("\n", Err(ReceiveError::BareLineFeed));
    }
}
