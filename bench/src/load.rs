//! What clients ask for, and who asks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::failure::{Failure, Result, fail};
use crate::target::{GRPC_BYTES, Outcome, Place, Target};
use crate::{connects, generator, h2load, wrk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    H1Small,
    H1Large,
    Rate,
    H2Small,
    Grpc,
    Connections,
    Connects,
}

impl Load {
    pub(crate) const ALL: [Self; 7] = [
        Self::H1Small,
        Self::H1Large,
        Self::Rate,
        Self::H2Small,
        Self::Grpc,
        Self::Connections,
        Self::Connects,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1Small => "h1-128",
            Self::H1Large => "h1-10k",
            Self::Rate => "rate-2000",
            Self::H2Small => "h2-128",
            Self::Grpc => "grpc-unary",
            Self::Connections => "conns-1000",
            Self::Connects => "connects",
        }
    }

    /// For the document.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::H1Small => "wrk, 32 connections, as fast as answers come, 128 B",
            Self::H1Large => "wrk, 32 connections, as fast as answers come, 10 KiB",
            Self::Rate => {
                "open loop, 2,000 requests/s on 32 connections, 128 B, latency from the intended start"
            }
            Self::H2Small => "h2load, HTTP/2 by prior knowledge, 8 connections with 4 streams each, 128 B",
            Self::Grpc => {
                "h2load, gRPC unary calls of 100 B to a gRPC server, 8 connections with 4 streams each"
            }
            Self::Connections => "open loop, 1,000 requests/s on 1,000 connections, 128 B",
            Self::Connects => {
                "a new connection for each request, 16 at a time, as fast as they end, 128 B; latency from before `connect` to the answer's end"
            }
        }
    }

    pub(crate) fn door(self) -> Door {
        match self {
            Self::H1Small | Self::H1Large | Self::Rate | Self::Connections | Self::Connects => Door::Http1,
            Self::H2Small => Door::Http2,
            Self::Grpc => Door::Grpc,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::H1Large => "/10k",
            Self::Grpc => "/bench.Echo/Unary",
            Self::H1Small | Self::Rate | Self::H2Small | Self::Connections | Self::Connects => "/128",
        }
    }

    /// Bytes of an answer's body; each answer is held to it.
    pub(crate) fn body_bytes(self) -> usize {
        match self {
            Self::H1Large => 10_240,
            Self::H1Small | Self::Rate | Self::H2Small | Self::Connections | Self::Connects => 128,
            Self::Grpc => GRPC_BYTES,
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Load {
    type Err = Failure;

    fn from_str(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|load| load.name() == word);
        found.ok_or_else(|| {
            Failure(format!("{word} is no load; there are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// Which of a topology's ports a client goes to. Some proxies have one for each protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Http1,
    Http2,
    Grpc,
}

/// How hard the loads are; the same for every topology.
const CONNECTIONS: u32 = 32;
const REQUESTS_PER_SECOND: u32 = 2_000;
const MANY_CONNECTIONS: u32 = 1_000;
const MANY_REQUESTS_PER_SECOND: u32 = 1_000;
const AT_A_TIME: usize = 16;

impl Load {
    /// Sends the load for about so long. `at_end` is called when all was answered, before the last connection closes,
    /// where the client is our own.
    pub(crate) fn run(
        self,
        place: &Place<'_>,
        target: &Target,
        span: Duration,
        at_end: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Outcome> {
        let path = self.path();
        let open_loop = |connections, per_second| generator::Plan {
            target: target.clone(),
            path,
            body_bytes: self.body_bytes(),
            connections,
            per_second,
            span,
        };
        let outcome = match self {
            Self::H1Small | Self::H1Large => wrk::run(place, target, path, CONNECTIONS, span),
            Self::Rate => {
                let plan = open_loop(CONNECTIONS, REQUESTS_PER_SECOND);
                place.client.inside(|| generator::run(&plan, at_end))
            }
            Self::Connections => {
                let plan = open_loop(MANY_CONNECTIONS, MANY_REQUESTS_PER_SECOND);
                place.client.inside(|| generator::run(&plan, at_end))
            }
            Self::Connects => {
                let target = target.clone();
                let plan = connects::Plan {
                    target,
                    path,
                    body_bytes: self.body_bytes(),
                    at_a_time: AT_A_TIME,
                    span,
                };
                place.client.inside(|| connects::run(&plan, at_end))
            }
            Self::H2Small => h2load::run(place, target, path, h2load::Call::Get, span),
            Self::Grpc => h2load::run(place, target, path, h2load::Call::Grpc, span),
        }?;
        if outcome.answered == 0 {
            return fail(format!("{self}: no request was answered"));
        }
        Ok(outcome)
    }
}
