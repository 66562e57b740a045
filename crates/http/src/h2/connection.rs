//! One HTTP/2 connection: what its driver calls, at either end.

use super::{ConnectionError, ErrorCode, Limits, NotOpened, SendError, Step, StreamId};
use crate::{BodyLength, Head, Instant};

/// One connection with all of its streams. See the module's header for how it is driven.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
}

/// Beginning, and what comes in.
impl Connection {
    /// Appends the preface and our SETTINGS.
    pub fn client(limits: Limits, out: &mut Vec<u8>) -> Self {
        let _ = out;
        Self { limits }
    }

    /// Appends our SETTINGS; the input must begin with the client's preface.
    pub fn server(limits: Limits, out: &mut Vec<u8>) -> Self {
        let _ = out;
        Self { limits }
    }

    /// The next thing in `input`: all bytes that were not consumed. Replies are appended to `out`.
    ///
    /// # Errors
    /// The connection is over. `GOAWAY` with the reason is in `out`: flush it and close. Told again at each further call.
    pub fn advance(
        &mut self,
        input: &[u8],
        head: &mut Head,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Step, ConnectionError> {
        let _ = (input, head, now, out);
        Ok(Step::NeedMore { consumed: 0 })
    }
}

/// Client.
impl Connection {
    /// Whether [`Connection::request`] would get a stream. No: the peer's or our own limit of open streams is reached, either end
    /// is going away, or the numbers are used up.
    pub fn can_open(&self) -> bool {
        false
    }

    /// Opens a stream with this request. `content-length` is written from `body`, whatever the head says; `end`: no body follows.
    pub fn request(
        &mut self,
        head: &Head,
        body: BodyLength,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<StreamId, NotOpened> {
        let _ = (head, body, end, out);
        Err(NotOpened::Full)
    }

    /// The peer takes CONNECT with a protocol (RFC 8441).
    pub fn peer_takes_connect_protocol(&self) -> bool {
        false
    }
}

/// Server.
impl Connection {
    /// Writes an interim response (`end` false), or the final one. `content-length` is written from `body`. Where no body can be
    /// (to HEAD; 204, 304) the message ends with its head, and further bytes for it are dropped.
    pub fn response(
        &mut self,
        stream: StreamId,
        head: &Head,
        body: BodyLength,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let _ = (stream, head, body, end, out);
        Err(SendError::Closed)
    }
}

/// Both.
impl Connection {
    /// Of the message received on this stream: `None` ended with its head and declares no length, `Known` declares one (which, to
    /// HEAD and in a 304, does not follow), `Chunked` does not.
    pub fn body_length(&self, stream: StreamId) -> BodyLength {
        let _ = stream;
        BodyLength::None
    }

    /// Bytes that the stream's and the connection's windows let through now.
    pub fn capacity(&self, stream: StreamId) -> usize {
        let _ = stream;
        0
    }

    /// Writes as much of the body as the windows let through, and says how much that was. The message ends only if `end` and all
    /// was taken. After less than all was taken wait for [`Step::Writable`].
    pub fn data(
        &mut self,
        stream: StreamId,
        bytes: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, SendError> {
        let _ = (stream, bytes, end, out);
        Err(SendError::Closed)
    }

    /// Ends the message, with trailers if there are any that may be sent.
    pub fn trailers(
        &mut self,
        stream: StreamId,
        trailers: Option<&Head>,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let _ = (stream, trailers, out);
        Err(SendError::Closed)
    }

    /// The application took that many bytes of the stream's data: its peer may send as many more.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize, now: Instant, out: &mut Vec<u8>) {
        let _ = (stream, bytes, now, out);
    }

    /// Ends the stream in both directions, unless it is over. It is still to be released.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
        let _ = (stream, code, out);
    }

    /// The driver is done with this stream; it must say so for every one that it opened or was told of. A stream that is not over
    /// is reset: by a client with `CANCEL`; by a server with `NO_ERROR` if its response is complete (RFC 9113, 8.1), else with
    /// `INTERNAL_ERROR`. From now on the index may name another stream.
    pub fn release(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let _ = (stream, out);
    }

    /// Streams that are not over.
    pub fn open_streams(&self) -> usize {
        0
    }

    /// Asks whether the peer is there, unless an earlier such question is still open.
    pub fn ping(&mut self, now: Instant, out: &mut Vec<u8>) {
        let _ = (now, out);
    }

    /// When the question that is still unanswered was asked.
    pub fn ping_sent(&self) -> Option<Instant> {
        None
    }

    /// Starts to end the connection without losing a request. A server announces it, and takes streams that were on their way
    /// until its peer has heard of it; a client opens no more.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// Either end is going away: no further stream will be opened.
    pub fn is_draining(&self) -> bool {
        false
    }

    /// Going away, and no stream is open: flush and close.
    pub fn is_finished(&self) -> bool {
        let _ = &self.limits;
        false
    }
}
