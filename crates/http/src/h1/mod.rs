//! HTTP/1.0 and HTTP/1.1 (RFC 9112) as state machines over bytes.
//!
//! A connection is two directions, each tracked apart: a [`Receiver`] turns the bytes that come in
//! into [`Step`]s, a [`Sender`] turns heads and bodies into the bytes that go out. A proxy has one of
//! each towards the client and one of each towards the origin; early answers, half-closed connections
//! and pipelining need nothing more.
//!
//! Strict: what two parsers could split differently is refused, never mended (`error.rs` lists what).
//!
//! | file | what |
//! |---|---|
//! | `receive.rs` | the receiver: where in a message the input stands, and the next step |
//! | `head_end.rs` | where a head ends, looked for once however it arrives |
//! | `parse.rs` | a complete head's text into a `Head` |
//! | `scan.rs` | which bytes names, values and targets may hold, and quick loops over them |
//! | `target.rs` | the request target's four forms, and what an authority may be |
//! | `framing.rs` | what a head says about the body's end and the connection's |
//! | `chunked.rs` | the chunked coding, decoded without copying |
//! | `send.rs`, `write.rs` | the sender, and the text that it writes |
//! | `error.rs`, `limits.rs` | everything that is refused; everything that is bounded |

mod chunked;
mod error;
mod framing;
mod head_end;
mod limits;
mod parse;
mod receive;
pub(crate) mod scan;
mod send;
mod target;
mod write;

pub use error::{ReceiveError, SendError};
pub use limits::Limits;
pub use receive::{EndOfInput, Receiver, Step};
pub use send::{ResponseTo, Sender};
pub use target::is_authority;

pub use crate::BodyLength;

pub(crate) use framing::{decimal, list};
pub(crate) use parse::is_forbidden_in_trailers;
pub(crate) use write::digits;

/// What a receiver receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Requests from a client: we are its server.
    Requests,
    /// Responses from an origin: we are its client.
    Responses,
}

/// What a request's method means for the end of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMethod {
    /// The response never has a body, whatever its head declares.
    Head,
    /// A 2xx turns the connection into a tunnel.
    Connect,
    Other,
}

impl From<&str> for RequestMethod {
    fn from(method: &str) -> Self {
        Self::from(method.as_bytes())
    }
}

impl From<&[u8]> for RequestMethod {
    fn from(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}
