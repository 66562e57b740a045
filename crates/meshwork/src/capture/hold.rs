//! What a run captures, from its start to its end: its command's cgroup or its network namespace, with rules and routes for it.
//!
//! A cgroup comes before its rules, as they keep its inode, and is empty until the command starts. At the end it goes first,
//! with whatever the command left running in it: without rules that would reach the world in clear. What is killed before
//! that is found by the next start: a cgroup and its table by their name (`cgroup/leftovers.rs`), a namespace's table as
//! nobody holds the namespace any more (`network.rs`).

use std::io;
use std::path::Path;

use ipnet::IpNet;
use meshwork_core::capture::{self, Exempt, InvalidTableName, MARK, Plan, Scope, Selection, TableName};

use super::kernel::{self, KernelError};
use super::network::{self, Claim, NetworkError};
use crate::cgroup::{self, Cgroup, CgroupError, Owner};
use crate::listeners::Ports;
use crate::supervisor::orphans;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error("cannot tell when this process began: {0}; is /proc mounted?")]
    Owner(io::Error),
    #[error("cannot become the parent of what the command leaves behind: {0}")]
    Orphans(io::Error),
    #[error(transparent)]
    Name(#[from] InvalidTableName),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Whose connections.
#[derive(Debug)]
enum Held {
    Cgroup(Cgroup),
    Network { _claim: Claim },
}

/// Dropped, nothing of it is left.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Held,
    plan: Plan,
}

impl Hold {
    /// Captures an empty cgroup; its connections are led to these ports.
    pub(crate) fn take_cgroup(ports: &Ports) -> Result<Self, HoldError> {
        let owner = Owner::this().map_err(HoldError::Owner)?;
        let table = owner.table()?;
        let cgroup = Cgroup::make(&cgroup::find_place()?, &owner.name())?;
        let plan = plan(table, cgroup.scope(), ports);
        match kernel::apply(&plan) {
            // From here on it is removed, whatever happens.
            Ok(()) => Ok(Self { held: Held::Cgroup(cgroup), plan }),
            Err(error) => {
                cgroup.remove()?;
                Err(error.into())
            }
        }
    }

    /// Captures this network namespace, unless it is a host's own or somebody else's.
    pub(crate) fn take_network(ports: &Ports) -> Result<Self, HoldError> {
        if network::is_the_hosts() {
            return Err(NetworkError::Hosts.into());
        }
        let claim = Claim::try_take()?.ok_or(NetworkError::Taken)?;
        if kernel::tables()?.contains(&TableName::of_namespace()) {
            return Err(NetworkError::Applied.into());
        }
        orphans::adopt().map_err(HoldError::Orphans)?;
        let plan = plan(TableName::of_run(), Scope::Namespace, ports);
        kernel::apply(&plan)?;
        Ok(Self { held: Held::Network { _claim: claim }, plan })
    }

    /// What the command has to join; in a captured namespace it is already.
    pub(crate) fn cgroup(&self) -> Option<&Path> {
        match &self.held {
            Held::Cgroup(cgroup) => Some(cgroup.path()),
            Held::Network { .. } => None,
        }
    }

    pub(crate) fn virtual_ranges(&self) -> &[IpNet] {
        &self.plan.virtual_ranges
    }

    /// The ranges that the mesh really has, once the sidecar knows them.
    pub(crate) fn lead(&self, virtual_ranges: &[IpNet]) -> Result<(), KernelError> {
        if virtual_ranges.is_empty() || virtual_ranges == self.plan.virtual_ranges {
            return Ok(());
        }
        kernel::apply(&Plan { virtual_ranges: virtual_ranges.to_vec(), ..self.plan.clone() })
    }
}

fn plan(table: TableName, scope: Scope, ports: &Ports) -> Plan {
    Plan {
        table,
        scope,
        exempt: Exempt::Mark(MARK),
        exclude_users: Vec::new(),
        outbound: ports.outbound,
        inbound: Some(ports.inbound),
        dns: Some(ports.dns),
        virtual_ranges: capture::virtual_ranges_default(),
        outgoing: Selection::default(),
        incoming: Selection::default(),
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let emptied = match &self.held {
            Held::Cgroup(cgroup) => cgroup.remove().map_err(HoldError::Cgroup),
            Held::Network { .. } => {
                orphans::end();
                Ok(())
            }
        };
        // What still runs stays captured.
        let removed = emptied.and_then(|()| Ok(kernel::remove(&self.plan.table)?));
        if let Err(error) = removed {
            tracing::warn!(
                "something of the capture stays until the next start, or `meshwork capture remove`: {error}"
            );
        }
    }
}
