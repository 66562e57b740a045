//! A queue that takes turns between those who wait in it: one of each source, round and round, whoever has brought how many.
//!
//! Pure: what waits and where it comes from goes in, who is next comes out.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// Who counts as one: an IPv4 address, or a network of IPv6, of which a machine has all addresses (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

pub(super) struct FairQueue<T> {
    /// Never empty ones.
    waiting: BTreeMap<Source, VecDeque<T>>,
    /// Each source that waits, once.
    order: VecDeque<Source>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn push(&mut self, source: Source, one: T) {
        let of_source = self.waiting.entry(source).or_default();
        if of_source.is_empty() {
            self.order.push_back(source);
        }
        of_source.push_back(one);
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let source = self.order.pop_front()?;
        let of_source = self.waiting.get_mut(&source)?;
        let next = of_source.pop_front();
        if of_source.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.order.push_back(source);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn each_source_has_its_turn_however_many_another_one_brings() {
        let mut queue = FairQueue::default();
        for number in 0..1_000 {
            queue.push(source("10.0.0.1"), number);
        }
        queue.push(source("10.0.0.2"), 2_000);
        queue.push(source("10.0.0.3"), 3_000);
        queue.push(source("10.0.0.2"), 2_001);
        let first: Vec<_> = (0..6).filter_map(|_| queue.pop()).collect();
        assert_eq!(first, [0, 2_000, 3_000, 1, 2_001, 2]);
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, (3..1_000).collect::<Vec<_>>());
        assert!(queue.waiting.is_empty() && queue.order.is_empty());
    }

    #[test]
    fn who_comes_back_stands_at_the_end() {
        let mut queue = FairQueue::default();
        queue.push(source("10.0.0.1"), 1);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
        queue.push(source("10.0.0.2"), 2);
        queue.push(source("10.0.0.1"), 3);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}
