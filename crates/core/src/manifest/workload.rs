//! `meshwork.dev/v1alpha1` `Workload`: one running instance, written by hand (a machine without a sidecar) or
//! by the control plane when a sidecar registers.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Duration, Kind, Spec, number};
use crate::model::Transport;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Where its ports are, unless they say otherwise themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    pub ports: Vec<WorkloadPort>,
    /// Its identity's account; left out, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// Its share among its service's endpoints; left out, 1.
    #[serde(default, deserialize_with = "number::optional_weight", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

impl Spec for WorkloadSpec {
    const KIND: Kind = Kind::Workload;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// The application's port, which a service's `targetPort` names.
    #[serde(deserialize_with = "number::port")]
    pub port: u16,
    /// The service's port that a sidecar registered this one for; left out: found by `targetPort`.
    #[serde(default, deserialize_with = "number::optional_port", skip_serializing_if = "Option::is_none")]
    pub service_port: Option<u16>,
    /// Where others reach it: the sidecar's socket. Left out: the workload's address and this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// What is spoken there, best first; left out, `[plaintext]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transports: Option<Vec<Transport>>,
    /// How the control plane finds out whether it is well; for workloads without a sidecar, which says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    #[serde(rename = "type")]
    pub check_type: HealthCheckType,
    /// Of type `http`: what is asked for; left out, `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of type `http`: the status that is well; left out, 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of type `grpc`: the service that is asked about; left out, the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// In the words of the sidecar's `--health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthCheckType {
    /// The port accepts.
    Tcp,
    /// A GET is answered.
    Http,
    /// `grpc.health.v1.Health/Check` answers `SERVING`.
    Grpc,
    /// It is never checked.
    None,
}

impl HealthCheckType {
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::None => "none",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}
