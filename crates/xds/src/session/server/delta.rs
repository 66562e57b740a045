//! The control plane's end of one delta ADS stream: what sidecars speak, and Envoy if it is told so.
//!
//! The rules (xDS protocol, "Incremental xDS", and architecture "What is sent"):
//! - every name that a request newly subscribes to is answered, at once, also one that does not exist
//!   (`removed_resources`); a name subscribed to again is sent again;
//! - what the client holds is not sent again until its version changes, refused or not;
//! - what a stream's first request for a type lists in `initial_resource_versions` counts as held;
//! - what the client took on this stream may be followed by what differs from it (`convert/patch.rs`); who refuses that
//!   is sent all of it;
//! - one push goes Cluster, Endpoints, Listener, Route, the rest; removals last, in the reverse order.
//!
//! - a wildcard subscription (`*`, or the legacy empty first request for Listeners or Clusters) stands for what the client
//!   carries (`everything.rs`), and is answered even if that is nothing: Envoy waits for it. It ends by unsubscribing
//!   from `*`; a name that was subscribed to beside it and is given up is answered once more, as the client can't know
//!   whether it is part of everything;
//! - after a Cluster its Endpoints are sent again, though they did not change, also if the client says that it holds
//!   them: Envoy waits for them before it uses the Cluster.
//!
//! Pure. What exists, and whether this client may see it, the caller's `resolve` says.

mod answer;
mod wildcard;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use meshwork_core::resource::ResourceType;

use super::subscription::{Asked, Push, Sent};
use super::{
    Client, InFlight, Outcome, RESPONSE_BYTES, Resolve, SUBSCRIPTIONS_MAX, Session, Subscription, Told,
    UNANSWERED_MAX, Violation, WILDCARD,
};
use crate::codec::{DeltaResponse, EncodedResource};
use crate::convert::Reference;
use crate::session::{DEPENDENTS, NAME_BYTES_MAX};
use crate::wire::{self, DeltaDiscoveryRequest};

/// Unacknowledged responses at which pushes wait: a client that is so far behind is told the newest state once
/// it has caught up, not every state between.
const IN_FLIGHT_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct ServerSession {
    client: Option<Client>,
    subscriptions: BTreeMap<Reference, Subscription>,
    generation: u64,
    /// Types for which a request has come: `initial_resource_versions` counts in the first only.
    started: BTreeSet<ResourceType>,
    in_flight: BTreeMap<u64, InFlight>,
    nonce_last: u64,
    backlog: Backlog,
    /// What requests had compared since the last `changed`, perhaps with a newer model than that one saw: if
    /// the model went there and back meanwhile, its next change does not concern them and they would stay.
    compared: BTreeSet<Reference>,
    /// Types of which the client wants everything.
    everything: BTreeSet<ResourceType>,
    /// Clusters that were sent on this stream, and not yet their Endpoints.
    endpoints_owed: BTreeSet<String>,
    /// What has to be sent in full, as its patch was refused.
    misfits: Vec<Reference>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Backlog {
    #[default]
    None,
    /// A push was left out; everything is compared once the client has caught up.
    Waiting,
}

impl ServerSession {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Session for ServerSession {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaResponse;

    fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Result<Outcome<DeltaResponse>, Violation> {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            resource_locators_subscribe,
            resource_locators_unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = request;
        if !(resource_locators_subscribe.is_empty() && resource_locators_unsubscribe.is_empty()) {
            return Err(Violation::Locators);
        }
        if let (None, Some(node)) = (&self.client, node) {
            self.client = Some(Client::of(node)?);
        }
        let answer = self.answer(&response_nonce, error_detail);
        let Some(resource_type) = wire::resource_type(&type_url) else {
            return Ok(Outcome { responses: self.unknown_type(type_url, subscribe, revision), answer });
        };
        let first = self.started.insert(resource_type);
        let wildcard = is_wildcard(resource_type, first, &subscribe, &unsubscribe, &response_nonce);
        let again = self.unsubscribe(resource_type, unsubscribe);
        let held = if first { initial_resource_versions.into_iter().collect() } else { BTreeMap::new() };
        let mut compare = self.subscribe(resource_type, subscribe, &held)?;
        compare.extend(again);
        let mut look = wildcard;
        if wildcard {
            self.everything.insert(resource_type);
            compare.extend(self.hold(resource_type, held));
        }
        compare.append(&mut self.misfits);
        if self.backlog == Backlog::Waiting && self.in_flight.len() < IN_FLIGHT_MAX {
            self.backlog = Backlog::None;
            compare = self.subscriptions.keys().cloned().collect();
            look = true;
        }
        let left = if look { self.follow(&mut compare, resolve) } else { BTreeSet::new() };
        let mut responses = self.push(compare, &left, revision, resolve);
        if wildcard && !responses.iter().any(|response| response.type_url == type_url) {
            responses.push(self.response(resource_type, revision, Vec::new(), Vec::new()));
        }
        if self.in_flight.len() > UNANSWERED_MAX {
            return Err(Violation::Unanswered);
        }
        Ok(Outcome { responses, answer })
    }

    fn changed(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<DeltaResponse> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.backlog = Backlog::Waiting;
            return Vec::new();
        }
        let names = self.subscriptions.keys();
        let concerned = names.filter(|reference| concerns(reference.resource_type, &reference.name));
        let mut compare = mem::take(&mut self.compared);
        compare.extend(concerned.cloned());
        let mut compare = compare.into_iter().collect();
        let left = self.follow(&mut compare, resolve);
        let responses = self.push(compare, &left, revision, resolve);
        self.compared.clear();
        responses
    }
}

impl ServerSession {
    /// Forgets the names, and what was included only because of them: the client may not even have heard of it. Gives
    /// those that must be answered, as they may still be part of everything.
    fn unsubscribe(&mut self, resource_type: ResourceType, names: Vec<String>) -> Vec<Reference> {
        let mut again = Vec::new();
        if names.is_empty() {
            return again;
        }
        if names.iter().any(|name| name == WILDCARD) && self.everything.remove(&resource_type) {
            self.subscriptions.retain(|reference, subscription| {
                reference.resource_type != resource_type || subscription.asked != Asked::Wildcard
            });
        }
        self.generation += 1;
        for name in names {
            let reference = Reference { resource_type, name };
            match self.subscriptions.get_mut(&reference) {
                Some(subscription) if self.everything.contains(&resource_type) => {
                    (subscription.asked, subscription.sent) = (Asked::Wildcard, Sent::Nothing);
                    again.push(reference);
                }
                Some(_) => self.forget(&reference),
                None => {}
            }
        }
        let explicit =
            self.subscriptions.iter().filter(|(_, subscription)| subscription.asked == Asked::Explicitly);
        let mut open: Vec<_> = explicit.flat_map(|(_, subscription)| subscription.points_to.iter()).collect();
        let mut led_to = BTreeSet::new();
        while let Some(reference) = open.pop() {
            if led_to.insert(reference.clone()) {
                let subscription = self.subscriptions.get(reference);
                open.extend(subscription.iter().flat_map(|subscription| subscription.points_to.iter()));
            }
        }
        self.subscriptions.retain(|reference, subscription| match subscription.asked {
            Asked::Explicitly | Asked::Wildcard => true,
            Asked::Included => led_to.contains(reference),
        });
        again
    }

    fn forget(&mut self, reference: &Reference) {
        self.subscriptions.remove(reference);
        if reference.resource_type == ResourceType::Cluster {
            self.endpoints_owed.remove(&reference.name);
        }
    }

    /// Enters the names; gives those that must be looked at.
    fn subscribe(
        &mut self,
        resource_type: ResourceType,
        names: Vec<String>,
        held: &BTreeMap<String, String>,
    ) -> Result<Vec<Reference>, Violation> {
        let mut compare = Vec::with_capacity(names.len());
        for name in names.into_iter().filter(|name| name != WILDCARD) {
            if name.len() > NAME_BYTES_MAX {
                return Err(Violation::NameTooLong(name.len()));
            }
            let owed = resource_type == ResourceType::Endpoints && self.endpoints_owed.contains(&name);
            let held = held.get(&name).filter(|_| !owed);
            let sent = held.map_or(Sent::Nothing, |version| Sent::Version(version.as_str().into()));
            let reference = Reference { resource_type, name };
            match self.subscriptions.get_mut(&reference) {
                // It was sent on this stream before the client could ask: the answer is given already.
                Some(included) if included.asked == Asked::Included => included.asked = Asked::Explicitly,
                Some(again) => {
                    (again.asked, again.sent) = (Asked::Explicitly, Sent::Nothing);
                    compare.push(reference);
                }
                None => {
                    let subscription = Subscription::new(Asked::Explicitly, sent);
                    self.subscriptions.insert(reference.clone(), subscription);
                    self.generation += 1;
                    compare.push(reference);
                }
            }
        }
        if self.subscriptions.len() > SUBSCRIPTIONS_MAX {
            return Err(Violation::TooManySubscriptions);
        }
        Ok(compare)
    }

    /// Compares the names with what the client was sent, and includes what the resources sent point to. What has `left`
    /// everything is no more for this client.
    fn push(
        &mut self,
        mut compare: Vec<Reference>,
        left: &BTreeSet<Reference>,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<DeltaResponse> {
        let includes = self.includes();
        let mut push = Push::default();
        while let Some(reference) = compare.pop() {
            let Some(subscription) = self.subscriptions.get_mut(&reference) else { continue };
            let current = match left.contains(&reference) {
                true => None,
                false => resolve(reference.resource_type, &reference.name),
            };
            self.compared.insert(reference.clone());
            let sent = push.add(reference.clone(), subscription, current);
            if sent.is_some() && !includes {
                compare.extend(self.owe_endpoints(reference, &push));
            }
            for dependent in sent.iter().filter(|_| includes).flat_map(|resource| resource.points_to().iter())
            {
                let room = self.subscriptions.len() < SUBSCRIPTIONS_MAX;
                if room && !self.subscriptions.contains_key(dependent) {
                    let included = Subscription::new(Asked::Included, Sent::Nothing);
                    self.subscriptions.insert(dependent.clone(), included);
                    self.generation += 1;
                    compare.push(dependent.clone());
                }
            }
        }
        left.iter().for_each(|reference| self.forget(reference));
        self.responses(push, revision)
    }

    /// After a Cluster its Endpoints, which then are no longer owed.
    fn owe_endpoints(&mut self, sent: Reference, push: &Push) -> Option<Reference> {
        match sent.resource_type {
            ResourceType::Cluster => {
                let endpoints = Reference::new(ResourceType::Endpoints, sent.name);
                match self.subscriptions.get_mut(&endpoints) {
                    Some(_) if push.tells_of(&endpoints) => None,
                    Some(subscription) => {
                        subscription.sent = Sent::Nothing;
                        Some(endpoints)
                    }
                    None => {
                        self.endpoints_owed.insert(endpoints.name);
                        None
                    }
                }
            }
            ResourceType::Endpoints => {
                self.endpoints_owed.remove(&sent.name);
                None
            }
            ResourceType::Listener
            | ResourceType::Route
            | ResourceType::Inbound
            | ResourceType::MeshSettings
            | ResourceType::TrustBundle
            | ResourceType::NameTable => None,
        }
    }

    fn includes(&self) -> bool {
        let features = self.client.as_ref().map(|client| client.features.as_slice()).unwrap_or_default();
        features.iter().any(|feature| feature == DEPENDENTS)
    }

    fn responses(&mut self, push: Push, revision: &str) -> Vec<DeltaResponse> {
        let mut responses = Vec::new();
        for (resource_type, updates) in push.updates {
            let mut batch = Vec::new();
            let mut bytes = 0;
            for (name, resource) in updates {
                if bytes + resource.encoded_len() > RESPONSE_BYTES && !batch.is_empty() {
                    let full = mem::take(&mut batch);
                    responses.push(self.response(resource_type, revision, full, Vec::new()));
                    bytes = 0;
                }
                bytes += resource.encoded_len();
                batch.push((name, resource));
            }
            responses.push(self.response(resource_type, revision, batch, Vec::new()));
        }
        for (resource_type, removed) in push.removals.into_iter().rev() {
            responses.push(self.response(resource_type, revision, Vec::new(), removed));
        }
        responses
    }

    fn response(
        &mut self,
        resource_type: ResourceType,
        revision: &str,
        updates: Vec<(String, EncodedResource)>,
        removed: Vec<String>,
    ) -> DeltaResponse {
        let updated = updates.iter().map(|(name, resource)| (name.clone(), Some(resource.version().clone())));
        let versions = updated.chain(removed.iter().map(|name| (name.clone(), None))).collect();
        let nonce = self.nonce();
        self.in_flight.insert(nonce, InFlight { resource_type, versions });
        DeltaResponse {
            system_version_info: revision.to_owned(),
            type_url: wire::type_url(resource_type),
            nonce: nonce.to_string(),
            resources: updates.into_iter().map(|(_, resource)| resource).collect(),
            removed_resources: removed,
        }
    }

    fn nonce(&mut self) -> u64 {
        self.nonce_last += 1;
        self.nonce_last
    }

    /// A newer client's type: nothing of it exists here, and it need not wait to learn that.
    fn unknown_type(&mut self, type_url: String, names: Vec<String>, revision: &str) -> Vec<DeltaResponse> {
        if names.is_empty() {
            return Vec::new();
        }
        let nonce = self.nonce().to_string();
        // Each once, however often the client named it.
        let unique: BTreeSet<String> = names.into_iter().collect();
        vec![DeltaResponse {
            system_version_info: revision.to_owned(),
            type_url,
            nonce,
            resources: Vec::new(),
            removed_resources: unique.into_iter().collect(),
        }]
    }
}

impl Told for ServerSession {
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
        let told = |in_flight: &InFlight| {
            in_flight.resource_type == resource_type
                && in_flight.versions.iter().any(|(sent, _)| sent == name)
        };
        let behind = self.backlog == Backlog::Waiting
            && self.subscriptions.contains_key(&Reference::new(resource_type, name));
        behind || self.in_flight.values().any(told)
    }
}

/// Whether the request asks for everything of the type: by `*`, or in the older way by naming nothing in the
/// first request (which only Listeners and Clusters know).
fn is_wildcard(
    resource_type: ResourceType,
    first: bool,
    subscribe: &[String],
    unsubscribe: &[String],
    nonce: &str,
) -> bool {
    let by_star = subscribe.iter().any(|name| name == WILDCARD);
    let typed = matches!(resource_type, ResourceType::Listener | ResourceType::Cluster);
    by_star || (first && typed && subscribe.is_empty() && unsubscribe.is_empty() && nonce.is_empty())
}

#[cfg(test)]
mod tests;
