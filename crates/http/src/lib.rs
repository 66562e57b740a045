//! The HTTP engine: HTTP/1 and HTTP/2 as state machines over bytes.
//!
//! Sans-IO, like rustls: bytes come in; events, heads and bytes go out. It knows nothing of meshes,
//! reads no clock, opens no socket. Whoever drives it (`meshwork-proxy`) reads, flushes, connects.
//!
//! | file | what |
//! |---|---|
//! | `head.rs` | a request's or response's head: one byte buffer, a table of slices, an overlay of edits |
//! | `body_length.rs` | how the end of a body is found, in either version |
//! | `known.rs` | header names that the engine and the mesh look up by ID instead of by text |
//! | `status.rs` | status codes |
//! | `h1/` | HTTP/1: a receiver and a sender, one for each direction of a connection |
//! | `h2/` | HTTP/2: a connection with all of its streams, at either end |
//! | `forward.rs` | what an intermediary does to a head before it passes it on |
//! | `websocket.rs` | WebSocket of HTTP/2 as an upgrade of HTTP/1 |
//! | `time.rs` | our own clock value: time is an argument everywhere |

pub mod forward;
pub mod h1;
pub mod h2;
pub mod websocket;

mod body_length;
mod head;
mod known;
mod status;
mod time;

pub use body_length::BodyLength;
pub use head::{Fields, Head, Kind, Version};
pub use known::Known;
pub use status::StatusCode;
pub use time::Instant;
