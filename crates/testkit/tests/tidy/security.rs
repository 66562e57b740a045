//! `docs/security.md` names a test for each attack, and has every test of hostile input.

use std::collections::BTreeSet;

use crate::assert_none;
use crate::markdown::{cells, code_spans, prose};
use crate::tree::{File, files, find};

/// Where the attacks are.
const HOSTILE: &str = "crates/meshwork/tests/hostile/";

#[test]
fn each_attack_has_a_test() {
    let files = files();
    let text = &find(&files, "docs/security.md").text;
    let mut findings = Vec::new();
    for (number, line) in prose(text) {
        let Some(cells) = cells(line) else { continue };
        let first = cells.first().copied().unwrap_or_default();
        if first == "attack" || first.starts_with("---") {
            continue;
        }
        let named: Vec<&str> = cells.last().map(|cell| code_spans(cell).collect()).unwrap_or_default();
        if named.is_empty() {
            findings.push(format!("docs/security.md:{number}: {first} has no test"));
        }
        let missing = named.into_iter().filter(|span| !is_test(&files, span));
        findings.extend(missing.map(|span| format!("docs/security.md:{number}: {span} is no test")));
    }
    assert_none(findings, "attacks without their tests");
}

#[test]
fn each_test_of_hostile_input_is_listed() {
    let files = files();
    let text = &find(&files, "docs/security.md").text;
    let listed: BTreeSet<&str> = prose(text).into_iter().flat_map(|(_, line)| code_spans(line)).collect();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with(HOSTILE)) {
        let whole = tests(&file.text).map(|name| format!("{}::{name}", file.path));
        findings.extend(whole.filter(|whole| !listed.contains(whole.as_str())));
    }
    assert_none(findings, "tests that docs/security.md does not list");
}

/// `path.rs::name`, from the root.
fn is_test(files: &[File], span: &str) -> bool {
    let Some((path, name)) = span.rsplit_once("::") else { return false };
    files.iter().filter(|file| file.path == path).any(|file| tests(&file.text).any(|known| known == name))
}

/// The names of a file's tests.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let marks = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim_start();
        line.starts_with("#[test]") || line.starts_with("#[tokio::test")
    });
    marks.filter_map(move |(at, _)| {
        let declared = text.lines().skip(at + 1).find(|line| !line.trim_start().starts_with("#["))?;
        declared.split_once("fn ")?.1.split('(').next()
    })
}
