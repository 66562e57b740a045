//! What [`Connection::advance`](super::Connection::advance) tells its driver.

use std::ops::Range;

use super::{ErrorCode, Reason};

/// A stream, as engine and driver name it: its number on the wire, and a small dense index for tables that the driver keeps beside
/// the engine's. An index is used again only after [`Connection::release`](super::Connection::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(super) number: u32,
    pub(super) index: u32,
}

impl StreamId {
    /// As it stands in frames: odd, never used again on this connection.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Below the number of streams that were ever held at once.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// The next thing that the input holds. `consumed` bytes of it are done with; they count from the input's first byte, as ranges do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more can be told before further bytes come.
    NeedMore { consumed: usize },
    /// The head is filled: with a request of a new stream (server), with an interim or the final response (client). `end`: no body
    /// follows.
    Head { consumed: usize, stream: StreamId, end: bool },
    /// A piece of the body: `input[data]`, empty only with `end`. Padding is accounted for; the driver says
    /// [`consumed`](super::Connection::consumed) for these bytes alone. A large frame is told in pieces, as it arrives.
    Data { consumed: usize, stream: StreamId, data: Range<usize>, end: bool },
    /// The head is filled with trailers, of which at least one is left; the message is over.
    Trailers { consumed: usize, stream: StreamId },
    /// The stream is over before its end, in both directions. It is still to be released.
    Reset { consumed: usize, stream: StreamId, reset: Reset },
    /// Server: a request was refused before it became a stream of the driver's. It was answered already (`RST_STREAM`, or 431);
    /// this is for logs and counters.
    Refused { consumed: usize, reason: Reason },
    /// More may be sent: on this stream, or (`None`) on any that was blocked; with `None` more streams may be opened, too.
    Writable { consumed: usize, stream: Option<StreamId> },
    /// The peer is going away: no further stream can be opened. Told once for each `GOAWAY`; streams above `last` follow as
    /// [`Step::Reset`].
    GoAway { consumed: usize, last: u32, code: ErrorCode },
}

impl Step {
    /// Bytes of the input that are done with.
    pub fn consumed(&self) -> usize {
        match self {
            Self::NeedMore { consumed }
            | Self::Head { consumed, .. }
            | Self::Data { consumed, .. }
            | Self::Trailers { consumed, .. }
            | Self::Reset { consumed, .. }
            | Self::Refused { consumed, .. }
            | Self::Writable { consumed, .. }
            | Self::GoAway { consumed, .. } => *consumed,
        }
    }
}

/// How a stream came to be over before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// As received or sent.
    pub code: ErrorCode,
    pub by: By,
    pub certainty: Certainty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Peer,
    /// What the peer sent on this stream was refused.
    Us(Reason),
}

/// Whether the peer may have acted on the request: what a retry must know (RFC 9113, 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It said that it did nothing: `REFUSED_STREAM`, or a `GOAWAY` whose last stream is below.
    NotProcessed,
    Unknown,
}
