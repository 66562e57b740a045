//! The control plane's process, and what operators ask of it.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::belongings;
use crate::failure::{Doing as _, Result, fail};

/// A store of 50,000 endpoints is read in some seconds.
const READY_WAIT: Duration = Duration::from_secs(60);

/// Between looks whether it is ready.
const LOOK: Duration = Duration::from_millis(10);

/// Below 32,768, where the kernel begins unless told otherwise.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 30_000;

pub(crate) struct Plane {
    binary: PathBuf,
    folder: PathBuf,
    address: String,
    child: Child,
    pub(crate) operators: Operators,
}

/// Who asks it over its socket, each time by a connection of its own, as a command does.
#[derive(Clone)]
pub(crate) struct Operators {
    socket: PathBuf,
}

impl Plane {
    pub(crate) async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let child = spawn(binary, folder, &address)?;
        let operators = Operators { socket: state(folder).join("operator.sock") };
        let plane = Self { binary: binary.to_owned(), folder: folder.to_owned(), address, child, operators };
        plane.wait_ready().await?;
        Ok(plane)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and another one on the same store.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.end(Signal::KILL);
        self.child = spawn(&self.binary, &self.folder, &self.address)?;
        self.wait_ready().await
    }

    /// Its socket is there when all else is, and an answer says that it listens.
    async fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            match self.operators.ask(Method::GET, "/api/v1/status", Bytes::new()).await {
                Ok(_) => return Ok(()),
                Err(failure) if Instant::now() >= deadline => {
                    let log = std::fs::read_to_string(log(&self.folder)).unwrap_or_default();
                    let last = log.lines().last().unwrap_or_default();
                    return fail(format!("the control plane is not ready ({failure}): {last}"));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn end(&mut self, signal: Signal) {
        belongings::tell(self.child.id(), signal);
        // Reaped before it leaves the list, so that nobody signals a number that was given away since.
        let _ = self.child.wait();
        belongings::lock().processes.remove(&self.child.id());
    }
}

impl Operators {
    /// Gives the store's revision with the documents.
    pub(crate) async fn apply(&self, documents: String) -> Result<u64> {
        let applied = self.ask(Method::POST, "/api/v1/apply", documents.into()).await?;
        match applied["revision"].as_u64() {
            Some(revision) => Ok(revision),
            None => fail(format!("an apply was answered without a revision: {applied}")),
        }
    }

    pub(crate) async fn token(&self, service: &str, namespace: &str) -> Result<String> {
        let wanted = json!({ "service": service, "namespace": namespace }).to_string();
        let made = self.ask(Method::POST, "/api/v1/tokens", wanted.into()).await?;
        match made["token"].as_str() {
            Some(token) => Ok(token.to_owned()),
            None => fail(format!("no token in {made}")),
        }
    }

    /// OpenMetrics text.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let text = self.send(Method::GET, "/metrics", Bytes::new()).await?;
        String::from_utf8(text.into()).doing(|| "the control plane's metrics".to_owned())
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let doing = || format!("{method} {path}");
        serde_json::from_slice(&self.send(method.clone(), path, body).await?).doing(doing)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let doing = || format!("{method} {path}");
        let stream = UnixStream::connect(&self.socket).await.doing(doing)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.doing(doing)?;
        let request = Request::builder().method(method.clone()).uri(path).header("host", "control");
        let request = request.body(Full::new(body)).doing(doing)?;
        let exchange = async {
            let response = sender.send_request(request).await.doing(doing)?;
            let status = response.status();
            let body = response.into_body().collect().await.doing(doing)?.to_bytes();
            drop(sender);
            Ok((status, body))
        };
        let (answer, _) = tokio::join!(exchange, connection);
        let (status, body) = answer?;
        if !status.is_success() {
            return fail(format!("{} was answered {status}: {}", doing(), String::from_utf8_lossy(&body)));
        }
        Ok(body)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// Free now, and below those that the kernel gives to connections, so it stays so. Each is given once.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(PORT_FIRST);
    for _ in PORT_FIRST..PORT_LAST {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let _ = NEXT.compare_exchange(PORT_LAST, PORT_FIRST, Ordering::Relaxed, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    fail(format!("no port from {PORT_FIRST} to {PORT_LAST} is free"))
}

fn state(folder: &Path) -> PathBuf {
    folder.join("control-state")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("control.log")
}

/// In its own process group: Ctrl-C in a terminal reaches us alone, and we end it in order.
fn spawn(binary: &Path, folder: &Path, address: &str) -> Result<Child> {
    let log = log(folder);
    let file = File::create(&log).doing(|| format!("making {}", log.display()))?;
    let errors = file.try_clone().doing(|| format!("opening {}", log.display()))?;
    let mut command = Command::new(binary);
    // What each registration writes to the log is no part of what is measured; a real one's is a file, too.
    command.args(["--log", "warn", "control", "--listen", address, "--state-dir"]).arg(state(folder));
    command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
    let mut belongings = belongings::lock();
    let child = command.spawn().doing(|| format!("starting {}", binary.display()))?;
    belongings.processes.insert(child.id());
    Ok(child)
}
