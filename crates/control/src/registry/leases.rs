//! Leases as values: who is there, who was silent for too long, who is to be forgotten.
//!
//! - A lease is held for a term; each message of the sidecar begins a new one.
//! - A lapsed lease makes the workload unhealthy (used only when nothing healthy is left); after a while the
//!   workload is removed. If over half of a service's workloads lapsed within one term, the fault is rather
//!   between them and us, so they are only marked; for a day.
//! - A workload that drained has said goodbye: it is removed as soon as its lease lapses.
//! - If we were absent ourselves, every lease runs for a full term from then.
//! - After a start nothing lapses until the first sidecar is back, and then not for a full term.
//!
//! Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::model::{Health, Key};

/// What is marked and not removed is forgotten after as many of the usual waits: a day, by default.
const ABANDONED_AFTER: u32 = 144;

#[derive(Debug)]
pub(crate) struct Leases {
    term: Duration,
    /// How long a lapsed lease is kept.
    kept: Duration,
    start: Start,
    leases: BTreeMap<Key, Lease>,
}

/// Whether a sidecar has come back since the start.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Waiting,
    Over,
}

#[derive(Clone, Debug, PartialEq)]
struct Lease {
    service: String,
    renewed: Instant,
    hold: Hold,
    reported: Reported,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hold {
    Held,
    Lapsed { since: Instant },
}

/// What the sidecar says of its application.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reported {
    Healthy,
    Unhealthy,
    Draining,
}

/// One service's workloads.
#[derive(Default)]
struct Group {
    workloads: usize,
    /// When leases lapsed, in order.
    lapsed: Vec<Instant>,
}

/// What time has done to a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lapse {
    Marked(Key),
    /// To be removed from the store; it stays in here until `remove` confirms that.
    Over(Key),
}

impl Leases {
    pub(crate) fn new(term: Duration, kept: Duration) -> Self {
        Self { term, kept, start: Start::Waiting, leases: BTreeMap::new() }
    }

    pub(crate) fn term(&self) -> Duration {
        self.term
    }

    /// A workload that the store knows from before the start: believed healthy until its lease lapses.
    pub(crate) fn remember(&mut self, workload: Key, service: &str, now: Instant) {
        let service = service.to_owned();
        self.leases
            .insert(workload, Lease { service, renewed: now, hold: Hold::Held, reported: Reported::Healthy });
    }

    /// A registration, the first or again: a drain before it is over.
    pub(crate) fn register(&mut self, workload: Key, service: &str, healthy: bool, now: Instant) {
        self.first_is_back(now);
        let reported = if healthy { Reported::Healthy } else { Reported::Unhealthy };
        let service = service.to_owned();
        self.leases.insert(workload, Lease { service, renewed: now, hold: Hold::Held, reported });
    }

    /// `None`: no such lease (any more). Else whether its health is another one now.
    pub(crate) fn renew(&mut self, workload: &Key, now: Instant) -> Option<bool> {
        self.change(workload, |lease| {
            lease.renewed = now;
            lease.hold = Hold::Held;
        })
    }

    /// As `renew`. A drain is not taken back by a health report, only by a registration.
    pub(crate) fn report(&mut self, workload: &Key, healthy: bool, now: Instant) -> Option<bool> {
        self.change(workload, |lease| {
            lease.renewed = now;
            lease.hold = Hold::Held;
            lease.reported = match (lease.reported, healthy) {
                (Reported::Draining, _) => Reported::Draining,
                (Reported::Healthy | Reported::Unhealthy, true) => Reported::Healthy,
                (Reported::Healthy | Reported::Unhealthy, false) => Reported::Unhealthy,
            };
        })
    }

    /// As `renew`.
    pub(crate) fn drain(&mut self, workload: &Key) -> Option<bool> {
        self.change(workload, |lease| lease.reported = Reported::Draining)
    }

    pub(crate) fn remove(&mut self, workload: &Key) {
        self.leases.remove(workload);
    }

    /// Every lease that is held runs for a full term from now.
    pub(crate) fn prolong(&mut self, now: Instant) {
        for lease in self.leases.values_mut().filter(|lease| lease.hold == Hold::Held) {
            lease.renewed = now;
        }
    }

    pub(crate) fn has_lapsed(&self, workload: &Key) -> bool {
        self.leases.get(workload).is_some_and(|lease| lease.hold != Hold::Held)
    }

    /// A workload without lease is believed: the store knew it before we did.
    pub(crate) fn health(&self, workload: &Key) -> Health {
        self.leases.get(workload).map_or(Health::Healthy, Lease::health)
    }

    pub(crate) fn age(&self, workload: &Key, now: Instant) -> Option<Duration> {
        self.leases.get(workload).map(|lease| now - lease.renewed)
    }

    /// Lets time pass.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Lapse> {
        if self.start == Start::Waiting {
            return Vec::new();
        }
        let mut lapses = Vec::new();
        for (workload, lease) in &mut self.leases {
            if lease.hold == Hold::Held && now >= lease.renewed + self.term {
                lease.hold = Hold::Lapsed { since: lease.renewed + self.term };
                lapses.push(Lapse::Marked(workload.clone()));
            }
        }
        let groups = self.groups();
        let over = self.leases.iter().filter(|(workload, lease)| {
            let end = self.end(lease, groups.get(&(&*workload.namespace, &*lease.service)));
            end.is_some_and(|end| now >= end)
        });
        lapses.extend(over.map(|(workload, _)| Lapse::Over(workload.clone())));
        lapses
    }

    /// When `expire` has something to do next; `None`: not before something happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.start == Start::Waiting {
            return None;
        }
        let groups = self.groups();
        let next = |(workload, lease): (&Key, &Lease)| match lease.hold {
            Hold::Held => Some(lease.renewed + self.term),
            Hold::Lapsed { .. } => self.end(lease, groups.get(&(&*workload.namespace, &*lease.service))),
        };
        self.leases.iter().filter_map(next).min()
    }

    /// When a lapsed workload is to be removed.
    fn end(&self, lease: &Lease, group: Option<&Group>) -> Option<Instant> {
        let Hold::Lapsed { since } = lease.hold else { return None };
        if lease.reported == Reported::Draining {
            return Some(since);
        }
        let with_most = group.is_some_and(|group| group.lapsed_mostly(since, self.term));
        Some(since + if with_most { self.kept * ABANDONED_AFTER } else { self.kept })
    }

    /// Every service's workloads, summed up in one pass: a whole mesh may lapse at once.
    fn groups(&self) -> BTreeMap<(&str, &str), Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for (workload, lease) in &self.leases {
            let group = groups.entry((&*workload.namespace, &*lease.service)).or_default();
            group.workloads += 1;
            if let Hold::Lapsed { since } = lease.hold {
                group.lapsed.push(since);
            }
        }
        for group in groups.values_mut() {
            group.lapsed.sort_unstable();
        }
        groups
    }

    /// The first sidecar since the start: the others may be on their way too, for a full term.
    fn first_is_back(&mut self, now: Instant) {
        if self.start == Start::Waiting {
            self.start = Start::Over;
            self.prolong(now);
        }
    }

    fn change(&mut self, workload: &Key, change: impl FnOnce(&mut Lease)) -> Option<bool> {
        let lease = self.leases.get_mut(workload)?;
        let before = lease.health();
        change(lease);
        Some(lease.health() != before)
    }
}

impl Group {
    /// Whether over half of the workloads lapsed within a term of one that did at `since`.
    fn lapsed_mostly(&self, since: Instant, term: Duration) -> bool {
        let from = self.lapsed.partition_point(|other| *other + term < since);
        let to = self.lapsed.partition_point(|other| *other <= since + term);
        // One alone is no majority: it is simply gone.
        self.workloads > 1 && (to - from) * 2 > self.workloads
    }
}

impl Lease {
    fn health(&self) -> Health {
        match (self.hold, self.reported) {
            (_, Reported::Draining) => Health::Draining,
            (Hold::Held, Reported::Healthy) => Health::Healthy,
            (Hold::Held, Reported::Unhealthy) | (Hold::Lapsed { .. }, _) => Health::Unhealthy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);
    const KEPT: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    fn registered(names: &[&str]) -> Leases {
        let mut leases = Leases::new(TERM, KEPT);
        for name in names {
            leases.register(key(name), "cart", true, at(0));
        }
        leases
    }

    fn marked(names: &[&str]) -> Vec<Lapse> {
        names.iter().map(|name| Lapse::Marked(key(name))).collect()
    }

    #[test]
    fn a_silent_workload_is_marked_and_later_removed() {
        let mut leases = registered(&["a", "b"]);
        assert_eq!(leases.next(), Some(at(15)));
        leases.renew(&key("b"), at(14)).unwrap();
        assert_eq!(leases.expire(at(15)), marked(&["a"]));
        assert_eq!(
            (leases.health(&key("a")), leases.health(&key("b"))),
            (Health::Unhealthy, Health::Healthy)
        );
        leases.renew(&key("b"), at(614)).unwrap();
        assert_eq!(leases.expire(at(614)), []);
        assert_eq!(leases.next(), Some(at(615)));
        assert_eq!(leases.expire(at(615)), [Lapse::Over(key("a"))]);
        leases.remove(&key("a"));
        assert_eq!(leases.next(), Some(at(629)));
        assert_eq!(leases.renew(&key("a"), at(620)), None);
    }

    #[test]
    fn a_workload_that_speaks_again_is_as_it_was() {
        let mut leases = registered(&["a"]);
        leases.expire(at(15));
        assert_eq!(leases.renew(&key("a"), at(20)), Some(true));
        assert_eq!(leases.renew(&key("a"), at(21)), Some(false));
        assert_eq!(leases.health(&key("a")), Health::Healthy);
        assert_eq!(leases.next(), Some(at(36)));
    }

    #[test]
    fn when_most_lapse_at_once_they_are_only_marked() {
        let mut leases = registered(&["a", "b", "c"]);
        leases.renew(&key("c"), at(10)).unwrap();
        assert_eq!(leases.expire(at(15)), marked(&["a", "b"]));
        leases.renew(&key("c"), at(700)).unwrap();
        assert_eq!(leases.expire(at(700)), []);
        // One is back: what is left is a minority, and ends as usual.
        leases.renew(&key("b"), at(701)).unwrap();
        assert_eq!(leases.expire(at(701)), [Lapse::Over(key("a"))]);
    }

    #[test]
    fn what_was_marked_is_forgotten_after_a_day() {
        let mut leases = registered(&["a", "b"]);
        leases.expire(at(15));
        assert_eq!(leases.expire(at(86_400)), []);
        assert_eq!(leases.expire(at(86_415)).len(), 2);
    }

    #[test]
    fn one_that_is_alone_and_gone_is_removed() {
        let mut leases = registered(&["a"]);
        leases.expire(at(15));
        assert_eq!(leases.expire(at(615)), [Lapse::Over(key("a"))]);
    }

    #[test]
    fn one_that_drained_is_removed_with_its_lease() {
        let mut leases = registered(&["a", "b"]);
        assert_eq!(leases.drain(&key("a")), Some(true));
        assert_eq!(leases.health(&key("a")), Health::Draining);
        assert_eq!(leases.report(&key("a"), true, at(5)), Some(false), "no report takes a drain back");
        leases.renew(&key("b"), at(19)).unwrap();
        assert_eq!(leases.expire(at(20)), [Lapse::Marked(key("a")), Lapse::Over(key("a"))]);
        leases.register(key("a"), "cart", true, at(21));
        assert_eq!(leases.health(&key("a")), Health::Healthy, "a registration does");
    }

    #[test]
    fn a_failed_check_is_out_at_once() {
        let mut leases = registered(&["a"]);
        assert_eq!(leases.report(&key("a"), false, at(1)), Some(true));
        assert_eq!(leases.health(&key("a")), Health::Unhealthy);
        assert_eq!(leases.report(&key("a"), true, at(2)), Some(true));
    }

    #[test]
    fn an_absence_of_our_own_costs_nobody_his_lease_and_brings_nobody_back() {
        let mut leases = registered(&["a", "b", "c"]);
        leases.renew(&key("b"), at(10)).unwrap();
        leases.renew(&key("c"), at(10)).unwrap();
        assert_eq!(leases.expire(at(15)), marked(&["a"]));
        leases.prolong(at(60));
        assert_eq!(leases.expire(at(74)), []);
        assert!(leases.has_lapsed(&key("a")) && !leases.has_lapsed(&key("b")));
        assert_eq!(leases.expire(at(75)), marked(&["b", "c"]));
    }

    #[test]
    fn after_a_start_nothing_lapses_until_a_term_after_the_first_is_back() {
        let mut leases = Leases::new(TERM, KEPT);
        for name in ["a", "b"] {
            leases.remember(key(name), "cart", at(0));
        }
        assert_eq!((leases.next(), leases.expire(at(1_000))), (None, vec![]));
        assert_eq!(leases.health(&key("a")), Health::Healthy);
        leases.register(key("a"), "cart", true, at(1_000));
        assert_eq!(leases.expire(at(1_014)), []);
        leases.renew(&key("a"), at(1_014)).unwrap();
        assert_eq!(leases.expire(at(1_015)), marked(&["b"]));
    }
}
