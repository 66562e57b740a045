//! What arrived unasked and waits for something that points to it.

use std::collections::BTreeMap;
use std::mem;

use super::Versioned;
use crate::convert::Reference;

/// Offers that wait at a time: the includes of one push. More are sent back, and asked for when they are
/// needed.
const OFFERS_MAX: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Resource(Box<Versioned>),
    /// It came and was refused.
    Refused,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Offers {
    waiting: BTreeMap<Reference, Offer>,
    declined: Vec<Reference>,
}

impl Offers {
    pub(super) fn add(&mut self, reference: Reference, offer: Offer) {
        if self.waiting.len() < OFFERS_MAX || self.waiting.contains_key(&reference) {
            self.waiting.insert(reference, offer);
        } else {
            self.decline(reference);
        }
    }

    /// It is of no use, and is to be given back at once.
    pub(super) fn decline(&mut self, reference: Reference) {
        self.waiting.remove(&reference);
        self.declined.push(reference);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.declined.is_empty()
    }

    pub(super) fn claim(&mut self, reference: &Reference) -> Option<Offer> {
        self.waiting.remove(reference)
    }

    /// Nothing that points to them can come any more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Reference> + use<> {
        mem::take(&mut self.waiting).into_keys()
    }

    pub(super) fn take_declined(&mut self) -> Vec<Reference> {
        mem::take(&mut self.declined)
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::resource::ResourceType;

    use super::*;

    #[test]
    fn more_offers_than_the_limit_are_given_back() {
        let offer = |number: usize| Reference::new(ResourceType::Cluster, number.to_string());
        let mut offers = Offers::default();
        for number in 0..=OFFERS_MAX {
            offers.add(offer(number), Offer::Refused);
        }
        offers.add(offer(0), Offer::Refused);
        assert_eq!(offers.take_declined(), [offer(OFFERS_MAX)]);
        assert_eq!(offers.take().count(), OFFERS_MAX);
        assert!(offers.is_empty());
    }
}
