//! The sidecar's end of a delta ADS stream: what it wants, what it holds, what it must ask for.
//!
//! Wanted are the Listeners that the application calls, and the names of namespaces that it looks up; with them,
//! always, the sidecar's own resources (`Inbound`, `MeshSettings`, its `TrustBundle`, its namespace's `NameTable`). What those point to is *needed*. The session subscribes to
//! exactly what is needed, and what is held is a part of it: as a Listener is dropped or a Route points
//! elsewhere, the rest goes.
//!
//! - Each resource is judged alone. A bad one is refused by name in the NACK and keeps its previous version;
//!   the good ones of the same response are taken.
//! - What arrives unasked (the server includes what a resource points to, dependents first) is *offered*: it
//!   waits until something that is needed points to it, and is sent back (unsubscribed) if nothing does.
//! - A lost stream costs nothing: the next one begins with the versions held.
//! - The first answer on each stream is `MeshSettings`: another mesh's config is never taken.
//!
//! Pure. The values themselves go to the caller (`Reaction::applied`); only versions and references stay here.

mod offers;
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use meshwork_core::compile::Features;
use meshwork_core::model::SETTINGS_NAME;
use meshwork_core::resource::{Endpoints, Resource, ResourceType};
use prost::Message as _;

use super::{LISTENERS_MAX, NAME_BYTES_MAX, NAMESPACES_MAX, Seen};
use crate::convert::{self, Patch, Reference, Refused};
use crate::proto;
use crate::wire::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, core::Node};
use offers::{Offer, Offers};
use requests::Read;

/// Who the session asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// `<namespace>/<workload>`, the name of its `Inbound`.
    pub workload: String,
    pub trust_domain: String,
    /// Software version.
    pub version: String,
    /// What it can honour beside what every sidecar can (`core::compile::Features`).
    pub features: Vec<String>,
    /// The mesh that it belongs to; `None`: it has never met one, and joins the first.
    pub mesh_id: Option<String>,
}

/// A resource and its version, as it came; what the sidecar writes to disk, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub version: String,
    pub resource: Resource,
}

/// What an event leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reaction {
    /// To be sent in this order.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// To be taken into the config at once: what is pointed to comes before what points to it.
    pub applied: Vec<Versioned>,
    /// To be taken out of the config: the server says that they are gone, or nothing needs them any more.
    pub removed: Vec<Reference>,
    /// Listeners and tables of names that are wanted and do not exist. They stay wanted, and come once they do.
    pub absent: Vec<Reference>,
    pub refused: Vec<RefusedResource>,
}

/// A resource that was not taken; its previous version, if there was one, stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedResource {
    pub reference: Reference,
    pub version: String,
    pub refused: Refused,
}

/// Why the stream must be given up. What is held stays, and traffic goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    #[error(
        "the control plane belongs to mesh {met}, this sidecar to mesh {known}: nothing is taken from it \
         (to move the sidecar, give it an empty state directory and a token of the new mesh)"
    )]
    ForeignMesh { known: String, met: String },
    #[error("the control plane sent {0} before it told its mesh: nothing is taken from it")]
    Unverified(String),
    #[error("a response came on no stream")]
    NotConnected,
}

/// Why a Listener can't be wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwantable {
    #[error("{LISTENERS_MAX} destinations are in use already")]
    TooMany,
    #[error("a destination's name may have at most {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("the names of {NAMESPACES_MAX} namespaces are in use already")]
    TooManyNamespaces,
}

#[derive(Clone, Debug)]
pub struct ClientSession {
    node: Node,
    own: Vec<Reference>,
    mesh_id: Option<String>,
    /// Names of Listeners.
    wanted: BTreeSet<String>,
    /// Namespaces of which the names are wanted, beside its own.
    wanted_names: BTreeSet<String>,
    held: BTreeMap<Reference, Held>,
    seen: Seen,
    stream: Option<Stream>,
}

#[derive(Clone, Debug)]
struct Held {
    version: String,
    points_to: Vec<Reference>,
    /// Of endpoints: what a patch is applied to.
    endpoints: Option<Endpoints>,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    mesh: Mesh,
    /// As the control plane says; empty: it says none.
    era: String,
    subscribed: BTreeSet<Reference>,
    /// Of those subscribed: the ones about which nothing more must come.
    answered: BTreeSet<Reference>,
    offers: Offers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mesh {
    #[default]
    Untold,
    Ours,
}

impl ClientSession {
    pub fn new(sidecar: Sidecar) -> Self {
        let mut own = vec![
            Reference::new(ResourceType::MeshSettings, SETTINGS_NAME),
            Reference::new(ResourceType::TrustBundle, sidecar.trust_domain.clone()),
            Reference::new(ResourceType::Inbound, sidecar.workload.clone()),
        ];
        let features = Features::from_names(sidecar.features.iter().map(String::as_str));
        if let (true, Some((namespace, _))) =
            (features.has(Features::CAPTURE), sidecar.workload.split_once('/'))
        {
            own.push(Reference::new(ResourceType::NameTable, namespace));
        }
        Self {
            mesh_id: sidecar.mesh_id.clone(),
            node: requests::node(sidecar),
            own,
            wanted: BTreeSet::new(),
            wanted_names: BTreeSet::new(),
            held: BTreeMap::new(),
            seen: Seen::default(),
            stream: None,
        }
    }

    /// Takes over what an earlier process held; its Listeners are wanted again. Gives what nothing needs.
    /// Only before the first stream.
    pub fn restore(&mut self, held: &[Versioned]) -> Vec<Reference> {
        for versioned in held {
            match &versioned.resource {
                Resource::Listener(listener) => drop(self.wanted.insert(listener.name.clone())),
                Resource::NameTable(table) => self.enter_names(&table.namespace),
                Resource::Route(_)
                | Resource::Cluster(_)
                | Resource::Endpoints(_)
                | Resource::Inbound(_)
                | Resource::MeshSettings(_)
                | Resource::TrustBundle(_) => {}
            }
            self.hold(versioned);
        }
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        reaction.removed
    }

    /// What is held, with its version.
    pub fn held(&self) -> impl Iterator<Item = (&Reference, &str)> {
        self.held.iter().map(|(reference, held)| (reference, held.version.as_str()))
    }

    pub fn wanted(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(String::as_str)
    }

    /// Namespaces of which the names are wanted, beside its own.
    pub fn wanted_names(&self) -> impl Iterator<Item = &str> {
        self.wanted_names.iter().map(String::as_str)
    }

    /// The mesh that was met first; kept with the sidecar's state.
    pub fn mesh_id(&self) -> Option<&str> {
        self.mesh_id.as_deref()
    }

    /// The store's revision that was last told.
    pub fn revision(&self) -> &str {
        &self.seen.revision
    }

    /// The same with its era: what the next stream begins with, and what is kept with the sidecar's state.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What an earlier process had seen. Only before the first stream.
    pub fn restore_seen(&mut self, seen: Seen) {
        self.seen = seen;
    }

    /// The control plane took the stream, and says in which era its store is. What it then tells is of that era.
    pub fn accepted(&mut self, era: &str) {
        if let Some(stream) = &mut self.stream {
            era.clone_into(&mut stream.era);
        }
    }

    /// A stream was opened: its first requests. `MeshSettings` is asked for first, then what is pointed to
    /// before what points to it, so that the server does not include what is held.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.stream = Some(Stream::default());
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        if let Some(first) = reaction.requests.first_mut() {
            first.node = Some(self.node.clone());
        }
        reaction.requests
    }

    /// The stream is gone. All that is held stays.
    pub fn disconnected(&mut self) {
        self.stream = None;
    }

    /// The application calls a destination, `host:port`.
    pub fn want(&mut self, listener: &str) -> Result<Reaction, Unwantable> {
        if listener.len() > NAME_BYTES_MAX {
            return Err(Unwantable::NameTooLong);
        }
        if self.wanted.len() >= LISTENERS_MAX && !self.wanted.contains(listener) {
            return Err(Unwantable::TooMany);
        }
        self.wanted.insert(listener.to_owned());
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        Ok(reaction)
    }

    /// The application looks up a name of that namespace.
    pub fn want_names(&mut self, namespace: &str) -> Result<Reaction, Unwantable> {
        if namespace.len() > NAME_BYTES_MAX {
            return Err(Unwantable::NameTooLong);
        }
        if self.wanted_names.len() >= NAMESPACES_MAX && !self.wanted_names.contains(namespace) {
            return Err(Unwantable::TooManyNamespaces);
        }
        self.enter_names(namespace);
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        Ok(reaction)
    }

    /// The sidecar's own are wanted always.
    fn enter_names(&mut self, namespace: &str) {
        if !self.own.contains(&Reference::new(ResourceType::NameTable, namespace)) {
            self.wanted_names.insert(namespace.to_owned());
        }
    }

    /// Nobody has looked up a name of that namespace for long.
    pub fn drop_names(&mut self, namespace: &str) -> Reaction {
        self.wanted_names.remove(namespace);
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        reaction
    }

    /// The application has not called it for long, or the name's absence is old.
    pub fn drop(&mut self, listener: &str) -> Reaction {
        self.wanted.remove(listener);
        let mut reaction = Reaction::default();
        self.settle(None, &mut reaction);
        reaction
    }

    /// Takes a response: judges each resource alone, and answers.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Result<Reaction, StreamFault> {
        self.response_in_steps(response, || {})
    }

    /// The same, and calls `step` after each resource: a response of thousands takes some ten milliseconds, in
    /// which the caller may want to let others go first.
    pub fn response_in_steps(
        &mut self,
        response: DeltaDiscoveryResponse,
        mut step: impl FnMut(),
    ) -> Result<Reaction, StreamFault> {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            removed_resources,
            nonce,
            // Names with parameters and errors by name are for clients that ask for them; who answers, the
            // certificate says.
            removed_resource_names: _,
            control_plane: _,
            resource_errors: _,
        } = response;
        self.verify(&type_url, &resources)?;
        let era = self.stream.as_ref().map(|stream| stream.era.clone()).unwrap_or_default();
        self.seen = Seen { era, revision: system_version_info };
        let mut reaction = Reaction::default();
        let resource_type = wire::resource_type(&type_url);
        for resource in resources {
            self.judge(&type_url, resource, &mut reaction);
            step();
        }
        if let Some(resource_type) = resource_type {
            for name in removed_resources {
                self.gone(Reference { resource_type, name }, &mut reaction);
            }
        }
        let answer = requests::answer(type_url, nonce, &reaction.refused);
        if self.changes_needs(resource_type) {
            self.settle(Some(answer), &mut reaction);
        } else {
            reaction.requests.push(answer);
        }
        Ok(reaction)
    }

    /// Endpoints come most often, as do names, and point to nothing: what is needed need not be found again then.
    fn changes_needs(&self, resource_type: Option<ResourceType>) -> bool {
        let offered = self.stream.as_ref().is_some_and(|stream| !stream.offers.is_empty());
        offered || !matches!(resource_type, Some(ResourceType::Endpoints | ResourceType::NameTable))
    }

    /// Nothing is taken from a stream whose mesh isn't known to be ours. The ID is read also from settings that
    /// will be refused, since then they are refused alone and the rest is taken.
    fn verify(&mut self, type_url: &str, resources: &[wire::Resource]) -> Result<(), StreamFault> {
        let stream = self.stream.as_mut().ok_or(StreamFault::NotConnected)?;
        let settings = resources.iter().filter_map(|resource| resource.resource.as_ref());
        let settings = settings.filter(|any| any.type_url == wire::type_url(ResourceType::MeshSettings));
        for any in settings {
            let Ok(proto::MeshSettings { mesh_id: met, .. }) = proto::MeshSettings::decode(&any.value[..])
            else {
                continue;
            };
            match &self.mesh_id {
                _ if met.is_empty() => continue, // names no mesh; it will be refused
                Some(known) if *known != met => {
                    return Err(StreamFault::ForeignMesh { known: known.clone(), met });
                }
                Some(_) => {}
                None => self.mesh_id = Some(met),
            }
            stream.mesh = Mesh::Ours;
        }
        match stream.mesh {
            Mesh::Ours => Ok(()),
            Mesh::Untold => Err(StreamFault::Unverified(type_url.to_owned())),
        }
    }

    fn judge(&mut self, type_url: &str, resource: wire::Resource, reaction: &mut Reaction) {
        let Some(resource_type) = wire::resource_type(type_url) else { return };
        let reference = Reference { resource_type, name: resource.name.clone() };
        let version = resource.version.clone();
        let judged = match requests::read(type_url, resource) {
            Ok(Read::Full(versioned)) => Ok(*versioned),
            Ok(Read::Patch(patch)) => match self.patched(&reference, &version, patch) {
                Some(judged) => judged,
                None => return,
            },
            Err(refused) => Err(refused),
        };
        if let Err(refused) = &judged {
            let refused = refused.clone();
            reaction.refused.push(RefusedResource { reference: reference.clone(), version, refused });
        }
        let Some(stream) = &mut self.stream else { return };
        if !stream.subscribed.contains(&reference) {
            stream
                .offers
                .add(reference, judged.map_or(Offer::Refused, |offered| Offer::Resource(Box::new(offered))));
            return;
        }
        stream.answered.insert(reference);
        if let Ok(versioned) = judged {
            self.hold(&versioned);
            reaction.applied.push(versioned);
        }
    }

    /// What is held with a patch applied. `None`: the patch is to what was given back meanwhile; if it is wanted again,
    /// all of it is on its way.
    fn patched(
        &mut self,
        reference: &Reference,
        version: &str,
        patch: Patch,
    ) -> Option<Result<Versioned, Refused>> {
        let stream = self.stream.as_mut()?;
        if !stream.subscribed.contains(reference) {
            stream.offers.decline(reference.clone());
            return None;
        }
        let held = self.held.get(reference).filter(|held| held.version == patch.base_version);
        let Some(base) = held.and_then(|held| held.endpoints.as_ref()) else {
            let answered = stream.answered.contains(reference);
            let misfit =
                Refused::at("base_version", format!("is {}, which is not what is held", patch.base_version));
            return answered.then_some(Err(misfit));
        };
        let resource = patch.apply(base).map(Resource::Endpoints);
        Some(resource.map(|resource| Versioned { version: version.to_owned(), resource }))
    }

    fn hold(&mut self, versioned: &Versioned) {
        let Versioned { version, resource } = versioned;
        let endpoints = match resource {
            Resource::Endpoints(endpoints) => Some(endpoints.clone()),
            Resource::Listener(_)
            | Resource::Route(_)
            | Resource::Cluster(_)
            | Resource::Inbound(_)
            | Resource::MeshSettings(_)
            | Resource::TrustBundle(_)
            | Resource::NameTable(_) => None,
        };
        let held = Held { version: version.clone(), points_to: convert::points_to(resource), endpoints };
        self.held.insert(convert::reference(resource), held);
    }

    /// The server says that there is no such resource.
    fn gone(&mut self, reference: Reference, reaction: &mut Reaction) {
        let Some(stream) = &mut self.stream else { return };
        if !stream.subscribed.contains(&reference) {
            // Removals end a push, so nothing more comes that could point to it.
            stream.offers.decline(reference);
            return;
        }
        stream.answered.insert(reference.clone());
        let is_names = reference.resource_type == ResourceType::NameTable;
        // A sidecar without roots, or without its own ports, could do nothing at all: it keeps the last.
        let keeps = !is_names && self.own.contains(&reference);
        if !keeps && self.held.remove(&reference).is_some() {
            reaction.removed.push(reference.clone());
        }
        if is_names || reference.resource_type == ResourceType::Listener {
            reaction.absent.push(reference);
        }
    }

    /// Makes what is held and subscribed to agree with what is needed, after any event. `answer` is the ACK or
    /// NACK that the event asks for.
    fn settle(&mut self, answer: Option<DeltaDiscoveryRequest>, reaction: &mut Reaction) {
        let needed = self.needed(reaction);
        let garbage: Vec<_> = self.held.keys().filter(|held| !needed.contains(held)).cloned().collect();
        for reference in garbage {
            self.held.remove(&reference);
            reaction.removed.push(reference);
        }
        reaction.applied.sort_by_key(|versioned| convert::resource_type(&versioned.resource));
        let Some(stream) = &mut self.stream else { return };
        let fresh: Vec<_> = needed.difference(&stream.subscribed).cloned().collect();
        let mut stale: Vec<_> = stream.subscribed.difference(&needed).cloned().collect();
        stream.answered.retain(|answered| needed.contains(answered));
        stream.subscribed = needed;
        let may_follow = answer.as_ref().is_none_or(|answer| !points(&answer.type_url)) || stream.waits();
        if !may_follow {
            stale.extend(stream.offers.take());
        }
        stale.extend(stream.offers.take_declined());
        for reference in &fresh {
            // The server may leave out what is listed as held.
            if self.held.contains_key(reference) && reference.resource_type != ResourceType::MeshSettings {
                stream.answered.insert(reference.clone());
            }
        }
        reaction.requests = requests::changes(answer, fresh, stale, &self.held);
    }

    /// Everything that the wanted and own resources lead to. What was offered and is needed is taken on the way.
    fn needed(&mut self, reaction: &mut Reaction) -> BTreeSet<Reference> {
        let wanted = self.wanted.iter().map(|name| Reference::new(ResourceType::Listener, name.clone()));
        let names = self.wanted_names.iter();
        let names = names.map(|namespace| Reference::new(ResourceType::NameTable, namespace.clone()));
        let mut open: Vec<Reference> = wanted.chain(names).chain(self.own.iter().cloned()).collect();
        let mut needed = BTreeSet::new();
        while let Some(reference) = open.pop() {
            if !needed.contains(&reference) {
                self.claim(&reference, reaction);
                let points_to = self.held.get(&reference).map(|held| held.points_to.as_slice());
                open.extend_from_slice(points_to.unwrap_or_default());
                needed.insert(reference);
            }
        }
        needed
    }

    fn claim(&mut self, reference: &Reference, reaction: &mut Reaction) {
        let Some(stream) = &mut self.stream else { return };
        let Some(offer) = stream.offers.claim(reference) else { return };
        stream.answered.insert(reference.clone());
        match offer {
            Offer::Resource(versioned) => {
                self.hold(&versioned);
                reaction.applied.push(*versioned);
            }
            Offer::Refused => {}
        }
    }
}

impl Stream {
    /// Whether something is on its way that may point to what was offered.
    fn waits(&self) -> bool {
        let mut pointing = self.subscribed.iter().filter(|reference| match reference.resource_type {
            ResourceType::Listener | ResourceType::Route => true,
            ResourceType::Cluster
            | ResourceType::Endpoints
            | ResourceType::Inbound
            | ResourceType::MeshSettings
            | ResourceType::TrustBundle
            | ResourceType::NameTable => false,
        });
        pointing.any(|reference| !self.answered.contains(reference))
    }
}

/// Whether the type closes a push: what a Listener or Route points to was sent before it.
fn points(type_url: &str) -> bool {
    matches!(wire::resource_type(type_url), Some(ResourceType::Listener | ResourceType::Route))
}

#[cfg(test)]
mod tests;
