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
//! | `connection.rs` | the connection: what it knows, streams' ends, PING and GOAWAY of ours |
//! | `receive.rs` | what comes in: preface, frames, DATA |
//! | `receive_head.rs` | HEADERS and CONTINUATION that come in: requests, responses, trailers |
//! | `fields.rs` | decoded fields into a `Head`, and everything that is malformed |
//! | `control.rs` | frames of fixed form that come in |
//! | `send.rs`, `write.rs` | heads, bodies and trailers that go out |
//! | `streams.rs` | the streams: by number, by index, and what is remembered of them |
//! | `window.rs` | what the peer may send, and when it is given credit |
//! | `settings.rs` | what both ends announce |
//! | `flood.rs` | what the peer may do for nothing |
//! | `step.rs` | what `advance` tells |
//! | `frame.rs` | frames' heads, kinds and flags; frames of fixed form as bytes |
//! | `hpack/` | heads as they are on the wire (RFC 7541) |
//! | `error.rs`, `limits.rs` | everything that is refused; everything that is bounded |

pub mod hpack;

mod connection;
mod control;
mod error;
mod fields;
mod flood;
mod frame;
mod limits;
mod receive;
mod receive_head;
mod send;
mod settings;
mod step;
mod streams;
mod window;
mod write;

pub use connection::Connection;
pub use error::{ConnectionError, ErrorCode, NotOpened, Reason, SendError};
pub use limits::{Limits, Rate};
pub use step::{By, Certainty, Reset, Step, StreamId};

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

#[cfg(test)]
mod tests;
