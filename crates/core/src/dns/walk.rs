//! The way through a message: where names and records begin and end. Nothing is copied; every length is checked.

use std::ops::Range;

use super::number;

pub(super) const HEADER_BYTES: usize = 12;

/// A name, its lengths and the root's included (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 255;

pub(super) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub(super) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(message, at)?) << 16 | u32::from(u16_at(message, at + 2)?))
}

pub(super) fn set_u16(message: &mut [u8], at: usize, value: u16) {
    message[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// How often a name may go on elsewhere: once for each label that 255 bytes have room for.
const POINTERS_MAX: usize = 127;

/// Where the name ends that begins at `start`, behind records whose times to live stand at `ttls`, in order.
///
/// It is read to its root, as its reader will: whoever passes a message on changes header and times to live, and a name that
/// goes through those would be another name.
pub(super) fn name_end(message: &[u8], start: usize, ttls: &[usize]) -> Option<usize> {
    let (mut at, mut part, mut end) = (start, start, None);
    let (mut bytes, mut pointers) = (0, 0);
    loop {
        let length = *message.get(at)?;
        let next = match length >> 6 {
            0 => at + 1 + usize::from(length),
            0b11 => at + 2,
            _ => return None,
        };
        if touches(ttls, at..next) {
            return None;
        }
        if length >> 6 == 0 {
            bytes += next - at;
            at = next;
        } else {
            // To what stands before this part of the name: else a reader could run in circles.
            let target = usize::from(u16_at(message, at)? & 0x3fff);
            if !(HEADER_BYTES..part).contains(&target) {
                return None;
            }
            end = end.or(Some(next));
            pointers += 1;
            (at, part) = (target, target);
        }
        if bytes > NAME_BYTES_MAX || pointers > POINTERS_MAX {
            return None;
        }
        if length == 0 {
            return end.or(Some(next));
        }
    }
}

fn touches(ttls: &[usize], bytes: Range<usize>) -> bool {
    let first = ttls.partition_point(|ttl| ttl + 4 <= bytes.start);
    ttls.get(first).is_some_and(|ttl| *ttl < bytes.end)
}

/// Where the labels end of a name that is written out whole.
pub(super) fn plain_name_end(message: &[u8], start: usize) -> Option<usize> {
    let end = name_end(message, start, &[])?;
    // A pointer is two bytes, of which the first is no length; a whole name ends with the root's.
    let mut at = start;
    while at < end && message[at] >> 6 == 0 {
        at += 1 + usize::from(message[at]);
    }
    (at == end).then_some(end)
}

/// A record's place.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) start: usize,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) ttl_at: usize,
    pub(super) data: Range<usize>,
}

/// Records one behind the other.
pub(super) struct Records<'a> {
    message: &'a [u8],
    at: usize,
    /// Where the times to live stand of those that were read.
    ttls: Vec<usize>,
}

impl<'a> Records<'a> {
    pub(super) fn from(message: &'a [u8], at: usize) -> Self {
        Self { message, at, ttls: Vec::new() }
    }

    /// The next `count` records; `None`: so many can't be read.
    pub(super) fn take(&mut self, count: u16) -> Option<Vec<Record>> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Where those end that were read.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    fn next(&mut self) -> Option<Record> {
        let (message, start) = (self.message, self.at);
        let fields = name_end(message, start, &self.ttls)?;
        let (kind, class) = (u16_at(message, fields)?, u16_at(message, fields + 2)?);
        let ttl_at = fields + 4;
        let data = fields + 10..fields + 10 + usize::from(u16_at(message, fields + 8)?);
        self.ttls.push(ttl_at);
        let is_whole = data.end <= message.len() && self.names_are_whole(kind, &data);
        self.at = data.end;
        is_whole.then_some(Record { start, kind, class, ttl_at, data })
    }

    /// Whether the names can be read that a record's data begins with, where they may be compressed (RFC 3597, 4).
    fn names_are_whole(&self, kind: u16, data: &Range<usize>) -> bool {
        let (mut at, names) = match kind {
            number::NS | number::CNAME | number::PTR | number::DNAME => (data.start, 1),
            number::SOA => (data.start, 2),
            number::MX => (data.start + 2, 1),
            number::SRV => (data.start + 6, 1),
            _ => return true,
        };
        (0..names).all(|_| match name_end(self.message, at, &self.ttls) {
            Some(end) if end <= data.end => {
                at = end;
                true
            }
            _ => false,
        })
    }
}
