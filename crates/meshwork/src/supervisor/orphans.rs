//! What the command has started and left: processes whose own parent is gone.
//!
//! Where a cgroup is captured, it is what ends them. Where a network namespace is, they come to this process, as in a
//! container in which it is the first one anyway: it forgets those that end, and ends the others when the run does, before its
//! rules go. Else they would reach the world in clear.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

/// Killed processes are gone at once but for those that wait for a disk or a network file system.
const END_MAX: Duration = Duration::from_secs(5);

/// Between two looks at who is left: a killed process is gone within this, mostly.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// From now on whoever loses its parent below this process is this process's child.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Forgets those that have ended. `known`: children of our own, whom somebody else waits for.
pub(super) fn forget(known: &[Option<u32>]) {
    for pid in children() {
        if !known.contains(&u32::try_from(pid.as_raw_nonzero().get()).ok()) {
            // Whether it lives or was forgotten already: there is nothing to do.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Ends all children of this process, and theirs. Says so if somebody does not go.
pub(crate) fn end() {
    let deadline = Instant::now() + END_MAX;
    loop {
        let left = children();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(
                left = left.len(),
                "some of what the command started does not end, and is not captured any more"
            );
            return;
        }
        for pid in left {
            // Ended already, it is forgotten all the same.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Of all threads of this process; those that have ended and that nobody has waited for, too.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(str::parse).collect::<Vec<_>>());
    pids.filter_map(|pid| Pid::from_raw(pid.ok()?)).collect()
}
