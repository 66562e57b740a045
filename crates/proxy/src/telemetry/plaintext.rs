//! Who comes in clear: by address and port, how often, so that an operator sees whom mutual TLS alone would keep out, or
//! keeps out.
//!
//! Bounded: addresses are taken from connections. What does not fit is counted as one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Sources that are told apart, each with a port: enough for the hosts that still call one workload in clear. What
/// comes from more is a network's, and its sum says as much.
const SOURCES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Carried,
    Refused,
}

/// Connections of one source to one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) carried: u64,
    pub(crate) refused: u64,
}

impl Counts {
    fn add(&mut self, met: Met) {
        match met {
            Met::Carried => self.carried += 1,
            Met::Refused => self.refused += 1,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Plaintext {
    table: Mutex<Table>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) sources: BTreeMap<(IpAddr, u16), Counts>,
    /// Of all that found no room.
    pub(crate) others: Counts,
}

impl Plaintext {
    /// Once a connection, never for a request.
    pub(crate) fn met(&self, source: IpAddr, app_port: u16, met: Met) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.to_canonical(), app_port);
        let has_room = table.sources.len() < SOURCES_MAX;
        match table.sources.get_mut(&key) {
            Some(counts) => counts.add(met),
            None if has_room => table.sources.entry(key).or_default().add(met),
            None => table.others.add(met),
        }
    }

    pub(crate) fn seen(&self) -> Table {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn sources_are_told_apart_until_there_are_too_many() {
        let plaintext = Plaintext::default();
        let source = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        for number in 0..SOURCES_MAX as u32 + 10 {
            plaintext.met(source(number), 8080, Met::Carried);
        }
        plaintext.met(source(3), 8080, Met::Refused);
        plaintext.met(Ipv4Addr::from_bits(3).to_ipv6_mapped().into(), 8080, Met::Refused);
        plaintext.met(source(3), 9090, Met::Refused);
        let seen = plaintext.seen();
        assert_eq!(seen.sources.len(), SOURCES_MAX);
        assert_eq!(seen.sources[&(source(3), 8080)], Counts { carried: 1, refused: 2 });
        assert_eq!(seen.others, Counts { carried: 10, refused: 1 });
    }
}
