//! Real clients through the outbound port, as an application would be started with `http_proxy` set.
//!
//! A client that is not on this machine is skipped, and said so; with `CI=true` that is a failure.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use meshwork_proxy::telemetry::Event;

use super::support::Pair;
use super::talk::{App, ok};

/// A pair whose application answers with the request's first line, its caller and its body.
fn start() -> Pair {
    let app = App::listen();
    let pair = Pair::start(app.port);
    app.serve(|head, talk| {
        let body = match (head.get("content-length"), head.get("transfer-encoding")) {
            (Some(length), _) => talk.take(length.parse().unwrap()),
            (None, Some(_)) => talk.chunked().0,
            (None, None) => Vec::new(),
        };
        let caller = head.get("x-forwarded-client-cert").unwrap_or("nobody");
        ok(&format!("{}|{caller}|{}", head.first, String::from_utf8_lossy(&body)))
    });
    pair
}

fn expected(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1|URI=spiffe://mesh.test/ns/default/sa/web|{body}")
}

/// Runs a client that has nothing set but our proxy; its standard output.
fn run(pair: &Pair, program: &Path, arguments: &[&str]) -> String {
    let proxy = format!("http://{}", pair.web.outbound);
    let mut command = Command::new(program);
    for name in ["no_proxy", "NO_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env(name, &proxy);
    }
    let output = command.env("NODE_USE_ENV_PROXY", "1").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Where a program is; `None` is said loudly.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("there is no {program}"));
    }
    found
}

fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}, and CI must not skip");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn curl_calls_a_service_by_name() {
    let Some(curl) = find("curl") else { return };
    let pair = start();
    let call =
        |arguments: &[&str]| run(&pair, &curl, &[&["-sS", "--fail", "--max-time", "20"], arguments].concat());
    assert_eq!(call(&["http://cart/a?b=c"]), expected("GET", "/a?b=c", ""));
    assert_eq!(call(&["-d", "x=1", "http://cart/form"]), expected("POST", "/form", "x=1"));
    let large = "y".repeat(100_000);
    let body =
        ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "--expect100-timeout", "0.1"];
    let sent = call(&[&body[..], &["-d", &large, "http://cart/large"]].concat());
    assert_eq!(sent, expected("POST", "/large", &large));
    // `-p`: by CONNECT, as it would for https.
    assert_eq!(call(&["-p", "http://cart/tunnel"]), expected("GET", "/tunnel", ""));
    // Two requests on one connection, and HTTP/1.0.
    let twice = call(&["http://cart/1", "http://cart/2"]);
    assert_eq!(twice, expected("GET", "/1", "") + &expected("GET", "/2", ""));
    assert_eq!(call(&["-0", "http://cart/old"]), expected("GET", "/old", ""));
}

#[test]
fn python_requests_calls_a_service_by_name() {
    let Some(python) = python_with_packages() else { return };
    let pair = start();
    let script = r#"
import requests
session = requests.Session()
print(session.get("http://cart/a", timeout=20).text)
print(session.post("http://cart/b", data=(piece for piece in [b"x", b"y"]), timeout=20).text)
print(requests.put("http://cart/c", data=b"z", timeout=20).text)
"#;
    let told = run(&pair, &python, &["-c", script]);
    let expected = [expected("GET", "/a", ""), expected("POST", "/b", "xy"), expected("PUT", "/c", "z")];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

/// gRPC's C core asks its proxy for a tunnel; the calls in it are carried one by one.
#[test]
fn grpcio_calls_a_service_by_name() {
    let Some(python) = python_with_packages() else { return };
    let script = r#"
import grpc, os, sys
from concurrent import futures
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!")
        if details.method == "/test.Echo/Stream":
            answer = lambda requests, context: (piece.upper() for piece in requests)
            return grpc.stream_stream_rpc_method_handler(answer)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
os.environ["grpc_proxy"] = sys.stdin.readline().strip()
channel = grpc.insecure_channel("cart:80")
print(channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=20).decode())
print(b"".join(channel.stream_stream("/test.Echo/Stream")(iter([b"a", b"b", b"c"]), timeout=20)).decode())
server.stop(None).wait()
"#;
    let mut command = Command::new(&python);
    for name in ["no_proxy", "NO_PROXY", "no_grpc_proxy", "https_proxy", "http_proxy"] {
        command.env_remove(name);
    }
    let piped = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pair = Pair::start(told.next().unwrap().parse().unwrap());
    writeln!(child.stdin.take().unwrap(), "http://{}", pair.web.outbound).unwrap();
    assert_eq!(told.collect::<Vec<_>>(), ["hello!", "ABC"]);
    assert!(child.wait().unwrap().success());
    assert_eq!(pair.cart.registry.counted(Event::OpaqueInbound), 0, "calls, not opaque bytes");
}

/// A Python with the clients that are tested, made once and kept under `target`.
fn python_with_packages() -> Option<PathBuf> {
    static ONCE: Mutex<()> = Mutex::new(()); // two tests want it, one makes it
    let _one = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    let python = find("python3")?;
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    let inside = place.join("bin/python3");
    let has_packages = |python: &Path| {
        let imported = Command::new(python).args(["-c", "import requests, grpc"]).output();
        imported.is_ok_and(|ran| ran.status.success())
    };
    if has_packages(&inside) {
        return Some(inside);
    }
    let made = Command::new(&python).args(["-m", "venv"]).arg(&place).output();
    if !made.is_ok_and(|made| made.status.success()) {
        skip("python3 cannot make a virtual environment");
        return None;
    }
    let install = ["-m", "pip", "install", "--quiet", "requests", "grpcio"];
    let installed = Command::new(&inside).args(install).output().unwrap();
    if !installed.status.success() {
        skip(&format!("the clients cannot be installed: {}", String::from_utf8_lossy(&installed.stderr)));
        return None;
    }
    Some(inside)
}

#[test]
fn node_calls_a_service_by_name() {
    let Some(node) = find("node") else { return };
    let pair = start();
    // `http.request` with the proxy as host is how libraries without support for the variables are told;
    // `fetch` heeds them (`NODE_USE_ENV_PROXY`) from version 24 on.
    let [host, port] = [pair.web.outbound.ip().to_string(), pair.web.outbound.port().to_string()];
    let script = format!(
        r#"const request = require("http").request(
            {{ host: "{host}", port: {port}, method: "POST", path: "http://cart/node", headers: {{ host: "cart" }} }},
            (answer) => answer.on("data", (piece) => process.stdout.write(piece)));
        request.write("x"); request.end("y");"#
    );
    assert_eq!(run(&pair, &node, &["-e", &script]), expected("POST", "/node", "xy"));
    let version = run(&pair, &node, &["-p", "parseInt(process.versions.node)"]);
    if version.trim().parse::<u32>().unwrap() < 24 {
        eprintln!("SKIPPED: fetch of Node {} does not heed proxy variables (24 does)", version.trim());
        return;
    }
    let script = r#"fetch("http://cart/fetch").then((answer) => answer.text()).then((text) => process.stdout.write(text))"#;
    assert_eq!(run(&pair, &node, &["-e", script]), expected("GET", "/fetch", ""));
}
