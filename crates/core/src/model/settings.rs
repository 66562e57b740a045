//! What an operator sets for the whole mesh, and the words for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The name of the one `MeshConfig`, and of the resource `MeshSettings`.
pub const SETTINGS_NAME: &str = "default";

/// `meshwork.dev/v1alpha1` `MeshConfig`, one per mesh, named `default`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    pub access_log: AccessLog,
    /// How long a leaf certificate lives; default 24 h.
    pub leaf_ttl: Duration,
    /// What becomes of captured traffic that no service claims.
    pub unknown: UnknownDestinations,
    /// Whether plaintext is taken, where no service says otherwise.
    pub inbound: MtlsMode,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            access_log: AccessLog::Off,
            leaf_ttl: Duration::from_secs(24 * 3600),
            unknown: UnknownDestinations::default(),
            inbound: MtlsMode::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    #[default]
    Off,
    /// What failed: status 500 and above, and whatever the mesh itself answered.
    Errors,
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// Only mTLS from the mesh.
    #[default]
    Strict,
    /// Plaintext is taken too, and counted.
    Permissive,
}

/// What becomes of captured traffic that no service of the mesh claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnknownDestinations {
    pub default: Unknown,
    /// By the caller's namespace.
    pub namespaces: BTreeMap<String, Unknown>,
}

impl UnknownDestinations {
    pub fn of(&self, namespace: &str) -> Unknown {
        self.namespaces.get(namespace).copied().unwrap_or(self.default)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Carried to where it was going.
    #[default]
    Passthrough,
    Deny,
}
