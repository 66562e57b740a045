//! What a TLS client says before anything is secret: the name that it asks for (SNI, RFC 6066, 3), and whether it is a
//! sidecar. Read from the first bytes of its connection.
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
    let mut name = |kind, content| (kind == SERVER_NAME).then(|| first_name(Reader(content)));
    match hello(&handshake.bytes, &mut name) {
        Ok(Some(Some(name))) => ServerName::Named(name.to_owned()),
        Ok(Some(None) | None) => ServerName::Unnamed,
        Err(Short) if handshake.is_over || bytes.len() == DETECT_BYTES_MAX => ServerName::Unnamed,
        Err(Short) => ServerName::NeedMore,
    }
}

/// Who begins a TLS connection to an application that takes others beside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nothing is decided: wait for more. Never returned for `DETECT_BYTES_MAX` bytes or more.
    NeedMore,
    Sidecar,
    /// It speaks to the application itself.
    Other,
}

/// A sidecar asks for no name, and offers one protocol, which is the mesh's. Clients of other kinds ask for a name, or
/// offer several protocols or none.
pub fn caller(first_bytes: &[u8], protocols: &[&[u8]]) -> Caller {
    let bytes = &first_bytes[..first_bytes.len().min(DETECT_BYTES_MAX)];
    let handshake = handshake(bytes);
    let mut offers = false;
    let mut other = |kind, content| match kind {
        SERVER_NAME => Some(()),
        APPLICATION_PROTOCOLS => {
            offers = only_protocol(Reader(content)).is_some_and(|only| protocols.contains(&only));
            (!offers).then_some(())
        }
        _ => None,
    };
    match hello(&handshake.bytes, &mut other) {
        Ok(Some(())) => Caller::Other,
        Ok(None) if offers => Caller::Sidecar,
        Ok(None) => Caller::Other,
        Err(Short) if handshake.is_over || bytes.len() == DETECT_BYTES_MAX => Caller::Other,
        Err(Short) => Caller::NeedMore,
    }
}

/// Extensions by number (RFC 6066, 3; RFC 7301, 3.1).
const SERVER_NAME: usize = 0;
const APPLICATION_PROTOCOLS: usize = 16;

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

/// The first thing that is found in a ClientHello's extensions (RFC 8446, 4.1.2), as far as they are there. `None`:
/// nothing, and there will be nothing.
fn hello<'a, T>(
    handshake: &'a [u8],
    find: &mut impl FnMut(usize, &'a [u8]) -> Option<T>,
) -> Result<Option<T>, Short> {
    let mut reader = Reader(handshake);
    if reader.u8()? != 1 {
        return Ok(None);
    }
    let length = reader.u24()?;
    let is_whole = reader.0.len() >= length;
    let mut body = Reader(&reader.0[..length.min(reader.0.len())]);
    match extensions(&mut body, find) {
        // It ends before what it announces: no more of it will come.
        Err(Short) if is_whole => Ok(None),
        found => found,
    }
}

fn extensions<'a, T>(
    body: &mut Reader<'a>,
    find: &mut impl FnMut(usize, &'a [u8]) -> Option<T>,
) -> Result<Option<T>, Short> {
    body.take(2 + 32)?; // version, random
    let session = body.u8()?;
    body.take(session)?;
    let ciphers = body.u16()?;
    body.take(ciphers)?;
    let compressions = body.u8()?;
    body.take(compressions)?;
    let mut left = body.u16()?;
    while left >= 4 {
        let (kind, length) = (body.u16()?, body.u16()?);
        let found = find(kind, body.take(length)?);
        if found.is_some() {
            return Ok(found);
        }
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

/// The one protocol of a list that has one.
fn only_protocol(mut list: Reader<'_>) -> Option<&[u8]> {
    let mut read = || {
        list.u16()?;
        let length = list.u8()?;
        list.take(length)
    };
    let only = read().ok()?;
    list.0.is_empty().then_some(only)
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

    fn u8(&mut self) -> Result<usize, Short> {
        self.number(1)
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

    fn protocols(offered: &[&str]) -> (u16, Vec<u8>) {
        let list: Vec<u8> =
            offered.iter().flat_map(|one| [&[one.len() as u8], one.as_bytes()].concat()).collect();
        (16, [&(list.len() as u16).to_be_bytes()[..], &list].concat())
    }

    #[test]
    fn a_sidecar_offers_one_protocol_and_asks_for_no_name() {
        let ours: [&[u8]; 2] = [b"h2", b"meshwork-tcp/1"];
        let check = |extensions: &[(u16, Vec<u8>)], expect| {
            for record in [1, 16_384] {
                let hello = client_hello(extensions, record);
                assert_eq!(caller(&hello, &ours), expect, "{extensions:?}");
                // Nobody is taken for a sidecar before all that he says is there.
                for end in 0..hello.len() {
                    assert_ne!(caller(&hello[..end], &ours), Caller::Sidecar, "{extensions:?}");
                }
            }
        };
        check(&[key_share(40), protocols(&["h2"])], Caller::Sidecar);
        check(&[protocols(&["meshwork-tcp/1"]), key_share(40)], Caller::Sidecar);
        check(&[protocols(&["h2"]), names("cart")], Caller::Other);
        check(&[names("cart"), protocols(&["h2"])], Caller::Other);
        check(&[protocols(&["h2", "http/1.1"])], Caller::Other);
        check(&[protocols(&["http/1.1"])], Caller::Other);
        check(&[key_share(40)], Caller::Other);
        check(&[(16, vec![0, 1])], Caller::Other);
        assert_eq!(caller(b"GET / HTTP/1.1\r\n", &ours), Caller::Other);
        let endless = client_hello(&[protocols(&["h2"]), key_share(DETECT_BYTES_MAX)], 16_384);
        assert_eq!(caller(&endless[..DETECT_BYTES_MAX - 1], &ours), Caller::NeedMore);
        assert_eq!(caller(&endless, &ours), Caller::Other);
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
