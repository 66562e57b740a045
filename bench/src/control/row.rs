//! One measurement of one size: a mesh is made, everybody leaves and comes back at once, then endpoints change.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::ledger::{Change, latencies, percentile_ms};
use super::member::Heard;
use super::plane::{Operators, Plane};
use super::population::Population;
use super::settings::{Settings, Size};
use crate::failure::{Doing as _, Result};
use crate::process_files::{cpu_seconds, resident_mib};

/// Changes of one endpoint a second.
const RATE: u64 = 100;

/// Until what joining and coming back left behind has settled.
const QUIET: Duration = Duration::from_secs(3);

/// How long after the last change everybody must have confirmed it, or it counts as lost.
const LATE_MAX: Duration = Duration::from_secs(20);

/// Between looks whether all was confirmed.
const LOOK: Duration = Duration::from_millis(100);

/// One in so many sidecars stops reading.
const DEAD_SHARE: usize = 50;

/// How long changes come while some don't read: longer than what the kernel's buffers and the windows take.
const DEAD_SECONDS: u64 = 10;

/// Odd, so that with it all endpoints have their turn, the next far from the last.
const STRIDE: usize = 7_919;

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) sidecars: usize,
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) push_p50_ms: f64,
    pub(super) push_p99_ms: f64,
    pub(super) push_max_ms: f64,
    /// What a subscriber receives for a change, TLS and all.
    pub(super) bytes_per_change: f64,
    pub(super) subscribers_per_change: f64,
    pub(super) kib_per_session: f64,
    pub(super) reconnect_s: f64,
    pub(super) changes_per_s: u64,
    pub(super) seconds: u64,
    /// Median of the last sixth of the changes by that of the first: above 1 for long is a queue that grows.
    pub(super) queue_growth: f64,
    /// Changes that a subscriber never confirmed.
    pub(super) lost: usize,
    /// What sidecars were told of services that they don't call.
    pub(super) uncalled_for: u64,
    pub(super) dead_readers: usize,
    /// Of everybody else's.
    pub(super) push_p99_beside_dead_ms: f64,
    /// CPU time of the control plane, all that it did meanwhile.
    pub(super) control_cpu_ms_per_change: f64,
    /// Of one core.
    pub(super) control_cpu: f64,
    pub(super) client_cpu: f64,
    pub(super) control_rss_mib: f64,
    pub(super) apply_s: f64,
    pub(super) start_s: f64,
    pub(super) reconnect_control_cpu_s: f64,
}

pub(super) async fn measure(settings: &Settings, size: Size, folder: &Path) -> Result<Row> {
    let folder = folder.join(size.sidecars.to_string());
    std::fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
    let population = Population(size);
    let mut plane = Plane::start(&settings.meshwork, &folder).await?;
    let begun = Instant::now();
    for documents in population.manifests() {
        plane.operators.apply(documents).await?;
    }
    let apply_s = begun.elapsed().as_secs_f64();
    let mut fleet = Fleet::enrol(population, &plane.operators).await?;
    let joined = fleet.connect().await?;
    println!("  applied in {apply_s:.1} s; all joined in {:.1} s", joined.as_secs_f64());

    fleet.disconnect().await;
    let begun = Instant::now();
    plane.restart().await?;
    let start_s = begun.elapsed().as_secs_f64();
    let (empty, cpu) = (resident_mib(plane.id())?, cpu_seconds(&[plane.id()])?);
    let reconnect = fleet.connect().await?;
    let reconnect_control_cpu_s = cpu_seconds(&[plane.id()])? - cpu;
    tokio::time::sleep(QUIET).await;
    let full = resident_mib(plane.id())?;
    println!(
        "  back in {:.1} s ({reconnect_control_cpu_s:.1} CPU s of the control plane), {empty:.0} MiB became {full:.0} MiB",
        reconnect.as_secs_f64()
    );

    let changing = Changing { plane: &plane, fleet: &fleet, population };
    let seconds = settings.seconds(size);
    let steady = changing.run(seconds, 0, &BTreeSet::new()).await?;
    let dead: BTreeSet<usize> = (0..size.sidecars).step_by(DEAD_SHARE).collect();
    dead.iter().for_each(|number| fleet.members[*number].counts.freeze());
    let beside_dead = changing.run(DEAD_SECONDS, steady.changes, &dead).await?;
    println!(
        "  push p50 {:.0} ms, p99 {:.0} ms; control plane {:.2} ms of CPU a change, {:.2} of a core, we {:.2}",
        steady.percentile(500),
        steady.percentile(990),
        steady.control_cpu_s * 1e3 / steady.changes as f64,
        steady.control_cpu_s / steady.wall_s,
        steady.client_cpu_s / steady.wall_s,
    );
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    Ok(Row {
        sidecars: size.sidecars,
        services: size.services,
        endpoints: size.endpoints,
        push_p50_ms: steady.percentile(500),
        push_p99_ms: steady.percentile(990),
        push_max_ms: steady.percentile(1_000),
        bytes_per_change: (steady.received as f64 / steady.acks.max(1) as f64).round(),
        subscribers_per_change: rounded(steady.acks as f64 / steady.changes as f64),
        kib_per_session: rounded((full - empty) * 1024.0 / size.sidecars as f64),
        reconnect_s: rounded(reconnect.as_secs_f64()),
        changes_per_s: RATE,
        seconds,
        queue_growth: rounded(steady.growth()),
        lost: steady.lost + beside_dead.lost,
        uncalled_for: steady.uncalled_for + beside_dead.uncalled_for,
        dead_readers: dead.len(),
        push_p99_beside_dead_ms: beside_dead.percentile(990),
        control_cpu_ms_per_change: rounded(steady.control_cpu_s * 1e3 / steady.changes as f64),
        control_cpu: rounded(steady.control_cpu_s / steady.wall_s),
        client_cpu: rounded(steady.client_cpu_s / steady.wall_s),
        control_rss_mib: rounded(resident_mib(plane.id())?),
        apply_s: rounded(apply_s),
        start_s: rounded(start_s),
        reconnect_control_cpu_s: rounded(reconnect_control_cpu_s),
    })
}

struct Changing<'a> {
    plane: &'a Plane,
    fleet: &'a Fleet,
    population: Population,
}

/// What came of a time of changes.
struct Changed {
    /// In the order of the changes.
    latencies: Vec<Duration>,
    changes: usize,
    lost: usize,
    acks: usize,
    uncalled_for: u64,
    received: u64,
    control_cpu_s: f64,
    client_cpu_s: f64,
    wall_s: f64,
}

impl Changing<'_> {
    /// Changes endpoints at the rate, each when it is due, however long those before it take.
    async fn run(&self, seconds: u64, first: usize, left_out: &BTreeSet<usize>) -> Result<Changed> {
        let cpu = || Ok::<_, crate::failure::Failure>((cpu_seconds(&[self.plane.id()])?, own_cpu_seconds()?));
        let (before, received, begun) = (cpu()?, self.fleet.received(), Instant::now());
        self.fleet.take();
        let mut writing = JoinSet::new();
        for number in 0..usize::try_from(seconds * RATE).unwrap_or(usize::MAX) {
            let due =
                begun + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / RATE as u32;
            tokio::time::sleep_until(due.into()).await;
            let applied = self.population.applied();
            let endpoint = applied.start + (first + number) * STRIDE % applied.len();
            // No weight that it may have had just before.
            let weight = 2 + u32::try_from((first + number) % 900).unwrap_or(0);
            let document = self.population.workload_document(endpoint, weight);
            let (operators, begun) = (self.plane.operators.clone(), self.fleet.told.begun);
            let service = self.population.service_of(endpoint);
            writing.spawn(write(operators, document, service, begun));
        }
        let mut changes = Vec::new();
        while let Some(written) = writing.join_next().await {
            changes.push(written.doing(|| "changing an endpoint".to_owned())??);
        }
        changes.sort_by_key(|change| change.at);
        let (heard, found) = self.confirmed(&changes, left_out).await;
        let (after, wall_s) = (cpu()?, begun.elapsed().as_secs_f64());
        Ok(Changed {
            changes: changes.len(),
            lost: found.iter().filter(|latency| latency.is_none()).count(),
            latencies: found.into_iter().flatten().collect(),
            acks: heard.acks.len(),
            uncalled_for: heard.uncalled_for,
            received: self.fleet.received() - received,
            control_cpu_s: after.0 - before.0,
            client_cpu_s: after.1 - before.1,
            wall_s,
        })
    }

    /// Waits until each change was confirmed by all, but not for ever.
    async fn confirmed(
        &self,
        changes: &[Change],
        left_out: &BTreeSet<usize>,
    ) -> (Heard, Vec<Option<Duration>>) {
        let (callers, deadline) = (self.population.callers(), Instant::now() + LATE_MAX);
        let mut heard = Heard::default();
        loop {
            let more = self.fleet.take();
            heard.acks.extend(more.acks);
            heard.uncalled_for += more.uncalled_for;
            let found = latencies(changes, &heard.acks, &callers, left_out);
            if found.iter().all(Option::is_some) || Instant::now() >= deadline {
                return (heard, found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Changed {
    fn percentile(&self, per_mille: usize) -> f64 {
        percentile_ms(&self.latencies, per_mille)
    }

    fn growth(&self) -> f64 {
        let sixth = (self.latencies.len() / 6).max(1).min(self.latencies.len());
        let (first, last) = (&self.latencies[..sixth], &self.latencies[self.latencies.len() - sixth..]);
        percentile_ms(last, 500) / percentile_ms(first, 500).max(0.1)
    }
}

async fn write(operators: Operators, document: String, service: usize, begun: Instant) -> Result<Change> {
    let at = begun.elapsed();
    Ok(Change { service, revision: operators.apply(document).await?, at })
}

fn own_cpu_seconds() -> Result<f64> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
}
