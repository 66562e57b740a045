//! What a request says about the client and about earlier responses, for the status.

use std::sync::Arc;

use meshwork_core::resource::ResourceType;

use super::everything::Metadata;
use super::{Client, Violation};
use crate::wire::core;

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
