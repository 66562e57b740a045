//! The audit log: every write that operators asked for, done or refused, with who, what, and which fields changed.
//!
//! It goes two ways: as a line of the log (target `meshwork::audit`), for whoever gathers logs; and as a line of JSON in
//! `audit.log` in the state directory, which no log filter and no rotation of a journal's takes away. What changed is
//! told by `diff.rs`, how the file is kept by `file.rs`.

mod diff;
mod file;

pub(crate) use diff::Change;

use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use meshwork_core::timestamp;
use serde::Serialize;

use crate::lock::lock;
use crate::time::unix_seconds;
use file::AuditFile;

/// The file's name in the state directory.
const FILE: &str = "audit.log";

pub(crate) struct Audit {
    file: Mutex<AuditFile>,
}

/// What somebody did, or tried to.
pub(crate) struct Deed<'d> {
    pub(crate) who: &'d str,
    pub(crate) action: &'static str,
    /// Names of what was written, bounded by the caller.
    pub(crate) what: &'d str,
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'l> {
    at: String,
    who: &'l str,
    action: &'l str,
    what: &'l str,
    outcome: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// The refusal's.
    #[serde(skip_serializing_if = "Option::is_none")]
    word: Option<&'l str>,
    #[serde(skip_serializing_if = "Change::is_empty")]
    change: &'l Change,
}

impl Audit {
    /// Nothing is opened before the first line.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { file: Mutex::new(AuditFile::new(state_dir.join(FILE))) }
    }

    pub(crate) fn written(&self, deed: &Deed<'_>, change: &Change, revision: u64) {
        let Deed { who, action, what } = deed;
        tracing::info!(target: "meshwork::audit", who, action, what, revision, %change, "written");
        self.keep(deed, "written", Some(revision), None, change);
    }

    pub(crate) fn refused(&self, deed: &Deed<'_>, word: &str) {
        let Deed { who, action, what } = deed;
        tracing::info!(target: "meshwork::audit", who, action, what, word, "refused");
        self.keep(deed, "refused", None, Some(word), &Change::default());
    }

    /// A line goes to the page cache, without waiting for the disk: a few microseconds, so that whoever wrote hears of it
    /// after it is there. Where it can't be kept, the log's line says so and has it.
    fn keep(
        &self,
        deed: &Deed<'_>,
        outcome: &str,
        revision: Option<u64>,
        word: Option<&str>,
        change: &Change,
    ) {
        let at = timestamp::format(unix_seconds(SystemTime::now()));
        let Deed { who, action, what } = deed;
        let line = Line { at, who, action, what, outcome, revision, word, change };
        // Texts and numbers always encode.
        let mut line = serde_json::to_string(&line).unwrap_or_default();
        line.push('\n');
        let mut file = lock(&self.file);
        if let Err(error) = file.append(&line) {
            tracing::error!(%error, "{} cannot be written; make room, or mend its permissions", file.path().display());
        }
    }
}
