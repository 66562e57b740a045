//! What a request says about an earlier response.

use prost::{Message as _, Name as _};

use super::ServerSession;
use crate::convert::Reference;
use crate::proto;
use crate::session::server::{Answer, InFlight, Refusal, RefusedName};
use crate::wire::Status;

impl ServerSession {
    /// Enters an ACK or NACK. Answers may come late and in any order; each is about its own response. An
    /// unknown nonce is about nothing: it was answered before.
    pub(super) fn answer(&mut self, nonce: &str, error: Option<Status>) -> Option<Answer> {
        let in_flight = self.in_flight.remove(&nonce.parse().ok()?)?;
        let resource_type = in_flight.resource_type;
        let refused = error.map(|error| refused(&in_flight, error)).unwrap_or_default();
        for (name, version) in in_flight.versions {
            let refusal = refused.iter().find(|refused| refused.name == name);
            let reference = Reference { resource_type, name };
            let Some(subscription) = self.subscriptions.get_mut(&reference) else {
                continue; // unsubscribed meanwhile
            };
            match (version, refusal) {
                (Some(version), Some(RefusedName { name: _, reason })) => {
                    if subscription.needs_all(&version) {
                        self.misfits.push(reference);
                    }
                    subscription.refused = Some(Refusal { version, reason: reason.clone() });
                }
                (version, _) => {
                    subscription.acknowledged = version;
                    subscription.refused = None;
                }
            }
        }
        Some(match refused.as_slice() {
            [] => Answer::Took { resource_type },
            [..] => Answer::Refused { resource_type, refused },
        })
    }
}

/// Our sidecar names what it refused; whoever doesn't has refused all of the response.
fn refused(in_flight: &InFlight, error: Status) -> Vec<RefusedName> {
    let Status { code: _, message, details } = error;
    let ours = details.iter().find(|any| any.type_url == proto::RefusedResources::type_url());
    let ours = ours.and_then(|any| proto::RefusedResources::decode(&any.value[..]).ok());
    match ours {
        Some(proto::RefusedResources { resources }) => resources.into_iter().map(refused_name).collect(),
        None => {
            let names = in_flight.versions.iter().map(|(name, _)| name.clone());
            names.map(|name| RefusedName { name, reason: message.clone() }).collect()
        }
    }
}

fn refused_name(resource: proto::RefusedResource) -> RefusedName {
    let proto::RefusedResource { name, path, reason } = resource;
    let reason = if path.is_empty() { reason } else { format!("{path}: {reason}") };
    RefusedName { name, reason }
}
