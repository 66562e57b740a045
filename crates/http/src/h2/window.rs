//! Windows (RFC 9113, 5.2 and 6.9): what the peer may send, and when it is given credit.
//!
//! The connection's window is large and credited on receipt, so that a stream whose reader stalls never holds up the others. A
//! stream's window is credited as its reader takes the bytes. It begins small, because each window is memory that a stalled
//! reader makes us hold, and doubles as long as round trips are what holds the stream up: when a whole window was taken within two
//! of them.

use std::time::Duration;

use super::Limits;
use crate::Instant;

/// A window's first size (6.9.2): what holds before the peer has seen our SETTINGS.
pub(super) const WINDOW_BYTES_DEFAULT: u32 = 65_535;

/// What the peer may send on the connection.
#[derive(Debug)]
pub(super) struct ConnectionWindow {
    size: u32,
    left: u32,
}

/// More came than was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded;

impl ConnectionWindow {
    /// A window of that size, and by how much the peer must be told that it grew.
    pub(super) fn new(size: u32) -> (Self, Option<u32>) {
        let size = size.max(WINDOW_BYTES_DEFAULT);
        (Self { size, left: size }, Some(size - WINDOW_BYTES_DEFAULT).filter(|growth| *growth > 0))
    }

    /// Of which only so much is left, and none is given.
    #[cfg(test)]
    pub(super) fn without_credit(left: u32) -> Self {
        Self { size: WINDOW_BYTES_DEFAULT, left }
    }

    /// A DATA frame came. Credit to be given, if half of the window is used up: fewer frames than one for each.
    pub(super) fn received(&mut self, bytes: usize) -> Result<Option<u32>, Exceeded> {
        let bytes = u32::try_from(bytes).map_err(|_| Exceeded)?;
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded)?;
        if self.left > self.size / 2 {
            return Ok(None);
        }
        let credit = self.size - self.left;
        self.left = self.size;
        Ok(Some(credit))
    }
}

/// What the peer may send on one stream.
///
/// Invariant: `left`, `taken` and what the reader has not taken yet are together `size`.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamWindow {
    size: u32,
    left: u32,
    /// Taken by the reader, or grown by, and not yet credited.
    taken: u32,
    /// Taken since `round`.
    round_taken: u32,
    /// When the first byte of the current window was taken.
    round: Option<Instant>,
}

impl Default for StreamWindow {
    fn default() -> Self {
        let size = WINDOW_BYTES_DEFAULT;
        Self { size, left: size, taken: 0, round_taken: 0, round: None }
    }
}

impl StreamWindow {
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = u32::try_from(bytes).map_err(|_| Exceeded)?;
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Padding, which nobody takes, or bytes for which the window need not grow.
    pub(super) fn skipped(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u32).min(self.size - self.left);
    }

    /// What the peer may still send without further credit.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// By how much it has grown.
    pub(super) fn growth(&self) -> u32 {
        self.size - WINDOW_BYTES_DEFAULT
    }

    /// The reader took bytes: a window that it takes as fast as round trips allow grows.
    pub(super) fn taken(&mut self, bytes: usize, now: Instant, growth: &mut Growth, limits: &Limits) {
        let outstanding = self.size - self.left - self.taken;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(outstanding);
        self.taken += bytes;
        self.round_taken = self.round_taken.saturating_add(bytes);
        let round = *self.round.get_or_insert(now);
        if self.round_taken >= self.size {
            if growth.is_held_up(now.since(round)) {
                let grown = growth.grow(self.size, limits);
                self.size += grown;
                self.taken += grown;
            }
            (self.round, self.round_taken) = (None, 0);
        }
    }

    /// Credit to be given, at half a window.
    pub(super) fn credit(&mut self) -> Option<u32> {
        if self.taken < self.size / 2 {
            return None;
        }
        let credit = std::mem::take(&mut self.taken);
        self.left += credit;
        Some(credit)
    }
}

/// What all streams' windows share: the round trip, and how much they have grown together.
#[derive(Debug, Default)]
pub(super) struct Growth {
    round_trip: Option<Duration>,
    measured: Instant,
    grown: u32,
}

/// How long a measured round trip is believed.
const ROUND_TRIP_FRESH: Duration = Duration::from_secs(10);

impl Growth {
    /// A PING of ours was answered. The shortest is nearest to the truth, but the way may have changed: it drifts upwards.
    pub(super) fn measured(&mut self, round_trip: Duration, now: Instant) {
        self.measured = now;
        self.round_trip = Some(match self.round_trip {
            Some(known) if known < round_trip => known + (round_trip - known) / 8,
            _ => round_trip,
        });
    }

    /// Whether it is time to measure.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.round_trip.is_none() || now.since(self.measured) >= ROUND_TRIP_FRESH
    }

    /// A stream is over: what its window had grown by is free again.
    pub(super) fn give_back(&mut self, growth: u32) {
        debug_assert!(self.grown >= growth, "given back twice");
        self.grown -= growth;
    }

    /// A reader takes a whole window as fast as round trips allow one to be sent.
    fn is_held_up(&self, elapsed: Duration) -> bool {
        self.round_trip.is_some_and(|round_trip| elapsed <= 2 * round_trip)
    }

    /// By how much a window of that size may grow now.
    fn grow(&mut self, size: u32, limits: &Limits) -> u32 {
        let room = limits.grown_windows_bytes_max.saturating_sub(self.grown);
        let growth = size.min(limits.stream_window_bytes_max.saturating_sub(size)).min(room);
        self.grown += growth;
        growth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(10);

    /// Takes a whole window in pieces over `elapsed`; the credit that was given.
    fn window(window: &mut StreamWindow, growth: &mut Growth, now: &mut Instant, elapsed: Duration) -> u32 {
        let (limits, pieces) = (Limits::default(), 8);
        let mut credit = 0;
        let size = window.size;
        for piece in 0..pieces {
            let bytes = (size / pieces + if piece == 0 { size % pieces } else { 0 }) as usize;
            window.received(bytes).unwrap();
            if piece > 0 {
                *now += elapsed / (pieces - 1);
            }
            window.taken(bytes, *now, growth, &limits);
            credit += window.credit().unwrap_or(0);
        }
        credit
    }

    #[test]
    fn a_window_that_round_trips_hold_up_doubles_to_its_limit() {
        let (mut stream, mut growth, mut now) =
            (StreamWindow::default(), Growth::default(), Instant::default());
        growth.measured(TRIP, now);
        let mut sizes = Vec::new();
        for _ in 0..8 {
            window(&mut stream, &mut growth, &mut now, 2 * TRIP);
            sizes.push(stream.size);
        }
        assert_eq!(sizes[..3], [131_070, 262_140, 524_280]);
        assert_eq!(sizes[6..], [4 * 1024 * 1024, 4 * 1024 * 1024]);
        assert_eq!(stream.left + stream.taken, stream.size);
        growth.give_back(stream.growth());
        assert_eq!(growth.grown, 0);
    }

    #[test]
    fn a_reader_slower_than_round_trips_needs_no_more() {
        let (mut stream, mut growth, mut now) =
            (StreamWindow::default(), Growth::default(), Instant::default());
        window(&mut stream, &mut growth, &mut now, TRIP);
        assert_eq!(stream.size, WINDOW_BYTES_DEFAULT, "not measured yet");
        growth.measured(TRIP, now);
        for _ in 0..8 {
            window(&mut stream, &mut growth, &mut now, 3 * TRIP);
        }
        assert_eq!(stream.size, WINDOW_BYTES_DEFAULT);
    }

    #[test]
    fn all_windows_together_grow_to_a_limit() {
        let (mut growth, mut now) = (Growth::default(), Instant::default());
        growth.measured(TRIP, now);
        let mut streams = [StreamWindow::default(); 8];
        for _ in 0..10 {
            for stream in &mut streams {
                window(stream, &mut growth, &mut now, TRIP);
            }
        }
        let total: u32 = streams.iter().map(StreamWindow::growth).sum();
        assert_eq!(total, Limits::default().grown_windows_bytes_max);
    }

    #[test]
    fn credit_comes_at_half_a_window_and_never_for_more_than_came() {
        let (mut stream, mut growth) = (StreamWindow::default(), Growth::default());
        let mut take = |stream: &mut StreamWindow, bytes| {
            stream.taken(bytes, Instant::default(), &mut growth, &Limits::default());
            stream.credit()
        };
        stream.received(40_000).unwrap();
        assert_eq!(take(&mut stream, 30_000), None);
        assert_eq!(take(&mut stream, 30_000), Some(40_000), "10,000 were left");
        assert_eq!(stream.left, WINDOW_BYTES_DEFAULT);
        stream.received(40_000).unwrap();
        stream.skipped(39_999);
        assert_eq!(take(&mut stream, 1), Some(40_000));
        assert_eq!(stream.received(65_536), Err(Exceeded));
    }

    #[test]
    fn the_connection_is_credited_on_receipt() {
        let (mut window, growth) = ConnectionWindow::new(100_000);
        assert_eq!(growth, Some(34_465));
        assert_eq!(window.received(49_999), Ok(None));
        assert_eq!(window.received(1), Ok(Some(50_000)));
        assert_eq!(window.received(100_001), Err(Exceeded));
    }

    #[test]
    fn a_round_trip_drifts_upwards_and_drops_at_once() {
        let (mut growth, now) = (Growth::default(), Instant::default());
        assert!(growth.is_stale(now));
        growth.measured(Duration::from_millis(8), now);
        growth.measured(Duration::from_millis(16), now);
        assert_eq!(growth.round_trip, Some(Duration::from_millis(9)));
        growth.measured(Duration::from_millis(2), now);
        assert_eq!(growth.round_trip, Some(Duration::from_millis(2)));
        assert!(!growth.is_stale(now) && growth.is_stale(now + ROUND_TRIP_FRESH));
    }
}
