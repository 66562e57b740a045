//! Which servers speak first: from the second connection on, their way is opened at once.
//!
//! For all workers of a sidecar, without a lock: each server has one slot, by its hash. Two that share a slot displace each
//! other, which costs the silence once more; two that share a hash, too, open a way that may not be needed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::name::PortName;

/// Servers remembered by a sidecar: 8 KiB. An application calls few that speak first.
const REMEMBERED_MAX: usize = 1_024;

/// A port may get another server; an hour of 50 ms saved is worth one wrong guess.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// Of a slot's word: below it is when it was written, above it whose it is.
const TIME_BITS: u32 = 32;

#[derive(Clone, Copy, Hash)]
pub(crate) enum Server<'a> {
    /// A service's port.
    Service(&'a PortName),
    /// An address outside the mesh.
    Outside(SocketAddr),
    /// The local application, by where it listens.
    Application(SocketAddr),
}

pub(crate) struct SpokeFirst {
    /// 0: nobody's.
    slots: Box<[AtomicU64]>,
}

impl Default for SpokeFirst {
    fn default() -> Self {
        Self { slots: (0..REMEMBERED_MAX).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl SpokeFirst {
    pub(crate) fn remember(&self, server: Server<'_>, now: Instant) {
        let (slot, owner) = self.slot(server);
        slot.store(owner | seconds(now), Relaxed);
    }

    pub(crate) fn forget(&self, server: Server<'_>) {
        let (slot, owner) = self.slot(server);
        let held = slot.load(Relaxed);
        if is_of(held, owner) {
            // Where it fails, somebody has just written something newer.
            let _ = slot.compare_exchange(held, 0, Relaxed, Relaxed);
        }
    }

    pub(crate) fn is_known(&self, server: Server<'_>, now: Instant) -> bool {
        let (slot, owner) = self.slot(server);
        let held = slot.load(Relaxed);
        let age = seconds(now).saturating_sub(time(held));
        is_of(held, owner) && age < REMEMBERED_FOR.as_secs()
    }

    /// A server's slot, and the upper half of its word.
    fn slot(&self, server: Server<'_>) -> (&AtomicU64, u64) {
        let mut hasher = DefaultHasher::new();
        server.hash(&mut hasher);
        let hash = hasher.finish();
        (&self.slots[hash as usize % REMEMBERED_MAX], hash >> TIME_BITS << TIME_BITS)
    }
}

fn is_of(held: u64, owner: u64) -> bool {
    held != 0 && held >> TIME_BITS == owner >> TIME_BITS
}

fn time(held: u64) -> u64 {
    held & u64::from(u32::MAX)
}

/// Since the sidecar's start, from 1: a word that was written is never 0.
fn seconds(now: Instant) -> u64 {
    let seconds = now.as_nanos() / 1_000_000_000 + 1;
    seconds.min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwork_core::model::Key;

    fn db(port: u16) -> PortName {
        PortName::new(Key::new("default", "db"), port)
    }

    #[test]
    fn a_server_that_spoke_first_is_remembered_for_an_hour() {
        let (seen, name, start) = (SpokeFirst::default(), db(5_432), Instant::from_millis(0));
        assert!(!seen.is_known(Server::Service(&name), start));
        seen.remember(Server::Service(&name), start);
        assert!(seen.is_known(Server::Service(&name), start + Duration::from_secs(3_599)));
        assert!(!seen.is_known(Server::Service(&name), start + Duration::from_secs(3_600)));
    }

    #[test]
    fn it_is_forgotten_and_no_other_is() {
        let (seen, start) = (SpokeFirst::default(), Instant::from_millis(7));
        let [one, other] = [db(1), db(2)];
        seen.remember(Server::Service(&one), start);
        seen.forget(Server::Service(&other));
        assert!(
            seen.is_known(Server::Service(&one), start) && !seen.is_known(Server::Service(&other), start)
        );
        seen.forget(Server::Service(&one));
        assert!(!seen.is_known(Server::Service(&one), start));
    }

    #[test]
    fn an_address_outside_is_not_the_applications() {
        let (seen, start) = (SpokeFirst::default(), Instant::from_millis(0));
        let address = SocketAddr::from(([127, 0, 0, 1], 25));
        seen.remember(Server::Outside(address), start);
        assert!(!seen.is_known(Server::Application(address), start));
    }

    #[test]
    fn the_memory_is_bounded_and_the_newest_is_in_it() {
        let (seen, start) = (SpokeFirst::default(), Instant::from_millis(0));
        for port in 1..=5_000 {
            let name = db(port);
            seen.remember(Server::Service(&name), start);
            assert!(seen.is_known(Server::Service(&name), start));
        }
        assert_eq!(seen.slots.len(), REMEMBERED_MAX);
        let known = (1..=5_000).filter(|port| seen.is_known(Server::Service(&db(*port)), start)).count();
        assert!(known <= REMEMBERED_MAX, "{known}");
    }
}
