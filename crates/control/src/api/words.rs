//! The words that operators read for what is an enum here.

use meshwork_core::model::Health;
use meshwork_core::resource::ResourceType;

pub(super) fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Draining => "draining",
    }
}

pub(super) fn resource_word(resource_type: ResourceType) -> &'static str {
    match resource_type {
        ResourceType::Listener => "listener",
        ResourceType::Route => "route",
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoints => "endpoints",
        ResourceType::Inbound => "inbound",
        ResourceType::MeshSettings => "meshSettings",
        ResourceType::TrustBundle => "trustBundle",
        ResourceType::NameTable => "nameTable",
    }
}
