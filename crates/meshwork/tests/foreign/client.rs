//! A program without a sidecar, with an identity of its own: `meshwork identity`, `meshwork bootstrap`, and Python's
//! `grpcio` on top of what they wrote.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use meshwork_testkit::{Mesh, python_with};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/client.py");

/// An order is many calls; on a machine that builds beside it, each takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Dropped, it is killed.
pub(crate) struct Client {
    /// Held until the order is answered.
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    _process: Child,
    identity: tempfile::TempDir,
}

/// What came of some calls.
#[derive(Debug)]
pub(crate) struct Told(Value);

impl Told {
    /// Calls that ended with that status.
    pub(crate) fn ended(&self, status: u32) -> u64 {
        self.0["statuses"][status.to_string()].as_u64().unwrap_or(0)
    }

    pub(crate) fn failed(&self) -> u64 {
        let statuses = self.0["statuses"].as_object().into_iter().flatten();
        statuses.filter(|(status, _)| *status != "0").filter_map(|(_, count)| count.as_u64()).sum()
    }

    pub(crate) fn answered_by(&self, app: &str) -> u64 {
        self.0["apps"][app].as_u64().unwrap_or(0)
    }
}

impl Client {
    /// Joins as `service` of namespace `default`; `None`, said loudly: this machine has no `grpcio`.
    pub(crate) async fn join(mesh: &Mesh, service: &str) -> Option<Self> {
        let python = python_with(env!("CARGO_TARGET_TMPDIR"), "grpcio", "grpc")?;
        let identity = tempfile::tempdir().unwrap();
        let token = mesh.operator().token("default", service).await;
        run(&["identity", "--token", &token, "--out", identity.path().to_str().unwrap()]).await;
        let bootstrap = run(&["bootstrap", "grpc", "--identity", identity.path().to_str().unwrap()]).await;
        let mut command = Command::new(python);
        for name in ["no_proxy", "no_grpc_proxy", "https_proxy", "http_proxy", "grpc_proxy"] {
            command.env_remove(name);
        }
        command.env_remove("GRPC_XDS_BOOTSTRAP").env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap).arg(PROGRAM);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = piped.spawn().unwrap();
        Some(Self {
            pipes: Mutex::new((
                process.stdin.take().unwrap(),
                BufReader::new(process.stdout.take().unwrap()).lines(),
            )),
            _process: process,
            identity,
        })
    }

    pub(crate) fn identity(&self) -> &Path {
        self.identity.path()
    }

    /// So many calls of `Unary`, one after the other.
    pub(crate) async fn call(&self, target: &str, count: usize) -> Told {
        self.order(json!({"do": "call", "target": target, "count": count})).await
    }

    /// Orders something, and waits for what comes of it.
    pub(crate) async fn order(&self, order: Value) -> Told {
        let (orders, answers) = &mut *self.pipes.lock().await;
        orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        let answer = timeout(PATIENCE, answers.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {order}"));
        let answer = answer.unwrap().unwrap_or_else(|| panic!("the client ended at {order}"));
        Told(serde_json::from_str(&answer).unwrap())
    }
}

/// Runs `meshwork`, which must go well; what it printed.
pub(crate) async fn run(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshwork"));
    let output = timeout(PATIENCE, command.args(arguments).kill_on_drop(true).output()).await;
    let output = output.expect("meshwork ends").unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
