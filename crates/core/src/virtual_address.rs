//! Virtual addresses: each Service has an IPv4 and an IPv6 address of its own, which no machine has, and which stay
//! the same as long as the service lives. An application connects to them, and its sidecar knows what was meant.
//!
//! Only the IPv4 address is chosen. The IPv6 one follows from it: a /64 of the mesh's own (`fd`, then 56 bits of a hash
//! of the mesh's ID: RFC 4193's range, without its registry), with the IPv4 address in the last 32 bits. The search
//! begins at a hash of the service's name, so that a store that was built anew tends to give the same addresses.
//!
//! What a service gave up rests for a day: whoever cached the address must not reach another service. A service of the
//! same name that comes back meanwhile gets it back.
//!
//! Pure. Who has which address is in the store (`control/src/addresses.rs`); time is an argument, in seconds since the
//! epoch.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::fnv::hash_of;
use crate::model::{Key, VirtualAddress};

/// How long an address is nobody's after its service is gone. Longer than the time for which resolvers, connection
/// pools and applications hold on to an answer.
pub const REST: Duration = Duration::from_secs(24 * 3_600);

/// Bits of the smallest and the largest range: 254 services are few, and more than one of the 256 parts of all
/// addresses hides something that somebody uses.
const PREFIX_MAX: u8 = 24;
const PREFIX_MIN: u8 = 8;

/// Usable addresses of 256: those that end in 0 or 255 are taken for networks and broadcasts by some programs.
const PER_256: u32 = 254;

/// Addresses that one search looks at. The store holds at most 200,000 keys, so among so many one is free if any is.
const PROBES_MAX: u32 = 200_001;

/// A range of IPv4 addresses that services may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualRange(Ipv4Net);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    #[error(
        "{0:?} is not a range of IPv4 addresses; write one such as 240.0.0.0/8 (the IPv6 range follows from the mesh)"
    )]
    NoRange(String),
    #[error("{range} begins with {start}; write {start}/{}", .range.prefix_len())]
    Inside { range: Ipv4Net, start: Ipv4Addr },
    #[error(
        "{0} is not between /{PREFIX_MIN} and /{PREFIX_MAX}: smaller has no room for services, larger hides addresses \
         that are in use"
    )]
    Size(Ipv4Net),
    #[error(
        "{range} has addresses of {taken} ({what}), which no service can have; choose another, such as 240.0.0.0/8"
    )]
    Taken { range: Ipv4Net, taken: &'static str, what: &'static str },
}

/// What can't be a service's, whatever anybody wants: no packet to it goes where a sidecar could catch it.
const TAKEN: [(&str, &str); 5] = [
    ("0.0.0.0/8", "this host"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
];

impl FromStr for VirtualRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let range: Ipv4Net =
            text.parse().map_err(|_| InvalidRange::NoRange(text.chars().take(64).collect()))?;
        if range.trunc() != range {
            return Err(InvalidRange::Inside { range, start: range.network() });
        }
        if !(PREFIX_MIN..=PREFIX_MAX).contains(&range.prefix_len()) {
            return Err(InvalidRange::Size(range));
        }
        for (taken, what) in TAKEN {
            let overlaps = |net: Ipv4Net| net.contains(&range.network()) || range.contains(&net.network());
            if taken.parse().is_ok_and(overlaps) {
                return Err(InvalidRange::Taken { range, taken, what });
            }
        }
        Ok(Self(range))
    }
}

impl fmt::Display for VirtualRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for VirtualRange {
    /// 240.0.0.0/8: reserved since 1989 and routed nowhere, so nothing that anybody uses is hidden by it.
    fn default() -> Self {
        Self(Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 8))
    }
}

impl VirtualRange {
    /// Addresses that services may have.
    fn size(self) -> u32 {
        PER_256 << (PREFIX_MAX - self.0.prefix_len())
    }

    fn nth(self, index: u32) -> Ipv4Addr {
        let (block, place) = (index / PER_256, index % PER_256);
        Ipv4Addr::from_bits(self.0.network().to_bits() + (block << 8) + place + 1)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }
}

/// A mesh's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualRanges {
    v4: VirtualRange,
    v6: Ipv6Net,
}

impl VirtualRanges {
    pub fn new(v4: VirtualRange, mesh_id: &str) -> Self {
        let hash = hash_of(mesh_id);
        let prefix = (0xfd_u128 << 120) | ((hash & ((1 << 56) - 1)) << 64);
        Self { v4, v6: Ipv6Net::new_assert(Ipv6Addr::from_bits(prefix), 64) }
    }

    pub fn nets(self) -> [IpNet; 2] {
        [self.v4.0.into(), self.v6.into()]
    }

    pub fn v4(self) -> VirtualRange {
        self.v4
    }

    /// Both addresses of the service that has this one.
    pub fn address(self, v4: Ipv4Addr) -> VirtualAddress {
        let v6 = self.v6.network().to_bits() | u128::from(v4.to_bits());
        VirtualAddress { v4, v6: Ipv6Addr::from_bits(v6) }
    }
}

/// What is known of an address that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Holding {
    /// `namespace/name`.
    pub service: String,
    /// When its service was deleted; `None`: it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<u64>,
}

impl Holding {
    pub fn of(service: &Key) -> Self {
        Self { service: service.to_string(), given_up: None }
    }

    /// Nobody's any more, not even as something to come back to.
    pub fn is_over(&self, now: u64) -> bool {
        self.given_up.is_some_and(|since| since.saturating_add(REST.as_secs()) <= now)
    }

    /// Whether the service may have it.
    fn is_open_to(&self, service: &Key, now: u64) -> bool {
        self.service == service.to_string() || self.is_over(now)
    }
}

/// The address that a service without one gets. `last`: the one that it had before it was deleted, while that is
/// remembered. `held` says who has an address. `Ok(None)`: every address is taken or rests.
pub fn choose<E>(
    range: VirtualRange,
    service: &Key,
    last: Option<Ipv4Addr>,
    now: u64,
    mut held: impl FnMut(Ipv4Addr) -> Result<Option<Holding>, E>,
) -> Result<Option<Ipv4Addr>, E> {
    let size = range.size();
    let first = (hash_of(&service.to_string()) % u128::from(size)) as u32;
    let probes = (0..size.min(PROBES_MAX)).map(|step| range.nth((first + step) % size));
    for address in last.into_iter().filter(|last| range.contains(*last)).chain(probes) {
        if held(address)?.is_none_or(|holding| holding.is_open_to(service, now)) {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = text.parse::<VirtualRange>().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_range_that_cannot_work_is_refused_with_the_reason() {
        refused("240.0.0.0", "such as 240.0.0.0/8");
        refused("fd00::/64", "such as 240.0.0.0/8");
        refused("240.0.0.7/8", "write 240.0.0.0/8");
        refused("240.0.0.0/25", "not between /8 and /24");
        refused("240.0.0.0/4", "not between /8 and /24");
        refused("127.1.0.0/16", "loopback");
        refused("169.0.0.0/8", "link-local");
        refused("230.0.0.0/8", "multicast");
        refused("255.255.255.0/24", "broadcast");
        refused("0.0.0.0/8", "this host");
        for text in ["240.0.0.0/8", "198.18.0.0/15", "10.9.8.0/24"] {
            assert_eq!(text.parse::<VirtualRange>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn no_address_ends_in_0_or_255_and_each_has_one_place() {
        let range: VirtualRange = "10.9.8.0/23".parse().unwrap();
        let all: Vec<_> = (0..range.size()).map(|index| range.nth(index)).collect();
        assert_eq!(
            (all[0], all[253], all[254]),
            (Ipv4Addr::new(10, 9, 8, 1), Ipv4Addr::new(10, 9, 8, 254), Ipv4Addr::new(10, 9, 9, 1))
        );
        assert_eq!(all.last(), Some(&Ipv4Addr::new(10, 9, 9, 254)));
        assert!(all.is_sorted() && all.iter().all(|address| range.contains(*address)));
    }

    #[test]
    fn the_v6_address_is_of_the_meshs_own_range_and_ends_in_the_v4_one() {
        let ranges = VirtualRanges::new(VirtualRange::default(), "mesh-1");
        let address = ranges.address(Ipv4Addr::new(240, 1, 2, 3));
        assert_eq!(address.v6.segments()[6..], [0xf001, 0x0203]);
        assert_eq!(address.v6.octets()[0], 0xfd);
        let other = VirtualRanges::new(VirtualRange::default(), "mesh-2");
        assert_ne!(ranges.v6, other.v6);
        assert!(ranges.nets().iter().zip(address.ips()).all(|(net, ip)| net.contains(&ip)));
    }

    /// The store's part, in memory.
    #[derive(Default)]
    struct Book {
        held: BTreeMap<Ipv4Addr, Holding>,
        last: BTreeMap<Key, Ipv4Addr>,
        live: BTreeMap<Key, Ipv4Addr>,
    }

    impl Book {
        fn make(&mut self, range: VirtualRange, service: &Key, now: u64) -> Option<Ipv4Addr> {
            let last = self.last.get(service).copied();
            let held = |address| Ok::<_, Infallible>(self.held.get(&address).cloned());
            let chosen = choose(range, service, last, now, held).unwrap_or_else(|never| match never {});
            if let Some(address) = chosen {
                self.held.insert(address, Holding::of(service));
                self.last.remove(service);
                self.live.insert(service.clone(), address);
            }
            chosen
        }

        fn delete(&mut self, service: &Key, now: u64) {
            let Some(address) = self.live.remove(service) else { return };
            self.held.insert(address, Holding { given_up: Some(now), ..Holding::of(service) });
            self.last.insert(service.clone(), address);
        }
    }

    const HOUR: u64 = 3_600;

    #[test]
    fn a_service_that_comes_back_within_a_day_has_its_address_and_nobody_else_gets_it() {
        let range: VirtualRange = "10.9.8.0/24".parse().unwrap();
        let mut book = Book::default();
        let key = |number: usize| Key::new("default", format!("s{number}"));
        for number in 0..254 {
            assert!(book.make(range, &key(number), 0).is_some(), "{number}");
        }
        assert_eq!(book.make(range, &key(254), 0), None, "the range is full");
        let address = book.live[&key(7)];
        book.delete(&key(7), HOUR);
        assert_eq!(book.make(range, &key(254), 24 * HOUR), None, "it rests");
        assert_eq!(book.make(range, &key(7), 24 * HOUR), Some(address));
        book.delete(&key(7), 24 * HOUR);
        assert_eq!(book.make(range, &key(254), 48 * HOUR), Some(address));
        assert_eq!(book.make(range, &key(7), 48 * HOUR), None);
    }

    #[test]
    fn a_name_alone_says_where_the_search_begins() {
        let range = VirtualRange::default();
        let make = |names: &[&str]| -> BTreeMap<Key, Ipv4Addr> {
            let mut book = Book::default();
            for name in names {
                book.make(range, &Key::new("default", *name), 0);
            }
            book.live
        };
        assert_eq!(make(&["cart", "web", "pay"]), make(&["pay", "cart", "web"]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_two_services_share_an_address_and_none_is_given_again_within_a_day(
            steps in proptest::collection::vec((0_usize..300, any::<bool>(), 0_u64..4), 1..800)
        ) {
            let range: VirtualRange = "10.9.8.0/24".parse().unwrap();
            let (mut book, mut now) = (Book::default(), 0);
            let mut given_up: BTreeMap<Ipv4Addr, (Key, u64)> = BTreeMap::new();
            for (number, make, hours) in steps {
                now += hours * HOUR;
                let key = Key::new("default", format!("s{number}"));
                if !make {
                    if let Some(address) = book.live.get(&key) {
                        given_up.insert(*address, (key.clone(), now));
                    }
                    book.delete(&key, now);
                } else if !book.live.contains_key(&key) {
                    let others: Vec<_> = book.live.values().copied().collect();
                    match book.make(range, &key, now) {
                        Some(address) => {
                            prop_assert!(!others.contains(&address), "{address} is somebody's");
                            if let Some((before, since)) = given_up.get(&address) {
                                prop_assert!(*before == key || since + 24 * HOUR <= now, "{address} rests");
                            }
                        }
                        None => {
                            let resting = given_up.values().filter(|(_, since)| since + 24 * HOUR > now).count();
                            prop_assert!(others.len() + resting >= 254, "there was room");
                        }
                    }
                }
            }
        }
    }
}
