//! Resources as operators write them: which kinds there are, how a document becomes one, how one is kept
//! and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::document::{self, Flaw, Node, Value};
use crate::store::Key;
use crate::time::rfc3339;

/// The kinds that the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Service,
    Workload,
    HttpRoute,
    MeshConfig,
}

/// A document that names what it is. Its `spec` was read once, so that it is right in itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The operator knows the resource as of this version and wants to change no other.
    pub(crate) resource_version: Option<u64>,
    pub(crate) manifest: Json,
    /// Where it was written.
    pub(crate) node: Node,
}

/// A resource as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Seconds since the epoch.
    pub(crate) created: u64,
    /// Without what the store itself knows: version and times.
    pub(crate) manifest: Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    #[allow(dead_code)] // read to be judged; kept in `manifest`
    labels: BTreeMap<String, String>,
    #[serde(default)]
    #[allow(dead_code)]
    annotations: BTreeMap<String, String>,
    resource_version: Option<String>,
    #[allow(dead_code)] // accepted, since `get` writes it; the store's own counts
    creation_timestamp: Option<String>,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Service, Self::Workload, Self::HttpRoute, Self::MeshConfig];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Workload => "Workload",
            Self::HttpRoute => "HTTPRoute",
            Self::MeshConfig => "MeshConfig",
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Workload => "workloads",
            Self::HttpRoute => "httproutes",
            Self::MeshConfig => "meshconfigs",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::HttpRoute => "gateway.networking.k8s.io/v1",
            Self::Workload | Self::MeshConfig => "meshwork.dev/v1alpha1",
        }
    }

    /// `services`, `service`, `Service`: as people type it.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| word == kind.plural() || word == kind.name().to_ascii_lowercase())
    }
}

impl Document {
    /// `namespace`: where a document goes that names none.
    pub(crate) fn read(node: Node, namespace: &str) -> Result<Self, Flaw> {
        let kind = kind_of(&node)?;
        for entry in node.entries() {
            if !["apiVersion", "kind", "metadata", "spec"].contains(&entry.key.as_str()) {
                let known = "apiVersion, kind, metadata, spec";
                return Err(Flaw::at(
                    format!("unknown field `{}`; known here: {known}", entry.key),
                    entry.place,
                ));
            }
        }
        let metadata = node.entry("metadata").ok_or_else(|| {
            Flaw::at("field `metadata` is missing; a resource has at least metadata.name", node.place)
        })?;
        let metadata: Metadata = document::read(&metadata.value)?;
        let resource_version = match metadata.resource_version.as_deref() {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let place = node.place_of("metadata.resourceVersion");
                Flaw::at(format!("{text:?} is no resourceVersion of this store; leave the field out"), place)
            })?),
        };
        let namespace = metadata.namespace.unwrap_or_else(|| namespace.to_owned());
        let mut manifest = node.to_json();
        manifest["metadata"]["namespace"] = json!(namespace);
        for own in ["resourceVersion", "creationTimestamp"] {
            if let Some(metadata) = manifest["metadata"].as_object_mut() {
                metadata.remove(own);
            }
        }
        Ok(Self { kind, namespace, name: metadata.name, resource_version, manifest, node })
    }

    pub(crate) fn key(&self) -> Key {
        Key::intent(self.kind.name(), &self.namespace, &self.name)
    }
}

fn kind_of(node: &Node) -> Result<Kind, Flaw> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(Flaw::at("a resource is a map with apiVersion, kind, metadata and spec", node.place));
    }
    let missing =
        |field: &str| Flaw::at(format!("field `{field}` is missing or no text"), node.place_of(field));
    let api_version = node.text("apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let name = node.text("kind").ok_or_else(|| missing("kind"))?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let known = Kind::ALL.map(Kind::name).join(", ");
        let message = format!("unknown kind {name:?}; this version knows {known}");
        return Err(Flaw::at(message, node.place_of("kind")));
    };
    if api_version != kind.api_version() {
        let message = format!("{name} has apiVersion {}, not {api_version:?}", kind.api_version());
        return Err(Flaw::at(message, node.place_of("apiVersion")));
    }
    Ok(kind)
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Maps with text keys and numbers always encode.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// As it is shown: with its version and time.
    pub(crate) fn show(self, revision: u64) -> Json {
        let mut manifest = self.manifest;
        if let Some(metadata) = manifest["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), json!(revision.to_string()));
            metadata.insert("creationTimestamp".to_owned(), json!(rfc3339(self.created)));
        }
        manifest
    }
}
