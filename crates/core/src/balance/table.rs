//! Where the keys of requests belong: a ring, or Maglev's table. Made once per version of the endpoints.
//!
//! *Ring hash*: each endpoint has points on a ring in proportion to its weight, and a key belongs to the next point. Who is
//! left out leaves each of its keys to the next one on the ring, and nobody else's moves.
//! *Maglev* (Eisenbud et al., 2016): endpoints take turns to fill a table, each in an order of its own. Shares are more even and
//! a look is one step; when an endpoint goes, a few keys of others move, too.
//!
//! Points, orders and rounding are Envoy's, so that a key goes to the same endpoint from an Envoy and from a sidecar.

use crate::balance::mix;
use crate::hash::xxh64;
use crate::model::HashTable;

/// How far a key is carried past endpoints that can't take it, before they are looked at one after the other. With half of
/// them ejected, one key in 2^64 gets there.
const WALK_MAX: u64 = 64;

/// An endpoint's place in both is its entry's in the tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Table {
    #[default]
    None,
    Ring(Vec<Point>),
    Maglev(Vec<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    hash: u64,
    entry: u32,
}

/// What stands in a table: the endpoint's address as text, and its weight.
pub(super) type Member = (String, u64);

impl Table {
    pub(super) fn new(table: HashTable, members: &[Member]) -> Self {
        match table {
            // Whoever is alone has every key.
            _ if members.len() < 2 => Self::None,
            HashTable::Ring { size_min, size_max } => Self::Ring(ring(members, size_min, size_max)),
            HashTable::Maglev { size } => Self::Maglev(maglev(members, size.into())),
        }
    }

    /// Entries that a key belongs to, the first first.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = match self {
            Self::Ring(points) => points.partition_point(|point| point.hash < key) as u64,
            Self::Maglev(_) | Self::None => 0,
        };
        (0..WALK_MAX).map_while(move |step| match self {
            Self::None => None,
            Self::Ring(points) => {
                let place = start.wrapping_add(step).checked_rem(points.len() as u64)?;
                points.get(place as usize).map(|point| point.entry as usize)
            }
            Self::Maglev(slots) => {
                // A neighbour's slot would hand all that one endpoint had to another one; a new hash spreads it.
                let key = if step == 0 { key } else { mix(key.wrapping_add(step)) };
                let place = key.checked_rem(slots.len() as u64)?;
                slots.get(place as usize).map(|entry| *entry as usize)
            }
        })
    }
}

fn ring(members: &[Member], size_min: u32, size_max: u32) -> Vec<Point> {
    let total: u64 = members.iter().map(|(_, weight)| weight).sum();
    let share = |weight: u64| weight as f64 / total as f64;
    let least = members.iter().map(|(_, weight)| share(*weight)).fold(1.0, f64::min);
    // So many that the lightest endpoint has a whole number of points.
    let size = ((least * f64::from(size_min)).ceil() / least).min(size_max.into());
    let mut points = Vec::with_capacity(size.ceil() as usize);
    let mut wanted = 0.0;
    for (entry, (address, weight)) in members.iter().enumerate() {
        wanted += size * share(*weight);
        let own = points.len();
        let mut text = format!("{address}_");
        let prefix = text.len();
        while (points.len() as f64) < wanted {
            text.truncate(prefix);
            text += &(points.len() - own).to_string();
            points.push(Point { hash: xxh64(text.as_bytes(), 0), entry: entry as u32 });
        }
    }
    points.sort_unstable();
    points
}

fn maglev(members: &[Member], size: u64) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    struct Filler {
        entry: u32,
        weight: f64,
        target: f64,
        slot: u64,
        skip: u64,
    }
    let total: u64 = members.iter().map(|(_, weight)| weight).sum();
    let share = |weight: u64| weight as f64 / total as f64;
    let heaviest = members.iter().map(|(_, weight)| share(*weight)).fold(0.0, f64::max);
    // Turns go by the text of the addresses: whatever order endpoints come in, the table is the same.
    let mut in_order: Vec<_> = members.iter().enumerate().collect();
    in_order.sort_unstable_by_key(|(_, (address, _))| address);
    let mut fillers: Vec<_> = in_order
        .into_iter()
        .map(|(entry, (address, weight))| Filler {
            entry: entry as u32,
            weight: share(*weight),
            target: 0.0,
            slot: xxh64(address.as_bytes(), 0) % size,
            skip: xxh64(address.as_bytes(), 1) % (size - 1) + 1,
        })
        .collect();
    let mut slots = vec![FREE; size as usize];
    let (mut filled, mut turn) = (0, 0.0);
    while filled < size {
        turn += 1.0;
        for filler in &mut fillers {
            // The heaviest takes each turn, one of a third of its weight each third.
            if turn * filler.weight < filler.target || filled == size {
                continue;
            }
            filler.target += heaviest;
            while slots[filler.slot as usize] != FREE {
                filler.slot = (filler.slot + filler.skip) % size;
            }
            slots[filler.slot as usize] = filler.entry;
            filled += 1;
        }
    }
    slots
}
