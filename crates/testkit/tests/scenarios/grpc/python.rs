//! gRPC's C core (Python's `grpcio`) at one end or both. It asks the sidecar for a tunnel by itself (`grpc_proxy`), and its
//! ideas of windows, PINGs and frames are its own.
//!
//! Without Python the tests are skipped, and say so; with `CI=true` that is a failure.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{GrpcApp, Sidecar, in_pieces, python_with, soon};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{DESTINATION, Way, client, counted, generated, mesh, mesh_with};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/grpc/peer.py");

/// A peer's whole program takes seconds; on a machine that builds beside it, more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls of `peer.py call` that end with status 0: three times twelve and three, then large ones and many, then one.
const CALLS_OK: usize = 3 * (12 + 3) + (1 + 1 + 1_000) + 1;

#[tokio::test]
async fn python_calls_tonic() {
    let Some(python) = python() else { return };
    let app = GrpcApp::start("tonic");
    let mesh = mesh(&app).await;
    run(&python, mesh.sidecar("web"), &["call", DESTINATION]).await;
    // The call past its deadline, and the answer that was cancelled.
    app.saw_cancelled(2).await;
    counted(&mesh, "0", CALLS_OK).await;
    counted(&mesh, "5", 1).await;
    counted(&mesh, "10", 1).await;
    mesh.stop().await;
}

#[tokio::test]
async fn python_calls_python() {
    let Some(python) = python() else { return };
    for protocol in [Some(AppProtocol::Grpc), None] {
        let mut server = Served::start(&python).await;
        let mesh = mesh_with(server.port, protocol).await;
        run(&python, mesh.sidecar("web"), &["call", DESTINATION]).await;
        let mut cancelled = [server.line().await, server.line().await];
        cancelled.sort();
        assert_eq!(cancelled, ["cancelled Hang", "cancelled Pour"]);
        counted(&mesh, "0", CALLS_OK).await;
        mesh.stop().await;
    }
}

#[tokio::test]
async fn tonic_calls_python() {
    let Some(python) = python() else { return };
    let mut server = Served::start(&python).await;
    let mesh = mesh_with(server.port, Some(AppProtocol::Grpc)).await;
    let mut client = client(mesh.sidecar("web"), Way::Tunnel);
    let large = generated(1, 5 << 20);
    assert!(client.unary(large.clone()).await.unwrap().into_inner() == large);
    let mut pieces = client.scatter(in_pieces(10_000, &large)).await.unwrap().into_inner();
    let mut scattered = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        scattered.extend_from_slice(&piece);
    }
    assert!(scattered == large);
    let hanging = timeout(Duration::from_millis(200), client.hang(Bytes::new())).await;
    assert!(hanging.is_err(), "it never answers");
    assert_eq!(server.line().await, "cancelled Hang");
    counted(&mesh, "0", 2).await;
    counted(&mesh, "1", 1).await;
    mesh.stop().await;
}

/// Its one connection is a tunnel, and both applications are called through it.
#[tokio::test]
async fn the_calls_of_python_are_balanced() {
    let Some(python) = python() else { return };
    let (one, two) = (GrpcApp::start("payments-1"), GrpcApp::start("payments-2"));
    let (mesh, second) = super::balance::mesh([&one, &two]).await;
    mesh.apply(super::balance::IN_TURN).await;
    let told = run(&python, mesh.sidecar("web"), &["balance", DESTINATION, "200"]).await;
    let counts: Vec<(&str, u32)> = told
        .lines()
        .map(|line| line.split_once(' ').map(|(name, count)| (name, count.parse().unwrap())).unwrap())
        .collect();
    let names: Vec<_> = counts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["payments-1", "payments-2"], "{told}");
    assert!(counts.iter().all(|(_, count)| (95..=105).contains(count)), "{told}");
    second.stop().await;
    mesh.stop().await;
}

/// Runs a peer beside that sidecar, as `meshwork run` would; what it printed.
async fn run(python: &Path, sidecar: &Sidecar, arguments: &[&str]) -> String {
    let mut command = peer(python, arguments);
    command.env("grpc_proxy", format!("http://{}", sidecar.outbound_http()));
    let output =
        timeout(PATIENCE, command.kill_on_drop(true).output()).await.expect("the peer ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn peer(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    for name in ["no_proxy", "no_grpc_proxy", "https_proxy", "http_proxy", "grpc_proxy"] {
        command.env_remove(name);
    }
    command.arg(PEER).args(arguments);
    command
}

/// A server in Python. Dropped, it is killed.
struct Served {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Served {
    async fn start(python: &Path) -> Self {
        let mut command = peer(python, &["serve"]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = piped.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = soon("the server's port", lines.next_line()).await.unwrap().expect("it tells its port");
        Self { port: port.parse().unwrap(), lines, _process: process }
    }

    async fn line(&mut self) -> String {
        soon("a word of the server", self.lines.next_line()).await.unwrap().expect("it runs")
    }
}

/// A Python with `grpcio`; `None` is said loudly.
fn python() -> Option<PathBuf> {
    python_with(env!("CARGO_TARGET_TMPDIR"), "grpcio", "grpc")
}
