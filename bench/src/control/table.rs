//! What came of it: `bench/results/control.json`, and a table in the terminal and in `docs/performance.md`.

use std::fmt::Write as _;

use serde::Serialize;

use super::row::Row;
use super::settings::{PROMISED, Settings};
use crate::failure::{Doing as _, Result, fail};
use crate::report::{self, Section};
use crate::results::{Machine, today};

#[derive(Serialize)]
struct Results {
    /// UTC.
    date: String,
    machine: Machine,
    rows: Vec<Row>,
}

/// A figure at the promised size, and the most that it may be.
struct Goal {
    what: &'static str,
    unit: &'static str,
    most: f64,
    of: fn(&Row) -> f64,
}

const GOALS: [Goal; 8] = [
    Goal { what: "change written to last ACK, p99", unit: "ms", most: 250.0, of: |row| row.push_p99_ms },
    Goal {
        what: "received by a subscriber for a change",
        unit: "B",
        most: 1_024.0,
        of: |row| row.bytes_per_change,
    },
    Goal {
        what: "told who does not call the service",
        unit: "messages",
        most: 0.0,
        of: |row| row.uncalled_for as f64,
    },
    Goal { what: "changes that somebody never confirmed", unit: "", most: 0.0, of: |row| row.lost as f64 },
    Goal {
        what: "latency in the last sixth of the changes / in the first",
        unit: "x",
        most: 1.5,
        of: |row| row.queue_growth,
    },
    Goal { what: "all back at once, steady after", unit: "s", most: 10.0, of: |row| row.reconnect_s },
    Goal { what: "memory a session", unit: "KiB", most: 100.0, of: |row| row.kib_per_session },
    Goal {
        what: "p99 of all others while one in 50 does not read",
        unit: "ms",
        most: 250.0,
        of: |row| row.push_p99_beside_dead_ms,
    },
];

pub(super) fn publish(settings: &Settings, rows: Vec<Row>) -> Result<()> {
    let results = Results { date: today(), machine: Machine::this(), rows };
    let text = text(&results);
    println!("\n{text}");
    let path = settings.root.join("bench/results/control.json");
    let doing = || format!("writing {}", path.display());
    let json = serde_json::to_string_pretty(&results).doing(doing)?;
    std::fs::write(&path, json + "\n").doing(doing)?;
    println!("Written: {}", path.display());
    if settings.is_whole() {
        report::write_document(&settings.root, Section::Control, &text)?;
        println!("Written: docs/performance.md");
    } else {
        println!("docs/performance.md is left as it is: only a whole run replaces its table.");
    }
    let missed: Vec<&str> =
        checked(&results.rows).filter(|(.., met)| !met).map(|(goal, ..)| goal.what).collect();
    if missed.is_empty() { Ok(()) } else { fail(format!("missed: {}", missed.join("; "))) }
}

fn checked(rows: &[Row]) -> impl Iterator<Item = (&'static Goal, f64, bool)> {
    let promised = rows.iter().filter(|row| row.sidecars == PROMISED.sidecars);
    promised.flat_map(|row| {
        GOALS.iter().map(|goal| {
            let is = (goal.of)(row);
            (goal, is, is <= goal.most)
        })
    })
}

fn text(results: &Results) -> String {
    let Results { date, machine, rows } = results;
    let mut text = format!(
        "{}, {} cores, {} MiB, Linux {}; {date}.\n",
        machine.processor, machine.cores, machine.memory_mib, machine.kernel
    );
    // A string takes everything.
    let _ = writeln!(text, "\n| at {PROMISED} | is | at most | |\n|---|---|---|---|");
    for (goal, is, met) in checked(rows) {
        let Goal { what, unit, most, of: _ } = goal;
        let verdict = if met { "met" } else { "MISSED" };
        let _ = writeln!(text, "| {what} | {is:.1} {unit} | {most} {unit} | {verdict} |");
    }
    let _ = writeln!(
        text,
        "\n| sidecars | services | endpoints | push p50 ms | p99 ms | B a change | subscribers of one | CPU ms a change | control plane's core | our core | KiB a session | RSS MiB | all back s | start s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} | **{:.0}** | {:.0} | {:.1} | {:.2} | {:.0} % | {:.0} % | {:.0} | {:.0} | {:.1} | {:.1} |",
            row.sidecars,
            row.services,
            row.endpoints,
            row.push_p50_ms,
            row.push_p99_ms,
            row.bytes_per_change,
            row.subscribers_per_change,
            row.control_cpu_ms_per_change,
            row.control_cpu * 100.0,
            row.client_cpu * 100.0,
            row.kib_per_session,
            row.control_rss_mib,
            row.reconnect_s,
            row.start_s,
        );
    }
    text
}
