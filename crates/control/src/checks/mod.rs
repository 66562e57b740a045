//! Checks workloads that have no sidecar to say how they are: TCP, HTTP or gRPC, as each Workload says.
//!
//! One task follows the mesh, lets what is due be probed, so many at a time, and tells `Standings` what it found; the
//! model then has it in its next version. Nothing of it is written to the store: after a start everybody is well until
//! probes say otherwise.
//!
//! | file | what |
//! |---|---|
//! | `schedule.rs` | what is checked, when, and what results mean: pure |
//! | `probe.rs` | one look |

mod probe;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use meshwork_core::health::Turn;
use meshwork_core::model::Health;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::registry::{Checked, Standings};
use crate::time::Clock;
use crate::view::Views;
use schedule::{CHECKS_MAX, Schedule, Target};

/// Probes at a time, each with a socket. With the usual interval and a second for those that do not answer, it is
/// enough for 2,560 workloads that are all gone; beyond, looks come late, and that is said.
const PROBES_MAX: usize = 256;

/// How often changes of the mesh are looked at: what was applied is checked within two seconds.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// A look that comes later than this is worth a line in the log, once a minute.
const LATE: Duration = Duration::from_secs(5);
const LATE_TOLD_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Checks {
    pub(crate) views: Views,
    pub(crate) standings: Arc<Standings>,
    pub(crate) clock: Clock,
}

type Probes = JoinSet<(Target, Result<(), String>)>;

impl Checks {
    /// Checks until drained.
    pub(crate) async fn run(mut self, drain: CancellationToken) {
        let mut schedule = Schedule::default();
        let mut probes = Probes::new();
        let mut follow = tokio::time::interval(FOLLOW_INTERVAL);
        let mut told_late = None;
        loop {
            self.start_due(&mut schedule, &mut probes, &mut told_late);
            let clock = self.clock;
            let next = schedule.next().filter(|_| probes.len() < PROBES_MAX);
            let due = async {
                match next {
                    Some(next) => clock.sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = probes.join_next(), if !probes.is_empty() => self.take(&mut schedule, done),
                _ = follow.tick() => self.follow(&mut schedule),
                () = due => {}
                () = drain.cancelled() => return,
            }
        }
    }

    fn start_due(
        &self,
        schedule: &mut Schedule,
        probes: &mut Probes,
        told_late: &mut Option<tokio::time::Instant>,
    ) {
        let now = self.clock.now();
        while probes.len() < PROBES_MAX {
            let Some(target) = schedule.due(now) else { return };
            probes.spawn(async move {
                let outcome = probe::probe(target.address, &target.check).await;
                (target, outcome)
            });
        }
        let late = schedule.next().is_some_and(|due| due + LATE < now);
        if late && told_late.is_none_or(|told| told.elapsed() >= LATE_TOLD_EVERY) {
            *told_late = Some(tokio::time::Instant::now());
            tracing::warn!(
                limit = PROBES_MAX,
                "health checks come late: too many workloads do not answer; ask for longer intervals or shorter time-outs"
            );
        }
    }

    fn follow(&mut self, schedule: &mut Schedule) {
        let Some(view) = self.views.if_changed() else { return };
        let followed = schedule.follow(&view.mesh, self.clock.now(), chance);
        for target in followed.gone {
            self.standings.uncheck(&target.workload, target.address);
        }
        if followed.left_out > 0 {
            tracing::error!(
                left_out = followed.left_out,
                limit = CHECKS_MAX,
                "some workloads are not checked"
            );
        }
    }

    fn take(
        &self,
        schedule: &mut Schedule,
        done: Result<(Target, Result<(), String>), tokio::task::JoinError>,
    ) {
        // A probe that panicked was reported where it happened; its target stays as it was.
        let Ok((target, outcome)) = done else { return };
        let Target { workload, address, .. } = &target;
        let turn = schedule.record(&target, outcome.is_ok(), self.clock.now(), chance());
        let detail = outcome.err().unwrap_or_default();
        let health = match turn {
            None => return,
            Some(Turn::Well) => {
                tracing::info!(%workload, %address, "a workload without sidecar is well again");
                Health::Healthy
            }
            Some(Turn::Unwell) => {
                tracing::warn!(%workload, %address, detail, "a workload without sidecar is not well");
                Health::Unhealthy
            }
        };
        self.standings.check(workload, *address, Checked { health, detail });
    }
}

/// From 0 up to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness nothing here works; the keys' maker will say so.
    let _ = meshwork_identity::provider().secure_random.fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / 4_294_967_296.0
}
