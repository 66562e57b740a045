//! HTTP/2 as fast as answers come: `h2load`, 8 connections with 4 streams each.
//!
//! It prints means only, so percentiles are taken from its log, which has a line for each request.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Doing as _, Failure, Result, fail};
use crate::processes;
use crate::statistics::Latencies;
use crate::target::{GRPC_BYTES, Outcome, Place, Target};

const CONNECTIONS: u32 = 8;
const STREAMS: u32 = 4;

/// How fast it goes is tried out with so many requests: enough for a fifth of a second of anything here.
const PROBE_REQUESTS: u64 = 4_000;

/// How much longer than asked it may take.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub(crate) enum Call {
    Get,
    /// A POST of one length-prefixed message, as gRPC's unary calls are.
    Grpc,
}

/// A number of requests and not a time, so that none is cut off and each can be accounted for.
pub(crate) fn run(
    place: &Place<'_>,
    target: &Target,
    path: &str,
    call: Call,
    span: Duration,
) -> Result<Outcome> {
    let begun = Instant::now();
    let probe = send(place, target, path, call, PROBE_REQUESTS)?;
    let left = span.saturating_sub(begun.elapsed());
    let wanted = (probe.answered as f64 / probe.seconds * left.as_secs_f64()) as u64;
    // h2load gives each connection as many.
    let wanted = wanted.next_multiple_of(u64::from(CONNECTIONS)).max(PROBE_REQUESTS);
    let main = send(place, target, path, call, wanted)?;
    let answered = probe.answered + main.answered;
    Ok(Outcome { answered, seconds: probe.seconds + main.seconds, ..main })
}

fn send(place: &Place<'_>, target: &Target, path: &str, call: Call, requests: u64) -> Result<Outcome> {
    let log = place.folder.join("h2load.tsv");
    // It appends.
    let _ = fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["--threads=1", &format!("--clients={CONNECTIONS}")]);
    command.args([&format!("--max-concurrent-streams={STREAMS}"), &format!("--requests={requests}")]);
    command.arg(format!("--log-file={}", log.display()));
    command.arg(format!("--connect-to={}", target.address));
    if let Call::Grpc = call {
        let body = place.folder.join("grpc-message");
        fs::write(&body, grpc_message()).doing(|| format!("writing {}", body.display()))?;
        command.arg(format!("--data={}", body.display()));
        command.args(["--header=content-type: application/grpc", "--header=te: trailers"]);
    }
    command.arg(format!("http://{}{path}", target.host));
    let said = processes::run(place.client, &mut command, GRACE + Duration::from_millis(requests))?;
    let text = fs::read_to_string(&log).doing(|| format!("reading {}", log.display()))?;
    let log = Log::parse(&text)?;
    if log.answered != requests || log.failed > 0 {
        return fail(format!(
            "h2load: {} of {requests} answered, {} failed:\n{said}",
            log.answered, log.failed
        ));
    }
    let latencies = Latencies::of(log.microseconds);
    let latencies = latencies.ok_or_else(|| Failure("h2load logged no request".to_owned()))?;
    Ok(Outcome { answered: log.answered, seconds: log.seconds, latencies, cut_off_max: 0 })
}

/// Not compressed, its length, then the bytes.
pub(crate) fn grpc_message() -> Vec<u8> {
    let length = GRPC_BYTES - 5;
    let mut message = vec![0];
    message.extend((length as u32).to_be_bytes());
    message.extend(std::iter::repeat_n(b'g', length));
    message
}

#[derive(Debug, PartialEq)]
struct Log {
    answered: u64,
    failed: u64,
    microseconds: Vec<u64>,
    /// From the first start to the last end.
    seconds: f64,
}

impl Log {
    /// Lines of start (microseconds since some day), status, microseconds.
    fn parse(text: &str) -> Result<Self> {
        let (mut failed, mut microseconds) = (0, Vec::new());
        let (mut first, mut last) = (u64::MAX, 0);
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [start, status, took] = fields[..] else {
                return fail(format!("h2load logged {line:?}, which has not three fields"));
            };
            let number = |text: &str| text.parse::<u64>().doing(|| format!("reading h2load's {line:?}"));
            if status != "200" {
                failed += 1;
                continue;
            }
            let (start, took) = (number(start)?, number(took)?);
            (first, last) = (first.min(start), last.max(start + took));
            microseconds.push(took);
        }
        let seconds = last.saturating_sub(first) as f64 / 1e6;
        Ok(Self { answered: microseconds.len() as u64, failed, microseconds, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = Log::parse("1000000\t200\t500\n1000100\t503\t90\n1500000\t200\t700\n").unwrap();
        assert_eq!(log, Log { answered: 2, failed: 1, microseconds: vec![500, 700], seconds: 0.500_7 });
        assert!(Log::parse("1000000 200 500").is_err());
        assert!(Log::parse("x\t200\t1").is_err());
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        let message = grpc_message();
        assert_eq!(message.len(), GRPC_BYTES);
        assert_eq!(message[..5], [0, 0, 0, 0, 100]);
    }
}
