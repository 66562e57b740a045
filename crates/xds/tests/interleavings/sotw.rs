//! A state-of-the-world session against a client that behaves as gRPC and Envoy do, in every order that chance finds:
//! answers that come late, refusals, names asked for again and given up, resources that change, go and come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meshwork_core::resource::ResourceType;
use meshwork_xds::codec::{Encoded as _, EncodedResource, SotwResponse};
use meshwork_xds::convert::Reference;
use meshwork_xds::session::server::Told as _;
use meshwork_xds::session::{Session as _, SotwSession};
use meshwork_xds::wire::{self, DiscoveryRequest, DiscoveryResponse, Status};
use prost::Message as _;

use crate::dice::Dice;

const SEEDS: u64 = 400;
const STEPS: usize = 150;
const ROUNDS_MAX: usize = 64;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TYPES: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];

#[test]
fn every_interleaving_of_a_state_of_the_world_session_ends_in_the_truth() {
    for seed in 0..SEEDS {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "the seed was {seed}");
    }
}

fn run(seed: u64) {
    let dice = &mut Dice::new(seed);
    let mut link = Link::default();
    for _ in 0..STEPS {
        match dice.below(10) {
            0 | 1 => link.want(dice),
            2 | 3 => link.change(dice),
            4 => link.notify(),
            5..=7 => drop(link.deliver_up()),
            8 if dice.below(4) == 0 => drop(link.deliver_down(Take::Refuse)),
            _ => drop(link.deliver_down(Take::All)),
        }
    }
    link.settle();
}

#[derive(Clone, Copy, PartialEq)]
enum Take {
    All,
    Refuse,
}

/// Both ends, what is under way between them, and the truth.
#[derive(Default)]
struct Link {
    server: SotwSession,
    truth: BTreeMap<Reference, u32>,
    changed: BTreeSet<Reference>,
    version_last: u32,
    wanted: BTreeMap<ResourceType, BTreeSet<String>>,
    nonces: BTreeMap<ResourceType, String>,
    held: BTreeMap<Reference, u32>,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<DiscoveryResponse>,
}

impl Link {
    fn change(&mut self, dice: &mut Dice) {
        let reference = Reference::new(*dice.pick(&TYPES), *dice.pick(&NAMES));
        if dice.below(4) == 0 {
            self.truth.remove(&reference);
        } else {
            self.version_last += 1;
            self.truth.insert(reference.clone(), self.version_last);
        }
        self.changed.insert(reference);
    }

    fn want(&mut self, dice: &mut Dice) {
        let resource_type = *dice.pick(&TYPES);
        let wanted = self.wanted.entry(resource_type).or_default();
        let name = (*dice.pick(&NAMES)).to_owned();
        if !wanted.remove(&name) {
            wanted.insert(name);
        }
        let wanted = wanted.clone();
        self.held.retain(|held, _| held.resource_type != resource_type || wanted.contains(&held.name));
        self.send(resource_type, None);
    }

    /// As clients do: all names of the type, and the nonce of its last response.
    fn send(&mut self, resource_type: ResourceType, error_detail: Option<Status>) {
        self.up.push_back(DiscoveryRequest {
            type_url: wire::type_url(resource_type),
            resource_names: self.wanted.get(&resource_type).into_iter().flatten().cloned().collect(),
            response_nonce: self.nonces.get(&resource_type).cloned().unwrap_or_default(),
            error_detail,
            ..DiscoveryRequest::default()
        });
    }

    fn deliver_up(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        let responses = self.server.request(request, "7", &mut resolve(&self.truth)).unwrap().responses;
        self.sent(responses);
        true
    }

    fn notify(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        let concerns =
            &mut |resource_type, name: &str| changed.contains(&Reference::new(resource_type, name));
        let responses = self.server.changed(concerns, "7", &mut resolve(&self.truth));
        self.sent(responses);
    }

    /// A type has one response under way at most.
    fn sent(&mut self, responses: Vec<SotwResponse>) {
        for response in responses {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            self.down.push_back(DiscoveryResponse::decode(&bytes[..]).unwrap());
        }
        let types: BTreeSet<_> = self.down.iter().map(|response| &response.type_url).collect();
        assert_eq!(types.len(), self.down.len(), "two responses of one type: {:?}", self.down);
    }

    fn deliver_down(&mut self, take: Take) -> bool {
        let Some(response) = self.down.pop_front() else { return false };
        let resource_type = wire::resource_type(&response.type_url).unwrap();
        self.nonces.insert(resource_type, response.nonce);
        let told: BTreeMap<String, u32> = response.resources.iter().map(|any| read(&any.value)).collect();
        // What is not there is gone, also for whoever refuses what is there.
        if matches!(resource_type, ResourceType::Cluster | ResourceType::Listener) {
            self.held.retain(|held, _| held.resource_type != resource_type || told.contains_key(&held.name));
        }
        if take == Take::Refuse {
            let refused = Status { message: "not today".to_owned(), ..Status::default() };
            self.send(resource_type, Some(refused));
            return true;
        }
        let wanted = self.wanted.entry(resource_type).or_default();
        for (name, version) in told.into_iter().filter(|(name, _)| wanted.contains(name)) {
            self.held.insert(Reference::new(resource_type, name), version);
        }
        self.send(resource_type, None);
        true
    }

    /// Delivers until nothing is under way, then holds the client's state against the truth.
    fn settle(&mut self) {
        // What was refused is sent again only when it changes.
        for reference in self.truth.clone().into_keys() {
            self.version_last += 1;
            self.truth.insert(reference.clone(), self.version_last);
            self.changed.insert(reference);
        }
        self.notify();
        for _ in 0..ROUNDS_MAX {
            while self.deliver_up() || self.deliver_down(Take::All) {}
            if self.up.is_empty() && self.down.is_empty() {
                return self.check();
            }
        }
        panic!("it never gets quiet");
    }

    fn check(&self) {
        for (resource_type, names) in &self.wanted {
            for name in names {
                let reference = Reference::new(*resource_type, name.clone());
                let (held, truth) = (self.held.get(&reference), self.truth.get(&reference));
                let full = matches!(resource_type, ResourceType::Cluster | ResourceType::Listener);
                if full || truth.is_some() {
                    assert_eq!(held, truth, "{reference}");
                }
                assert!(!self.server.awaits_answer(*resource_type, name), "{reference}");
            }
        }
        let wanted = self.wanted.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(self.server.subscriptions().len(), wanted);
    }
}

fn resolve(
    truth: &BTreeMap<Reference, u32>,
) -> impl FnMut(ResourceType, &str) -> Option<EncodedResource> + '_ {
    |resource_type, name| {
        let reference = Reference::new(resource_type, name);
        let version = truth.get(&reference)?.to_string();
        Some(EncodedResource::new(&reference, &version, format!("{name} {version}").into_bytes(), Vec::new()))
    }
}

fn read(body: &[u8]) -> (String, u32) {
    let text = std::str::from_utf8(body).unwrap();
    let (name, version) = text.split_once(' ').unwrap();
    (name.to_owned(), version.parse().unwrap())
}

/// One session, step by step: what it sends as text, `Cluster a b` a response.
#[derive(Default)]
struct Steps {
    server: SotwSession,
    truth: BTreeMap<Reference, u32>,
}

impl Steps {
    fn put(&mut self, resource_type: ResourceType, name: &str, version: u32) {
        self.truth.insert(Reference::new(resource_type, name), version);
    }

    fn ask(&mut self, resource_type: ResourceType, names: &[&str], nonce: &str) -> Vec<String> {
        let request = DiscoveryRequest {
            type_url: wire::type_url(resource_type),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        };
        let responses = self.server.request(request, "7", &mut resolve(&self.truth)).unwrap().responses;
        responses.iter().map(text).collect()
    }

    fn change(&mut self) -> Vec<String> {
        let responses = self.server.changed(&mut |_, _| true, "7", &mut resolve(&self.truth));
        responses.iter().map(text).collect()
    }
}

fn text(response: &SotwResponse) -> String {
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    let response = DiscoveryResponse::decode(&bytes[..]).unwrap();
    let mut text = response.type_url.rsplit('.').next().unwrap().to_owned();
    for resource in response.resources {
        let (name, version) = read(&resource.value);
        text += &format!(" {name}@{version}");
    }
    format!("{text} #{}", response.nonce)
}

#[test]
fn a_listener_that_does_not_exist_is_answered_at_once() {
    let mut steps = Steps::default();
    assert_eq!(steps.ask(ResourceType::Listener, &["a"], ""), ["Listener #1"]);
    assert_eq!(steps.ask(ResourceType::Endpoints, &["a"], ""), [""; 0], "of these nothing can be said");
}

#[test]
fn whoever_asks_for_everything_is_told_at_once_that_there_is_nothing() {
    let mut steps = Steps::default();
    steps.put(ResourceType::Cluster, "a", 1);
    assert_eq!(steps.ask(ResourceType::Cluster, &[], ""), ["Cluster #1"]);
    assert_eq!(steps.ask(ResourceType::Listener, &["*"], ""), ["Listener #2"]);
    assert_eq!(steps.ask(ResourceType::Route, &[], ""), [""; 0], "only the two were ever asked for so");
}

#[test]
fn a_cluster_that_changes_is_followed_by_its_endpoints_though_these_did_not() {
    let mut steps = Steps::default();
    steps.put(ResourceType::Cluster, "a", 1);
    steps.put(ResourceType::Endpoints, "a", 1);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a"], ""), ["Cluster a@1 #1"]);
    assert_eq!(steps.ask(ResourceType::Endpoints, &["a"], ""), ["ClusterLoadAssignment a@1 #2"]);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a"], "1"), [""; 0]);
    assert_eq!(steps.ask(ResourceType::Endpoints, &["a"], "2"), [""; 0]);
    steps.put(ResourceType::Cluster, "a", 2);
    assert_eq!(steps.change(), ["Cluster a@2 #3", "ClusterLoadAssignment a@1 #4"]);
}

#[test]
fn what_goes_goes_last_and_what_is_full_is_said_whole() {
    let mut steps = Steps::default();
    for name in ["a", "b"] {
        steps.put(ResourceType::Cluster, name, 1);
    }
    steps.put(ResourceType::Route, "r", 1);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b", "c"], ""), ["Cluster a@1 b@1 #1"]);
    assert_eq!(steps.ask(ResourceType::Route, &["r"], ""), ["RouteConfiguration r@1 #2"]);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b", "c"], "1"), [""; 0]);
    assert_eq!(steps.ask(ResourceType::Route, &["r"], "2"), [""; 0]);
    // One goes, one comes, and the route changes from the one to the other.
    steps.truth.remove(&Reference::new(ResourceType::Cluster, "a"));
    steps.put(ResourceType::Cluster, "c", 1);
    steps.put(ResourceType::Route, "r", 2);
    assert_eq!(steps.change(), ["Cluster a@1 b@1 c@1 #3", "RouteConfiguration r@2 #4"]);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b", "c"], "2"), [""; 0], "that is an older one's");
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b", "c"], "3"), ["Cluster b@1 c@1 #5"]);
}

#[test]
fn routes_do_not_overtake_the_clusters_that_wait_for_the_client() {
    let mut steps = Steps::default();
    steps.put(ResourceType::Cluster, "a", 1);
    steps.put(ResourceType::Route, "r", 1);
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b"], ""), ["Cluster a@1 #1"]);
    assert_eq!(steps.ask(ResourceType::Route, &["r"], ""), ["RouteConfiguration r@1 #2"]);
    assert_eq!(steps.ask(ResourceType::Route, &["r"], "2"), [""; 0]);
    steps.put(ResourceType::Cluster, "b", 1);
    steps.put(ResourceType::Route, "r", 2);
    assert_eq!(steps.change(), [""; 0], "the clusters' last response has no answer yet");
    let told = ["Cluster a@1 b@1 #3", "RouteConfiguration r@2 #4"];
    assert_eq!(steps.ask(ResourceType::Cluster, &["a", "b"], "1"), told);
}

/// A node that carries `l`, which leads by `r` to clusters.
fn carrying(request: DiscoveryRequest) -> DiscoveryRequest {
    use wire::{ListValue, Struct, Value, value::Kind};
    let list = ListValue { values: vec![Value { kind: Some(Kind::StringValue("l".to_owned())) }] };
    let field = |name: &str, kind| Struct { fields: [(name.to_owned(), Value { kind: Some(kind) })].into() };
    let metadata = field("meshwork", Kind::StructValue(field("upstreams", Kind::ListValue(list))));
    let node = wire::core::Node { metadata: Some(metadata), ..wire::core::Node::default() };
    DiscoveryRequest { node: Some(node), ..request }
}

/// `l` leads by `r` to the clusters that the route's entry names.
fn leading<'a>(
    truth: &'a BTreeMap<Reference, u32>,
    clusters: &'a [&str],
) -> impl FnMut(ResourceType, &str) -> Option<EncodedResource> + 'a {
    move |resource_type, name| {
        let reference = Reference::new(resource_type, name);
        let version = truth.get(&reference)?.to_string();
        let points_to = match resource_type {
            ResourceType::Listener => vec![Reference::new(ResourceType::Route, "r")],
            ResourceType::Route => {
                clusters.iter().map(|name| Reference::new(ResourceType::Cluster, *name)).collect()
            }
            _ => Vec::new(),
        };
        Some(EncodedResource::new(&reference, &version, format!("{name} {version}").into_bytes(), points_to))
    }
}

#[test]
fn everything_is_what_the_client_carries_until_it_names_something() {
    let mut steps = Steps::default();
    for (resource_type, name) in [
        (ResourceType::Listener, "l"),
        (ResourceType::Route, "r"),
        (ResourceType::Cluster, "a"),
        (ResourceType::Cluster, "b"),
    ] {
        steps.put(resource_type, name, 1);
    }
    let mut server = SotwSession::new();
    let ask =
        |server: &mut SotwSession, truth: &_, leads: &[&str], resource_type, names: &[&str], nonce: &str| {
            let request = carrying(DiscoveryRequest {
                type_url: wire::type_url(resource_type),
                resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
                response_nonce: nonce.to_owned(),
                ..DiscoveryRequest::default()
            });
            let responses = server.request(request, "7", &mut leading(truth, leads)).unwrap().responses;
            responses.iter().map(text).collect::<Vec<_>>()
        };
    let change = |server: &mut SotwSession, truth: &_, leads: &[&str]| {
        let responses = server.changed(&mut |_, _| true, "7", &mut leading(truth, leads));
        responses.iter().map(text).collect::<Vec<_>>()
    };
    let truth = &steps.truth;
    assert_eq!(ask(&mut server, truth, &["a"], ResourceType::Cluster, &[], ""), ["Cluster a@1 #1"]);
    assert_eq!(ask(&mut server, truth, &["a"], ResourceType::Cluster, &[], "1"), [""; 0]);
    assert_eq!(ask(&mut server, truth, &["a"], ResourceType::Listener, &[], ""), ["Listener l@1 #2"]);
    assert_eq!(ask(&mut server, truth, &["a"], ResourceType::Listener, &[], "2"), [""; 0]);
    assert_eq!(change(&mut server, truth, &["a", "b"]), ["Cluster a@1 b@1 #3"]);
    assert_eq!(ask(&mut server, truth, &["a", "b"], ResourceType::Cluster, &[], "3"), [""; 0]);
    assert_eq!(change(&mut server, truth, &["b"]), ["Cluster b@1 #4"]);
    // It leaves and comes back while nobody has answered.
    assert_eq!(change(&mut server, truth, &["a", "b"]), [""; 0]);
    assert_eq!(change(&mut server, truth, &["b"]), [""; 0]);
    assert_eq!(change(&mut server, truth, &["a", "b"]), [""; 0]);
    let told = ask(&mut server, truth, &["a", "b"], ResourceType::Cluster, &[], "4");
    assert_eq!(told, ["Cluster a@1 b@1 #5"]);
    // With the first name everything ends, and an empty list then means nothing.
    assert_eq!(ask(&mut server, truth, &["a", "b"], ResourceType::Cluster, &["a"], "5"), [""; 0]);
    assert_eq!(server.subscriptions().len(), 2, "the cluster and the listener");
    assert_eq!(ask(&mut server, truth, &["a", "b"], ResourceType::Cluster, &[], "5"), [""; 0]);
    assert_eq!(change(&mut server, truth, &["a", "b"]), [""; 0]);
    let told = ask(&mut server, truth, &["a", "b"], ResourceType::Cluster, &["*", "c"], "5");
    assert_eq!(told, ["Cluster a@1 b@1 #6"]);
}
