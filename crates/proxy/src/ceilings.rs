//! What the sidecar as a whole may have: memory, and clients. Past it new requests are refused at once, and what runs
//! goes on; it recovers by itself.
//!
//! Memory is what the kernel counts (resident set), measured by the first worker's tick: once a second, and ten times
//! as often near the ceiling. Requests read one flag. Who is let in with how many clients is `listen.rs`, who has to go
//! `clients.rs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshwork_core::limit::{self, Pressure};
use rustix::process::{Resource, getrlimit};

use crate::failure::Failure;
use crate::settings::Settings;
use crate::telemetry::{Event, Gauge, Registry};
use crate::worker::TICK_INTERVAL;

/// Near the ceiling: at a gigabit a second, 12 MB come between two looks.
const NEAR_INTERVAL: Duration = Duration::from_millis(100);

/// Descriptors, if the system names no limit: what Linux allows a process by default (`fs.nr_open`).
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// If not even the machine's memory can be read: no sidecar needs so much.
const MEMORY_UNKNOWN: u64 = 8 << 30;

pub(crate) struct Ceilings {
    pub(crate) memory: Memory,
    /// Clients that one worker may have.
    pub(crate) clients_max: usize,
    /// Of them, those that have said nothing yet, and wait for servers that have not either.
    pub(crate) silent_max: usize,
}

impl Ceilings {
    pub(crate) fn new(settings: &Settings) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX);
        Self {
            memory: Memory::new(settings.memory_max.unwrap_or_else(memory_max)),
            clients_max: limit::clients_max(descriptors, settings.workers),
            silent_max: limit::silent_max(descriptors, settings.workers),
        }
    }
}

pub(crate) struct Memory {
    max: u64,
    /// `None`: it can't be measured, so there is no ceiling.
    statm: Option<File>,
    pressure: AtomicU8,
}

impl Memory {
    fn new(max: u64) -> Self {
        let statm = File::open("/proc/self/statm");
        if let Err(error) = &statm {
            tracing::warn!(%error, "cannot measure the sidecar's memory, so it has no ceiling");
        }
        Self { max, statm: statm.ok(), pressure: AtomicU8::new(Pressure::default() as u8) }
    }

    /// Before anything new is taken.
    pub(crate) fn admit(&self, registry: &Registry) -> Result<(), Failure> {
        if self.pressure.load(Relaxed) != Pressure::Full as u8 {
            return Ok(());
        }
        registry.count(Event::LimitMemory);
        Err(Failure::MemoryFull { max: self.max })
    }

    /// Measures; says after how long that is due again.
    pub(crate) fn look(&self, registry: &Registry) -> Duration {
        let Some(used) = self.used() else { return TICK_INTERVAL };
        let before = [Pressure::Low, Pressure::Near, Pressure::Full]
            .into_iter()
            .find(|pressure| *pressure as u8 == self.pressure.load(Relaxed))
            .unwrap_or_default();
        let pressure = Pressure::of(before, used, self.max);
        self.pressure.store(pressure as u8, Relaxed);
        registry.set(Gauge::MemoryUsed, i64::try_from(used).unwrap_or(i64::MAX));
        registry.set(Gauge::MemoryMax, i64::try_from(self.max).unwrap_or(i64::MAX));
        let max = self.max;
        match (before == Pressure::Full, pressure == Pressure::Full) {
            (false, true) => {
                tracing::warn!(used, max, "the memory ceiling is reached: new requests are refused")
            }
            (true, false) => {
                tracing::info!(used, max, "memory is below its ceiling again: requests are taken")
            }
            (false, false) | (true, true) => {}
        }
        match pressure {
            Pressure::Low => TICK_INTERVAL,
            Pressure::Near | Pressure::Full => NEAR_INTERVAL,
        }
    }

    /// Bytes that are resident.
    fn used(&self) -> Option<u64> {
        let mut text = [0; 128];
        let count = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        // proc(5): size, resident, shared … in pages.
        let resident = std::str::from_utf8(&text[..count]).ok()?.split_ascii_whitespace().nth(1)?;
        Some(resident.parse::<u64>().ok()? * rustix::param::page_size() as u64)
    }
}

/// The ceiling if nobody named one.
fn memory_max() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    limit::memory_max(machine.unwrap_or(MEMORY_UNKNOWN), cgroup_max())
}

/// proc(5): `MemTotal:  16316764 kB`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
}

/// The least limit of the cgroups (version 2) that hold this process. One inside a container sees its own as the root.
fn cgroup_max() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let limits = Path::new(&path).ancestors().filter_map(|group| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok() // `max`: none
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_of_a_machine_that_has_more() {
        let used = Memory::new(1).used().unwrap();
        let machine = total(&fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(used > 1 << 20 && used < machine, "{used} of {machine}");
        assert!(memory_max() <= machine / 2);
    }

    #[test]
    fn a_ceiling_is_reached_and_left() {
        let registry = Registry::new("default/web".to_owned());
        let roomy = Memory::new(u64::MAX);
        assert_eq!(roomy.look(&registry), TICK_INTERVAL);
        assert!(roomy.admit(&registry).is_ok());
        let tight = Memory::new(1);
        assert!(tight.admit(&registry).is_ok(), "nobody looked yet");
        assert_eq!(tight.look(&registry), NEAR_INTERVAL);
        assert!(tight.admit(&registry).is_err());
        assert_eq!(registry.counted(Event::LimitMemory), 1);
    }
}
