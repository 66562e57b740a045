//! `make bench`: Meshwork's sidecars beside other proxies, on this machine, in one interleaved loop.
//!
//! Within a round every topology takes its turn under a load before the next load begins, so that a machine that gets
//! slower for a while is slow for all of them. Each measurement has fresh proxies and a warm-up.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | what to measure |
//! | `tools.rs` | the programs that it takes |
//! | `namespaces.rs`, `processes.rs`, `belongings.rs` | where everything runs, and how it goes away again |
//! | `topology.rs`, `peers.rs`, `mesh.rs`, `backend.rs` | what is measured; the peers' configurations are in `bench/peers` |
//! | `captured.rs` | the kernel's rules in front of both proxies |
//! | `target.rs` | where requests go, and what came of them |
//! | `load.rs`, `wrk.rs`, `h2load.rs`, `generator.rs`, `connects.rs` | who asks |
//! | `pair.rs`, `measure.rs` | one measurement |
//! | `wire.rs`, `strangers.rs`, `scrape.rs` | what is asserted about our own rows |
//! | `process_files.rs`, `statistics.rs` | figures |
//! | `results.rs`, `goals.rs`, `report.rs` | what comes of it |
//!
//! `make bench-control` is in `control/`: one control plane with as many sidecars' sessions as a mesh has. `make soak` is in
//! `soak/`: a small mesh that changes all the time, for long.

mod backend;
mod belongings;
mod captured;
mod certificates;
mod connects;
mod control;
mod failure;
mod generator;
mod goals;
mod h2load;
mod http_text;
mod load;
mod measure;
mod mesh;
mod namespaces;
mod pair;
mod peers;
mod process_files;
mod processes;
mod report;
mod results;
mod scrape;
mod settings;
mod soak;
mod statistics;
mod strangers;
mod target;
mod template;
mod tools;
mod topology;
mod wire;
mod wrk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use failure::{Doing as _, Result, fail};
use measure::Bench;
use namespaces::Namespaces;
use peers::Ground;
use results::{Results, Samples};
use settings::Settings;
use topology::Topology;

/// A proxy with 1,000 connections on either side, and 5,000 sidecars of one control plane, with room.
const DESCRIPTORS_MIN: u64 = 8_192;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => bench(),
        [backend::GRPC_WORD, listen] => backend::serve_grpc(listen),
        ["control"] => root().and_then(control::run),
        ["soak"] => root().and_then(|root| soak::run(&root)),
        _ => fail(
            "usage: make bench [ROUNDS=3] [LOADS=\"h1-128 rate-2000\"] [PEERS=\"nginx-pair meshwork-pair-h2\"] [BENCH_SECONDS=6], or make bench-control [SIZES=\"100 1000\"] [BENCH_SECONDS=60], or make soak [MINUTES=30]",
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let settings = Settings::read(root()?, |name| std::env::var(name).ok())?;
    if !settings.meshwork.exists() {
        return fail(format!("{} is not there: `make bench` builds it", settings.meshwork.display()));
    }
    let envoy = tools::provide(&settings)?;
    let versions = tools::versions(&settings, &envoy);
    raise_descriptors()?;
    belongings::clean_up_on_signals()?;

    let folder = make_folder(&settings.root)?;
    let certificates = certificates::make(&folder)?;
    let namespaces = Namespaces::make()?;
    let backend = backend::start(&namespaces.server, &folder)?;
    let ground = Ground { folder: folder.clone(), certificates, envoy };
    let mut bench = Bench::new(&settings, namespaces, ground)?;
    let samples = all_rounds(&settings, &mut bench);
    if let Err(failure) = &samples {
        eprintln!("bench: {failure}\nThe logs stay in {}.", folder.display());
    }
    let samples =
        samples.map_err(|_| failure::Failure("the run was given up; nothing was written".to_owned()))?;
    let checked = checked(&bench);
    drop(backend);
    drop(bench);
    let _ = std::fs::remove_dir_all(&folder);

    let results = Results::new(&settings, versions, checked, results::rows(&samples));
    let tables = report::tables(&results);
    println!("\n{tables}");
    println!("Written: {}", results.save(&settings.root)?.display());
    if settings.is_whole() {
        report::write_document(&settings.root, report::Section::Sidecars, &tables)?;
        println!("Written: docs/performance.md");
    } else {
        println!(
            "docs/performance.md is left as it is: only a whole run (3 rounds, all loads, all peers) replaces its tables."
        );
    }
    Ok(())
}

/// Loads in turn, and within a load the topologies in turn.
fn all_rounds(settings: &Settings, bench: &mut Bench) -> Result<Samples> {
    let mut samples = Vec::new();
    for round in 1..=settings.rounds {
        for load in &settings.loads {
            println!("\nround {round} of {}, {load}: {}", settings.rounds, load.description());
            for topology in settings.topologies.iter().filter(|topology| topology.is_under(*load)) {
                let sample = bench.measure(*topology, *load)?;
                let (outcome, latencies) = (&sample.outcome, &sample.outcome.latencies);
                println!(
                    "  {:22} {:6.3} CPU s/10k {:8.0} requests/s   p50 {:6.0}  p99 {:6.0}  p99.9 {:6.0} µs   idle {:5.1}  loaded {:5.1} MiB   start {:5.0} ms",
                    topology.name(),
                    sample.cpu_seconds_per_10k,
                    outcome.answered as f64 / outcome.seconds,
                    latencies.p50,
                    latencies.p99,
                    latencies.p999,
                    sample.idle_mib.unwrap_or_default(),
                    sample.loaded_mib.unwrap_or_default(),
                    sample.start.unwrap_or_default().as_secs_f64() * 1e3,
                );
                samples.push((*topology, *load, sample));
            }
        }
    }
    Ok(samples)
}

/// What held for every row of ours, or the run would have ended.
fn checked(bench: &Bench) -> Vec<String> {
    let mut sentences = Vec::new();
    for (topology, seen) in &bench.refusals {
        sentences.push(format!(
            "{topology}: TLS 1.3 with X25519MLKEM768, read from the ServerHello on the wire before each measurement; nothing readable beside it"
        ));
        sentences.extend(seen.iter().map(|sentence| format!("{topology}: {sentence}")));
        sentences.push(format!(
            "{topology}: both sidecars counted in each measurement the requests that the client sent"
        ));
    }
    if bench.has_mesh(Topology::MeshworkCaptured) {
        sentences.push(format!(
            "{}: the client was told nothing but the service's virtual address, to which only rules lead; the handshake and what was counted as above",
            Topology::MeshworkCaptured
        ));
    }
    sentences
}

/// The repository, in which cargo built us.
fn root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .map(Path::to_owned)
        .ok_or_else(|| failure::Failure("the bench has no folder above it".to_owned()))
}

fn make_folder(root: &Path) -> Result<PathBuf> {
    let folder = root.join(format!("target/bench/{}", std::process::id()));
    std::fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
    belongings::lock().folder = Some(folder.clone());
    Ok(folder)
}

/// Whatever is started from here inherits it.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum >= DESCRIPTORS_MIN);
    if !enough {
        return fail(format!(
            "at most {:?} file descriptors are allowed; the largest loads need {DESCRIPTORS_MIN}: raise `ulimit -Hn`",
            limit.maximum
        ));
    }
    let raised =
        Rlimit { current: limit.maximum.map(|maximum| maximum.min(65_536)).or(Some(65_536)), ..limit };
    setrlimit(Resource::Nofile, raised).doing(|| "raising the number of file descriptors".to_owned())
}
