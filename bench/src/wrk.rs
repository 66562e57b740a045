//! HTTP/1 as fast as answers come: `wrk`, with one thread.

use std::process::Command;
use std::time::Duration;

use crate::failure::{Doing as _, Failure, Result, fail};
use crate::processes;
use crate::statistics::Latencies;
use crate::target::{Outcome, Place, Target};

/// Sets the request once (so that wrk sends the same bytes again and again), and says what came of it in one line.
const SCRIPT: &str = r#"
function init(args)
  wrk.path = args[1]
  wrk.headers["Host"] = args[2]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("measured %d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

/// How much longer than asked it may take.
const GRACE: Duration = Duration::from_secs(15);

pub(crate) fn run(
    place: &Place<'_>,
    target: &Target,
    path: &str,
    connections: u32,
    span: Duration,
) -> Result<Outcome> {
    let script = place.folder.join("wrk.lua");
    std::fs::write(&script, SCRIPT).doing(|| format!("writing {}", script.display()))?;
    let mut command = Command::new("wrk");
    command.args(["--threads=1", &format!("--connections={connections}"), "--latency"]);
    command.arg(format!("--duration={}s", span.as_secs().max(1))).arg("--script").arg(&script);
    command.arg(format!("http://{}/", target.address));
    command.args(["--", &target.of_path(path), target.host]);
    let said = processes::run(place.client, &mut command, span + GRACE)?;
    let measured = Measured::parse(&said)?;
    if measured.errors > 0 {
        return fail(format!(
            "wrk met {} errors in {} requests:\n{said}",
            measured.errors, measured.answered
        ));
    }
    Ok(Outcome {
        answered: measured.answered,
        seconds: measured.microseconds as f64 / 1e6,
        latencies: measured.latencies,
        cut_off_max: u64::from(connections),
    })
}

#[derive(Debug, PartialEq)]
struct Measured {
    answered: u64,
    microseconds: u64,
    latencies: Latencies,
    errors: u64,
}

impl Measured {
    fn parse(said: &str) -> Result<Self> {
        let line = said.lines().find_map(|line| line.strip_prefix("measured "));
        let numbers =
            line.map(|line| line.split(' ').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>());
        let Some(Ok(numbers)) = numbers else {
            return Err(Failure(format!("wrk said nothing that can be read:\n{said}")));
        };
        let [answered, microseconds, p50, p99, p999, errors] = numbers[..] else {
            return Err(Failure(format!("wrk said something else than expected:\n{said}")));
        };
        let latencies = Latencies { p50: p50 as f64, p99: p99 as f64, p999: p999 as f64 };
        Ok(Self { answered, microseconds, latencies, errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_our_script_is_read() {
        let said = "Running 2s test\n  Latency 1ms\nmeasured 40000 2001000 555 1047 2000 0\n";
        let latencies = Latencies { p50: 555.0, p99: 1_047.0, p999: 2_000.0 };
        let expected = Measured { answered: 40_000, microseconds: 2_001_000, latencies, errors: 0 };
        assert_eq!(Measured::parse(said).unwrap(), expected);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(Measured::parse("unable to connect").is_err());
        assert!(Measured::parse("measured 1 2 3").is_err());
        assert!(Measured::parse("measured 1 2 3 4 5 x").is_err());
    }
}
