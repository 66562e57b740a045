//! HTTP/2 (RFC 9113) as a state machine over bytes: one [`Connection`] with all of its streams.
//!
//! Bytes that came in go through [`Connection::advance`], which tells one [`Step`] after the other; what is to go out is appended
//! to a buffer of the driver's: frames are written once, where they will be encrypted or sent. Both ends are the same type: a
//! client opens streams with `request`, a server answers them with `response`.
//!
//! Strict: what RFC 9113 calls malformed never becomes a head (`error.rs` lists all of it), because a head is passed on as HTTP/1,
//! too, where a stray byte splits messages. Everything that a peer can make us keep or do is bounded (`limits.rs`).
//!
//! A driver's turn, at either end:
//!
//! 1. read; show [`Connection::advance`] all that is not consumed, act on each step, until [`Step::NeedMore`];
//! 2. append what users have to say: `request`, `response`, `data` (as much as `capacity` lets through; the rest after
//!    [`Step::Writable`]), `trailers`; say `consumed` as they take bytes, `release` when they are done with a stream;
//! 3. write everything that was appended, once; after an error, or when `is_finished`, close.
//!
//! What is left to it, beside reading, writing and the clock: to read no more while too many bytes wait to be written (each PING
//! makes an answer; a peer that takes none of them must not be read either), to ask with `ping` whether a silent peer is still
//! there, and to close a connection whose draining takes too long. A server that answers before it has read the whole
//! request should take the rest for a while before it releases the stream: not every client keeps an answer that arrives together
//! with a reset, though RFC 9113, 8.1 says it must.
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
