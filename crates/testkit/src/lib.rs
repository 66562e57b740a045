//! A whole mesh inside a test: control plane, sidecars, applications and callers, in one process on loopback.
//!
//! Nothing here is a double: the control plane is `meshwork_control`'s with a store on disk, the sidecars are
//! `meshwork_proxy`'s with threads of their own, they join with tokens and speak mutual TLS. What the kit adds is
//! applications to call and a client to call them with. Every port is of the kernel's choice.
//!
//! ```no_run
//! # async fn test() {
//! use meshwork_testkit::{App, Mesh, workload};
//!
//! let cart = App::http("cart").await;
//! let mesh = Mesh::builder().with(workload("cart").serving(80, &cart)).with(workload("web")).start().await;
//! let answer = mesh.sidecar("web").get("http://cart/items").await;
//! assert_eq!(answer.status, 200);
//! # }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mesh.rs` | the control plane, and whoever was started with it |
//! | `workload.rs`, `sidecar.rs` | what is to run; its running sidecar |
//! | `app.rs`, `grpc.rs` | applications: HTTP and opaque TCP; gRPC with its clients |
//! | `client.rs`, `load.rs` | requests through a sidecar: one, or many at once |
//! | `operator.rs` | the operators' API |
//! | `metrics.rs` | what a sidecar counts |
//! | `control.rs`, `bin/control-process.rs` | the control plane, here or in a process of its own |
//! | `disk.rs` | a disk that can be filled |
//! | `hosts.rs`, `hosts/` | hosts that are joined by a bridge, for the real binary and plain programs |
//! | `machine.rs` | a machine of its own, which can vanish |
//! | `relay.rs` | a machine in the middle that only looks |
//! | `log.rs`, `wait.rs` | what was logged; waiting with an end |
//!
//! For tests alone: what should work and does not is a panic that says so.

mod app;
mod client;
mod control;
mod disk;
mod grpc;
pub mod hosts;
mod load;
mod log;
mod machine;
mod mesh;
mod metrics;
mod operator;
mod python;
mod relay;
mod sidecar;
mod wait;
mod workload;

pub use app::{App, Received};
pub use client::{Answer, Client, get, post};
pub use disk::SmallDisk;
pub use grpc::{
    BytesCodec, EchoClient, FAIL_MESSAGE, FAIL_METADATA, GrpcApp, failing, grpc_client,
    grpc_client_by_connect, in_pieces, tunnel,
};
pub use load::{Load, Tally};
pub use log::Log;
pub use machine::Machine;
pub use mesh::{Builder, Mesh};
pub use metrics::Metrics;
pub use operator::Operator;
pub use python::{envoy, python_with};
pub use relay::{Recording, Relay};
pub use sidecar::Sidecar;
pub use wait::{eventually, soon};
pub use workload::{Workload, bind, workload};
