//! One direction of a connection, messages going out: heads and bodies to bytes.
//!
//! The sender alone frames: `Content-Length`, `Transfer-Encoding` and `Connection` are written from what
//! it is told and from what the reader can take, never copied from a head. It invents nothing else (no
//! `Date`, no `Server`) and keeps the names' case. A body that breaks its promise is an error before
//! its bytes reach the wire: the reader would take the rest for the next message.

use super::write::{self, Persistence};
use super::{BodyLength, RequestMethod, SendError};
use crate::{Head, Kind, StatusCode, Version};

/// The request that a response answers, as far as its framing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseTo {
    pub method: RequestMethod,
    pub version: Version,
}

impl ResponseTo {
    /// Read it off the request before its head is changed or used again.
    pub fn of(request: &Head) -> Self {
        Self { method: RequestMethod::from(request.method()), version: request.version() }
    }
}

/// Sends the messages of one direction, one after the other.
#[derive(Debug)]
pub struct Sender {
    state: State,
    keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first head, or after a message's end.
    Ended,
    Length {
        remaining: u64,
    },
    Chunked,
    UntilClose,
    /// The reader expects no body: its bytes are dropped.
    Absent,
    /// Protocol switched, or tunnel open: bytes pass as they are.
    Opaque,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    pub fn new() -> Self {
        Self { state: State::Ended, keep_alive: true }
    }

    /// Writes a request's head. With a scheme in the head the target is in absolute-form, for a proxy.
    pub fn request(&mut self, head: &Head, body: BodyLength, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_start(head, Kind::Request)?;
        self.state = match body {
            BodyLength::None | BodyLength::Known(0) => State::Absent,
            BodyLength::Known(remaining) => State::Length { remaining },
            BodyLength::Chunked => State::Chunked,
            BodyLength::UntilClose => return Err(SendError::RequestUntilClose),
        };
        write::request(head, body, out);
        Ok(())
    }

    /// Writes an interim response; nothing to a client of HTTP/1.0, which knows none (RFC 9110, 15.2).
    pub fn interim(&mut self, head: &Head, to: ResponseTo, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_start(head, Kind::Response)?;
        if !head.status().is_interim() {
            return Err(SendError::WrongKind);
        }
        if to.version >= Version::Http11 {
            write::response(head, BodyLength::None, Persistence::Unsaid, out);
        }
        Ok(())
    }

    /// Writes a final response's head.
    ///
    /// `body` is what the origin declared, or the length of our own body; the reader may get another
    /// framing: to HTTP/1.1 a body without a length is chunked, to HTTP/1.0 it ends with the connection,
    /// and to HEAD, 204 and 304 there is none (HEAD and 304 keep the declared length). So the connection
    /// may end though `keep_alive` was asked for: see [`Sender::keep_alive`].
    ///
    /// A 101, or a 2xx to CONNECT, opens the way for opaque bytes.
    pub fn response(
        &mut self,
        head: &Head,
        body: BodyLength,
        to: ResponseTo,
        keep_alive: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_start(head, Kind::Response)?;
        if head.status().is_interim() {
            return Err(SendError::WrongKind);
        }
        let (written, state) = response_framing(head.status(), body, to);
        self.state = state;
        self.keep_alive = keep_alive && !matches!(state, State::UntilClose | State::Opaque);
        let persistence = match (state, self.keep_alive, to.version) {
            (State::Opaque, _, _) => Persistence::Unsaid,
            (_, false, _) => Persistence::Close,
            (_, true, Version::Http10) => Persistence::KeepAlive,
            (_, true, Version::Http11 | Version::Http2) => Persistence::Unsaid,
        };
        write::response(head, written, persistence, out);
        Ok(())
    }

    /// Writes a piece of the body.
    pub fn data(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        match &mut self.state {
            State::Ended => return Err(SendError::NoHead),
            State::Absent => {}
            State::Length { remaining } => match remaining.checked_sub(bytes.len() as u64) {
                Some(left) => {
                    *remaining = left;
                    out.extend_from_slice(bytes);
                }
                None => return Err(SendError::TooLong { excess: bytes.len() as u64 - *remaining }),
            },
            State::Chunked if bytes.is_empty() => {} // an empty chunk would be the last one
            State::Chunked => {
                write::chunk_size(bytes.len(), out);
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            State::UntilClose | State::Opaque => out.extend_from_slice(bytes),
        }
        Ok(())
    }

    /// Ends the message. Only a chunked body has a place for trailers: elsewhere they are left out
    /// (RFC 9110, 6.5.1: whoever cannot send them may).
    pub fn end(&mut self, trailers: Option<&Head>, out: &mut Vec<u8>) -> Result<(), SendError> {
        match self.state {
            State::Ended => return Err(SendError::NoHead),
            State::Length { remaining: missing @ 1.. } => return Err(SendError::TooShort { missing }),
            State::Chunked => write::last_chunk(trailers, out),
            State::Length { remaining: 0 } | State::UntilClose | State::Absent | State::Opaque => {}
        }
        self.state = State::Ended;
        Ok(())
    }

    /// No message is under way: before the first and after each end.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether the connection may go on after the last response, as its head said to the reader.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    fn check_start(&self, head: &Head, kind: Kind) -> Result<(), SendError> {
        if self.state != State::Ended {
            return Err(SendError::Unfinished);
        }
        if head.kind() == kind { Ok(()) } else { Err(SendError::WrongKind) }
    }
}

/// The framing that is written, and the state for the body behind it (RFC 9112, 6.3).
fn response_framing(status: StatusCode, body: BodyLength, to: ResponseTo) -> (BodyLength, State) {
    let is_tunnel = status == StatusCode::SWITCHING_PROTOCOLS
        || (to.method == RequestMethod::Connect && status.class() == 2);
    if is_tunnel {
        return (BodyLength::None, State::Opaque);
    }
    if status == StatusCode::NO_CONTENT {
        return (BodyLength::None, State::Absent);
    }
    let framed = match (body, to.version) {
        (BodyLength::Chunked, Version::Http10) => BodyLength::UntilClose,
        (BodyLength::UntilClose, Version::Http11 | Version::Http2) => BodyLength::Chunked,
        (body, _) => body,
    };
    if to.method == RequestMethod::Head || status == StatusCode::NOT_MODIFIED {
        return (framed, State::Absent);
    }
    match framed {
        // Nothing said about a body would mean "until the connection ends".
        BodyLength::None | BodyLength::Known(0) => (BodyLength::Known(0), State::Absent),
        BodyLength::Known(remaining) => (framed, State::Length { remaining }),
        BodyLength::Chunked => (framed, State::Chunked),
        BodyLength::UntilClose => (framed, State::UntilClose),
    }
}
