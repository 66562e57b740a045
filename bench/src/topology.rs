//! What stands between client and backend.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::backend;
use crate::failure::{Failure, Result};
use crate::load::{Door, Load};
use crate::namespaces::SERVER;
use crate::peers::Peer;
use crate::target::{Form, Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    MeshworkH1,
    MeshworkH2,
    /// The client is told nothing: rules of the kernel lead its connections to the proxy, and what arrives to the other one.
    MeshworkCaptured,
    EnvoyCaptured,
}

/// Where each peer's outbound proxy listens; Meshwork's takes everything at the first.
const DOORS: [(Door, u16); 3] = [(Door::Http1, 4140), (Door::Http2, 4141), (Door::Grpc, 4142)];

/// The service's name: a host for the peers, which serve any.
pub(crate) const SERVICE: &str = "echo";

/// Nobody has it: captured connections to it come to the proxy. For Envoy it means whatever its port means.
const ANY_VIRTUAL: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 9);

/// The service's port for gRPC, as Meshwork's clients write it.
const GRPC_HOST: &str = "echo:50051";

/// What a topology is made of.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Direct,
    Peer(Peer),
    Meshwork(Between, Entry),
}

/// How a client comes to Meshwork's outbound sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// As to an HTTP proxy.
    Proxy,
    /// By the service's own address and the kernel's rules.
    Captured,
}

/// What Meshwork's sidecars speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Http1,
    Http2,
}

impl Topology {
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::MeshworkH1,
        Self::MeshworkH2,
        Self::MeshworkCaptured,
        Self::EnvoyCaptured,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx-pair",
            Self::Haproxy => "haproxy-pair",
            Self::Envoy => "envoy-pair",
            Self::MeshworkH1 => "meshwork-pair-h1",
            Self::MeshworkH2 => "meshwork-pair-h2",
            Self::MeshworkCaptured => "meshwork-pair-captured",
            Self::EnvoyCaptured => "envoy-pair-captured",
        }
    }

    pub(crate) fn is_captured(self) -> bool {
        match self {
            Self::MeshworkCaptured | Self::EnvoyCaptured => true,
            Self::Direct
            | Self::Nginx
            | Self::Haproxy
            | Self::Envoy
            | Self::MeshworkH1
            | Self::MeshworkH2 => false,
        }
    }

    /// Whether it has a row under a load. What capture costs shows where connections stay, and where each request has a new
    /// one; those without it differ there in nothing that the other loads would not show.
    pub(crate) fn is_under(self, load: Load) -> bool {
        match (self, load) {
            (Self::EnvoyCaptured, load) => load == Load::Connects,
            (Self::MeshworkCaptured, Load::H1Small | Load::Rate | Load::Connects) => true,
            (Self::MeshworkCaptured, Load::H1Large | Load::H2Small | Load::Grpc | Load::Connections) => false,
            (Self::Direct | Self::MeshworkH2, _) => true,
            (Self::Nginx | Self::Haproxy | Self::Envoy | Self::MeshworkH1, load) => load != Load::Connects,
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Direct => Kind::Direct,
            Self::Nginx => Kind::Peer(Peer::Nginx),
            Self::Haproxy => Kind::Peer(Peer::Haproxy),
            Self::Envoy => Kind::Peer(Peer::Envoy),
            Self::MeshworkH1 => Kind::Meshwork(Between::Http1, Entry::Proxy),
            Self::MeshworkH2 => Kind::Meshwork(Between::Http2, Entry::Proxy),
            Self::MeshworkCaptured => Kind::Meshwork(Between::Http2, Entry::Captured),
            Self::EnvoyCaptured => Kind::Peer(Peer::EnvoyCaptured),
        }
    }

    /// Where a client goes, and what it says there. A captured one goes to the service's virtual address, which the mesh tells.
    pub(crate) fn target(self, door: Door) -> Target {
        let port = |wanted| DOORS.iter().find(|(door, _)| *door == wanted).map_or(0, |(_, port)| *port);
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let host = if door == Door::Grpc { GRPC_HOST } else { SERVICE };
        match self.kind() {
            Kind::Direct => {
                let port = match door {
                    Door::Http1 => backend::HTTP1_PORT,
                    Door::Http2 => backend::HTTP2_PORT,
                    Door::Grpc => backend::GRPC_PORT,
                };
                Target { address: SocketAddr::from((SERVER, port)), host, form: Form::Origin }
            }
            Kind::Peer(Peer::EnvoyCaptured) | Kind::Meshwork(_, Entry::Captured) => {
                Target { address: SocketAddr::from((ANY_VIRTUAL, 80)), host, form: Form::Origin }
            }
            Kind::Peer(_) => Target { address: loopback(port(door)), host, form: Form::Origin },
            // As an application that knows nothing but `http_proxy`.
            Kind::Meshwork(_, Entry::Proxy) => {
                Target { address: loopback(port(Door::Http1)), host, form: Form::Absolute }
            }
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Topology {
    type Err = Failure;

    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|topology| topology.name() == word);
        found.ok_or_else(|| {
            Failure(format!("{word} is no topology; there are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}
