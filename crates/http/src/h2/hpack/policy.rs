//! Which fields the encoder gives a place in the table, and what it knows of names beforehand.
//!
//! Between sidecars bytes are cheap and CPU time is dear, and one connection carries the requests of many users.
//! So three rules, by name:
//! - *secrets* are never indexed, and say so to every further hop (RFC 7541, 7.1.3): credentials and cookies of all
//!   users would share one table, and on a shared connection they seldom come again before they are evicted;
//! - *what differs with every message* (request and trace IDs, dates, lengths, validators) is written as it is: looking
//!   for it would cost more than its few bytes, and each would push something useful out;
//! - *everything else*, names that we never heard of and paths included, is indexed when it comes the second time. A path of gRPC
//!   or a user agent is in the table at once for all that matters; a path with an ID in it never takes a place.
//!
//! A few names whose values hardly vary are indexed at first sight.

use super::hash;
use super::static_table::ENTRIES;

/// How a field is written (RFC 7541, 6). What is in a table already is a number, except with [`Indexing::Never`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// As its name makes sensible; see the file's header.
    Usual,
    /// Gets a place in the table now.
    Incremental,
    /// Gets a place in the table if it was written before, not long ago.
    Repeated,
    /// Gets no place, and is not looked for.
    Without,
    /// Gets no place here nor at any further hop. A field that arrived so must be sent on so (RFC 7541, 6.2.3).
    Never,
}

/// A name that is in the static table, has a policy, or both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) name: &'static str,
    /// The first static entry of that name, and how many there are.
    pub(super) index: usize,
    pub(super) entries: usize,
    pub(super) usual: Indexing,
}

const SECRET: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
];

const VARYING: &[&str] = &[
    "age",
    "b3",
    "content-length",
    "content-range",
    "date",
    "etag",
    "expires",
    "grpc-timeout",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "range",
    "retry-after",
    "traceparent",
    "tracestate",
    "x-amzn-trace-id",
    "x-b3-parentspanid",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-correlation-id",
    "x-envoy-upstream-service-time",
    "x-request-id",
    "x-response-time",
    "x-runtime",
];

const STEADY: &[&str] = &[
    ":authority",
    ":method",
    ":protocol",
    ":scheme",
    ":status",
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-status",
    "server",
    "te",
    "user-agent",
    "vary",
];

/// What is known of a name in any case, by its hash.
pub(super) fn named(name: &[u8], hash: u64) -> Option<&'static Named> {
    let mut slot = hash as usize % SLOTS;
    loop {
        let named = &NAMED[usize::from(TABLE[slot].checked_sub(1)?)];
        if hash::same_name(name, named.name.as_bytes()) {
            return Some(named);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Names of the static table that are not in a list above, and all lists.
const NAMES_MAX: usize = 96;
/// A power of two, well above the number of names: a look nearly always finds the name or nothing.
const SLOTS: usize = 512;
static NAMED: [Named; NAMES_MAX] = collect().0;
/// Hash to place in `NAMED`, one more; 0 is free.
static TABLE: [u8; SLOTS] = spread();

/// All names, and how many.
const fn collect() -> ([Named; NAMES_MAX], usize) {
    let mut names = [Named { name: "", index: 0, entries: 0, usual: Indexing::Repeated }; NAMES_MAX];
    let mut count = 0;
    let mut index = 0;
    while index < ENTRIES.len() {
        let name = ENTRIES[index].0;
        if count > 0 && equal(names[count - 1].name, name) {
            names[count - 1].entries += 1;
        } else {
            names[count] = Named { name, index: index + 1, entries: 1, usual: Indexing::Repeated };
            count += 1;
        }
        index += 1;
    }
    count = add(&mut names, count, SECRET, Indexing::Never);
    count = add(&mut names, count, VARYING, Indexing::Without);
    count = add(&mut names, count, STEADY, Indexing::Incremental);
    (names, count)
}

const fn add(names: &mut [Named], mut count: usize, list: &[&'static str], usual: Indexing) -> usize {
    let mut next = 0;
    while next < list.len() {
        let mut place = 0;
        while place < count && !equal(names[place].name, list[next]) {
            place += 1;
        }
        if place == count {
            names[place] = Named { name: list[next], index: 0, entries: 0, usual };
            count += 1;
        }
        names[place].usual = usual;
        next += 1;
    }
    count
}

const fn spread() -> [u8; SLOTS] {
    let (names, count) = collect();
    let mut table = [0; SLOTS];
    let mut place = 0;
    while place < count {
        let mut slot = hash::name(names[place].name.as_bytes()) as usize % SLOTS;
        while table[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = place as u8 + 1;
        place += 1;
    }
    table
}

const fn equal(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<&'static Named> {
        named(name.as_bytes(), hash::name(name.as_bytes()))
    }

    #[test]
    fn every_static_name_leads_to_its_first_entry() {
        for (index, (name, _)) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|(other, _)| other == name).unwrap();
            let named = find(name).unwrap();
            assert_eq!((named.name, named.index), (*name, first + 1));
            assert!((named.index..named.index + named.entries).contains(&(index + 1)));
        }
    }

    #[test]
    fn names_have_their_policy_in_any_case() {
        for (name, usual) in [
            ("Authorization", Indexing::Never),
            ("cookie", Indexing::Never),
            ("X-Request-ID", Indexing::Without),
            ("traceparent", Indexing::Without),
            ("Date", Indexing::Without),
            (":path", Indexing::Repeated),
            ("via", Indexing::Repeated),
            ("User-Agent", Indexing::Incremental),
            (":protocol", Indexing::Incremental),
        ] {
            assert_eq!(find(name).unwrap().usual, usual, "{name}");
        }
        assert!(find("x-other").is_none() && find("").is_none());
    }

    #[test]
    fn lists_do_not_overlap() {
        let mut all = [SECRET, VARYING, STEADY].concat();
        let length = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), length);
    }
}
