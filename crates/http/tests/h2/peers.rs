//! Real clients against our server end: curl, nghttp and h2load, over loopback sockets. `driver.rs` says what is answered.
//!
//! Each is a process of its own; where one is missing the test fails in CI and says so elsewhere.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::driver::{self, Ended};

/// A server in a thread of its own, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    failures: Arc<Mutex<Vec<String>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let failures: Arc<Mutex<Vec<String>>> = Arc::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let noted = Arc::clone(&failures);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, noted) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, failures, stop: Some(stop), thread: Some(thread) }
    }

    /// Why connections were ended by us. Real clients give no reason.
    fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_none_or(|ended| ended.is_ok()), "the server panicked");
            assert_eq!(self.failures(), Vec::<String>::new(), "the server ended connections");
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, failures: Arc<Mutex<Vec<String>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(driver::serve(stream));
            }
            Some(ended) = connections.join_next() => match ended {
                // A client that closes with bytes still to be read looks like a broken socket.
                Ok(Ok(Ended::Closed) | Err(_)) => {}
                Ok(Ok(Ended::Failed(error))) => failures.lock().unwrap().push(error.to_string()),
                Err(panic) => failures.lock().unwrap().push(panic.to_string()),
            }
        }
    }
}

/// Runs a client; `HERE` is the server's address. `None` if it is not on this machine.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let server = Server::start();
    let output = Command::new(program)
        .args(arguments.iter().map(|argument| argument.replace("HERE", &server.address.to_string())))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            skip(&format!("{program} cannot be run ({error})"));
            return None;
        }
    };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {} {complaint}", output.status);
    Some(told)
}

pub(crate) fn skip(why: &str) {
    assert!(
        std::env::var("CI").is_err() || std::env::var("CI").is_ok_and(|ci| ci != "true"),
        "{why}, and CI must not skip"
    );
    eprintln!("SKIPPED: {why}");
}

/// A file with that many bytes, for a client to send.
fn file(bytes: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &vec![b'x'; bytes]).unwrap();
    file
}

#[track_caller]
fn curl(arguments: &[&str], expect: &str) {
    let common =
        ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--http2-prior-knowledge"];
    if let Some(told) = run("curl", &[&common, arguments].concat()) {
        assert_eq!(told, expect);
    }
}

/// One request a process: curl 7.88 (Debian 12) cannot use a connection of prior knowledge again, with any server
/// (<https://github.com/curl/curl/pull/10643>). nghttp and h2load send many on one.
#[test]
fn curl_gets_an_answer_also_after_an_interim_one() {
    curl(&["http://HERE/a?b=c"], "GET /a 0\n");
    curl(&["http://HERE/interim"], "GET /interim 0\n");
}

#[test]
fn curl_sends_bodies_small_and_large() {
    curl(&["-d", "hello", "http://HERE/a"], "POST /a 5\n");
    let large = file(20 << 20);
    let path = large.path().to_str().unwrap();
    curl(&["-T", path, "http://HERE/a"], "PUT /a 20971520\n");
    curl(
        &[
            "-T",
            path,
            "-H",
            "content-length:",
            "http://HERE/echo",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download}",
        ],
        "20971520",
    );
}

#[test]
fn curl_gets_a_large_body() {
    let arguments =
        ["http://HERE/bytes/20000000", "-o", "/dev/null", "-w", "%{http_version} %{size_download}"];
    curl(&arguments, "2 20000000");
}

#[test]
fn curl_asks_for_heads_and_gets_nothing_where_there_is_nothing() {
    let head = "HTTP/2 200 \r\ncontent-type: text/plain\r\nserver: meshwork\r\ncontent-length: 10\r\n\r\n";
    curl(&["-I", "http://HERE/abc"], &head.replace("10", "12"));
    curl(&["-o", "/dev/null", "-w", "%{http_code} %{size_download}", "http://HERE/none"], "204 0");
}

#[test]
fn curl_is_answered_before_it_has_sent_everything() {
    let large = file(20 << 20);
    let arguments = ["-T", large.path().to_str().unwrap(), "-o", "/dev/null", "-w", "%{http_code}"];
    curl(&[&arguments[..], &["http://HERE/early"]].concat(), "413");
}

/// nghttp's own options make frames that other clients never send.
#[test]
fn nghttp_pads_prioritises_and_continues() {
    let body = file(100_000);
    let path = body.path().to_str().unwrap();
    let common = [
        "--timeout=60",
        "--padding=200",
        "--continuation",
        "--window-bits=12",
        "--connection-window-bits=13",
    ];
    let post = ["--data", path, "--trailer=x-sum: 1", "-H", "expect: nothing", "http://HERE/echo"];
    if let Some(told) = run("nghttp", &[&common[..], &post].concat()) {
        assert_eq!(told.matches('x').count(), 100_000);
    }
    let many = ["--null-out", "--stat", "--multiply=100", "--weight=3", "http://HERE/bytes/5000"];
    if let Some(told) = run("nghttp", &[&common[..], &many].concat()) {
        assert_eq!(told.matches(" 200 ").count(), 100, "{told}");
    }
}

#[track_caller]
fn h2load(arguments: &[&str], requests: u32) {
    if let Some(told) = run("h2load", &[&["-n", &requests.to_string()], arguments].concat()) {
        let expect = format!(
            "{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(told.contains(&expect), "{told}");
        assert!(told.contains(&format!("status codes: {requests} 2xx")), "{told}");
    }
}

#[test]
fn h2load_keeps_streams_and_windows_full() {
    h2load(&["-c", "8", "-m", "100", "http://HERE/bytes/128"], 10_000);
    h2load(&["-c", "4", "-m", "32", "-w", "10", "-W", "14", "http://HERE/bytes/5000"], 500);
    let body = file(70_000);
    h2load(&["-c", "4", "-m", "32", "-d", body.path().to_str().unwrap(), "http://HERE/echo"], 500);
}
