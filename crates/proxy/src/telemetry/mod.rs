//! What the sidecar shows: metrics (`metrics.rs` counts, `render.rs` prints) and the access log.
//!
//! Workers count in shards of their own, with plain atomic additions that no other worker touches; the
//! side thread adds the shards up when somebody asks.

pub(crate) mod access_log;
mod metrics;
pub(crate) mod plaintext;
mod render;

pub use metrics::{Event, Gauge, LabelId, Labels, Registry};
pub(crate) use metrics::{MethodClass, SeriesKey, Shard};
pub use render::CONTENT_TYPE;
