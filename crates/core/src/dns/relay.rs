//! Between a client and one of the host's resolvers: the query as the resolver is asked it, and its answer, judged and
//! made one for the client.
//!
//! Who can send packets here must not be believed: an answer has to repeat the ID, which is random for each query, and
//! the question. (That it came from where it was asked for is the socket's doing.)

use super::query::{Key, Query};
use super::walk::{HEADER_BYTES, Record, Records, set_u16, u16_at, u32_at};
use super::{Code, bits, number, reply};

/// Whether a resolver is told about EDNS. Some old ones answer FORMERR to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    AsAsked,
    No,
}

/// The query as a resolver is asked it.
pub fn forwarded(query: &Query, id: u16, extended: Extended) -> Vec<u8> {
    let edns = query.edns.is_some() && extended == Extended::AsAsked;
    let words = [id, query.forwarded_flags(), 1, 0, 0, u16::from(edns)];
    let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    message.extend_from_slice(&query.question);
    if edns {
        reply::opt(0, query.edns_flags(), &mut message);
    }
    message
}

/// What a message is that came where a resolver's answer is awaited.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    /// No answer to this query: somebody guesses, or it is late. The wait goes on.
    Foreign,
    /// There is more than it had room for: to be asked over TCP.
    Truncated,
    /// This resolver does not answer it; another one may.
    Failed(Code),
    Answer(Relayed),
}

/// A resolver's answer without what is of one hop only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    message: Vec<u8>,
    /// Where the times to live stand.
    ttls: Vec<usize>,
    /// `None`: not to be kept.
    lifetime_seconds: Option<u32>,
}

/// Judges what came; `id` is the one that the resolver was sent.
pub fn judge(query: &Query, id: u16, message: &[u8]) -> Judged {
    let Some(flags) = u16_at(message, 2) else { return Judged::Foreign };
    if u16_at(message, 0) != Some(id) || flags & bits::RESPONSE == 0 || flags & bits::OPCODE != 0 {
        return Judged::Foreign;
    }
    let code = match flags & bits::CODE {
        0 => Code::NoError,
        1 => Code::FormErr,
        3 => Code::NxDomain,
        4 => Code::NotImp,
        5 => Code::Refused,
        _ => Code::ServFail,
    };
    let end = HEADER_BYTES + query.question.len();
    let is_repeated = u16_at(message, 4) == Some(1)
        && message.get(HEADER_BYTES..end).is_some_and(|asked| asked.eq_ignore_ascii_case(&query.question));
    match code {
        // Who can't read a query can't repeat its question either.
        Code::FormErr | Code::NotImp if message.len() == HEADER_BYTES => Judged::Failed(code),
        _ if !is_repeated => Judged::Foreign,
        Code::NoError | Code::NxDomain if flags & bits::TRUNCATED != 0 => Judged::Truncated,
        Code::NoError | Code::NxDomain => match read(message, end) {
            Some(sections) => sections.relayed(query, code, message),
            None => Judged::Failed(Code::ServFail),
        },
        Code::FormErr | Code::ServFail | Code::NotImp | Code::Refused | Code::BadVers => Judged::Failed(code),
    }
}

struct Sections {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additional: Vec<Record>,
    end: usize,
}

fn read(message: &[u8], at: usize) -> Option<Sections> {
    let mut records = Records::from(message, at);
    let answers = records.take(u16_at(message, 6)?)?;
    let authorities = records.take(u16_at(message, 8)?)?;
    let additional = records.take(u16_at(message, 10)?)?;
    Some(Sections { answers, authorities, additional, end: records.end() })
}

impl Sections {
    fn relayed(mut self, query: &Query, code: Code, message: &[u8]) -> Judged {
        let mut message = message[..self.end].to_vec();
        // What follows OPT may point to names behind it, and nobody needs what is additional: all of it goes.
        if let Some(first) = self.additional.iter().position(|record| record.kind == number::OPT) {
            let start = self.additional[first].start;
            if u32_at(&message, self.additional[first].ttl_at).is_some_and(|fields| fields >> 24 != 0) {
                return Judged::Failed(Code::ServFail); // the upper bits of a code that is a failure
            }
            message.truncate(start);
            self.additional.truncate(first);
            set_u16(&mut message, 10, first as u16);
        }
        let lifetime_seconds = self.lifetime_seconds(query, code, &message);
        self.limit_denials(&mut message);
        let all = self.answers.iter().chain(&self.authorities).chain(&self.additional);
        let ttls = all.map(|record| record.ttl_at).collect();
        set_u16(&mut message, 0, 0);
        Judged::Answer(Relayed { message, ttls, lifetime_seconds })
    }

    /// As long as the first of its records may be kept; that there is nothing, as long as its zone says (RFC 2308, 5).
    fn lifetime_seconds(&self, query: &Query, code: Code, message: &[u8]) -> Option<u32> {
        let kind = query.kind_number();
        let has_answer = code == Code::NoError
            && self.answers.iter().any(|record| record.kind == kind || kind == number::ANY);
        let soa = self.authorities.iter().find_map(|record| minimum(record, message));
        let of_zone = if has_answer { None } else { Some(soa?) };
        let all = self.answers.iter().chain(&self.authorities).chain(&self.additional);
        let of_records = all.map(|record| ttl(record, message));
        of_records.chain(of_zone).min().filter(|seconds| *seconds > 0)
    }

    /// A client keeps that there is nothing for the lesser of two numbers of the SOA record, one of which can't be aged. So
    /// the other one is made the lesser.
    fn limit_denials(&self, message: &mut [u8]) {
        for record in &self.authorities {
            if let Some(minimum) = minimum(record, message) {
                let least = minimum.min(ttl(record, message));
                message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&least.to_be_bytes());
            }
        }
    }
}

fn ttl(record: &Record, message: &[u8]) -> u32 {
    // With the first bit set it is 0 (RFC 2181, 8).
    u32_at(message, record.ttl_at).filter(|ttl| *ttl <= i32::MAX as u32).unwrap_or(0)
}

/// The last number of an SOA record.
fn minimum(record: &Record, message: &[u8]) -> Option<u32> {
    // Two names, which have a byte at least, and five numbers.
    let is_soa = record.kind == number::SOA && record.data.len() >= 22;
    is_soa.then(|| u32_at(message, record.data.end - 4)).flatten()
}

impl Relayed {
    /// How long it may be kept; `None`: not at all.
    pub fn lifetime_seconds(&self) -> Option<u32> {
        self.lifetime_seconds
    }

    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// What it costs to keep it, with the key.
    pub(super) fn bytes(&self, key: &Key) -> usize {
        size_of::<Self>() + self.message.len() + size_of_val(&self.ttls[..]) + 2 * key.bytes()
    }

    /// The answer to a query that has the same [`Query::key`], so long after it came.
    pub fn answer(&self, query: &Query, age_seconds: u32, room: usize) -> Vec<u8> {
        let mut message = self.message.clone();
        for at in &self.ttls {
            let left = u32_at(&message, *at).unwrap_or(0).saturating_sub(age_seconds);
            message[*at..*at + 4].copy_from_slice(&left.to_be_bytes());
        }
        set_u16(&mut message, 0, query.id);
        let flags = u16_at(&message, 2).unwrap_or(0);
        // Whose authority it was is not here; what the client wished is said as it said it.
        let flags = (flags & !(bits::AUTHORITATIVE | bits::RECURSION_DESIRED))
            | (query.flags & bits::RECURSION_DESIRED);
        set_u16(&mut message, 2, flags);
        message[HEADER_BYTES..HEADER_BYTES + query.question.len()].copy_from_slice(&query.question);
        if query.edns.is_some() {
            let additional = u16_at(&message, 10).unwrap_or(0).saturating_add(1);
            set_u16(&mut message, 10, additional);
            reply::append_opt(query, Code::NoError, &mut message);
        }
        if message.len() <= room { message } else { reply::truncated(query, 0) }
    }
}
