//! What a wildcard subscription stands for: to an Envoy the Listeners that its node says it carries, and the Clusters to
//! which their Routes lead. To others nothing, as the names of resources depend on who asks.
//!
//! What a client carries is in its node's metadata, where `meshwork bootstrap envoy` writes it:
//! `{"meshwork": {"upstreams": ["cart:8080=127.0.0.1:9000"], "identity": "/run/web"}}`.

use std::collections::BTreeSet;

use meshwork_core::resource::ResourceType;

use super::{Client, Resolve, Violation};
use crate::session::NAME_BYTES_MAX;
use crate::wire::{Struct, Value, value::Kind};

/// Listeners that one client may carry: they are all looked at with each change of the mesh. More than an application's
/// upstreams ever were.
pub(super) const CARRIED_MAX: usize = 256;

/// The longest path of a directory (Linux, PATH_MAX).
const DIRECTORY_BYTES_MAX: usize = 4_096;

/// The field of the metadata that is ours.
const OURS: &str = "meshwork";
const UPSTREAMS: &str = "upstreams";
const IDENTITY: &str = "identity";

/// What the client's metadata say.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) carries: BTreeSet<String>,
    pub(super) identity: Option<String>,
}

impl Metadata {
    pub(super) fn read(metadata: Option<&Struct>) -> Result<Self, Violation> {
        let ours = match field(metadata, OURS) {
            Some(Kind::StructValue(ours)) => Some(ours),
            _ => None,
        };
        let carries = match field(ours, UPSTREAMS) {
            Some(Kind::ListValue(list)) => list.values.iter().filter_map(text).collect(),
            _ => BTreeSet::new(),
        };
        if carries.len() > CARRIED_MAX {
            return Err(Violation::TooManyCarried);
        }
        if let Some(long) = carries.iter().find(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Violation::NameTooLong(long.len()));
        }
        let identity = match field(ours, IDENTITY) {
            Some(Kind::StringValue(directory)) => Some(directory.clone()),
            _ => None,
        };
        let usable =
            |directory: &String| directory.starts_with('/') && directory.len() <= DIRECTORY_BYTES_MAX;
        Ok(Self { carries, identity: identity.filter(usable) })
    }
}

fn field<'a>(message: Option<&'a Struct>, name: &str) -> Option<&'a Kind> {
    message?.fields.get(name)?.kind.as_ref()
}

fn text(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The names of that type.
pub(super) fn names(
    client: Option<&Client>,
    resource_type: ResourceType,
    resolve: &mut Resolve<'_>,
) -> BTreeSet<String> {
    let Some(client) = client else { return BTreeSet::new() };
    match resource_type {
        ResourceType::Listener => client.carries.clone(),
        ResourceType::Cluster => led_to(&client.carries, resolve),
        ResourceType::Endpoints
        | ResourceType::Route
        | ResourceType::Inbound
        | ResourceType::MeshSettings
        | ResourceType::TrustBundle
        | ResourceType::NameTable => BTreeSet::new(),
    }
}

fn led_to(listeners: &BTreeSet<String>, resolve: &mut Resolve<'_>) -> BTreeSet<String> {
    let mut clusters = BTreeSet::new();
    for listener in listeners {
        let Some(listener) = resolve(ResourceType::Listener, listener) else { continue };
        for route in listener.points_to().iter() {
            let Some(route) = resolve(route.resource_type, &route.name) else { continue };
            clusters.extend(route.points_to().iter().map(|cluster| cluster.name.clone()));
        }
    }
    clusters
}
