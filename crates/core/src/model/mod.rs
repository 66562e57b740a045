//! What operators and sidecars declare, already judged by `validate`: a value that exists is right.

mod identity;
mod settings;

pub use identity::{InvalidSpiffeId, SpiffeId};
pub use settings::{AccessLog, MeshConfig, MtlsMode, SETTINGS_NAME, Unknown, UnknownDestinations};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{RuleRetry, Timeouts, Traffic};

/// Namespace and name of a resource; written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

pub type Labels = BTreeMap<String, String>;

/// `v1` `Service`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub key: Key,
    pub ports: Vec<ServicePort>,
    /// Which workloads of the namespace serve it; empty: none are chosen by label.
    pub selector: Labels,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Service accounts that may serve it (annotation `meshwork.dev/accounts`, default: the service's
    /// name). Declared, never learned from who registered.
    pub accounts: BTreeSet<String>,
    /// How its endpoints are chosen where no `TrafficPolicy` says it (annotation `meshwork.dev/balance`).
    pub balance: Balance,
    /// The address that Kubernetes gave it (`clusterIP`).
    pub cluster_ip: Option<IpAddr>,
    /// Whether its workloads take plaintext, too, where that is not as the mesh's (annotation `meshwork.dev/inbound-mode`).
    pub inbound: InboundModes,
    /// As the control plane gave it; `None`: there was none left.
    pub virtual_address: Option<VirtualAddress>,
}

/// What a service says of plaintext.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundModes {
    /// Of all its ports but those below; `None`: as the mesh's.
    pub all: Option<MtlsMode>,
    /// By the service's port.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl InboundModes {
    pub fn of(&self, port: u16) -> Option<MtlsMode> {
        self.ports.get(&port).copied().or(self.all)
    }
}

impl Service {
    /// Every address that stands for it and is nobody else's.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.virtual_address.into_iter().flat_map(VirtualAddress::ips).chain(self.cluster_ip)
    }
}

/// Both addresses of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl VirtualAddress {
    pub fn ips(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    /// Port of the application, or of the `Workload`'s own list.
    pub target_port: u16,
    /// `appProtocol`: given, detection is skipped.
    pub app_protocol: Option<AppProtocol>,
}

/// The hint that skips detection. `http`, `kubernetes.io/h2c`, `grpc`, `tcp`, … in YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppProtocol {
    Http,
    Http2,
    Grpc,
    Tcp,
}

/// How one of a service's endpoints is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Power of two choices by peak EWMA latency.
    #[default]
    PeakEwma,
    RoundRobin,
    /// Power of two choices by open requests.
    LeastRequest,
    Random,
    /// Requests with the same key go to the same endpoint, as long as it can take them.
    Hash {
        table: HashTable,
        key: HashKey,
    },
}

/// How keys are shared out among endpoints (`balance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// At least so many points where weights allow it, and at most so many.
    Ring { size_min: u32, size_max: u32 },
    /// A prime number of slots.
    Maglev { size: u32 },
}

impl HashTable {
    /// Points of a ring, or slots of a table, which each calling sidecar holds once per health and distance of the endpoints.
    /// A million points are 16 MiB and take a fraction of a second to make.
    pub const SIZE_MAX: u32 = 1 << 20;
}

/// What of a request is hashed. A request without it goes to any endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// Its name in lower case.
    Header(String),
    /// A client that brings none is `given` one for so long, zero for as long as it runs; `None`: nobody is given one.
    Cookie { name: String, given: Option<Duration> },
    /// Who calls: all requests of one workload go to one endpoint. Opaque connections have nothing else.
    Source,
}

/// `meshwork.dev/v1alpha1` `Workload`: written by hand, or registered by its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub key: Key,
    pub labels: Labels,
    /// Its identity's account: the last part of its SPIFFE ID.
    pub account: String,
    pub ports: Vec<WorkloadPort>,
    pub locality: Locality,
    pub health: Health,
    /// Relative share among its service's endpoints; 1 unless told.
    pub weight: u32,
}

impl Workload {
    /// Where its ports are reached.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ports.iter().map(|port| port.address.ip().to_canonical())
    }

    /// The worst of its own health and its ports'.
    pub fn worst_health(&self) -> Health {
        self.ports.iter().map(|port| port.health).fold(self.health, Health::max)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadPort {
    /// The service's port that its sidecar registered it for (`--port 80:8080`); `None`: written by hand, so it is
    /// found by `targetPort`. Replicas on one machine serve the same service port from different ports of their own.
    pub service_port: Option<u16>,
    /// What a service's `targetPort` names: the application's port.
    pub app_port: u16,
    /// Where others reach it: the sidecar's inbound address, or the application's own if it has none.
    pub address: SocketAddr,
    /// What is spoken there, best first; never empty.
    pub transports: Vec<Transport>,
    /// How the control plane looks after it.
    pub check: Check,
    /// As the control plane's check found it; the workload's own health stands beside it.
    pub health: Health,
}

/// Whether the control plane looks after a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// Nothing was said: a port in clear has nobody who speaks for it, so it is looked at as [`HealthCheck::default`]
    /// says; what was never seen well may be out of our reach only, and counts as well.
    #[default]
    Unasked,
    Off,
    Asked(HealthCheck),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    /// No longer than the interval.
    pub timeout: Duration,
}

impl HealthCheck {
    /// A machine that is gone is out within half a minute; a thousand of them are a hundred probes a second.
    pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
    /// A caller would not wait either.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { probe: Probe::Tcp, interval: Self::INTERVAL_DEFAULT, timeout: Self::TIMEOUT_DEFAULT }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// It accepts.
    Tcp,
    /// GET; `status` `None`: 200 to 399 is well.
    Http { path: String, status: Option<u16> },
    /// `grpc.health.v1`; an empty service is the whole server.
    Grpc { service: String },
}

/// A way to an endpoint. ALPN protocol IDs in brackets; in YAML `mtls-http2`, `mtls-http1`, `mtls-tcp`,
/// `plaintext`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// HTTP/2 over mTLS (`h2`).
    MtlsHttp2,
    /// HTTP/1.1 over mTLS (`http/1.1`).
    MtlsHttp1,
    /// Opaque bytes over mTLS behind the preamble (`meshwork-tcp/1`).
    MtlsTcp,
    /// No sidecar there: whatever the application speaks, in clear.
    Plaintext,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    #[default]
    Healthy,
    /// Used only when nothing healthy is left.
    Unhealthy,
    /// Takes nothing new.
    Draining,
}

/// `REGION/ZONE`; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    pub region: String,
    pub zone: String,
}

/// `gateway.networking.k8s.io/v1` `HTTPRoute` bound to a `Service` by `parentRefs` (GAMMA, GEP-1294).
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    pub key: Key,
    pub parents: Vec<ParentRef>,
    pub rules: Vec<RouteRule>,
    /// Seconds since the epoch; the older of two routes wins (GEP-1294), then the smaller key.
    pub created: u64,
}

/// A service that the route is bound to. In the service's own namespace the route is for everyone
/// (producer route), in another one for callers of that namespace only (consumer route).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    pub service: Key,
    /// One port of it; `None`: all.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Any of them; never empty (an absent list means the prefix `/`).
    pub matches: Vec<RouteMatch>,
    pub request_headers: HeaderModifier,
    pub response_headers: HeaderModifier,
    /// Empty, or with no weight at all: 500 (Gateway API).
    pub backends: Vec<BackendRef>,
    pub timeouts: Timeouts,
    pub retry: Option<RuleRetry>,
}

/// All of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub method: Option<String>,
    /// (name in lower case, value).
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    Exact(String),
    /// By whole path elements: `/a` matches `/a` and `/a/b`, not `/ab` (Gateway API `PathPrefix`).
    Prefix(String),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// Applied in the order set, add, remove, each name at most once (Gateway API `HTTPHeaderFilter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderModifier {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    pub service: Key,
    pub port: u16,
    pub weight: u32,
}

/// `meshwork.dev/v1alpha1` `TrafficPolicy`, bound to Services of its namespace by `targetRefs`.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    pub key: Key,
    pub targets: Vec<TargetRef>,
    /// `None`: as the service's annotation says.
    pub balance: Option<Balance>,
    /// With the defaults of what was left out.
    pub traffic: Traffic,
    /// Seconds since the epoch; of two policies for one target the older holds, then the smaller key (GEP-713).
    pub created: u64,
}

/// A service that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetRef {
    pub service: Key,
    /// `sectionName`: one port by its name, whose own policy goes before one for the whole service; `None`: all.
    pub section: Option<String>,
}
