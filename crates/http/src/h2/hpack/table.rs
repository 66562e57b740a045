//! The dynamic table (RFC 7541, 2.3.2 and 4): entries by age, oldest out first.
//!
//! All text stands in one buffer, oldest first. A new entry is written behind it piece by piece (so a Huffman-coded
//! value is decoded to where it stays), then committed. Evicted text is left standing until it is as much as the
//! living; then the living moves to the front. Each byte moves at most once for each byte that was added, an entry's text
//! is always in one piece, and once the buffer has grown to twice the table nothing is allocated.

use std::collections::VecDeque;

/// What an entry costs beside its text (RFC 7541, 4.1).
pub(super) const ENTRY_OVERHEAD: usize = 32;

/// A buffer up to here is never given back to the allocator: it is what a table of the usual size grows to.
const BUFFER_KEPT_BYTES: usize = 2 * super::TABLE_BYTES_DEFAULT;

#[derive(Debug)]
pub(super) struct Table {
    /// Evicted text, the entries' text, and from `end` on what is being written.
    bytes: Vec<u8>,
    end: usize,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// As the RFC counts it: text and overhead.
    size: usize,
    size_max: usize,
}

/// Name and value stand one behind the other.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    name_length: u32,
    value_length: u32,
}

impl Entry {
    fn size(self) -> usize {
        (self.name_length + self.value_length) as usize + ENTRY_OVERHEAD
    }
}

impl Table {
    pub(super) fn new(size_max: usize) -> Self {
        Self { bytes: Vec::new(), end: 0, entries: VecDeque::new(), size: 0, size_max }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    pub(super) fn set_size_max(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_for(0);
    }

    /// (name, value) of an entry; the newest one has age 0.
    pub(super) fn get(&self, age: usize) -> Option<(&[u8], &[u8])> {
        Some(self.text(self.entry(age)?))
    }

    /// Makes ready for a new entry, which is then written to [`Table::buffer`]: the name, directly behind it the value.
    pub(super) fn start(&mut self) {
        self.bytes.truncate(self.end);
        let dead = self.entries.front().map_or(self.end, |oldest| oldest.start as usize);
        if dead > 0 && dead >= self.end - dead {
            self.bytes.copy_within(dead.., 0);
            self.end -= dead;
            self.bytes.truncate(self.end);
            self.entries.iter_mut().for_each(|entry| entry.start -= dead as u32);
        }
    }

    /// Where the new entry is written; what is there before it stays.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes the name of an entry that is there; it may be evicted by the one whose name it becomes.
    pub(super) fn copy_name(&mut self, age: usize) -> bool {
        let Some(Entry { start, name_length, .. }) = self.entry(age) else { return false };
        self.bytes.extend_from_within(start as usize..(start + name_length) as usize);
        true
    }

    /// What was written since [`Table::start`].
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes[self.end..]
    }

    /// Makes an entry of what was written, evicting older ones. One that is larger than the table empties
    /// it and is not added (RFC 7541, 4.4); either way name and value are lent once more.
    pub(super) fn commit(&mut self, name_length: usize) -> (&[u8], &[u8]) {
        // Far below 4 GiB: a block's length is bounded by the connection, and Huffman at most doubles it.
        let entry = Entry {
            start: self.end as u32,
            name_length: name_length as u32,
            value_length: (self.written().len() - name_length) as u32,
        };
        self.evict_for(entry.size());
        if entry.size() <= self.size_max {
            self.entries.push_back(entry);
            self.size += entry.size();
            self.end = self.bytes.len();
        }
        debug_assert!(self.size <= self.size_max, "the table holds more than it may");
        self.text(entry)
    }

    /// Gives back a buffer that an entry larger than the table has left behind.
    pub(super) fn trim(&mut self) {
        let kept = BUFFER_KEPT_BYTES.max(2 * self.size_max);
        if self.bytes.capacity() > 2 * kept {
            self.bytes.truncate(self.end);
            self.bytes.shrink_to(kept);
        }
    }

    fn evict_for(&mut self, size: usize) {
        while self.size + size > self.size_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.size -= oldest.size();
        }
    }

    fn entry(&self, age: usize) -> Option<Entry> {
        let newest = self.entries.len().checked_sub(1)?;
        self.entries.get(newest.checked_sub(age)?).copied()
    }

    fn text(&self, entry: Entry) -> (&[u8], &[u8]) {
        let (start, length) = (entry.start as usize, (entry.name_length + entry.value_length) as usize);
        self.bytes[start..start + length].split_at(entry.name_length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut Table, name: &str, value: &str) {
        table.start();
        table.buffer().extend_from_slice(name.as_bytes());
        table.buffer().extend_from_slice(value.as_bytes());
        assert_eq!(table.commit(name.len()), (name.as_bytes(), value.as_bytes()));
    }

    fn names(table: &Table) -> Vec<String> {
        let all = (0..table.len()).map(|age| String::from_utf8(table.get(age).unwrap().0.to_vec()).unwrap());
        all.collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut table = Table::new(100);
        ["a", "b", "c", "d"].iter().for_each(|name| add(&mut table, name, "1"));
        assert_eq!(names(&table), ["d", "c"], "34 bytes each");
        table.set_size_max(67);
        assert_eq!(names(&table), ["d"]);
        table.set_size_max(0);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::new(100);
        add(&mut table, "a", "1");
        add(&mut table, "b", &"x".repeat(100));
        assert_eq!((table.len(), table.size), (0, 0));
        add(&mut table, "c", "3");
        assert_eq!(names(&table), ["c"]);
    }

    #[test]
    fn an_entry_may_evict_the_one_whose_name_it_takes() {
        let mut table = Table::new(40);
        add(&mut table, "name", "1234");
        table.start();
        assert!(table.copy_name(0) && !table.copy_name(1));
        table.buffer().extend_from_slice(b"5");
        assert_eq!(table.commit(4), (&b"name"[..], &b"5"[..]));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_buffer_stays_within_twice_the_table() {
        let mut table = Table::new(4_096);
        for round in 0..10_000_usize {
            let value = "v".repeat(round * 7 % 900);
            add(&mut table, "name", &value);
            assert_eq!(table.get(0), Some((&b"name"[..], value.as_bytes())));
            assert!(table.bytes.capacity() <= BUFFER_KEPT_BYTES * 2, "{}", table.bytes.capacity());
        }
        add(&mut table, "name", &"x".repeat(100_000));
        table.trim();
        assert!(table.bytes.capacity() <= BUFFER_KEPT_BYTES * 2);
    }
}
