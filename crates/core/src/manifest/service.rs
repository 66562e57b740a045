//! `v1` `Service`: a name, its ports, and which workloads stand behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Error, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Kind, Spec, number, or_default};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    pub ports: Vec<ServicePort>,
    /// Labels that a workload must all carry.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<ClusterIp>,
}

impl Spec for ServiceSpec {
    const KIND: Kind = Kind::Service;
}

/// Left out, the service's name stands for its virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// `None`: the name stands for the instances' own addresses.
    None,
    /// The address that Kubernetes gave it: whoever holds that reaches the service by it, too.
    Address(IpAddr),
}

impl Serialize for ClusterIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("None"),
            Self::Address(address) => serializer.collect_str(address),
        }
    }
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = ClusterIp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("None or an IP address")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<ClusterIp, E> {
                match word {
                    "None" => Ok(ClusterIp::None),
                    address => address.parse().map(ClusterIp::Address).map_err(|_| {
                        E::custom(format_args!(
                            "clusterIP {address:?} is neither an IP address nor None; leave it out unless \
                             Kubernetes gave the service an address"
                        ))
                    }),
                }
            }
        }

        deserializer.deserialize_str(Word)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "number::port")]
    pub port: u16,
    /// The application's port; left out, the same as `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
}

/// A port's number. Kubernetes also knows names of container ports, which a workload of the mesh has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TargetPort(pub u16);

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = TargetPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(number::PORT)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<TargetPort, E> {
                number::port(number.into_deserializer()).map(TargetPort)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<TargetPort, E> {
                number::port(number.into_deserializer()).map(TargetPort)
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<TargetPort, E> {
                Err(E::custom(format_args!(
                    "targetPort {name:?} is a name, and ports of workloads have none: write the number of the \
                     application's port, without quotes"
                )))
            }
        }

        deserializer.deserialize_any(Number)
    }
}
