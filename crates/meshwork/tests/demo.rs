//! `meshwork demo` as a script meets it: it succeeds, says what it did, and leaves nothing behind.

mod support;

use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use support::{Process, meshwork, wait_for};

/// PIDs of all processes that were started with a path below `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let of_dir = entries.filter(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&dir)
    });
    of_dir.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn assert_nothing_left(dir: &Path) {
    assert_eq!(processes_of(dir), [""; 0], "processes stay behind");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "files stay behind");
}

#[test]
fn the_demo_loses_no_request_whatever_moves_breaks_and_dies() {
    let dir = tempfile::tempdir().unwrap();
    let (temp, json) = (dir.path().join("t"), dir.path().join("result.json"));
    std::fs::create_dir(&temp).unwrap();
    let mut demo = meshwork(["demo", "--duration", "12s", "--no-tty", "--json"]);
    let output = demo.arg(&json).env("TMPDIR", &temp).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));

    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["failed"], 0, "{result}");
    assert_eq!(result["mtls"], true, "{result}");
    assert!(result["requests"].as_u64().unwrap() > 500, "{result}");
    assert!(result["p99_ms"].as_f64().unwrap() >= result["p50_ms"].as_f64().unwrap(), "{result}");
    let moved = |end: &str, address: &str| {
        let addresses = result["moved"][end].as_array().unwrap();
        addresses.len() == 3 && addresses.iter().all(|one| one.as_str().unwrap().starts_with(address))
    };
    assert!(moved("from", "127.0.0.1:") && moved("to", "127.0.0.2:"), "{result}");
    // 10 % of some hundred requests; 3 standard deviations are less than 6 %.
    let v2 = result["split"]["observed"]["v2"].as_f64().unwrap();
    assert!((0.02..0.2).contains(&v2), "{result}");
    let grpc = &result["grpc"];
    assert!(grpc["ok"].as_u64().unwrap() > 200 && grpc["failed"] == 0, "{result}");
    let instances = grpc["instances"].as_object().unwrap();
    let served = |calls: &Value| calls.as_u64().unwrap() >= 20;
    assert!(
        instances.len() == 2 && instances.values().all(served),
        "one connection, two instances: {result}"
    );
    // Each may be over in half a second.
    for trouble in ["killed", "ejected", "rolled", "control", "rotated"] {
        let meanwhile = &result[trouble]["meanwhile"];
        assert!(
            meanwhile["requests"].as_u64().unwrap() >= 10 && meanwhile["failed"] == 0,
            "{trouble}: {result}"
        );
    }
    let ejected = &result["ejected"];
    assert!(ejected["wrong_answers"].as_u64().unwrap() >= 5, "so many in a row are too much: {result}");
    assert_eq!(result["rolled"]["instances"], 2, "{result}");
    // Everything but the one that was killed: web, load, stock, 2 of cart, 2 of payments, 3 of catalog.
    assert_eq!(result["control"]["sidecars"], 10, "{result}");
    for sentence in [
        "calls payments by gRPC",
        "Moving catalog",
        "Changed the HTTPRoute",
        "kill -9",
        "Left out",
        "0 failed",
    ] {
        assert!(text.contains(sentence), "{sentence}: {text}");
    }
    assert_nothing_left(&temp);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let demo = meshwork(["demo", "--duration", "60s", "--no-tty"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .spawn();
    let mut demo = Process(demo.unwrap());
    wait_for("the shop's processes", || (processes_of(dir.path()).len() > 5).then_some(()));
    demo.signal(Signal::INT);
    assert_eq!(demo.ended().code(), Some(130));
    assert_nothing_left(dir.path());
}

#[test]
fn a_demo_that_is_too_short_is_refused() {
    let output = meshwork(["demo", "--duration", "1s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--duration is 10 s at least"));
}
