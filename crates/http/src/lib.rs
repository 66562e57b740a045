//! The HTTP engine: HTTP/1 (and, from the issue Fast on, HTTP/2) as state machines over bytes.
//!
//! Sans-IO, like rustls: bytes come in; events, heads and bytes go out. It knows nothing of meshes,
//! reads no clock, opens no socket. Whoever drives it (`meshwork-proxy`) reads, flushes, connects.
//!
//! | file | what |
//! |---|---|
//! | `head.rs` | a request's or response's head: one byte buffer, a table of slices, an overlay of edits |
//! | `known.rs` | header names that the engine and the mesh look up by ID instead of by text |
//! | `status.rs` | status codes |
//! | `time.rs` | our own clock value: time is an argument everywhere |

mod head;
mod known;
mod status;
mod time;

pub use head::{Fields, Head, Kind, Version};
pub use known::Known;
pub use status::StatusCode;
pub use time::Instant;
