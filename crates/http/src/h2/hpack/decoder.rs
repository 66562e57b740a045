//! A field block to fields.
//!
//! The whole block is read whatever the caller thinks of its fields: the table must stay in step with the sender's,
//! or the connection is lost. A caller that has seen enough (a list too long, a field malformed) notes it and
//! ignores the rest. That costs nothing but time linear in the block's bytes, which the caller bounds: a field is lent, never
//! expanded, so a block of a thousand references to one large entry (a "bomb") takes no memory.

use std::ops::Range;

use super::integer::Input;
use super::table::Table;
use super::{DecodeError, TABLE_BYTES_DEFAULT, huffman, static_table};

/// Decoded text that has no place in the table stands here. Longer ones are rare: their buffer is not kept.
const SCRATCH_KEPT_BYTES: usize = 4 * 1024;

/// One field of a block, lent for the time of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// As sent: whether it is a token in lower case is for the caller to check.
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub sensitivity: Sensitivity,
}

impl Field<'_> {
    /// What it counts in SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113, 6.5.2).
    pub fn list_size(&self) -> usize {
        self.name.len() + self.value.len() + super::table::ENTRY_OVERHEAD
    }
}

/// What the sender said about a field's secrecy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sensitivity {
    Plain,
    /// It must be sent on as [`super::Indexing::Never`] (RFC 7541, 6.2.3).
    NeverIndexed,
}

/// Decodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What the sender may set the table to.
    limit: usize,
    follow: Follow,
    scratch: Vec<u8>,
}

/// Whether the next block must begin with a change of the table's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    AsItLikes,
    /// The limit was lowered below the table's size (RFC 9113, 4.3.1).
    LoweredLimit,
}

/// A piece of text and where it stands.
enum Text<'a> {
    /// In the block or the static table.
    Lent(&'a [u8]),
    Scratch(Range<usize>),
    /// The name of the entry of this age.
    TableName(usize),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(TABLE_BYTES_DEFAULT)
    }
}

impl Decoder {
    /// `limit` is the SETTINGS_HEADER_TABLE_SIZE that holds from the start: ours if it is at most the default,
    /// or the default until ours is acknowledged ([`Decoder::set_limit`]).
    pub fn new(limit: usize) -> Self {
        // What is above the default the sender must ask for, with a change of the table's size.
        let table = Table::new(limit.min(TABLE_BYTES_DEFAULT));
        Self { table, limit, follow: Follow::AsItLikes, scratch: Vec::new() }
    }

    /// The other end has acknowledged this SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        if limit < self.table.size_max() {
            self.follow = Follow::LoweredLimit;
        }
    }

    /// Decodes one whole block. After an error the connection is over.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(Field<'_>)) -> Result<(), DecodeError> {
        let mut input = Input::new(block);
        self.size_updates(&mut input)?;
        while let Some(first) = input.peek() {
            match first {
                0x80.. => field(self.indexed(&mut input)?),
                0x40.. => field(self.added(&mut input)?),
                0x20.. => return Err(DecodeError::SizeUpdateLate),
                0x10.. => field(self.literal(&mut input, Sensitivity::NeverIndexed)?),
                _ => field(self.literal(&mut input, Sensitivity::Plain)?),
            }
        }
        self.trim();
        Ok(())
    }

    /// Changes of the table's size come before all fields (RFC 7541, 4.2).
    fn size_updates(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        while let Some(0x20..=0x3f) = input.peek() {
            let (size, limit) = (input.integer(5)?, self.limit);
            if size > limit {
                return Err(DecodeError::SizeUpdateTooLarge { size, limit });
            }
            self.table.set_size_max(size);
            self.follow = Follow::AsItLikes;
        }
        match self.follow {
            Follow::AsItLikes => Ok(()),
            Follow::LoweredLimit => Err(DecodeError::SizeUpdateMissing { limit: self.limit }),
        }
    }

    fn indexed(&self, input: &mut Input<'_>) -> Result<Field<'_>, DecodeError> {
        let index = input.integer(7)?;
        let (name, value) = match static_table::entry(index) {
            Some((name, value)) => (name.as_bytes(), value.as_bytes()),
            None => self.table.get(age(index)?).ok_or(DecodeError::InvalidIndex { index })?,
        };
        Ok(Field { name, value, sensitivity: Sensitivity::Plain })
    }

    /// A literal that gets a place in the table.
    fn added(&mut self, input: &mut Input<'_>) -> Result<Field<'_>, DecodeError> {
        let index = input.integer(6)?;
        self.table.start();
        match static_table::entry(index) {
            Some((name, _)) => self.table.buffer().extend_from_slice(name.as_bytes()),
            None if index == 0 => string_to(input, self.table.buffer())?,
            None if self.table.copy_name(age(index)?) => {}
            None => return Err(DecodeError::InvalidIndex { index }),
        }
        let name_length = self.table.written().len();
        string_to(input, self.table.buffer())?;
        let (name, value) = self.table.commit(name_length);
        Ok(Field { name, value, sensitivity: Sensitivity::Plain })
    }

    fn literal<'a, 'block: 'a>(
        &'a mut self,
        input: &mut Input<'block>,
        sensitivity: Sensitivity,
    ) -> Result<Field<'a>, DecodeError> {
        self.scratch.clear();
        let index = input.integer(4)?;
        let name = match static_table::entry(index) {
            Some((name, _)) => Text::Lent(name.as_bytes()),
            None if index == 0 => self.string(input)?,
            None => Text::TableName(age(index)?),
        };
        let value = self.string(input)?;
        Ok(Field { name: self.text(name, index)?, value: self.text(value, index)?, sensitivity })
    }

    /// A string, which stays in the block unless it is coded.
    fn string<'block>(&mut self, input: &mut Input<'block>) -> Result<Text<'block>, DecodeError> {
        match string(input)? {
            (Coding::Plain, text) => Ok(Text::Lent(text)),
            (Coding::Huffman, coded) => {
                let start = self.scratch.len();
                huffman::decode(coded, &mut self.scratch)?;
                Ok(Text::Scratch(start..self.scratch.len()))
            }
        }
    }

    fn text<'a>(&'a self, text: Text<'a>, index: usize) -> Result<&'a [u8], DecodeError> {
        match text {
            Text::Lent(text) => Ok(text),
            Text::Scratch(range) => Ok(&self.scratch[range]),
            Text::TableName(age) => match self.table.get(age) {
                Some((name, _)) => Ok(name),
                None => Err(DecodeError::InvalidIndex { index }),
            },
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    fn trim(&mut self) {
        self.table.trim();
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Vec::new();
        }
    }
}

/// The age in the dynamic table of what no static entry has as its number.
fn age(index: usize) -> Result<usize, DecodeError> {
    index.checked_sub(static_table::LENGTH + 1).ok_or(DecodeError::InvalidIndex { index })
}

enum Coding {
    Plain,
    Huffman,
}

fn string<'a>(input: &mut Input<'a>) -> Result<(Coding, &'a [u8]), DecodeError> {
    let coding = match input.peek() {
        Some(0x80..) => Coding::Huffman,
        _ => Coding::Plain,
    };
    let length = input.integer(7)?;
    Ok((coding, input.take(length)?))
}

fn string_to(input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    match string(input)? {
        (Coding::Plain, text) => out.extend_from_slice(text),
        (Coding::Huffman, coded) => huffman::decode(coded, out)?,
    }
    Ok(())
}
