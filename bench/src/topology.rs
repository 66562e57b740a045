//! What stands between client and backend.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::backend;
use crate::failure::{Failure, Result};
use crate::load::{Door, Form, Target};
use crate::namespaces::SERVER;
use crate::peers::Peer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    MeshworkH1,
    MeshworkH2,
}

/// Where each peer's outbound proxy listens; Meshwork's takes everything at the first.
const DOORS: [(Door, u16); 3] = [(Door::Http1, 4140), (Door::Http2, 4141), (Door::Grpc, 4142)];

/// The service's name: a host for the peers, which serve any.
pub(crate) const SERVICE: &str = "echo";

/// The service's port for gRPC, as Meshwork's clients write it.
const GRPC_HOST: &str = "echo:50051";

/// What a topology is made of.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Direct,
    Peer(Peer),
    Meshwork(Between),
}

/// What Meshwork's sidecars speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Http1,
    Http2,
}

impl Topology {
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Nginx, Self::Haproxy, Self::Envoy, Self::MeshworkH1, Self::MeshworkH2];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx-pair",
            Self::Haproxy => "haproxy-pair",
            Self::Envoy => "envoy-pair",
            Self::MeshworkH1 => "meshwork-pair-h1",
            Self::MeshworkH2 => "meshwork-pair-h2",
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Direct => Kind::Direct,
            Self::Nginx => Kind::Peer(Peer::Nginx),
            Self::Haproxy => Kind::Peer(Peer::Haproxy),
            Self::Envoy => Kind::Peer(Peer::Envoy),
            Self::MeshworkH1 => Kind::Meshwork(Between::Http1),
            Self::MeshworkH2 => Kind::Meshwork(Between::Http2),
        }
    }

    /// Where a client goes, and what it says there.
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
            Kind::Peer(_) => Target { address: loopback(port(door)), host, form: Form::Origin },
            // As an application that knows nothing but `http_proxy`.
            Kind::Meshwork(_) => Target { address: loopback(port(Door::Http1)), host, form: Form::Absolute },
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
