//! `make soak MINUTES=30`: does anything grow? A small mesh of real processes under mixed load, in which something changes
//! all the time: an instance comes and another goes each second, routes change, certificates live for 30 s.
//!
//! No request may fail, and what the processes hold must be flat: exit code 1 otherwise. Needs no root: applications reach
//! their sidecar by its proxy port and by local ports.
//!
//! | file | what |
//! |---|---|
//! | `application.rs` | the application of every instance, in this process |
//! | `callers.rs` | the load: HTTP/1, HTTP/2, gRPC, WebSocket, TCP |
//! | `sidecar.rs` | a sidecar's process |
//! | `churn.rs` | what comes, goes and changes |
//! | `samples.rs` | what the processes hold, and whether it is flat |

mod application;
mod callers;
mod churn;
mod samples;
mod sidecar;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::belongings;
use crate::control::plane::Plane;
use crate::failure::{Doing as _, Failure, Result, fail};
use crate::http_text;
use crate::report::{self, Section};
use crate::results::{Machine, today};
use callers::Counts;
use samples::{Samples, Verdict};
use sidecar::Sidecar;

const MINUTES_DEFAULT: f64 = 30.0;

/// Between two looks at what the processes hold.
const SAMPLE: Duration = Duration::from_secs(5);

/// Certificates live so long, so that some hundred are renewed.
const CONFIG: &str = "---\n{apiVersion: meshwork.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {leafTtl: 30s}}\n";

/// `echo` is called, and has instances that come and go; ports as they are registered.
const SERVICE: &str = "---\n{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {selector: {app: echo}, ports: [{name: http, port: 80}, {name: tcp, port: 7, appProtocol: tcp}]}}\n";

#[derive(Serialize)]
struct Outcome {
    /// UTC.
    date: String,
    machine: Machine,
    minutes: f64,
    requests: u64,
    failed: u64,
    /// Instances that came and went, and routes that were changed.
    instances: u64,
    routes: u64,
    rows: Vec<Verdict>,
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let minutes = minutes(std::env::var("MINUTES").ok())?;
    let meshwork =
        std::env::var_os("BENCH_BINARY").map_or_else(|| root.join("target/release/meshwork"), PathBuf::from);
    if !meshwork.exists() {
        return fail(format!("{} is not there: `make soak` builds it", meshwork.display()));
    }
    crate::raise_descriptors()?;
    belongings::clean_up_on_signals()?;
    let folder = crate::make_folder(root)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "a runtime for the load".to_owned())?;
    let outcome = runtime.block_on(soak(&meshwork, &folder, minutes));
    if outcome.is_err() {
        eprintln!("The logs stay in {}.", folder.display());
    }
    let outcome = outcome?;
    let text = text(&outcome);
    println!("\n{text}");
    let path = root.join("bench/results/soak.json");
    let json = serde_json::to_string_pretty(&outcome).doing(|| "the results".to_owned())?;
    std::fs::write(&path, json + "\n").doing(|| format!("writing {}", path.display()))?;
    if minutes >= MINUTES_DEFAULT {
        report::write_document(root, Section::Soak, &text)?;
    }
    let grown: Vec<String> = outcome
        .rows
        .iter()
        .filter(|row| !row.is_flat)
        .map(|row| format!("{} of {}", row.what, row.of))
        .collect();
    if outcome.failed > 0 || !grown.is_empty() {
        return fail(format!(
            "{} requests failed; not flat: {}; the logs stay in {}",
            outcome.failed,
            if grown.is_empty() { "nothing".to_owned() } else { grown.join(", ") },
            folder.display()
        ));
    }
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

fn minutes(text: Option<String>) -> Result<f64> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(MINUTES_DEFAULT) };
    match text.trim().parse() {
        Ok(minutes) if minutes >= 0.5 => Ok(minutes),
        _ => fail(format!("MINUTES={text} is no number of minutes from 0.5 on")),
    }
}

async fn soak(meshwork: &Path, folder: &Path, minutes: f64) -> Result<Outcome> {
    let plane = Plane::start(meshwork, folder).await?;
    plane.operators.apply(format!("{CONFIG}{SERVICE}")).await?;
    let applications = application::start(churn::SLOTS + 1).await?;
    let token = plane.operators.token("echo", "default").await?;
    let ground = sidecar::Ground { meshwork: meshwork.to_owned(), folder: folder.to_owned() };
    let base = ground.serve("base", &token, &applications[0]).await?;
    let caller_token = plane.operators.token("web", "default").await?;
    let caller = ground.call("caller", &caller_token).await?;
    let churn = Arc::new(churn::Churn::default());
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    callers::start(&mut tasks, caller.ports, &counts);
    let instances = churn::instances(ground.clone(), token, applications[1..].to_vec(), Arc::clone(&churn));
    tasks.spawn(instances);
    tasks.spawn(churn::routes(plane.operators.clone(), Arc::clone(&churn)));

    let samples = watch(&plane, &base, &caller, &counts, &mut tasks, minutes).await;
    churn.stop();
    while let Some(ended) = tasks.join_next().await {
        ended.doing(|| "ending the load".to_owned())??;
    }
    let rows = samples?.verdicts();
    let (requests, failed) = counts.totals();
    let (instances, routes) = churn.totals();
    Ok(Outcome {
        date: today(),
        machine: Machine::this(),
        minutes,
        requests,
        failed,
        instances,
        routes,
        rows,
    })
}

/// Looks until the time is over, or something else than a request fails.
async fn watch(
    plane: &Plane,
    base: &Sidecar,
    caller: &Sidecar,
    counts: &Arc<Counts>,
    tasks: &mut JoinSet<Result<()>>,
    minutes: f64,
) -> Result<Samples> {
    let mut samples = Samples::default();
    let (begun, mut told) = (Instant::now(), 0);
    let ended = loop {
        tokio::select! {
            () = tokio::time::sleep(SAMPLE) => {}
            Some(ended) = tasks.join_next() => {
                let ended = ended.map_err(|error| Failure(error.to_string())).and_then(|ended| ended);
                break ended.and_then(|()| fail("a part of the load ended by itself"));
            }
        }
        samples.look("control plane", plane.id(), &plane.operators.metrics().await?)?;
        for (of, sidecar) in [("called sidecar", base), ("calling sidecar", caller)] {
            let (_, metrics) = http_text::get(sidecar.ports.admin, "/metrics", "localhost")?;
            samples.look(of, sidecar.id(), &metrics)?;
        }
        let minute = begun.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            println!(
                "  {minute} min: {}; {} requests, {} failed",
                samples.newest(),
                counts.totals().0,
                counts.totals().1
            );
        }
        if begun.elapsed().as_secs_f64() >= minutes * 60.0 {
            break Ok(());
        }
    };
    counts.stop();
    ended.map(|()| samples)
}

fn text(outcome: &Outcome) -> String {
    use std::fmt::Write as _;
    let Outcome { date, machine, minutes, requests, failed, instances, routes, rows } = outcome;
    let mut text = format!(
        "{}, {} cores, Linux {}; {date}. {minutes} minutes, {requests} requests, **{failed} failed**; {instances} instances came and went, {routes} changes of routes.\n\n\
         | of | | second fifth | last fifth | may grow by | |\n|---|---|---|---|---|---|\n",
        machine.processor, machine.cores, machine.kernel
    );
    for Verdict { of, what, second_fifth, last_fifth, tolerance, is_flat } in rows {
        let verdict = if *is_flat { "flat" } else { "GROWS" };
        // A string takes everything.
        let _ = writeln!(
            text,
            "| {of} | {what} | {second_fifth:.1} | {last_fifth:.1} | {tolerance:.1} | {verdict} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_hour_unless_told() {
        assert_eq!(minutes(None).unwrap(), 30.0);
        assert_eq!(minutes(Some("5".to_owned())).unwrap(), 5.0);
        assert!(minutes(Some("0".to_owned())).is_err() && minutes(Some("x".to_owned())).is_err());
    }
}
