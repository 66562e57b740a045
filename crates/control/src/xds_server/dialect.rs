//! Both dialects of ADS, so that one task serves either: delta for our own sidecars and Envoy, state-of-the-world for gRPC
//! and Envoy.

use meshwork_core::compile::{Audience, Features};
use meshwork_xds::codec::Encoded;
use meshwork_xds::session::{ServerSession, Session, SotwSession};
use meshwork_xds::wire::{DeltaDiscoveryRequest, DiscoveryRequest, core};

use crate::sessions::Foreign;

/// One of them: what a session can't say of its client.
pub(super) trait Dialect: Session<Request: Send, Response: Encoded> + 'static {
    /// Who says what it is, in a stream's first request.
    fn node(request: &Self::Request) -> Option<&core::Node>;

    /// For whom to compile; or why there is nothing for such a client.
    fn audience(agent: &str, features: &[String]) -> Result<Audience, String>;
}

impl Dialect for ServerSession {
    fn node(request: &DeltaDiscoveryRequest) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn audience(agent: &str, features: &[String]) -> Result<Audience, String> {
        if let Some(foreign) = Foreign::of(agent) {
            return Ok(foreign.audience());
        }
        Ok(Audience::Sidecar(Features::from_names(features.iter().map(String::as_str))))
    }
}

impl Dialect for SotwSession {
    fn node(request: &DiscoveryRequest) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn audience(agent: &str, _: &[String]) -> Result<Audience, String> {
        Foreign::of(agent).map(Foreign::audience).ok_or_else(|| {
            format!(
                "state-of-the-world xDS is for gRPC and Envoy here, and node.user_agent_name is {agent:?}; sidecars use \
                 delta xDS"
            )
        })
    }
}
