//! Why a field block is refused. Each is a COMPRESSION_ERROR and ends the connection: the tables of both ends may
//! differ from here on, so no later block can be trusted (RFC 9113, 4.3).

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a field block refers to entry {index}, which neither table has")]
    InvalidIndex { index: usize },
    #[error("a number in a field block is larger than 32 bits or written with needless bytes")]
    IntegerOverflow,
    #[error("a field block ends in the middle of a field")]
    Truncated,
    #[error("a Huffman-coded string does not end with fewer than eight one bits")]
    HuffmanPadding,
    #[error("a Huffman-coded string holds the end-of-string symbol")]
    HuffmanEndOfString,
    #[error("a field block sets the dynamic table to {size} bytes; {limit} are allowed")]
    SizeUpdateTooLarge { size: usize, limit: usize },
    #[error("a field block changes the dynamic table's size behind a field; only its beginning may")]
    SizeUpdateLate,
    #[error(
        "the dynamic table's limit was lowered to {limit} bytes, and the next field block does not follow it"
    )]
    SizeUpdateMissing { limit: usize },
}
