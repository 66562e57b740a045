//! Compiles our own messages and services with protox (no system protoc), and server stubs of Envoy's: of aggregated
//! discovery, which sends resources as they were encoded before, and of load reports (`src/codec.rs`).

use std::error::Error;

use tonic_build::manual;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = ["meshwork/v1/resources.proto", "meshwork/v1/sidecar.proto"];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(protos, ["proto"])?;
    let mut config = tonic_prost_build::Config::new();
    // Type URLs from the messages themselves (`prost::Name`): they can't be misspelt.
    config.enable_type_names();
    config.type_name_domain(["."], "type.googleapis.com");
    let services = tonic_prost_build::configure().codec_path("crate::codec::AsProst");
    services.compile_fds_with_config(descriptors, config)?;
    manual::Builder::new().build_client(false).compile(&[discovery(), load_reporting()]);
    Ok(())
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService` as the wire knows it, with our codec.
fn discovery() -> manual::Service {
    let delta = manual::Method::builder()
        .name("delta_aggregated_resources")
        .route_name("DeltaAggregatedResources")
        .comment("Incremental xDS: what changed since the stream's last response.")
        .input_type("crate::wire::DeltaDiscoveryRequest")
        .output_type("crate::codec::DeltaResponse")
        .codec_path("crate::codec::DeltaCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let sotw = manual::Method::builder()
        .name("stream_aggregated_resources")
        .route_name("StreamAggregatedResources")
        .comment("State-of-the-world xDS: all of a type, or what was asked for of it.")
        .input_type("crate::wire::DiscoveryRequest")
        .output_type("crate::codec::SotwResponse")
        .codec_path("crate::codec::SotwCodec")
        .client_streaming()
        .server_streaming()
        .build();
    manual::Service::builder()
        .name("AggregatedDiscoveryService")
        .package("envoy.service.discovery.v3")
        .comment("All of xDS on one stream.")
        .method(delta)
        .method(sotw)
        .build()
}

/// `envoy.service.load_stats.v3.LoadReportingService`, with buffers of our size.
fn load_reporting() -> manual::Service {
    let stream = manual::Method::builder()
        .name("stream_load_stats")
        .route_name("StreamLoadStats")
        .comment("How often to report, once; and the reports.")
        .input_type("crate::wire::LoadStatsRequest")
        .output_type("crate::wire::LoadStatsResponse")
        .codec_path("crate::codec::AsProst")
        .client_streaming()
        .server_streaming()
        .build();
    manual::Service::builder()
        .name("LoadReportingService")
        .package("envoy.service.load_stats.v3")
        .comment("What clients count of the services that they call.")
        .method(stream)
        .build()
}
