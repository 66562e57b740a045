//! What a request says about the client and about earlier responses, for the status.

use std::sync::Arc;

use meshwork_core::resource::ResourceType;
use prost::{Message as _, Name as _};

use super::everything::Metadata;
use super::{Client, InFlight, ServerSession, Violation};
use crate::convert::Reference;
use crate::proto;
use crate::wire::{Status, core};

/// An ACK or a NACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Took {
        resource_type: ResourceType,
    },
    /// The client took the rest of the response, if it is a sidecar of ours.
    Refused {
        resource_type: ResourceType,
        refused: Vec<RefusedName>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedName {
    pub name: String,
    pub reason: String,
}

/// A version that the client did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub version: Arc<str>,
    pub reason: String,
}

impl Client {
    /// From what it says in a stream's first request.
    pub fn of(node: core::Node) -> Result<Self, Violation> {
        let Metadata { carries, identity } = Metadata::read(node.metadata.as_ref())?;
        let version = match node.user_agent_version_type {
            Some(core::node::UserAgentVersionType::UserAgentVersion(version)) => version,
            Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) => {
                let version = build.version.unwrap_or_default();
                format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
            }
            None => String::new(),
        };
        let (agent, features) = (node.user_agent_name, node.client_features);
        Ok(Self { id: node.id, agent, version, features, carries, identity })
    }
}

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
