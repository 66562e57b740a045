//! The control plane of a test's mesh: in the test's process, or in one of its own that can be killed.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use meshwork_control::{Control, Settings};

/// A running one.
pub(crate) enum Running {
    Here(Control),
    Apart(Process),
}

impl Running {
    /// `program`: `control-process`, for one in its own process.
    pub(crate) async fn start(settings: Settings, program: Option<&Path>) -> Self {
        match program {
            Some(program) => Self::Apart(Process::start(&settings, program)),
            None => match meshwork_control::start(settings).await {
                Ok(control) => Self::Here(control),
                Err(error) => panic!("the control plane cannot start: {error}"),
            },
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Here(control) => control.address(),
            Self::Apart(process) => process.address,
        }
    }

    /// In order.
    pub(crate) async fn stop(self) {
        match self {
            Self::Here(control) => control.stop().await,
            Self::Apart(mut process) => {
                drop(process.child.stdin.take());
                let ended = tokio::task::spawn_blocking(move || process.child.wait()).await;
                ended.expect("nothing panics").expect("it is our child");
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(self) {
        match self {
            Self::Here(_) => {
                panic!("only a control plane in its own process can be killed (Builder::control_apart)")
            }
            Self::Apart(process) => drop(process),
        }
    }
}

/// Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(settings: &Settings, program: &Path) -> Self {
        let spawned = Command::new(program)
            .arg(&settings.state_dir)
            .arg(settings.listen.to_string())
            .arg(settings.lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let mut said = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("it says where it listens");
        let address = said.trim().parse();
        let address = address.unwrap_or_else(|_| panic!("the control plane did not start: it said {said:?}"));
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The operators' door of a control plane with that state directory.
pub(crate) fn operator_socket(state_dir: &Path) -> PathBuf {
    state_dir.join("operator.sock")
}
