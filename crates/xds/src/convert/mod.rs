//! `core`'s values to xDS messages and back.
//!
//! | file | what |
//! |---|---|
//! | `listener.rs`, `route.rs`, `cluster.rs`, `endpoints.rs`, `bundle.rs`, `own.rs`, `names.rs` | one resource type each: `write` and `read` |
//! | `patch.rs` | what differs between two versions of endpoints |
//! | `balance.rs` | the part of a cluster that says how its endpoints are chosen |
//! | `traffic.rs` | the part of a cluster that says how the service wants to be called |
//! | `envoy.rs`, `identity.rs` | what Envoy must be told beside that, and where its key and certificate are |
//! | `reference.rs` | which other resources a resource points to |
//! | `open.rs` | taking a message apart so that no field is lost in silence; `Refused` |
//! | `common.rs`, `words.rs`, `pem.rs` | what several types share |
//!
//! `from_wire(to_wire(x, Sidecar)) == x` for every value that `compile` may give (`tests/round_trip.rs`).
//! Encoded bytes are not a version: prost's maps have no order.

mod balance;
mod bundle;
mod cluster;
mod common;
mod endpoints;
mod envoy;
mod identity;
mod listener;
mod names;
mod open;
mod own;
mod patch;
mod pem;
mod reference;
mod route;
mod traffic;
mod words;

use meshwork_core::compile::Audience;
use meshwork_core::model::SETTINGS_NAME;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_core::version::version;

pub use cluster::CERTIFICATE_PROVIDER;
pub use identity::{IDENTITY, identity};
pub use open::Refused;
pub(crate) use open::{pack, unset};
pub use patch::{Patch, patch, patch_type_url};
pub use reference::{Reference, points_to};

use crate::codec::EncodedResource;
use crate::wire;

/// The encoded message of the resource's type (`wire::type_url`): what an `Any` holds as its value. Messages of
/// ours inside Envoy's are for our own sidecars only; everyone else gets plain Envoy.
pub fn to_wire(resource: &Resource, audience: Audience) -> Vec<u8> {
    match resource {
        Resource::Listener(listener) => listener::write(listener, audience),
        Resource::Route(route) => route::write(route, audience),
        Resource::Cluster(cluster) => cluster::write(cluster, audience),
        Resource::Endpoints(endpoints) => endpoints::write(endpoints, audience),
        Resource::Inbound(inbound) => own::write_inbound(inbound),
        Resource::MeshSettings(settings) => own::write_settings(settings),
        Resource::TrustBundle(bundle) => bundle::write(bundle),
        Resource::NameTable(table) => names::write(table),
    }
}

/// The resource with its version and what it points to, ready to be sent to any number of subscribers.
pub fn encode(resource: &Resource, audience: Audience) -> EncodedResource {
    let version = version(resource).to_string();
    EncodedResource::new(&reference(resource), &version, to_wire(resource, audience), points_to(resource))
}

/// Reads one resource. Refused is whatever this version can't honour, by the path of its field.
pub fn from_wire(type_url: &str, name: &str, bytes: &[u8]) -> Result<Resource, Refused> {
    let unknown =
        || Refused::here(format!("this version of meshwork knows no resources of type {type_url:?}"));
    let resource = match wire::resource_type(type_url).ok_or_else(unknown)? {
        ResourceType::Listener => Resource::Listener(listener::read(bytes)?),
        ResourceType::Route => Resource::Route(route::read(bytes)?),
        ResourceType::Cluster => Resource::Cluster(cluster::read(bytes)?),
        ResourceType::Endpoints => Resource::Endpoints(endpoints::read(bytes)?),
        ResourceType::Inbound => Resource::Inbound(own::read_inbound(bytes)?),
        ResourceType::MeshSettings => Resource::MeshSettings(own::read_settings(bytes)?),
        ResourceType::TrustBundle => Resource::TrustBundle(bundle::read(bytes)?),
        ResourceType::NameTable => Resource::NameTable(names::read(bytes)?),
    };
    match resource_name(&resource) {
        inner if inner == name => Ok(resource),
        inner => Err(Refused::at("name", format!("is {inner:?}, but it was sent under the name {name:?}"))),
    }
}

pub fn reference(resource: &Resource) -> Reference {
    Reference::new(resource_type(resource), resource_name(resource))
}

/// The name under which a resource is asked for.
pub fn resource_name(resource: &Resource) -> String {
    match resource {
        Resource::Listener(listener) => listener.name.clone(),
        Resource::Route(route) => route.name.to_string(),
        Resource::Cluster(cluster) => cluster.name.to_string(),
        Resource::Endpoints(endpoints) => endpoints.name.to_string(),
        Resource::Inbound(inbound) => inbound.name.clone(),
        Resource::MeshSettings(_) => SETTINGS_NAME.to_owned(),
        Resource::TrustBundle(bundle) => bundle.trust_domain.clone(),
        Resource::NameTable(table) => table.namespace.clone(),
    }
}

pub fn resource_type(resource: &Resource) -> ResourceType {
    match resource {
        Resource::Listener(_) => ResourceType::Listener,
        Resource::Route(_) => ResourceType::Route,
        Resource::Cluster(_) => ResourceType::Cluster,
        Resource::Endpoints(_) => ResourceType::Endpoints,
        Resource::Inbound(_) => ResourceType::Inbound,
        Resource::MeshSettings(_) => ResourceType::MeshSettings,
        Resource::TrustBundle(_) => ResourceType::TrustBundle,
        Resource::NameTable(_) => ResourceType::NameTable,
    }
}
