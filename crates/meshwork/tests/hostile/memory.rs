//! What a process holds in memory.

use rustix::process::Pid;

/// What an attack may leave behind: buffers that are kept for the next one, pages that the allocator has not given back yet.
const LEFT_KIB_MAX: u64 = 48 * 1024;

/// A process and what it held before.
pub(crate) struct Memory {
    name: &'static str,
    pid: Pid,
    before_kib: u64,
}

impl Memory {
    pub(crate) fn of(name: &'static str, pid: Pid) -> Self {
        Self { name, pid, before_kib: resident_kib(pid) }
    }

    /// Now, and at the worst moment since the process began.
    #[track_caller]
    pub(crate) fn is_bounded(&self, peak_kib_max: u64) {
        self.is_within(LEFT_KIB_MAX, peak_kib_max);
    }

    /// The same of who was made to read so much that more is left.
    #[track_caller]
    pub(crate) fn is_within(&self, left_kib_max: u64, peak_kib_max: u64) {
        let (now, peak) = (resident_kib(self.pid), peak_kib(self.pid));
        println!("{}: {} KiB before, {now} KiB after, {peak} KiB at most", self.name, self.before_kib);
        assert!(
            now <= self.before_kib + left_kib_max,
            "{} went from {} to {now} KiB",
            self.name,
            self.before_kib
        );
        assert!(
            peak <= self.before_kib + peak_kib_max,
            "{} went from {} to {peak} KiB for a while",
            self.name,
            self.before_kib
        );
    }
}

fn resident_kib(pid: Pid) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// proc(5): "high water mark".
fn peak_kib(pid: Pid) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: Pid, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("proc(5) has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
