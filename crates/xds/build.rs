//! Compiles our own messages and services with protox (no system protoc), and a server stub of Envoy's
//! aggregated discovery that sends resources as they were encoded before (`src/codec.rs`).

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
    manual::Builder::new().build_client(false).compile(&[discovery()]);
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
