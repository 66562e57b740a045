//! Endpoints that are chosen among: of one health, and equally near. A draw gives each its weight's share.
//!
//! Each endpoint owns an interval of `0..total` that is as long as its weight; a random place is somebody's. Who is not
//! fit is drawn past (`Fitness`). For hashes there is a table beside the intervals (`table.rs`).

use super::table::Table;
use super::{Choice, Fitness, GOLDEN, Tried, mix};
use crate::model::HashTable;
use crate::retry::ENDPOINTS_TRIED_MAX;

/// How often another endpoint is drawn for one that is not fit, before they are looked at one after the other. With
/// half of them ejected, one request in 256 looks.
const DRAWS_MAX: u64 = 8;

/// Endpoints of one health: each owns an interval of `0..total`, as long as its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tier {
    /// Ordered by `end`, and by `index` too.
    entries: Vec<Entry>,
    total: u64,
    /// Coprime to `total`: round robin steps through the intervals so, and meets each place once a round.
    step: u64,
    /// Of services that are balanced by hash.
    table: Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) index: usize,
    pub(super) weight: u64,
    /// Where its interval ends; it begins where the one before ends.
    end: u64,
}

impl Tier {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn push(&mut self, index: usize, weight: u32) {
        if weight > 0 {
            self.total += u64::from(weight);
            self.entries.push(Entry { index, weight: weight.into(), end: self.total });
        }
    }

    /// Reduces the weights by their common divisor, so that equal weights take turns in plain order, and
    /// finds the step.
    pub(super) fn finish(&mut self) {
        let divisor = self.entries.iter().fold(0, |divisor, entry| gcd(divisor, entry.weight));
        for entry in &mut self.entries {
            entry.weight /= divisor;
            entry.end /= divisor;
        }
        self.total = self.total.checked_div(divisor).unwrap_or(0);
        self.step = step(self.total, self.entries.len() as u64);
    }

    /// For keys to belong somewhere. Endpoints are told apart by `address`.
    pub(super) fn tabulate(&mut self, table: HashTable, address: impl Fn(usize) -> String) {
        let members: Vec<_> = self.entries.iter().map(|entry| (address(entry.index), entry.weight)).collect();
        self.table = Table::new(table, &members);
    }

    pub(super) fn any(&self, fitness: impl Fn(usize) -> Fitness, turn: u64, tried: Tried) -> Choice {
        self.draw_fit(mix(turn), &self.without(tried), fitness).into()
    }

    /// `is_better(second, first)`: the second of two takes the turn.
    pub(super) fn better_of_two(
        &self,
        is_better: impl Fn(Entry, Entry) -> bool,
        fitness: impl Fn(usize) -> Fitness,
        turn: u64,
        tried: Tried,
    ) -> Choice {
        let mut without = self.without(tried);
        let (first_random, second_random) = (mix(turn), mix(turn.wrapping_add(GOLDEN)));
        let first = match self.draw_fit(first_random, &without, &fitness) {
            Drawn::Entry(entry) => entry,
            drawn @ (Drawn::Full | Drawn::Nobody) => return drawn.into(),
        };
        without.add(first);
        let Drawn::Entry(second) = self.draw_fit(second_random, &without, &fitness) else {
            return Choice::Endpoint(first.index);
        };
        // A tie goes to the first, which was drawn by weight alone: an idle mesh honours weights exactly.
        Choice::Endpoint(if is_better(second, first) { second.index } else { first.index })
    }

    /// Whom the key belongs to. Who takes only a share of its turns takes that share of its keys, and always the same ones.
    pub(super) fn of_key(&self, fitness: impl Fn(usize) -> Fitness, key: u64, tried: Tried) -> Choice {
        let random = mix(key);
        let walked = self.table.walk(key).filter_map(|place| self.entries.get(place));
        let is_fit = |entry: &&Entry| !tried.contains(entry.index) && fitness(entry.index).accepts(random);
        match walked.into_iter().find(is_fit) {
            Some(entry) => Choice::Endpoint(entry.index),
            None => self.look(random, &self.without(tried), &fitness).into(),
        }
    }

    pub(super) fn next_in_turn(&self, fitness: impl Fn(usize) -> Fitness, turn: u64, tried: Tried) -> Choice {
        if self.total == 0 {
            return Choice::Nobody;
        }
        let place = u128::from(turn % self.total) * u128::from(self.step) % u128::from(self.total);
        if let Some(entry) = self.entries.get(self.position(place as u64))
            && !tried.contains(entry.index)
            && fitness(entry.index).accepts(mix(turn))
        {
            return Choice::Endpoint(entry.index);
        }
        // Its turn is anybody's: always the next one's would double that one's share.
        self.draw_fit(mix(turn.wrapping_add(GOLDEN)), &self.without(tried), &fitness).into()
    }

    fn without(&self, tried: Tried) -> Without {
        let mut without = Without::default();
        let tried = tried.0.into_iter().map_while(|tried| tried); // they stand in front
        tried.filter_map(|index| self.entry_of(index)).for_each(|out| without.add(out));
        without
    }

    /// Draws until somebody takes the turn. Who takes only a share of its turns leaves the rest to others, so shares
    /// and weights hold together; alone it takes them all.
    fn draw_fit(&self, mut random: u64, without: &Without, fitness: impl Fn(usize) -> Fitness) -> Drawn {
        for _ in 0..DRAWS_MAX {
            let Some(entry) = self.draw(random, without) else { return Drawn::Nobody };
            random = mix(random);
            if fitness(entry.index).accepts(random) {
                return Drawn::Entry(entry);
            }
        }
        self.look(random, without, fitness)
    }

    /// Looks at one after the other, from a random one on.
    fn look(&self, random: u64, without: &Without, fitness: impl Fn(usize) -> Fitness) -> Drawn {
        let start = crate::route::share(random, self.total).map_or(0, |place| self.position(place));
        let (before, from) = self.entries.split_at(start);
        let mut found = Drawn::Nobody;
        for entry in from.iter().chain(before).filter(|entry| !without.contains(entry.index)) {
            match fitness(entry.index) {
                Fitness::Share(_) => return Drawn::Entry(*entry),
                Fitness::Full => found = Drawn::Full,
                Fitness::Ejected => {}
            }
        }
        found
    }

    /// The endpoint at a random place outside the intervals of those that are left out.
    fn draw(&self, random: u64, without: &Without) -> Option<Entry> {
        let mut place = crate::route::share(random, self.total.checked_sub(without.weight())?)?;
        // In order of their intervals: each that begins at or before the place moves it on.
        for out in without.entries() {
            if place >= out.end - out.weight {
                place += out.weight;
            }
        }
        self.entries.get(self.position(place)).copied()
    }

    /// Whose interval holds the place.
    fn position(&self, place: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= place)
    }

    fn entry_of(&self, index: usize) -> Option<Entry> {
        let found = self.entries.binary_search_by_key(&index, |entry| entry.index).ok()?;
        self.entries.get(found).copied()
    }
}

/// What came of drawing.
enum Drawn {
    Entry(Entry),
    Full,
    Nobody,
}

impl From<Drawn> for Choice {
    fn from(drawn: Drawn) -> Self {
        match drawn {
            Drawn::Entry(entry) => Self::Endpoint(entry.index),
            Drawn::Full => Self::Full,
            Drawn::Nobody => Self::Nobody,
        }
    }
}

/// Entries that a draw leaves out, each once, in the order of their intervals: what was tried, and the first
/// of the two choices.
#[derive(Default)]
struct Without([Option<Entry>; ENDPOINTS_TRIED_MAX + 1]);

impl Without {
    fn add(&mut self, entry: Entry) {
        let mut carried = Some(entry);
        for place in &mut self.0 {
            if place.is_none_or(|there| carried.is_some_and(|carried| carried.end < there.end)) {
                std::mem::swap(place, &mut carried);
            }
        }
        debug_assert!(carried.is_none(), "more left out than tries and one choice");
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flatten()
    }

    fn contains(&self, index: usize) -> bool {
        self.entries().any(|entry| entry.index == index)
    }

    fn weight(&self) -> u64 {
        self.entries().map(|entry| entry.weight).sum()
    }
}

/// With equal weights 1, the plain order. Otherwise the number coprime to `total` next to `total` divided by
/// the golden ratio: neighbours in time are far apart in place, so a heavy endpoint's turns are spread out.
fn step(total: u64, entries: u64) -> u64 {
    if total <= 2 || total == entries {
        return 1;
    }
    let golden = ((u128::from(total) * u128::from(GOLDEN)) >> 64) as u64;
    (golden.max(1)..total).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
