//! Whether this machine can capture, each way tried for real: rules that the kernel checks and does not keep, a cgroup that is
//! gone again. `run` chooses by it, `meshwork check` tells it.

use meshwork_core::capture::{self, Exempt, MARK, Plan, Scope, Selection, TableName};
use rustix::thread::{CapabilitySet, capabilities};

use super::choice::Way;
use super::hold::HoldError;
use super::kernel::{self, KernelError};
use super::network::{self, NetworkError};
use crate::cgroup::{self, Cgroup, Owner};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Inability {
    #[error("this is not root, and only root can make rules")]
    NotRoot,
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Whether one command's connections can be led to a sidecar: root, cgroup v2, a kernel that knows `socket cgroupv2`.
pub(crate) fn cgroup() -> Result<(), Inability> {
    if !rustix::process::geteuid().is_root() {
        return Err(Inability::NotRoot);
    }
    let owner = Owner::this().map_err(HoldError::Owner)?;
    // No rule keeps this one, so the same name may be used again. Whoever is killed here is cleared up after by it.
    let place = cgroup::find_place().map_err(HoldError::Cgroup)?;
    let made = Cgroup::make(&place, &owner.name()).map_err(HoldError::Cgroup)?;
    let tried = kernel::try_rules(&plan(TableName::of_run(), made.scope()));
    made.remove().map_err(HoldError::Cgroup)?;
    Ok(tried?)
}

/// Whether a network namespace can be led to a sidecar, whoever's it is.
pub(crate) fn rules() -> Result<(), Inability> {
    // A capability may be all that a container gives to who is not root.
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
    if !may {
        return Err(Inability::NotRoot);
    }
    Ok(kernel::try_rules(&plan(TableName::of_namespace(), Scope::Namespace))?)
}

/// The same for a run, which leaves hosts' own namespaces alone.
pub(crate) fn redirect() -> Result<(), Inability> {
    rules()?;
    if network::is_the_hosts() { Err(NetworkError::Hosts.into()) } else { Ok(()) }
}

/// What `run` would capture by default, with the sidecar's usual ports: the rules' own sentences.
pub(crate) fn sentences(way: Way) -> Vec<String> {
    let scope = match way {
        Way::Explicit => return Vec::new(),
        Way::Redirect => Scope::Namespace,
        Way::Cgroup => match "command".parse() {
            Ok(path) => Scope::Cgroup { path, level: 1 },
            Err(_) => return Vec::new(), // it is one name without anything special
        },
    };
    capture::sentences(&capture::rules(&plan(TableName::of_run(), scope)))
}

fn plan(table: TableName, scope: Scope) -> Plan {
    Plan {
        table,
        scope,
        exempt: Exempt::Mark(MARK),
        exclude_users: Vec::new(),
        outbound: capture::OUTBOUND_PORT,
        inbound: Some(capture::INBOUND_PORT),
        dns: Some(capture::DNS_PORT),
        virtual_ranges: capture::virtual_ranges_default(),
        outgoing: Selection::default(),
        incoming: Selection::default(),
    }
}
