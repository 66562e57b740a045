//! The name that a TLS client asks for (SNI, RFC 6066, 3), read from the first bytes of its connection.
//!
//! A ClientHello may come in several segments, and in several records: with post-quantum key shares it is larger than
//! one segment. As in `detect.rs` a decision never changes when more bytes come, and the limit always decides. Nothing
//! else in a ClientHello is judged: who the hello is for answers it.

use std::borrow::Cow;

use crate::detect::DETECT_BYTES_MAX;

/// Names are shorter (RFC 1035, 2.3.4); what is longer is no name.
const NAME_BYTES_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// Nothing is decided: wait for more. Never returned for `DETECT_BYTES_MAX` bytes or more.
    NeedMore,
    Named(String),
    /// The client asks for no name, or what it says is no ClientHello.
    Unnamed,
}

/// What the first bytes of a connection ask for.
pub fn server_name(first_bytes: &[u8]) -> ServerName {
    let bytes = &first_bytes[..first_bytes.len().min(DETECT_BYTES_MAX)];
    let handshake = handshake(bytes);
    match hello(&handshake.bytes) {
        Ok(Some(name)) => ServerName::Named(name.to_owned()),
        Ok(None) => ServerName::Unnamed,
        Err(Short) if handshake.is_over || bytes.len() == DETECT_BYTES_MAX => ServerName::Unnamed,
        Err(Short) => ServerName::NeedMore,
    }
}

/// What stands in the records, one after the other.
struct Handshake<'a> {
    bytes: Cow<'a, [u8]>,
    /// What follows is no record of a handshake: nothing will be added.
    is_over: bool,
}

/// RFC 8446, 5.1: type handshake (22), version 3.x, a length that is neither 0 nor past 2^14, so many bytes.
fn handshake(mut bytes: &[u8]) -> Handshake<'_> {
    let mut together: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let fits = |at: usize, wanted: u8| bytes.get(at).is_none_or(|byte| *byte == wanted);
        let length = match bytes {
            [_, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 1,
        };
        let is_over = !fits(0, 22) || !fits(1, 3) || !(1..=1 << 14).contains(&length);
        let Some(rest) = bytes.get(5..).filter(|_| !is_over) else {
            return Handshake { bytes: together, is_over };
        };
        let (fragment, after) = rest.split_at(length.min(rest.len()));
        if together.is_empty() {
            together = Cow::Borrowed(fragment);
        } else {
            together.to_mut().extend_from_slice(fragment);
        }
        if fragment.len() < length {
            return Handshake { bytes: together, is_over: false };
        }
        bytes = after;
    }
}

/// More bytes are needed to decide.
struct Short;

/// The name in a ClientHello (RFC 8446, 4.1.2), as far as it is there.
fn hello(handshake: &[u8]) -> Result<Option<&str>, Short> {
    let mut reader = Reader(handshake);
    if reader.u8()? != 1 {
        return Ok(None);
    }
    let length = reader.u24()?;
    let is_whole = reader.0.len() >= length;
    let mut body = Reader(&reader.0[..length.min(reader.0.len())]);
    match extensions(&mut body) {
        // It ends before what it announces: no more of it will come.
        Err(Short) if is_whole => Ok(None),
        found => found,
    }
}

fn extensions<'a>(body: &mut Reader<'a>) -> Result<Option<&'a str>, Short> {
    body.take(2 + 32)?; // version, random
    let session = body.u8()?;
    body.take(session.into())?;
    let ciphers = body.u16()?;
    body.take(ciphers)?;
    let compressions = body.u8()?;
    body.take(compressions.into())?;
    let mut left = body.u16()?;
    while left >= 4 {
        let (kind, length) = (body.u16()?, body.u16()?);
        if kind == 0 {
            return Ok(first_name(Reader(body.take(length)?)));
        }
        body.take(length)?;
        left = left.saturating_sub(4 + length);
    }
    Ok(None)
}

/// A list with one entry, as there is one type of name (RFC 6066, 3).
fn first_name(mut list: Reader<'_>) -> Option<&str> {
    let read = (|| {
        list.u16()?;
        let kind = list.u8()?;
        let length = list.u16()?;
        Ok((kind, list.take(length)?))
    })();
    let Ok((0, name)) = read.map_err(|Short| ()) else { return None };
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.is_ascii();
    std::str::from_utf8(name).ok().filter(|_| is_name)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Short> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<usize, Short> {
        self.number(2)
    }

    fn u24(&mut self) -> Result<usize, Short> {
        self.number(3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with these extensions, in records of at most `record` bytes.
    fn client_hello(extensions: &[(u16, Vec<u8>)], record: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([4, 1, 2, 3, 4]); // session
        body.extend([0, 2, 0x13, 1]); // ciphers
        body.extend([1, 0]); // compressions
        let mut block = Vec::new();
        for (kind, content) in extensions {
            block.extend(kind.to_be_bytes());
            block.extend((content.len() as u16).to_be_bytes());
            block.extend(content);
        }
        body.extend((block.len() as u16).to_be_bytes());
        body.extend(block);
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        let records = message.chunks(record).flat_map(|fragment| {
            let mut bytes = vec![22, 3, 1];
            bytes.extend((fragment.len() as u16).to_be_bytes());
            bytes.extend(fragment);
            bytes
        });
        records.collect()
    }

    fn names(name: &str) -> (u16, Vec<u8>) {
        let mut content = (name.len() as u16 + 3).to_be_bytes().to_vec();
        content.push(0);
        content.extend((name.len() as u16).to_be_bytes());
        content.extend(name.bytes());
        (0, content)
    }

    fn key_share(bytes: usize) -> (u16, Vec<u8>) {
        (51, vec![0; bytes])
    }

    fn named(name: &str) -> ServerName {
        ServerName::Named(name.to_owned())
    }

    #[test]
    fn the_name_is_found_wherever_it_stands() {
        for record in [1, 50, 16_384] {
            let first = client_hello(&[names("cart.default"), key_share(1_200)], record);
            assert_eq!(server_name(&first), named("cart.default"));
            let last = client_hello(&[key_share(1_200), names("cart.default")], record);
            assert_eq!(server_name(&last), named("cart.default"));
            let without = client_hello(&[key_share(1_200)], record);
            assert_eq!(server_name(&without), ServerName::Unnamed);
        }
    }

    #[test]
    fn what_is_no_client_hello_names_nobody() {
        let hello = client_hello(&[names("cart")], 16_384);
        let with = |at: usize, byte: u8| {
            let mut changed = hello.clone();
            changed[at] = byte;
            server_name(&changed)
        };
        assert_eq!(with(0, 23), ServerName::Unnamed); // application data
        assert_eq!(with(1, 2), ServerName::Unnamed); // SSL 2
        assert_eq!(with(3, 0xff), ServerName::Unnamed); // longer than a record may be
        assert_eq!(with(5, 2), ServerName::Unnamed); // ServerHello
        assert_eq!(server_name(&[22, 3, 1, 0, 0, 1]), ServerName::Unnamed);
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n"), ServerName::Unnamed);
        assert_eq!(server_name(b""), ServerName::NeedMore);
        for odd in ["", "\u{e9}"] {
            assert_eq!(server_name(&client_hello(&[names(odd)], 16_384)), ServerName::Unnamed, "{odd:?}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(server_name(&client_hello(&[names(&long)], 16_384)), ServerName::Unnamed);
    }

    #[test]
    fn the_limit_decides() {
        let hello = client_hello(&[key_share(DETECT_BYTES_MAX), names("cart")], 16_384);
        assert_eq!(server_name(&hello[..DETECT_BYTES_MAX - 1]), ServerName::NeedMore);
        assert_eq!(server_name(&hello[..DETECT_BYTES_MAX]), ServerName::Unnamed);
        assert_eq!(server_name(&hello), ServerName::Unnamed);
    }

    fn extension() -> impl Strategy<Value = (u16, Vec<u8>)> {
        let other = (1_u16..100, proptest::collection::vec(any::<u8>(), 0..60));
        prop_oneof![3 => other, 1 => "[a-z.]{1,20}".prop_map(|name| names(&name))]
    }

    proptest! {
        #[test]
        fn a_decision_stays_whatever_comes_after(
            extensions in proptest::collection::vec(extension(), 0..6),
            record in 1_usize..200,
            tail in proptest::collection::vec(any::<u8>(), 0..20),
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = client_hello(&extensions, record);
            bytes.extend(tail);
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut decided = ServerName::NeedMore;
            for end in 0..=bytes.len() {
                let now = server_name(&bytes[..end]);
                if decided != ServerName::NeedMore {
                    prop_assert_eq!(&now, &decided);
                }
                decided = now;
            }
        }

        #[test]
        fn a_whole_hello_is_decided(extensions in proptest::collection::vec(extension(), 0..6), record in 1_usize..200) {
            let asked = extensions.iter().find(|(kind, _)| *kind == 0);
            let expect = asked.map_or(ServerName::Unnamed, |(_, content)| named(std::str::from_utf8(&content[5..]).unwrap()));
            prop_assert_eq!(server_name(&client_hello(&extensions, record)), expect);
        }
    }
}
