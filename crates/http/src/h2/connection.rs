//! One HTTP/2 connection: what it knows, and what its driver calls beside sending (`send.rs`).

use super::flood::Floods;
use super::frame::{self, ACK, LARGEST};
use super::hpack::{self, Decoder, Encoder};
use super::settings::{self, PeerSettings};
use super::streams::{Life, Receiving, Streams};
use super::window::{ConnectionWindow, Growth, WINDOW_BYTES_DEFAULT};
use super::{ConnectionError, ErrorCode, Limits, Role, Step, StreamId};
use crate::{BodyLength, Head, Instant};

/// One connection with all of its streams. See the module's header for how it is driven.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) reading: Reading,
    pub(super) streams: Streams,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// A header block's pieces, while it comes in several frames.
    pub(super) block: Vec<u8>,
    pub(super) peer: PeerSettings,
    /// What the peer lets us send on all streams; never below zero, as SETTINGS do not change it.
    pub(super) send_window: i64,
    pub(super) receive_window: ConnectionWindow,
    pub(super) growth: Growth,
    /// Our PING that is not answered yet.
    ping_sent: Option<Instant>,
    pub(super) floods: Floods,
    /// Client: the next stream's.
    pub(super) next_number: u32,
    /// Server: the client's streams up to here were used, or passed over.
    pub(super) highest: u32,
    /// The last numbers that a client passed over: from, to.
    pub(super) skipped: (u32, u32),
    pub(super) goaway_sent: Sent,
    /// The last stream that the peer's GOAWAY leaves.
    pub(super) goaway_received: Option<u32>,
    /// Streams at or behind this index that GOAWAY takes away are still to be told.
    pub(super) sweep: Option<usize>,
}

/// What the input's next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The client's preface.
    Preface,
    /// The peer's first frame, which must be SETTINGS.
    FirstFrame,
    Frame,
    /// A DATA frame's payload: `data` bytes of the body, then padding. Without a stream nobody wants them.
    Data {
        stream: Option<StreamId>,
        data: usize,
        padding: usize,
        end: End,
    },
    /// Between the frames of a header block.
    Block {
        stream: u32,
        end: End,
        continuations: usize,
    },
    Failed(ConnectionError),
}

/// Whether a frame ends its sender's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stream,
    No,
}

/// Our GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    No,
    /// A server's warning: streams that were on their way are still taken.
    Announced,
    /// Streams above this one are not.
    Final {
        last: u32,
    },
}

/// What our PINGs carry, to tell them apart.
const PING: [u8; 8] = *b"meshwork";
const PING_DRAIN: [u8; 8] = *b"draining";

/// A block's buffer is given back if it grew beyond what a usual one needs.
const BLOCK_KEPT_BYTES: usize = 4 * 1024;

/// Beginning, and what comes in (`receive.rs`).
impl Connection {
    /// Appends the preface and our SETTINGS.
    pub fn client(limits: Limits, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(frame::PREFACE);
        Self::new(Role::Client, limits, Reading::FirstFrame, out)
    }

    /// Appends our SETTINGS; the input must begin with the client's preface.
    pub fn server(limits: Limits, out: &mut Vec<u8>) -> Self {
        Self::new(Role::Server, limits, Reading::Preface, out)
    }

    fn new(role: Role, limits: Limits, reading: Reading, out: &mut Vec<u8>) -> Self {
        settings::announce(role, &limits, out);
        let (receive_window, growth) = ConnectionWindow::new(limits.connection_window_bytes);
        if let Some(growth) = growth {
            frame::put_window_update(0, growth, out);
        }
        Self {
            role,
            limits,
            reading,
            streams: Streams::new(),
            // A smaller table than the default holds only once the peer has acknowledged it.
            decoder: Decoder::new(limits.header_table_bytes_max.max(hpack::TABLE_BYTES_DEFAULT)),
            encoder: Encoder::new(limits.header_table_bytes_max),
            block: Vec::new(),
            peer: PeerSettings::default(),
            send_window: i64::from(WINDOW_BYTES_DEFAULT),
            receive_window,
            growth: Growth::default(),
            ping_sent: None,
            floods: Floods::new(&limits),
            next_number: 1,
            highest: 0,
            skipped: (0, 0),
            goaway_sent: Sent::No,
            goaway_received: None,
            sweep: None,
        }
    }

    /// The next thing in `input`: all bytes that were not consumed. Replies are appended to `out`. Ask again, with the bytes that are
    /// left, until [`Step::NeedMore`].
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
        if let Reading::Failed(error) = self.reading {
            return Err(error);
        }
        self.receive(input, head, now, out).inspect_err(|error| {
            frame::put_goaway(self.last_processed(), error.code(), out);
            self.reading = Reading::Failed(*error);
        })
    }
}

/// Streams.
impl Connection {
    /// Of the message received on this stream: `None` ended with its head and declares no length, `Known` declares one (which, to
    /// HEAD and in a 304, does not follow), `Chunked` does not.
    pub fn body_length(&self, stream: StreamId) -> BodyLength {
        self.streams.get(stream).map_or(BodyLength::None, |stream| stream.body_length)
    }

    /// The application took that many bytes of the stream's data: its peer may send as many more.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize, now: Instant, out: &mut Vec<u8>) {
        if self.has_failed() {
            return;
        }
        let Some(found) = self.streams.open_mut(stream) else { return };
        match found.rest_fits_window() {
            true => found.window.skipped(bytes),
            false => found.window.taken(bytes, now, &mut self.growth, &self.limits),
        }
        // Only here: a connection of small messages never needs to know, and is spared the PING.
        if self.credit(stream, out) && self.growth.is_stale(now) {
            self.ping(now, out);
        }
    }

    /// Tells the peer what more it may send, if that is worth a frame.
    pub(super) fn credit(&mut self, stream: StreamId, out: &mut Vec<u8>) -> bool {
        let Some(found) = self.streams.open_mut(stream) else { return false };
        if found.receiving == Receiving::Ended || found.rest_fits_window() {
            return false;
        }
        let Some(credit) = found.window.credit() else { return false };
        frame::put_window_update(stream.number, credit, out);
        true
    }

    /// Ends the stream in both directions, unless it is over. It is still to be released.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
        if self.is_open(stream) {
            // After our last GOAWAY nothing is said.
            if !self.has_failed() {
                frame::put_rst_stream(stream.number, code, out);
            }
            self.forget(stream.number);
            self.end(stream);
        }
    }

    /// The driver is done with this stream; it must say so for every one that it opened or was told of. A stream that is not over
    /// is reset: by a client with `CANCEL`; by a server with `NO_ERROR` if its response is complete (RFC 9113, 8.1), else with
    /// `INTERNAL_ERROR`. From now on the index may name another stream.
    pub fn release(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let answered = self.streams.get(stream).is_some_and(|stream| stream.sending.is_ended());
        let code = match self.role {
            Role::Client => ErrorCode::CANCEL,
            Role::Server if answered => ErrorCode::NO_ERROR,
            Role::Server => ErrorCode::INTERNAL_ERROR,
        };
        self.reset(stream, code, out);
        self.streams.release(stream);
    }

    /// Streams that are not over.
    pub fn open_streams(&self) -> usize {
        self.streams.open()
    }

    pub(super) fn is_open(&self, stream: StreamId) -> bool {
        self.streams.get(stream).is_some_and(|stream| stream.life == Life::Open)
    }

    /// We reset that stream, and its peer does not know yet.
    pub(super) fn forget(&mut self, number: u32) {
        self.streams.remember_reset(number);
        self.floods.stream_reset();
    }

    /// The stream is over.
    pub(super) fn end(&mut self, stream: StreamId) {
        let growth = self.streams.end(stream);
        self.growth.give_back(growth);
    }

    /// One direction has ended; with the other the stream is over.
    pub(super) fn end_if_both_ended(&mut self, stream: StreamId) {
        let Some(found) = self.streams.open_mut(stream) else { return };
        if found.receiving == Receiving::Ended && found.sending.is_ended() {
            self.floods.stream_completed();
            self.end(stream);
        }
    }
}

/// The connection's life.
impl Connection {
    /// Asks whether the peer is there, unless an earlier such question is still open.
    pub fn ping(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.ping_sent.is_none() && !self.has_failed() {
            self.ping_sent = Some(now);
            frame::put_ping(0, PING, out);
        }
    }

    /// When the question that is still unanswered was asked.
    pub fn ping_sent(&self) -> Option<Instant> {
        self.ping_sent
    }

    /// Starts to end the connection without losing a request. A server announces it, and takes streams that were on their way
    /// until its peer has heard of it (RFC 9113, 6.8); a client opens no more.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        if self.goaway_sent != Sent::No || self.has_failed() {
            return;
        }
        match self.role {
            Role::Client => {
                frame::put_goaway(0, ErrorCode::NO_ERROR, out);
                self.goaway_sent = Sent::Final { last: 0 };
            }
            Role::Server => {
                frame::put_goaway(LARGEST, ErrorCode::NO_ERROR, out);
                frame::put_ping(0, PING_DRAIN, out);
                self.goaway_sent = Sent::Announced;
            }
        }
    }

    /// Either end is going away: no further stream will be opened.
    pub fn is_draining(&self) -> bool {
        self.goaway_sent != Sent::No || self.goaway_received.is_some()
    }

    /// Going away, and no stream is open: flush and close.
    pub fn is_finished(&self) -> bool {
        let is_leaving = matches!(self.goaway_sent, Sent::Final { .. }) || self.goaway_received.is_some();
        is_leaving && self.streams.open() == 0
    }

    /// A PING's answer came. Others' answers are no answers of ours and mean nothing.
    pub(super) fn ponged(&mut self, payload: [u8; 8], now: Instant, out: &mut Vec<u8>) {
        match (payload, self.ping_sent, self.goaway_sent) {
            (PING, Some(sent), _) => {
                self.growth.measured(now.since(sent), now);
                self.ping_sent = None;
            }
            (PING_DRAIN, _, Sent::Announced) => {
                self.goaway_sent = Sent::Final { last: self.highest };
                frame::put_goaway(self.highest, ErrorCode::NO_ERROR, out);
            }
            _ => {}
        }
    }

    pub(super) fn pong(payload: [u8; 8], out: &mut Vec<u8>) {
        frame::put_ping(ACK, payload, out);
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.reading, Reading::Failed(_))
    }

    /// What a GOAWAY says that we have looked at: the last of its streams.
    fn last_processed(&self) -> u32 {
        match (self.role, self.goaway_sent) {
            (Role::Client, _) => 0, // servers open none: pushes are off
            (Role::Server, Sent::Final { last }) => last,
            (Role::Server, Sent::No | Sent::Announced) => self.highest,
        }
    }

    /// The block's buffer is done with.
    pub(super) fn put_back(&mut self, mut block: Vec<u8>) {
        block.clear();
        if block.capacity() <= BLOCK_KEPT_BYTES {
            self.block = block;
        }
    }
}
