//! `meshwork.dev/v1alpha1` `MeshConfig`: settings of the whole mesh; one document, named `default`.

use serde::{Deserialize, Serialize};

use super::{Duration, Kind, Spec, or_default};
use crate::model::{AccessLog, MtlsMode, Unknown};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// Left out: `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// How long a leaf certificate lives; left out, `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_ttl: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Outbound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,
}

/// What applications send that a sidecar captures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// What becomes of what no service of the mesh claims; left out: `passthrough`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// Namespaces in which it is otherwise.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceOutbound>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceOutbound {
    pub name: String,
    pub unknown: Unknown,
}

/// What comes for applications.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Left out: `strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
}

impl Spec for MeshConfigSpec {
    const KIND: Kind = Kind::MeshConfig;
}
