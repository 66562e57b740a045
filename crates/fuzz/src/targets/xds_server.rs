//! The control plane's end of an xDS stream, of either dialect, asked anything in any order.
//!
//! Every response is a message that others read as it was meant, with a nonce of its own; every name that is newly asked for
//! is answered at once, by a resource or by its absence; what has not changed is not sent by a change; what is
//! remembered of a client is bounded by what it asked for, and a client that never answers is let go.

use std::collections::BTreeSet;

use meshwork_core::resource::{Resource, ResourceType};
use meshwork_xds::codec::{Encoded, EncodedResource};
use meshwork_xds::convert::{Reference, encode, reference};
use meshwork_xds::session::server::{Told, Violation};
use meshwork_xds::session::{DEPENDENTS, NAME_BYTES_MAX, ServerSession, Session, SotwSession};
use meshwork_xds::wire::{
    self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Status,
    core::Node, type_url,
};
use prost::Message as _;

use crate::input::{Input, put_piece};
use crate::{Target, shop};

pub(super) const DELTA: Target =
    Target { name: "xds_delta_server", run: delta, seeds: delta_seeds, words: WORDS };

pub(super) const SOTW: Target =
    Target { name: "xds_sotw_server", run: sotw, seeds: sotw_seeds, words: WORDS };

const WORDS: &[&[u8]] = &[
    &[0],
    &[1],
    &[2],
    &[3],
    b"*",
    b"meshwork.dependents",
    b"type.googleapis.com/",
    &[0xff, 0xff],
    &[0, 0, 1],
];

const TYPES: [ResourceType; 4] =
    [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoints];

/// Steps of one story. More than a client may leave unanswered is another test's.
const STEPS_MAX: usize = 96;

/// What exists: resources of the shop, of which some are gone for now, and some have changed.
struct Truth {
    gone: BTreeSet<Reference>,
    changed: BTreeSet<Reference>,
}

impl Truth {
    fn resolve(&self, resource_type: ResourceType, name: &str) -> Option<EncodedResource> {
        let asked = Reference::new(resource_type, name);
        let known = shop::resources().iter().filter(|known| reference(known) == asked).collect::<Vec<_>>();
        let known = match self.changed.contains(&asked) {
            true => known.last(),
            false => known.first(),
        };
        known.filter(|_| !self.gone.contains(&asked)).map(|known| encode(known, shop::AUDIENCE))
    }
}

/// What both dialects have in common.
trait Dialect: Session + Default + Clone
where
    Self::Request: Clone,
    Self::Response: Encoded,
{
    fn decode(bytes: &[u8]) -> Option<Self::Request>;
    fn make(input: &mut Input<'_>, nonces: &[String]) -> Self::Request;
    /// Nonce, type, names that are there, names that are not.
    fn read(bytes: &[u8]) -> (String, String, Vec<String>, Vec<String>);
    /// Names newly asked for that must be told about at once.
    fn owed(&self, request: &Self::Request) -> BTreeSet<Reference>;
}

fn delta(bytes: &[u8]) {
    run::<ServerSession>(bytes);
}

fn sotw(bytes: &[u8]) {
    run::<SotwSession>(bytes);
}

fn run<D: Dialect>(bytes: &[u8])
where
    D::Request: Clone,
    D::Response: Encoded,
{
    let mut input = Input::new(bytes);
    let mut session = D::default();
    let mut truth = Truth { gone: BTreeSet::new(), changed: BTreeSet::new() };
    let mut nonces: Vec<String> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_used_up() {
            return;
        }
        let request = match input.below(4) {
            0 => {
                let changed = change(&mut truth, &mut input);
                let mut concerns = |resource_type, name: &str| changed == Reference::new(resource_type, name);
                let mut resolve = |resource_type, name: &str| truth.resolve(resource_type, name);
                let responses = session.changed(&mut concerns, "7", &mut resolve);
                check_responses::<D>(responses, &mut nonces);
                // Told already, as far as it could be: once more is nothing.
                let before = session.clone();
                let mut nothing = |_, _: &str| false;
                let again = session.changed(&mut nothing, "7", &mut resolve);
                assert!(again.is_empty(), "told without a change");
                session = before;
                continue;
            }
            1 => match D::decode(input.piece()) {
                Some(request) => request,
                None => continue,
            },
            _ => D::make(&mut input, &nonces),
        };
        let owed = session.owed(&request);
        let mut resolve = |resource_type, name: &str| truth.resolve(resource_type, name);
        let outcome = match session.request(request, "7", &mut resolve) {
            Ok(outcome) => outcome,
            Err(violation) => return check_violation(&violation),
        };
        let told = check_responses::<D>(outcome.responses, &mut nonces);
        for reference in owed {
            let awaited = session.awaits_answer(reference.resource_type, &reference.name);
            assert!(told.contains(&reference) || awaited, "{reference} was asked for and not answered");
        }
        assert!(session.subscriptions().keys().all(|known| known.name.len() <= NAME_BYTES_MAX));
    }
}

fn check_violation(violation: &Violation) {
    assert!(violation.to_string().len() < 200);
    assert_ne!(*violation, Violation::Unanswered, "{STEPS_MAX} steps are fewer than may be unanswered");
}

fn change(truth: &mut Truth, input: &mut Input<'_>) -> Reference {
    let known: &Resource = input.one_of(shop::resources());
    let reference = reference(known);
    let set = if input.once_in(2) { &mut truth.gone } else { &mut truth.changed };
    if !set.remove(&reference) {
        set.insert(reference.clone());
    }
    reference
}

/// Names that were told about, whether they exist or not.
fn check_responses<D: Dialect>(responses: Vec<D::Response>, nonces: &mut Vec<String>) -> BTreeSet<Reference>
where
    D::Request: Clone,
    D::Response: Encoded,
{
    let mut told = BTreeSet::new();
    for response in responses {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        assert_eq!(bytes.len(), response.encoded_len());
        let (nonce, url, names, removed) = D::read(&bytes);
        assert!(!nonces.contains(&nonce), "the nonce {nonce} comes twice");
        nonces.push(nonce);
        let unique: BTreeSet<&String> = names.iter().chain(&removed).collect();
        assert_eq!(unique.len(), names.len() + removed.len(), "one name twice in one response");
        if let Some(resource_type) = wire::resource_type(&url) {
            told.extend(names.into_iter().chain(removed).map(|name| Reference::new(resource_type, name)));
        }
    }
    told
}

/// Names of the shop, and some that are nobody's.
fn names(input: &mut Input<'_>, of_type: ResourceType, most: usize) -> Vec<String> {
    let known: Vec<Reference> =
        shop::resources().iter().map(reference).filter(|known| known.resource_type == of_type).collect();
    let name = |input: &mut Input<'_>| match input.below(10) {
        0 => "*".to_owned(),
        1 => String::from_utf8_lossy(input.piece()).into_owned(),
        2 => "gone:80".to_owned(),
        _ => input.one_of(&known).name.clone(),
    };
    (0..input.below(most)).map(|_| name(input)).collect()
}

fn node(input: &mut Input<'_>) -> Option<Node> {
    let features = if input.once_in(2) { vec![DEPENDENTS.to_owned()] } else { Vec::new() };
    input.once_in(3).then(|| Node {
        id: shop::WORKLOAD.to_owned(),
        client_features: features,
        ..Node::default()
    })
}

/// An ACK, a NACK, or neither.
fn answer(input: &mut Input<'_>, nonces: &[String]) -> (String, Option<Status>) {
    let refused = Status { code: 3, message: "not today".to_owned(), details: Vec::new() };
    match (input.below(4), nonces) {
        (0, _) | (_, []) => (String::new(), None),
        (1, nonces) => (input.one_of(&nonces[nonces.len().saturating_sub(200)..]).clone(), Some(refused)),
        (2, nonces) => (input.one_of(&nonces[nonces.len().saturating_sub(200)..]).clone(), None),
        (_, nonces) => (nonces.last().cloned().unwrap_or_default(), None),
    }
}

impl Dialect for ServerSession {
    fn decode(bytes: &[u8]) -> Option<DeltaDiscoveryRequest> {
        DeltaDiscoveryRequest::decode(bytes).ok()
    }

    fn make(input: &mut Input<'_>, nonces: &[String]) -> DeltaDiscoveryRequest {
        let of_type = input.pick(&TYPES);
        let node = node(input);
        let (response_nonce, error_detail) = answer(input, nonces);
        let resource_names_subscribe = names(input, of_type, 5);
        let resource_names_unsubscribe = names(input, of_type, 3);
        let held = resource_names_subscribe.iter().filter(|_| input.once_in(4));
        let initial_resource_versions = held.map(|name| (name.clone(), "1".to_owned())).collect();
        DeltaDiscoveryRequest {
            node,
            type_url: type_url(of_type),
            resource_names_subscribe,
            resource_names_unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn read(bytes: &[u8]) -> (String, String, Vec<String>, Vec<String>) {
        let DeltaDiscoveryResponse { nonce, type_url, resources, removed_resources, .. } =
            DeltaDiscoveryResponse::decode(bytes).expect("others read it");
        let whole = |resource: &wire::Resource| {
            resource.resource.as_ref().is_some_and(|any| any.type_url == type_url)
        };
        assert!(resources.iter().all(whole));
        assert!(resources.is_empty() || removed_resources.is_empty(), "removals come alone, and last");
        (nonce, type_url, resources.into_iter().map(|resource| resource.name).collect(), removed_resources)
    }

    fn owed(&self, request: &DeltaDiscoveryRequest) -> BTreeSet<Reference> {
        let Some(resource_type) = wire::resource_type(&request.type_url) else { return BTreeSet::new() };
        let names = request.resource_names_subscribe.iter();
        let names =
            names.filter(|name| *name != "*" && !request.initial_resource_versions.contains_key(*name));
        let asked = names.map(|name| Reference::new(resource_type, name.clone()));
        // What was sent along before it could be asked for is answered already.
        asked.filter(|reference| !self.subscriptions().contains_key(reference)).collect()
    }
}

impl Dialect for SotwSession {
    fn decode(bytes: &[u8]) -> Option<DiscoveryRequest> {
        DiscoveryRequest::decode(bytes).ok()
    }

    fn make(input: &mut Input<'_>, nonces: &[String]) -> DiscoveryRequest {
        let of_type = input.pick(&TYPES);
        let node = node(input);
        let (response_nonce, error_detail) = answer(input, nonces);
        let resource_names = names(input, of_type, 5);
        let type_url = type_url(of_type);
        DiscoveryRequest {
            node,
            type_url,
            resource_names,
            response_nonce,
            error_detail,
            ..DiscoveryRequest::default()
        }
    }

    fn read(bytes: &[u8]) -> (String, String, Vec<String>, Vec<String>) {
        let DiscoveryResponse { nonce, type_url, resources, version_info, .. } =
            DiscoveryResponse::decode(bytes).expect("others read it");
        assert!(!version_info.is_empty() && resources.iter().all(|any| any.type_url == type_url));
        let mut whole = resources.clone();
        whole.dedup();
        assert_eq!(whole.len(), resources.len(), "one resource twice");
        (nonce, type_url, Vec::new(), Vec::new())
    }

    /// Nothing can be said of a name alone: a response is of all of them, and comes when the last one was answered.
    fn owed(&self, _: &DiscoveryRequest) -> BTreeSet<Reference> {
        BTreeSet::new()
    }
}

fn delta_seeds() -> Vec<Vec<u8>> {
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: shop::WORKLOAD.to_owned(),
            client_features: vec![DEPENDENTS.to_owned()],
            ..Node::default()
        }),
        type_url: type_url(ResourceType::Listener),
        resource_names_subscribe: vec!["cart:80".to_owned(), "gone:80".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let locators = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/meshwork.v9.Novelty".to_owned(),
        ..request.clone()
    };
    vec![raw(&request.encode_to_vec()), raw(&locators.encode_to_vec()), made(), made().repeat(3)]
}

fn sotw_seeds() -> Vec<Vec<u8>> {
    let request = DiscoveryRequest {
        type_url: type_url(ResourceType::Cluster),
        resource_names: vec!["default/cart:80".to_owned(), "*".to_owned()],
        ..DiscoveryRequest::default()
    };
    vec![raw(&request.encode_to_vec()), made(), made().repeat(3)]
}

/// The message, as it came.
fn raw(message: &[u8]) -> Vec<u8> {
    let mut seed = vec![1];
    put_piece(message, &mut seed);
    seed
}

/// Each type asked for, answered, changed.
fn made() -> Vec<u8> {
    let asked = (0..4).flat_map(|of_type| [2, of_type, 1, 2, 0, 3, 4, 0, 5, 1, 6, 0, 0, 3, 0]);
    let answered = (0..4).flat_map(|of_type| [2, of_type, 0, 0, 3, 0, 0]);
    let changed = (0..16).flat_map(|number| [0, number * 3, number % 2]);
    asked.chain(answered).chain(changed).collect()
}
