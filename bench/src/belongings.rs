//! What this run made on the machine: processes and namespaces. All of it goes again, also on Ctrl-C.
//!
//! Whoever starts a process or makes a namespace enters it here and takes it out when it is gone. A thread waits for
//! SIGINT and SIGTERM; it keeps the list locked from then on, so that nothing new can begin, ends what is in it, each
//! process by its own number, and leaves with 130.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Doing as _, Result};
use crate::process_files;

/// How long a process may take to end by itself. A sidecar that drains waits up to 5 s for confirmations.
pub(crate) const END_WAIT: Duration = Duration::from_secs(7);

/// How long those get that must go because somebody pressed Ctrl-C.
const INTERRUPTED_WAIT: Duration = Duration::from_millis(1_500);

static BELONGINGS: Mutex<Belongings> = Mutex::new(Belongings::new());

pub(crate) struct Belongings {
    pub(crate) processes: BTreeSet<u32>,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) folder: Option<PathBuf>,
}

impl Belongings {
    const fn new() -> Self {
        Self { processes: BTreeSet::new(), namespaces: BTreeSet::new(), folder: None }
    }
}

pub(crate) fn lock() -> MutexGuard<'static, Belongings> {
    BELONGINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that cleans up when somebody ends us.
pub(crate) fn clean_up_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.doing(|| "a runtime for signals".to_owned())?;
    let listening = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    });
    let (mut interrupt, mut terminate) = listening.doing(|| "listening for signals".to_owned())?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("\ninterrupted: ending what was started ...");
        let mut belongings = lock();
        end_all(&mut belongings);
        std::process::exit(130);
    });
    Ok(())
}

fn end_all(belongings: &mut Belongings) {
    let mut ids: BTreeSet<u32> = BTreeSet::new();
    for id in &belongings.processes {
        ids.extend(process_files::family(*id));
    }
    // Parents first: they end their children in order.
    belongings.processes.iter().for_each(|id| tell(*id, Signal::TERM));
    let deadline = Instant::now() + INTERRUPTED_WAIT;
    while ids.iter().any(|id| process_files::is_alive(*id)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    ids.iter().filter(|id| process_files::is_alive(**id)).for_each(|id| tell(*id, Signal::KILL));
    belongings.namespaces.iter().for_each(|name| remove_namespace(name));
    if let Some(folder) = &belongings.folder {
        let _ = fs::remove_dir_all(folder);
    }
}

pub(crate) fn tell(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
}

pub(crate) fn remove_namespace(name: &str) {
    let removed = Command::new("ip").args(["netns", "del", name]).output();
    if !removed.is_ok_and(|output| output.status.success()) {
        eprintln!("the namespace {name} could not be removed: `ip netns del {name}` does it");
    }
}
