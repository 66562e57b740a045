//! h2spec judges our HTTP/2: the engine alone, and behind it whole sidecars.
//!
//! All its cases pass but those in `exempt.txt`, each with its reason. `make conformance` builds h2spec (`h2spec/go.mod`
//! pins it) where Go is at hand, and runs this with `MESHWORK_CONFORMANCE=1`; without h2spec this says that it judged
//! nothing, and fails if that variable is set.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use tokio::net::TcpListener;
use tokio::process::Command;

#[allow(dead_code)] // how a connection ended is told to tests of its own
#[path = "../../../http/tests/h2/driver.rs"]
mod driver;

/// Set by `make conformance`: without h2spec nothing passes.
const WANTED: &str = "MESHWORK_CONFORMANCE";

/// How long h2spec waits for what must come; a case that expects silence takes as long.
const SECONDS: &str = "2";

#[tokio::test]
async fn the_engine_conforms() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // How a connection ended is what h2spec judges.
            tokio::spawn(driver::serve(stream));
        }
    });
    check("the engine", address).await;
    serving.abort();
}

/// Whatever listens there passes, but for what is exempt.
async fn check(what: &str, address: SocketAddr) {
    let Some(cases) = h2spec(address).await else { return };
    assert!(cases.len() > 140, "h2spec has more cases than {}", cases.len());
    let failed: BTreeSet<String> =
        cases.iter().filter(|case| case.failed).map(|case| case.name.clone()).collect();
    let exempt = exempt();
    let told = |names: Vec<&String>| names.into_iter().map(|name| format!("\n  {name}")).collect::<String>();
    let red = told(failed.difference(&exempt).collect());
    assert!(red.is_empty(), "{what}: h2spec finds, of {} cases:{red}", cases.len());
    let green = told(exempt.difference(&failed).collect());
    assert!(green.is_empty(), "{what}: no longer exempt, as h2spec finds them right:{green}");
    println!("{what}: {} cases pass, {} are exempt", cases.len() - exempt.len(), exempt.len());
}

struct Case {
    /// `package | case`, as in `exempt.txt`.
    name: String,
    failed: bool,
}

/// `None`: it isn't at hand.
async fn h2spec(address: SocketAddr) -> Option<Vec<Case>> {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.xml");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let ran = Command::new("h2spec")
        .args(["--host", &host, "--port", &port, "--timeout", SECONDS, "--path", "/bytes/2000"])
        .arg("--junit-report")
        .arg(&report)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status();
    if let Err(error) = ran.await {
        assert!(std::env::var_os(WANTED).is_none(), "cannot run h2spec: {error}");
        println!("JUDGED NOTHING: cannot run h2spec ({error}); `make conformance` builds it where Go is");
        return None;
    }
    Some(cases(&std::fs::read_to_string(report).unwrap()))
}

/// A JUnit report's cases; failed ones hold a `failure` or `error`.
fn cases(report: &str) -> Vec<Case> {
    let attribute = |text: &str, name: &str| {
        let value = text.split_once(&format!(" {name}=\""))?.1;
        Some(value[..value.find('"')?].replace("&#34;", "\"").replace("&#39;", "'").replace("&amp;", "&"))
    };
    let case = |text: &str| {
        let text = &text[..text.find("</testcase>").unwrap_or(text.len())];
        let (package, name) = (attribute(text, "package").unwrap(), attribute(text, "classname").unwrap());
        let failed = text.contains("<failure") || text.contains("<error");
        Case { name: format!("{package} | {name}"), failed }
    };
    report.split("<testcase").skip(1).map(case).collect()
}

fn exempt() -> BTreeSet<String> {
    let lines = include_str!("exempt.txt").lines().filter(|line| !line.starts_with('#'));
    let exempt = lines.map(|line| {
        let [package, case, reason] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("exempt.txt: {line:?} is not `package | case | reason`")
        };
        assert!(reason.contains("RFC 9113"), "exempt.txt: {line:?} needs the rule that was dropped");
        format!("{package} | {case}")
    });
    exempt.collect()
}

#[test]
fn a_report_is_read() {
    let report = r#"<testsuite name="5.3.1"><testcase package="http2/5.3.1" classname="Sends A" time="0.1">
        <failure>Expected: &#34;x&#34;</failure></testcase>
        <testcase package="hpack/6" classname="Sends B" time="0.1"></testcase></testsuite>"#;
    let read: Vec<_> = cases(report).into_iter().map(|case| (case.name, case.failed)).collect();
    assert_eq!(read, [("http2/5.3.1 | Sends A".to_owned(), true), ("hpack/6 | Sends B".to_owned(), false)]);
}
