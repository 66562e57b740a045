//! gRPC by its most used implementation: Python's `grpcio`, which looks up names and connects by itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server that says what it is told, and its client.
pub(crate) const PEER: &str = include_str!("peer.py");

/// A Python with `grpcio`, made once and kept under `target`; `None` is said loudly.
pub(crate) fn python() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-grpcio");
    let inside = place.join("bin/python3");
    // Two tests, or two test programs, may want it: one makes it.
    let lock = File::create(place.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let runs = |program: &Path, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|ran| ran.status.success())
    };
    let made = runs(&inside, &["-c", "import grpc"])
        || runs(Path::new("python3"), &["-m", "venv", place.to_str().unwrap()])
            && runs(&inside, &["-m", "pip", "install", "--quiet", "grpcio"]);
    assert!(made || std::env::var_os("CI").is_none(), "grpcio cannot be installed, and CI must not skip");
    if !made {
        println!("NOT CHECKED: grpcio cannot be installed");
    }
    made.then_some(inside)
}
