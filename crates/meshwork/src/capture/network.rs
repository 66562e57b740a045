//! This network namespace, as one run's: whether it is a host's own, and who has it.
//!
//! Rules that redirect a whole namespace capture every program there. In a container that is what is meant; in a host's own
//! namespace it would be the whole machine, with the ssh of whoever did it, so a run refuses.
//!
//! Who captures it holds a UNIX socket with an abstract name. The kernel keeps these per network namespace and forgets them
//! with their process, however that ends: whatever rules stand then are nobody's, and the next start replaces them. A
//! process ID would mean nothing to the next container of the same pod.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// In abstract names, of which `/proc/net/unix` shows those of the namespace.
const HOLDER: &str = "meshwork-capture";

/// A setting that the kernel has for the first network namespace only (`net_core_table`).
const OF_THE_FIRST: &str = "/proc/sys/net/core/netdev_max_backlog";

/// The first process namespace's inode, of every kernel since 3.8 (`PROC_PID_INIT_INO`).
const FIRST_PIDS: &str = "pid:[4026531836]";

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error(
        "this is the host's own network namespace, where rules would capture every program of the machine: use --capture=cgroup \
         for one command, run this in a container or a network namespace, or apply the rules yourself (`meshwork capture apply`, \
         with what to leave alone) and start `meshwork proxy --capture=redirect`"
    )]
    Hosts,
    #[error(
        "another run captures this network namespace already: end it first, or give one of the two a namespace of its own"
    )]
    Taken,
    #[error(
        "a `meshwork run` captures this network namespace already, and what its rules lead these would refuse: end it first, \
         or apply these in a namespace of its own"
    )]
    Run,
    #[error(
        "the rules of `meshwork capture apply` hold in this network namespace already: start `meshwork proxy --capture=redirect` \
         for them, or take them away first (`meshwork capture remove`)"
    )]
    Applied,
    #[error("cannot hold this network namespace: {0}")]
    Hold(io::Error),
}

/// This process captures the namespace, and nobody else, until it ends or drops this.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// `None`: a process that lives has it.
    pub(crate) fn try_take() -> Result<Option<Self>, NetworkError> {
        let bound =
            SocketAddr::from_abstract_name(HOLDER).and_then(|address| UnixListener::bind_addr(&address));
        match bound {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(NetworkError::Hold(error)),
        }
    }
}

/// Whether whoever is captured here is everybody on a machine.
pub(crate) fn is_the_hosts() -> bool {
    let link = |path: &str| fs::read_link(path).ok();
    // Where settings are hidden: the init of all processes has the first one, unless somebody was very inventive.
    let of_init = || {
        let first = link("/proc/self/ns/pid").is_some_and(|pids| pids == Path::new(FIRST_PIDS));
        first && link("/proc/self/ns/net").is_some_and(|own| link("/proc/1/ns/net") == Some(own))
    };
    Path::new(OF_THE_FIRST).exists() || of_init()
}
