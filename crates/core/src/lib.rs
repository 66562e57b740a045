//! Decisions: pure functions from values to values. No tokio, no sockets, no files, no clock, no chance;
//! time and randomness are arguments.
//!
//! On a request's path, in order:
//!
//! | file | what |
//! |---|---|
//! | `discover.rs` | which destination does an authority name, and is the mesh asked about it? |
//! | `meant.rs` | which destination did a captured connection mean? |
//! | `detect.rs` | which protocol do the first bytes speak? |
//! | `sni.rs` | which name does a TLS client ask for? |
//! | `route.rs` | which rule of a route takes the request, which backend? |
//! | `filter.rs` | the edits of a head: modifiers, request ID, trace context, who calls |
//! | `balance.rs` | which endpoint? |
//! | `hash.rs` | xxHash64, for that |
//! | `limit.rs` | when has a sidecar enough of memory, or of clients? |
//! | `outlier.rs` | which endpoints fail too often, and are left out for how long? |
//! | `retry.rs` | a try has ended: once more? |
//! | `cause.rs` | the one table of every answer that the mesh itself makes |
//! | `grpc.rs` | which messages are gRPC's, how its calls ended |
//!
//! Beside them:
//!
//! | file | what |
//! |---|---|
//! | `names.rs` | which names are the mesh's, and what they resolve to |
//! | `dns/` | the messages in which that is asked and answered, and what passes to the host's resolvers |
//!
//! On the config's path:
//!
//! | file | what |
//! |---|---|
//! | `manifest/` | the documents that operators write, as they are written |
//! | `validate/` | manifests -> model, or everything that is wrong with them |
//! | `status.rs` | what is amiss among documents that are each right |
//! | `health.rs` | what a row of probes means |
//! | `timestamp.rs` | moments of the calendar (RFC 3339) |
//! | `model/` | what operators and sidecars declare: service, workload, route, settings, identity |
//! | `mesh.rs` | `Mesh`: one version of everything declared; what differs between two |
//! | `compile.rs` | `Mesh` -> the resource of a name, for an audience |
//! | `version.rs` | a resource's version: a hash of its value, the same in every process |
//! | `fnv.rs` | FNV-1a, for that and for addresses |
//! | `resource.rs` | what a proxy asks the control plane for: listener, route, cluster, endpoints, inbound |
//! | `policy.rs` | how a service wants to be called: time-outs, retries, limits, outliers |
//! | `name.rs` | the names of those resources: a name determines its bytes |
//! | `capture.rs` | the rules that lead an application's connections to its sidecar |
//! | `virtual_address.rs` | the addresses that each service has of its own |
//! | `rotate.rs` | when certificates are renewed, when somebody is warned, how a root is replaced |

pub mod balance;
pub mod capture;
pub mod cause;
pub mod compile;
pub mod detect;
pub mod discover;
pub mod dns;
pub mod filter;
#[cfg(test)]
mod fixture;
mod fnv;
pub mod grpc;
mod hash;
pub mod health;
pub mod limit;
pub mod manifest;
pub mod meant;
pub mod mesh;
pub mod model;
pub mod name;
pub mod names;
pub mod outlier;
pub mod policy;
pub mod resource;
pub mod retry;
pub mod rotate;
pub mod route;
pub mod sni;
pub mod status;
pub mod timestamp;
pub mod validate;
pub mod version;
pub mod virtual_address;

pub use meshwork_http::{Head, Instant};
