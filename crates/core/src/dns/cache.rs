//! Answers of the host's resolvers, kept as long as they allow and no longer.
//!
//! Both what is kept and its bytes have a limit. At the limit the answer goes that would go first anyway.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use meshwork_http::Instant;

use super::query::{Key, Query};
use super::relay::Relayed;

/// Answers: some ten times what an application talks to.
pub const ENTRIES_MAX: usize = 4_096;

/// Bytes of all of them. An answer has some 200; one with signatures, or hundreds of addresses, has thousands.
pub const BYTES_MAX: usize = 4 << 20;

/// However long a resolver allows: asking it once an hour costs nothing, and a wrong answer ends some day.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// Kept answers.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// By the moment of their end; the number tells two of one moment apart.
    ends: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    inserted: u64,
}

#[derive(Debug)]
struct Entry {
    relayed: Relayed,
    since: Instant,
    end: (Instant, u64),
}

impl Cache {
    /// The kept answer to this query, as it is now.
    pub fn answer(&self, query: &Query, room: usize, now: Instant) -> Option<Vec<u8>> {
        let entry = self.entries.get(&query.key()).filter(|entry| now < entry.end.0)?;
        // Rounded up, so that no record lives longer here than it was given.
        let age = now.since(entry.since);
        let age = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        Some(entry.relayed.answer(query, u32::try_from(age).unwrap_or(u32::MAX), room))
    }

    /// Keeps an answer if it may be kept. How many others, which were still good, had to go for it.
    pub fn keep(&mut self, query: &Query, relayed: Relayed, now: Instant) -> usize {
        let Some(seconds) = relayed.lifetime_seconds() else { return 0 };
        let key = query.key();
        self.remove(&key);
        self.inserted += 1;
        let end = (now + LIFETIME_MAX.min(Duration::from_secs(seconds.into())), self.inserted);
        self.bytes += relayed.bytes(&key);
        self.ends.insert(end, key.clone());
        self.entries.insert(key, Entry { relayed, since: now, end });
        self.make_room(now)
    }

    /// Whose time has come goes.
    pub fn forget_old(&mut self, now: Instant) {
        while let Some(first) = self.ends.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.get().clone();
            self.remove(&key);
        }
    }

    /// Resolvers were replaced, and with them what they say.
    pub fn clear(&mut self) {
        *self = Self { inserted: self.inserted, ..Self::default() };
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self, now: Instant) -> usize {
        if self.has_room() {
            return 0;
        }
        self.forget_old(now);
        let mut gone = 0;
        while !self.has_room()
            && let Some(first) = self.ends.first_entry()
        {
            let key = first.get().clone();
            self.remove(&key);
            gone += 1;
        }
        gone
    }

    fn has_room(&self) -> bool {
        self.entries.len() <= ENTRIES_MAX && self.bytes <= BYTES_MAX
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.relayed.bytes(key);
            self.ends.remove(&entry.end);
        }
    }
}
