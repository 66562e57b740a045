//! What is captured: the rules of nftables that lead an application's connections to its sidecar, and what goes with them.
//!
//! | file | what |
//! |---|---|
//! | `rules.rs` | a plan -> the script that `nft -f -` takes, and the one that removes it |
//! | `routes.rs` | the routes without which a connection to a virtual address fails before any rule sees it |
//! | `shown.rs` | what `nft list table` says -> sentences for people |
//!
//! Everything lies in one table of our own. A script declares, deletes and makes it in one transaction, so that it may be
//! applied twice, and nobody ever sees half of it. What is captured and cannot be led to the sidecar is refused: while
//! nobody listens on the sidecar's ports connections fail, and none goes out in clear.
//!
//! Pure. Whoever applies runs `nft` and `ip` (the binary); the original destination is the proxy's to ask for.

mod routes;
mod rules;
mod shown;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use routes::{ROUTE_PROTOCOL, Route, routes};
pub use rules::{removal, rules};
pub use shown::{sentences, tables};

/// Where captured connections are led unless told otherwise: rules and sidecar are two processes for an init container,
/// so both must know.
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
pub const DNS_PORT: u16 = 15053;

/// The mark of the sidecar's own sockets ("MW"), by which rules let them pass.
pub const MARK: u32 = 0x4d57;

/// The addresses behind which services stand, unless told otherwise.
pub fn virtual_ranges_default() -> Vec<IpNet> {
    vec![IpNet::V4(VIRTUAL_V4)]
}

/// Reserved since 1989 and routed nowhere, so that nobody's machine has one of them.
const VIRTUAL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 8);

/// What is captured, where it is led, and what passes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub table: TableName,
    pub scope: Scope,
    /// By what the sidecar is known.
    pub exempt: Exempt,
    /// Users whose processes pass by: a resolver of the machine's own, an agent.
    pub exclude_users: Vec<u32>,
    /// Outbound TCP goes to this port of loopback.
    pub outbound: u16,
    /// Inbound TCP goes to this port; `None`: as if there were no mesh.
    pub inbound: Option<u16>,
    /// Questions to any name server, UDP and TCP, go to this port of loopback; `None`: as if there were no mesh.
    pub dns: Option<u16>,
    /// Addresses that nobody has: behind each stands a service.
    pub virtual_ranges: Vec<IpNet>,
    /// Of what goes out. The networks are destinations.
    pub outgoing: Selection,
    /// Of what comes in. The networks are those of clients.
    pub incoming: Selection,
}

/// Whose traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's in this network namespace.
    Namespace,
    /// That of the processes in a cgroup v2. It must exist, as rules keep its inode: made again under the same name it
    /// is another one. Sockets that were opened before their process joined are not in it.
    Cgroup {
        path: CgroupPath,
        /// How many names the path has below the mount of cgroup v2.
        level: u32,
    },
}

/// What the sidecar's own connections have that others can't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// A mark on each socket. Setting one takes `CAP_NET_ADMIN`.
    Mark(u32),
    /// A user that nothing else runs as: for a sidecar without any capability.
    User(u32),
}

/// Which ports and networks. What is excluded is excluded; where something is included, nothing else is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub include_ports: Vec<u16>,
    pub exclude_ports: Vec<u16>,
    pub include_cidrs: Vec<IpNet>,
    pub exclude_cidrs: Vec<IpNet>,
}

/// Ours begin with `meshwork`, so that they are known among all tables of the family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName(String);

/// What begins the name of each table of ours.
const TABLE_PREFIX: &str = "meshwork";

/// nftables would take 255; names of ours are a word and some digits, and stand in a line with others.
const TABLE_NAME_BYTES_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a table of the mesh: {0:?} (want {TABLE_PREFIX}, or {TABLE_PREFIX}_ and lower-case letters, digits or _, \
     at most {TABLE_NAME_BYTES_MAX} bytes)"
)]
pub struct InvalidTableName(String);

impl TableName {
    /// The one table of a network namespace that is captured as a whole.
    pub fn of_namespace() -> Self {
        Self(TABLE_PREFIX.to_owned())
    }

    /// The same, for as long as one command runs (`meshwork run --capture=redirect`).
    pub fn of_run() -> Self {
        Self(format!("{TABLE_PREFIX}_run"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(name: &str) -> Result<Self, InvalidTableName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let rest = name.strip_prefix(TABLE_PREFIX);
        let ours = rest.is_some_and(|rest| rest.is_empty() || (rest.len() > 1 && rest.starts_with('_')));
        if ours && name.len() <= TABLE_NAME_BYTES_MAX && name.bytes().all(plain) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidTableName(name.to_owned()))
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As `nft` wants it: below `/sys/fs/cgroup`, on hybrid hosts with `unified/` in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the path of a cgroup for nftables: {0:?} (want names between single slashes, without quotes or control characters)"
)]
pub struct InvalidCgroupPath(String);

impl FromStr for CgroupPath {
    type Err = InvalidCgroupPath;

    fn from_str(path: &str) -> Result<Self, InvalidCgroupPath> {
        let named = path.split('/').all(|name| !["", ".", ".."].contains(&name));
        // It stands between quotes, and nft knows no way to write a quote there.
        if named && !path.contains(|c: char| c == '"' || c == '\\' || c.is_control()) {
            Ok(Self(path.to_owned()))
        } else {
            Err(InvalidCgroupPath(path.to_owned()))
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The networks of either family, as few as say the same: nft refuses a set in which one network lies in another.
fn by_family(networks: &[IpNet]) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for network in networks {
        match network {
            IpNet::V4(network) => v4.push(*network),
            IpNet::V6(network) => v6.push(*network),
        }
    }
    (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6))
}

#[cfg(test)]
mod tests;
