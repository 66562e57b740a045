//! What the mesh promises, each promise as a test that reads like its sentence. Everything is real and in one
//! process: control plane, sidecars, applications (`meshwork_testkit`).
//!
//! Where requests pass from sidecar to sidecar, each promise is held to in both ways in which they may: the modules
//! are the same files, and `HTTP2` says which way it is.
//!
//! | file | what |
//! |---|---|
//! | `moves.rs` | services come and move, instances die: callers see no failure |
//! | `addresses.rs` | each service has addresses and a name of its own, which stay |
//! | `drain.rs` | instances go in order: no request is lost, and what can't finish is told so |
//! | `outliers.rs` | an instance that always fails is left out, and comes back slowly |
//! | `zones.rs` | near instances first, as far as they can bear it |
//! | `ceilings.rs` | a sidecar without memory or descriptors: others are served, and it recovers |
//! | `way.rs` | the way of a request, and what can be seen of it from outside |
//! | `refusals.rs` | what is refused: documents, resources, workloads |
//! | `retries.rs` | what is tried again and what never is; outages that do not become storms |
//! | `grpc/` | gRPC in all its forms, with tonic and `grpcio` |
//! | `http2.rs` | HTTP/2 by prior knowledge, mixed with HTTP/1; WebSocket over either |
//! | `namespaces.rs` | two namespaces with the same names |
//! | `outage.rs`, `killed.rs` | the control plane goes and comes back, in order or not |
//! | `ledger.rs` | instances killed, drained and made faulty under mixed load, each request accounted for |
//! | `rotation.rs` | certificates that live for seconds, a new root |
//! | `stores.rs` | it comes back on an older copy of its store, or on an empty one |
//! | `full_disk.rs` | a disk is full, under a sidecar and under the store |
//! | `slow.rs` | a service that hangs: its callers are told in time, it is told to stop, nothing is left behind |
//! | `vanishes.rs` | a machine vanishes without a farewell |
//! | `skew.rs` | sidecars that speak HTTP/2 with each other, and those that don't |
//! | `wire/` | what processes of an earlier version said, held against this one |
//! | `versions.rs` | the same model has the same versions everywhere |
//! | `envoy.rs` | a real Envoy and our balancer choose the same endpoints |
//! | `ads.rs`, `middle.rs` | a bare xDS client; a machine between sidecar and control plane that spoils a resource |

// The same files twice is the point.
#![allow(clippy::duplicate_mod)]

mod ads;
mod envoy;
mod middle;
mod skew;
mod stores;
mod versions;
mod wire;

#[path = "."]
mod over_http1 {
    pub(crate) const HTTP2: bool = false;

    mod addresses;
    mod ceilings;
    mod drain;
    mod full_disk;
    mod grpc;
    mod http2;
    mod killed;
    mod ledger;
    mod moves;
    mod namespaces;
    mod outage;
    mod outliers;
    mod refusals;
    mod retries;
    mod rotation;
    mod slow;
    mod vanishes;
    mod way;
    mod zones;
}

#[path = "."]
mod over_http2 {
    pub(crate) const HTTP2: bool = true;

    mod addresses;
    mod ceilings;
    mod drain;
    mod full_disk;
    mod grpc;
    mod http2;
    mod killed;
    mod ledger;
    mod moves;
    mod namespaces;
    mod outage;
    mod outliers;
    mod refusals;
    mod retries;
    mod rotation;
    mod slow;
    mod vanishes;
    mod way;
    mod zones;
}
