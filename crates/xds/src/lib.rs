//! The wire: xDS v3 and Meshwork's own messages, and both sessions as pure state machines.
//!
//! | file | what |
//! |---|---|
//! | `wire.rs` | the one place that names `envoy-types`; the type URLs |
//! | `codec.rs` | a response whose resources were encoded before, and the gRPC codec and server stub for it |
//! | `bounds.rs` | what a request may make of its bytes, looked at before it is decoded |
//! | `convert/` | `core`'s resources to Envoy's and our messages and back; nothing is lost in silence |
//! | `session/` | the server's and the sidecar's end of a delta ADS stream; the server's of a state-of-the-world one, and of load reports |
//! | `grpc_health.rs` | the two messages of gRPC's health check, which both sides of the mesh ask applications |
//! | `proto` | our own messages and services (`proto/meshwork/v1/*.proto`, compiled by `build.rs`) |
//!
//! Nothing here waits, reads a clock or opens a socket: `proxy` and `control` carry the messages.

mod bounds;
pub mod codec;
pub mod convert;
pub mod grpc_health;
pub mod session;
pub mod wire;

pub use wire::{resource_type, type_url};

/// Meshwork's own messages, and the stubs of `Enrollment` and `Sidecar` (client and server).
#[allow(unreachable_pub, clippy::all, clippy::too_many_lines)] // generated: not ours to mend
pub mod proto {
    tonic::include_proto!("meshwork.v1");
}

/// The server stub of LRS.
#[allow(unreachable_pub, unused_lifetimes, clippy::all, clippy::too_many_lines)] // generated: not ours to mend
pub mod load_reporting {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.load_stats.v3.LoadReportingService.rs"));
    pub use load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer};
}

/// The server stub of ADS, which sends `codec::DeltaResponse`s and `codec::SotwResponse`s.
#[allow(unreachable_pub, unused_lifetimes, clippy::all, clippy::too_many_lines)] // generated: not ours to mend
pub mod discovery {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.AggregatedDiscoveryService.rs"));
    pub use aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    };
}
