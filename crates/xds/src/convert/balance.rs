//! How endpoints are chosen, in a Cluster. What takes words is a load balancing policy (`load_balancing_policy`); `lb_policy`
//! names the nearest for readers that know only that.
//!
//! Peak EWMA is a policy of ours; readers without it get least request. Ring hash and Maglev are Envoy's extensions, and say what
//! is hashed themselves, so that it holds for each request to the cluster whatever its route.

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use meshwork_core::balance::session;
use meshwork_core::compile::Audience;
use meshwork_core::model::{Balance, HashKey, HashTable};
use prost::Name as _;

use super::common::{duration, read_duration};
use super::open::{Refused, Under, expect, only, open, pack, required, unpack};
use crate::proto::PeakEwma;
use crate::wire::cluster::cluster::LbPolicy;
use crate::wire::cluster::{LoadBalancingPolicy, load_balancing_policy::Policy};
use crate::wire::core::TypedExtensionConfig;
use crate::wire::ring_hash::{RingHash, ring_hash::HashFunction};
use crate::wire::route::route_action::HashPolicy;
use crate::wire::route::route_action::hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier};
use crate::wire::{Any, ConsistentHashingLbConfig, Maglev, UInt64Value};

/// Under these names Envoy knows its policies.
const RING_HASH: &str = "envoy.load_balancing_policies.ring_hash";
const MAGLEV: &str = "envoy.load_balancing_policies.maglev";

pub(super) fn write(balance: &Balance, audience: Audience) -> (LbPolicy, Option<LoadBalancingPolicy>) {
    match balance {
        Balance::RoundRobin => (LbPolicy::RoundRobin, None),
        Balance::LeastRequest => (LbPolicy::LeastRequest, None),
        Balance::Random => (LbPolicy::Random, None),
        Balance::PeakEwma => {
            let policy = match audience {
                Audience::Envoy | Audience::Grpc => None,
                Audience::Sidecar(_) => Some(policy(&PeakEwma::full_name(), pack(&PeakEwma {}))),
            };
            (LbPolicy::LeastRequest, policy)
        }
        Balance::Hash { table: HashTable::Ring { size_min, size_max }, key } => {
            let ring = RingHash {
                hash_function: HashFunction::XxHash.into(),
                minimum_ring_size: size(*size_min),
                maximum_ring_size: size(*size_max),
                consistent_hashing_lb_config: Some(write_key(key)),
                ..RingHash::default()
            };
            (LbPolicy::RingHash, Some(policy(RING_HASH, pack(&ring))))
        }
        Balance::Hash { table: HashTable::Maglev { size: slots }, key } => {
            let maglev = Maglev {
                table_size: size(*slots),
                consistent_hashing_lb_config: Some(write_key(key)),
                ..Maglev::default()
            };
            (LbPolicy::Maglev, Some(policy(MAGLEV, pack(&maglev))))
        }
    }
}

fn policy(name: &str, config: Any) -> LoadBalancingPolicy {
    let extension = TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) };
    LoadBalancingPolicy { policies: vec![Policy { typed_extension_config: Some(extension) }] }
}

fn size(size: u32) -> Option<UInt64Value> {
    Some(UInt64Value { value: size.into() })
}

fn write_key(key: &HashKey) -> ConsistentHashingLbConfig {
    let specifier = match key {
        HashKey::Header(name) => {
            PolicySpecifier::Header(Header { header_name: name.clone(), ..Header::default() })
        }
        HashKey::Cookie { name, given } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: given.map(duration),
            path: given.map(|_| session::PATH.to_owned()).unwrap_or_default(),
            ..Cookie::default()
        }),
        HashKey::Source => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    let policy = HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() };
    ConsistentHashingLbConfig { hash_policy: vec![policy], ..ConsistentHashingLbConfig::default() }
}

pub(super) fn read(lb_policy: i32, policy: Option<LoadBalancingPolicy>) -> Result<Balance, Refused> {
    let Some(policy) = policy else {
        return match LbPolicy::try_from(lb_policy) {
            Ok(LbPolicy::RoundRobin) => Ok(Balance::RoundRobin),
            Ok(LbPolicy::LeastRequest) => Ok(Balance::LeastRequest),
            Ok(LbPolicy::Random) => Ok(Balance::Random),
            Ok(LbPolicy::RingHash | LbPolicy::Maglev | LbPolicy::ClusterProvided)
            | Ok(LbPolicy::LoadBalancingPolicyConfig)
            | Err(_) => {
                Err(Refused::at("lb_policy", format!("is {lb_policy}, which needs a load_balancing_policy")))
            }
        };
    };
    let (balance, named) = read_policy(policy).under("load_balancing_policy")?;
    expect("lb_policy", &lb_policy, &named.into())?;
    Ok(balance)
}

/// With the `lb_policy` that belongs to it.
fn read_policy(policy: LoadBalancingPolicy) -> Result<(Balance, LbPolicy), Refused> {
    open!(policy, LoadBalancingPolicy { policies } refuse {});
    open!(only("policies", policies)?, Policy { typed_extension_config } refuse {});
    let extension = required("typed_extension_config", typed_extension_config).under("policies[0]")?;
    read_extension(extension).under("policies[0].typed_extension_config")
}

fn read_extension(extension: TypedExtensionConfig) -> Result<(Balance, LbPolicy), Refused> {
    open!(extension, TypedExtensionConfig { name, typed_config } refuse {});
    let any = required("typed_config", typed_config)?;
    match name.as_str() {
        RING_HASH => {
            Ok((read_ring(unpack(any).under("typed_config")?).under("typed_config")?, LbPolicy::RingHash))
        }
        MAGLEV => {
            Ok((read_maglev(unpack(any).under("typed_config")?).under("typed_config")?, LbPolicy::Maglev))
        }
        _ => {
            expect("name", &name, &PeakEwma::full_name())?;
            let PeakEwma {} = unpack(any).under("typed_config")?;
            Ok((Balance::PeakEwma, LbPolicy::LeastRequest))
        }
    }
}

fn read_ring(ring: RingHash) -> Result<Balance, Refused> {
    open!(ring, RingHash {
        hash_function, minimum_ring_size, maximum_ring_size, consistent_hashing_lb_config
    } refuse {
        use_hostname_for_hashing, hash_balance_factor, locality_weighted_lb_config
    });
    expect("hash_function", &hash_function, &HashFunction::XxHash.into())?;
    let size_min = read_size("minimum_ring_size", minimum_ring_size, 1)?;
    let size_max = read_size("maximum_ring_size", maximum_ring_size, 1)?;
    let table = HashTable::Ring { size_min, size_max };
    Ok(Balance::Hash { table, key: read_key(consistent_hashing_lb_config)? })
}

fn read_maglev(maglev: Maglev) -> Result<Balance, Refused> {
    open!(maglev, Maglev { table_size, consistent_hashing_lb_config } refuse { locality_weighted_lb_config });
    // With one slot there would be no step to the next.
    let table = HashTable::Maglev { size: read_size("table_size", table_size, 2)? };
    Ok(Balance::Hash { table, key: read_key(consistent_hashing_lb_config)? })
}

fn read_size(field: &str, size: Option<UInt64Value>, min: u32) -> Result<u32, Refused> {
    let UInt64Value { value } = required(field, size)?;
    let bounds = min..=HashTable::SIZE_MAX;
    u32::try_from(value).ok().filter(|size| bounds.contains(size)).ok_or_else(|| {
        Refused::at(field, format!("is {value}, must be from {min} to {}", HashTable::SIZE_MAX))
    })
}

fn read_key(config: Option<ConsistentHashingLbConfig>) -> Result<HashKey, Refused> {
    let read = || {
        let config = required("hash_policy", config)?;
        open!(config, ConsistentHashingLbConfig { hash_policy } refuse {
            use_hostname_for_hashing, hash_balance_factor
        });
        open!(only("hash_policy", hash_policy)?, HashPolicy { policy_specifier } refuse { terminal });
        read_specifier(required("policy_specifier", policy_specifier).under("hash_policy[0]")?)
            .under("hash_policy[0]")
    };
    read().under("consistent_hashing_lb_config")
}

fn read_specifier(specifier: PolicySpecifier) -> Result<HashKey, Refused> {
    match specifier {
        PolicySpecifier::Header(header) => {
            open!(header, Header { header_name } refuse { regex_rewrite });
            Ok(HashKey::Header(read_name("header.header_name", header_name)?))
        }
        PolicySpecifier::Cookie(cookie) => {
            open!(cookie, Cookie { name, ttl, path } refuse { attributes });
            let given = ttl.map(|ttl| read_duration("cookie.ttl", ttl)).transpose()?;
            let whose = if given.is_some() { session::PATH } else { "" };
            expect("cookie.path", &path.as_str(), &whose)?;
            Ok(HashKey::Cookie { name: read_name("cookie.name", name)?, given })
        }
        PolicySpecifier::ConnectionProperties(properties) => {
            let ConnectionProperties { source_ip } = properties;
            expect("connection_properties.source_ip", &source_ip, &true)?;
            Ok(HashKey::Source)
        }
        PolicySpecifier::QueryParameter(_) | PolicySpecifier::FilterState(_) => {
            Err(Refused::at("policy_specifier", "must be header, cookie or connection_properties"))
        }
    }
}

fn read_name(field: &str, name: String) -> Result<String, Refused> {
    if name.is_empty() { Err(Refused::at(field, "is empty: no request carries that")) } else { Ok(name) }
}
