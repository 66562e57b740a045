//! Both ends of one delta ADS stream, and the server's of a state-of-the-world one, as state machines: messages in, messages out. Whoever holds the stream
//! carries them (`control/src/xds_server.rs`, `proxy/src/side`).
//!
//! | file | what |
//! |---|---|
//! | `server.rs` | what the sessions of both dialects know and do |
//! | `server/delta.rs` | what a client subscribed to, holds and refused; what it must be sent |
//! | `server/sotw.rs` | the same for clients that speak state-of-the-world xDS |
//! | `load.rs` | what clients without a sidecar report of their load |
//! | `client.rs` | what a sidecar wants, holds and must ask for |
//!
//! **One dialect on top of the standard.** A sidecar that announces [`DEPENDENTS`] in `node.client_features`
//! gets, with a resource, all that it points to (Listener -> Route -> Clusters -> Endpoints) without asking,
//! dependents first: one round trip instead of four, and a route never points to a cluster that has yet to
//! come. An included resource counts as subscribed. The sidecar settles each: what it needs it subscribes to
//! (which confirms, and is not answered again), what it doesn't need it unsubscribes from.
//! Everyone else gets what xDS says and nothing else.

pub mod client;
pub mod load;
pub mod server;

pub use client::ClientSession;
pub use load::LoadSession;
pub use server::{ServerSession, Session, SotwSession};

/// The client feature: "send along what a resource points to".
pub const DEPENDENTS: &str = "meshwork.dependents";

/// Listeners that a sidecar may want at a time: more destinations than an application has, and few enough
/// that a scan of the address space by it ends here.
pub const LISTENERS_MAX: usize = 4_096;

/// Namespaces whose names a sidecar may want at a time, beside its own: an application looks up services of a few, and
/// words with a dot in them that are no service's end here.
pub const NAMESPACES_MAX: usize = 256;

/// The longest name of a resource: a host name has at most 253 bytes, a port name with its view 3 labels of
/// 63. Longer ones name nothing.
pub const NAME_BYTES_MAX: usize = 320;

/// Request metadata: the last `system_version_info` that the sidecar saw.
pub const REVISION_SEEN: &str = "meshwork-revision";

/// Request metadata: in which era of the store that was. Response metadata: which era it is now. An era is one start
/// of a control plane on a store; a copy of a store knows those only that began before it was made.
pub const ERA_SEEN: &str = "meshwork-era";

/// The newest state of the store that a sidecar was told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Empty: told by a control plane that says none.
    pub era: String,
    /// Empty: nothing was told yet.
    pub revision: String,
}

/// The largest message that either end must be able to decode: one resource can't be split, and 50,000
/// endpoints of one service have their place in it. (tonic's own limit is 4 MiB.)
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
