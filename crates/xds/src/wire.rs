//! Envoy's messages as we use them: the one module that names `envoy-types`, so that another source of the
//! same messages is a change to this file only. Also the type URLs of all resources, Envoy's and ours.

use meshwork_core::resource::ResourceType;
use prost::Name as _;

pub use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
pub use envoy_types::pb::envoy::config::core::v3 as core;
pub use envoy_types::pb::envoy::config::{
    cluster::v3 as cluster, endpoint::v3 as endpoint, listener::v3 as listener, route::v3 as route,
};
pub use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
pub use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::{
    common::v3::ConsistentHashingLbConfig, maglev::v3::Maglev, ring_hash::v3 as ring_hash,
};
pub use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
pub use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
pub use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
pub use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
pub use envoy_types::pb::envoy::service::status::v3 as status;
pub use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub use envoy_types::pb::envoy::r#type::v3::Percent;
pub use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration, ListValue, Struct, UInt32Value, UInt64Value, Value, value,
};
pub use envoy_types::pb::google::rpc::Status;

use crate::proto;

/// Every resource type with its URL, in the order in which one push sends them.
pub const TYPES: [ResourceType; 8] = [
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::Inbound,
    ResourceType::MeshSettings,
    ResourceType::TrustBundle,
    ResourceType::NameTable,
];

/// What xDS calls a resource type: `type.googleapis.com/<message>`.
pub fn type_url(resource_type: ResourceType) -> String {
    match resource_type {
        ResourceType::Cluster => cluster::Cluster::type_url(),
        ResourceType::Endpoints => endpoint::ClusterLoadAssignment::type_url(),
        ResourceType::Listener => listener::Listener::type_url(),
        ResourceType::Route => route::RouteConfiguration::type_url(),
        ResourceType::Inbound => proto::Inbound::type_url(),
        ResourceType::MeshSettings => proto::MeshSettings::type_url(),
        ResourceType::TrustBundle => tls::Secret::type_url(),
        ResourceType::NameTable => proto::NameTable::type_url(),
    }
}

/// `None`: a type that this version does not know.
pub fn resource_type(url: &str) -> Option<ResourceType> {
    TYPES.into_iter().find(|resource_type| type_url(*resource_type) == url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resource_type_: ResourceType, url: &str) {
        assert_eq!(type_url(resource_type_), url);
        assert_eq!(resource_type(url), Some(resource_type_));
    }

    #[test]
    fn types_have_the_urls_that_xds_gives_them() {
        check(ResourceType::Cluster, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
        check(ResourceType::Endpoints, "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
        check(ResourceType::Listener, "type.googleapis.com/envoy.config.listener.v3.Listener");
        check(ResourceType::Route, "type.googleapis.com/envoy.config.route.v3.RouteConfiguration");
        check(
            ResourceType::TrustBundle,
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        );
        check(ResourceType::Inbound, "type.googleapis.com/meshwork.v1.Inbound");
        check(ResourceType::MeshSettings, "type.googleapis.com/meshwork.v1.MeshSettings");
        check(ResourceType::NameTable, "type.googleapis.com/meshwork.v1.NameTable");
        assert_eq!(resource_type("type.googleapis.com/meshwork.v1.Novelty"), None);
    }
}
