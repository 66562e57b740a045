//! Reads what a client sent: strictly, as what one reader of a message overlooks the next one may act on.

use super::query::{Edns, Query};
use super::walk::{HEADER_BYTES, Records, plain_name_end, u16_at, u32_at};
use super::{Code, bits, number, reply};

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Query(Query),
    /// No query that anybody answers; this is what the client is told.
    Answered(Vec<u8>),
    /// An answer, or no message at all: whoever answers it might be answered again, and so on.
    Ignored,
}

/// Reads what a client sent.
pub fn receive(message: &[u8]) -> Received {
    let (Some(id), Some(flags), true) =
        (u16_at(message, 0), u16_at(message, 2), message.len() >= HEADER_BYTES)
    else {
        return Received::Ignored;
    };
    if flags & bits::RESPONSE != 0 {
        return Received::Ignored;
    }
    let bare = |code| Received::Answered(reply::bare(id, flags, code));
    if flags & bits::OPCODE != 0 {
        return bare(Code::NotImp);
    }
    let Some((question, rest)) = question(message) else {
        return bare(Code::FormErr);
    };
    let mut query = Query { id, flags, question: question.to_vec(), edns: None };
    let told = |query: &Query, code| Received::Answered(reply::failure(query, code));
    match edns(message, rest) {
        Ok(None) => {}
        Ok(Some((version, edns))) => {
            query.edns = Some(edns);
            if version > 0 {
                return told(&query, Code::BadVers);
            }
        }
        Err(Unreadable) => return told(&query, Code::FormErr),
    }
    if query.class() != number::INTERNET || (number::TKEY..=number::MAILA).contains(&query.kind_number()) {
        return told(&query, Code::Refused);
    }
    if query.kind_number() == number::OPT {
        return told(&query, Code::FormErr);
    }
    Received::Query(query)
}

/// The only one, and where it ends.
fn question(message: &[u8]) -> Option<(&[u8], usize)> {
    if u16_at(message, 4)? != 1 {
        return None;
    }
    let end = plain_name_end(message, HEADER_BYTES)? + 4;
    Some((message.get(HEADER_BYTES..end)?, end))
}

struct Unreadable;

/// Version and content of the OPT record among what follows the question.
fn edns(message: &[u8], at: usize) -> Result<Option<(u8, Edns)>, Unreadable> {
    let count = |at| u16_at(message, at).ok_or(Unreadable);
    let mut records = Records::from(message, at);
    records.take(count(6)?).ok_or(Unreadable)?;
    records.take(count(8)?).ok_or(Unreadable)?;
    let additional = records.take(count(10)?).ok_or(Unreadable)?;
    let mut found = additional.iter().filter(|record| record.kind == number::OPT);
    let first = found.next();
    if records.end() != message.len() || found.next().is_some() {
        return Err(Unreadable);
    }
    let Some(opt) = first else { return Ok(None) };
    let Some(fields) = u32_at(message, opt.ttl_at).filter(|_| message[opt.start] == 0) else {
        return Err(Unreadable);
    };
    let edns = Edns { udp_bytes: opt.class, flags: fields as u16 };
    Ok(Some(((fields >> 16) as u8, edns)))
}
