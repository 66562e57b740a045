//! For people: tables in the terminal and in `docs/performance.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::failure::{Doing as _, Result, fail};
use crate::goals::{Goal, goals};
use crate::load::Load;
use crate::results::{Results, Row};
use crate::statistics::Spread;

const DOCUMENT: &str = "docs/performance.md";

/// A part of the document that a run makes; all else is written by hand.
#[derive(Clone, Copy)]
pub(crate) enum Section {
    /// By `make bench`.
    Sidecars,
    /// By `make bench-control`.
    Control,
    /// By `make soak`.
    Soak,
}

impl Section {
    fn made_by(self) -> &'static str {
        match self {
            Self::Sidecars => "make bench",
            Self::Control => "make bench-control",
            Self::Soak => "make soak",
        }
    }

    /// What it stands between.
    fn marks(self) -> [String; 2] {
        ["begin", "end"].map(|place| format!("<!-- Made by `{}`: {place} -->", self.made_by()))
    }
}

/// All tables.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let _ = writeln!(
        text,
        "{}, {} cores, {} MiB, Linux {}; {}; {} rounds of {} s for each row.\n",
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        results.date,
        results.rounds,
        results.seconds
    );
    let versions: Vec<String> =
        results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(text, "Versions: {}.", versions.join("; "));
    let goals = goals(results);
    if !goals.is_empty() {
        let _ = write!(text, "\n### Against what is needed\n\n{}", goals_table(&goals));
    }
    for load in Load::ALL {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.load == load.name()).collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n### {load}\n\n{}.\n\n{}", load.description(), load_table(&rows));
        }
    }
    let _ = write!(text, "\n### Memory and start\n\n{}", topology_table(results));
    if !results.checked.is_empty() {
        let _ = write!(text, "\n### Checked in this run\n\n");
        results.checked.iter().for_each(|sentence| {
            let _ = writeln!(text, "- {sentence}");
        });
    }
    text
}

fn goals_table(goals: &[Goal]) -> String {
    let mut text = "| figure | is | needed | target | |\n|---|---|---|---|---|\n".to_owned();
    for goal in goals {
        let Goal { what, is, needed, target, unit } = goal;
        let target = target.map_or_else(String::new, |target| format!("{target} {unit}"));
        let verdict = goal.verdict();
        let _ = writeln!(text, "| {what} | {is:.2} {unit} | {needed} {unit} | {target} | {verdict} |");
    }
    text
}

fn load_table(rows: &[&Row]) -> String {
    let mut text =
        "| | CPU s per 10,000 | with client and application | requests/s | p50 µs | p99 µs | p99.9 µs |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let cpu = match row.cpu_s_per_10k {
            Spread { max: 0.0, .. } => "–".to_owned(),
            Spread { min, median, max } => format!("**{median:.3}** ({min:.3}–{max:.3})"),
        };
        let total = row.total_cpu_s_per_10k.median;
        let whole = |Spread { min, median, max }: Spread| format!("**{median:.0}** ({min:.0}–{max:.0})");
        let (rps, p50, p99, p999) =
            (whole(row.rps), whole(row.p50_us), whole(row.p99_us), whole(row.p999_us));
        let _ = writeln!(text, "| {} | {cpu} | {total:.3} | {rps} | {p50} | {p99} | {p999} |", row.topology);
    }
    text
}

fn topology_table(results: &Results) -> String {
    let mut text =
        "| | RSS idle MiB | RSS at 1,000 connections MiB | start to first 200 ms |\n|---|---|---|---|\n"
            .to_owned();
    let mut seen = Vec::new();
    for row in &results.rows {
        if row.start_ms.is_none() || seen.contains(&row.topology) {
            continue;
        }
        seen.push(row.topology);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
        let (idle, many, start) = (shown(row.rss_idle_mib), shown(row.rss_1000_mib), shown(row.start_ms));
        let _ = writeln!(text, "| {} | {idle} | {many} | {start} |", row.topology);
    }
    text
}

/// Replaces a section's tables in the document, and leaves the others'.
pub(crate) fn write_document(root: &Path, section: Section, tables: &str) -> Result<()> {
    let path = root.join(DOCUMENT);
    let document = fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))?;
    let document = replaced(&document, section, tables)?;
    fs::write(&path, document).doing(|| format!("writing {}", path.display()))
}

fn replaced(document: &str, section: Section, tables: &str) -> Result<String> {
    let [begin, end] = section.marks();
    let parts =
        document.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        return fail(format!("{DOCUMENT} has no lines {begin} and {end}: where should the tables go?"));
    };
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", tables.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let [[begin, end], [other_begin, other_end]] =
            [Section::Sidecars, Section::Control].map(Section::marks);
        let document =
            format!("before\n{begin}\nold\n{end}\nbetween\n{other_begin}\nold\n{other_end}\nafter\n");
        let once = replaced(&document, Section::Control, "new").unwrap();
        assert_eq!(
            once,
            format!("before\n{begin}\nold\n{end}\nbetween\n{other_begin}\n\nnew\n\n{other_end}\nafter\n")
        );
        assert_eq!(replaced(&once, Section::Control, "new").unwrap(), once);
        assert!(replaced("no marks", Section::Sidecars, "new").is_err());
    }

    #[test]
    fn the_document_has_the_marks() {
        let document = include_str!("../../docs/performance.md");
        assert!(replaced(document, Section::Sidecars, "").is_ok());
        assert!(replaced(document, Section::Control, "").is_ok());
        assert!(replaced(document, Section::Soak, "").is_ok());
    }
}
