//! One child of the demo: started in its own process group with its own log, ended by its own PID.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::BoxError;
use crate::descriptors;

/// How long a child may take to end by itself: a drain (5 s for the acks, and what runs) and then its command.
const END_MAX: Duration = Duration::from_secs(20);

/// Read from a log's end to say why a child ended.
const LOG_TAIL_BYTES: u64 = 4_096;

#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Our own binary with these arguments; both outputs go to `log`.
    pub(super) fn start(name: &str, args: &[String], log: &Path) -> Result<Self, BoxError> {
        let exe = std::env::current_exe()?;
        let output = File::create(log)?;
        let mut command = Command::new(exe);
        command.args(args);
        // Only what the demo says counts, whatever this shell has set for other meshes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours_or_a_proxy(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C is for the demo, which ends its children in order.
        command.process_group(0);
        descriptors::prepare(&mut command, Vec::new());
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// An error that says why, if it has ended.
    pub(super) fn check_running(&mut self) -> Result<(), BoxError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.obituary(status).into()),
        }
    }

    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// From one moment to the next; its own children die with it.
    pub(super) async fn kill(mut self) -> Result<(), BoxError> {
        Ok(self.child.kill().await?)
    }

    /// Waits for its end; past the bound it is killed, which is an error.
    pub(super) async fn ended(mut self) -> Result<ExitStatus, BoxError> {
        match timeout(END_MAX, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child.kill().await?;
                Err(format!("{} did not end within {} s and was killed", self.name, END_MAX.as_secs()).into())
            }
        }
    }

    /// Its PID is its own until it has been waited for.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended just now; then there is nothing to signal.
            let _ = kill_process(pid, signal);
        }
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let last = tail(&self.log).unwrap_or_default();
        let last = last.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        format!("{} ended ({status}): {last}", self.name)
    }
}

fn is_ours_or_a_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("meshwork_") || name.ends_with("_proxy")
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
