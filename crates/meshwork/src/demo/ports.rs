//! Ports for the shop's programs: below the range from which the kernel takes ports for outgoing connections, so that
//! one which is free now is still free when its program binds it, whatever the load has opened meanwhile.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Linux' default start of that range.
const EPHEMERAL_START: u16 = 32_768;

/// Above the ports that well-known servers use.
const FIRST: u16 = 15_000;

#[derive(Debug, thiserror::Error)]
#[error("no free port for the demo between {} and {}: end some servers and run it again", .0.start, .0.end)]
pub(super) struct NoPort(Range<u16>);

/// Hands out each port once.
#[derive(Debug)]
pub(super) struct Ports {
    range: Range<u16>,
    given: BTreeSet<u16>,
    next: u16,
}

impl Ports {
    /// `seed`: where to begin, so that two demos at once rarely try the same ports.
    pub(super) fn new(seed: u32) -> Self {
        let ephemeral = std::fs::read_to_string(EPHEMERAL_RANGE).unwrap_or_default();
        let start = ephemeral.split_whitespace().next().and_then(|start| start.parse().ok());
        let end: u16 = start.unwrap_or(EPHEMERAL_START);
        // A machine that gives all ports to the kernel leaves us none of our own: take them from its range then.
        let range = if end > FIRST { FIRST..end } else { FIRST..u16::MAX };
        let offset = seed.wrapping_mul(61) % u32::from(range.end - range.start);
        let next = range.start + u16::try_from(offset).unwrap_or_default();
        Self { range, given: BTreeSet::new(), next }
    }

    pub(super) fn take(&mut self) -> Result<u16, NoPort> {
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port + 1 < self.range.end { port + 1 } else { self.range.start };
            if !self.given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                self.given.insert(port);
                return Ok(port);
            }
        }
        Err(NoPort(self.range.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_given_once() {
        let mut ports = Ports::new(std::process::id());
        let taken: Vec<u16> = (0..20).map(|_| ports.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 20);
        assert!(taken.iter().all(|port| ports.range.contains(port)));
    }
}
