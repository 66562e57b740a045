//! A sidecar's process, with or without an application behind it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;

use super::application::Application;
use crate::belongings;
use crate::control::plane::free_port;
use crate::failure::{Doing as _, Result, fail};

/// Joining takes a moment on a busy machine.
const READY_WAIT: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(10);

/// A drain ends by itself: what is running are short requests.
const END_WAIT: Duration = Duration::from_secs(60);

/// Where a sidecar listens for who is on its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) outbound: SocketAddr,
    /// Leads to the service's port for TCP.
    pub(super) upstream: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// What every sidecar is started with.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) meshwork: PathBuf,
    pub(super) folder: PathBuf,
}

pub(super) struct Sidecar {
    name: String,
    child: Child,
    id: u32,
    pub(super) ports: Ports,
}

impl Ground {
    /// An instance of `echo`.
    pub(super) async fn serve(&self, name: &str, token: &str, application: &Application) -> Result<Sidecar> {
        let (http, tcp) = (application.http.port(), application.tcp.port());
        let ports = [format!("--port=80:{http}"), format!("--port=7:{tcp}/tcp")];
        self.start(name, "echo", token, &ports).await
    }

    /// One that only calls.
    pub(super) async fn call(&self, name: &str, token: &str) -> Result<Sidecar> {
        self.start(name, "web", token, &[]).await
    }

    async fn start(&self, name: &str, service: &str, token: &str, more: &[String]) -> Result<Sidecar> {
        let port = || Ok::<_, crate::failure::Failure>(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        let ports = Ports { outbound: port()?, upstream: port()?, admin: port()? };
        let log = self.folder.join(format!("{name}.log"));
        let doing = || format!("starting the sidecar {name}");
        let file = File::options().create(true).append(true).open(&log).doing(doing)?;
        let errors = file.try_clone().doing(doing)?;
        let mut command = Command::new(&self.meshwork);
        command.args(["--log", "warn", "proxy", "--service", service, "--token", token, "--state-dir"]);
        command.arg(self.folder.join(name)).args(more);
        command.args([
            format!("--outbound-http={}", ports.outbound),
            format!("--upstream=echo:7={}", ports.upstream),
            format!("--admin={}", ports.admin),
        ]);
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let mut command = tokio::process::Command::from(command);
        let child = {
            let mut belongings = belongings::lock();
            let child = command.spawn().doing(doing)?;
            belongings.processes.extend(child.id());
            child
        };
        let Some(id) = child.id() else { return fail(format!("{}: it ended at once", doing())) };
        let mut sidecar = Sidecar { name: name.to_owned(), child, id, ports };
        sidecar.wait_ready().await?;
        Ok(sidecar)
    }
}

impl Sidecar {
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        while !is_ready(self.ports.admin).await {
            if let Ok(Some(status)) = self.child.try_wait() {
                return fail(format!("the sidecar {} ended with {status}: look at its log", self.name));
            }
            if Instant::now() >= deadline {
                return fail(format!("the sidecar {} is not ready: look at its log", self.name));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Drains it, as SIGTERM does.
    pub(super) async fn leave(mut self) -> Result<()> {
        belongings::tell(self.id, Signal::TERM);
        match tokio::time::timeout(END_WAIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => fail(format!("the sidecar {} did not end well: {ended:?}", self.name)),
            Err(_) => fail(format!("the sidecar {} did not end within {END_WAIT:?}", self.name)),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let mut belongings = belongings::lock();
        // Not yet waited for, so the number is still its own.
        if self.child.id().is_some() {
            belongings::tell(self.id, Signal::KILL);
        }
        belongings.processes.remove(&self.id);
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    ask.await.is_ok_and(|answer| answer.get(9..12) == Some(b"200"))
}
