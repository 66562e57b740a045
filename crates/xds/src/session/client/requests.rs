//! The messages themselves: how a request is put together, how a response's resource is read.

use std::collections::BTreeMap;

use meshwork_core::resource::ResourceType;

use super::{Held, RefusedResource, Sidecar, Versioned};
use crate::convert::{Patch, Reference, Refused, from_wire, pack, patch_type_url, unset};
use crate::proto;
use crate::session::DEPENDENTS;
use crate::wire::{self, DeltaDiscoveryRequest, Status, core};

/// google.rpc.Code.INVALID_ARGUMENT
const INVALID_ARGUMENT: i32 = 3;

/// The order of requests: `MeshSettings` first, since nothing is taken before it; then what is pointed to
/// before what points to it.
const ORDER: [ResourceType; 8] = [
    ResourceType::MeshSettings,
    ResourceType::TrustBundle,
    ResourceType::Inbound,
    ResourceType::NameTable,
    ResourceType::Endpoints,
    ResourceType::Cluster,
    ResourceType::Route,
    ResourceType::Listener,
];

pub(super) fn node(sidecar: Sidecar) -> core::Node {
    let Sidecar { workload, trust_domain: _, version, mut features, mesh_id: _ } = sidecar;
    features.push(DEPENDENTS.to_owned());
    core::Node {
        id: workload,
        client_features: features,
        user_agent_name: "meshwork".to_owned(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(version)),
        ..core::Node::default()
    }
}

/// What one resource of a response says.
pub(super) enum Read {
    Full(Box<Versioned>),
    Patch(Patch),
}

/// One resource of a response. Fields beside name, version and content are for clients that ask for them.
pub(super) fn read(type_url: &str, resource: wire::Resource) -> Result<Read, Refused> {
    let wire::Resource { name, version, resource, resource_name, aliases, ttl, cache_control, metadata } =
        resource;
    unset("resource_name", &resource_name)?;
    unset("aliases", &aliases)?;
    unset("ttl", &ttl)?;
    unset("cache_control", &cache_control)?;
    unset("metadata", &metadata)?;
    let wire::Any { type_url: inner, value } = resource.unwrap_or_default();
    let is_endpoints = wire::resource_type(type_url) == Some(ResourceType::Endpoints);
    if is_endpoints && inner == patch_type_url() {
        return Patch::read(&value).map(Read::Patch);
    }
    if inner != type_url {
        return Err(Refused::at("resource", format!("is of type {inner:?}")));
    }
    let resource = from_wire(type_url, &name, &value)?;
    Ok(Read::Full(Box::new(Versioned { resource, version })))
}

/// An ACK, or a NACK that names what was refused; the rest of the response was taken.
pub(super) fn answer(type_url: String, nonce: String, refused: &[RefusedResource]) -> DeltaDiscoveryRequest {
    let error_detail = (!refused.is_empty()).then(|| {
        let sentences = refused.iter().map(|refused| format!("{}: {}", refused.reference, refused.refused));
        let resources = refused.iter().map(|refused| proto::RefusedResource {
            name: refused.reference.name.clone(),
            path: refused.refused.path.clone(),
            reason: refused.refused.reason.clone(),
        });
        let details = proto::RefusedResources { resources: resources.collect() };
        Status {
            code: INVALID_ARGUMENT,
            message: sentences.collect::<Vec<_>>().join("; "),
            details: vec![pack(&details)],
        }
    });
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

/// The requests that change the subscriptions, one for each type; `answer` carries its own type's.
pub(super) fn changes(
    answer: Option<DeltaDiscoveryRequest>,
    fresh: Vec<Reference>,
    stale: Vec<Reference>,
    held: &BTreeMap<Reference, Held>,
) -> Vec<DeltaDiscoveryRequest> {
    let mut requests: BTreeMap<ResourceType, DeltaDiscoveryRequest> = BTreeMap::new();
    let mut unknown = None;
    if let Some(answer) = answer {
        match wire::resource_type(&answer.type_url) {
            Some(resource_type) => drop(requests.insert(resource_type, answer)),
            None => unknown = Some(answer),
        }
    }
    let mut of = |resource_type: ResourceType, change: &mut dyn FnMut(&mut DeltaDiscoveryRequest)| {
        change(requests.entry(resource_type).or_insert_with(|| DeltaDiscoveryRequest {
            type_url: wire::type_url(resource_type),
            ..DeltaDiscoveryRequest::default()
        }));
    };
    for reference in fresh {
        // `MeshSettings` is to be sent on every stream: it tells which mesh this is.
        let version = held.get(&reference).filter(|_| reference.resource_type != ResourceType::MeshSettings);
        let version = version.map(|held| held.version.clone());
        let Reference { resource_type, name } = reference;
        of(resource_type, &mut |request| {
            let listed = version.clone().map(|version| (name.clone(), version));
            request.initial_resource_versions.extend(listed);
            request.resource_names_subscribe.push(name.clone());
        });
    }
    for Reference { resource_type, name } in stale {
        of(resource_type, &mut |request| request.resource_names_unsubscribe.push(name.clone()));
    }
    let ordered = ORDER.into_iter().filter_map(|resource_type| requests.remove(&resource_type));
    unknown.into_iter().chain(ordered).collect()
}
