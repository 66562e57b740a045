//! Looks at every sidecar's /metrics once a second, and makes the view's rows of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::Role;
use super::app::Report;
use super::mesh::{Mesh, Run};
use super::scrape::{self, Sample, Side};
use super::view::{Row, RowKind, View};
use crate::BoxError;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The last look at each workload, and all that was ever seen.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: RefCell<HashMap<String, (Instant, Sample)>>,
    report: RefCell<Report>,
    /// Inbound requests of all workloads together, those that are gone included.
    total: RefCell<Sample>,
}

impl Watch {
    /// Looks and shows until dropped; ends only with an error: a process that should run has ended.
    pub(super) async fn run(&self, mesh: &Mesh, view: &RefCell<View>) -> Result<(), BoxError> {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            mesh.check_running()?;
            let rows = self.look(mesh).await;
            view.borrow_mut().show(rows);
        }
    }

    /// One look at all of them.
    pub(super) async fn look(&self, mesh: &Mesh) -> Vec<Row> {
        let before = self.report.replace(read_report(mesh));
        let mut rows: Vec<Row> = Vec::new();
        for run in mesh.runs() {
            let Some(Look { seconds, delta, handshakes }) = self.look_at(&run).await else { continue };
            match rows.iter_mut().find(|row| row.service == run.role.service()) {
                Some(row) => {
                    row.instances += 1;
                    row.delta.add(&delta);
                    row.handshakes += handshakes;
                }
                None => rows.push(Row {
                    service: run.role.service(),
                    instances: 1,
                    kind: if run.role == Role::Stock { RowKind::Tcp } else { RowKind::Http },
                    delta,
                    seconds,
                    handshakes,
                    versions: String::new(),
                }),
            }
        }
        rows.sort_by_key(|row| Role::ALL.iter().position(|role| role.service() == row.service));
        if let Some(cart) = rows.iter_mut().find(|row| row.service == Role::Cart.service()) {
            cart.versions = shares(&before, &self.report.borrow());
        }
        rows
    }

    /// What callers saw so far.
    pub(super) fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Every inbound request that was seen anywhere: all of them from peers known by certificate, and none refused?
    pub(super) fn all_verified(&self) -> bool {
        let total = self.total.borrow();
        total.requests > 0 && total.verified == total.requests && total.handshakes > 0
    }

    /// What its callers asked of it since its start.
    pub(super) async fn asked_of(&self, run: &Run) -> Sample {
        sample_of(run).await.unwrap_or_default()
    }

    /// These counters of all sidecars of one role together.
    pub(super) async fn total_of(&self, mesh: &Mesh, role: Role, names: &[&str]) -> u64 {
        let mut total = 0;
        for run in mesh.runs().iter().filter(|run| run.role == role) {
            total += metrics(run).await.map_or(0, |text| scrape::total(&text, names));
        }
        total
    }

    async fn look_at(&self, run: &Rc<Run>) -> Option<Look> {
        let sample = sample_of(run).await?;
        let now = Instant::now();
        let before = self.seen.borrow_mut().insert(run.instance.clone(), (now, sample.clone()));
        let (since, before) = before.unwrap_or_else(|| (now - LOOK_EVERY, Sample::default()));
        let delta = sample.since(&before);
        if run.role != Role::Load {
            self.total.borrow_mut().add(&delta);
        }
        Some(Look { seconds: (now - since).as_secs_f64(), delta, handshakes: sample.handshakes })
    }
}

/// What one look at a sidecar shows.
struct Look {
    seconds: f64,
    delta: Sample,
    /// Since its start.
    handshakes: u64,
}

/// The customers have no inbound side: theirs is what they sent.
async fn sample_of(run: &Run) -> Option<Sample> {
    let side = if run.role == Role::Load { Side::Outbound } else { Side::Inbound };
    metrics(run).await.map(|text| Sample::read(&text, side))
}

async fn metrics(run: &Run) -> Option<String> {
    let (status, body) = run.admin.get()?.get("localhost", "/metrics").await.ok()?;
    status.is_success().then(|| String::from_utf8_lossy(&body).into_owned())
}

fn read_report(mesh: &Mesh) -> Report {
    let read = std::fs::read(mesh.report_file()).unwrap_or_default();
    serde_json::from_slice(&read).unwrap_or_default()
}

/// `v1 90 %, v2 10 %` of what was answered between two reports.
fn shares(before: &Report, now: &Report) -> String {
    let since = versions_since(before, now);
    let total: u64 = since.iter().map(|(_, count)| count).sum();
    let share =
        |(version, count): &(String, u64)| format!("{version} {:.0} %", 100.0 * *count as f64 / total as f64);
    since.iter().filter(|(_, count)| *count > 0).map(share).collect::<Vec<_>>().join(", ")
}

pub(super) fn versions_since(before: &Report, now: &Report) -> Vec<(String, u64)> {
    let then = |version: &String| before.versions.get(version).copied().unwrap_or(0);
    now.versions
        .iter()
        .map(|(version, count)| (version.clone(), count.saturating_sub(then(version))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(versions: &[(&str, u64)]) -> Report {
        let versions = versions.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect();
        Report { versions, ..Report::default() }
    }

    #[test]
    fn shares_are_of_what_was_answered_since() {
        let before = report(&[("v1", 100)]);
        assert_eq!(shares(&before, &report(&[("v1", 190), ("v2", 10)])), "v1 90 %, v2 10 %");
        assert_eq!(shares(&before, &report(&[("v1", 150)])), "v1 100 %");
        assert_eq!(shares(&before, &before), "");
    }
}
