//! Every target on inputs that are the same on each machine and in each run: its corpus, its seeds, and some thousand that are
//! generated from them. Quick enough for every change; `make fuzz` goes on where this ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshwork_fuzz::generate::Random;
use meshwork_fuzz::{ALL, Target, find};

/// Generated inputs of each target.
const INPUTS: u64 = 1_500;

/// No target goes on for longer: a slow machine sees fewer of the inputs, never a failure for its slowness. One core needs
/// half of it.
const TARGET_TIME_MAX: Duration = Duration::from_secs(4);

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Files by name, with what is in them.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Runs the target, and says what to do with an input that breaks it.
fn check(target: &Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path = std::env::temp_dir().join(format!("meshwork-fuzz-{}.input", target.name));
        let kept = fs::write(&path, input).map(|()| path.display().to_string());
        panic!(
            "{}: {what} breaks a property; the input is {} ({:?}); once mended, keep it in {}",
            target.name,
            kept.unwrap_or_else(|error| format!("not kept: {error}")),
            String::from_utf8_lossy(&input[..input.len().min(400)]),
            folder(target).display(),
        );
    }
}

fn replay(name: &str) {
    let target = find(name).unwrap();
    let mut known = (target.seeds)();
    known.iter().enumerate().for_each(|(number, seed)| check(&target, &format!("seed {number}"), seed));
    for (name, input) in corpus(&target) {
        check(&target, &name, &input);
        known.push(input);
    }
    assert!(!known.is_empty());
    let begun = Instant::now();
    for seed in 0..INPUTS {
        let input = Random::new(seed).input(&known, target.words);
        check(&target, &format!("generated input {seed}"), &input);
        if begun.elapsed() > TARGET_TIME_MAX {
            println!("{name}: {seed} of {INPUTS} generated inputs, as this machine is slow");
            break;
        }
    }
    println!("{name}: {:?}", begun.elapsed());
}

/// A test for each, so that they run beside each other.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed_and_has_a_corpus() {
            let mut names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
            names.sort_unstable();
            assert_eq!(names, [$(stringify!($name)),*]);
            let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
            let mut folders: Vec<String> =
                folders.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            folders.sort();
            assert_eq!(folders, names, "`make fuzz` goes by the folders");
        }
    };
}

targets! {
    certificate,
    csr,
    detect,
    dns_answer,
    dns_query,
    h1_requests,
    h1_responses,
    h2_client,
    h2_server,
    hpack,
    kept_config,
    kept_identity,
    load_reports,
    manifest,
    preamble,
    resource,
    spiffe_id,
    token,
    xds_client,
    xds_delta_server,
    xds_sotw_server,
}
