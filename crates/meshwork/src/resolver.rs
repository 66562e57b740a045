//! What a captured command sees of this machine's resolver: a `resolv.conf` of its own, and none of the daemons that C
//! libraries ask past it.
//!
//! Questions by DNS are led to the sidecar by rules. What goes by a socket of nscd or systemd-resolved is no DNS, and would be
//! answered as for everybody else here. So the command gets a mount namespace in which these sockets are hidden.
//! Nothing changes for others, and it is gone with the last process that has it. What the machine mounts later is seen.
//!
//! A host that replaces its `resolv.conf` takes ours away by that; then names are still the sidecar's, but a host's search
//! domain comes first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

/// Where every C library looks.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where daemons wait that answer look-ups in the place of DNS.
const DAEMONS: [&str; 3] = ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve"];

/// On every Linux, and of no use for a moment.
const STAGE: &str = "/sys";

/// A file system in memory for some lines of text.
const MEMORY: &str = "size=64k,mode=755";

#[derive(Debug, thiserror::Error)]
#[error("cannot give the command its own view of the resolver ({what}): {source}")]
pub(crate) struct ResolverError {
    what: String,
    source: io::Error,
}

/// What the command shall see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resolver {
    pub(crate) resolv_conf: String,
}

impl Resolver {
    /// Whether this process may make mounts at all: in a container even root may not, mostly.
    pub(crate) fn is_possible() -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
    }

    /// For this process and what it starts, for good. Needs root.
    pub(crate) fn impose(&self) -> Result<(), ResolverError> {
        let failed = |what: String| move |source: io::Error| ResolverError { what, source };
        own_mounts().map_err(failed("mounts of its own".to_owned()))?;
        // A link leads where it leads now, not into what is hidden in a moment.
        let seen = fs::canonicalize(RESOLV_CONF);
        let hidden: BTreeSet<PathBuf> =
            DAEMONS.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        for folder in &hidden {
            memory_on(folder).map_err(failed(folder.display().to_string()))?;
        }
        match seen {
            Ok(path) if hidden.iter().any(|folder| path.starts_with(folder)) => {
                write(&path, &self.resolv_conf)
            }
            Ok(path) => put_over(&path, &self.resolv_conf),
            // The C library asks 127.0.0.1 then, and what it asks is led to the sidecar.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(failed(RESOLV_CONF.to_owned()))
    }
}

/// Changes of the machine arrive, ours stay here.
fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?)
}

fn memory_on(folder: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(MEMORY))?)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text)
}

/// A file that is on no disk, in the place of another one.
fn put_over(path: &Path, text: &str) -> io::Result<()> {
    memory_on(Path::new(STAGE))?;
    let file = Path::new(STAGE).join("resolv.conf");
    let none = None::<&str>;
    let put =
        fs::write(&file, text).and_then(|()| Ok(mount(Some(&file), path, none, MsFlags::MS_BIND, none)?));
    umount(STAGE)?;
    put
}
