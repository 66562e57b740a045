//! This machine: the sidecars that run here, as they see themselves; ports; the way to the control plane.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::findings::Finding;
use super::{Report, now, word};
use crate::output::counted;
use crate::run::RUN_FILE;
use crate::settings::{ADMIN, CONTROL_LISTEN, OUTBOUND_HTTP};
use crate::state_dir;

/// What answers on this machine does so at once; what does not, is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A sidecar's config as JSON: 4,096 destinations with some endpoints each.
const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// What a sidecar wants of file descriptors: three quarters are for its clients, each of whom may need one further on.
/// It is also what most systems give, so that who has less was given less by somebody.
const DESCRIPTORS_WANTED: u64 = 1_024;

/// Looks at one sidecar, or at all that run here.
pub(super) async fn look(admin: Option<SocketAddr>, report: &mut Report) {
    let sidecars = match admin {
        Some(admin) => vec![admin],
        None => running(),
    };
    for admin in &sidecars {
        match ask(*admin, "/config").await {
            Ok(config) => {
                report.checked.push(format!("the sidecar at {admin}"));
                report.findings.extend(of_sidecar(&format!("the sidecar at {admin}"), &config, now()));
            }
            Err(error) => report.findings.push(Finding::problem(
                &format!("the sidecar at {admin}"),
                format!("its admin port does not answer ({error})"),
                "look at its log; `meshwork run` writes it to its standard error",
            )),
        }
    }
    report.findings.extend(ports(&sidecars, !report.checked.is_empty()));
}

/// Whether sidecars of this machine could reach the control plane where join tokens say that it is.
pub(super) async fn reach(address: &str) -> Option<Finding> {
    let connected = timeout(ANSWER_MAX, TcpStream::connect(address)).await;
    let reason = match connected {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", ANSWER_MAX.as_secs()),
    };
    let message = format!("join tokens name {address}, which this machine cannot reach ({reason})");
    let cure = "start the control plane with a --listen or --name that machines reach, or open the way";
    Some(Finding::problem("the control plane", message, cure))
}

/// Admin ports of the sidecars whose state directories are held by a process.
fn running() -> Vec<SocketAddr> {
    let admin = |directory: std::path::PathBuf| {
        let text = std::fs::read_to_string(directory.join(RUN_FILE)).ok()?;
        let run: Value = serde_json::from_str(&text).ok()?;
        run["admin"].as_str()?.parse().ok()
    };
    let mut found: Vec<SocketAddr> = state_dir::held_by_sidecars().into_iter().filter_map(admin).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn of_sidecar(subject: &str, config: &Value, now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let status = &config["status"];
    let (state, registration) = (word(status, "config"), word(status, "registration"));
    if state != "current" {
        let message = format!("its config is {state}: {}", word(status, "configReason"));
        findings.push(Finding::problem(subject, message, "mend what the sentence says"));
    }
    if matches!(registration, "connecting" | "refused" | "waitingForApplication") {
        let message = format!("its registration is {registration}: {}", word(status, "registrationReason"));
        findings.push(Finding::problem(subject, message, "mend what the sentence says"));
    }
    findings.extend(of_descriptors(subject, &config["descriptors"]));
    match config["identity"]["notAfter"].as_i64() {
        None => findings.push(Finding::problem(
            subject,
            "it has no certificate",
            "give it a join token (`meshwork token create`), and see its log",
        )),
        Some(end) if end <= now => findings.push(Finding::problem(
            subject,
            format!("its certificate ended {} s ago", now - end),
            "see in its log why it was not renewed; if that is too late, give it a new join token",
        )),
        Some(_) => match word(status, "certificateWarning") {
            "" => {}
            reason => findings.push(Finding::problem(
                subject,
                format!("its certificate is not renewed: {reason}"),
                "mend what the sentence says; traffic goes on until the certificate ends",
            )),
        },
    }
    findings
}

fn of_descriptors(subject: &str, descriptors: &Value) -> Option<Finding> {
    let cure = "give it more: `ulimit -n 65536` before `meshwork run`, or LimitNOFILE=65536 in its unit";
    let max = descriptors["max"].as_u64()?;
    match descriptors["lacked"].as_u64().unwrap_or(0) {
        0 if max >= DESCRIPTORS_WANTED => None,
        0 => {
            let message = format!("it may have {max} file descriptors only, and wants {DESCRIPTORS_WANTED}");
            Some(Finding::notice(subject, message, cure))
        }
        lacked => {
            let times = counted(lacked, "time", "times");
            let message = format!("it ran out of its {max} file descriptors {times} since its start");
            Some(Finding::problem(subject, message, cure))
        }
    }
}

/// Default ports that something else has taken. `here`: a part of the mesh runs here, which may be who has it.
fn ports(sidecars: &[SocketAddr], here: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (port, flag) in [(CONTROL_LISTEN, "--listen"), (OUTBOUND_HTTP, "--outbound-http"), (ADMIN, "--admin")]
    {
        let Ok(address) = port.parse::<SocketAddr>() else { continue };
        let taken =
            TcpListener::bind(address).err().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        if taken && !here && !sidecars.contains(&address) {
            findings.push(Finding::notice(
                &format!("port {address}"),
                "another program has taken it, which is where meshwork listens unless told otherwise",
                &format!("give another one with {flag}; `meshwork run` finds one by itself"),
            ));
        }
    }
    findings
}

/// One GET of an admin port. HTTP/1.0: the answer ends with the connection.
async fn ask(admin: SocketAddr, path: &str) -> io::Result<Value> {
    let asked = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(ANSWER_MAX, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    body(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no admin port of a sidecar"))
}

fn body(answer: &[u8]) -> Option<Value> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    answer.starts_with(b"HTTP/1.").then_some(())?;
    serde_json::from_slice(&answer[end + 4..]).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::findings::Severity;
    use super::*;

    #[track_caller]
    fn check(config: &str, registration: &str, end: i64, warning: Option<&str>, expect: &[&str]) {
        let config = json!({
            "status": {"config": config, "configReason": "why", "registration": registration,
                       "registrationReason": "because", "certificateWarning": warning},
            "identity": {"notAfter": end},
        });
        let messages: Vec<String> =
            of_sidecar("s", &config, 1_000).into_iter().map(|finding| finding.message).collect();
        assert_eq!(messages, expect);
    }

    #[test]
    fn a_sidecar_says_itself_what_is_wrong() {
        check("current", "registered", 2_000, None, &[]);
        let late = ["its certificate is not renewed: no"];
        check("current", "registered", 2_000, Some("no"), &late);
        check("current", "draining", 2_000, None, &[]);
        check(
            "stale",
            "connecting",
            2_000,
            None,
            &["its config is stale: why", "its registration is connecting: because"],
        );
        check("current", "registered", 940, None, &["its certificate ended 60 s ago"]);
    }

    #[test]
    fn descriptors_are_few_or_were_used_up() {
        let check = |max: Value, lacked: u64, expect: Option<(Severity, &str)>| {
            let found = of_descriptors("s", &json!({"max": max, "lacked": lacked}));
            let found = found.as_ref().map(|found| (found.severity, &*found.message));
            assert_eq!(found.map(|found| found.0), expect.map(|expect| expect.0));
            assert!(
                expect.is_none_or(|expect| found.is_some_and(|found| found.1.contains(expect.1))),
                "{found:?}"
            );
        };
        check(json!(1_024), 0, None);
        check(json!(null), 0, None);
        check(json!(256), 0, Some((Severity::Notice, "256 file descriptors only, and wants 1024")));
        check(json!(65_536), 9, Some((Severity::Problem, "ran out of its 65536 file descriptors 9 times")));
    }

    #[test]
    fn what_is_no_admin_port_is_named() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}"), Some(json!({"a": 1})));
        assert_eq!(body(b"SSH-2.0-OpenSSH\r\n"), None);
    }
}
