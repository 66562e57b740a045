//! Sources introduce themselves, leave nothing unfinished, and depend only on what they may.

use crate::assert_none;
use crate::tree::{File, files, find, root};

#[test]
fn every_source_file_introduces_itself() {
    let sources = files().into_iter().filter(|file| file.has_extension("rs"));
    let silent = sources.filter(|file| !file.text.starts_with("//! "));
    assert_none(
        silent.map(|file| file.path).collect(),
        "no `//!` line at the top that says what the file is for",
    );
}

#[test]
fn nothing_unfinished_is_left() {
    // Put together here, so that this file is not its own finding.
    let leftovers = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("#[ig", "nore"),
    ];
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.has_extension("rs") || file.has_extension("toml")) {
        for (index, line) in file.text.lines().enumerate() {
            let left = leftovers.iter().filter(|leftover| line.contains(**leftover));
            findings.extend(left.map(|leftover| format!("{}:{}: {leftover}", file.path, index + 1)));
        }
    }
    assert_none(findings, "unfinished; say today's limit as a sentence, or file an issue");
}

#[test]
fn unsafe_code_stands_in_three_files() {
    let allows = concat!("allow(unsafe", "_code)");
    let files = files();
    let product = files.iter().filter(|file| file.has_extension("rs") && file.path.contains("/src/"));
    let allowed: Vec<&str> =
        product.filter(|file| file.text.contains(allows)).map(|file| file.path.as_str()).collect();
    assert_eq!(
        allowed,
        [
            "crates/meshwork/src/descriptors.rs",
            "crates/meshwork/src/start_pages.rs",
            "crates/proxy/src/scheduling.rs"
        ]
    );
}

/// The arrows between our crates, and all that the pure ones may use at all. Tests may use more.
#[test]
fn crates_depend_only_on_what_they_may() {
    let files = files();
    check_dependencies(&files, "http", &["memchr", "thiserror"]);
    check_dependencies(&files, "core", &["meshwork-http", "bytes", "ipnet", "regex", "serde", "thiserror"]);
    check_arrows(&files, "http", &[]);
    check_arrows(&files, "core", &["http"]);
    check_arrows(&files, "xds", &["core", "http"]);
    check_arrows(&files, "identity", &["core", "http"]);
    check_arrows(&files, "proxy", &["core", "http", "xds", "identity"]);
    check_arrows(&files, "control", &["core", "http", "xds", "identity"]);
    check_arrows(&files, "meshwork", &["core", "http", "xds", "identity", "proxy", "control"]);
}

#[track_caller]
fn check_dependencies(files: &[File], name: &str, allowed: &[&str]) {
    let foreign: Vec<String> = dependencies(files, name)
        .into_iter()
        .filter(|dependency| !allowed.contains(&dependency.as_str()))
        .collect();
    assert!(foreign.is_empty(), "crates/{name} is pure and must not use {foreign:?}");
}

#[track_caller]
fn check_arrows(files: &[File], name: &str, allowed: &[&str]) {
    let wrong: Vec<String> = dependencies(files, name)
        .into_iter()
        .filter(|dependency| dependency.strip_prefix("meshwork-").is_some_and(|own| !allowed.contains(&own)))
        .collect();
    assert!(wrong.is_empty(), "crates/{name} must not depend on {wrong:?}");
}

/// The names under `[dependencies]`, those for some targets only included.
fn dependencies(files: &[File], name: &str) -> Vec<String> {
    let manifest = find(files, &format!("crates/{name}/Cargo.toml"));
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]"
                || (line.starts_with("[target.") && line.ends_with(".dependencies]"));
        } else if inside
            && let Some(name) = line.split(['.', '=', ' ']).next()
            && !name.is_empty()
            && !name.starts_with('#')
        {
            names.push(name.to_owned());
        }
    }
    assert!(!names.is_empty(), "no dependencies found in {}", manifest.path);
    names
}

/// What is committed works elsewhere: no folder of one machine, no registry but crates.io.
#[test]
fn nothing_names_one_machine() {
    let root = root().to_string_lossy().into_owned();
    let homes = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/tm", "p/")];
    let mut findings = Vec::new();
    for file in files() {
        for (index, line) in file.text.lines().enumerate() {
            let place = || format!("{}:{}", file.path, index + 1);
            if line.contains(&root) || homes.iter().any(|home| line.contains(home)) {
                findings.push(format!("{}: a folder of one machine", place()));
            }
            let foreign = file.path == "Cargo.lock"
                && line.starts_with("source = ")
                && line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
            if foreign {
                findings.push(format!("{}: {line}", place()));
            }
        }
    }
    assert_none(findings, "what only one machine has");
}
