//! What the control plane's tests share: one to start, and an operator who talks to its socket.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

pub mod sidecar;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use meshwork_control::{Control, Settings, start};
use serde_json::Value;
use tokio::net::UnixStream;

/// A control plane with its state in a directory of its own.
pub struct Plane {
    pub control: Control,
    pub dir: tempfile::TempDir,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = start(settings(dir.path(), change)).await.unwrap();
        Self { control, dir }
    }

    /// Stops it and starts another one on the same state.
    pub async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.control.stop().await;
        let control = start(settings(self.dir.path(), change)).await.unwrap();
        Self { control, dir: self.dir }
    }

    pub fn operator(&self) -> Operator<'_> {
        Operator(self.control.operator_socket())
    }
}

pub fn settings(dir: &Path, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::new(dir);
    settings.listen = "127.0.0.1:0".parse().unwrap();
    change(&mut settings);
    settings
}

/// Talks HTTP/1.1 over the operator socket.
pub struct Operator<'p>(pub &'p Path);

impl Operator<'_> {
    pub async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let response = self.open(method, path, body).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("no JSON: {:?}", String::from_utf8_lossy(&bytes)));
        (status, value)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "").await
    }

    /// An answer that is no JSON.
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let response = self.open("GET", path, "").await;
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    pub async fn apply(&self, text: &str) -> (u16, Value) {
        self.send("POST", "/api/v1/apply?file=shop.yaml", text).await
    }

    pub async fn apply_ok(&self, text: &str) -> Value {
        let (status, answer) = self.apply(text).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub async fn token(&self, namespace: &str, service: &str) -> String {
        let body = format!(r#"{{"service": "{service}", "namespace": "{namespace}"}}"#);
        let (status, answer) = self.send("POST", "/api/v1/tokens", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    pub async fn watch(&self, path: &str) -> Lines {
        let response = self.open("GET", path, "").await;
        assert_eq!(response.status(), 200);
        Lines::of(response)
    }

    async fn open(&self, method: &str, path: &str, body: &str) -> http::Response<Incoming> {
        let stream = UnixStream::connect(self.0).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "operator")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        sender.send_request(request).await.unwrap()
    }
}

/// A watch's lines.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub fn of(response: http::Response<Incoming>) -> Self {
        Self { body: response.into_body(), rest: Vec::new() }
    }

    /// `None`: the stream ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = soon(self.body.frame()).await?.ok()?;
            self.rest.extend_from_slice(frame.data_ref()?);
        }
    }
}

/// What a test waits for must come within 10 s, on a busy machine too.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it should have come within 10 s")
}

pub fn service(namespace: &str, name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  selector:\n    app: {name}\n  ports:\n  - port: {port}\n    targetPort: 8080\n---\n"
    )
}

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the control plane logs on this thread, which is all of it where a test has one thread, as
/// `#[tokio::test]` gives it. One subscriber for the process: several that come and go lose lines.
pub struct Log;

impl Log {
    pub fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_ansi(false)
                .with_writer(|| Writer)
                .init();
        });
        Self
    }

    pub fn lines(&self) -> Vec<String> {
        LINES.with_borrow(|text| String::from_utf8_lossy(text).lines().map(str::to_owned).collect())
    }

    #[track_caller]
    pub fn assert_line(&self, parts: &[&str]) {
        let lines = self.lines();
        let found = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{}", lines.join("\n"));
    }
}

struct Writer;

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|text| text.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
