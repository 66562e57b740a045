//! How the kernel schedules a sidecar. One of three files with `unsafe`.
//!
//! A request wakes each sidecar twice, for some ten microseconds. A task that wakes is by default put in front of the
//! one that woke it, in the middle of its work: client, sidecars and application on a few cores then interrupt each
//! other with every request, and each interruption is paid for. SCHED_BATCH says not to: who woke us finishes first.
//! On two cores at 2,000 requests/s that is a third of the CPU time of a sidecar, and a fifth of the latency
//! (docs/performance.md); where a core is idle, it changes nothing.
#![allow(unsafe_code)]

use std::io;

/// For the calling thread and those that it starts from now on; call it before there are others.
pub(crate) fn let_others_finish() -> io::Result<()> {
    let plain = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_setscheduler(2) reads the structure during the call and keeps nothing of it; 0 is the calling
    // thread, and no right is needed for a policy that only gives way.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const plain) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_inherit_it() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
            fields[39].parse::<i32>().unwrap() // proc(5): policy is field 41
        };
        let inherited = std::thread::spawn(move || {
            let_others_finish().unwrap();
            (policy(), std::thread::spawn(policy).join().unwrap())
        });
        assert_eq!(inherited.join().unwrap(), (libc::SCHED_BATCH, libc::SCHED_BATCH));
    }
}
