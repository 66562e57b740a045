//! One sidecar, its stream to the control plane, and what both must keep to at every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meshwork_core::compile::Features;
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_core::version::version;
use meshwork_xds::codec::{DeltaResponse, Encoded as _};
use meshwork_xds::convert::Reference;
use meshwork_xds::session::client::{Reaction, Sidecar, Versioned};
use meshwork_xds::session::server::Told as _;
use meshwork_xds::session::{ClientSession, ServerSession, Session as _};
use meshwork_xds::wire::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;

use crate::dice::Dice;
use crate::world::{DAMAGED, State, World, closure, own};

pub(crate) struct Link {
    namespace: &'static str,
    workload: String,
    pub(crate) client: ClientSession,
    /// What the proxy would serve traffic by.
    config: BTreeMap<Reference, Versioned>,
    stream: Option<Stream>,
}

/// Both directions of a stream, in order, and what the test knows of it.
struct Stream {
    server: ServerSession,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<Vec<u8>>,
    /// What the server last compared with.
    seen: State,
    /// The version last sent of each name, `None`: its absence.
    sent: BTreeMap<Reference, Option<String>>,
    subscribed: BTreeSet<Reference>,
    started: BTreeSet<ResourceType>,
}

impl Link {
    pub(crate) fn new(namespace: &'static str, number: usize) -> Self {
        let workload = format!("{namespace}/web-{number}");
        let client = ClientSession::new(Sidecar {
            workload: workload.clone(),
            trust_domain: "mesh.local".to_owned(),
            version: "0.1.0".to_owned(),
            features: Features::ALL.names().map(str::to_owned).collect(),
            mesh_id: None,
        });
        Self { namespace, workload, client, config: BTreeMap::new(), stream: None }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    pub(crate) fn connect(&mut self, world: &World) {
        let up = self.client.connected().into();
        self.stream = Some(Stream {
            server: ServerSession::new(),
            up,
            down: VecDeque::new(),
            seen: world.now.clone(),
            sent: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            started: BTreeSet::new(),
        });
    }

    /// Whatever is under way is lost.
    pub(crate) fn lose(&mut self) {
        self.stream = None;
        self.client.disconnected();
    }

    /// A new process, with what the old one wrote to its disk.
    pub(crate) fn restart(&mut self) {
        let held: Vec<_> = self.config.values().cloned().collect();
        *self = Self {
            config: std::mem::take(&mut self.config),
            ..Self::new(self.namespace, self.workload.rsplit('-').next().unwrap().parse().unwrap())
        };
        for removed in self.client.restore(&held) {
            self.config.remove(&removed);
        }
    }

    /// An application looks up a name of the namespace.
    pub(crate) fn want_names(&mut self, namespace: &str) {
        let reaction = self.client.want_names(namespace).expect("within the limits");
        self.take(reaction);
    }

    pub(crate) fn drop_names(&mut self, namespace: &str) {
        let reaction = self.client.drop_names(namespace);
        self.take(reaction);
    }

    pub(crate) fn want(&mut self, name: &str) {
        let reaction = self.client.want(name).expect("few are wanted");
        self.take(reaction);
    }

    pub(crate) fn drop(&mut self, name: &str) {
        let reaction = self.client.drop(name);
        self.take(reaction);
    }

    /// Asks again for something that the sidecar holds and has asked for.
    pub(crate) fn resubscribe(&mut self, dice: &mut Dice) {
        let held: Vec<_> = self.client.held().map(|(reference, _)| reference.clone()).collect();
        if let (Some(stream), [_, ..]) = (&mut self.stream, &held[..]) {
            let Reference { resource_type, name } = dice.pick(&held).clone();
            stream.up.push_back(DeltaDiscoveryRequest {
                type_url: wire::type_url(resource_type),
                resource_names_subscribe: vec![name],
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    /// The server takes a request. `false`: there was none.
    pub(crate) fn deliver_up(&mut self, world: &mut World) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let Some(request) = stream.up.pop_front() else { return false };
        let asked = stream.asked(&request, world, self.namespace);
        let mut resolve = |resource_type: ResourceType, name: &str| {
            world.resolve(self.namespace, &Reference::new(resource_type, name))
        };
        let outcome = stream.server.request(request, "1", &mut resolve).expect("within the limits");
        stream.send(outcome.responses, &asked.again);
        let kept: BTreeSet<_> = stream.server.subscriptions().keys().cloned().collect();
        stream.sent.retain(|reference, _| kept.contains(reference));
        for reference in &asked.to_be_answered {
            assert!(stream.sent.contains_key(reference), "{reference} was asked for and not answered");
        }
        true
    }

    /// The server compares with what changed since it last did.
    pub(crate) fn notify(&mut self, world: &mut World) {
        let Some(stream) = &mut self.stream else { return };
        let seen = std::mem::replace(&mut stream.seen, world.now.clone());
        let mut concerns = seen.concerns(&world.now, self.namespace);
        let mut resolve = |resource_type: ResourceType, name: &str| {
            world.resolve(self.namespace, &Reference::new(resource_type, name))
        };
        let responses = stream.server.changed(&mut concerns, "1", &mut resolve);
        stream.send(responses, &BTreeSet::new());
    }

    /// The sidecar takes a response. `false`: there was none.
    pub(crate) fn deliver_down(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let Some(bytes) = stream.down.pop_front() else { return false };
        let response = DeltaDiscoveryResponse::decode(&bytes[..]).expect("the server's own bytes");
        let damaged = response.resources.iter().filter(|resource| resource.version.ends_with(DAMAGED));
        let damaged: BTreeSet<_> = damaged.map(|resource| resource.name.clone()).collect();
        let before = self.config.clone();
        let reaction = self.client.response(response).expect("one mesh, settings first");
        let refused: BTreeSet<_> =
            reaction.refused.iter().map(|refused| refused.reference.name.clone()).collect();
        assert_eq!(refused, damaged, "what is damaged is refused, and nothing else");
        let kept: Vec<_> = reaction.refused.iter().map(|refused| refused.reference.clone()).collect();
        let removed: BTreeSet<_> = reaction.removed.iter().cloned().collect();
        self.take(reaction);
        for reference in kept.iter().filter(|reference| !removed.contains(reference)) {
            assert_eq!(self.config.get(reference), before.get(reference), "{reference} kept its last good");
        }
        true
    }

    fn take(&mut self, reaction: Reaction) {
        let Reaction { requests, applied, removed, absent: _, refused: _ } = reaction;
        for reference in removed {
            assert!(self.config.remove(&reference).is_some(), "{reference} was removed but never there");
        }
        for versioned in applied {
            self.config.insert(meshwork_xds::convert::reference(&versioned.resource), versioned);
        }
        if let Some(stream) = &mut self.stream {
            stream.up.extend(requests);
        }
    }

    fn roots(&self) -> impl Iterator<Item = Reference> + '_ {
        let wanted = self.client.wanted().map(|name| Reference::new(ResourceType::Listener, name));
        let names = self.client.wanted_names().map(|name| Reference::new(ResourceType::NameTable, name));
        wanted.chain(names).chain(own(&self.workload))
    }

    /// What holds after every step.
    pub(crate) fn check(&self, world: &World) {
        let held: BTreeMap<_, _> = self.client.held().collect();
        let config: BTreeMap<_, _> = self
            .config
            .iter()
            .map(|(reference, versioned)| (reference, versioned.version.as_str()))
            .collect();
        assert_eq!(held, config, "session and proxy hold the same");
        let needed = closure(self.roots(), |reference| {
            self.config.get(reference).map(|versioned| versioned.resource.clone())
        });
        for (reference, Versioned { version, resource }) in &self.config {
            assert!(needed.contains_key(reference), "{reference} is held and needed by nothing");
            assert_eq!(Some(resource), world.history.get(version), "{reference} was the truth at some time");
            if let Resource::Listener(listener) = resource
                && !listener.name.contains('.')
            {
                assert_eq!(
                    listener.target.service.namespace, self.namespace,
                    "{} is another's",
                    listener.name
                );
            }
        }
    }

    /// What holds once nothing is under way any more.
    pub(crate) fn check_settled(&self, world: &World) {
        let truth = closure(self.roots(), |reference| world.truth(self.namespace, reference));
        let own = own(&self.workload);
        for (reference, resource) in &truth {
            let held = self.config.get(reference);
            match resource {
                Some(resource) => {
                    let Some(held) = held else { panic!("{reference} is missing") };
                    assert_eq!(held.resource, *resource);
                    assert_eq!(held.version, version(resource).to_string());
                }
                None => assert!(held.is_none() || own.contains(reference), "{reference} is gone"),
            }
        }
        let stream = self.stream.as_ref().expect("connected at the end");
        let subscribed: BTreeSet<_> = stream.server.subscriptions().keys().collect();
        assert_eq!(subscribed, truth.keys().collect(), "subscribed to what is needed, and to nothing else");
        for (reference, subscription) in stream.server.subscriptions() {
            assert_eq!(subscription.refused(), None, "{reference}");
            let Reference { resource_type, name } = reference;
            assert!(!stream.server.awaits_answer(*resource_type, name), "{reference} was not acknowledged");
        }
    }
}

/// What a request asks for, as the test understands it.
struct Asked {
    /// Named again: it may be sent though it didn't change.
    again: BTreeSet<Reference>,
    to_be_answered: BTreeSet<Reference>,
}

impl Stream {
    fn asked(&mut self, request: &DeltaDiscoveryRequest, world: &mut World, namespace: &str) -> Asked {
        let resource_type = wire::resource_type(&request.type_url).expect("a type of ours");
        let first = self.started.insert(resource_type);
        for name in &request.resource_names_unsubscribe {
            let reference = Reference::new(resource_type, name.clone());
            self.subscribed.remove(&reference);
            self.sent.remove(&reference);
        }
        let mut asked = Asked { again: BTreeSet::new(), to_be_answered: BTreeSet::new() };
        if !request.resource_names_unsubscribe.is_empty() {
            // What was included may go along, and come again.
            let included = self.sent.keys().filter(|sent| !self.subscribed.contains(sent));
            asked.again.extend(included.cloned());
        }
        for name in &request.resource_names_subscribe {
            let reference = Reference::new(resource_type, name.clone());
            let new = self.subscribed.insert(reference.clone());
            let included = new && self.sent.contains_key(&reference);
            let held = request.initial_resource_versions.get(name).filter(|_| first);
            let current = world.resolve(namespace, &reference).map(|resource| resource.version().to_string());
            if let Some(held) = held
                && current.as_ref() == Some(held)
            {
                self.sent.insert(reference, current);
            } else if !included {
                self.sent.remove(&reference);
                asked.to_be_answered.insert(reference.clone());
                asked.again.insert(reference);
            }
        }
        asked
    }

    /// Checks a push and puts it on its way.
    fn send(&mut self, responses: Vec<DeltaResponse>, again: &BTreeSet<Reference>) {
        let mut place = (0, 0);
        for response in responses {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            let message = DeltaDiscoveryResponse::decode(&bytes[..]).expect("the server's own bytes");
            let resource_type = wire::resource_type(&message.type_url).expect("a type of ours");
            let next = if message.resources.is_empty() {
                (1, -(resource_type as i32))
            } else {
                (0, resource_type as i32)
            };
            assert!(place <= next, "clusters, endpoints, listeners, routes; removals last");
            place = next;
            for resource in message.resources {
                let reference = Reference::new(resource_type, resource.name);
                let last = self.sent.insert(reference.clone(), Some(resource.version.clone()));
                let unchanged = last == Some(Some(resource.version));
                assert!(!unchanged || again.contains(&reference), "{reference} was sent and didn't change");
            }
            for name in message.removed_resources {
                let reference = Reference::new(resource_type, name);
                let last = self.sent.insert(reference.clone(), None);
                assert!(last != Some(None) || again.contains(&reference), "{reference} was removed twice");
            }
            self.down.push_back(bytes);
        }
    }
}
