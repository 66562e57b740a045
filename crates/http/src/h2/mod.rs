//! HTTP/2 (RFC 9113) as a state machine over bytes: one [`Connection`] with all of its streams.
//!
//! Bytes that came in go through [`Connection::advance`], which tells one [`Step`] after the other; what is to go out is appended
//! to a buffer of the driver's: frames are written once, where they will be encrypted or sent. Both ends are the same type: a
//! client opens streams with `request`, a server answers them with `response`.
//!
//! Strict: what RFC 9113 calls malformed never becomes a head (`error.rs` lists all of it), because a head is passed on as HTTP/1,
//! too, where a stray byte splits messages. Everything that a peer can make us keep or do is bounded (`limits.rs`).
//!
//! What is left to the driver: reading, writing, time, and to stop reading while too many bytes wait to be written (each PING
//! makes an answer; a peer that reads none of them must not be read either).
//!
//! | file | what |
//! |---|---|
//! | `connection.rs` | the connection: what both ends call |
//! | `step.rs` | what `advance` tells |
//! | `frame.rs` | frames' heads, kinds and flags; frames of fixed form as bytes |
//! | `hpack/` | heads as they are on the wire (RFC 7541) |
//! | `error.rs`, `limits.rs` | everything that is refused; everything that is bounded |

pub mod hpack;

mod connection;
mod error;
mod limits;
mod step;

pub use connection::Connection;
pub use error::{ConnectionError, ErrorCode, NotOpened, Reason, SendError};
pub use limits::{Limits, Rate};
pub use step::{By, Certainty, Reset, Step, StreamId};
