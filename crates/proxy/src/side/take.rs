//! What comes from the control plane, taken: judged by the session, handed to `Live`. Does not wait for anything.
//!
//! One value, which works on the side thread or on another (`background.rs`): whoever has its lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_core::resource::{self, Resource, ResourceType};
use meshwork_identity::TrustBundle;
use meshwork_xds::convert::Reference;
use meshwork_xds::session::ClientSession;
use meshwork_xds::session::client::{Reaction, RefusedResource, StreamFault};
use meshwork_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::watch;

use super::kept::Place;
use super::renew::Told;
use crate::live::{Ask, Live};
use crate::pace::Pace;
use crate::telemetry::{Event, Gauge, Registry};

pub(crate) struct Taker {
    pub(crate) session: ClientSession,
    /// Where the config is kept, which must be told first what it is as of.
    pub(crate) place: Arc<Place>,
    pub(crate) live: Arc<Live>,
    pub(crate) registry: Arc<Registry>,
    /// For the certificate's keeper.
    pub(crate) told: watch::Sender<Told>,
}

/// Never contended: the side thread waits for who works elsewhere.
pub(super) fn taker(shared: &Mutex<Taker>) -> MutexGuard<'_, Taker> {
    // A panic while taking left whole resources behind, never half of one.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taker {
    /// Returns what is to be sent.
    pub(super) fn response(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<Vec<DeltaDiscoveryRequest>, StreamFault> {
        let mut pace = Pace::start();
        let reaction = self.session.response_in_steps(response, || pace.step())?;
        self.place.saw(self.session.seen());
        self.registry.set(Gauge::ConfigVersion, self.session.revision().parse().unwrap_or(0));
        Ok(self.take(reaction))
    }

    pub(super) fn want(&mut self, ask: &Ask) -> Vec<DeltaDiscoveryRequest> {
        let wanted = match ask {
            Ask::Destination(name) => self.session.want(name),
            Ask::Names(namespace) => self.session.want_names(namespace),
        };
        match wanted {
            Ok(reaction) => self.take(reaction),
            Err(reason) => {
                tracing::debug!(?ask, %reason, "a resource is not asked for");
                Vec::new()
            }
        }
    }

    /// Drops the destinations and names that nobody used since `before` (milliseconds on the sidecar's clock).
    pub(super) fn sweep(&mut self, before: u64) -> Vec<DeltaDiscoveryRequest> {
        self.live.tidy();
        let mut requests = Vec::new();
        for name in self.live.idle(before) {
            let mut reaction = self.session.drop(&name);
            // Dropped is not absent: the next request must ask again.
            let itself = Reference::new(ResourceType::Listener, name);
            reaction.removed.retain(|removed| *removed != itself);
            requests.extend(self.take(reaction));
            self.live.forget(&itself.name);
        }
        let wanted: Vec<String> = self.session.wanted_names().map(str::to_owned).collect();
        for namespace in wanted.into_iter().filter(|one| self.live.are_names_idle(one, before)) {
            let mut reaction = self.session.drop_names(&namespace);
            let itself = Reference::new(ResourceType::NameTable, namespace);
            reaction.removed.retain(|removed| *removed != itself);
            requests.extend(self.take(reaction));
            self.live.forget_names(&itself.name);
        }
        requests
    }

    /// Hands what the session decided to the data path.
    fn take(&self, reaction: Reaction) -> Vec<DeltaDiscoveryRequest> {
        let Reaction { requests, applied, removed, absent, refused } = reaction;
        for refused in refused {
            self.tell_refused(&refused);
        }
        let mut resources = Vec::with_capacity(applied.len());
        for versioned in applied {
            match versioned.resource {
                Resource::TrustBundle(bundle) => self.take_bundle(&bundle),
                Resource::MeshSettings(settings) => {
                    self.take_issuing_root(&settings.issuing_root);
                    resources.push(Resource::MeshSettings(settings));
                }
                Resource::Endpoints(of) => {
                    tracing::debug!(cluster = %of.name, endpoints = of.endpoints.len(), "took the endpoints of a service");
                    resources.push(Resource::Endpoints(of));
                }
                resource => resources.push(resource),
            }
        }
        let removed = removed.into_iter().chain(absent);
        let removed: Vec<_> = removed.map(|reference| (reference.resource_type, reference.name)).collect();
        if !resources.is_empty() || !removed.is_empty() {
            self.live.apply(resources, &removed);
        }
        let wanted = self.session.wanted().count();
        self.registry.set(Gauge::Subscriptions, i64::try_from(wanted).unwrap_or(i64::MAX));
        requests
    }

    fn tell_refused(&self, refused: &RefusedResource) {
        self.registry.count(Event::Nack);
        tracing::warn!(
            resource = %refused.reference,
            version = refused.version,
            reason = %refused.refused,
            "refused a resource of the control plane; its last good version stays in use"
        );
    }

    fn take_issuing_root(&self, hash: &str) {
        self.told.send_if_modified(|told| {
            let is_news = told.issuing_root != hash;
            hash.clone_into(&mut told.issuing_root);
            is_news
        });
    }

    fn take_bundle(&self, bundle: &resource::TrustBundle) {
        match TrustBundle::try_from(bundle) {
            Ok(bundle) => self.told.send_modify(|told| told.bundle = Some(bundle)),
            Err(error) => {
                tracing::error!(%error, "refused a trust bundle of the control plane; the old roots stay");
            }
        }
    }
}
