//! Decisions: pure functions from values to values. No tokio, no sockets, no files, no clock, no chance;
//! time and randomness are arguments.
//!
//! On a request's path, in order:
//!
//! | file | what |
//! |---|---|
//! | `discover.rs` | which destination does an authority name, and is the mesh asked about it? |
//! | `detect.rs` | which protocol do the first bytes speak? |
//! | `route.rs` | which rule of a route takes the request, which backend? |
//! | `filter.rs` | the edits of a head: modifiers, request ID, trace context, who calls |
//! | `balance.rs` | which endpoint? |
//! | `retry.rs` | a try has ended: once more? |
//! | `cause.rs` | the one table of every answer that the mesh itself makes |
//!
//! On the config's path:
//!
//! | file | what |
//! |---|---|
//! | `model/` | what operators and sidecars declare: service, workload, route, settings, identity |
//! | `resource.rs` | what a proxy asks the control plane for: listener, route, cluster, endpoints, inbound |
//! | `name.rs` | the names of those resources: a name determines its bytes |

pub mod balance;
pub mod cause;
pub mod detect;
pub mod discover;
pub mod filter;
pub mod model;
pub mod name;
pub mod resource;
pub mod retry;
pub mod route;

pub use meshwork_http::{Head, Instant};
