//! A sidecar's end of a delta stream, told anything in any order.
//!
//! What session and proxy hold is always the same, is something that was sent under that name, and is needed by what the
//! application called; every response is answered once, by its nonce; a resource that is refused is named and keeps what
//! it was; another mesh's word, and what comes on no stream, changes nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use meshwork_core::compile::Features;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_core::version::version;
use meshwork_xds::convert::{Reference, points_to, reference, to_wire};
use meshwork_xds::session::client::{Reaction, Sidecar, StreamFault, Versioned};
use meshwork_xds::session::{ClientSession, LISTENERS_MAX, NAMESPACES_MAX};
use meshwork_xds::wire::{self, Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, type_url};
use prost::Message as _;

use crate::input::{Input, put_piece};
use crate::{Target, shop};

pub(super) const TARGET: Target = Target { name: "xds_client", run, seeds, words: WORDS };

const WORDS: &[&[u8]] = &[
    &[0],
    &[1],
    &[2, 0],
    &[4],
    &[5],
    &[0x80, 4],
    b"mesh-2",
    b"type.googleapis.com/meshwork.v1.MeshSettings",
    &[0xff, 0xff],
];

const TYPES: [ResourceType; 8] = [
    ResourceType::MeshSettings,
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::Inbound,
    ResourceType::TrustBundle,
    ResourceType::NameTable,
];

const NAMES: [&str; 4] = ["default", "shop", "gone", "default/cart:80"];

/// Steps of one story.
const STEPS_MAX: usize = 64;

struct Story {
    session: ClientSession,
    /// What the proxy would serve traffic by.
    config: BTreeMap<Reference, Versioned>,
    connected: bool,
    nonce_last: u32,
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let session = ClientSession::new(Sidecar {
        workload: shop::WORKLOAD.to_owned(),
        trust_domain: shop::TRUST_DOMAIN.to_owned(),
        version: "0.1.0".to_owned(),
        features: Features::ALL.names().map(str::to_owned).collect(),
        mesh_id: input.once_in(2).then(|| shop::MESH_ID.to_owned()),
    });
    let mut story = Story { session, config: BTreeMap::new(), connected: false, nonce_last: 0 };
    for _ in 0..STEPS_MAX {
        if input.is_used_up() {
            break;
        }
        story.step(&mut input);
        story.check();
    }
}

impl Story {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(9) {
            0 => {
                let requests = self.session.connected();
                self.connected = true;
                let first = requests.first().expect("it always wants something");
                assert!(first.node.is_some() && first.type_url == type_url(ResourceType::MeshSettings));
                self.check_requests(&requests);
            }
            1 => {
                self.session.disconnected();
                self.connected = false;
            }
            2 => {
                let reaction = self.session.want(input.pick(&shop::LISTENERS)).expect("few are wanted");
                self.take(reaction);
            }
            3 => {
                let reaction = self.session.drop(input.pick(&shop::LISTENERS));
                self.take(reaction);
            }
            4 => {
                let reaction = self.session.want_names(input.pick(&NAMES)).expect("few are wanted");
                self.take(reaction);
            }
            5 => {
                let reaction = self.session.drop_names(input.pick(&NAMES));
                self.take(reaction);
            }
            6 => {
                let text = String::from_utf8_lossy(input.piece()).into_owned();
                if let Ok(reaction) = self.session.want(&text) {
                    self.take(reaction);
                }
            }
            7 => {
                if let Ok(response) = DeltaDiscoveryResponse::decode(input.piece()) {
                    self.respond(response);
                }
            }
            _ => {
                let response = self.response(input);
                self.respond(response);
            }
        }
    }

    /// Resources of the shop, good, damaged or under a wrong name, and names that are gone.
    fn response(&mut self, input: &mut Input<'_>) -> DeltaDiscoveryResponse {
        let of_type = input.pick(&TYPES);
        let known: Vec<&Resource> =
            shop::resources().iter().filter(|known| reference(known).resource_type == of_type).collect();
        let mut resources = Vec::new();
        for _ in 0..input.below(5) {
            let resource: &Resource = input.pick(&known);
            let Reference { mut name, .. } = reference(resource);
            let mut value = to_wire(resource, shop::AUDIENCE);
            let mut version = version(resource).to_string();
            match input.below(8) {
                5 => value.extend_from_slice(input.piece()),
                6 => name.push('x'),
                7 => version = "another".to_owned(),
                _ => {}
            }
            let any = Any { type_url: type_url(of_type), value };
            resources.push(wire::Resource {
                name,
                version,
                resource: Some(any),
                ..wire::Resource::default()
            });
        }
        let removed = (0..input.below(3)).map(|_| match input.once_in(4) {
            true => input.pick(&NAMES).to_owned(),
            false => reference(input.pick(&known)).name,
        });
        let removed_resources = removed.collect();
        self.nonce_last += 1;
        DeltaDiscoveryResponse {
            system_version_info: "7".to_owned(),
            resources,
            type_url: type_url(of_type),
            removed_resources,
            nonce: self.nonce_last.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn respond(&mut self, response: DeltaDiscoveryResponse) {
        let before = self.session.clone();
        let sent = response.clone();
        let reaction = match self.session.response(response) {
            Ok(reaction) => reaction,
            Err(fault) => {
                let known = before.mesh_id().map(str::to_owned);
                assert_eq!(fault == StreamFault::NotConnected, !self.connected);
                assert!(self.session.held().eq(before.held()) && self.session.seen() == before.seen());
                assert!(known.is_none() || self.session.mesh_id() == known.as_deref(), "it has moved");
                return;
            }
        };
        let answers: Vec<&DeltaDiscoveryRequest> =
            reaction.requests.iter().filter(|request| request.type_url == sent.type_url).collect();
        assert_eq!(answers.len(), 1, "one answer");
        assert_eq!(answers[0].response_nonce, sent.nonce);
        assert_eq!(answers[0].error_detail.is_some(), !reaction.refused.is_empty());
        if let Some(error) = &answers[0].error_detail {
            let names =
                reaction.refused.iter().all(|refused| error.message.contains(&refused.reference.name));
            assert!(names, "{error:?} names not all of {:?}", reaction.refused);
        }
        let asked = |name: &str| sent.resources.iter().any(|resource| resource.name == name);
        assert!(reaction.refused.iter().all(|refused| asked(&refused.reference.name)));
        self.check_requests(&reaction.requests);
        let kept: Vec<_> = reaction.refused.iter().map(|refused| refused.reference.clone()).collect();
        let config = self.config.clone();
        let touched: BTreeSet<_> = reaction
            .removed
            .iter()
            .cloned()
            .chain(reaction.applied.iter().map(|it| reference(&it.resource)))
            .collect();
        self.take(reaction);
        for reference in kept.iter().filter(|reference| !touched.contains(reference)) {
            assert_eq!(self.config.get(reference), config.get(reference), "{reference} kept its last good");
        }
    }

    fn take(&mut self, reaction: Reaction) {
        let Reaction { requests, applied, removed, absent: _, refused: _ } = reaction;
        if !self.connected {
            assert!(requests.is_empty(), "asked on no stream");
        }
        // In the proxy's order: what one response both tells and takes back is gone.
        for versioned in applied {
            self.config.insert(reference(&versioned.resource), versioned);
        }
        for reference in removed {
            assert!(self.config.remove(&reference).is_some(), "{reference} was removed but never there");
        }
    }

    /// No name is asked for and given up at once, and one request is about one type.
    fn check_requests(&self, requests: &[DeltaDiscoveryRequest]) {
        let types: BTreeSet<&String> = requests.iter().map(|request| &request.type_url).collect();
        assert_eq!(types.len(), requests.len(), "two requests about one type");
        for request in requests {
            let given_up: BTreeSet<_> = request.resource_names_unsubscribe.iter().collect();
            assert!(!request.resource_names_subscribe.iter().any(|name| given_up.contains(name)));
            let listed = request.initial_resource_versions.keys();
            assert!(listed.into_iter().all(|name| request.resource_names_subscribe.contains(name)));
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let config = self.config.iter().map(|(reference, versioned)| (reference, versioned.version.as_str()));
        assert!(self.session.held().eq(config), "session and proxy hold the same");
        assert!(self.session.wanted().count() <= LISTENERS_MAX);
        assert!(self.session.wanted_names().count() <= NAMESPACES_MAX);
        let wanted = self.session.wanted().map(|name| Reference::new(ResourceType::Listener, name));
        let names = self.session.wanted_names().map(|name| Reference::new(ResourceType::NameTable, name));
        let mut open: Vec<Reference> = wanted.chain(names).chain(shop::own()).collect();
        let mut needed = BTreeSet::new();
        while let Some(reference) = open.pop() {
            if needed.insert(reference.clone()) {
                let held = self.config.get(&reference);
                open.extend(held.into_iter().flat_map(|held| points_to(&held.resource)));
            }
        }
        assert!(
            self.config.keys().all(|held| needed.contains(held)),
            "something is held and needed by nothing"
        );
    }
}

/// A stream as it usually goes: own resources, then a service's, dependents first, then what changes.
fn seeds() -> Vec<Vec<u8>> {
    let mut usual = vec![0, 0, 8, 0, 1, 0, 0, 0, 2, 0];
    for of_type in [1, 2, 3, 4, 5, 6, 7] {
        for resource in 0..3 {
            usual.extend([8, of_type, 1, resource, 0, 0]);
        }
    }
    let mut lost = usual.clone();
    lost.extend([1, 0, 8, 0, 1, 0, 0, 0, 3, 0, 5, 1]);
    let mut raw = vec![1, 0, 7];
    let settings = shop::resources().iter().find(|known| matches!(known, Resource::MeshSettings(_)));
    let settings = settings.expect("every mesh has settings");
    let any =
        Any { type_url: type_url(ResourceType::MeshSettings), value: to_wire(settings, shop::AUDIENCE) };
    let resource = wire::Resource {
        name: reference(settings).name,
        version: "1".to_owned(),
        resource: Some(any),
        ..wire::Resource::default()
    };
    let response = DeltaDiscoveryResponse {
        type_url: type_url(ResourceType::MeshSettings),
        resources: vec![resource],
        nonce: "9".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    put_piece(&response.encode_to_vec(), &mut raw);
    vec![usual, lost, raw]
}
