//! What documents name is there: files, items in them, links, examples, commands and flags.

use crate::assert_none;
use crate::markdown::{anchors, blocks, code_spans, links, prose};
use crate::tree::{File, files, find};

/// A code span with one of these at its end is a path of the repository. Files that only exist at run time have others.
const PATH_ENDS: [&str; 6] = [".rs", ".md", ".toml", ".yaml", ".proto", "/"];

/// What stands before an item that `file.rs::item` may mean; `pub` before a field.
const DECLARATIONS: [&str; 10] =
    ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "macro_rules!", "pub"];

fn documents(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.has_extension("md"))
}

#[test]
fn every_path_in_a_document_exists() {
    let files = files();
    let mut findings = Vec::new();
    for document in documents(&files) {
        for (number, line) in prose(&document.text) {
            let missing = code_spans(line).filter_map(|span| missing(&files, document, span));
            findings.extend(missing.map(|missing| format!("{}:{number}: {missing}", document.path)));
        }
    }
    assert_none(findings, "documents name what is not there");
}

/// What of `file.rs` or `file.rs::item` does not exist; `None`: it does, or it is no path.
fn missing(files: &[File], document: &File, span: &str) -> Option<String> {
    let (path, item) = match span.split_once(".rs::") {
        Some((stem, item)) => (format!("{stem}.rs"), Some(item)),
        None => (span.to_owned(), None),
    };
    if !is_path(&path) {
        return None;
    }
    let named = named(files, document, &path);
    if named.is_empty() {
        return Some(format!("{path} does not exist"));
    }
    let has = |part: &&str| named.iter().any(|file| declares(&file.text, part));
    let absent = item?.split("::").find(|part| !has(part))?;
    Some(format!("{path} has no {absent}"))
}

fn is_path(span: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
    span.chars().all(plain) && !span.starts_with('/') && PATH_ENDS.iter().any(|end| span.ends_with(end))
}

/// The files that a path means: from the root, from `crates/`, or the end of a file's path; below it for a folder.
fn named<'f>(files: &'f [File], document: &File, path: &str) -> Vec<&'f File> {
    let beside = format!("{}/{path}", document.folder());
    let (anywhere, folder) = (format!("/{path}"), path.ends_with('/'));
    let fits = |file: &&File| {
        let known = &file.path;
        if folder {
            known.starts_with(path) || known.contains(&anywhere)
        } else {
            known == path || *known == beside || known.ends_with(&anywhere)
        }
    };
    files.iter().filter(fits).collect()
}

fn declares(text: &str, item: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    DECLARATIONS.iter().any(|kind| {
        let declaration = format!("{kind} {item}");
        text.match_indices(&declaration).any(|(at, found)| ends(&text[at + found.len()..]))
    })
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    let files = files();
    let mut findings = Vec::new();
    for document in documents(&files) {
        for (number, line) in prose(&document.text) {
            for link in links(line).into_iter().filter(|link| !link.contains("://")) {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if path.is_empty() { Some(document) } else { beside(&files, document, path) };
                let leads = target.is_some_and(|target| {
                    anchor.is_empty() || anchors(&target.text).iter().any(|known| known == anchor)
                });
                if !leads {
                    findings.push(format!("{}:{number}: {link}", document.path));
                }
            }
        }
    }
    assert_none(findings, "links that lead nowhere");
}

fn beside<'f>(files: &'f [File], document: &File, path: &str) -> Option<&'f File> {
    let mut parts: Vec<&str> = document.folder().split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    files.iter().find(|file| file.path == path)
}

/// Examples are files, which a test of the control plane applies; a document shows them as they are.
#[test]
fn yaml_in_a_document_is_a_tested_example() {
    let files = files();
    let examples: Vec<&File> = files
        .iter()
        .filter(|file| file.path.starts_with("docs/examples/") && file.has_extension("yaml"))
        .collect();
    assert!(!examples.is_empty(), "docs/examples is empty");
    let mut findings = Vec::new();
    for document in documents(&files) {
        for block in blocks(&document.text).into_iter().filter(|block| block.language == "yaml") {
            let shown = block.lines.join("\n");
            if !examples.iter().any(|example| example.text.trim() == shown.trim()) {
                let first =
                    block.lines.iter().find(|line| line.contains("name:")).cloned().unwrap_or_default();
                findings.push(format!("{}: the block with `{}`", document.path, first.trim()));
            }
        }
    }
    assert_none(findings, "YAML that is no file of docs/examples");
    let resources = find(&files, "docs/resources.md");
    let shown: Vec<String> =
        blocks(&resources.text).into_iter().map(|block| block.lines.join("\n").trim().to_owned()).collect();
    let missing = examples.iter().filter(|example| !shown.contains(&example.text.trim().to_owned()));
    assert_none(
        missing.map(|example| example.path.clone()).collect(),
        "examples that docs/resources.md does not show",
    );
}

/// `docs/cli.md` is made from the commands' own help, so what stands there exists.
#[test]
fn commands_and_flags_in_a_document_exist() {
    let files = files();
    let help = &find(&files, "docs/cli.md").text;
    let has_flag = |flag: &str| {
        let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '-');
        help.match_indices(flag).any(|(at, _)| ends(&help[at + flag.len()..]))
    };
    let mut findings = Vec::new();
    for document in documents(&files).filter(|document| document.path != "docs/cli.md") {
        for block in blocks(&document.text) {
            for line in block.lines.join("\n").replace("\\\n", " ").lines() {
                let Some(words) = command(line) else { continue };
                let words: Vec<&str> = words.split_whitespace().take_while(|word| *word != "--").collect();
                let flags = words.iter().filter(|word| word.starts_with("--"));
                let flags = flags.map(|flag| flag.split('=').next().unwrap_or(flag));
                let unknown = flags.filter(|flag| !has_flag(flag)).map(ToString::to_string);
                findings.extend(unknown.map(|flag| format!("{}: {flag} in `{line}`", document.path)));
                let known = |word: &&&str| help.contains(&format!("\n## meshwork {word}\n"));
                if !words.is_empty() && words.iter().find(known).is_none() {
                    findings.push(format!("{}: no command in `{line}`", document.path));
                }
            }
        }
    }
    assert_none(findings, "documents show commands that do not exist");
}

/// What follows the binary's name, where a line runs it.
fn command(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("$ ")
        .unwrap_or(line)
        .strip_prefix("meshwork ")
        .map(|rest| rest.split(['>', '|', '#']).next().unwrap_or(rest))
}
