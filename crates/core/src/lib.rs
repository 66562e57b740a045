//! Decisions: pure functions from values to values. No tokio, no sockets, no files, no clock, no chance;
//! time and randomness are arguments.
//!
//! | file | what |
//! |---|---|
//! | `model/` | what operators and sidecars declare: service, workload, route, settings, identity |
//! | `resource.rs` | what a proxy asks the control plane for: listener, route, cluster, endpoints, inbound |
//! | `name.rs` | the names of those resources: a name determines its bytes |

pub mod model;
pub mod name;
pub mod resource;

pub use meshwork_http::{Head, Instant};
