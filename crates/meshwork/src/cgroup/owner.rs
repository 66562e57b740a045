//! Who made something that outlives its maker: a cgroup, a table of rules. Its name says it, so that whoever finds it knows
//! whether its maker still lives, and nobody has to keep a list.
//!
//! A process ID is given again, one with its start is not, as long as the machine runs; and what is named so does not
//! outlast the machine. Process IDs of another namespace mean nothing here: what they made is left alone. The network
//! namespace is named, too, as rules hold in one only.

use std::fs;
use std::io;
use std::str::FromStr;

use meshwork_core::capture::{InvalidTableName, TableName};

/// What begins each name.
const PREFIX: &str = "meshwork";

/// A process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The inodes of the namespaces in which the process has its ID, and its network.
    pids: u64,
    network: u64,
    pid: u32,
    /// In the kernel's ticks after the machine's.
    started: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Alive,
    Gone,
    /// Of another namespace.
    Unknown,
}

impl Owner {
    /// This process.
    pub(crate) fn this() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat has an unknown form");
        let (_, started) = state(&stat).ok_or_else(odd)?;
        Ok(Self {
            pids: own_namespace("pid")?,
            network: own_namespace("net")?,
            pid: std::process::id(),
            started,
        })
    }

    /// The name of what it makes: of its table, and of its cgroup.
    pub(crate) fn name(&self) -> String {
        format!("{PREFIX}_{}_{}_{}_{}", self.pids, self.network, self.pid, self.started)
    }

    pub(crate) fn table(&self) -> Result<TableName, InvalidTableName> {
        self.name().parse()
    }

    /// Who made what is named so; `None`: it is nobody's of whom a name tells.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(PREFIX)?.strip_prefix('_')?.split('_').map(u64::from_str);
        let mut next = || numbers.next()?.ok();
        let (pids, network, pid, started) = (next()?, next()?, next()?, next()?);
        let owner = Self { pids, network, pid: u32::try_from(pid).ok()?, started };
        (owner.name() == name).then_some(owner)
    }

    pub(crate) fn standing(&self) -> Standing {
        match own_namespace("pid") {
            Ok(pids) if pids == self.pids => {
                let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
                self.judged_by(&stat)
            }
            _ => Standing::Unknown,
        }
    }

    /// Whether its rules, if there are any, hold for this process.
    pub(crate) fn is_of_this_network(&self) -> bool {
        own_namespace("net").is_ok_and(|network| network == self.network)
    }

    /// By `/proc/PID/stat`, or by nothing if there is no such process.
    fn judged_by(&self, stat: &str) -> Standing {
        match state(stat) {
            // A zombie holds nothing and does nothing.
            Some((state, started)) if started == self.started && !['Z', 'X'].contains(&state) => {
                Standing::Alive
            }
            _ => Standing::Gone,
        }
    }
}

/// The link says `pid:[4026531836]`.
fn own_namespace(kind: &str) -> io::Result<u64> {
    let path = format!("/proc/self/ns/{kind}");
    let link = fs::read_link(&path)?;
    let text = link.to_str().and_then(|text| text.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']'));
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} has an unknown form")))
}

/// The third and the twenty-second field of proc_pid_stat(5). The second is a name that may hold anything.
fn state(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner =
        Owner { pids: 4_026_531_836, network: 4_026_531_840, pid: 4711, started: 987_654_321 };

    #[test]
    fn a_name_says_who_made_it() {
        let name = "meshwork_4026531836_4026531840_4711_987654321";
        assert_eq!((OWNER.name().as_str(), Owner::of(name)), (name, Some(OWNER)));
        assert_eq!(OWNER.table().unwrap().as_str(), name);
        for other in [
            "meshwork",
            "meshwork_1_2_3",
            "meshwork_1_2_3_4_5",
            "meshwork_1_2_3_x",
            "meshwork_1_02_3_4",
            "other_1_2_3_4",
        ] {
            assert_eq!(Owner::of(other), None, "{other}");
        }
    }

    #[test]
    fn the_longest_name_is_one_of_a_table() {
        let inode = u64::from(u32::MAX);
        let owner = Owner { pids: inode, network: inode, pid: 4_194_304, started: u64::MAX };
        assert_eq!(owner.table().unwrap().as_str(), owner.name());
    }

    #[test]
    fn this_process_lives_and_others_do_not() {
        let this = Owner::this().unwrap();
        assert_eq!(this.standing(), Standing::Alive);
        assert_eq!(Owner { started: this.started + 1, ..this }.standing(), Standing::Gone);
        assert_eq!(Owner { pids: 1, ..this }.standing(), Standing::Unknown);
        assert!(this.is_of_this_network() && !Owner { network: 1, ..this }.is_of_this_network());
    }

    #[test]
    fn whoever_ended_is_gone_though_nobody_has_asked_how() {
        let stat = |state: char, started: u64| {
            format!("4711 (a) R (b)) {state} 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0")
        };
        assert_eq!(OWNER.judged_by(&stat('S', 987_654_321)), Standing::Alive);
        assert_eq!(OWNER.judged_by(&stat('Z', 987_654_321)), Standing::Gone);
        assert_eq!(OWNER.judged_by(&stat('S', 1)), Standing::Gone);
        assert_eq!(OWNER.judged_by(""), Standing::Gone);
    }
}
