//! The command line as scripts see it: help, exit codes, sentences. Runs the real binary.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use support::{DEADLINE, Mesh, wait_for};

/// The binary without whatever the developer's own shell has set for it.
fn meshwork(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwork"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MESHWORK_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    told(&meshwork(args).output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_is_worth_reading() {
    for args in [
        &["--help"][..],
        &["control", "--help"],
        &["token", "create", "--help"],
        &["proxy", "--help"],
        &["run", "--help"],
        &["apply", "--help"],
        &["get", "--help"],
        &["demo", "--help"],
    ] {
        let (code, help, _) = run(args);
        assert_eq!(code, 0, "{args:?}");
        assert!(help.contains("xample") || help.contains("Five minutes"), "{args:?} has no example:\n{help}");
        assert!(help.contains("MESHWORK_"), "{args:?} names no variable");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &[][..],
        &["fly"],
        &["run", "--service", "cart"],
        &["proxy"],
        &["run", "--service", "Cart", "--", "true"],
        &["proxy", "--service", "cart", "--port", "80/udp"],
        &["control", "--listen", "here"],
        &["get"],
        &["version", "-o", "xml"],
    ] {
        let (code, out, error) = run(args);
        assert_eq!((code, &*out), (2, ""), "{args:?}: {error}");
        assert!(error.contains("Usage") || error.contains("error:"), "{args:?}: {error}");
    }
}

#[test]
fn a_flag_has_its_variable_and_beats_it() {
    let with = |args: &[&str]| told(&meshwork(args).env("MESHWORK_OUTPUT", "json").output().unwrap());
    let (code, json, _) = with(&["version"]);
    assert_eq!(code, 0);
    assert!(json.contains(r#""version": "0."#), "{json}");
    let (_, table, _) = with(&["version", "-o", "table"]);
    assert!(table.starts_with("meshwork 0."), "{table}");
    let (_, yaml, _) = with(&["version", "-o", "yaml"]);
    assert!(yaml.contains("version: \"0."), "{yaml}");
}

#[test]
fn a_missing_control_plane_is_one_sentence_with_its_cure() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    for command in [
        &["status"][..],
        &["get", "services"],
        &["token", "create", "--service", "cart"],
        &["delete", "service", "x"],
    ] {
        let (code, out, error) = run(&[command, &["--state-dir", state]].concat());
        assert_eq!((code, &*out), (1, ""), "{command:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
        for part in ["no control plane answers at", state, "`meshwork control`", "--state-dir"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

#[test]
fn a_missing_token_is_one_sentence_with_its_cure() {
    for command in [&["proxy", "--service", "cart"][..], &["run", "--service", "cart", "--", "true"]] {
        let dir = tempfile::tempdir().unwrap();
        let output = meshwork(command).env("MESHWORK_STATE_DIR", dir.path()).output().unwrap();
        let (code, _, error) = told(&output);
        assert_eq!((code, error.lines().count()), (1, 1), "{command:?}: {error}");
        assert!(error.contains("meshwork token create --service cart"), "{error}");
    }
}

#[test]
fn a_damaged_token_is_never_shown() {
    let (code, _, error) = run(&["run", "--service", "cart", "--token", "mw1.secret-part", "--", "true"]);
    assert_eq!(code, 1);
    assert!(error.contains("join token"), "{error}");
    assert!(!error.contains("secret-part"), "{error}");
}

#[test]
fn an_unknown_kind_is_told_with_the_known_ones() {
    let (code, _, error) = run(&["get", "pods"]);
    assert_eq!((code, error.lines().count()), (1, 1));
    assert!(
        error.contains("\"pods\"")
            && error.contains("service, workload, httproute, trafficpolicy and meshconfig"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let (code, _, error) = run(&["apply", "-f", "no-such-file.yaml"]);
    assert_eq!((code, error.lines().count()), (1, 1));
    assert!(error.contains("no-such-file.yaml") && error.contains("check -f"), "{error}");
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("meshwork") && script.contains("outbound-http"), "{shell}");
        assert!(!script.contains("MESHWORK_TOKEN="), "{shell}");
    }
}

#[test]
fn a_wrong_log_filter_is_one_sentence() {
    let (code, _, error) = run(&["--log", "meshwork=loud", "version"]);
    assert_eq!((code, error.lines().count()), (1, 1));
    assert!(error.contains("no log filter"), "{error}");
}

/// `meshwork get services --watch` as it goes on; killed when dropped.
struct Watch {
    process: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(mesh: &Mesh, format: &str) -> Self {
        let mut command = mesh.operate(["get", "services", "--watch", "-o", format]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, told) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { process, lines: told }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("another line")
    }

    /// As its words.
    #[track_caller]
    fn row(&self) -> Vec<String> {
        self.next().split_whitespace().take(4).map(str::to_owned).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_is_watched_is_shown_as_it_changes() {
    let mut mesh = Mesh::start();
    let apply = |name: &str, port: u16| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: cart}}, ports: [{{port: {port}}}]}}}}"
        );
        let file = mesh.path().join("service.yaml");
        std::fs::write(&file, text).unwrap();
        let output = mesh.operate(["apply", "-f", file.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    apply("cart", 80);
    let (table, json) = (Watch::start(&mesh, "table"), Watch::start(&mesh, "json"));
    assert_eq!(table.row(), ["CHANGE", "NAMESPACE", "NAME", "PORTS"]);
    assert_eq!(table.row(), ["added", "default", "cart", "80"]);
    let event = || -> Value { serde_json::from_str(&json.next()).unwrap() };
    assert_eq!(event()["type"], "ADDED");
    apply("cart", 81);
    apply("payments", 50051);
    assert!(mesh.operate(["delete", "service", "cart"]).output().unwrap().status.success());
    for (change, name, port) in
        [("modified", "cart", 81), ("added", "payments", 50051), ("deleted", "cart", 81)]
    {
        assert_eq!(table.row(), [change, "default", name, &port.to_string()]);
        let event = event();
        assert_eq!(event["type"], change.to_ascii_uppercase());
        assert_eq!(event["object"]["spec"]["ports"][0]["port"], port, "{event}");
    }
    // Who watches is told that it is over.
    mesh.kill_control();
    let mut watches = [table, json];
    for watch in &mut watches {
        let ended = wait_for("the watch's end", || watch.process.try_wait().unwrap());
        assert_eq!(ended.code(), Some(1));
    }
}
