//! What an Envoy is started with: where the control plane is, how it is told apart from others, and what to carry.
//!
//! Envoy reads its certificate by SDS only if it is to notice a renewed one, so two small files beside the certificate say
//! where that is. They are for its way to the control plane; of everything else it learns there.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use meshwork_core::model::AppProtocol;
use meshwork_identity::{Enrolled, PEM_BUNDLE, PEM_CERTIFICATE, PEM_KEY, control_id, private_file};
use meshwork_xds::convert::IDENTITY;
use serde_json::{Value, json};

use crate::BoxError;
use crate::cli::EnvoyArgs;
use crate::settings::ServeSpec;

/// SDS by file: the key and certificate, and whose signatures count.
const SDS_IDENTITY: &str = "sds-identity.json";
const SDS_BUNDLE: &str = "sds-bundle.json";
/// The second one's name. No trust domain is called so.
const BUNDLE: &str = "meshwork:bundle";
/// Envoy's cluster that is the control plane.
const CONTROL: &str = "meshwork";

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const PROTOCOLS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// An idle stream of xDS looks like a control plane that vanished: Envoy asks so often, and waits so long.
const PING_INTERVAL: &str = "10s";
const PING_TIMEOUT: &str = "5s";
/// Between two attempts to reach the control plane, as sidecars have it at most.
const RETRY_FIRST: &str = "0.5s";
const RETRY_LATER: &str = "5s";

/// Writes the files by which an Envoy finds `directory`'s key, certificate and roots.
pub(super) fn write_sds(directory: &Path) -> Result<(), BoxError> {
    let file = |name: &str| json!({"filename": directory.join(name)});
    let watched = json!({"path": directory});
    let identity = json!({
        "@type": SECRET, "name": IDENTITY,
        "tls_certificate": {
            "certificate_chain": file(PEM_CERTIFICATE), "private_key": file(PEM_KEY), "watched_directory": watched,
        },
    });
    let bundle = json!({
        "@type": SECRET, "name": BUNDLE,
        "validation_context": {"trusted_ca": file(PEM_BUNDLE), "watched_directory": watched},
    });
    for (name, secret) in [(SDS_IDENTITY, identity), (SDS_BUNDLE, bundle)] {
        let path = directory.join(name);
        let text = serde_json::to_vec_pretty(&json!({"resources": [secret]}))?;
        private_file::replace(&path, |file| std::io::Write::write_all(file, &text))
            .map_err(|error| format!("cannot write {}: {error}; check --out", path.display()))?;
    }
    Ok(())
}

pub(super) fn bootstrap(args: &EnvoyArgs, enrolled: &Enrolled, directory: &Path) -> Result<Value, BoxError> {
    let membership = &enrolled.membership;
    let control = control_id(enrolled.identity.spiffe_id().trust_domain())?;
    let upstreams: Vec<String> = args.upstreams.iter().map(ToString::to_string).collect();
    let mut clusters = vec![control_cluster(&membership.control, &control.to_string(), directory)?];
    clusters.extend(args.serve.iter().map(application));
    let listeners: Vec<Value> = args.serve.iter().map(|serve| inbound(serve, directory)).collect();
    let mut bootstrap = json!({
        "node": {
            "id": format!("{}/{}", membership.namespace, membership.service),
            "cluster": membership.service,
            "metadata": {"meshwork": {"upstreams": upstreams, "identity": directory}},
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": if args.sotw { "GRPC" } else { "DELTA_GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [grpc_service()],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "cluster_manager": {"load_stats_config": {
            "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [grpc_service()],
        }},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    });
    if let Some(admin) = args.admin {
        bootstrap["admin"] = json!({"address": socket(&admin.ip().to_string(), admin.port())});
    }
    Ok(bootstrap)
}

/// The way to the control plane: config comes from there, and load is reported there.
fn grpc_service() -> Value {
    json!({"envoy_grpc": {
        "cluster_name": CONTROL,
        "retry_policy": {"retry_back_off": {"base_interval": RETRY_FIRST, "max_interval": RETRY_LATER}},
    }})
}

fn control_cluster(control: &str, id: &str, directory: &Path) -> Result<Value, BoxError> {
    let (host, port) = control.rsplit_once(':').ok_or("the control plane's address has no port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let kind = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    let keepalive = json!({"interval": PING_INTERVAL, "timeout": PING_TIMEOUT});
    let endpoint = json!({"endpoint": {"address": socket(host, port.parse()?)}});
    Ok(json!({
        "name": CONTROL, "type": kind, "connect_timeout": "5s",
        "typed_extension_protocol_options": {PROTOCOLS: {
            "@type": format!("type.googleapis.com/{PROTOCOLS}"),
            "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
        }},
        "load_assignment": {"cluster_name": CONTROL, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": UPSTREAM_TLS, "common_tls_context": common_tls(directory, Some(id)),
        }},
    }))
}

/// Mutual TLS 1.3 with the mesh's certificates, as between sidecars.
fn common_tls(directory: &Path, expected: Option<&str>) -> Value {
    let sds = |name: &str, file: &str| {
        json!({"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {
            "path": directory.join(file), "watched_directory": {"path": directory},
        }}})
    };
    let names: Vec<Value> =
        expected.iter().map(|expected| json!({"san_type": "URI", "matcher": {"exact": expected}})).collect();
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [sds(IDENTITY, SDS_IDENTITY)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": sds(BUNDLE, SDS_BUNDLE),
        },
    })
}

/// Takes mutual TLS from the mesh alone, and tells the application who calls.
fn inbound(serve: &ServeSpec, directory: &Path) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": serve.to_string(), "timeout": "0s"}});
    let manager = json!({
        "@type": MANAGER,
        "stat_prefix": serve.to_string(),
        "stream_idle_timeout": "0s",
        "server_header_transformation": "PASS_THROUGH",
        "preserve_external_request_id": true,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "application", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    });
    let tls = json!({
        "@type": DOWNSTREAM_TLS,
        "require_client_certificate": true,
        "common_tls_context": common_tls(directory, None),
    });
    json!({
        "name": format!("inbound {serve}"),
        "address": socket(&serve.listen.ip().to_string(), serve.listen.port()),
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }],
    })
}

/// On loopback, in the version of HTTP that it was declared to speak.
fn application(serve: &ServeSpec) -> Value {
    let name = serve.to_string();
    let address = SocketAddr::from(([127, 0, 0, 1], serve.app_port));
    let endpoint = json!({"endpoint": {"address": socket(&address.ip().to_string(), address.port())}});
    let spoken = match serve.protocol {
        None | Some(AppProtocol::Http | AppProtocol::Tcp) => "http_protocol_options",
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => "http2_protocol_options",
    };
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {PROTOCOLS: {
            "@type": format!("type.googleapis.com/{PROTOCOLS}"),
            "explicit_http_config": {spoken: {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    })
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}
