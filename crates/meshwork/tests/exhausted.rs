//! A sidecar without file descriptors in a mesh that works: its callers are served by others, and it recovers by itself.
//! Descriptors belong to a process, so these are real ones.

mod support;

use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::Ordering;

use support::load::{Load, all_good, counted_application};
use support::{Mesh, limited, wait_for};

/// Enough to start and to serve a few, for the supervisor and its sidecar each.
const DESCRIPTORS: &str = "-n 64";

/// More than it has.
const FLOOD: usize = 96;

/// At once, each with one request after the other.
const CALLERS: usize = 4;

/// Answers under load between two steps.
const MANY: usize = 200;

/// Clients that have begun a request and stay there: nobody may send them away for being idle.
fn flood(outbound: &str) -> Vec<TcpStream> {
    let client = |_| {
        let mut stream = TcpStream::connect(outbound).unwrap();
        // Whoever finds no room at all is sent away, which is as well.
        let _ = stream.write_all(b"GET http://cart/ HTTP/1.1\r\n");
        stream
    };
    (0..FLOOD).map(client).collect()
}

fn says(log: &Path, part: &str) -> bool {
    std::fs::read_to_string(log).unwrap().contains(part)
}

#[test]
fn an_instance_without_descriptors_costs_its_callers_nothing_and_recovers() {
    let mesh = Mesh::start();
    let ((one, served), (two, other)) = (counted_application(), counted_application());
    let log = mesh.path().join("tight.log");
    let spec = format!("80:{one}/http");
    let tight = mesh.run("cart", "tight", &["--port", &spec], ["sleep", "infinity"]);
    let tight = mesh.started("tight", limited(DESCRIPTORS, &tight).stderr(File::create(&log).unwrap()));
    let spec = format!("80:{two}/http");
    let _roomy = mesh.start_run("cart", "roomy", &["--port", &spec], ["sleep", "infinity"]);
    let web = mesh.start_run("web", "web", &[], ["sleep", "infinity"]);
    let late = mesh.start_run("web", "late", &[], ["sleep", "infinity"]);
    wait_for("both to be called", || {
        web.eventually("http://cart/");
        (served.load(Ordering::Relaxed) > 1 && other.load(Ordering::Relaxed) > 1).then_some(())
    });
    let load = Load::start(&web.outbound, CALLERS);
    load.goes_on(MANY);

    let clients = flood(&tight.outbound);
    wait_for("it to have no descriptor left", || says(&log, "Too many open files").then_some(()));
    load.goes_on(MANY);
    // A caller that has no connection to it yet is served as well.
    assert_eq!(late.curl(&["http://cart/"]).stdout, b"ok");
    load.goes_on(MANY);
    drop(clients);

    wait_for("it to answer again", || tight.curl_admin("/ready").status.success().then_some(()));
    let check = mesh.operate(["check", "--admin", &tight.admin]).output().unwrap();
    let told = String::from_utf8(check.stdout).unwrap();
    assert!(told.contains("it ran out of its 64 file descriptors") && told.contains("ulimit -n"), "{told}");
    let before = served.load(Ordering::Relaxed);
    let again = mesh.start_run("web", "again", &[], ["sleep", "infinity"]);
    wait_for("it to be called again", || {
        assert_eq!(again.eventually("http://cart/"), "ok");
        (served.load(Ordering::Relaxed) > before + 1).then_some(())
    });
    all_good(&load.stop());
}
