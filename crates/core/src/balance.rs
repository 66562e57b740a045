//! Chooses the endpoint for one request: power of two choices by latency or by open requests, in turn, at random, or by the
//! hash of something that the request carries.
//!
//! Of two choices: two endpoints are drawn at random, in proportion to their weights, and the less loaded one wins. Always
//! taking the best would send every proxy that shares our view to the same endpoint at once.
//!
//! `Candidates` is made once per version of the endpoints, tables for hashes included; `pick` then allocates nothing and
//! takes O(log endpoints). Healthy endpoints come first, unhealthy ones only if nothing healthy is left, draining
//! ones never; where near ones are preferred, `locality.rs` says how many requests stay near. Who is ejected, has enough
//! requests or starts slowly changes between two versions: that is asked of each endpoint that was drawn (`Fitness`), and
//! another one is drawn.
//!
//! | file | what |
//! |---|---|
//! | `tier.rs` | draws among endpoints that are equally good by health and place |
//! | `table.rs` | ring hash and Maglev |
//! | `key.rs` | what of a request is hashed |
//! | `session.rs` | a cookie for clients that have none |
//! | `locality.rs` | which endpoints are near, and when the load goes on to others |
//! | `peak_ewma.rs` | an endpoint's latency |
//!
//! Pure: loads come in, a choice goes out. Latencies are measured and kept by the caller
//! (`proxy/src/endpoints.rs`); `PeakEwma` is what it keeps, a plain value that fits in two atomics.

mod key;
mod locality;
mod peak_ewma;
pub mod session;
mod table;
mod tier;

use std::time::Duration;

pub use key::key_of;
pub use locality::{LEVELS, Near};
pub use peak_ewma::{PEAK_EWMA_DECAY, PEAK_EWMA_FAILURE, PeakEwma};

use self::locality::Strength;
use self::tier::{Entry, Tier};
use crate::model::{Balance, Health};
use crate::resource::Endpoint;
use crate::retry::ENDPOINTS_TRIED_MAX;

/// The endpoints that may be chosen, in a form for quick draws. Indices are those of the list it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Healthy ones, nearest first; one level where all are equally near.
    levels: Vec<Level>,
    unhealthy: Tier,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    healthy: Tier,
    /// How many there would be if all were well. Who drains leaves by intent and is no loss.
    known: usize,
}

impl Candidates {
    /// From (health, weight) pairs, all equally near; weight 0 is never chosen.
    pub fn new(endpoints: impl IntoIterator<Item = (Health, u32)>) -> Self {
        Self::by_level(endpoints.into_iter().map(|(health, weight)| (0, health, weight)))
    }

    pub fn of(endpoints: &[Endpoint], balance: &Balance, near: Near<'_>) -> Self {
        let parts = |endpoint: &Endpoint| (near.level(endpoint), endpoint.health, endpoint.weight);
        let mut candidates = Self::by_level(endpoints.iter().map(parts));
        if let Balance::Hash { table, .. } = balance {
            let address = |index: usize| endpoints[index].address.to_string();
            let tiers = candidates.levels.iter_mut().map(|level| &mut level.healthy);
            tiers.chain([&mut candidates.unhealthy]).for_each(|tier| tier.tabulate(*table, address));
        }
        candidates
    }

    fn by_level(endpoints: impl IntoIterator<Item = (usize, Health, u32)>) -> Self {
        let mut candidates = Self::default();
        for (index, (level, health, weight)) in endpoints.into_iter().enumerate() {
            if candidates.levels.len() <= level {
                candidates.levels.resize_with(level + 1, Level::default);
            }
            let level = &mut candidates.levels[level];
            level.known += usize::from(health != Health::Draining && weight > 0);
            match health {
                Health::Healthy => level.healthy.push(index, weight),
                Health::Unhealthy => candidates.unhealthy.push(index, weight),
                Health::Draining => {}
            }
        }
        candidates.levels.iter_mut().for_each(|level| level.healthy.finish());
        candidates.unhealthy.finish();
        candidates
    }

    /// How many are said to be healthy.
    pub fn healthy(&self) -> usize {
        self.levels.iter().map(|level| level.healthy.len()).sum()
    }

    /// How many could be chosen at all.
    pub fn len(&self) -> usize {
        self.healthy() + self.unhealthy.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which level's turn it is.
    fn level(&self, turn: Turn) -> usize {
        if self.levels.len() < 2 {
            return 0;
        }
        let mut strengths = [Strength::default(); LEVELS];
        for ((strength, level), ejected) in strengths.iter_mut().zip(&self.levels).zip(turn.ejected) {
            let fit = level.healthy.len().saturating_sub(ejected as usize);
            *strength = Strength { fit: fit as u64, known: level.known as u64 };
        }
        // Mixed once more: which endpoint it is within a level must not depend on what led there.
        let random = mix(mix(turn.number) ^ GOLDEN);
        locality::level(strengths, crate::route::share(random, 100).unwrap_or(0))
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

/// Who takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As an index into the list that the candidates were made of.
    Endpoint(usize),
    /// Nobody: whoever could has as much as it may have.
    Full,
    Nobody,
}

/// What a choice depends on beside the endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// In turn: a counter. By hash: the key's hash, so that it finds its endpoint again. Else a random number; it is mixed here.
    pub number: u64,
    /// How many healthy endpoints of each level are ejected, where that counts.
    pub ejected: [u32; LEVELS],
}

impl From<u64> for Turn {
    fn from(number: u64) -> Self {
        Self { number, ejected: [0; LEVELS] }
    }
}

/// Chooses an endpoint. `load` is what `balance` compares, if anything; what was `tried` is never chosen again.
pub fn pick(
    balance: &Balance,
    candidates: &Candidates,
    load: impl Fn(usize) -> u64,
    fitness: impl Fn(usize) -> Fitness,
    turn: impl Into<Turn>,
    tried: impl Into<Tried>,
) -> Choice {
    let (turn, tried) = (turn.into(), tried.into());
    let number = turn.number;
    let choose = |tier: &Tier| match balance {
        Balance::PeakEwma => {
            let is_better = |one: Entry, other: Entry| load(one.index) < load(other.index);
            tier.better_of_two(is_better, &fitness, number, tried)
        }
        Balance::LeastRequest => {
            // Requests for each unit of weight: one of twice the weight is as busy with twice as many.
            let is_better = |one: Entry, other: Entry| {
                let busy = |this: Entry, that: Entry| load(this.index).saturating_mul(that.weight);
                busy(one, other) < busy(other, one)
            };
            tier.better_of_two(is_better, &fitness, number, tried)
        }
        Balance::RoundRobin => tier.next_in_turn(&fitness, number, tried),
        Balance::Random => tier.any(&fitness, number, tried),
        Balance::Hash { .. } => tier.of_key(&fitness, number, tried),
    };
    let first = candidates.level(turn);
    let others = (0..candidates.levels.len()).filter(|level| *level != first);
    let mut found = Choice::Nobody;
    for level in candidates.levels.get(first).into_iter().chain(others.map(|level| &candidates.levels[level]))
    {
        match choose(&level.healthy) {
            Choice::Nobody => {}
            // Who is further away may have room.
            Choice::Full => found = Choice::Full,
            chosen @ Choice::Endpoint(_) => return chosen,
        }
    }
    match found {
        Choice::Nobody => choose(&candidates.unhealthy),
        full => full,
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

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function: neighbours in, unrelated numbers out.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod hash_tests;
#[cfg(test)]
mod tests;
