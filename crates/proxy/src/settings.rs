//! What a sidecar is told at its start. Each part has its default and reason where it is defined;
//! reading flags and environment is the binary's.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use meshwork_core::compile::Features;
use meshwork_core::model::{AppProtocol, Locality};

use crate::alpn::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP};

/// Whether sidecars speak HTTP/2 with each other unless told otherwise.
pub const HTTP2_DEFAULT: bool = true;

/// What a drain gives inbound requests unless told otherwise: above what answers take, and with all that comes before
/// within the minute that whoever stops a process commonly waits.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(30);

/// One workload and how its sidecar serves it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service that the workload serves, and its account.
    pub service: String,
    pub namespace: String,
    /// The join token as text; needed until the state directory holds a certificate.
    pub token: Option<String>,
    /// Certificate, key and workload name are kept here (0700).
    pub state_dir: PathBuf,
    pub ports: Vec<PortSpec>,
    pub labels: BTreeMap<String, String>,
    pub locality: Locality,
    /// `None`: the application is healthy once its ports accept.
    pub health: Option<HealthCheck>,
    /// Threads that carry traffic; 1 unless told: one core moves more than most applications serve.
    pub workers: usize,
    /// HTTP/2 with every sidecar that speaks it. `false`: HTTP/1.1 with all, as a sidecar that knows no HTTP/2
    /// does; for diagnosis and comparison.
    pub http2: bool,
    /// Resident memory past which new requests are refused, in bytes. `None`: half of what the machine or the
    /// sidecar's cgroup has.
    pub memory_max: Option<u64>,
    /// How long the start waits for control plane and application.
    pub wait: Duration,
    /// How long inbound requests that run may take to finish once the workload drains.
    pub drain: Duration,
    /// Where the host says which resolvers it has, if names are answered at all ([`Listeners::dns`]).
    pub resolv_conf: PathBuf,
    /// The proxy that was set before ours (`http_proxy`), for hosts outside the mesh.
    pub parent_proxy: Option<String>,
}

impl Settings {
    /// What its inbound ports speak, best first (ALPN protocol IDs).
    pub fn alpn(&self) -> &'static [&'static [u8]] {
        if self.http2 { &[ALPN_HTTP2, ALPN_HTTP1, ALPN_TCP] } else { &[ALPN_HTTP1, ALPN_TCP] }
    }

    /// What the control plane may tell it beside what every sidecar understands.
    pub(crate) fn features(&self) -> Features {
        if self.http2 { Features::ALL } else { Features::ALL.without(Features::HTTP2) }
    }
}

/// `[SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    pub service_port: u16,
    /// On loopback.
    pub app_port: u16,
    /// `None`: detect.
    pub protocol: Option<AppProtocol>,
}

/// `SERVICE:PORT=IP:PORT`: a local port that leads to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// As an application would write it: `stock:9000`, `stock.shop:9000`.
    pub destination: String,
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// GET this path on the first port: 200 to 399 is healthy.
    Http(String),
    /// The first port accepts.
    Tcp,
    /// `grpc.health.v1.Health/Check` on the first port answers `SERVING`.
    Grpc,
}

/// Sockets that are bound already: by the supervisor of `run`, so that a dead sidecar comes back on the
/// same ones, or by the `proxy` command itself.
#[derive(Debug)]
pub struct Listeners {
    /// Loopback; absolute-form requests and CONNECT. `None`: nobody is told of one, as the application is captured.
    pub outbound_http: Option<TcpListener>,
    pub upstreams: Vec<(Upstream, TcpListener)>,
    /// One for each of `Settings::ports`, in the same order, on the advertised address.
    pub inbound: Vec<TcpListener>,
    pub admin: TcpListener,
    /// Where names are answered: datagrams and connections of one address each. Empty: nowhere.
    pub dns: Vec<(UdpSocket, TcpListener)>,
    /// Answers the platform's probes (`GET /ready`), in clear and to anybody; `None`: nobody does.
    pub probes: Option<TcpListener>,
    /// What rules redirect here; `None`: nothing is captured.
    pub captured: Option<Captured>,
}

/// Whose traffic the rules capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// That of some process tree, in which the sidecar is not.
    #[default]
    Tree,
    /// Everybody's in the sidecar's network namespace: it is known by its mark, or its user.
    Namespace,
}

/// Sockets that the kernel's rules redirect connections to.
#[derive(Debug, Default)]
pub struct Captured {
    pub whose: Whose,
    /// What the application opens, one of each address family.
    pub outbound: Vec<TcpListener>,
    /// What is opened to the application.
    pub inbound: Vec<TcpListener>,
}
