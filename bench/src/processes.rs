//! A process that we started in a namespace, and end by its own number.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::belongings::{self, END_WAIT};
use crate::failure::{Doing as _, Failure, Result, fail};
use crate::namespaces::Namespace;
use crate::process_files;

pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Where it writes.
    log: PathBuf,
}

impl Process {
    /// Starts it in its own process group: Ctrl-C in a terminal reaches us alone, and we end it in order.
    pub(crate) fn start(
        name: &'static str,
        namespace: &Namespace,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).doing(|| format!("making {}", log.display()))?;
        let errors = file.try_clone().doing(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = spawn(namespace, command).map_err(|failure| Failure(format!("{name}: {failure}")))?;
        Ok(Self { name, child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with what it last said, if it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => fail(format!("{} ended with {status}: {}", self.name, self.last_words())),
            Err(error) => fail(format!("{} can't be waited for: {error}", self.name)),
        }
    }

    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Waits until it has ended by itself or by a signal.
    fn wait_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            // Reaped and taken out of the list in one go, so that nobody signals a number that was given away since.
            let mut belongings = belongings::lock();
            if let Ok(Some(status)) = self.child.try_wait() {
                belongings.processes.remove(&self.child.id());
                return Some(status);
            }
            drop(belongings);
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = process_files::family(self.child.id());
        belongings::tell(self.child.id(), Signal::TERM);
        if self.wait_until(Instant::now() + END_WAIT).is_none() {
            family.into_iter().for_each(|id| belongings::tell(id, Signal::KILL));
            self.wait_until(Instant::now() + END_WAIT);
        }
    }
}

/// Runs a tool to its end and gives what it wrote to standard output.
pub(crate) fn run(namespace: &Namespace, command: &mut Command, most: Duration) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = spawn(namespace, command)?;
    let id = child.id();
    // Both pipes are read by `wait_with_output`; a tool that hangs is ended from beside it.
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if ended.recv_timeout(most) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            belongings::tell(id, Signal::KILL);
        }
    });
    let output = child.wait_with_output();
    drop(done);
    let _ = watch.join();
    belongings::lock().processes.remove(&id);
    let output = output.doing(|| format!("waiting for {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return fail(format!("{name} ended with {}: {said}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn spawn(namespace: &Namespace, command: &mut Command) -> Result<Child> {
    namespace.inside(|| {
        let mut belongings = belongings::lock();
        let child = command.spawn();
        let child = child.doing(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        belongings.processes.insert(child.id());
        Ok(child)
    })
}
