//! Version skew: what sidecar and control plane of an earlier version said to each other (`session.txt`, written down by
//! `examples/record_wire.rs` of that version), held against both ends of this one.
//!
//! An older sidecar is understood, and is told nothing that its own control plane did not know to tell; an older control plane is
//! believed, and what it says means what this version means by it.

mod shop;

use std::collections::BTreeMap;

use meshwork_core::compile::{Audience, Features, compile};
use meshwork_core::mesh::Mesh;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_xds::codec::Encoded as _;
use meshwork_xds::convert::{Reference, encode, from_wire, reference};
use meshwork_xds::session::client::Sidecar;
use meshwork_xds::session::server::{Answer, Told as _};
use meshwork_xds::session::{ClientSession, DEPENDENTS, ServerSession, Session as _};
use meshwork_xds::wire::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;

const RECORDED: &str = include_str!("session.txt");

enum Said {
    BySidecar(Box<DeltaDiscoveryRequest>),
    ByControlPlane(DeltaDiscoveryResponse),
    /// The mesh changed here.
    Changed,
}

fn recorded() -> Vec<Said> {
    let said = |line: &str| match line.split_at(1) {
        (">", digits) => Said::BySidecar(Box::new(message(digits))),
        ("<", digits) => Said::ByControlPlane(message(digits)),
        _ => Said::Changed,
    };
    let lines = RECORDED.lines().filter(|line| !line.starts_with("# ") || *line == shop::CHANGED.trim());
    lines.map(said).collect()
}

fn message<M: prost::Message + Default>(digits: &str) -> M {
    let digits: Vec<u32> = digits.trim().chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    M::decode(&bytes[..]).unwrap()
}

/// What the older sidecar announced that it can.
fn features() -> Features {
    let first = recorded().into_iter().find_map(|said| match said {
        Said::BySidecar(request) => request.node,
        Said::ByControlPlane(_) | Said::Changed => None,
    });
    let node = first.expect("the first request says who asks");
    assert!(node.client_features.iter().any(|feature| feature == DEPENDENTS));
    Features::from_names(node.client_features.iter().map(String::as_str))
}

fn compiled(mesh: &Mesh, reference: &Reference) -> Option<Resource> {
    let Reference { resource_type, name } = reference;
    let compiled = compile(mesh, *resource_type, name, "default", Audience::Sidecar(features()));
    compiled.unwrap().map(comparable)
}

/// What differs on purpose. The addresses of workloads are among the mesh's ranges only since a sidecar asks about those: the
/// recorded control plane told none, though its sidecars understood them.
fn comparable(mut resource: Resource) -> Resource {
    if let Resource::MeshSettings(settings) = &mut resource {
        settings.ranges.clear();
    }
    resource
}

/// Message by message, as prost reads them: what one has that the other lacks shows, whatever the order of a map.
fn readable(resource: &wire::Resource) -> String {
    let wire::Any { type_url, value } = resource.resource.clone().unwrap_or_default();
    let value = &value[..];
    let of_type = wire::resource_type(&type_url).unwrap();
    match of_type {
        ResourceType::Cluster => format!("{:#?}", wire::cluster::Cluster::decode(value).unwrap()),
        ResourceType::Endpoints => {
            format!("{:#?}", wire::endpoint::ClusterLoadAssignment::decode(value).unwrap())
        }
        ResourceType::Listener => format!("{:#?}", wire::listener::Listener::decode(value).unwrap()),
        ResourceType::Route => format!("{:#?}", wire::route::RouteConfiguration::decode(value).unwrap()),
        ResourceType::Inbound => format!("{:#?}", meshwork_xds::proto::Inbound::decode(value).unwrap()),
        ResourceType::MeshSettings => {
            format!("{:#?}", meshwork_xds::proto::MeshSettings::decode(value).unwrap())
        }
        ResourceType::TrustBundle => format!("{:#?}", wire::tls::Secret::decode(value).unwrap()),
        ResourceType::NameTable => format!("{:#?}", meshwork_xds::proto::NameTable::decode(value).unwrap()),
    }
}

/// What a control plane told by name; `None`: that it does not exist.
#[derive(Default)]
struct ToldOf(BTreeMap<Reference, Option<String>>);

impl ToldOf {
    fn note(&mut self, response: &DeltaDiscoveryResponse) {
        let resource_type = wire::resource_type(&response.type_url).unwrap();
        for resource in &response.resources {
            self.0.insert(Reference::new(resource_type, resource.name.clone()), Some(readable(resource)));
        }
        for name in &response.removed_resources {
            self.0.insert(Reference::new(resource_type, name.clone()), None);
        }
    }
}

/// An older sidecar asks, answers and is told of a change, by this version's control plane.
#[test]
fn an_older_sidecar_is_told_what_its_own_control_plane_told_it() {
    let (mut server, mut mesh) = (ServerSession::new(), shop::mesh());
    let (mut ours, mut theirs) = (ToldOf::default(), ToldOf::default());
    let mut took = 0;
    for said in recorded() {
        let mut resolve = |resource_type: ResourceType, name: &str| {
            let resource = compiled(&mesh, &Reference::new(resource_type, name))?;
            Some(encode(&resource, Audience::Sidecar(features())))
        };
        let responses = match said {
            Said::BySidecar(request) => {
                let outcome = server.request(*request, "1", &mut resolve).unwrap();
                assert!(!matches!(outcome.answer, Some(Answer::Refused { .. })));
                took += usize::from(matches!(outcome.answer, Some(Answer::Took { .. })));
                outcome.responses
            }
            Said::ByControlPlane(response) => {
                theirs.note(&response);
                continue;
            }
            Said::Changed => {
                assert_same(&ours, &theirs);
                shop::change(&mut mesh);
                let mut resolve = |resource_type: ResourceType, name: &str| {
                    let resource = compiled(&mesh, &Reference::new(resource_type, name))?;
                    Some(encode(&resource, Audience::Sidecar(features())))
                };
                server.changed(&mut shop::concerns, "2", &mut resolve)
            }
        };
        for response in responses {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            ours.note(&DeltaDiscoveryResponse::decode(&bytes[..]).unwrap());
        }
    }
    assert_same(&ours, &theirs);
    assert!(took > 5, "its answers were understood: {took}");
    for reference in theirs.0.keys() {
        let awaits = server.awaits_answer(reference.resource_type, &reference.name);
        assert!(!awaits, "{reference}: its acknowledgement was not understood");
    }
}

#[track_caller]
fn assert_same(ours: &ToldOf, theirs: &ToldOf) {
    assert!(theirs.0.len() > 10, "{} names show little", theirs.0.len());
    let names = |told: &ToldOf| -> Vec<Reference> { told.0.keys().cloned().collect() };
    assert_eq!(names(ours), names(theirs));
    for (reference, theirs) in &theirs.0 {
        assert_eq!(&ours.0[reference], theirs, "{reference}");
    }
}

/// This version's sidecar is told by an older control plane: nothing is refused, and it means what this version's would mean.
#[test]
fn an_older_control_plane_is_believed() {
    let mut client = ClientSession::new(Sidecar {
        workload: shop::WORKLOAD.to_owned(),
        trust_domain: shop::TRUST_DOMAIN.to_owned(),
        version: "0.1.0".to_owned(),
        features: Features::ALL.names().map(str::to_owned).collect(),
        mesh_id: None,
    });
    for name in shop::CALLED {
        client.want(name).unwrap();
    }
    client.connected();
    let (mut mesh, mut held) = (shop::mesh(), BTreeMap::new());
    for said in recorded() {
        match said {
            Said::BySidecar(_) => {}
            Said::ByControlPlane(response) => {
                for resource in &response.resources {
                    let any = resource.resource.clone().unwrap();
                    from_wire(&any.type_url, &resource.name, &any.value).expect("each resource is read");
                }
                let reaction = client.response(response).unwrap();
                assert_eq!(reaction.refused, []);
                for versioned in reaction.applied {
                    held.insert(reference(&versioned.resource), versioned.resource);
                }
                reaction.removed.iter().for_each(|removed| drop(held.remove(removed)));
            }
            Said::Changed => {
                assert_means(&held, &mesh);
                shop::change(&mut mesh);
            }
        }
    }
    assert_means(&held, &mesh);
    let names: Vec<&Reference> = client.held().map(|(reference, _)| reference).collect();
    assert_eq!(names, held.keys().collect::<Vec<_>>());
}

/// Each resource is what this version's control plane would tell a sidecar of those features.
#[track_caller]
fn assert_means(held: &BTreeMap<Reference, Resource>, mesh: &Mesh) {
    assert!(held.len() > 9, "{} resources show little", held.len());
    for (reference, resource) in held {
        assert_eq!(Some(resource), compiled(mesh, reference).as_ref(), "{reference}");
    }
}
