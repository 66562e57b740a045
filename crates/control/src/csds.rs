//! CSDS, xDS's own way to ask what each client was told and took (`envoy.service.status.v3.ClientStatusDiscoveryService`):
//! for tools that know it. Operators' socket only; `meshwork status` and `describe` say the same in our
//! words.
//!
//! Resources are named with their versions; their contents are not repeated.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use meshwork_xds::session::server::Subscription;
use meshwork_xds::type_url;
use meshwork_xds::wire::matcher::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use meshwork_xds::wire::status::client_config::GenericXdsConfig;
use meshwork_xds::wire::status::client_status_discovery_service_server::ClientStatusDiscoveryService;
use meshwork_xds::wire::status::{ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use meshwork_xds::wire::{ClientResourceStatus, UpdateFailureState, core};
use tonic::{Request, Response, Status, Streaming};

use crate::sessions::{self, Sessions};

pub(crate) struct StatusService(pub(crate) Arc<Sessions>);

#[tonic::async_trait]
impl ClientStatusDiscoveryService for StatusService {
    type StreamClientStatusStream =
        Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send + 'static>>;

    /// An answer for each request.
    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let sessions = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |request| answer(&sessions, request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        Ok(Response::new(answer(&self.0, request.into_inner())?))
    }
}

fn answer(sessions: &Sessions, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    let ClientStatusRequest { node_matchers, node: _, exclude_resource_contents: _ } = request;
    let wanted: Vec<String> = node_matchers.into_iter().map(node_id).collect::<Result<_, _>>()?;
    let configs = sessions.all().into_iter().filter_map(|stream| client_config(&stream, &wanted));
    Ok(ClientStatusResponse { config: configs.collect() })
}

/// Clients are told apart by their node's ID.
fn node_id(matcher: NodeMatcher) -> Result<String, Status> {
    match matcher {
        NodeMatcher {
            node_id: Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(id)), ignore_case: false }),
            node_metadatas,
        } if node_metadatas.is_empty() => Ok(id),
        _ => Err(Status::invalid_argument("node_matchers: only an exact node_id is understood")),
    }
}

/// `None`: not wanted, or it has yet to say who it is.
fn client_config(stream: &sessions::Stream, wanted: &[String]) -> Option<ClientConfig> {
    let session = stream.session();
    let client = session.client().filter(|client| wanted.is_empty() || wanted.contains(&client.id))?;
    let node = core::Node {
        id: client.id.clone(),
        user_agent_name: client.agent.clone(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
            client.version.clone(),
        )),
        client_features: client.features.clone(),
        ..core::Node::default()
    };
    let resources = session.subscriptions().iter().map(|(reference, subscription)| GenericXdsConfig {
        type_url: type_url(reference.resource_type),
        name: reference.name.clone(),
        ..resource(subscription)
    });
    Some(ClientConfig {
        node: Some(node),
        generic_xds_configs: resources.collect(),
        // Whose certificate it showed.
        client_scope: stream.id.to_string(),
        ..ClientConfig::default()
    })
}

fn resource(subscription: &Subscription) -> GenericXdsConfig {
    let (sent, acknowledged) = (subscription.sent(), subscription.acknowledged());
    let (config_status, client_status) = match (sent, subscription.refused()) {
        (_, Some(_)) => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        (None, None) => (ConfigStatus::NotSent, ClientResourceStatus::DoesNotExist),
        (Some(_), None) if sent == acknowledged => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        (Some(_), None) => (ConfigStatus::Stale, ClientResourceStatus::Requested),
    };
    GenericXdsConfig {
        version_info: sent.unwrap_or_default().to_owned(),
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state: subscription.refused().map(|refusal| UpdateFailureState {
            details: refusal.reason.clone(),
            version_info: refusal.version.to_string(),
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}
