//! Finds a name or a field in the encoder's dynamic table without walking through it.
//!
//! Each hash leads to the newest entry with it, each entry to the next older one. Entries are numbered as they
//! come, so evicted ones need not be taken out: their number says that they are gone, and all behind them too.

use std::collections::VecDeque;

use super::table::Table;

/// A table of the usual size has some 60 entries, so a chain is one or two long.
const BUCKETS: usize = 64;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Name,
    Field,
}

#[derive(Debug)]
pub(super) struct Lookup {
    /// The number of the newest entry of each hash, [`By::Name`] and [`By::Field`].
    newest: [[u32; BUCKETS]; 2],
    /// In step with the table's entries, oldest first.
    links: VecDeque<Link>,
    /// How many entries there were ever: the newest one's number. It may wrap around.
    number: u32,
}

/// For both kinds of [`By`].
#[derive(Clone, Copy, Debug)]
struct Link {
    hash: [u32; 2],
    older: [u32; 2],
}

impl Lookup {
    pub(super) fn new() -> Self {
        Self { newest: [[0; BUCKETS]; 2], links: VecDeque::new(), number: 0 }
    }

    /// Follows the table after an entry was committed, whether or not it was added.
    pub(super) fn added(&mut self, table: &Table, name_hash: u64, field_hash: u64) {
        let hash = [name_hash as u32, field_hash as u32];
        self.number = self.number.wrapping_add(1);
        let older = [By::Name, By::Field].map(|by| self.newest[by as usize][bucket(hash[by as usize])]);
        for by in [By::Name, By::Field] {
            self.newest[by as usize][bucket(hash[by as usize])] = self.number;
        }
        self.links.push_back(Link { hash, older });
        self.evicted(table);
    }

    /// Follows the table after entries may have been evicted.
    pub(super) fn evicted(&mut self, table: &Table) {
        let gone = self.links.len().saturating_sub(table.len());
        self.links.drain(..gone);
        debug_assert_eq!(self.links.len(), table.len(), "the look-up has lost step with its table");
    }

    /// The age of the newest entry with that hash which `is` accepts.
    pub(super) fn find(&self, by: By, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        let hash = hash as u32;
        let mut number = self.newest[by as usize][bucket(hash)];
        let mut oldest_seen = None;
        loop {
            let age = self.number.wrapping_sub(number) as usize;
            // A number of four thousand million entries ago may look young again. What it leads to is compared as
            // any other, and a chain that does not lead on to older ones ends.
            if age >= self.links.len() || oldest_seen.is_some_and(|seen| age <= seen) {
                return None;
            }
            let link = self.links[self.links.len() - 1 - age];
            if link.hash[by as usize] == hash && is(age) {
                return Some(age);
            }
            oldest_seen = Some(age);
            number = link.older[by as usize];
        }
    }
}

fn bucket(hash: u32) -> usize {
    hash as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose entries are numbers, all under one name; every second hash is the same.
    fn add(table: &mut Table, lookup: &mut Lookup, value: u64) {
        table.start();
        table.buffer().extend_from_slice(format!("n{value}").as_bytes());
        table.commit(1);
        lookup.added(table, 7, value % 2);
    }

    fn find(table: &Table, lookup: &Lookup, value: u64) -> Option<usize> {
        let text = value.to_string();
        lookup.find(By::Field, value % 2, |age| table.get(age) == Some((b"n", text.as_bytes())))
    }

    #[test]
    fn what_is_in_the_table_is_found_and_nothing_else() {
        let (mut table, mut lookup) = (Table::new(34 * 5), Lookup::new());
        // So that numbers wrap around on the way.
        lookup.number = u32::MAX - 20;
        for value in 10..60 {
            add(&mut table, &mut lookup, value);
            for other in 10..60 {
                let age = (value - other.min(value)) as usize;
                let expect = (other <= value && age < table.len()).then_some(age);
                assert_eq!(find(&table, &lookup, other), expect, "{other} after {value}");
            }
            assert_eq!(lookup.find(By::Name, 7, |_| true), Some(0), "the newest of that name");
            assert_eq!(lookup.find(By::Name, 8, |_| true), None);
        }
        table.set_size_max(0);
        lookup.evicted(&table);
        assert_eq!(find(&table, &lookup, 59), None);
    }
}
