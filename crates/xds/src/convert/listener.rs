//! Listener: what the client asked for, pointing to a Route by its name.
//!
//! As proxyless gRPC wants it (gRFC A27): an `api_listener` with an HttpConnectionManager that ends in the
//! router and takes its routes by RDS on the same stream. `route_config_name` is `core`'s `target`. The hint is
//! a message of ours in typed metadata, for our own sidecars only. Envoy gets a listener with an address (`envoy.rs`).

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use meshwork_core::compile::Audience;
use meshwork_core::resource::Listener;
use prost::Message as _;

use super::common::{ads, metadata, read_ads, read_metadata, read_port_name};
use super::envoy;
use super::open::{Refused, Under, decode, expect, only, open, pack, required, unpack};
use super::words;
use crate::proto::ListenerHint;
use crate::wire::http::http_connection_manager::RouteSpecifier;
use crate::wire::http::http_filter::ConfigType;
use crate::wire::http::{HttpConnectionManager, HttpFilter, Rds};
use crate::wire::listener::{self, ApiListener};
use crate::wire::{Any, Router};

/// Under this name Envoy knows the filter that must end the chain.
const ROUTER: &str = "envoy.filters.http.router";

pub(super) fn write(listener: &Listener, audience: Audience) -> Vec<u8> {
    let target = listener.target.to_string();
    let manager = HttpConnectionManager {
        // Envoy demands one; the target, as a listener's statistics are its service's.
        stat_prefix: target.clone(),
        http_filters: vec![HttpFilter {
            name: ROUTER.to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&Router::default()))),
            ..HttpFilter::default()
        }],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: target,
        })),
        ..HttpConnectionManager::default()
    };
    if audience == Audience::Envoy {
        return envoy::listening(listener, manager).encode_to_vec();
    }
    let hint = listener.hint.filter(|_| matches!(audience, Audience::Sidecar(_)));
    let hint = hint.map(|protocol| ListenerHint { app_protocol: words::app_protocol(protocol) });
    let message = listener::Listener {
        name: listener.name.clone(),
        api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }),
        metadata: hint.map(|hint| metadata(&hint)),
        ..listener::Listener::default()
    };
    message.encode_to_vec()
}

pub(super) fn read(bytes: &[u8]) -> Result<Listener, Refused> {
    let message: listener::Listener = decode(bytes)?;
    open!(message, listener::Listener { name, metadata, api_listener } refuse {
        address, additional_addresses, stat_prefix, stats_matcher, filter_chains, fcds_config, filter_chain_matcher,
        use_original_dst, default_filter_chain, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, deprecated_v1, drain_type, listener_filters,
        listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind, socket_options,
        tcp_fast_open_queue_length, traffic_direction, udp_listener_config, connection_balance_config, reuse_port,
        enable_reuse_port, access_log, tcp_backlog_size, max_connections_to_accept_per_socket_event, bind_to_port,
        enable_mptcp, ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive, listener_specifier
    });
    let hint = match read_metadata(metadata)? {
        Some(ListenerHint { app_protocol }) => {
            Some(words::read_app_protocol("app_protocol", &app_protocol).under("metadata")?)
        }
        None => None,
    };
    open!(required("api_listener", api_listener)?, ApiListener { api_listener } refuse {});
    let manager = required("api_listener", api_listener).under("api_listener")?;
    let target = read_manager(manager).under("api_listener.api_listener")?;
    Ok(Listener { name, target: read_port_name("route_config_name", &target)?, hint, address: None })
}

/// The name of the route.
fn read_manager(manager: Any) -> Result<String, Refused> {
    let manager: HttpConnectionManager = unpack(manager)?;
    open!(manager, HttpConnectionManager { stat_prefix, http_filters, route_specifier } refuse {
        codec_type, add_user_agent, tracing, common_http_protocol_options, http1_safe_max_connection_duration,
        http_protocol_options, http2_protocol_options, http3_protocol_options, server_name,
        server_header_transformation, scheme_header_transformation, max_request_headers_kb, stream_idle_timeout,
        stream_flush_timeout, request_timeout, request_headers_timeout, drain_timeout, drain_timeout_jitter,
        delayed_close_timeout, access_log, access_log_flush_interval, flush_access_log_on_new_request,
        access_log_options, use_remote_address, xff_num_trusted_hops, original_ip_detection_extensions,
        early_header_mutation_extensions, internal_address_config, skip_xff_append, via, generate_request_id,
        preserve_external_request_id, always_set_request_id_in_response, forward_client_cert_details,
        set_current_client_cert_details, forward_client_cert_matcher, proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, upgrade_configs, normalize_path, merge_slashes,
        path_with_escaped_slashes_action, request_id_extension, local_reply_config, strip_matching_host_port,
        stream_error_on_invalid_http_message, path_normalization_options, strip_trailing_host_dot,
        proxy_status_config, typed_header_validation_config, append_x_forwarded_port, append_local_overload,
        add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode
    });
    read_filter(only("http_filters", http_filters)?).under("http_filters[0]")?;
    let rds = match required("route_specifier", route_specifier)? {
        RouteSpecifier::Rds(rds) => rds,
        RouteSpecifier::RouteConfig(_) | RouteSpecifier::ScopedRoutes(_) => {
            return Err(Refused::at("route_specifier", "must be rds"));
        }
    };
    open!(rds, Rds { config_source, route_config_name } refuse {});
    read_ads("config_source", config_source).under("rds")?;
    expect("stat_prefix", &stat_prefix, &route_config_name)?;
    Ok(route_config_name)
}

fn read_filter(filter: HttpFilter) -> Result<(), Refused> {
    open!(filter, HttpFilter { name, config_type } refuse { is_optional, disabled });
    expect("name", &name.as_str(), &ROUTER)?;
    let router: Router = match required("config_type", config_type)? {
        ConfigType::TypedConfig(any) => unpack(any).under("typed_config")?,
        ConfigType::ConfigDiscovery(_) => {
            return Err(Refused::at("config_discovery", "is set, must be a typed_config"));
        }
    };
    let check = || {
        open!(router, Router {} refuse {
            dynamic_stats, start_child_span, upstream_log, upstream_log_options, suppress_envoy_headers,
            strict_check_headers, respect_expected_rq_timeout, suppress_grpc_request_failure_code_stats,
            upstream_http_filters, reject_connect_request_early_data
        });
        Ok(())
    };
    check().under("typed_config")
}
