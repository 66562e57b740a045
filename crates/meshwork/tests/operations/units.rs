//! `deploy/systemd`, as systemd's own tool judges it: nothing misspelt, and nothing open that need not be. That each unit
//! starts what our command line knows is a test of `cli/tests.rs`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// How exposed a unit may be by `systemd-analyze security`, of 100. What runs a program captured holds the capabilities for
/// that, and leaves the rest of a sandbox to the program.
const UNITS: [(&str, u32); 3] =
    [("meshwork-control.service", 20), ("meshwork-proxy@.service", 20), ("meshwork-run@.service", 80)];

/// The units in a directory of their own, with the binary where they look for it.
pub(crate) fn units(binary: &Path) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/local/bin/meshwork", binary.to_str().unwrap());
        fs::write(dir.path().join(entry.file_name()), text).unwrap();
    }
    dir
}

/// `None`: the tool is not at hand, which was said.
fn analyze(dir: &Path, args: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(args).current_dir(dir).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze cannot be run: {error}");
            println!("NOT CHECKED: systemd-analyze is missing: `make tools` installs it");
            None
        }
    }
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let dir = units(Path::new(env!("CARGO_BIN_EXE_meshwork")));
    let names = UNITS.map(|(unit, _)| format!("./{unit}"));
    let mut args = vec!["verify", "--man=no", "--recursive-errors=no"];
    args.extend(["./meshwork-control.socket", "./meshwork-control-operators.socket"]);
    args.extend(names.iter().map(String::as_str));
    let Some(output) = analyze(dir.path(), &args) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    // Of other units of the machine it may complain, too.
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("meshwork")).collect();
    assert!(output.status.success() && ours.is_empty(), "{told}");
}

#[test]
fn the_units_are_no_more_exposed_than_they_must_be() {
    let dir = units(Path::new(env!("CARGO_BIN_EXE_meshwork")));
    for (unit, most) in UNITS {
        let (threshold, unit) = (format!("--threshold={most}"), format!("./{unit}"));
        let Some(output) = analyze(dir.path(), &["security", "--offline=true", &threshold, &unit]) else {
            return;
        };
        let told = String::from_utf8_lossy(&output.stdout);
        let last = told.lines().rev().find(|line| line.contains("exposure level")).unwrap_or_default();
        assert!(output.status.success(), "{unit} is above {most} of 100: {last}");
    }
}
