//! What the server knows of one name that the client is kept up to date about, and how that and the truth
//! become what is to be sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_core::resource::ResourceType;

use super::Refusal;
use crate::codec::EncodedResource;
use crate::convert::Reference;

/// One name that the client is kept up to date about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub(super) asked: Asked,
    pub(super) sent: Sent,
    /// How that was sent.
    pub(super) form: Form,
    /// What the version last sent leads to.
    pub(super) points_to: Arc<[Reference]>,
    pub(super) acknowledged: Option<Arc<str>>,
    pub(super) refused: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// By name.
    Explicitly,
    /// Sent along with what points to it; the client has yet to confirm.
    Included,
    /// It asked for everything, and that is part of it.
    Wildcard,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing that counts: the name must be answered.
    Nothing,
    Version(Arc<str>),
    /// That it doesn't exist.
    Absence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Full,
    /// As what differs from what the client had taken.
    Patch,
}

impl Subscription {
    pub(super) fn new(asked: Asked, sent: Sent) -> Self {
        // What a client holds from an earlier stream it took then.
        let acknowledged = match &sent {
            Sent::Version(held) => Some(held.clone()),
            Sent::Nothing | Sent::Absence => None,
        };
        Self { asked, sent, form: Form::Full, points_to: [].into(), acknowledged, refused: None }
    }

    /// The version that the client holds for certain: it was sent last, and taken.
    fn held(&self) -> Option<&str> {
        let settled = self.refused.is_none() && self.sent() == self.acknowledged();
        self.acknowledged().filter(|_| settled)
    }

    /// A patch that was refused did not fit what the client holds: it needs all of it. `false`: it was no patch, and
    /// would be refused again.
    pub(super) fn needs_all(&mut self, refused: &str) -> bool {
        let was_patch = self.form == Form::Patch && self.sent() == Some(refused);
        if was_patch {
            self.sent = Sent::Nothing;
        }
        was_patch
    }

    /// The version last sent (or held from before); `None`: the client was told that there is none.
    pub fn sent(&self) -> Option<&str> {
        match &self.sent {
            Sent::Version(version) => Some(version),
            Sent::Nothing | Sent::Absence => None,
        }
    }

    /// The version that the client last took.
    pub fn acknowledged(&self) -> Option<&str> {
        self.acknowledged.as_deref()
    }

    /// Set while the version last answered was refused; the client goes on with `acknowledged`.
    pub fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }
}

/// What differs, by type.
#[derive(Default)]
pub(super) struct Push {
    pub(super) updates: BTreeMap<ResourceType, Vec<(String, EncodedResource)>>,
    pub(super) removals: BTreeMap<ResourceType, Vec<String>>,
}

impl Push {
    /// Whether it holds the resource, or that there is none, already.
    pub(super) fn tells_of(&self, reference: &Reference) -> bool {
        let updates = self.updates.get(&reference.resource_type).into_iter().flatten();
        let removals = self.removals.get(&reference.resource_type).into_iter().flatten();
        updates.map(|(name, _)| name).chain(removals).any(|name| *name == reference.name)
    }

    /// Gives the resource if it is to be sent.
    pub(super) fn add(
        &mut self,
        reference: Reference,
        subscription: &mut Subscription,
        current: Option<EncodedResource>,
    ) -> Option<EncodedResource> {
        let Reference { resource_type, name } = reference;
        subscription.points_to =
            current.as_ref().map_or_else(|| [].into(), |current| current.points_to().clone());
        match (current, &subscription.sent) {
            (Some(resource), Sent::Version(sent)) if sent == resource.version() => None,
            (Some(resource), Sent::Nothing | Sent::Absence | Sent::Version(_)) => {
                let patch = subscription.held().and_then(|held| resource.for_holder(held));
                let is_patch = patch.is_some();
                let resource = patch.unwrap_or(resource);
                subscription.form = if is_patch { Form::Patch } else { Form::Full };
                subscription.sent = Sent::Version(resource.version().clone());
                self.updates.entry(resource_type).or_default().push((name, resource.clone()));
                Some(resource)
            }
            (None, Sent::Absence) => None,
            (None, Sent::Nothing | Sent::Version(_)) => {
                subscription.sent = Sent::Absence;
                self.removals.entry(resource_type).or_default().push(name);
                None
            }
        }
    }
}
