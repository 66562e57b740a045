//! Keeps the repository in order: what documents name exists, lists are whole, nothing unfinished is left.
//!
//! Reads files only. Two lists are written by this test and not by hand: run it with `MESHWORK_UPDATE_DOCS=1` after a
//! limit was added or changed, and it writes the tables of `docs/limits.md`.
//!
//! | file | what |
//! |---|---|
//! | `tree.rs` | the repository's files |
//! | `markdown.rs` | a document's parts: code, links, headings |
//! | `documents.rs` | paths, links, examples and commands in documents |
//! | `sources.rs` | headers, leftovers, dependencies |
//! | `limits.rs` | `docs/limits.md` is what the code says |
//! | `metrics.rs` | `docs/metrics.md` names what a sidecar prints |
//! | `security.rs` | `docs/security.md` has a test for each attack |

mod documents;
mod limits;
mod markdown;
mod metrics;
mod security;
mod sources;
mod tree;

/// Fails with all that was found at once.
#[track_caller]
pub(crate) fn assert_none(findings: Vec<String>, what: &str) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}
