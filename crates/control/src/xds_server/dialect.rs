//! Both dialects of ADS, so that one task serves either: delta for our own sidecars, state-of-the-world for gRPC.

use meshwork_core::compile::{Audience, Features};
use meshwork_core::resource::ResourceType;
use meshwork_xds::codec::{DeltaResponse, Encoded, SotwResponse};
use meshwork_xds::session::server::{Answer, Resolve, Told, Violation};
use meshwork_xds::session::{ServerSession, SotwSession};
use meshwork_xds::wire::{DeltaDiscoveryRequest, DiscoveryRequest, core};

use crate::sessions::GRPC;

/// What a request leads to: responses to be sent in this order, and what it said about an earlier one.
type Taken<R> = Result<(Vec<R>, Option<Answer>), Violation>;

/// One of them.
pub(super) trait Dialect: Told + 'static {
    type Request: Send + 'static;
    type Response: Encoded;

    /// Who says what it is, in a stream's first request.
    fn node(request: &Self::Request) -> Option<&core::Node>;

    /// For whom to compile; or why there is nothing for such a client.
    fn audience(agent: &str, features: &[String]) -> Result<Audience, String>;

    fn take(
        &mut self,
        request: Self::Request,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Taken<Self::Response>;

    fn compare(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<Self::Response>;
}

impl Dialect for ServerSession {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaResponse;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn audience(_: &str, features: &[String]) -> Result<Audience, String> {
        Ok(Audience::Sidecar(Features::from_names(features.iter().map(String::as_str))))
    }

    fn take(
        &mut self,
        request: DeltaDiscoveryRequest,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Taken<DeltaResponse> {
        self.request(request, revision, resolve).map(|outcome| (outcome.responses, outcome.answer))
    }

    fn compare(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<DeltaResponse> {
        self.changed(concerns, revision, resolve)
    }
}

impl Dialect for SotwSession {
    type Request = DiscoveryRequest;
    type Response = SotwResponse;

    fn node(request: &DiscoveryRequest) -> Option<&core::Node> {
        request.node.as_ref()
    }

    fn audience(agent: &str, _: &[String]) -> Result<Audience, String> {
        if agent.starts_with(GRPC) {
            return Ok(Audience::Grpc);
        }
        Err(format!(
            "state-of-the-world xDS is for gRPC here, and node.user_agent_name is {agent:?}; sidecars use delta xDS"
        ))
    }

    fn take(
        &mut self,
        request: DiscoveryRequest,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Taken<SotwResponse> {
        self.request(request, revision, resolve).map(|outcome| (outcome.responses, outcome.answer))
    }

    fn compare(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<SotwResponse> {
        self.changed(concerns, revision, resolve)
    }
}
