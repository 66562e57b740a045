//! A client that wants everything, as Envoy does, in both dialects and every order that chance finds: listeners and where they
//! lead come and go, clusters and endpoints change, names are asked for beside the wildcard and given up, streams are
//! lost and begun anew, answers come late and refuse.
//!
//! At the end the client holds what it carries and what that leads to, and nothing else; and it waits for no Endpoints: a
//! Cluster that was sent is used only once its Endpoints have come after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meshwork_core::resource::ResourceType;
use meshwork_xds::codec::{Encoded, EncodedResource};
use meshwork_xds::convert::Reference;
use meshwork_xds::session::{ServerSession, Session, SotwSession};
use meshwork_xds::wire::{
    self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, ListValue,
    Status, Struct, Value, core::Node, value::Kind,
};
use prost::Message as _;

use crate::dice::Dice;

const SEEDS: u64 = 600;
const STEPS: usize = 150;
const ROUNDS_MAX: usize = 64;
const CARRIED: [&str; 3] = ["l0", "l1", "l2"];
const ROUTES: [&str; 3] = ["r0", "r1", "r2"];
const CLUSTERS: [&str; 4] = ["a", "b", "c", "d"];
const TYPES: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];

#[test]
fn every_interleaving_of_a_delta_session_with_wildcards_ends_in_the_truth() {
    seeds::<ServerSession>();
}

#[test]
fn every_interleaving_of_a_state_of_the_world_session_with_wildcards_ends_in_the_truth() {
    seeds::<SotwSession>();
}

fn seeds<D: Dialect>()
where
    D::Response: Encoded,
{
    for seed in 0..SEEDS {
        let ran = std::panic::catch_unwind(|| run::<D>(seed));
        assert!(ran.is_ok(), "the seed was {seed}");
    }
}

fn run<D: Dialect>(seed: u64)
where
    D::Response: Encoded,
{
    let dice = &mut Dice::new(seed);
    let mut link = Link::<D>::default();
    (0..12).for_each(|_| link.change(dice));
    link.connect(dice);
    for _ in 0..STEPS {
        match dice.below(24) {
            0..=4 => link.change(dice),
            5..=8 => link.notify(),
            9..=14 => drop(link.deliver_up()),
            15..=20 => drop(link.deliver_down(Take::All)),
            21 => drop(link.deliver_down(Take::Refuse)),
            22 => link.beside(dice),
            _ if dice.below(3) == 0 => link.connect(dice),
            _ => {}
        }
    }
    link.settle();
}

#[derive(Clone, Copy, PartialEq)]
enum Take {
    All,
    Refuse,
}

/// How everything is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Wildcard {
    /// A first request that names nothing.
    #[default]
    Legacy,
    Star,
}

/// What differs between the dialects.
trait Dialect: Session<Request: Clone> + Default {
    /// What a client says to a type's first request of a stream.
    fn first(client: &Client, resource_type: ResourceType) -> Self::Request;
    /// The names that it wants of a type are others now.
    fn names(client: &Client, resource_type: ResourceType, before: &BTreeSet<String>) -> Self::Request;
    fn answer(
        client: &Client,
        resource_type: ResourceType,
        nonce: &str,
        error: Option<Status>,
    ) -> Self::Request;
    fn read(bytes: &[u8]) -> Response;
}

/// A response of either.
struct Response {
    resource_type: ResourceType,
    nonce: String,
    updates: BTreeMap<String, u32>,
    removed: Vec<String>,
    /// What is not in it is gone.
    is_whole: bool,
}

/// What Envoy is as far as its config goes.
#[derive(Default)]
struct Client {
    wildcard: Wildcard,
    /// Clusters that it asks for by name, too.
    beside: BTreeSet<String>,
    held: BTreeMap<Reference, u32>,
    nonces: BTreeMap<ResourceType, String>,
    /// Clusters that have come, and not yet their Endpoints.
    waiting: BTreeSet<String>,
}

impl Client {
    /// Names that it asks for: of what it holds, and beside everything.
    fn wanted(&self, resource_type: ResourceType) -> BTreeSet<String> {
        let held = |of| self.held.keys().filter(move |held| held.resource_type == of);
        match resource_type {
            ResourceType::Endpoints => held(ResourceType::Cluster).map(|held| held.name.clone()).collect(),
            ResourceType::Route => {
                held(ResourceType::Listener).map(|held| held.name.replace('l', "r")).collect()
            }
            ResourceType::Cluster => self.beside.clone(),
            _ => BTreeSet::new(),
        }
    }

    /// With the wildcard, if that is said by a name.
    fn named(&self, resource_type: ResourceType) -> Vec<String> {
        let star = is_everything(resource_type) && self.wildcard == Wildcard::Star;
        self.wanted(resource_type).into_iter().chain(star.then(|| "*".to_owned())).collect()
    }

    fn take(&mut self, response: &Response) {
        let Response { resource_type, updates, removed, is_whole, .. } = response;
        let is_gone = |held: &Reference| {
            held.resource_type == *resource_type
                && (removed.contains(&held.name) || (*is_whole && !updates.contains_key(&held.name)))
        };
        self.held.retain(|held, _| !is_gone(held));
        let wanted = self.wanted(*resource_type);
        for (name, version) in updates {
            let reference = Reference::new(*resource_type, name.clone());
            if !is_everything(*resource_type) && !wanted.contains(name) {
                continue; // given up meanwhile
            }
            let before = self.held.insert(reference, *version);
            match resource_type {
                ResourceType::Cluster if before != Some(*version) => drop(self.waiting.insert(name.clone())),
                ResourceType::Endpoints => drop(self.waiting.remove(name)),
                _ => {}
            }
        }
        // What leads nowhere any more is let go of with what led there.
        let [endpoints, routes] = [ResourceType::Endpoints, ResourceType::Route].map(|of| self.wanted(of));
        self.held.retain(|held, _| match held.resource_type {
            ResourceType::Endpoints => endpoints.contains(&held.name),
            ResourceType::Route => routes.contains(&held.name),
            _ => true,
        });
        self.waiting.retain(|name| endpoints.contains(name));
    }
}

fn is_everything(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener)
}

/// Both ends, what is under way between them, and the truth.
struct Link<D: Dialect> {
    server: D,
    client: Client,
    truth: Truth,
    changed: BTreeSet<Reference>,
    up: VecDeque<D::Request>,
    down: VecDeque<Vec<u8>>,
    /// Types of which everything was answered on this stream.
    answered: BTreeSet<ResourceType>,
    /// What was refused, and has not changed since.
    refused: BTreeSet<Reference>,
}

#[derive(Default)]
struct Truth {
    versions: BTreeMap<Reference, u32>,
    leads: BTreeMap<String, BTreeSet<String>>,
    version_last: u32,
}

impl Truth {
    fn put(&mut self, reference: Reference) {
        self.version_last += 1;
        self.versions.insert(reference, self.version_last);
    }

    /// Clusters to which what exists of the carried listeners leads.
    fn led_to(&self) -> BTreeSet<String> {
        let exists = |of, name: &str| self.versions.contains_key(&Reference::new(of, name));
        let pairs = CARRIED.iter().zip(ROUTES).filter(|(listener, route)| {
            exists(ResourceType::Listener, listener) && exists(ResourceType::Route, route)
        });
        pairs.filter_map(|(_, route)| self.leads.get(route)).flatten().cloned().collect()
    }

    fn resolve(&self) -> impl FnMut(ResourceType, &str) -> Option<EncodedResource> + '_ {
        |resource_type, name| {
            let reference = Reference::new(resource_type, name);
            let version = self.versions.get(&reference)?.to_string();
            let points_to = match resource_type {
                ResourceType::Listener => vec![Reference::new(ResourceType::Route, name.replace('l', "r"))],
                ResourceType::Route => {
                    let clusters = self.leads.get(name).into_iter().flatten();
                    clusters.map(|name| Reference::new(ResourceType::Cluster, name.clone())).collect()
                }
                _ => Vec::new(),
            };
            let body = version.clone().into_bytes();
            Some(EncodedResource::new(
                &reference,
                &version,
                [name.as_bytes(), b" ", &body].concat(),
                points_to,
            ))
        }
    }
}

impl<D: Dialect> Default for Link<D> {
    fn default() -> Self {
        Self {
            server: D::default(),
            client: Client::default(),
            truth: Truth::default(),
            changed: BTreeSet::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            answered: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }
}

impl<D: Dialect> Link<D>
where
    D::Response: Encoded,
{
    /// A new stream: what was under way on the last one is lost. All types are asked for at once, in any order.
    fn connect(&mut self, dice: &mut Dice) {
        self.server = D::default();
        (self.up, self.down) = (VecDeque::new(), VecDeque::new());
        self.answered.clear();
        self.client.nonces.clear();
        self.client.wildcard = *dice.pick(&[Wildcard::Legacy, Wildcard::Star]);
        if self.client.wildcard == Wildcard::Legacy {
            self.client.beside.clear();
        }
        let mut types = TYPES.to_vec();
        while !types.is_empty() {
            let resource_type = types.remove(dice.below(types.len()));
            if is_everything(resource_type) || !self.client.wanted(resource_type).is_empty() {
                self.up.push_back(D::first(&self.client, resource_type));
            }
        }
    }

    fn change(&mut self, dice: &mut Dice) {
        let reference = match dice.below(8) {
            0 => Reference::new(ResourceType::Listener, *dice.pick(&CARRIED)),
            1..=3 => Reference::new(ResourceType::Route, *dice.pick(&ROUTES)),
            4 | 5 => Reference::new(ResourceType::Cluster, *dice.pick(&CLUSTERS)),
            _ => Reference::new(ResourceType::Endpoints, *dice.pick(&CLUSTERS)),
        };
        if reference.resource_type == ResourceType::Route {
            let clusters = CLUSTERS.iter().filter(|_| dice.below(2) == 0);
            self.truth
                .leads
                .insert(reference.name.clone(), clusters.map(|name| (*name).to_owned()).collect());
        }
        if dice.below(5) == 0 {
            self.truth.versions.remove(&reference);
        } else {
            self.truth.put(reference.clone());
        }
        self.refused.remove(&reference);
        self.changed.insert(reference);
    }

    fn notify(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        let concerns =
            &mut |resource_type, name: &str| changed.contains(&Reference::new(resource_type, name));
        let responses = self.server.changed(concerns, "7", &mut self.truth.resolve());
        self.sent(responses);
    }

    /// Asks for a cluster by name, or gives that up: which only who said `*` can.
    fn beside(&mut self, dice: &mut Dice) {
        if self.client.wildcard == Wildcard::Legacy {
            return;
        }
        let before = self.client.wanted(ResourceType::Cluster);
        let name = (*dice.pick(&CLUSTERS)).to_owned();
        if !self.client.beside.remove(&name) {
            self.client.beside.insert(name);
        }
        self.up.push_back(D::names(&self.client, ResourceType::Cluster, &before));
    }

    fn deliver_up(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        let outcome =
            self.server.request(request, "7", &mut self.truth.resolve()).expect("nothing is too much");
        self.sent(outcome.responses);
        true
    }

    fn sent(&mut self, responses: Vec<D::Response>) {
        for response in responses {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            self.down.push_back(bytes);
        }
    }

    fn deliver_down(&mut self, take: Take) -> bool {
        let Some(bytes) = self.down.pop_front() else { return false };
        let response = D::read(&bytes);
        let resource_type = response.resource_type;
        self.client.nonces.insert(resource_type, response.nonce.clone());
        self.answered.insert(resource_type);
        if take == Take::Refuse && !response.updates.is_empty() {
            let updates = response.updates.keys().map(|name| Reference::new(resource_type, name.clone()));
            self.refused.extend(updates);
            let refused = Status { message: "not today".to_owned(), ..Status::default() };
            self.up.push_back(D::answer(&self.client, resource_type, &response.nonce, Some(refused)));
            return true;
        }
        let dependents = [ResourceType::Endpoints, ResourceType::Route];
        let before = dependents.map(|of| self.client.wanted(of));
        self.client.take(&response);
        self.up.push_back(D::answer(&self.client, resource_type, &response.nonce, None));
        for (of, before) in dependents.into_iter().zip(before) {
            if self.client.wanted(of) != before {
                self.up.push_back(D::names(&self.client, of, &before));
            }
        }
        true
    }

    /// Delivers until nothing is under way, then holds the client's state against the truth.
    fn settle(&mut self) {
        self.quiet();
        // What was refused is sent again only when it changes.
        for reference in std::mem::take(&mut self.refused) {
            if self.truth.versions.contains_key(&reference) {
                self.truth.put(reference.clone());
            }
            self.changed.insert(reference);
        }
        self.quiet();
        self.check();
    }

    fn quiet(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.notify();
            while self.deliver_up() || self.deliver_down(Take::All) {}
            if self.changed.is_empty() && self.up.is_empty() && self.down.is_empty() {
                return;
            }
        }
        panic!("it never gets quiet");
    }

    fn check(&self) {
        let truth = &self.truth.versions;
        let of = |resource_type, names: &BTreeSet<String>| -> BTreeMap<Reference, u32> {
            let references = names.iter().map(|name| Reference::new(resource_type, name.clone()));
            references.filter_map(|reference| Some((reference.clone(), *truth.get(&reference)?))).collect()
        };
        let held = |resource_type| -> BTreeMap<Reference, u32> {
            let held = self.client.held.iter().filter(|(held, _)| held.resource_type == resource_type);
            held.map(|(held, version)| (held.clone(), *version)).collect()
        };
        let carried = CARRIED.map(str::to_owned).into();
        let clusters = self.truth.led_to().union(&self.client.beside).cloned().collect();
        assert_eq!(held(ResourceType::Listener), of(ResourceType::Listener, &carried));
        assert_eq!(held(ResourceType::Cluster), of(ResourceType::Cluster, &clusters));
        for resource_type in [ResourceType::Endpoints, ResourceType::Route] {
            // Of these state-of-the-world can't say that one is gone.
            let (held, wanted) = (held(resource_type), self.client.wanted(resource_type));
            for (reference, version) in of(resource_type, &wanted) {
                assert_eq!(held.get(&reference), Some(&version), "{reference}");
            }
        }
        let waiting = of(ResourceType::Endpoints, &self.client.waiting);
        assert!(waiting.is_empty(), "Envoy would wait for {waiting:?}");
        for resource_type in TYPES.into_iter().filter(|of| is_everything(*of)) {
            assert!(self.answered.contains(&resource_type), "{resource_type:?} was never answered");
        }
    }
}

/// As `meshwork bootstrap envoy` writes it.
fn node() -> Option<Node> {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let list = ListValue { values: CARRIED.iter().map(|name| text(name)).collect() };
    let field = |name: &str, kind| Struct { fields: [(name.to_owned(), Value { kind: Some(kind) })].into() };
    let metadata = field("meshwork", Kind::StructValue(field("upstreams", Kind::ListValue(list))));
    Some(Node { metadata: Some(metadata), ..Node::default() })
}

fn read(body: &[u8]) -> (String, u32) {
    let text = std::str::from_utf8(body).expect("a text");
    let (name, version) = text.split_once(' ').expect("two words");
    (name.to_owned(), version.parse().expect("a number"))
}

impl Dialect for ServerSession {
    fn first(client: &Client, resource_type: ResourceType) -> DeltaDiscoveryRequest {
        // Endpoints that came before their Cluster are of no use to it. (An Envoy says that it holds them, and waits.)
        let is_of_use = |held: &Reference| {
            resource_type != ResourceType::Endpoints || !client.waiting.contains(&held.name)
        };
        let held =
            client.held.iter().filter(|(held, _)| held.resource_type == resource_type && is_of_use(held));
        DeltaDiscoveryRequest {
            node: node(),
            type_url: wire::type_url(resource_type),
            resource_names_subscribe: client.named(resource_type),
            initial_resource_versions: held
                .map(|(held, version)| (held.name.clone(), version.to_string()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn names(
        client: &Client,
        resource_type: ResourceType,
        before: &BTreeSet<String>,
    ) -> DeltaDiscoveryRequest {
        let now = client.wanted(resource_type);
        DeltaDiscoveryRequest {
            node: node(),
            type_url: wire::type_url(resource_type),
            resource_names_subscribe: now.difference(before).cloned().collect(),
            resource_names_unsubscribe: before.difference(&now).cloned().collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn answer(
        _: &Client,
        resource_type: ResourceType,
        nonce: &str,
        error: Option<Status>,
    ) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: wire::type_url(resource_type),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn read(bytes: &[u8]) -> Response {
        let response = DeltaDiscoveryResponse::decode(bytes).expect("a response");
        let bodies = response.resources.iter().filter_map(|resource| resource.resource.as_ref());
        Response {
            resource_type: wire::resource_type(&response.type_url).expect("a known type"),
            nonce: response.nonce.clone(),
            updates: bodies.map(|any| read(&any.value)).collect(),
            removed: response.removed_resources.clone(),
            is_whole: false,
        }
    }
}

impl Dialect for SotwSession {
    fn first(client: &Client, resource_type: ResourceType) -> DiscoveryRequest {
        DiscoveryRequest {
            node: node(),
            type_url: wire::type_url(resource_type),
            resource_names: client.named(resource_type),
            // Of the last stream: it says nothing here.
            version_info: "6".to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    fn names(client: &Client, resource_type: ResourceType, _: &BTreeSet<String>) -> DiscoveryRequest {
        let nonce = client.nonces.get(&resource_type).cloned().unwrap_or_default();
        Self::answer(client, resource_type, &nonce, None)
    }

    fn answer(
        client: &Client,
        resource_type: ResourceType,
        nonce: &str,
        error: Option<Status>,
    ) -> DiscoveryRequest {
        DiscoveryRequest {
            node: node(),
            type_url: wire::type_url(resource_type),
            resource_names: client.named(resource_type),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..DiscoveryRequest::default()
        }
    }

    fn read(bytes: &[u8]) -> Response {
        let response = DiscoveryResponse::decode(bytes).expect("a response");
        let resource_type = wire::resource_type(&response.type_url).expect("a known type");
        Response {
            resource_type,
            nonce: response.nonce.clone(),
            updates: response.resources.iter().map(|any| read(&any.value)).collect(),
            removed: Vec::new(),
            is_whole: is_everything(resource_type),
        }
    }
}
