//! HPACK (RFC 7541): heads as HTTP/2 carries them, both directions.
//!
//! | file | what |
//! |---|---|
//! | `decoder.rs` | a field block to fields |
//! | `encoder.rs` | fields to a field block |
//! | `policy.rs` | which fields are worth a place in the table, which must never have one |
//! | `error.rs` | why a block is refused |
//! | `integer.rs`, `huffman.rs` | the two primitives: integers with a prefix, coded strings |
//! | `static_table.rs`, `table.rs` | the table that everybody has, and the one that grows |
//! | `lookup.rs`, `hash.rs` | how the encoder finds what is in the tables |
//!
//! A field costs no allocation: the decoder lends slices of the block, of its table or of one scratch buffer, the
//! encoder appends to the caller's buffer. What a field means (pseudo-fields, cookies, what is malformed) is left to
//! the connection, and so is the length of a block.

mod decoder;
mod encoder;
mod error;
mod hash;
mod huffman;
mod integer;
mod lookup;
mod policy;
mod static_table;
mod table;

#[cfg(test)]
mod rfc_examples;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Field, Sensitivity};
pub use encoder::Encoder;
pub use error::DecodeError;
pub use policy::Indexing;

/// What both ends assume until SETTINGS_HEADER_TABLE_SIZE says otherwise (RFC 9113, 6.5.2).
pub const TABLE_BYTES_DEFAULT: usize = 4_096;
