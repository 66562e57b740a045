//! What `/proc` says about a process: CPU time, memory, children.

use std::fs;

use crate::failure::{Doing as _, Result, fail};

/// CPU seconds that these processes and all their descendants used so far.
pub(crate) fn cpu_seconds(ids: &[u32]) -> Result<f64> {
    let mut seconds = 0.0;
    for id in ids.iter().flat_map(|id| family(*id)) {
        seconds += run_nanoseconds(id)? as f64 / 1e9;
    }
    Ok(seconds)
}

/// CPU seconds of all that a measurement consists of: this process, what it started and starts, ended or not, and the kernel's
/// own threads. (`/proc/stat` would be simpler, and says a tenth of it: it counts who runs at the clock's ticks, and who is
/// woken by the same clock is gone by then.)
pub(crate) fn total_cpu_seconds() -> Result<f64> {
    let own = std::process::id();
    let Some(stat) = stat(own) else { return fail("/proc/self/stat has an unknown form") };
    // Its threads come and go, and so do its children.
    let mut nanoseconds = (stat.ticks + stat.ticks_of_children) * nanoseconds_per_tick();
    for id in family(own).into_iter().skip(1).chain(family(KERNEL_THREADS)) {
        // One may end just now: its parent has its time then.
        nanoseconds += run_nanoseconds(id).unwrap_or(0);
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// `kthreadd`, the parent of all threads of the kernel.
const KERNEL_THREADS: u32 = 2;

fn nanoseconds_per_tick() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second()
}

/// Resident MiB of a process and all its descendants.
pub(crate) fn resident_mib(id: u32) -> Result<f64> {
    let mut kib = 0;
    for id in family(id) {
        let path = format!("/proc/{id}/status");
        let text = fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        kib += resident_kib(&text);
    }
    Ok(kib as f64 / 1024.0)
}

/// A process and its descendants. nginx does its work in a child.
pub(crate) fn family(id: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all().into_iter().filter_map(|id| Some((id, stat(id)?.parent))).collect();
    let mut family = vec![id];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    family
}

/// One that has ended and waits to be reaped counts as gone.
pub(crate) fn is_alive(id: u32) -> bool {
    stat(id).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn stat(id: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// What all threads ran, in nanoseconds where the kernel says them; else in its ticks, as `utime` and `stime`.
fn run_nanoseconds(id: u32) -> Result<u64> {
    let folder = format!("/proc/{id}/task");
    let tasks = fs::read_dir(&folder).doing(|| format!("reading {folder}"))?;
    let each = tasks.flatten().map(|task| fs::read_to_string(task.path().join("schedstat")));
    let each: Option<Vec<u64>> = each.map(|text| run_of_schedstat(&text.ok()?)).collect();
    match each {
        Some(nanoseconds) => Ok(nanoseconds.into_iter().sum()),
        None => match stat(id) {
            Some(stat) => Ok(stat.ticks * nanoseconds_per_tick()),
            None => fail(format!("process {id} ended while it was measured")),
        },
    }
}

/// The first number is the time spent on a CPU.
fn run_of_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn resident_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    /// `utime` and `stime`.
    ticks: u64,
    /// `cutime` and `cstime`: of those that have ended and were waited for.
    ticks_of_children: u64,
}

impl Stat {
    /// The command's name stands in brackets and may hold blanks and brackets itself.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(1)?).ok()?,
            ticks: number(11)? + number(12)?,
            ticks_of_children: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_nothing() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 2 0 100";
        assert_eq!(
            Stat::parse(text),
            Some(Stat { state: 'S', parent: 7, ticks: 300, ticks_of_children: 18 })
        );
        assert_eq!(Stat::parse("42 (cut"), None);
    }

    #[test]
    fn memory_and_run_time_are_found() {
        assert_eq!(resident_kib("VmHWM:\t  9 kB\nVmRSS:\t  12345 kB\nThreads:\t2"), 12_345);
        assert_eq!(run_of_schedstat("98717 73178 2\n"), Some(98_717));
        assert_eq!(run_of_schedstat(""), None);
    }

    #[test]
    fn we_are_alive_and_use_cpu_and_memory() {
        let own = std::process::id();
        assert!(is_alive(own) && family(own).contains(&own));
        assert!(cpu_seconds(&[own]).unwrap() > 0.0);
        assert!(resident_mib(own).unwrap() > 0.5);
        assert!(!is_alive(u32::MAX));
    }
}
