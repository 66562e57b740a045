//! Who gets which keys, how many, and what moves when an endpoint leaves, comes or is ejected: over many keys.
//!
//! Shares are held to four standard deviations, which for tables is the table's own unevenness: points are placed by hash.

use super::*;
use crate::model::{HashKey, HashTable, Locality, Transport};

const RING: HashTable = HashTable::Ring { size_min: 1_024, size_max: 65_536 };
const MAGLEV: HashTable = HashTable::Maglev { size: 65_537 };
const KEYS: u64 = 20_000;

fn endpoint(number: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, 1], 8_000 + number).into(),
        app_port: 80,
        transports: vec![Transport::Plaintext],
        health: Health::Healthy,
        weight,
        locality: Locality::default(),
        workload: format!("cart-{number}"),
    }
}

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    (0..).zip(weights).map(|(number, weight)| endpoint(number, *weight)).collect()
}

fn by(table: HashTable) -> Balance {
    Balance::Hash { table, key: HashKey::Source }
}

/// By key, the port of the endpoint that it goes to.
fn owners(table: HashTable, endpoints: &[Endpoint], fitness: impl Fn(usize) -> Fitness) -> Vec<Option<u16>> {
    let candidates = Candidates::of(endpoints, &by(table), Near::ANYWHERE);
    let owner = |key: u64| match pick(&by(table), &candidates, |_| 0, &fitness, mix(key), None) {
        Choice::Endpoint(index) => Some(endpoints[index].address.port()),
        Choice::Full | Choice::Nobody => None,
    };
    (0..KEYS).map(owner).collect()
}

fn fit(_: usize) -> Fitness {
    Fitness::FIT
}

/// The share of the keys that an endpoint has.
fn share(owners: &[Option<u16>], number: u16) -> f64 {
    owners.iter().filter(|owner| **owner == Some(8_000 + number)).count() as f64 / owners.len() as f64
}

/// The share of the keys of two lists that differ.
fn moved(before: &[Option<u16>], after: &[Option<u16>]) -> f64 {
    before.iter().zip(after).filter(|(one, other)| one != other).count() as f64 / before.len() as f64
}

#[test]
fn keys_are_shared_out_by_weight() {
    for weights in [&[1, 1, 1, 1][..], &[1, 3, 6], &[1; 20], &[100, 300]] {
        let endpoints = endpoints(weights);
        let total = f64::from(weights.iter().sum::<u32>());
        for table in [RING, MAGLEV] {
            let owners = owners(table, &endpoints, fit);
            for (number, weight) in (0..).zip(weights) {
                let p = f64::from(*weight) / total;
                // Of the draw of keys, and of the lengths between a ring's points, which are as random as gaps between them.
                let points = if table == RING { 1_024.0 } else { f64::INFINITY };
                let sigma = (p * (1.0 - p) * (1.0 / KEYS as f64 + 1.0 / points)).sqrt();
                let found = share(&owners, number);
                assert!(
                    (found - p).abs() <= 4.0 * sigma,
                    "{table:?} {weights:?}: {number} has {found}, not {p}"
                );
            }
        }
    }
}

#[test]
fn a_key_stays_where_it_is_whatever_order_endpoints_come_in() {
    let sorted = endpoints(&[1, 2, 3, 4, 5]);
    let mut reversed = sorted.clone();
    reversed.reverse();
    // Of a ring whose points are a whole number for everybody.
    let ring = HashTable::Ring { size_min: 1_500, size_max: 65_536 };
    for table in [ring, MAGLEV] {
        let (one, other) = (owners(table, &sorted, fit), owners(table, &reversed, fit));
        assert!(moved(&one, &other) < 0.002, "{table:?}: {}", moved(&one, &other));
    }
}

#[test]
fn of_whom_is_ejected_each_key_moves_and_nobody_elses_does() {
    let endpoints = endpoints(&[1, 1, 1, 1, 1]);
    let ejected = |index: usize| if index == 2 { Fitness::Ejected } else { Fitness::FIT };
    for table in [RING, MAGLEV] {
        let (before, after) = (owners(table, &endpoints, fit), owners(table, &endpoints, ejected));
        for (one, other) in before.iter().zip(&after) {
            assert!(other.is_some() && *other != Some(8_002));
            assert!(*one == Some(8_002) || one == other, "{table:?}: a key of {one:?} went to {other:?}");
        }
        // Its fifth is spread over the others, not handed to one.
        for number in [0, 1, 3, 4] {
            let grown = share(&after, number) - share(&before, number);
            assert!((0.02..0.09).contains(&grown), "{table:?}: {number} grew by {grown}");
        }
    }
}

#[test]
fn little_moves_when_an_endpoint_leaves_or_comes() {
    // A ring's own size follows the number of endpoints, as Envoy's: 1,024 points are 205 for each of five, and 256 for
    // each of four. With sizes that all divide, nobody else's keys move at all.
    let steady = HashTable::Ring { size_min: 1, size_max: 65_536 };
    for (table, others_max) in [(RING, 0.17), (steady, 0.0), (MAGLEV, 0.01)] {
        let five = endpoints(&[1; 5]);
        let mut four = five.clone();
        four.remove(2);
        let (before, after) = (owners(table, &five, fit), owners(table, &four, fit));
        let left = share(&before, 2);
        let others = moved(&before, &after) - left;
        assert!(
            (0.0..=others_max).contains(&others),
            "{table:?}: {others} of others' keys moved beside {left}"
        );
        // And back: the very same.
        assert_eq!(moved(&before, &owners(table, &five, fit)), 0.0);
    }
}

#[test]
fn a_newcomer_takes_a_growing_share_of_its_keys_and_keeps_them() {
    let endpoints = endpoints(&[1, 1, 1]);
    for table in [RING, MAGLEV] {
        let at = |percent: u32| {
            let slow = Fitness::Share(Fitness::FULL / 100 * percent);
            owners(table, &endpoints, |index| if index == 1 { slow } else { Fitness::FIT })
        };
        let whole = owners(table, &endpoints, fit);
        let full = share(&whole, 1);
        let mut before = Vec::new();
        for percent in [10, 50, 90] {
            let now = at(percent);
            let expect = full * f64::from(percent) / 100.0;
            let sigma = (expect / KEYS as f64).sqrt();
            assert!(
                (share(&now, 1) - expect).abs() < 4.0 * sigma,
                "{table:?} at {percent}: {}",
                share(&now, 1)
            );
            let kept = |(one, other): (&Option<u16>, &Option<u16>)| *one != Some(8_001) || one == other;
            assert!(before.iter().zip(&now).all(kept), "{table:?}: a key that it had went away again");
            before = now;
        }
    }
}

#[test]
fn a_request_that_failed_goes_on_to_the_next_one_of_its_key() {
    let endpoints = endpoints(&[1, 1, 1, 1]);
    for table in [RING, MAGLEV] {
        let candidates = Candidates::of(&endpoints, &by(table), Near::ANYWHERE);
        for key in (0..500).map(mix) {
            let mut tried = Tried::default();
            let mut reached = Vec::new();
            for _ in 0..3 {
                let Choice::Endpoint(index) = pick(&by(table), &candidates, |_| 0, fit, key, tried) else {
                    panic!("somebody is left");
                };
                assert!(!reached.contains(&index));
                reached.push(index);
                tried.add(index);
            }
            let first_ejected =
                |index: usize| if index == reached[0] { Fitness::Ejected } else { Fitness::FIT };
            let other = pick(&by(table), &candidates, |_| 0, first_ejected, key, None);
            assert_eq!(other, Choice::Endpoint(reached[1]), "as if the first were ejected");
        }
    }
}

#[test]
fn one_that_can_take_keys_among_many_that_cannot_is_found() {
    let endpoints = endpoints(&[1; 300]);
    for table in [RING, MAGLEV] {
        let candidates = Candidates::of(&endpoints, &by(table), Near::ANYWHERE);
        let only = |index: usize| if index == 171 { Fitness::FIT } else { Fitness::Ejected };
        let full = |_: usize| Fitness::Full;
        for key in (0..50).map(mix) {
            assert_eq!(pick(&by(table), &candidates, |_| 0, only, key, None), Choice::Endpoint(171));
            assert_eq!(pick(&by(table), &candidates, |_| 0, full, key, None), Choice::Full);
        }
    }
    let nobody = Candidates::of(&[], &by(RING), Near::ANYWHERE);
    assert_eq!(pick(&by(RING), &nobody, |_| 0, fit, 7, None), Choice::Nobody);
    let alone = Candidates::of(&endpoints[..1], &by(MAGLEV), Near::ANYWHERE);
    assert_eq!(pick(&by(MAGLEV), &alone, |_| 0, fit, 7, None), Choice::Endpoint(0));
}

#[test]
fn tables_stay_within_their_sizes() {
    let endpoints = endpoints(&[1, 1_000_000]);
    let members: Vec<_> =
        endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight.into())).collect();
    let table = |kind| match table::Table::new(kind, &members) {
        table::Table::Ring(points) => points.len(),
        table::Table::Maglev(slots) => slots.len(),
        table::Table::None => 0,
    };
    assert_eq!(table(HashTable::Ring { size_min: 1_024, size_max: 4_096 }), 4_096);
    assert_eq!(table(HashTable::Maglev { size: 251 }), 251);
}

#[test]
fn requests_stay_in_the_zone_as_far_as_it_can_bear_them() {
    let place = |mut endpoint: Endpoint, zone: &str| {
        endpoint.locality = Locality { region: zone[..2].to_owned(), zone: zone.to_owned() };
        endpoint
    };
    let zones = ["eu-a", "eu-a", "eu-a", "eu-a", "eu-b", "eu-b", "us-a", "us-a"];
    let all: Vec<_> = (0..).zip(zones).map(|(number, zone)| place(endpoint(number, 1), zone)).collect();
    let own = all[0].locality.clone();
    let check = |balance: &Balance, ejected: usize, expect: [f64; LEVELS]| {
        let candidates = Candidates::of(&all, balance, Near::to(&own));
        let fitness = |index: usize| if index < ejected { Fitness::Ejected } else { Fitness::FIT };
        let mut found = [0.0; LEVELS];
        for key in 0..KEYS {
            let turn = Turn { number: mix(key), ejected: [ejected.min(4) as u32, 0, 0] };
            match pick(balance, &candidates, |_| 0, fitness, turn, None) {
                Choice::Endpoint(index) => found[Near::to(&own).level(&all[index])] += 1.0 / KEYS as f64,
                Choice::Full | Choice::Nobody => panic!("somebody is left"),
            }
        }
        for (found, expect) in found.into_iter().zip(expect) {
            let sigma = (expect * (1.0 - expect) / KEYS as f64).sqrt();
            assert!(
                (found - expect).abs() <= 4.0 * sigma + 1e-9,
                "{balance:?}, {ejected} ejected: {found} {expect}"
            );
        }
    };
    for balance in
        [Balance::PeakEwma, Balance::RoundRobin, Balance::LeastRequest, Balance::Random, by(RING), by(MAGLEV)]
    {
        check(&balance, 0, [1.0, 0.0, 0.0]);
        check(&balance, 1, [1.0, 0.0, 0.0]); // 3/4 * 1.4
        check(&balance, 2, [0.7, 0.3, 0.0]);
        check(&balance, 3, [0.35, 0.65, 0.0]);
        check(&balance, 4, [0.0, 1.0, 0.0]);
    }
}
