//! Chooses the endpoint for one request: power of two choices by peak EWMA latency, or round robin.
//!
//! Two endpoints are drawn at random, in proportion to their weights, and the less loaded one wins. Always
//! taking the best would send every proxy that shares our view to the same endpoint at once.
//!
//! `Candidates` is made once per version of the endpoints; `pick` then allocates nothing and takes
//! O(log endpoints). Healthy endpoints come first, unhealthy ones only if nothing healthy is left, draining
//! ones never. Who is ejected, has enough requests or starts slowly changes between two versions: that is asked
//! of each endpoint that was drawn (`Fitness`), and another one is drawn.
//!
//! Pure: loads come in, a choice goes out. Latencies are measured and kept by the caller
//! (`proxy/src/endpoints.rs`); `PeakEwma` is what it keeps, a plain value that fits in two atomics.

use std::time::Duration;

use meshwork_http::Instant;

use crate::model::{Balance, Health};
use crate::resource::Endpoint;
use crate::retry::ENDPOINTS_TRIED_MAX;

/// The endpoints that may be chosen, in a form for quick draws. Indices are those of the list it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    healthy: Tier,
    unhealthy: Tier,
}

impl Candidates {
    /// From (health, weight) pairs; weight 0 is never chosen.
    pub fn new(endpoints: impl IntoIterator<Item = (Health, u32)>) -> Self {
        let mut candidates = Self::default();
        for (index, (health, weight)) in endpoints.into_iter().enumerate() {
            match health {
                Health::Healthy => candidates.healthy.push(index, weight),
                Health::Unhealthy => candidates.unhealthy.push(index, weight),
                Health::Draining => {}
            }
        }
        candidates.healthy.finish();
        candidates.unhealthy.finish();
        candidates
    }

    pub fn of(endpoints: &[Endpoint]) -> Self {
        Self::new(endpoints.iter().map(|endpoint| (endpoint.health, endpoint.weight)))
    }

    /// How many are said to be healthy.
    pub fn healthy(&self) -> usize {
        self.healthy.entries.len()
    }

    /// How many could be chosen at all.
    pub fn len(&self) -> usize {
        self.healthy.entries.len() + self.unhealthy.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether an endpoint may take the next request, as far as it changes between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// This share of its turns, of [`Fitness::FULL`]. Not 0.
    Share(u32),
    /// It has as much as it may have.
    Full,
    /// Its answers were bad.
    Ejected,
}

impl Fitness {
    /// All of its turns.
    pub const FULL: u32 = 1 << 16;

    pub const FIT: Self = Self::Share(Self::FULL);

    /// Of an endpoint that is new, or back, for so long: its share grows evenly over the window (Envoy's slow
    /// start with aggression 1).
    pub fn after(age: Duration, window: Duration) -> Self {
        if age >= window {
            return Self::FIT;
        }
        let share = age.as_secs_f64() / window.as_secs_f64() * f64::from(Self::FULL);
        Self::Share((share as u32).clamp(Self::FULL / 100 * SLOW_START_PERCENT_MIN, Self::FULL))
    }

    fn accepts(self, random: u64) -> bool {
        match self {
            Self::Share(share) => random % u64::from(Self::FULL) < u64::from(share),
            Self::Full | Self::Ejected => false,
        }
    }
}

/// The least share within slow start, as Envoy's `min_weight_percent`. With less nothing would be learned.
const SLOW_START_PERCENT_MIN: u32 = 10;

/// How often another endpoint is drawn for one that is not fit, before they are looked at one after the other. With
/// half of them ejected, one request in 256 looks.
const DRAWS_MAX: u64 = 8;

/// Who takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As an index into the list that the candidates were made of.
    Endpoint(usize),
    /// Nobody: whoever could has as much as it may have.
    Full,
    Nobody,
}

/// Chooses an endpoint.
///
/// `turn` is a random number or a counter: P2C mixes it itself, round robin wants a counter. What was
/// `tried` is never chosen again.
pub fn pick(
    balance: Balance,
    candidates: &Candidates,
    load: impl Fn(usize) -> u64,
    fitness: impl Fn(usize) -> Fitness,
    turn: u64,
    tried: impl Into<Tried>,
) -> Choice {
    let tried = tried.into();
    let choose = |tier: &Tier| match balance {
        Balance::PeakEwma => tier.less_loaded_of_two(&load, &fitness, turn, tried),
        Balance::RoundRobin => tier.next_in_turn(&fitness, turn, tried),
    };
    match choose(&candidates.healthy) {
        Choice::Nobody => choose(&candidates.unhealthy),
        chosen => chosen,
    }
}

/// The endpoints that one request has tried, the last one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried([Option<usize>; ENDPOINTS_TRIED_MAX]);

impl Tried {
    /// Past its room the oldest is forgotten.
    pub fn add(&mut self, index: usize) {
        let from = self.0.iter().position(|tried| *tried == Some(index)).unwrap_or(self.0.len() - 1);
        self.0[..=from].rotate_right(1);
        self.0[0] = Some(index);
    }

    /// The last one alone.
    pub fn last(self) -> Self {
        self.0[0].into()
    }

    pub fn contains(&self, index: usize) -> bool {
        self.0.contains(&Some(index))
    }
}

impl From<Option<usize>> for Tried {
    fn from(last: Option<usize>) -> Self {
        let mut tried = Self::default();
        last.into_iter().for_each(|index| tried.add(index));
        tried
    }
}

/// Endpoints of one health: each owns an interval of `0..total`, as long as its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tier {
    /// Ordered by `end`, and by `index` too.
    entries: Vec<Entry>,
    total: u64,
    /// Coprime to `total`: round robin steps through the intervals so, and meets each place once a round.
    step: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    index: usize,
    weight: u64,
    /// Where its interval ends; it begins where the one before ends.
    end: u64,
}

impl Tier {
    fn push(&mut self, index: usize, weight: u32) {
        if weight > 0 {
            self.total += u64::from(weight);
            self.entries.push(Entry { index, weight: weight.into(), end: self.total });
        }
    }

    /// Reduces the weights by their common divisor, so that equal weights take turns in plain order, and
    /// finds the step.
    fn finish(&mut self) {
        let divisor = self.entries.iter().fold(0, |divisor, entry| gcd(divisor, entry.weight));
        for entry in &mut self.entries {
            entry.weight /= divisor;
            entry.end /= divisor;
        }
        self.total = self.total.checked_div(divisor).unwrap_or(0);
        self.step = step(self.total, self.entries.len() as u64);
    }

    fn less_loaded_of_two(
        &self,
        load: impl Fn(usize) -> u64,
        fitness: impl Fn(usize) -> Fitness,
        turn: u64,
        tried: Tried,
    ) -> Choice {
        let mut without = self.without(tried);
        let (first_random, second_random) = (mix(turn), mix(turn.wrapping_add(GOLDEN)));
        let first = match self.draw_fit(first_random, &without, &fitness) {
            Drawn::Entry(entry) => entry,
            Drawn::Full => return Choice::Full,
            Drawn::Nobody => return Choice::Nobody,
        };
        without.add(first);
        let Drawn::Entry(second) = self.draw_fit(second_random, &without, &fitness) else {
            return Choice::Endpoint(first.index);
        };
        // A tie goes to the first, which was drawn by weight alone: an idle mesh honours weights exactly.
        Choice::Endpoint(if load(second.index) < load(first.index) { second.index } else { first.index })
    }

    fn next_in_turn(&self, fitness: impl Fn(usize) -> Fitness, turn: u64, tried: Tried) -> Choice {
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
        match self.draw_fit(mix(turn.wrapping_add(GOLDEN)), &self.without(tried), &fitness) {
            Drawn::Entry(entry) => Choice::Endpoint(entry.index),
            Drawn::Full => Choice::Full,
            Drawn::Nobody => Choice::Nobody,
        }
    }

    fn without(&self, tried: Tried) -> Without {
        let mut without = Without::default();
        let tried = tried.0.into_iter().flatten();
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

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: neighbours in, unrelated numbers out.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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

/// How quickly an estimate forgets: after this long an old latency counts 1/e. Who is not asked is forgiven by time
/// alone, and of two endpoints the slower is not asked: after one answer of 100 ms among answers of 2 ms it waits for
/// four of these. With ten seconds, as Finagle and Linkerd have it, one slow first answer kept a newcomer idle for 40 s.
/// An endpoint that stays slow pays with one slow answer each few seconds, whatever the rate.
pub const PEAK_EWMA_DECAY: Duration = Duration::from_secs(1);

/// What a failed try counts as. Otherwise an endpoint that refuses at once would look like the fastest.
pub const PEAK_EWMA_FAILURE: Duration = Duration::from_secs(1);

/// The load of an endpoint that never answered while a first request to it is open: more than any latency,
/// so that an unknown endpoint gets one request to show itself, not all of them.
const LOAD_UNKNOWN: u64 = 1 << 48;

/// One endpoint's latency: it jumps to a peak at once and comes down slowly, so that a sudden stall is seen
/// by the next request and a lucky answer does not hide it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    /// Nanoseconds; 0: nothing observed yet.
    estimate: f64,
    updated: Instant,
}

impl PeakEwma {
    /// Takes in how long an answer took (`PEAK_EWMA_FAILURE` if none came).
    pub fn observe(&mut self, rtt: Duration, now: Instant) {
        // At least 1, since 0 means that nothing was observed.
        let rtt = (rtt.as_nanos() as f64).max(1.0);
        let kept = self.decay(now);
        let faded = self.estimate * kept;
        // Against what `load` says now: an old peak that has faded away must not count again beside the news.
        self.estimate = if rtt >= faded { rtt } else { faded + rtt * (1.0 - kept) };
        // Observations may come out of order when several workers share the endpoint.
        self.updated = self.updated.max(now);
    }

    /// What the next request would meet there: the latency, which fades without news, for each request that
    /// is open and the next one. In nanoseconds.
    pub fn load(&self, now: Instant, outstanding: u32) -> u64 {
        if self.estimate > 0.0 {
            let latency = self.estimate * self.decay(now);
            (latency * (f64::from(outstanding) + 1.0)) as u64
        } else if outstanding == 0 {
            0
        } else {
            LOAD_UNKNOWN.saturating_add(outstanding.into())
        }
    }

    /// The share of the estimate that is left.
    fn decay(&self, now: Instant) -> f64 {
        (-(now - self.updated).as_secs_f64() / PEAK_EWMA_DECAY.as_secs_f64()).exp()
    }

    /// For two atomics of the caller. They may be read torn: then an estimate has its neighbour's time,
    /// which does no harm.
    pub fn to_bits(self) -> (u64, u64) {
        (self.estimate.to_bits(), self.updated.as_nanos())
    }

    pub fn from_bits((estimate, updated): (u64, u64)) -> Self {
        let estimate = Some(f64::from_bits(estimate)).filter(|estimate| estimate.is_finite()).unwrap_or(0.0);
        Self { estimate, updated: Instant::from_nanos(updated) }
    }
}

#[cfg(test)]
mod tests;
