//! Which other resources a resource points to: what must be there too before it is of use.

use std::fmt;

use meshwork_core::resource::{Resource, ResourceType};

/// Names one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub resource_type: ResourceType,
    pub name: String,
}

impl Reference {
    pub fn new(resource_type: ResourceType, name: impl Into<String>) -> Self {
        Self { resource_type, name: name.into() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.resource_type, self.name)
    }
}

/// Listener -> Route -> Clusters -> Endpoints. A cluster's trust bundle is not among them: a sidecar asks for
/// its own trust domain's from the start.
pub fn points_to(resource: &Resource) -> Vec<Reference> {
    match resource {
        Resource::Listener(listener) => {
            vec![Reference::new(ResourceType::Route, listener.target.to_string())]
        }
        Resource::Route(route) => {
            let backends = route.rules.iter().flat_map(|rule| &rule.backends);
            let mut clusters: Vec<_> = backends
                .map(|backend| Reference::new(ResourceType::Cluster, backend.cluster.to_string()))
                .collect();
            clusters.sort_unstable();
            clusters.dedup();
            clusters
        }
        Resource::Cluster(cluster) => {
            vec![Reference::new(ResourceType::Endpoints, cluster.name.to_string())]
        }
        Resource::Endpoints(_)
        | Resource::Inbound(_)
        | Resource::MeshSettings(_)
        | Resource::TrustBundle(_)
        | Resource::NameTable(_) => Vec::new(),
    }
}
