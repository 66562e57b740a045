//! Cluster: how a service's endpoints are to be talked to. Its Endpoints come under its own name by EDS.
//!
//! Who may answer there is what Envoy calls a combined validation context: roots by SDS (the trust domain's
//! bundle), identities as exact URI SANs. How endpoints are chosen is `balance.rs`'s part, how the service wants to be
//! called `traffic.rs`'s.

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use std::collections::{BTreeSet, HashMap};

use meshwork_core::compile::Audience;
use meshwork_core::model::SpiffeId;
use meshwork_core::resource::Cluster;
use prost::Message as _;

use super::common::{ads, read_ads, read_cluster_name};
use super::envoy::{protocol_options, with_own_certificate};
use super::open::{Refused, Under, decode, expect, open, pack, required, unpack};
use super::{balance, traffic};
use crate::wire::cluster as envoy;
use crate::wire::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use crate::wire::core::config_source::ConfigSourceSpecifier;
use crate::wire::core::{ApiVersion, ConfigSource, SelfConfigSource};
use crate::wire::core::{TransportSocket, transport_socket::ConfigType};
use crate::wire::matcher::{StringMatcher, string_matcher::MatchPattern};
use crate::wire::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use crate::wire::tls::subject_alt_name_matcher::SanType;
use crate::wire::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, UpstreamTlsContext,
};

/// Under which name a gRPC client's bootstrap (`meshwork bootstrap grpc`) has its certificates.
pub const CERTIFICATE_PROVIDER: &str = "default";

/// Under this name Envoy knows its TLS.
const TLS: &str = "envoy.transport_sockets.tls";

pub(super) fn write(cluster: &Cluster, audience: Audience) -> Vec<u8> {
    let (lb_policy, load_balancing_policy) = balance::write(&cluster.balance, audience);
    let traffic::Parts {
        connect_timeout,
        circuit_breakers,
        outlier_detection,
        common_lb_config,
        common_http_protocol_options,
        lb_config,
        metadata,
    } = traffic::write(&cluster.traffic, &cluster.balance, audience);
    // Envoy refuses options of HTTP that stand in both places.
    let (common_http_protocol_options, typed_extension_protocol_options) = match audience {
        Audience::Envoy => (None, protocol_options(cluster, common_http_protocol_options)),
        Audience::Sidecar(_) | Audience::Grpc => (common_http_protocol_options, HashMap::new()),
    };
    let message = envoy::Cluster {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        lb_policy: lb_policy.into(),
        load_balancing_policy,
        transport_socket: write_tls(&cluster.identities, audience),
        connect_timeout,
        circuit_breakers,
        outlier_detection,
        common_lb_config,
        common_http_protocol_options,
        typed_extension_protocol_options,
        lb_config,
        metadata,
        lrs_server: load_reports_to(audience),
        ..envoy::Cluster::default()
    };
    message.encode_to_vec()
}

/// gRPC reports the load of clusters that say so (gRFC A27). Envoy goes by its bootstrap, and our sidecars tell a summary
/// with their session.
fn load_reports_to(audience: Audience) -> Option<ConfigSource> {
    let here = SelfConfigSource { transport_api_version: ApiVersion::V3.into() };
    match audience {
        Audience::Grpc => Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Self_(here)),
            ..ConfigSource::default()
        }),
        Audience::Sidecar(_) | Audience::Envoy => None,
    }
}

/// `None` without identities: every endpoint is plaintext.
fn write_tls(identities: &BTreeSet<SpiffeId>, audience: Audience) -> Option<TransportSocket> {
    let trust_domain = identities.first()?.trust_domain().to_owned();
    let tls = match audience {
        Audience::Grpc => write_provided(identities),
        Audience::Sidecar(_) => write_sds(identities, trust_domain),
        Audience::Envoy => with_own_certificate(write_sds(identities, trust_domain)),
    };
    Some(TransportSocket { name: TLS.to_owned(), config_type: Some(ConfigType::TypedConfig(pack(&tls))) })
}

/// Key, certificate and roots are the files that its bootstrap names (gRFC A29). It knows the older list of names only,
/// and would pass over the newer one in silence: it would take anybody of the mesh for the service.
fn write_provided(identities: &BTreeSet<SpiffeId>) -> UpstreamTlsContext {
    let provider = || CertificateProviderPluginInstance {
        instance_name: CERTIFICATE_PROVIDER.to_owned(),
        certificate_name: String::new(),
    };
    let exact = |identity: &SpiffeId| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(identity.to_string())),
        ..StringMatcher::default()
    };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_subject_alt_names: identities.iter().map(exact).collect(),
        ..CertificateValidationContext::default()
    };
    let common = CommonTlsContext {
        tls_certificate_provider_instance: Some(provider()),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..CommonTlsContext::default()
    };
    UpstreamTlsContext { common_tls_context: Some(common), ..UpstreamTlsContext::default() }
}

fn write_sds(identities: &BTreeSet<SpiffeId>, trust_domain: String) -> UpstreamTlsContext {
    let identities = CertificateValidationContext {
        match_typed_subject_alt_names: identities.iter().map(write_identity).collect(),
        ..CertificateValidationContext::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(identities),
        validation_context_sds_secret_config: Some(SdsSecretConfig {
            name: trust_domain,
            sds_config: Some(ads()),
        }),
        ..CombinedCertificateValidationContext::default()
    };
    let common = CommonTlsContext {
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..CommonTlsContext::default()
    };
    UpstreamTlsContext { common_tls_context: Some(common), ..UpstreamTlsContext::default() }
}

fn write_identity(identity: &SpiffeId) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(identity.to_string())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Cluster, Refused> {
    let message: envoy::Cluster = decode(bytes)?;
    open!(message, envoy::Cluster {
        name, eds_cluster_config, lb_policy, transport_socket, load_balancing_policy, cluster_discovery_type,
        connect_timeout, circuit_breakers, outlier_detection, common_lb_config, common_http_protocol_options,
        lb_config, metadata
    } refuse {
        transport_socket_matches, transport_socket_matcher, alt_stat_name, stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, load_assignment,
        health_checks, max_requests_per_connection, upstream_http_protocol_options, http_protocol_options, http2_protocol_options,
        typed_extension_protocol_options, dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl,
        dns_lookup_family, dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config,
        typed_dns_resolver_config, wait_for_warm_on_init, cleanup_interval,
        upstream_bind_config, lb_subset_config, protocol_selection,
        upstream_connection_options, close_connections_on_host_health_failure, ignore_health_on_host_removal,
        filters, lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets, upstream_config,
        track_cluster_stats, preconnect_policy, connection_pool_per_downstream_connection, queuing_policies
    });
    let eds = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    expect("type", &cluster_discovery_type, &eds)?;
    open!(required("eds_cluster_config", eds_cluster_config)?, EdsClusterConfig { eds_config } refuse {
        service_name
    });
    read_ads("eds_config", eds_config).under("eds_cluster_config")?;
    let parts = traffic::Parts {
        connect_timeout,
        circuit_breakers,
        outlier_detection,
        common_lb_config,
        common_http_protocol_options,
        lb_config,
        metadata,
    };
    let balance = balance::read(lb_policy, load_balancing_policy)?;
    Ok(Cluster {
        name: read_cluster_name("name", &name)?,
        traffic: traffic::read(parts, &balance)?,
        balance,
        hint: None,
        identities: read_tls(transport_socket).under("transport_socket")?,
    })
}

fn read_tls(socket: Option<TransportSocket>) -> Result<BTreeSet<SpiffeId>, Refused> {
    let Some(socket) = socket else { return Ok(BTreeSet::new()) };
    open!(socket, TransportSocket { name, config_type } refuse {});
    expect("name", &name.as_str(), &TLS)?;
    let ConfigType::TypedConfig(any) = required("config_type", config_type)?;
    let tls: UpstreamTlsContext = unpack(any).under("typed_config")?;
    read_upstream(tls).under("typed_config")
}

fn read_upstream(tls: UpstreamTlsContext) -> Result<BTreeSet<SpiffeId>, Refused> {
    open!(tls, UpstreamTlsContext { common_tls_context } refuse {
        sni, auto_host_sni, auto_sni_san_validation, allow_renegotiation, max_session_keys, enforce_rsa_key_usage
    });
    read_common(required("common_tls_context", common_tls_context)?).under("common_tls_context")
}

fn read_common(common: CommonTlsContext) -> Result<BTreeSet<SpiffeId>, Refused> {
    open!(common, CommonTlsContext { validation_context_type } refuse {
        tls_params, tls_certificates, tls_certificate_sds_secret_configs, tls_certificate_provider_instance,
        custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, alpn_protocols, custom_handshaker, key_log
    });
    let Some(ValidationContextType::CombinedValidationContext(combined)) = validation_context_type else {
        return Err(Refused::at("validation_context_type", "must be combined_validation_context"));
    };
    read_combined(combined).under("combined_validation_context")
}

fn read_combined(combined: CombinedCertificateValidationContext) -> Result<BTreeSet<SpiffeId>, Refused> {
    open!(combined, CombinedCertificateValidationContext {
        default_validation_context, validation_context_sds_secret_config
    } refuse {
        validation_context_certificate_provider, validation_context_certificate_provider_instance
    });
    let roots = required("validation_context_sds_secret_config", validation_context_sds_secret_config)?;
    let context = required("default_validation_context", default_validation_context)?;
    let identities = read_identities(context).under("default_validation_context")?;
    let check_roots = || {
        open!(roots, SdsSecretConfig { name, sds_config } refuse {});
        read_ads("sds_config", sds_config)?;
        let trust_domain = identities.first().map(SpiffeId::trust_domain).unwrap_or_default();
        expect("name", &name.as_str(), &trust_domain)
    };
    check_roots().under("validation_context_sds_secret_config")?;
    Ok(identities)
}

fn read_identities(context: CertificateValidationContext) -> Result<BTreeSet<SpiffeId>, Refused> {
    open!(context, CertificateValidationContext { match_typed_subject_alt_names } refuse {
        trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
        verify_certificate_hash, match_subject_alt_names, require_signed_certificate_timestamp, crl,
        allow_expired_certificate, trust_chain_verification, custom_validator_config, only_verify_leaf_cert_crl,
        max_verify_depth, suppress_client_ca_list
    });
    // An empty list would mean "whoever has a certificate".
    if match_typed_subject_alt_names.is_empty() {
        return Err(Refused::at("match_typed_subject_alt_names", "is empty: nobody could be told apart"));
    }
    let matchers = match_typed_subject_alt_names.into_iter().enumerate();
    let identity = |(index, matcher)| {
        read_identity(matcher).under(format_args!("match_typed_subject_alt_names[{index}]"))
    };
    matchers.map(identity).collect()
}

fn read_identity(matcher: SubjectAltNameMatcher) -> Result<SpiffeId, Refused> {
    open!(matcher, SubjectAltNameMatcher { san_type, matcher } refuse { oid });
    expect("san_type", &san_type, &SanType::Uri.into())?;
    open!(required("matcher", matcher)?, StringMatcher { match_pattern } refuse { ignore_case });
    match match_pattern {
        Some(MatchPattern::Exact(uri)) => {
            uri.parse().map_err(|error| Refused::at("matcher.exact", format!("is {error}")))
        }
        _ => Err(Refused::at("matcher", "must be exact")),
    }
}
