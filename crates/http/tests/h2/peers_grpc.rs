//! gRPC's C core (Python's `grpcio`) at the other end: as client of our server end, as server of our client end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::client::{Ask, Client};
use crate::peers::{Server, skip};

const CLIENT: &str = r#"
import grpc, queue, sys
options = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20), ("grpc.enable_http_proxy", 0)]
channel = grpc.insecure_channel(sys.argv[1], options=options)
unary, stream = channel.unary_unary("/test.Echo/Unary"), channel.stream_stream("/test.Echo/Stream")
print(unary(b"hello", timeout=60).decode())
print(len(unary(b"x" * (16 << 20), timeout=60)))
print(sum(len(piece) for piece in stream((b"m" * (n % 700) for n in range(3000)), timeout=60)))
futures = [unary.future(b"f" * n, timeout=60) for n in range(500)]
print(sum(len(future.result()) for future in futures))
calls = []
for n in range(50):
    feed = queue.Queue()
    call = stream(iter(feed.get, None), timeout=60)
    feed.put(b"ping")
    next(call)
    calls.append((call, feed))
for call, feed in calls:
    call.cancel()
    feed.put(None)
print(unary(b"after", timeout=60).decode())
channel.close()
"#;

const SERVER: &str = r#"
import grpc, sys
from concurrent import futures
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!")
        if details.method == "/test.Echo/Fail":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such thing"))
        if details.method == "/test.Echo/Stream":
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: (piece.upper() for piece in requests))
server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 32 << 20)])
server.add_generic_rpc_handlers((Echo(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.readline()
server.stop(None).wait()
"#;

#[test]
fn grpcio_calls_our_server_end() {
    let Some(python) = python() else { return };
    let server = Server::start();
    let output = Command::new(python).args(["-c", CLIENT, &server.address.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let streamed: usize = (0..3_000).map(|n| n % 700).sum();
    let expect = format!("hello\n{}\n{streamed}\n{}\nafter\n", 16 << 20, (0..500).sum::<usize>());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expect);
}

#[tokio::test]
async fn our_client_end_calls_grpcio() {
    let Some(python) = python() else { return };
    let piped =
        Command::new(python).args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = piped.unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap();
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).await;

    assert_eq!(call(&mut client, "Unary", &[b"hello"]).await, (message(b"hello!"), "0".into()));
    let large = vec![b'x'; 8 << 20];
    let (answer, status) = call(&mut client, "Unary", &[&large]).await;
    assert_eq!((answer.len(), &*status), (large.len() + 6, "0"));
    let pieces = [&b"a"[..], b"bc", b"def"];
    let expect = [message(b"A"), message(b"BC"), message(b"DEF")].concat();
    assert_eq!(call(&mut client, "Stream", &pieces).await, (expect, "0".into()));
    assert_eq!(call(&mut client, "Fail", &[b"x"]).await, (vec![], "5".into()), "trailers only");
    assert_eq!(call(&mut client, "Missing", &[b"x"]).await, (vec![], "12".into()));

    writeln!(process.stdin.take().unwrap()).unwrap();
    client.until_closed().await;
    assert!(process.wait().unwrap().success());
}

/// A message with gRPC's prefix.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// The answer's bytes and its `grpc-status`.
async fn call(client: &mut Client, method: &str, messages: &[&[u8]]) -> (Vec<u8>, String) {
    let body: Vec<u8> = messages.iter().flat_map(|bytes| message(bytes)).collect();
    let ask = Ask::new("POST", &format!("/test.Echo/{method}"), &body);
    let answer = client.one(ask.with("content-type", "application/grpc").with("te", "trailers")).await;
    let status = answer.field("grpc-status").to_owned();
    (answer.body, status)
}

/// A Python with `grpcio`, made once and kept under `target`.
fn python() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-grpcio");
    let inside = place.join("bin/python3");
    // Two tests, or two test programs, may want it: one makes it.
    let lock = std::fs::File::create(place.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let runs = |program: &Path, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|ran| ran.status.success())
    };
    if runs(&inside, &["-c", "import grpc"]) {
        return Some(inside);
    }
    if !runs(Path::new("python3"), &["-m", "venv", place.to_str().unwrap()]) {
        skip("python3 cannot make a virtual environment");
        return None;
    }
    if !runs(&inside, &["-m", "pip", "install", "--quiet", "grpcio"]) {
        skip("pip cannot install grpcio");
        return None;
    }
    Some(inside)
}
