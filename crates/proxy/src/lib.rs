//! The data plane: a sidecar next to a workload.
//!
//! Workers carry traffic (`data.rs` starts them); a further thread (`side/`) talks to the control plane
//! and answers the admin port. They meet in `Live`, the current snapshot of the mesh, and in `Registry`,
//! the metrics. ARCHITECTURE.md follows a request through these files.

mod alpn;
mod buffers;
mod captured;
mod ceilings;
mod clients;
mod clock;
mod conn;
mod connect;
mod data;
mod destination;
mod detect;
mod drain;
mod endpoints;
mod exchange;
mod failure;
mod futile;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod inbound;
mod known;
mod limits;
mod listen;
mod live;
mod mark;
mod memory;
mod mux;
mod outbound;
mod outliers;
mod pace;
mod passthrough;
mod pool;
mod preamble;
pub mod scheduling;
mod seldom;
mod settings;
pub mod side;
mod sidecar;
mod spoke_first;
mod tcp;
pub mod telemetry;
mod tls;
mod ways;
mod worker;

pub use alpn::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP};
pub use clock::Clock;
pub use data::{DataPlane, Sockets, WORKERS_MAX};
pub use destination::{Backend, BackendTls, Destination, Member};
pub use live::{Ask, Credentials, Found, Live, Snapshot};
pub use mark::Mark;
pub use settings::{
    Captured, DRAIN_DEFAULT, HTTP2_DEFAULT, HealthCheck, Listeners, PortSpec, Settings, Upstream, Whose,
};
pub use sidecar::{Sidecar, StartError, launch, start};
