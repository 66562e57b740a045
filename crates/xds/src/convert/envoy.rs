//! What Envoy must be told in so many words, as its defaults are those of an edge proxy or of HTTP/1.1.
//!
//! It takes without a word what then does not work (a connection manager without router, a listener without address), so
//! a test here holds what is written to what it needs.

#![allow(deprecated)] // Envoy moved some of these fields, and reads both

use std::collections::HashMap;

use meshwork_core::model::AppProtocol;
use meshwork_core::resource::{Cluster, Listener};
use prost::Name as _;

use super::common::{address, ads};
use super::identity::IDENTITY;
use super::open::pack;
use crate::wire::http::HttpConnectionManager;
use crate::wire::http::http_connection_manager::{ServerHeaderTransformation, UpgradeConfig};
use crate::wire::listener::{self, Filter, FilterChain, filter::ConfigType};
use crate::wire::route::RetryPolicy;
use crate::wire::route::retry_policy::{RetryHostPredicate, retry_host_predicate};
use crate::wire::tls::tls_parameters::TlsProtocol;
use crate::wire::tls::{CommonTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext};
use crate::wire::upstream::HttpProtocolOptions;
use crate::wire::upstream::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config,
};
use crate::wire::{Any, Duration, PreviousHostsPredicate, core};

/// Under these names Envoy knows its filter of HTTP, and its predicate of hosts that were tried.
const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// How often another endpoint is drawn when the one drawn was tried already. Of two endpoints, seven draws find the other
/// in 99 of 100 cases.
const OTHER_HOST_DRAWS: i64 = 7;

/// Tried again when nothing of it can have been processed.
pub(super) const SAFE: &str = "connect-failure,refused-stream,reset-before-request";

/// A listener of its own, instead of the `api_listener` that it would take and pass over.
pub(super) fn listening(listener: &Listener, manager: HttpConnectionManager) -> listener::Listener {
    let manager = HttpConnectionManager {
        // A stream may be silent for as long as it likes, as everywhere in the mesh.
        stream_idle_timeout: Some(Duration::default()),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        preserve_external_request_id: true,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..manager
    };
    let filter = Filter {
        name: CONNECTION_MANAGER.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&manager))),
    };
    listener::Listener {
        name: listener.name.clone(),
        address: listener.address.map(address),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..listener::Listener::default()
    }
}

/// Which version of HTTP its endpoints are spoken to: to sidecars as ALPN says; in clear as declared, else as its own
/// client speaks, which is what a sidecar does.
pub(super) fn protocol_options(
    cluster: &Cluster,
    common: Option<core::HttpProtocolOptions>,
) -> HashMap<String, Any> {
    let http1 = || Some(core::Http1ProtocolOptions::default());
    let http2 = || Some(core::Http2ProtocolOptions::default());
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let options = match cluster.hint {
        _ if !cluster.identities.is_empty() => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: http1(),
            http2_protocol_options: http2(),
            ..AutoHttpConfig::default()
        }),
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => {
            explicit(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2().unwrap_or_default()))
        }
        Some(AppProtocol::Http | AppProtocol::Tcp) => {
            explicit(explicit_http_config::ProtocolConfig::HttpProtocolOptions(http1().unwrap_or_default()))
        }
        None => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: http1(),
            http2_protocol_options: http2(),
            ..UseDownstreamHttpConfig::default()
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(options),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), pack(&options))])
}

/// With the certificate that `meshwork identity` keeps, and TLS 1.3 only, as between sidecars.
pub(super) fn with_own_certificate(tls: UpstreamTlsContext) -> UpstreamTlsContext {
    let common = tls.common_tls_context.unwrap_or_default();
    let only = TlsProtocol::TlSv13.into();
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: only,
                tls_maximum_protocol_version: only,
                ..TlsParameters::default()
            }),
            tls_certificate_sds_secret_configs: vec![SdsSecretConfig {
                name: IDENTITY.to_owned(),
                sds_config: Some(ads()),
            }],
            ..common
        }),
        ..tls
    }
}

/// A further try goes to another endpoint where there is one.
pub(super) fn elsewhere(policy: RetryPolicy) -> RetryPolicy {
    let predicate = RetryHostPredicate {
        name: PREVIOUS_HOSTS.to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(&PreviousHostsPredicate {}))),
    };
    RetryPolicy {
        retry_host_predicate: vec![predicate],
        host_selection_retry_max_attempts: OTHER_HOST_DRAWS,
        ..policy
    }
}

/// A value that stands for itself: Envoy's are formats, in which a percent sign begins a command.
pub(super) fn literal(value: &str) -> String {
    value.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use meshwork_core::compile::Audience;
    use meshwork_core::model::{Balance, SpiffeId};
    use meshwork_core::policy::Traffic;
    use prost::Message as _;

    use super::*;
    use crate::convert::{cluster, listener as listeners};
    use crate::wire::cluster::Cluster as Message;
    use crate::wire::http::http_filter;

    fn cluster(identities: &[&str], hint: Option<AppProtocol>) -> Message {
        let identity = |account: &&str| SpiffeId::new("mesh.local", "default", account).unwrap();
        let value = Cluster {
            name: "default/cart:80".parse().unwrap(),
            balance: Balance::LeastRequest,
            identities: identities.iter().map(identity).collect(),
            traffic: Traffic::default(),
            hint,
        };
        Message::decode(&cluster::write(&value, Audience::Envoy)[..]).unwrap()
    }

    /// It ACKs a connection manager without router, whose requests then hang, and an `api_listener`, which it ignores.
    #[test]
    fn a_listener_has_an_address_and_its_filters_end_with_the_router() {
        let value = Listener {
            name: "cart:80=127.0.0.1:9000".to_owned(),
            target: "default/cart:80".parse().unwrap(),
            hint: None,
            address: Some(([127, 0, 0, 1], 9_000).into()),
        };
        let message = listener::Listener::decode(&listeners::write(&value, Audience::Envoy)[..]).unwrap();
        assert_eq!(message.api_listener, None);
        assert_eq!(message.address, value.address.map(address));
        let Some(ConfigType::TypedConfig(manager)) = &message.filter_chains[0].filters[0].config_type else {
            panic!("{message:?}")
        };
        let manager = HttpConnectionManager::decode(&manager.value[..]).unwrap();
        let Some(http_filter::ConfigType::TypedConfig(last)) =
            manager.http_filters.last().and_then(|filter| filter.config_type.clone())
        else {
            panic!("{manager:?}")
        };
        assert_eq!(last.type_url, crate::wire::Router::type_url());
    }

    /// Without explicit options it speaks HTTP/1.1 to everybody.
    #[test]
    fn http2_is_said_in_so_many_words() {
        let options = |message: &Message| {
            let any = &message.typed_extension_protocol_options[&HttpProtocolOptions::full_name()];
            HttpProtocolOptions::decode(&any.value[..]).unwrap().upstream_protocol_options.unwrap()
        };
        for hint in [AppProtocol::Http2, AppProtocol::Grpc] {
            let found = options(&cluster(&[], Some(hint)));
            let UpstreamProtocolOptions::ExplicitHttpConfig(explicit) = found else { panic!("{found:?}") };
            let expect = explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                core::Http2ProtocolOptions::default(),
            );
            assert_eq!(explicit.protocol_config, Some(expect));
        }
        let found = options(&cluster(&["cart"], Some(AppProtocol::Http)));
        assert!(matches!(found, UpstreamProtocolOptions::AutoConfig(_)), "{found:?}");
        let found = options(&cluster(&[], None));
        assert!(matches!(found, UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)), "{found:?}");
    }

    #[test]
    fn mutual_tls_has_the_files_certificate_and_checks_who_answers() {
        assert_eq!(cluster(&[], None).transport_socket, None);
        let message = cluster(&["cart", "stock"], None);
        let Some(core::transport_socket::ConfigType::TypedConfig(any)) =
            message.transport_socket.and_then(|socket| socket.config_type)
        else {
            panic!("no TLS")
        };
        let common = UpstreamTlsContext::decode(&any.value[..]).unwrap().common_tls_context.unwrap();
        assert_eq!(common.tls_certificate_sds_secret_configs[0].name, IDENTITY);
        let text = format!("{:?}", common.validation_context_type);
        for identity in ["ns/default/sa/cart", "ns/default/sa/stock", "name: \"mesh.local\""] {
            assert!(text.contains(identity), "{identity} in {text}");
        }
    }

    #[test]
    fn a_percent_sign_is_one() {
        assert_eq!(literal("100%, %REQ(a)%"), "100%%, %%REQ(a)%%");
    }
}
