//! The way through a message: where names and records begin and end. Nothing is copied; every length is checked.

use std::ops::Range;

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

/// Where the name ends that begins at `start`.
pub(super) fn name_end(message: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + usize::from(length),
            // To what stands before the name: else a reader could run in circles. Not into the header: it is another one when
            // the message is passed on, and the name would be another name.
            0b11 => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                return (HEADER_BYTES..start).contains(&target).then_some(at + 2);
            }
            _ => return None,
        }
        if at - start >= NAME_BYTES_MAX {
            return None;
        }
    }
}

/// Where the labels end of a name that is written out whole.
pub(super) fn plain_name_end(message: &[u8], start: usize) -> Option<usize> {
    let end = name_end(message, start)?;
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

/// `count` records from `at` on, and where they end.
pub(super) fn records(message: &[u8], mut at: usize, count: u16) -> Option<(Vec<Record>, usize)> {
    let mut records = Vec::new();
    for _ in 0..count {
        let record = record(message, at)?;
        at = record.data.end;
        records.push(record);
    }
    Some((records, at))
}

fn record(message: &[u8], start: usize) -> Option<Record> {
    let fields = name_end(message, start)?;
    let (kind, class) = (u16_at(message, fields)?, u16_at(message, fields + 2)?);
    let data = fields + 10;
    let end = data + usize::from(u16_at(message, fields + 8)?);
    (end <= message.len()).then_some(Record { start, kind, class, ttl_at: fields + 4, data: data..end })
}
