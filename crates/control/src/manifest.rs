//! A document on its way in and out: text's tree -> judged manifest -> what the store keeps -> what is shown.
//!
//! What a manifest may hold is `core::manifest`'s, what it means `core::validate`'s; here it gets its place
//! in the text, its key in the store, and what only the store knows of it.

mod list;

pub(crate) use list::documents;

use std::net::Ipv4Addr;

use meshwork_core::manifest::{Kind, Manifest, Metadata, Scope};
use meshwork_core::model::Key as Named;
use meshwork_core::timestamp;
use meshwork_core::validate::{self, Declared};
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::document::{Flaw, Node, Value};
use crate::store::Key;

/// Marks a Service or Workload that the registry made; an operator who applies it makes it his own.
pub(crate) const MANAGED_BY: &str = "meshwork.dev/managed-by";
pub(crate) const REGISTRATION: &str = "registration";

/// Where `kubectl apply` notes what it was given last: the whole document once more, and nobody's intent.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A document that was read and judged, with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) kind: Kind,
    /// Of a kind without namespaces, that part is empty.
    pub(crate) named: Named,
    /// The operator knows the resource as of this version and wants to change no other.
    pub(crate) resource_version: Option<u64>,
    /// Without what the store itself knows.
    pub(crate) manifest: Json,
    pub(crate) declared: Declared,
    /// Where it was written.
    pub(crate) node: Node,
}

/// A resource as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Seconds since the epoch.
    pub(crate) created: u64,
    /// Without what the store itself knows: version and time.
    pub(crate) manifest: Json,
    /// Of a registration: its sidecar has said goodbye, which a control plane that comes back must know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) drained: bool,
    /// Of a service: the virtual address that it was given (`addresses.rs`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Ipv4Addr>,
}

/// The store holds something that this version can't read: a newer one wrote it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key} in the store cannot be read by this version of meshwork ({detail}); apply it again, or run the version that wrote it"
)]
pub(crate) struct Unreadable {
    pub(crate) key: String,
    pub(crate) detail: String,
}

impl Document {
    /// Every flaw of one document. `namespace`: where it goes if it names none.
    pub(crate) fn read(node: Node, namespace: &str) -> Result<Self, Vec<Flaw>> {
        let kind = kind_of(&node).map_err(|flaw| vec![flaw])?;
        let mut manifest = kind.deserialize(&node).map_err(|flaw| vec![flaw])?;
        let metadata = manifest.metadata_mut();
        if kind.scope() == Scope::Namespace {
            metadata.namespace.get_or_insert_with(|| namespace.to_owned());
        }
        let resource_version = take_version(metadata, &node).map_err(|flaw| vec![flaw])?;
        let declared = validate::manifest(&manifest).map_err(|problems| {
            let flaw = |problem: validate::Problem| {
                let place = node.place_of(&problem.path);
                Flaw::at(format!("{}: {}; {}", problem.path, problem.message, problem.cure), place)
            };
            problems.into_iter().map(flaw).collect::<Vec<_>>()
        })?;
        let named = manifest.key();
        let manifest = to_json(&manifest);
        Ok(Self { kind, named, resource_version, manifest, declared, node })
    }

    pub(crate) fn key(&self) -> Key {
        key(self.kind, &self.named)
    }
}

/// Where a manifest stands in the store.
pub(crate) fn key(kind: Kind, named: &Named) -> Key {
    Key::intent(kind.name(), &named.namespace, &named.name)
}

/// A resource of a kind as paths and command lines name it: a kind without namespaces has an empty one.
pub(crate) fn named(kind: Kind, namespace: &str, name: &str) -> Named {
    match kind.scope() {
        Scope::Namespace => Named::new(namespace, name),
        Scope::Mesh => Named::new("", name),
    }
}

/// A manifest as JSON. It came from text, so its maps have text keys: this always encodes.
pub(crate) fn to_json(manifest: &Manifest) -> Json {
    serde_json::to_value(manifest).unwrap_or_default()
}

fn kind_of(node: &Node) -> Result<Kind, Flaw> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(Flaw::at("a resource is a map with apiVersion, kind, metadata and spec", node.place));
    }
    let missing =
        |field: &str| Flaw::at(format!("field `{field}` is missing or no text"), node.place_of(field));
    let api_version = node.text("apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let name = node.text("kind").ok_or_else(|| missing("kind"))?;
    Kind::find(api_version, name).map_err(|unknown| {
        let field = if Kind::ALL.iter().any(|kind| kind.name() == name) { "apiVersion" } else { "kind" };
        Flaw::at(unknown.to_string(), node.place_of(field))
    })
}

/// Takes out what a store itself knows; the version is what the operator's change is for.
fn take_version(metadata: &mut Metadata, node: &Node) -> Result<Option<u64>, Flaw> {
    metadata.creation_timestamp = None;
    metadata.generation = None;
    metadata.annotations.remove(LAST_APPLIED);
    let version = metadata.resource_version.take();
    // Ours never shows a uid, and Kubernetes always does: the version that stands beside one is that of another store.
    if metadata.uid.take().is_some() {
        return Ok(None);
    }
    let Some(text) = version else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let place = node.place_of("metadata.resourceVersion");
        Flaw::at(format!("{text:?} is no resourceVersion of this store; leave the field out"), place)
    })
}

impl Record {
    pub(crate) fn new(created: u64, manifest: &Manifest) -> Self {
        Self { created, manifest: to_json(manifest), drained: false, address: None }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Maps with text keys and numbers always encode.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn read(key: &Key, bytes: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(bytes)
            .map_err(|error| Unreadable { key: key.to_string(), detail: error.to_string() })
    }

    /// The manifest as a typed value.
    pub(crate) fn manifest(&self, key: &Key) -> Result<Manifest, Unreadable> {
        let unreadable = |detail: String| Unreadable { key: key.to_string(), detail };
        let text = |field: &str| self.manifest[field].as_str().unwrap_or_default().to_owned();
        let kind = Kind::find(&text("apiVersion"), &text("kind"));
        let kind = kind.map_err(|error| unreadable(error.to_string()))?;
        kind.deserialize(&self.manifest).map_err(|error| unreadable(error.to_string()))
    }

    /// What it declares.
    pub(crate) fn declared(&self, key: &Key) -> Result<Declared, Unreadable> {
        let mut manifest = self.manifest(key)?;
        // Which of two routes is older counts, so the model must know.
        manifest.metadata_mut().creation_timestamp = Some(timestamp::format(self.created));
        validate::manifest(&manifest).map_err(|problems| {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Unreadable { key: key.to_string(), detail: told.join("; ") }
        })
    }

    /// Whether the registry made it, and may change it.
    pub(crate) fn is_managed(&self) -> bool {
        self.manifest["metadata"]["labels"][MANAGED_BY] == REGISTRATION
    }

    /// As it is shown: with its version and time.
    pub(crate) fn show(self, revision: u64) -> Json {
        let mut manifest = self.manifest;
        if let Some(metadata) = manifest["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), json!(revision.to_string()));
            metadata.insert("creationTimestamp".to_owned(), json!(timestamp::format(self.created)));
        }
        manifest
    }
}
