//! The documents that operators write, as they are written: Kubernetes' words, camelCase, and nothing that
//! this version doesn't know. An unknown field is refused by its name, where it stands.
//!
//! Reading takes two steps, so that an error points at the field and not at the document: first a `TypeMeta`
//! (which lets the rest be), then `Kind::find`, then the kind as a `DeserializeSeed` or its own struct. No
//! struct is flattened and no enum untagged, as both lose the place of an error.
//!
//! A manifest is what the store keeps and `get -o yaml` prints: what was written comes back, aside from `status` and the
//! books that Kubernetes keeps in `metadata` (accepted, so that what was printed can be applied, and ignored). What it
//! means is `validate.rs`'s.

mod duration;
mod http_route;
mod mesh_config;
mod number;
mod service;
mod traffic_policy;
mod workload;

pub use duration::{Duration, InvalidDuration};
pub use http_route::{
    BackendRef, Filter, FilterType, HeaderMatch, HeaderMatchType, HttpHeader, HttpRouteSpec, Match, Method,
    Modifier, ParentRef, Path, PathType, RetryCode, Rule, RuleRetry, RuleTimeouts,
};
pub use mesh_config::{Inbound, MeshConfigSpec, NamespaceOutbound, Outbound};
pub use service::{ClusterIp, Protocol, ServicePort, ServiceSpec, TargetPort};
pub use traffic_policy::{
    Algorithm, Budget, EndpointLimits, Hash, HashType, LoadBalancer, OutlierDetection, RequestRate,
    RetryConstraint, SlowStart, TargetRef, TrafficDistribution, TrafficLimits, TrafficPolicySpec,
    TrafficRetry, TrafficTimeouts,
};
pub use workload::{HealthCheck, HealthCheckType, Locality, WorkloadPort, WorkloadSpec};

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::Key;

/// The namespace of a document that names none.
pub const NAMESPACE_DEFAULT: &str = "default";

pub type Service = Document<ServiceSpec>;
pub type Workload = Document<WorkloadSpec>;
pub type HttpRoute = Document<HttpRouteSpec>;
pub type TrafficPolicy = Document<TrafficPolicySpec>;
pub type MeshConfig = Document<MeshConfigSpec>;

/// One document of any known kind.
#[allow(clippy::large_enum_variant)] // documents pass one at a time
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)] // for writing only: each document says its kind itself
pub enum Manifest {
    Service(Service),
    Workload(Workload),
    HttpRoute(HttpRoute),
    TrafficPolicy(TrafficPolicy),
    MeshConfig(MeshConfig),
}

/// The known kinds, in the order in which they are applied: what others refer to comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    MeshConfig,
    Service,
    Workload,
    HttpRoute,
    TrafficPolicy,
}

/// Whether a kind's names are unique in their namespace or in the whole mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespace,
    Mesh,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("unknown kind {kind:?} in apiVersion {api_version:?} (known: {known})", known = known_kinds())]
pub struct UnknownKind {
    pub api_version: String,
    pub kind: String,
}

fn known_kinds() -> String {
    let known = Kind::ALL.iter().map(|kind| format!("{} {}", kind.api_version(), kind.name()));
    known.collect::<Vec<_>>().join(", ")
}

impl Kind {
    pub const ALL: &[Self] =
        &[Self::MeshConfig, Self::Service, Self::Workload, Self::HttpRoute, Self::TrafficPolicy];

    pub fn find(api_version: &str, kind: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.iter().find(|known| known.api_version() == api_version && known.name() == kind);
        let unknown = || UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        found.copied().ok_or_else(unknown)
    }

    /// The kind that a command line or a path of the API means: its name in any case, its plural or short form.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|kind| kind.words().contains(&&*word))
    }

    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::HttpRoute => "gateway.networking.k8s.io/v1",
            Self::Workload | Self::TrafficPolicy | Self::MeshConfig => "meshwork.dev/v1alpha1",
        }
    }

    /// As `kind:` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Workload => "Workload",
            Self::HttpRoute => "HTTPRoute",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::MeshConfig => "MeshConfig",
        }
    }

    /// As paths of the API and the command line have it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Workload => "workloads",
            Self::HttpRoute => "httproutes",
            Self::TrafficPolicy => "trafficpolicies",
            Self::MeshConfig => "meshconfigs",
        }
    }

    /// Every word for it, in small letters.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["service", "services", "svc"],
            Self::Workload => &["workload", "workloads", "wl"],
            Self::HttpRoute => &["httproute", "httproutes", "route", "routes"],
            Self::TrafficPolicy => &["trafficpolicy", "trafficpolicies", "tp"],
            Self::MeshConfig => &["meshconfig", "meshconfigs", "mc"],
        }
    }

    pub const fn scope(self) -> Scope {
        match self {
            Self::Service | Self::Workload | Self::HttpRoute | Self::TrafficPolicy => Scope::Namespace,
            Self::MeshConfig => Scope::Mesh,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads a whole document of this kind.
impl<'de> DeserializeSeed<'de> for Kind {
    type Value = Manifest;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Manifest, D::Error> {
        match self {
            Self::Service => Deserialize::deserialize(deserializer).map(Manifest::Service),
            Self::Workload => Deserialize::deserialize(deserializer).map(Manifest::Workload),
            Self::HttpRoute => Deserialize::deserialize(deserializer).map(Manifest::HttpRoute),
            Self::TrafficPolicy => Deserialize::deserialize(deserializer).map(Manifest::TrafficPolicy),
            Self::MeshConfig => Deserialize::deserialize(deserializer).map(Manifest::MeshConfig),
        }
    }
}

/// The first look at a document: which kind is it?
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeMeta {
    pub api_version: String,
    pub kind: String,
}

/// What every kind has in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document<S> {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: S,
    /// Told by the control plane, never by an operator: accepted and ignored.
    #[serde(default, skip_serializing)]
    status: IgnoredAny,
}

/// A document's own part, and which kind it belongs to.
pub trait Spec {
    const KIND: Kind;
}

impl<S: Spec> Document<S> {
    pub fn new(metadata: Metadata, spec: S) -> Self {
        let (api_version, kind) = (S::KIND.api_version().to_owned(), S::KIND.name().to_owned());
        Self { api_version, kind, metadata, spec, status: IgnoredAny }
    }

    /// Namespace and name; of a kind that has no namespaces, that part is empty.
    pub fn key(&self) -> Key {
        let namespace = match S::KIND.scope() {
            Scope::Namespace => self.metadata.namespace.as_deref().unwrap_or(NAMESPACE_DEFAULT),
            Scope::Mesh => "",
        };
        Key::new(namespace, &self.metadata.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Given in a change, the change holds only for that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// RFC 3339; set by the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Kubernetes' own books of who wrote which field and where it is read: nobody's intent, accepted and ignored.
    /// `finalizers`, `ownerReferences` and `deletionTimestamp` are not among them: they say what is to become of the
    /// object, which the mesh would not do, so they are refused.
    #[serde(default, skip_serializing)]
    pub managed_fields: IgnoredAny,
    #[serde(default, skip_serializing)]
    pub self_link: IgnoredAny,
}

/// `labels:` with nothing behind it is null in YAML, and means none.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Manifest {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Workload(_) => Kind::Workload,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::MeshConfig(_) => Kind::MeshConfig,
        }
    }

    pub fn key(&self) -> Key {
        match self {
            Self::Service(document) => document.key(),
            Self::Workload(document) => document.key(),
            Self::HttpRoute(document) => document.key(),
            Self::TrafficPolicy(document) => document.key(),
            Self::MeshConfig(document) => document.key(),
        }
    }

    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Service(document) => &document.metadata,
            Self::Workload(document) => &document.metadata,
            Self::HttpRoute(document) => &document.metadata,
            Self::TrafficPolicy(document) => &document.metadata,
            Self::MeshConfig(document) => &document.metadata,
        }
    }

    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Self::Service(document) => &mut document.metadata,
            Self::Workload(document) => &mut document.metadata,
            Self::HttpRoute(document) => &mut document.metadata,
            Self::TrafficPolicy(document) => &mut document.metadata,
            Self::MeshConfig(document) => &mut document.metadata,
        }
    }
}

#[cfg(test)]
mod tests;
