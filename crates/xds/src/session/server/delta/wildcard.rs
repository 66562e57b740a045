//! What a stream is subscribed to because its client wants everything (`everything.rs`).

use std::collections::{BTreeMap, BTreeSet};

use meshwork_core::resource::ResourceType;

use super::ServerSession;
use crate::convert::Reference;
use crate::session::server::everything::names;
use crate::session::server::subscription::{Asked, Sent};
use crate::session::server::{Resolve, SUBSCRIPTIONS_MAX, Subscription};

impl ServerSession {
    /// Enters what a client that wants everything holds from an earlier stream.
    pub(super) fn hold(
        &mut self,
        resource_type: ResourceType,
        held: BTreeMap<String, String>,
    ) -> Vec<Reference> {
        let mut entered = Vec::new();
        for (name, version) in held {
            let reference = Reference { resource_type, name };
            if !self.subscriptions.contains_key(&reference) && self.subscriptions.len() < SUBSCRIPTIONS_MAX {
                let subscription = Subscription::new(Asked::Wildcard, Sent::Version(version.as_str().into()));
                self.subscriptions.insert(reference.clone(), subscription);
                entered.push(reference);
            }
        }
        entered
    }

    /// Enters what is part of everything now, to be compared; gives what no longer is, to be removed.
    pub(super) fn follow(
        &mut self,
        compare: &mut Vec<Reference>,
        resolve: &mut Resolve<'_>,
    ) -> BTreeSet<Reference> {
        let mut left = BTreeSet::new();
        for resource_type in &self.everything {
            let part = names(self.client.as_ref(), *resource_type, resolve);
            let gone = self.subscriptions.iter().filter(|(reference, subscription)| {
                reference.resource_type == *resource_type
                    && subscription.asked == Asked::Wildcard
                    && !part.contains(&reference.name)
            });
            left.extend(gone.map(|(reference, _)| reference.clone()));
            for name in part {
                let reference = Reference { resource_type: *resource_type, name };
                if !self.subscriptions.contains_key(&reference) {
                    let subscription = Subscription::new(Asked::Wildcard, Sent::Nothing);
                    self.subscriptions.insert(reference.clone(), subscription);
                    compare.push(reference);
                }
            }
        }
        compare.extend(left.iter().cloned());
        left
    }
}
