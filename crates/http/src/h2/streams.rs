//! The streams of a connection: a slab by index, a table from numbers to indices, and what is remembered of the dead.
//!
//! The table holds streams that are not over: a frame on any other number is late, or a mistake. It is open-addressed with the
//! number as its own hash: numbers count up, so that streams opened one after the other lie side by side. A slot of the
//! slab is used again only when the driver has released it.

use super::StreamId;
use super::window::StreamWindow;
use crate::BodyLength;
use crate::h1::RequestMethod;

#[derive(Debug)]
pub(super) struct Stream {
    /// 0: the slot is free.
    number: u32,
    pub(super) life: Life,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// Of the request, at either end.
    pub(super) method: RequestMethod,
    pub(super) interim: u32,
    /// Of the message that is received.
    pub(super) body_length: BodyLength,
    /// Bytes that must still come, or be sent, if the head declared them.
    pub(super) receive_left: Option<u64>,
    pub(super) send_left: Option<u64>,
    /// A response that has no body, whatever it declares.
    pub(super) is_bodiless: bool,
    /// May be below zero after a change of SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.9.2).
    pub(super) send_window: i64,
    pub(super) window: StreamWindow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// Ended in both directions, or reset.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Head,
    Body,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Head,
    Body,
    Ended,
    /// Ended with its head, because no body may follow such a one: a driver that passes one on is let be, its bytes are dropped.
    EndedWithHead,
}

impl Sending {
    pub(super) fn is_ended(self) -> bool {
        matches!(self, Self::Ended | Self::EndedWithHead)
    }
}

impl Stream {
    pub(super) fn new(method: RequestMethod, send_window: u32) -> Self {
        Self {
            number: 0,
            life: Life::Open,
            receiving: Receiving::Head,
            sending: Sending::Head,
            method,
            interim: 0,
            body_length: BodyLength::None,
            receive_left: None,
            send_left: None,
            is_bodiless: false,
            send_window: i64::from(send_window),
            window: StreamWindow::default(),
        }
    }

    /// All that was declared and has not come may be sent without further credit, unless the peer pads it.
    pub(super) fn rest_fits_window(&self) -> bool {
        self.receive_left.is_some_and(|left| left <= u64::from(self.window.left()))
    }
}

/// What a number stands for that is in use or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// We ended it: what comes was on its way, and is ignored.
    ResetByUs,
    /// Its peer had ended it, or never opened it.
    Other,
}

#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    table: Table,
    resets: Resets,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), table: Table::new(), resets: Resets::default() }
    }

    /// Streams that are not over.
    pub(super) fn open(&self) -> usize {
        self.table.count
    }

    /// Streams that are not released.
    pub(super) fn held(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, number: u32, stream: Stream) -> StreamId {
        let stream = Stream { number, ..stream };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = stream;
                index
            }
            None => {
                self.slots.push(stream);
                // At most `unreleased_streams_max` of them.
                (self.slots.len() - 1) as u32
            }
        };
        self.table.insert(number, index);
        StreamId { number, index }
    }

    /// The stream of that number that is not over.
    pub(super) fn find(&self, number: u32) -> Option<StreamId> {
        self.table.find(number).map(|index| StreamId { number, index })
    }

    /// Also after it is over; not after it was released.
    pub(super) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.slots.get(id.index()).filter(|stream| stream.number == id.number)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.slots.get_mut(id.index()).filter(|stream| stream.number == id.number)
    }

    pub(super) fn open_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.get_mut(id).filter(|stream| stream.life == Life::Open)
    }

    /// All that are not over.
    pub(super) fn iter_open(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().filter(|stream| stream.number != 0 && stream.life == Life::Open)
    }

    /// The first stream at or behind this index that is not over and has a number above `last`.
    pub(super) fn above(&self, last: u32, from: usize) -> Option<StreamId> {
        let slots = self.slots.iter().enumerate().skip(from);
        let mut above = slots.filter(|(_, stream)| stream.number > last && stream.life == Life::Open);
        above.next().map(|(index, stream)| StreamId { number: stream.number, index: index as u32 })
    }

    /// The stream is over; it keeps its slot until it is released. By how much its window had grown.
    pub(super) fn end(&mut self, id: StreamId) -> u32 {
        let Some(stream) = self.open_mut(id) else { return 0 };
        stream.life = Life::Over;
        let growth = stream.window.growth();
        self.table.remove(id.number);
        growth
    }

    /// Its slot may be used again.
    pub(super) fn release(&mut self, id: StreamId) {
        if let Some(stream) = self.get_mut(id) {
            debug_assert!(stream.life == Life::Over, "released while frames may still find it");
            stream.number = 0;
            self.free.push(id.index);
        }
    }

    pub(super) fn remember_reset(&mut self, number: u32) {
        self.resets.add(number);
    }

    /// What all of this holds on to.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>()
            + (self.free.capacity() + self.resets.numbers.capacity()) * size_of::<u32>()
            + self.table.places.capacity() * size_of::<(u32, u32)>()
    }

    /// Of a number that is not open.
    pub(super) fn memory(&self, number: u32) -> Memory {
        if self.resets.contains(number) { Memory::ResetByUs } else { Memory::Other }
    }
}

/// The last streams that we reset. What is older than all of them may have been reset, too: it gets the benefit of the doubt.
#[derive(Debug, Default)]
struct Resets {
    numbers: Vec<u32>,
    next: usize,
    doubtful: u32,
}

/// As many as can be open at once, twice: a round trip's worth of resets in nearly every case.
const RESETS_REMEMBERED_MAX: usize = 512;

impl Resets {
    fn add(&mut self, number: u32) {
        if self.numbers.len() < RESETS_REMEMBERED_MAX {
            self.numbers.push(number);
            return;
        }
        let forgotten = std::mem::replace(&mut self.numbers[self.next], number);
        self.doubtful = self.doubtful.max(forgotten);
        self.next = (self.next + 1) % RESETS_REMEMBERED_MAX;
    }

    fn contains(&self, number: u32) -> bool {
        number <= self.doubtful || self.numbers.contains(&number)
    }
}

/// From a stream's number to its index.
#[derive(Debug)]
struct Table {
    /// (number, index); number 0 is none. A power of two long, at most half full.
    places: Vec<(u32, u32)>,
    count: usize,
}

/// Enough for most connections of browsers and small pools.
const PLACES_MIN: usize = 16;

impl Table {
    fn new() -> Self {
        Self { places: vec![(0, 0); PLACES_MIN], count: 0 }
    }

    fn home(&self, number: u32) -> usize {
        // Numbers of one end are all odd: the lowest bit says nothing.
        (number >> 1) as usize & (self.places.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    fn find(&self, number: u32) -> Option<u32> {
        let mut place = self.home(number);
        loop {
            match self.places[place] {
                (0, _) => return None,
                (found, index) if found == number => return Some(index),
                _ => place = self.next(place),
            }
        }
    }

    fn insert(&mut self, number: u32, index: u32) {
        debug_assert!(number != 0 && self.find(number).is_none(), "a number is used once");
        if 2 * (self.count + 1) > self.places.len() {
            let larger = vec![(0, 0); 2 * self.places.len()];
            let old = std::mem::replace(&mut self.places, larger);
            for (number, index) in old.into_iter().filter(|(number, _)| *number != 0) {
                self.put(number, index);
            }
        }
        self.put(number, index);
        self.count += 1;
    }

    fn put(&mut self, number: u32, index: u32) {
        let mut place = self.home(number);
        while self.places[place].0 != 0 {
            place = self.next(place);
        }
        self.places[place] = (number, index);
    }

    /// Closes the gap, so that a search never has to step over dead places.
    fn remove(&mut self, number: u32) {
        let mut gap = self.home(number);
        while self.places[gap].0 != number {
            if self.places[gap].0 == 0 {
                return;
            }
            gap = self.next(gap);
        }
        self.count -= 1;
        let mut place = self.next(gap);
        while self.places[place].0 != 0 {
            let mask = self.places.len() - 1;
            let (from_home, from_gap) =
                (place.wrapping_sub(self.home(self.places[place].0)) & mask, place.wrapping_sub(gap) & mask);
            // It may move into the gap unless it would then stand before its home.
            if from_home >= from_gap {
                self.places[gap] = self.places[place];
                gap = place;
            }
            place = self.next(place);
        }
        self.places[gap] = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(RequestMethod::Other, 0)
    }

    #[test]
    fn a_number_leads_to_its_stream_until_it_is_over() {
        let mut streams = Streams::new();
        let ids: Vec<_> = (0..300).map(|n| streams.insert(2 * n + 1, stream())).collect();
        assert!(ids.iter().all(|id| streams.find(id.number()) == Some(*id)));
        for id in ids.iter().step_by(3) {
            streams.end(*id);
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(streams.find(id.number()).is_some(), n % 3 != 0, "stream {n}");
            assert!(streams.get(*id).is_some(), "over, but not released");
        }
        assert_eq!((streams.open(), streams.held()), (200, 300));
    }

    #[test]
    fn an_index_is_used_again_only_after_release() {
        let mut streams = Streams::new();
        let first = streams.insert(1, stream());
        streams.end(first);
        let second = streams.insert(3, stream());
        assert_ne!(first.index(), second.index());
        streams.release(first);
        let third = streams.insert(5, stream());
        assert_eq!(first.index(), third.index());
        assert!(streams.get(first).is_none(), "the old name no longer fits");
    }

    #[test]
    fn a_table_with_gaps_and_collisions_agrees_with_a_map() {
        let (mut table, mut map) = (Table::new(), std::collections::BTreeMap::new());
        let mut random = 1u64;
        for step in 0..20_000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = ((random >> 40) % 400) as u32 * 2 * 64 / 64 + 1;
            if map.remove(&number).is_some() {
                table.remove(number);
            } else if map.len() < 100 {
                table.insert(number, step);
                map.insert(number, step);
            }
            assert_eq!(table.count, map.len());
            assert_eq!(table.find(number), map.get(&number).copied());
        }
        assert!((1..800).step_by(2).all(|number| table.find(number) == map.get(&number).copied()));
        assert!(table.places.len() <= 256);
    }

    #[test]
    fn resets_are_remembered_and_the_forgotten_are_forgiven() {
        let mut streams = Streams::new();
        streams.remember_reset(7);
        assert_eq!((streams.memory(7), streams.memory(5)), (Memory::ResetByUs, Memory::Other));
        for n in 0..RESETS_REMEMBERED_MAX as u32 {
            streams.remember_reset(1_001 + 2 * n);
        }
        assert_eq!((streams.memory(5), streams.memory(7)), (Memory::ResetByUs, Memory::ResetByUs));
        assert_eq!((streams.memory(9), streams.memory(1_001)), (Memory::Other, Memory::ResetByUs));
        assert_eq!(streams.resets.numbers.len(), RESETS_REMEMBERED_MAX);
    }
}
