//! Meshwork's own pair: a real control plane, real sidecars with join tokens, metrics on.
//!
//! The first start of a pair uses the tokens; from then on the certificates are on disk, as on any machine that was
//! there yesterday, and each measurement starts with them.

use std::cell::OnceCell;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{GRPC_PORT, HTTP1_PORT};
use crate::failure::{Doing as _, Failure, Result, fail};
use crate::http_text;
use crate::namespaces::{CLIENT, Namespace, Namespaces, SERVER};
use crate::peers::Side;
use crate::processes::{self, Process};
use crate::target::Target;
use crate::template::fill;
use crate::topology::{Between, Entry, SERVICE};

/// The client's own service.
pub(crate) const CALLER: &str = "web";

/// A service behind which somebody else sits: nobody may answer for it.
pub(crate) const IMPOSTOR: &str = "vault";

/// In each sidecar's namespace.
pub(crate) const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 4191);

pub(crate) const CONTROL_PORT: u16 = 4190;

/// How long a process may take until it is ready.
const READY_WAIT: Duration = Duration::from_secs(20);

const COMMAND_WAIT: Duration = Duration::from_secs(20);

pub(crate) struct Mesh {
    between: Between,
    entry: Entry,
    binary: PathBuf,
    folder: PathBuf,
    /// The service's, once the mesh has one: it stays.
    virtual_address: OnceCell<SocketAddr>,
}

impl Mesh {
    pub(crate) fn new(between: Between, entry: Entry, binary: PathBuf, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
        Ok(Self { between, entry, binary, folder, virtual_address: OnceCell::new() })
    }

    /// Where a client goes: a captured one to the service's own address, of which the control plane must have been asked.
    pub(crate) fn target(&self, target: Target) -> Target {
        match (self.entry, self.virtual_address.get()) {
            (Entry::Captured, Some(address)) => Target { address: *address, ..target },
            (Entry::Captured, None) | (Entry::Proxy, _) => target,
        }
    }

    /// Asks it, once.
    pub(crate) fn find_virtual_address(&self, namespace: &Namespace) -> Result<()> {
        if self.entry == Entry::Proxy || self.virtual_address.get().is_some() {
            return Ok(());
        }
        let text = self.operate(namespace, &["get", "service", SERVICE, "--output", "json"])?;
        let service: Value = serde_json::from_str(&text).doing(|| format!("reading {text}"))?;
        let address = service["status"]["virtualAddresses"][0].as_str().and_then(|text| text.parse().ok());
        let Some(address) = address else { return fail(format!("{SERVICE} has no virtual address: {text}")) };
        let _ = self.virtual_address.set(SocketAddr::new(address, 80));
        Ok(())
    }

    /// Where a sidecar keeps its identity.
    pub(crate) fn state_dir(&self, side: Side) -> PathBuf {
        self.folder.join(account(side))
    }

    pub(crate) fn start_control(&self, namespaces: &Namespaces) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command.args(["control", &format!("--listen={CLIENT}:{CONTROL_PORT}"), "--state-dir"]);
        command.arg(self.control_dir());
        let mut control = Process::start("control", &namespaces.client, &mut command, &self.folder)?;
        // Its socket for operators is there when all else is.
        let deadline = Instant::now() + READY_WAIT;
        while self.operate(&namespaces.client, &["status"]).is_err() {
            control.check_alive()?;
            if Instant::now() >= deadline {
                return fail(format!("the control plane is not ready: {}", control.last_words()));
            }
        }
        Ok(control)
    }

    /// Starts a sidecar, with a token if it has no certificate yet. Whether it is ready is asked for elsewhere.
    pub(crate) fn start_sidecar(&self, side: Side, namespace: &Namespace) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command.args(["proxy", "--service", account(side), "--state-dir"]).arg(self.state_dir(side));
        if side == Side::Inbound {
            command.args([
                format!("--address={SERVER}"),
                format!("--port=80:{HTTP1_PORT}/http"),
                format!("--port={GRPC_PORT}:{GRPC_PORT}/grpc"),
            ]);
        }
        if self.between == Between::Http1 {
            command.arg("--no-http2");
        }
        if self.entry == Entry::Captured {
            command.arg("--capture=redirect");
        }
        if !self.state_dir(side).exists() {
            command.arg("--token-file").arg(self.token(side, namespace)?);
        }
        let name = match side {
            Side::Outbound => "outbound",
            Side::Inbound => "inbound",
        };
        Process::start(name, namespace, &mut command, &self.folder)
    }

    pub(crate) fn wait_ready(&self, process: &mut Process, namespace: &Namespace) -> Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            let ready = namespace.inside(|| http_text::get(SocketAddr::from(ADMIN), "/ready", "localhost"));
            if matches!(ready, Ok((200, _))) {
                return Ok(());
            }
            process.check_alive()?;
            if Instant::now() >= deadline {
                return fail(format!("a sidecar is not ready: {}", process.last_words()));
            }
        }
    }

    /// Declares a service with an endpoint that lies: the address is the inbound sidecar's, the account is another one.
    /// So it looks when an address was given away since, or when somebody sits where the endpoint should be.
    pub(crate) fn declare_impostor(&self, namespace: &Namespace, port: u16) -> Result<()> {
        let resources = fill(
            include_str!("../impostor.yaml"),
            &[("name", &IMPOSTOR), ("address", &SERVER), ("port", &port)],
        );
        let file = self.folder.join("impostor.yaml");
        fs::write(&file, resources).doing(|| format!("writing {}", file.display()))?;
        let file = file.display().to_string();
        self.operate(namespace, &["apply", "--filename", &file]).map(drop)
    }

    fn token(&self, side: Side, namespace: &Namespace) -> Result<PathBuf> {
        let token = self.operate(namespace, &["token", "create", "--service", account(side)])?;
        let file = self.folder.join(format!("{}.token", account(side)));
        fs::write(&file, token).doing(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    fn operate(&self, namespace: &Namespace, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--state-dir").arg(self.control_dir());
        processes::run(namespace, &mut command, COMMAND_WAIT)
            .map_err(|failure| Failure(format!("meshwork {}: {failure}", words.join(" "))))
    }

    fn control_dir(&self) -> PathBuf {
        self.folder.join("control-state")
    }
}

fn account(side: Side) -> &'static str {
    match side {
        Side::Outbound => CALLER,
        Side::Inbound => SERVICE,
    }
}
