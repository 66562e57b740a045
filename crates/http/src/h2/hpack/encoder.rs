//! Fields to a field block.
//!
//! What the tables have is written as a number, found by hash. The rest is literal, and gets a place in the table as
//! `policy.rs` says. Only what gets a place is Huffman-coded: its bytes are paid for once. What is written with
//! every message stays plain, because coding and decoding a byte costs more time than encrypting and copying the quarter of it
//! that would be saved, and between hosts of one mesh nobody waits for thirty bytes.

use super::lookup::{By, Lookup};
use super::policy::{self, Named};
use super::table::{ENTRY_OVERHEAD, Table};
use super::{Indexing, TABLE_BYTES_DEFAULT, hash, huffman, integer, static_table};

/// Fields that were written lately and have no place yet. More than a handful of users' worth would only let fields in that
/// come again after the table has turned over.
const SIGHTINGS: usize = 64;

/// Encodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    lookup: Lookup,
    /// What our own memory allows, whatever the peer does.
    own_max: usize,
    update: SizeUpdate,
    /// The hash of the last field that fell on each place.
    sightings: [u32; SIGHTINGS],
}

/// What the next block must say of the table's size (RFC 7541, 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeUpdate {
    None,
    /// The smallest size since the last block; the last size may be larger again.
    Smallest(usize),
}

/// A name and what was found out about it.
#[derive(Clone, Copy)]
struct Name<'a> {
    text: &'a [u8],
    hash: u64,
    named: Option<&'static Named>,
}

/// How a field is written.
enum Form {
    /// As the number of an entry.
    Entry(usize),
    /// As a literal that becomes an entry.
    Added {
        field_hash: u64,
    },
    Literal(Literal),
}

/// How a literal begins (RFC 7541, 6.2): the pattern and the bits of the name's number.
#[derive(Clone, Copy)]
enum Literal {
    Incremental,
    Without,
    Never,
}

impl Literal {
    fn prefix(self) -> (u8, u32) {
        match self {
            Self::Incremental => (0x40, 6),
            Self::Without => (0x00, 4),
            Self::Never => (0x10, 4),
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new(TABLE_BYTES_DEFAULT)
    }
}

impl Encoder {
    /// `own_max` bounds the table, whatever the peer would allow.
    pub fn new(own_max: usize) -> Self {
        // Until it has said something, the peer holds a table of the default size.
        let mut encoder = Self {
            table: Table::new(TABLE_BYTES_DEFAULT),
            lookup: Lookup::new(),
            own_max,
            update: SizeUpdate::None,
            sightings: [0; SIGHTINGS],
        };
        encoder.set_peer_limit(TABLE_BYTES_DEFAULT);
        encoder
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. The next block tells it what became of it.
    pub fn set_peer_limit(&mut self, limit: usize) {
        let size = limit.min(self.own_max);
        if size == self.table.size_max() {
            return;
        }
        self.table.set_size_max(size);
        self.lookup.evicted(&self.table);
        self.update = match self.update {
            SizeUpdate::Smallest(smallest) => SizeUpdate::Smallest(smallest.min(size)),
            SizeUpdate::None => SizeUpdate::Smallest(size),
        };
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Begins a block. Every block that is begun must reach the peer, in order.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let SizeUpdate::Smallest(smallest) = self.update {
            let size = self.table.size_max();
            if smallest < size {
                integer::write(0x20, 5, smallest, out);
            }
            integer::write(0x20, 5, size, out);
            self.update = SizeUpdate::None;
        }
    }

    /// Writes a field; the name, in any case, is written in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], indexing: Indexing, out: &mut Vec<u8>) {
        let hash = hash::name(name);
        let name = Name { text: name, hash, named: policy::named(name, hash) };
        match self.form(name, value, indexing) {
            Form::Entry(index) => integer::write(0x80, 7, index, out),
            Form::Added { field_hash } => self.add(name, value, field_hash, out),
            Form::Literal(literal) => write_literal(literal, self.name_index(name), name.text, value, out),
        }
    }

    fn form(&mut self, name: Name<'_>, value: &[u8], indexing: Indexing) -> Form {
        let indexing = match indexing {
            Indexing::Usual => name.named.map_or(Indexing::Repeated, |named| named.usual),
            chosen => chosen,
        };
        if indexing == Indexing::Never {
            return Form::Literal(Literal::Never);
        }
        if let Some(index) = name.named.and_then(|named| static_field(named, value)) {
            return Form::Entry(index);
        }
        if indexing == Indexing::Without || !self.has_room_for(name.text, value) {
            return Form::Literal(Literal::Without);
        }
        let field_hash = hash::field(name.hash, value);
        if let Some(index) = self.field_index(name.text, value, field_hash) {
            return Form::Entry(index);
        }
        match indexing {
            Indexing::Repeated if !self.was_seen(field_hash) => Form::Literal(Literal::Without),
            _ => Form::Added { field_hash },
        }
    }

    /// One that would take more than half of the table throws out more than it saves.
    fn has_room_for(&self, name: &[u8], value: &[u8]) -> bool {
        2 * (name.len() + value.len() + ENTRY_OVERHEAD) <= self.table.size_max()
    }

    fn field_index(&self, name: &[u8], value: &[u8], field_hash: u64) -> Option<usize> {
        let is = |age| {
            let found = self.table.get(age);
            found.is_some_and(|found| found.1 == value && hash::same_name(name, found.0))
        };
        self.lookup.find(By::Field, field_hash, is).map(number)
    }

    /// The number of an entry with that name, 0 if there is none.
    fn name_index(&self, name: Name<'_>) -> usize {
        if let Some(Named { index: index @ 1.., .. }) = name.named {
            return *index;
        }
        let is = |age| self.table.get(age).is_some_and(|(found, _)| hash::same_name(name.text, found));
        self.lookup.find(By::Name, name.hash, is).map_or(0, number)
    }

    /// Whether the field was written lately; from now on it was.
    fn was_seen(&mut self, field_hash: u64) -> bool {
        let place = &mut self.sightings[(field_hash >> 32) as usize % SIGHTINGS];
        std::mem::replace(place, field_hash as u32) == field_hash as u32
    }

    /// Writes a literal and gives it a place.
    fn add(&mut self, name: Name<'_>, value: &[u8], field_hash: u64, out: &mut Vec<u8>) {
        // Numbers are those from before: the new entry may push out the one whose name it takes.
        let index = self.name_index(name);
        self.table.start();
        push_lower(name.text, self.table.buffer());
        let (pattern, prefix) = Literal::Incremental.prefix();
        integer::write(pattern, prefix, index, out);
        if index == 0 {
            write_shorter(self.table.written(), out);
        }
        write_shorter(value, out);
        self.table.buffer().extend_from_slice(value);
        self.table.commit(name.text.len());
        self.lookup.added(&self.table, name.hash, field_hash);
    }
}

/// The number of the static entry that has this value too.
fn static_field(named: &Named, value: &[u8]) -> Option<usize> {
    let mut numbers = named.index..named.index + named.entries;
    numbers.find(|number| static_table::entry(*number).is_some_and(|(_, other)| other.as_bytes() == value))
}

/// The number of the dynamic entry of that age.
fn number(age: usize) -> usize {
    static_table::LENGTH + 1 + age
}

fn write_literal(literal: Literal, index: usize, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let (pattern, prefix) = literal.prefix();
    integer::write(pattern, prefix, index, out);
    if index == 0 {
        integer::write(0, 7, name.len(), out);
        push_lower(name, out);
    }
    integer::write(0, 7, value.len(), out);
    out.extend_from_slice(value);
}

/// Writes a string Huffman-coded if that is shorter.
fn write_shorter(text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_length(text);
    if coded < text.len() {
        integer::write(0x80, 7, coded, out);
        huffman::encode(text, out);
    } else {
        integer::write(0, 7, text.len(), out);
        out.extend_from_slice(text);
    }
}

fn push_lower(name: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(name);
    out[start..].make_ascii_lowercase();
}
