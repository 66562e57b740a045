//! The control plane's end of one state-of-the-world ADS stream: what gRPC speaks, and Envoy if it is told so.
//!
//! The rules (xDS protocol, "Basic Protocol Overview"; `docs/clients.md` says what each client makes of them):
//! - a request names all that is wanted of its type; one with a nonce that is not the last is about nothing;
//! - a response for Clusters or Listeners holds all of them that were asked for, and what is missing there does not
//!   exist; a response for any other type holds what differs, and nothing can be said to be gone;
//! - a client has one response of a type to answer at a time: what changes meanwhile is told as it is then;
//! - one push goes Cluster, Endpoints, Listener, Route, and none overtakes an earlier one that waits; what goes, goes
//!   last, in the reverse order. After a Cluster its Endpoints are sent again: Envoy waits for them.
//!
//! A wildcard subscription (`*`, or the legacy one: no request of the type has named anything yet) stands for what the client
//! carries, as in a delta session (`everything.rs`). It ends with the first request that names others only.
//!
//! Pure. What exists, and whether this client may see it, the caller's `resolve` says.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use meshwork_core::resource::ResourceType;

use super::everything;
use super::subscription::{Asked, Sent};
use super::{
    Answer, Client, InFlight, Outcome, RESPONSE_BYTES, Refusal, RefusedName, Resolve, SUBSCRIPTIONS_MAX,
    Session, Subscription, Told, Violation, WILDCARD,
};
use crate::codec::{EncodedResource, SotwResponse};
use crate::convert::Reference;
use crate::session::NAME_BYTES_MAX;
use crate::wire::{self, DiscoveryRequest, Status};

#[derive(Clone, Debug, Default)]
pub struct SotwSession {
    client: Option<Client>,
    subscriptions: BTreeMap<Reference, Subscription>,
    generation: u64,
    kinds: BTreeMap<ResourceType, Kind>,
    nonce_last: u64,
}

/// What the stream is about, of one type.
#[derive(Clone, Debug, Default)]
struct Kind {
    /// The last response's; empty before the first.
    nonce: String,
    in_flight: Option<InFlight>,
    /// Names to be compared with the truth.
    due: BTreeSet<String>,
    debt: Debt,
    wants: Wants,
    /// What is no longer part of everything, and the client has yet to be told so.
    left: BTreeSet<String>,
    /// Of Clusters and Listeners: what the client was sent, to be said again with each change.
    held: BTreeMap<String, EncodedResource>,
}

/// Which names of the type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wants {
    /// What it names.
    #[default]
    Named,
    /// Everything, as it has named nothing yet; that ends with the first name.
    Legacy,
    /// Everything, by `*`, and whatever it names besides.
    Everything,
}

/// What the client waits for, whatever there is to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Debt {
    #[default]
    None,
    /// It asked for names, or for everything.
    Answer,
}

/// One direction of a push.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// What comes or changes; what goes stays for now.
    Updates,
    Removals,
}

impl SotwSession {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Session for SotwSession {
    type Request = DiscoveryRequest;
    type Response = SotwResponse;

    fn request(
        &mut self,
        request: DiscoveryRequest,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Result<Outcome<SotwResponse>, Violation> {
        let DiscoveryRequest {
            version_info: _, // what it holds from an earlier stream: it is told all once more
            node,
            resource_names,
            resource_locators,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        if !resource_locators.is_empty() {
            return Err(Violation::Locators);
        }
        if let (None, Some(node)) = (&self.client, node) {
            self.client = Some(Client::of(node)?);
        }
        // A newer client's type: nothing of it exists here, and nothing can be said of that.
        let Some(resource_type) = wire::resource_type(&type_url) else { return Ok(Outcome::default()) };
        let first = !self.kinds.contains_key(&resource_type);
        let kind = self.kinds.entry(resource_type).or_default();
        if response_nonce != kind.nonce && !first {
            return Ok(Outcome::default()); // it will say all of it again to the newer response
        }
        let answer = self.answer(resource_type, error_detail);
        self.subscribe(resource_type, resource_names, first)?;
        self.follow(resource_type, resolve);
        Ok(Outcome { responses: self.push(revision, resolve), answer })
    }

    fn changed(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<SotwResponse> {
        for reference in self.subscriptions.keys() {
            if concerns(reference.resource_type, &reference.name) {
                let kind = self.kinds.entry(reference.resource_type).or_default();
                kind.due.insert(reference.name.clone());
            }
        }
        let types: Vec<ResourceType> = self.kinds.keys().copied().collect();
        types.into_iter().for_each(|resource_type| self.follow(resource_type, resolve));
        self.push(revision, resolve)
    }
}

impl SotwSession {
    /// Enters an ACK or NACK of the type's last response.
    fn answer(&mut self, resource_type: ResourceType, error: Option<Status>) -> Option<Answer> {
        let in_flight = self.kinds.get_mut(&resource_type)?.in_flight.take()?;
        let reason = error.map(|error| error.message);
        let mut refused = Vec::new();
        for (name, version) in in_flight.versions {
            let reference = Reference { resource_type, name };
            let Some(subscription) = self.subscriptions.get_mut(&reference) else { continue };
            match (&reason, version) {
                // Whoever refuses names no resource that we could rely on: it may be any of the response.
                (Some(reason), Some(version)) => {
                    subscription.refused = Some(Refusal { version, reason: reason.clone() });
                    refused.push(RefusedName { name: reference.name, reason: reason.clone() });
                }
                (_, version) => {
                    subscription.acknowledged = version;
                    subscription.refused = None;
                }
            }
        }
        Some(match reason {
            None => Answer::Took { resource_type },
            Some(_) => Answer::Refused { resource_type, refused },
        })
    }

    /// Makes the names all that is wanted of the type.
    fn subscribe(
        &mut self,
        resource_type: ResourceType,
        names: Vec<String>,
        first: bool,
    ) -> Result<(), Violation> {
        let kind = self.kinds.entry(resource_type).or_default();
        let star = names.iter().any(|name| name == WILDCARD);
        let legacy = names.is_empty() && is_full(resource_type) && (first || kind.wants == Wants::Legacy);
        kind.wants = match (star, legacy) {
            (true, _) => Wants::Everything,
            (false, true) => Wants::Legacy,
            (false, false) => Wants::Named,
        };
        let names: BTreeSet<String> = names.into_iter().filter(|name| name != WILDCARD).collect();
        if let Some(long) = names.iter().find(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Violation::NameTooLong(long.len()));
        }
        let wildcard = kind.wants.everything();
        // Each request names all of its type again: what differs shows in the numbers, or in a name that is new.
        let before = self.subscriptions.len();
        self.subscriptions.retain(|reference, subscription| {
            let part = wildcard && subscription.asked == Asked::Wildcard;
            let stays = reference.resource_type != resource_type || part || names.contains(&reference.name);
            if !stays {
                kind.due.remove(&reference.name);
                kind.held.remove(&reference.name);
                kind.left.remove(&reference.name);
            }
            stays
        });
        let gave_up = self.subscriptions.len() != before;
        self.generation += u64::from(gave_up);
        // Who gives up a name beside everything can't know whether it is part of that.
        if wildcard && (first || gave_up) {
            kind.debt = Debt::Answer;
        }
        for name in names {
            match self.subscriptions.entry(Reference { resource_type, name }) {
                Entry::Occupied(mut known) => {
                    if known.get().asked == Asked::Wildcard {
                        kind.left.remove(&known.key().name);
                        known.get_mut().asked = Asked::Explicitly;
                    }
                }
                Entry::Vacant(place) => {
                    kind.due.insert(place.key().name.clone());
                    kind.debt = Debt::Answer;
                    place.insert(Subscription::new(Asked::Explicitly, Sent::Nothing));
                    self.generation += 1;
                }
            }
        }
        if self.subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Err(Violation::TooManySubscriptions);
        }
        Ok(())
    }

    /// Enters what is part of everything now, and notes what no longer is.
    fn follow(&mut self, resource_type: ResourceType, resolve: &mut Resolve<'_>) {
        let Some(kind) = self.kinds.get_mut(&resource_type) else { return };
        if !kind.wants.everything() {
            return;
        }
        let names = everything::names(self.client.as_ref(), resource_type, resolve);
        for (reference, subscription) in &self.subscriptions {
            let part = reference.resource_type == resource_type && subscription.asked == Asked::Wildcard;
            if part && !names.contains(&reference.name) {
                kind.left.insert(reference.name.clone());
                kind.due.insert(reference.name.clone());
            }
        }
        for name in names {
            // It may have come back before its client was told that it is gone.
            if kind.left.remove(&name) {
                kind.due.insert(name.clone());
            }
            if let Entry::Vacant(place) = self.subscriptions.entry(Reference { resource_type, name }) {
                kind.due.insert(place.key().name.clone());
                place.insert(Subscription::new(Asked::Wildcard, Sent::Nothing));
            }
        }
    }

    /// What can be said now.
    fn push(&mut self, revision: &str, resolve: &mut Resolve<'_>) -> Vec<SotwResponse> {
        let types: Vec<ResourceType> = self.kinds.keys().copied().collect();
        let mut responses = Vec::new();
        let mut waits = Waits::No;
        for resource_type in &types {
            let kind = self.kinds.entry(*resource_type).or_default();
            let asked = kind.debt == Debt::Answer;
            if kind.in_flight.is_some() {
                if !kind.due.is_empty() || asked {
                    waits = Waits::Yes;
                }
            } else if waits == Waits::No || asked {
                responses.extend(self.tell(*resource_type, Pass::Updates, revision, resolve));
            }
        }
        if waits == Waits::No {
            for resource_type in types.iter().rev() {
                responses.extend(self.tell(*resource_type, Pass::Removals, revision, resolve));
            }
        }
        responses
    }

    /// The type's response, if there is anything to say and nobody has yet to answer.
    fn tell(
        &mut self,
        resource_type: ResourceType,
        pass: Pass,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Option<SotwResponse> {
        if self.kinds.get(&resource_type)?.in_flight.is_some() {
            return None;
        }
        let found = self.compare(resource_type, pass, resolve);
        let kind = self.kinds.get_mut(&resource_type)?;
        let told = if is_full(resource_type) {
            let owed = std::mem::take(&mut kind.debt) == Debt::Answer;
            if found.updates.is_empty() && found.removals.is_empty() && !owed {
                return None;
            }
            found.removals.iter().for_each(|name| drop(kind.held.remove(name)));
            kind.held.extend(found.updates);
            kind.held.iter().map(|(name, resource)| (name.clone(), resource.clone())).collect()
        } else {
            kind.debt = Debt::None;
            if found.updates.is_empty() {
                return None;
            }
            found.updates
        };
        Some(self.response(resource_type, told, found.removals, revision))
    }

    /// Looks at what is due of the type; what is not for this pass stays due.
    fn compare(&mut self, resource_type: ResourceType, pass: Pass, resolve: &mut Resolve<'_>) -> Found {
        let mut found = Found::default();
        let Some(kind) = self.kinds.get_mut(&resource_type) else { return found };
        let (mut bytes, mut later) = (0, BTreeSet::new());
        for name in std::mem::take(&mut kind.due) {
            let reference = Reference { resource_type, name };
            let Some(subscription) = self.subscriptions.get_mut(&reference) else { continue };
            let has_left = kind.left.contains(&reference.name);
            let current = if has_left { None } else { resolve(resource_type, &reference.name) };
            let name = reference.name;
            match (current, &subscription.sent) {
                (Some(resource), Sent::Version(sent)) if sent == resource.version() => {}
                (Some(_), _) if pass == Pass::Removals => drop(later.insert(name)),
                // All of one of these types must be in one response; of the others the rest comes later.
                (Some(_), _) if bytes > RESPONSE_BYTES && !is_full(resource_type) => drop(later.insert(name)),
                (Some(resource), _) => {
                    bytes += resource.encoded_len();
                    subscription.sent = Sent::Version(resource.version().clone());
                    found.updates.push((name, resource));
                }
                (None, Sent::Version(_)) if pass == Pass::Updates && is_full(resource_type) => {
                    later.insert(name);
                }
                (None, Sent::Version(_)) => {
                    subscription.sent = Sent::Absence;
                    found.removals.push(name);
                }
                (None, Sent::Nothing | Sent::Absence) => subscription.sent = Sent::Absence,
            }
        }
        let gone: Vec<_> = kind.left.iter().filter(|name| !later.contains(*name)).cloned().collect();
        for name in gone {
            kind.left.remove(&name);
            self.subscriptions.remove(&Reference { resource_type, name });
        }
        kind.due = later;
        found
    }

    fn response(
        &mut self,
        resource_type: ResourceType,
        told: Vec<(String, EncodedResource)>,
        removed: Vec<String>,
        revision: &str,
    ) -> SotwResponse {
        if resource_type == ResourceType::Cluster {
            self.resend_endpoints(&told);
        }
        self.nonce_last += 1;
        let nonce = self.nonce_last.to_string();
        let versions = told.iter().map(|(name, resource)| (name.clone(), Some(resource.version().clone())));
        let versions = versions.chain(removed.into_iter().map(|name| (name, None))).collect();
        let kind = self.kinds.entry(resource_type).or_default();
        kind.nonce.clone_from(&nonce);
        kind.in_flight = Some(InFlight { resource_type, versions });
        SotwResponse {
            // Health changes what is told and no revision: the nonce tells the two apart.
            version_info: format!("{revision}.{nonce}"),
            resources: told.into_iter().map(|(_, resource)| resource).collect(),
            type_url: wire::type_url(resource_type),
            nonce,
        }
    }

    /// A client that gets a Cluster, changed or not, may wait for its Endpoints before it uses it.
    fn resend_endpoints(&mut self, clusters: &[(String, EncodedResource)]) {
        for (name, _) in clusters {
            let reference = Reference::new(ResourceType::Endpoints, name.clone());
            let Some(subscription) = self.subscriptions.get_mut(&reference) else { continue };
            subscription.sent = Sent::Nothing;
            self.kinds.entry(ResourceType::Endpoints).or_default().due.insert(reference.name);
        }
    }
}

impl Told for SotwSession {
    fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    fn subscriptions(&self) -> &BTreeMap<Reference, Subscription> {
        &self.subscriptions
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn awaits_answer(&self, resource_type: ResourceType, name: &str) -> bool {
        self.kinds.get(&resource_type).is_some_and(|kind| {
            let told = |in_flight: &InFlight| in_flight.versions.iter().any(|(sent, _)| sent == name);
            kind.due.contains(name) || kind.in_flight.as_ref().is_some_and(told)
        })
    }
}

impl Wants {
    fn everything(self) -> bool {
        matches!(self, Self::Legacy | Self::Everything)
    }
}

/// Whether an earlier type waits for the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    No,
    Yes,
}

#[derive(Default)]
struct Found {
    updates: Vec<(String, EncodedResource)>,
    removals: Vec<String>,
}

/// Of these types a response holds all, and what is missing does not exist.
fn is_full(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener)
}
