//! What the control plane is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use meshwork_core::virtual_address::VirtualRange;

use crate::server::STRANGER_MAX;

/// `control` with no flag listens here.
const PORT_DEFAULT: u16 = 4190;

/// Revisions in the change log, each with what it changed, as it was and as it is: minutes of a busy mesh, in which a watch
/// may be away. The file is some 20 MiB larger for it, the memory is not.
const CHANGES_KEPT_MAX: u64 = 10_000;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Store and operator socket; made 0700 if it is not there.
    pub state_dir: PathBuf,
    /// The TLS port. Port 0: one of the kernel's choice.
    pub listen: SocketAddr,
    /// DNS names or IP addresses that sidecars reach the control plane by; the first goes into join tokens.
    /// None: the address it listens on.
    pub names: Vec<String>,
    pub trust_domain: String,
    /// How long a sidecar may be silent before its endpoints count as unhealthy.
    pub lease: Duration,
    /// How long an endpoint whose lease lapsed is kept before it is removed. Long enough for a machine to
    /// come back, short enough that what is gone does not stay on lists for a day.
    pub lapsed_kept: Duration,
    /// How long a drain waits for the callers' sidecars to confirm that they know.
    pub withdrawal: Duration,
    /// How often clients without a sidecar report their load.
    pub load_interval: Duration,
    /// Where services' virtual IPv4 addresses are. With another one than before, every service gets another address.
    pub virtual_range: VirtualRange,
    /// Revisions that the change log keeps. A watch that is further behind is told 410 and lists again.
    pub changes_kept: u64,
    /// How long a connection is kept that proves itself in no way.
    pub stranger_max: Duration,
}

impl Settings {
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT)),
            names: Vec::new(),
            trust_domain: "mesh.local".to_owned(),
            lease: Duration::from_secs(15),
            lapsed_kept: Duration::from_secs(600),
            withdrawal: Duration::from_secs(5),
            // A thousand clients cost a hundred messages a second.
            load_interval: Duration::from_secs(10),
            virtual_range: VirtualRange::default(),
            changes_kept: CHANGES_KEPT_MAX,
            stranger_max: STRANGER_MAX,
        }
    }
}
