//! What a run captures, from its start to its end: a cgroup for its command, and rules and routes for the cgroup.
//!
//! The cgroup comes first, as rules keep its inode, and is empty until the command starts. At the end it goes first, with
//! whatever the command left running in it: without rules that would reach the world in clear. What is killed before
//! that is found by the next start, by its name (`cgroup/leftovers.rs`).

use std::io;

use ipnet::IpNet;
use meshwork_core::capture::{self, Exempt, InvalidTableName, MARK, Plan, Selection};

use super::kernel::{self, KernelError};
use crate::cgroup::{self, Cgroup, CgroupError, Owner};
use crate::listeners::Ports;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error("cannot tell when this process began: {0}; is /proc mounted?")]
    Owner(io::Error),
    #[error(transparent)]
    Name(#[from] InvalidTableName),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Dropped, nothing of it is left.
#[derive(Debug)]
pub(crate) struct Hold {
    cgroup: Cgroup,
    plan: Plan,
}

impl Hold {
    /// Captures an empty cgroup; its connections are led to these ports.
    pub(crate) fn take(ports: &Ports) -> Result<Self, HoldError> {
        let owner = Owner::this().map_err(HoldError::Owner)?;
        let table = owner.table()?;
        let cgroup = Cgroup::make(&cgroup::find_place()?, &owner.name())?;
        let plan = Plan {
            table,
            scope: cgroup.scope(),
            exempt: Exempt::Mark(MARK),
            exclude_users: Vec::new(),
            outbound: ports.outbound,
            inbound: Some(ports.inbound),
            dns: Some(ports.dns),
            virtual_ranges: capture::virtual_ranges_default(),
            outgoing: Selection::default(),
            incoming: Selection::default(),
        };
        match kernel::apply(&plan) {
            // From here on it is removed, whatever happens.
            Ok(()) => Ok(Self { cgroup, plan }),
            Err(error) => {
                cgroup.remove()?;
                Err(error.into())
            }
        }
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
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

impl Drop for Hold {
    fn drop(&mut self) {
        let removed = self.cgroup.remove().map_err(HoldError::Cgroup);
        // What still runs stays captured.
        let removed = removed.and_then(|()| Ok(kernel::remove(&self.plan.table)?));
        if let Err(error) = removed {
            tracing::warn!(
                "something of the capture stays until the next start, or `meshwork capture remove`: {error}"
            );
        }
    }
}
