//! All rounds put together: `bench/results/latest.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;

use crate::failure::{Doing as _, Result};
use crate::load::Load;
use crate::measure::Sample;
use crate::settings::Settings;
use crate::statistics::Spread;
use crate::topology::Topology;

#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// UTC.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// What was asserted about our own rows, in sentences.
    pub(crate) checked: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
}

/// A topology under a load. What belongs to the topology alone (memory, start) stands in each of its rows.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) topology: &'static str,
    pub(crate) load: &'static str,
    /// Both proxies; 0 where there is none.
    pub(crate) cpu_s_per_10k: Spread,
    /// Client and application, too.
    pub(crate) total_cpu_s_per_10k: Spread,
    pub(crate) rps: Spread,
    pub(crate) p50_us: Spread,
    pub(crate) p99_us: Spread,
    pub(crate) p999_us: Spread,
    /// Medians, of the larger proxy; `None`: no proxy, or not measured in this run.
    pub(crate) rss_idle_mib: Option<f64>,
    pub(crate) rss_1000_mib: Option<f64>,
    pub(crate) start_ms: Option<f64>,
    /// One after the other, for ratios: rows of one round were measured within a minute.
    #[serde(skip)]
    pub(crate) rounds: Vec<Round>,
}

/// What one round gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Round {
    pub(crate) cpu_s_per_10k: f64,
    pub(crate) total_cpu_s_per_10k: f64,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

impl From<&Sample> for Round {
    fn from(sample: &Sample) -> Self {
        let (outcome, latencies) = (&sample.outcome, sample.outcome.latencies);
        Self {
            cpu_s_per_10k: sample.cpu_seconds_per_10k,
            total_cpu_s_per_10k: sample.total_cpu_seconds_per_10k,
            rps: outcome.answered as f64 / outcome.seconds,
            p50_us: latencies.p50,
            p99_us: latencies.p99,
            p999_us: latencies.p999,
        }
    }
}

pub(crate) type Samples = Vec<(Topology, Load, Sample)>;

/// In the order of topologies and loads.
pub(crate) fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = Vec::new();
    for load in Load::ALL {
        for topology in Topology::ALL {
            let of_row: Vec<&Sample> = samples
                .iter()
                .filter(|(of, under, _)| *of == topology && *under == load)
                .map(|(_, _, sample)| sample)
                .collect();
            rows.extend(row(topology, load, &of_row, samples));
        }
    }
    rows
}

fn row(topology: Topology, load: Load, of_row: &[&Sample], all: &Samples) -> Option<Row> {
    let rounds: Vec<Round> = of_row.iter().copied().map(Round::from).collect();
    let spread = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let of_topology = |value: fn(Load, &Sample) -> Option<f64>| {
        let of_it = all.iter().filter(|(of, ..)| *of == topology);
        Spread::of(of_it.filter_map(|(_, load, sample)| value(*load, sample))).map(|spread| spread.median)
    };
    Some(Row {
        topology: topology.name(),
        load: load.name(),
        cpu_s_per_10k: spread(|round| round.cpu_s_per_10k)?,
        total_cpu_s_per_10k: spread(|round| round.total_cpu_s_per_10k)?,
        rps: spread(|round| round.rps)?,
        p50_us: spread(|round| round.p50_us)?,
        p99_us: spread(|round| round.p99_us)?,
        p999_us: spread(|round| round.p999_us)?,
        rss_idle_mib: of_topology(|_, sample| sample.idle_mib),
        rss_1000_mib: of_topology(|load, sample| match load {
            Load::Connections => sample.loaded_mib,
            Load::H1Small | Load::H1Large | Load::Rate | Load::H2Small | Load::Grpc | Load::Connects => None,
        }),
        start_ms: of_topology(|_, sample| sample.start.map(|start| start.as_secs_f64() * 1e3)),
        rounds,
    })
}

impl Results {
    pub(crate) fn new(
        settings: &Settings,
        versions: BTreeMap<String, String>,
        checked: Vec<String>,
        rows: Vec<Row>,
    ) -> Self {
        let (rounds, seconds) = (settings.rounds, settings.seconds);
        Self { date: today(), machine: Machine::this(), versions, rounds, seconds, checked, rows }
    }

    pub(crate) fn row(&self, topology: Topology, load: Load) -> Option<&Row> {
        self.rows.iter().find(|row| row.topology == topology.name() && row.load == load.name())
    }

    /// Gives where it was written.
    pub(crate) fn save(&self, root: &Path) -> Result<PathBuf> {
        let path = root.join("bench/results/latest.json");
        let doing = || format!("writing {}", path.display());
        let text = serde_json::to_string_pretty(self).doing(doing)?;
        fs::create_dir_all(root.join("bench/results")).doing(doing)?;
        fs::write(&path, text + "\n").doing(doing)?;
        Ok(path)
    }
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned());
            value.unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_kib / 1024,
        }
    }
}

pub(crate) fn today() -> String {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", now.hour(), now.minute(), now.second())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::statistics::Latencies;
    use crate::target::Outcome;

    fn sample(cpu: f64, loaded_mib: Option<f64>) -> Sample {
        let latencies = Latencies { p50: 100.0, p99: 200.0, p999: 300.0 };
        Sample {
            total_cpu_seconds_per_10k: 0.0,
            outcome: Outcome { answered: 10_000, seconds: 2.0, latencies, cut_off_max: 0 },
            cpu_seconds_per_10k: cpu,
            idle_mib: Some(12.0),
            loaded_mib,
            start: Some(Duration::from_millis(40)),
        }
    }

    fn results() -> Results {
        let ours = Topology::MeshworkH2;
        let samples = vec![
            (ours, Load::H1Small, sample(0.2, None)),
            (ours, Load::H1Small, sample(0.4, None)),
            (ours, Load::H1Small, sample(0.3, None)),
            (ours, Load::Rate, sample(0.6, Some(15.0))),
            (ours, Load::Connections, sample(0.7, Some(24.0))),
        ];
        let settings = Settings::read("/".into(), |_| None).unwrap();
        Results::new(&settings, BTreeMap::new(), vec![], rows(&samples))
    }

    #[test]
    fn rounds_become_one_row() {
        let results = results();
        assert_eq!(results.rows.len(), 3);
        let row = results.row(Topology::MeshworkH2, Load::H1Small).unwrap();
        assert_eq!(row.cpu_s_per_10k, Spread { min: 0.2, median: 0.3, max: 0.4 });
        assert_eq!(row.rps.median, 5_000.0);
        // Memory at 1,000 connections is that of the load with 1,000 connections, and of no other.
        assert_eq!((row.rss_1000_mib, row.start_ms), (Some(24.0), Some(40.0)));
        assert!(results.row(Topology::Direct, Load::H1Small).is_none());
    }

    #[test]
    fn the_file_has_the_shape_that_others_read() {
        let value = serde_json::to_value(results()).unwrap();
        let row = &value["rows"][0];
        assert_eq!(row["topology"], "meshwork-pair-h2");
        assert_eq!(row["load"], "h1-128");
        for spread in ["cpu_s_per_10k", "rps", "p50_us", "p99_us", "p999_us"] {
            for number in ["min", "median", "max"] {
                assert!(row[spread][number].is_number(), "{spread} {number}: {row}");
            }
        }
        for number in ["rss_idle_mib", "rss_1000_mib", "start_ms"] {
            assert!(row[number].is_number(), "{number}: {row}");
        }
        assert!(value["machine"]["cores"].is_number() && value["date"].is_string());
    }
}
