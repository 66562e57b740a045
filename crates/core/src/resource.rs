//! What a proxy asks the control plane for, as values: the result of `compile`, the content of xDS.
//!
//! `Listener` -> `Route` -> `Cluster` -> `Endpoints` is one destination, asked for by name as proxyless
//! gRPC does it (gRFC A27). `Inbound` and `MeshSettings` are the sidecar's own. A `NameTable` says which names a
//! namespace has (`names.rs`).
//!
//! Versions hash these values in canonical order, never encoded bytes, so every collection here is ordered.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::model::{
    AccessLog, AppProtocol, Balance, HeaderModifier, Health, Locality, MtlsMode, RouteMatch, SpiffeId,
    Transport, UnknownDestinations,
};
use crate::name::PortName;
pub use crate::names::NameTable;
use crate::policy::{RuleRetry, Timeouts, Traffic};

/// One resource of any type. They pass one at a time; what is kept is what is in them.
#[allow(clippy::large_enum_variant)] // a box around each cluster's policy would save nothing that lasts
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Listener(Listener),
    Route(Route),
    Cluster(Cluster),
    Endpoints(Endpoints),
    Inbound(Inbound),
    MeshSettings(MeshSettings),
    TrustBundle(TrustBundle),
    NameTable(NameTable),
}

/// The types of resources, in the order in which one push sends them (architecture: CDS, EDS, LDS, RDS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Cluster,
    Endpoints,
    Listener,
    Route,
    Inbound,
    MeshSettings,
    TrustBundle,
    NameTable,
}

/// What the client asked for, and where that points. Named `host:port` as the application wrote it, in
/// lower case: `cart:80`, `cart.default:80`, `cart.default.mesh:80`, `240.0.0.7:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    pub name: String,
    /// Which service and view it is.
    pub target: PortName,
    /// Given by the service: detection is skipped.
    pub hint: Option<AppProtocol>,
    /// Where whoever asks is to listen, if it asked for that (Envoy).
    pub address: Option<SocketAddr>,
}

/// The rules for one service's port. TCP takes the last rule's backends, as it has nothing to match and the
/// last is the least specific (`route::rule_for_opaque`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub name: PortName,
    /// First match wins; `compile` sorted them by Gateway API's precedence. No match: 404.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `HTTPRoute` and index of the rule: `default/split#0`; `default` for the rule that a service has
    /// when no route is bound to it. The metric label `route`.
    pub name: String,
    pub matches: Vec<RouteMatch>,
    pub request_headers: HeaderModifier,
    pub response_headers: HeaderModifier,
    /// Empty: 500 with the cause `no_backend` (Gateway API).
    pub backends: Vec<WeightedBackend>,
    /// What it does not say is said by the backend's cluster. Nothing where there is no backend.
    pub timeouts: Timeouts,
    pub retry: Option<RuleRetry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedBackend {
    /// Without `from`.
    pub cluster: PortName,
    /// 0: takes none.
    pub weight: u32,
}

/// How a service's endpoints are to be talked to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Without `from`.
    pub name: PortName,
    pub balance: Balance,
    /// Who may answer there; checked in the handshake. Empty only if every endpoint is plaintext.
    pub identities: BTreeSet<SpiffeId>,
    /// How the service wants to be called: its `TrafficPolicy`, with the defaults of what that leaves open.
    pub traffic: Traffic,
    /// What its applications speak in clear, for those that go to them and can't find out (Envoy).
    pub hint: Option<AppProtocol>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The cluster's name.
    pub name: PortName,
    /// Ordered by address, each address once.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The application's port, told to the inbound sidecar in the opaque preamble.
    pub app_port: u16,
    /// Best first; never empty.
    pub transports: Vec<Transport>,
    pub health: Health,
    /// 1 or more: gRPC drops a locality of weight 0 in silence.
    pub weight: u32,
    pub locality: Locality,
    /// The workload's name, for logs and `describe`.
    pub workload: String,
}

/// What a workload's own sidecar must know of it. Named by the workload: `default/cart-7f3a`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inbound {
    pub name: String,
    pub ports: Vec<InboundPort>,
    /// Of ports that nobody declared.
    pub mtls: MtlsMode,
}

impl Inbound {
    /// What one of the application's ports takes.
    pub fn mtls_of(&self, app_port: u16) -> MtlsMode {
        self.ports.iter().find(|port| port.app_port == app_port).map_or(self.mtls, |port| port.mtls)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundPort {
    pub app_port: u16,
    pub hint: Option<AppProtocol>,
    /// The service that this port serves (the first by name), for metrics; `None`: none selects it.
    pub service: Option<PortName>,
    pub mtls: MtlsMode,
}

/// What every sidecar of the mesh is told. Named `default`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshSettings {
    /// Each store's own; a sidecar that meets another one refuses its config.
    pub mesh_id: String,
    pub trust_domain: String,
    pub access_log: AccessLog,
    /// SHA-256 of the key of the root below which leaves are signed now, in hexadecimal digits; empty: not told. Who
    /// holds a leaf of another root asks for a new one.
    pub issuing_root: String,
    /// Addresses worth asking about: virtual ranges and networks where workloads registered.
    pub ranges: Vec<IpNet>,
    /// Those of them in which nobody is but services: an address there that is no service's leads nowhere.
    pub virtual_ranges: Vec<IpNet>,
    pub unknown: UnknownDestinations,
}

/// A trust domain's roots (SDS validation context). Named by the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustBundle {
    pub trust_domain: String,
    /// DER; two while a root is replaced.
    pub roots: Vec<Vec<u8>>,
}
