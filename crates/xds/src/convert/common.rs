//! What several resource types share: references over ADS, our messages in typed metadata, names, addresses.

#![allow(deprecated)] // every variant is named, also those that Envoy gave up

use std::net::SocketAddr;
use std::time::Duration;

use meshwork_core::name::PortName;
use prost::Name;

use super::open::{Refused, Under, expect, open, pack, required, unpack};
use crate::wire;
use crate::wire::core::{self, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier};

/// "Ask for it on this same stream."
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..core::ConfigSource::default()
    }
}

pub(super) fn read_ads(field: &str, source: Option<core::ConfigSource>) -> Result<(), Refused> {
    let source = required(field, source)?;
    let check = || {
        open!(source, core::ConfigSource { resource_api_version, config_source_specifier } refuse {
            authorities, initial_fetch_timeout
        });
        expect("resource_api_version", &resource_api_version, &core::ApiVersion::V3.into())?;
        match required("config_source_specifier", config_source_specifier)? {
            ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}) => Ok(()),
            ConfigSourceSpecifier::Path(_)
            | ConfigSourceSpecifier::PathConfigSource(_)
            | ConfigSourceSpecifier::ApiConfigSource(_)
            | ConfigSourceSpecifier::Self_(_) => {
                Err(Refused::at("config_source_specifier", "must be ads: this stream is the only source"))
            }
        }
    };
    check().under(field)
}

/// A message of ours in Envoy's typed metadata, under the message's own name. Envoy and gRPC pass over a key
/// that none of their filters registered.
pub(super) fn metadata(message: &impl Name) -> core::Metadata {
    let any = pack(message);
    let key = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
    core::Metadata { typed_filter_metadata: [(key, any)].into(), ..core::Metadata::default() }
}

/// `None`: there is no metadata at all. Any other key is refused.
pub(super) fn read_metadata<M: Name + Default>(
    metadata: Option<core::Metadata>,
) -> Result<Option<M>, Refused> {
    let Some(metadata) = metadata else { return Ok(None) };
    let read = || {
        open!(metadata, core::Metadata { typed_filter_metadata } refuse { filter_metadata });
        let mut found = None;
        for (key, any) in typed_filter_metadata {
            let field = format!("typed_filter_metadata[{key:?}]");
            if key != M::full_name() {
                return Err(Refused::at(field, "is set, and this version of meshwork can't honour it"));
            }
            found = Some(unpack(any).under(field)?);
        }
        Ok(found)
    };
    read().under("metadata")
}

pub(super) fn duration(duration: Duration) -> wire::Duration {
    // Nanoseconds are below 10^9.
    let nanos = duration.subsec_nanos() as i32;
    wire::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos }
}

pub(super) fn read_duration(field: &str, duration: wire::Duration) -> Result<Duration, Refused> {
    let wire::Duration { seconds, nanos } = duration;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Refused::at(field, format!("is {seconds} s and {nanos} ns, which is no time to wait"))),
    }
}

pub(super) fn read_port_name(field: &str, name: &str) -> Result<PortName, Refused> {
    name.parse().map_err(|error| Refused::at(field, format!("is {error}")))
}

/// The name of a Cluster or of Endpoints: never a namespace's own view.
pub(super) fn read_cluster_name(field: &str, name: &str) -> Result<PortName, Refused> {
    let name = read_port_name(field, name)?;
    match name.from {
        None => Ok(name),
        Some(_) => Err(Refused::at(field, format!("is \"{name}\", but only routes have views (?from=)"))),
    }
}

pub(super) fn read_port(field: &str, port: u32) -> Result<u16, Refused> {
    let valid = u16::try_from(port).ok().filter(|port| *port != 0);
    valid.ok_or_else(|| Refused::at(field, format!("is {port}, must be a port (1-65535)")))
}

pub(super) fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..core::SocketAddress::default()
        })),
    }
}

pub(super) fn read_address(address: core::Address) -> Result<SocketAddr, Refused> {
    open!(address, core::Address { address } refuse {});
    match required("address", address)? {
        core::address::Address::SocketAddress(socket) => read_socket_address(socket).under("socket_address"),
        core::address::Address::Pipe(_) => Err(Refused::at("pipe", "is set, must be a socket_address")),
        core::address::Address::EnvoyInternalAddress(_) => {
            Err(Refused::at("envoy_internal_address", "is set, must be a socket_address"))
        }
    }
}

fn read_socket_address(socket: core::SocketAddress) -> Result<SocketAddr, Refused> {
    // `protocol` has TCP as its default.
    open!(socket, core::SocketAddress { address, port_specifier } refuse {
        protocol, resolver_name, ipv4_compat, network_namespace_filepath
    });
    let ip = address.parse();
    let ip = ip.map_err(|_| Refused::at("address", format!("is {address:?}, must be an IP address")))?;
    match required("port_specifier", port_specifier)? {
        PortSpecifier::PortValue(port) => Ok(SocketAddr::new(ip, read_port("port_value", port)?)),
        PortSpecifier::NamedPort(_) => Err(Refused::at("named_port", "is set, must be a port_value")),
    }
}
