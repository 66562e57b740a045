//! `meshwork.dev/v1alpha1` `MeshConfig`: settings of the whole mesh; one document, named `default`.

use serde::{Deserialize, Serialize};

use super::{Duration, Kind, Spec};
use crate::model::AccessLog;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// Left out: `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// How long a leaf certificate lives; left out, `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_ttl: Option<Duration>,
}

impl Spec for MeshConfigSpec {
    const KIND: Kind = Kind::MeshConfig;
}
