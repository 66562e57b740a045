//! What rules do to real connections: `meshwork capture` in network namespaces of the tests' own, as root.
//!
//! | file | what |
//! |---|---|
//! | `place.rs` | a namespace with the command applied in it, and who connects and listens |
//! | `applied.rs` | applied twice, removed, shown, refused |
//! | `outbound.rs` | what applications there open |
//! | `inbound.rs` | what comes from another machine |
//! | `cgroup.rs` | the rules of one process tree |
//! | `run.rs` | `meshwork run` in a namespace that is its own |
//! | `whole.rs` | a sidecar behind the rules, and a mesh around it |
//!
//! Nothing waits for time: a connection is refused or made before the next line asks who has it.

mod applied;
mod cgroup;
mod inbound;
mod outbound;
mod place;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod whole;
