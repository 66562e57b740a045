//! How often somebody may come with a wrong login token: counted by address, with a limit of addresses.
//!
//! A secret has 256 bits, so nobody guesses one; this keeps whoever tries from filling the log and the processor. Pure:
//! the time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Wrong tokens from one address in [`WINDOW`]; a script with an old token meets it, a person hardly.
const FAILURES_MAX: u32 = 10;

/// How long they count, from the first one on.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are counted one by one, some 64 bytes each. Beyond it all others share one account, so that whoever
/// has many addresses locks out strangers to the mesh, and nobody fills the memory.
const FAILING_ADDRESSES_MAX: usize = 4_096;

#[derive(Default)]
pub(crate) struct Attempts {
    by_address: HashMap<IpAddr, Failures>,
    others: Option<Failures>,
    counts: Counts,
}

/// Since the start; as the status shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Tokens that were wrong, revoked or expired.
    refused: u64,
    /// Requests that were refused unread, as too many wrong tokens had come from their address.
    limited: u64,
}

struct Failures {
    first: Instant,
    count: u32,
}

impl Failures {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.first) >= WINDOW
    }
}

impl Attempts {
    pub(super) fn may_try(&mut self, from: IpAddr, now: Instant) -> bool {
        let network = network(from);
        let failures = match self.by_address.get(&network) {
            Some(failures) => Some(failures),
            None if self.by_address.len() < FAILING_ADDRESSES_MAX => None,
            None => self.others.as_ref(),
        };
        let may = failures.is_none_or(|known| known.is_over(now) || known.count < FAILURES_MAX);
        self.counts.limited += u64::from(!may);
        may
    }

    pub(super) fn failed(&mut self, from: IpAddr, now: Instant) {
        self.counts.refused += 1;
        let network = network(from);
        if !self.by_address.contains_key(&network) && self.by_address.len() >= FAILING_ADDRESSES_MAX {
            self.by_address.retain(|_, failures| !failures.is_over(now));
        }
        let is_full = self.by_address.len() >= FAILING_ADDRESSES_MAX;
        let new = || Failures { first: now, count: 0 };
        let failures = match self.by_address.contains_key(&network) || !is_full {
            true => self.by_address.entry(network).or_insert_with(new),
            false => {
                if self.others.is_none() {
                    tracing::warn!(
                        limit = FAILING_ADDRESSES_MAX,
                        "wrong login tokens come from more addresses than are counted one by one"
                    );
                }
                self.others.get_or_insert_with(new)
            }
        };
        if failures.is_over(now) {
            *failures = new();
        }
        failures.count = failures.count.saturating_add(1);
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }
}

/// Whoever has one address of IPv6 has 2^64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_a_minute_and_no_more_until_the_minute_is_over() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert!(attempts.may_try(ip("10.0.0.1"), start));
            attempts.failed(ip("10.0.0.1"), start);
        }
        assert!(!attempts.may_try(ip("10.0.0.1"), start + WINDOW - Duration::from_millis(1)));
        assert!(attempts.may_try(ip("10.0.0.2"), start), "another address has its own");
        assert!(attempts.may_try(ip("10.0.0.1"), start + WINDOW));
        attempts.failed(ip("10.0.0.1"), start + WINDOW);
        assert!(attempts.may_try(ip("10.0.0.1"), start + WINDOW), "a new minute begins with its first");
        assert_eq!(attempts.counts(), Counts { refused: 11, limited: 1 });
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_together() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for last in 0..FAILURES_MAX {
            attempts.failed(ip(&format!("2001:db8::{last:x}")), now);
        }
        assert!(!attempts.may_try(ip("2001:db8::ffff"), now));
        assert!(attempts.may_try(ip("2001:db8:0:1::1"), now));
        for _ in 0..FAILURES_MAX {
            attempts.failed(ip("::ffff:10.0.0.1"), now);
        }
        assert!(!attempts.may_try(ip("10.0.0.1"), now), "one address in either spelling");
    }

    #[test]
    fn the_table_has_an_end_and_makes_room_for_who_comes_later() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let address = |n: usize| IpAddr::from(std::net::Ipv4Addr::from_bits(n as u32));
        for n in 0..FAILING_ADDRESSES_MAX {
            attempts.failed(address(n), start);
        }
        for n in 0..FAILURES_MAX as usize {
            attempts.failed(address(FAILING_ADDRESSES_MAX + n), start);
        }
        assert_eq!(attempts.by_address.len(), FAILING_ADDRESSES_MAX);
        assert!(!attempts.may_try(ip("10.0.0.1"), start), "all others share one account");
        assert!(attempts.may_try(address(0), start), "who has his own keeps it");
        attempts.failed(ip("10.0.0.1"), start + WINDOW);
        assert_eq!(attempts.by_address.len(), 1);
    }
}
