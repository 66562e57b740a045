//! Endpoints: a ClusterLoadAssignment, endpoints grouped by locality.
//!
//! A locality's weight is the sum of its endpoints' weights, so that the weights mean the same with and without
//! localities; it is never 0, as gRPC drops such a locality in silence. What only our sidecar needs
//! (application port, transports, workload) is a message of ours in typed metadata.

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use std::collections::BTreeMap;

use meshwork_core::compile::Audience;
use meshwork_core::model::{Health, Locality, Transport};
use meshwork_core::resource::{Endpoint, Endpoints};
use prost::Message as _;

use super::common::{address, metadata, read_address, read_cluster_name, read_metadata, read_port};
use super::open::{Refused, Under, decode, expect, open, required};
use super::words;
use crate::proto::EndpointDetail;
use crate::wire::UInt32Value;
use crate::wire::core::{self, HealthStatus};
use crate::wire::endpoint::{
    self as envoy, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

pub(super) fn write(endpoints: &Endpoints, audience: Audience) -> Vec<u8> {
    let mut localities: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in &endpoints.endpoints {
        localities.entry(&endpoint.locality).or_default().push(endpoint);
    }
    let localities = localities.into_iter();
    let message = ClusterLoadAssignment {
        cluster_name: endpoints.name.to_string(),
        endpoints: localities
            .map(|(locality, members)| write_locality(locality, &members, audience))
            .collect(),
        ..ClusterLoadAssignment::default()
    };
    message.encode_to_vec()
}

fn write_locality(locality: &Locality, members: &[&Endpoint], audience: Audience) -> LocalityLbEndpoints {
    let Locality { region, zone } = locality.clone();
    let weight = sum_of_weights(members.iter().map(|endpoint| endpoint.weight));
    LocalityLbEndpoints {
        locality: Some(core::Locality { region, zone, sub_zone: String::new() }),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        lb_endpoints: members.iter().map(|endpoint| write_endpoint(endpoint, audience)).collect(),
        ..LocalityLbEndpoints::default()
    }
}

fn sum_of_weights(weights: impl Iterator<Item = u32>) -> u32 {
    weights.fold(0, u32::saturating_add)
}

fn write_endpoint(endpoint: &Endpoint, audience: Audience) -> LbEndpoint {
    let detail = matches!(audience, Audience::Sidecar(_)).then(|| EndpointDetail {
        app_port: endpoint.app_port.into(),
        transports: endpoint.transports.iter().map(|transport| words::transport(*transport)).collect(),
        workload: endpoint.workload.clone(),
    });
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
    };
    LbEndpoint {
        health_status: health.into(),
        metadata: detail.map(|detail| metadata(&detail)),
        load_balancing_weight: Some(UInt32Value { value: endpoint.weight }),
        host_identifier: Some(HostIdentifier::Endpoint(envoy::Endpoint {
            address: Some(address(endpoint.address)),
            ..envoy::Endpoint::default()
        })),
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Endpoints, Refused> {
    let message: ClusterLoadAssignment = decode(bytes)?;
    open!(message, ClusterLoadAssignment { cluster_name, endpoints } refuse { named_endpoints, policy });
    let mut all = Vec::new();
    for (index, locality) in endpoints.into_iter().enumerate() {
        all.extend(read_locality(locality).under(format_args!("endpoints[{index}]"))?);
    }
    all.sort_unstable_by_key(|endpoint| endpoint.address);
    if let Some(pair) = all.windows(2).find(|pair| pair[0].address == pair[1].address) {
        return Err(Refused::at("endpoints", format!("holds {} twice", pair[0].address)));
    }
    Ok(Endpoints { name: read_cluster_name("cluster_name", &cluster_name)?, endpoints: all })
}

fn read_locality(members: LocalityLbEndpoints) -> Result<Vec<Endpoint>, Refused> {
    open!(members, LocalityLbEndpoints { locality, lb_endpoints, load_balancing_weight } refuse {
        metadata, priority, proximity, lb_config
    });
    open!(required("locality", locality)?, core::Locality { region, zone } refuse { sub_zone });
    let locality = Locality { region, zone };
    let mut endpoints = Vec::with_capacity(lb_endpoints.len());
    for (index, endpoint) in lb_endpoints.into_iter().enumerate() {
        endpoints.push(read_endpoint(endpoint, &locality).under(format_args!("lb_endpoints[{index}]"))?);
    }
    let weight = sum_of_weights(endpoints.iter().map(|endpoint| endpoint.weight));
    expect("load_balancing_weight", &load_balancing_weight, &Some(UInt32Value { value: weight }))?;
    Ok(endpoints)
}

fn read_endpoint(endpoint: LbEndpoint, locality: &Locality) -> Result<Endpoint, Refused> {
    open!(endpoint, LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } refuse {});
    let UInt32Value { value: weight } = required("load_balancing_weight", load_balancing_weight)?;
    if weight == 0 {
        return Err(Refused::at("load_balancing_weight", "is 0, must be 1 or more"));
    }
    let host = match required("host_identifier", host_identifier)? {
        HostIdentifier::Endpoint(host) => host,
        HostIdentifier::EndpointName(_) => {
            return Err(Refused::at("endpoint_name", "is set, must be endpoint"));
        }
    };
    open!(host, envoy::Endpoint { address } refuse {
        health_check_config, hostname, additional_addresses, observability_name
    });
    let address = required("address", address).under("endpoint")?;
    let address = read_address(address).under("endpoint.address")?;
    let detail = required("metadata", read_metadata(metadata)?)?;
    let (app_port, transports, workload) = read_detail(detail).under("metadata")?;
    let health = read_health(health_status)?;
    Ok(Endpoint { address, app_port, transports, health, weight, locality: locality.clone(), workload })
}

fn read_detail(detail: EndpointDetail) -> Result<(u16, Vec<Transport>, String), Refused> {
    let EndpointDetail { app_port, transports, workload } = detail;
    if transports.is_empty() {
        return Err(Refused::at("transports", "is empty: there is no way to the endpoint"));
    }
    let transports = transports.iter().enumerate();
    let read = |(index, word): (usize, &String)| words::read_transport(&format!("transports[{index}]"), word);
    Ok((read_port("app_port", app_port)?, transports.map(read).collect::<Result<_, _>>()?, workload))
}

fn read_health(status: i32) -> Result<Health, Refused> {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Ok(Health::Healthy),
        Ok(HealthStatus::Unhealthy) => Ok(Health::Unhealthy),
        Ok(HealthStatus::Draining) => Ok(Health::Draining),
        Ok(HealthStatus::Timeout | HealthStatus::Degraded) | Err(_) => Err(Refused::at(
            "health_status",
            format!("is {status}, which this version of meshwork can't honour"),
        )),
    }
}
