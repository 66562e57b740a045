//! One xDS resource of each type, as a sidecar reads it and as the control plane writes it.
//!
//! What is taken is a value that is written and read as the same value, with the same version and the same references;
//! what is refused names its field in a sentence of bounded length. Nothing that a sidecar takes makes the writer panic,
//! whoever it writes for.

use meshwork_core::compile::{Audience, Features};
use meshwork_core::resource::ResourceType;
use meshwork_core::version::version;
use meshwork_xds::convert::{encode, from_wire, points_to, reference, resource_name, resource_type, to_wire};
use meshwork_xds::proto;
use meshwork_xds::wire::{self, TYPES, type_url};
use prost::Message as _;

use crate::{Target, shop};

pub(super) const TARGET: Target = Target {
    name: "resource",
    run,
    seeds,
    words: &[
        b"type.googleapis.com/",
        b"meshwork.v1.",
        b"default/cart:80",
        b"?from=",
        b"envoy",
        &[0x08],
        &[0x12],
        &[0x1a, 0],
        &[0x80, 0x80, 0x01],
        &[0xff; 10],
        b"/",
        b"http",
        b"-----BEGIN CERTIFICATE-----\n",
        b"10.0.0.1",
        b"fd00::1",
    ],
};

/// A sentence about a resource, whatever it holds.
const TOLD_BYTES_MAX: usize = 2 * 1024;

/// The type's number, then the message.
fn run(bytes: &[u8]) {
    let Some((first, message)) = bytes.split_first() else { return };
    let resource_type = TYPES[usize::from(*first) % TYPES.len()];
    let url = type_url(resource_type);
    let resource = match from_wire(&url, &name(resource_type, message), message) {
        Ok(resource) => resource,
        Err(refused) => {
            let told = refused.to_string();
            assert!(!told.is_empty() && told.len() < TOLD_BYTES_MAX, "{} bytes", told.len());
            return;
        }
    };
    let name = resource_name(&resource);
    assert!(from_wire(&url, &format!("{name}x"), message).is_err(), "it goes by another name, too");
    let written = to_wire(&resource, shop::AUDIENCE);
    let again = from_wire(&url, &name, &written);
    assert_eq!(again.as_ref(), Ok(&resource), "written and read");
    assert_eq!(version(&resource), version(&again.expect("just compared")));
    assert_eq!(points_to(&resource).len(), {
        let mut pointed = points_to(&resource);
        pointed.dedup();
        pointed.len()
    });
    for audience in [Audience::Grpc, Audience::Sidecar(Features::default())] {
        // Cannot be refused: whoever asks gets what there is of it.
        assert!(to_wire(&resource, audience).len() <= 64 * 1024 + 16 * message.len());
    }
    let encoded = encode(&resource, shop::AUDIENCE);
    assert_eq!(**encoded.version(), version(&resource).to_string());
    assert_eq!(reference(&resource).name, name);
}

/// What the message says it is called, which is what it was asked for by.
fn name(resource_type: ResourceType, message: &[u8]) -> String {
    let name = match resource_type {
        ResourceType::Cluster => wire::cluster::Cluster::decode(message).map(|it| it.name),
        ResourceType::Endpoints => {
            wire::endpoint::ClusterLoadAssignment::decode(message).map(|it| it.cluster_name)
        }
        ResourceType::Listener => wire::listener::Listener::decode(message).map(|it| it.name),
        ResourceType::Route => wire::route::RouteConfiguration::decode(message).map(|it| it.name),
        ResourceType::Inbound => proto::Inbound::decode(message).map(|it| it.name),
        ResourceType::MeshSettings => Ok(meshwork_core::model::SETTINGS_NAME.to_owned()),
        ResourceType::TrustBundle => wire::tls::Secret::decode(message).map(|it| it.name),
        ResourceType::NameTable => proto::NameTable::decode(message).map(|it| it.namespace),
    };
    name.unwrap_or_default()
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |resource| {
        let of_type = resource_type(resource);
        let number = TYPES.iter().position(|known| *known == of_type).unwrap_or_default() as u8;
        [&[number][..], &to_wire(resource, shop::AUDIENCE)].concat()
    };
    shop::resources().iter().map(seed).collect()
}
