//! The kernel's rules in front of a captured pair: what the client opens is led to the outbound proxy, what arrives from there to
//! the inbound one. The same for whoever is behind them: those of `meshwork capture apply`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::mesh::CONTROL_PORT;
use crate::namespaces::Namespaces;
use crate::processes;

/// `nft` and `ip` are a matter of milliseconds.
const COMMAND_WAIT: Duration = Duration::from_secs(20);

/// In both namespaces. Where the client is the control plane is, too, which is none of its business.
pub(crate) fn apply(meshwork: &Path, namespaces: &Namespaces) -> Result<()> {
    let but_the_control_plane = format!("--exclude-inbound-ports={CONTROL_PORT}");
    for namespace in [&namespaces.client, &namespaces.server] {
        let mut command = Command::new(meshwork);
        command.args(["capture", "apply", &but_the_control_plane]);
        processes::run(namespace, &mut command, COMMAND_WAIT)
            .map_err(|failure| Failure(format!("meshwork capture apply: {failure}")))?;
    }
    Ok(())
}

/// For the next row, which must not pass any rule. (A run that ends with an error takes the namespaces away.)
pub(crate) fn remove(meshwork: &Path, namespaces: &Namespaces) -> Result<()> {
    for namespace in [&namespaces.client, &namespaces.server] {
        let mut command = Command::new(meshwork);
        processes::run(namespace, command.args(["capture", "remove"]), COMMAND_WAIT)
            .map_err(|failure| Failure(format!("meshwork capture remove: {failure}")))?;
    }
    Ok(())
}
