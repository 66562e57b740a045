//! How the kernel schedules a sidecar's threads. One of three files with `unsafe`.
//!
//! **Workers.** A request wakes each sidecar twice, for some ten microseconds. A task that wakes is by default put in
//! front of the one that woke it, in the middle of its work: client, sidecars and application on a few cores then
//! interrupt each other with every request, and each interruption is paid for. SCHED_BATCH says not to: who woke us
//! finishes first. On two cores at 2,000 requests/s that is a third of the CPU time of a sidecar, and a fifth of the
//! latency (docs/performance.md); where a core is idle, it changes nothing.
//!
//! **Long work.** Who wakes on a core where a large config is being applied would wait for the end of a slice, some
//! milliseconds. A lower weight alone changes little. SCHED_IDLE is interrupted by everybody at once, and the kernel
//! takes its core for an idle one.
#![allow(unsafe_code)]

use std::io;

/// For the calling thread and those that it starts from now on; call it before there are others.
pub fn let_others_finish() -> io::Result<()> {
    set(libc::SCHED_BATCH)
}

/// For the calling thread, for good: without privileges no thread leaves this policy (sched(7)).
pub fn run_when_idle() -> io::Result<()> {
    set(libc::SCHED_IDLE)
}

fn set(policy: libc::c_int) -> io::Result<()> {
    let plain = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_setscheduler(2) reads the structure during the call and keeps nothing of it; 0 is the calling
    // thread, and no right is needed for a policy that only gives way.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const plain) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread's.
#[cfg(test)]
pub(crate) fn policy() -> libc::c_int {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[39].parse().unwrap() // proc(5): policy is field 41
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_inherit_it() {
        let inherited = std::thread::spawn(move || {
            let_others_finish().unwrap();
            (policy(), std::thread::spawn(policy).join().unwrap())
        });
        assert_eq!(inherited.join().unwrap(), (libc::SCHED_BATCH, libc::SCHED_BATCH));
    }
}
