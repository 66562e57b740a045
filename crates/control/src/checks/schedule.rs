//! What is checked, when next, and what a row of results means. Pure: time and chance are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::health::{Judge, Turn};
use meshwork_core::mesh::Mesh;
use meshwork_core::model::{Check, HealthCheck, Key, Transport, Workload, WorkloadPort};

/// Ports that are checked: ten times what anybody writes by hand. What is beyond is believed.
pub(super) const CHECKS_MAX: usize = 20_000;

/// The first look comes within so much, so that a thousand checks of a start or an `apply` are no burst.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// A later one after its interval, give or take this share of it.
const JITTER: f64 = 0.1;

/// One port and how it is checked. A check that was changed is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) workload: Key,
    pub(super) address: SocketAddr,
    pub(super) asked: Asked,
    pub(super) check: HealthCheck,
}

/// Whether an operator asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    No,
    Yes,
}

#[derive(Default)]
pub(super) struct Schedule {
    entries: BTreeMap<Target, Entry>,
    /// Of the entries that are not being probed.
    queue: BTreeSet<(Instant, Target)>,
}

struct Entry {
    judge: Judge,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Waiting { due: Instant },
    Running,
}

/// What following the mesh came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Followed {
    /// Not checked any more.
    pub(super) gone: Vec<Target>,
    /// Found no room.
    pub(super) left_out: usize,
}

impl Schedule {
    /// Checks what the mesh has now.
    pub(super) fn follow(&mut self, mesh: &Mesh, now: Instant, mut random: impl FnMut() -> f64) -> Followed {
        let mut followed = Followed::default();
        let mut wanted: BTreeSet<Target> = BTreeSet::new();
        for target in mesh.workloads().flat_map(|workload| targets(workload)) {
            if wanted.len() < CHECKS_MAX {
                wanted.insert(target);
            } else {
                followed.left_out += 1;
            }
        }
        let gone: Vec<Target> = self.entries.keys().filter(|held| !wanted.contains(held)).cloned().collect();
        for target in gone {
            if let Some(Entry { state: State::Waiting { due }, .. }) = self.entries.remove(&target) {
                self.queue.remove(&(due, target.clone()));
            }
            followed.gone.push(target);
        }
        for target in wanted {
            if !self.entries.contains_key(&target) {
                let due = now + FIRST_WITHIN.min(target.check.interval).mul_f64(random());
                self.queue.insert((due, target.clone()));
                self.entries
                    .insert(target, Entry { judge: Judge::believed(), state: State::Waiting { due } });
            }
        }
        followed
    }

    /// The next one to be probed, if it is time.
    pub(super) fn due(&mut self, now: Instant) -> Option<Target> {
        let (due, _) = self.queue.first().filter(|(due, _)| *due <= now)?;
        let due = *due;
        let (_, target) = self.queue.pop_first()?;
        debug_assert!(due <= now, "probed before its time");
        if let Some(entry) = self.entries.get_mut(&target) {
            entry.state = State::Running;
        }
        Some(target)
    }

    /// When `due` has something next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes a result in; the new finding, if it is one.
    pub(super) fn record(&mut self, target: &Target, well: bool, now: Instant, random: f64) -> Option<Turn> {
        let entry = self.entries.get_mut(target)?; // not checked any more
        let due = now + target.check.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * random);
        entry.state = State::Waiting { due };
        self.queue.insert((due, target.clone()));
        // Nobody asked, and it was never seen well: it may be out of our reach, and in others'.
        if target.asked == Asked::No && !well && !entry.judge.is_proven() {
            return None;
        }
        entry.judge.record(well)
    }
}

fn targets(workload: &Workload) -> impl Iterator<Item = Target> + '_ {
    let target = |port: &WorkloadPort| {
        let (asked, check) = match &port.check {
            Check::Asked(check) => (Asked::Yes, check.clone()),
            Check::Unasked if port.transports == [Transport::Plaintext] => {
                (Asked::No, HealthCheck::default())
            }
            Check::Unasked | Check::Off => return None,
        };
        Some(Target { workload: workload.key.clone(), address: port.address, asked, check })
    };
    workload.ports.iter().filter_map(target)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use meshwork_core::model::{Health, Locality};

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    fn mesh(ports: &[(u16, Check, Transport)]) -> Mesh {
        let port = |(number, check, transport): &(u16, Check, Transport)| WorkloadPort {
            service_port: None,
            app_port: *number,
            address: ([10, 0, 0, 1], *number).into(),
            transports: vec![*transport],
            check: check.clone(),
            health: Health::Healthy,
        };
        let mut mesh = Mesh::new("m", "mesh.local");
        mesh.put_workload(Workload {
            key: Key::new("default", "ledger-1"),
            labels: Map::new(),
            account: "default".to_owned(),
            ports: ports.iter().map(port).collect(),
            locality: Locality::default(),
            health: Health::Healthy,
            weight: 1,
        });
        mesh
    }

    fn asked() -> Check {
        Check::Asked(HealthCheck::default())
    }

    fn of(ports: &[(u16, Check, Transport)]) -> Schedule {
        let mut schedule = Schedule::default();
        schedule.follow(&mesh(ports), at(0), || 0.5);
        schedule
    }

    /// Probes as often as there are letters; `+` is a success. The findings.
    fn findings(schedule: &mut Schedule, probes: &str) -> String {
        let one = |probe| {
            let now = schedule.next().unwrap();
            let target = schedule.due(now).unwrap();
            match schedule.record(&target, probe == '+', now, 0.5) {
                Some(Turn::Well) => 'W',
                Some(Turn::Unwell) => 'U',
                None => ' ',
            }
        };
        probes.chars().map(one).collect()
    }

    #[test]
    fn ports_in_clear_are_checked_unless_that_is_not_wanted() {
        let schedule = of(&[
            (1, Check::Unasked, Transport::Plaintext),
            (2, Check::Off, Transport::Plaintext),
            (3, Check::Unasked, Transport::MtlsHttp2),
            (4, asked(), Transport::MtlsHttp2),
        ]);
        let ports: Vec<u16> = schedule.entries.keys().map(|target| target.address.port()).collect();
        assert_eq!(ports, [1, 4]);
    }

    #[test]
    fn a_check_that_was_asked_for_is_believed_from_the_start() {
        let mut schedule = of(&[(1, asked(), Transport::Plaintext)]);
        assert_eq!(findings(&mut schedule, "---+--+"), "  UW   ");
    }

    #[test]
    fn one_that_nobody_asked_for_counts_only_where_it_once_succeeded() {
        let mut schedule = of(&[(1, Check::Unasked, Transport::Plaintext)]);
        assert_eq!(findings(&mut schedule, "-----+---++"), "        U W");
    }

    #[test]
    fn looks_come_at_their_interval_and_none_while_one_runs() {
        let mut schedule = of(&[(1, asked(), Transport::Plaintext)]);
        assert_eq!(schedule.next(), Some(Instant::from_millis(500)));
        assert_eq!(schedule.due(Instant::from_millis(499)), None);
        let target = schedule.due(at(1)).unwrap();
        assert_eq!((schedule.next(), schedule.due(at(100))), (None, None));
        schedule.record(&target, true, at(2), 1.0);
        assert_eq!(schedule.next(), Some(at(13)), "10 s and a tenth");
    }

    #[test]
    fn what_is_gone_is_told_and_a_late_result_of_it_means_nothing() {
        let mut schedule = of(&[(1, asked(), Transport::Plaintext)]);
        let target = schedule.due(at(1)).unwrap();
        let followed = schedule.follow(&mesh(&[]), at(1), || 0.0);
        assert_eq!(followed.gone, std::slice::from_ref(&target));
        assert_eq!((schedule.record(&target, false, at(2), 0.0), schedule.next()), (None, None));
    }
}
