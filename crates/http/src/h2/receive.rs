//! What comes in: the preface, frames one by one, and DATA (RFC 9113, 3.4, 4 and 6.1).
//!
//! A frame other than DATA waits in the driver's input until it is complete. DATA is judged by its head, then told in pieces as
//! it comes. A step ends the turn; frames that need none are taken on the way.

use std::ops::ControlFlow;

use super::connection::{Connection, End, Reading};
use super::frame;
use super::frame::{ACK, END_STREAM, FrameHead, HEAD_BYTES, Kind, PADDED, PREFACE};
use super::streams::{Memory, Receiving};
use super::{By, Certainty, ConnectionError, ErrorCode, Reason, Reset, Role, Step, StreamId};
use crate::{Head, Instant};

/// What a turn works with beside the connection.
pub(super) struct Turn<'a> {
    pub(super) head: &'a mut Head,
    pub(super) now: Instant,
    pub(super) out: &'a mut Vec<u8>,
    /// How much of the input is done with once the current frame is.
    pub(super) consumed: usize,
}

/// What a complete frame came to: a step to tell, or nothing.
pub(super) type Told = Result<Option<Step>, ConnectionError>;

/// Go on from there, or tell.
type Progress = Result<ControlFlow<Step, usize>, ConnectionError>;

impl Connection {
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        head: &mut Head,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Step, ConnectionError> {
        let mut turn = Turn { head, now, out, consumed: 0 };
        if let Some(step) = self.swept(&turn) {
            return Ok(step);
        }
        let mut at = 0;
        loop {
            let progress = match self.reading {
                Reading::Frame | Reading::FirstFrame | Reading::Block { .. } => {
                    self.frame(input, at, &mut turn)?
                }
                Reading::Data { stream, data, padding, end } => {
                    self.data_piece(input, at, (stream, data, padding, end))
                }
                Reading::Preface => self.preface(input, at)?,
                Reading::Failed(error) => return Err(error),
            };
            match progress {
                ControlFlow::Continue(next) => at = next,
                ControlFlow::Break(step) => return Ok(step),
            }
        }
    }

    fn preface(&mut self, input: &[u8], at: usize) -> Progress {
        let known = input.len().min(PREFACE.len());
        if input[..known] != PREFACE[..known] {
            return Err(ConnectionError::InvalidPreface);
        }
        if known < PREFACE.len() {
            return need_more(at);
        }
        self.reading = Reading::FirstFrame;
        Ok(ControlFlow::Continue(PREFACE.len()))
    }

    fn frame(&mut self, input: &[u8], at: usize, turn: &mut Turn<'_>) -> Progress {
        let Some((head, rest)) = input[at..].split_first_chunk::<HEAD_BYTES>() else { return need_more(at) };
        if self.reading == Reading::FirstFrame && head.starts_with(b"HTTP/1.") {
            return Err(ConnectionError::Http1); // else it would be a frame of four megabytes
        }
        let frame = FrameHead::parse(head);
        self.check_frame(frame)?;
        let start = at + HEAD_BYTES;
        if frame.kind == Kind::Data {
            return self.data_frame(frame, rest, start, turn);
        }
        let Some(payload) = rest.get(..frame.length) else { return need_more(at) };
        turn.consumed = start + frame.length;
        Ok(match self.whole_frame(frame, payload, turn)? {
            Some(step) => ControlFlow::Break(step),
            None => ControlFlow::Continue(turn.consumed),
        })
    }

    /// What can be said of a frame before its payload is there.
    fn check_frame(&self, frame: FrameHead) -> Result<(), ConnectionError> {
        if frame.length > self.limits.frame_bytes_max {
            return Err(ConnectionError::FrameTooLarge);
        }
        match self.reading {
            Reading::FirstFrame if frame.kind != Kind::Settings || frame.has(ACK) => {
                Err(ConnectionError::FirstNotSettings)
            }
            Reading::Block { stream, .. } if frame.kind != Kind::Continuation || frame.stream != stream => {
                Err(ConnectionError::Interleaved)
            }
            _ => Ok(()),
        }
    }

    fn whole_frame(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        match frame.kind {
            Kind::Headers => self.headers(frame, payload, turn),
            Kind::Continuation => self.continuation(frame, payload, turn),
            Kind::WindowUpdate => self.window_update(frame, payload, turn),
            Kind::RstStream => self.rst_stream(frame, payload, turn),
            Kind::Settings => self.settings(frame, payload, turn),
            Kind::Ping => self.ping_frame(frame, payload, turn),
            Kind::GoAway => self.goaway(frame, payload, turn),
            Kind::Priority => self.priority(frame, payload, turn),
            Kind::PushPromise => Err(ConnectionError::Push),
            Kind::Unknown => {
                self.floods.unknown_frames.take(turn.now, ConnectionError::UnknownFrameFlood)?;
                Ok(None)
            }
            Kind::Data => unreachable!("DATA does not wait until it is whole"),
        }
    }

    /// A DATA frame begins: `rest` of the input is behind its head. All of it counts against both windows at once, padding included.
    fn data_frame(&mut self, frame: FrameHead, rest: &[u8], start: usize, turn: &mut Turn<'_>) -> Progress {
        if frame.stream == 0 {
            return Err(ConnectionError::NotOnStreamZero);
        }
        let (prefix, padding) = match (frame.has(PADDED), rest.first()) {
            (false, _) => (0, 0),
            (true, _) if frame.length == 0 => return Err(ConnectionError::FrameSize),
            (true, None) => return need_more(start - HEAD_BYTES),
            (true, Some(padding)) => (1, usize::from(*padding)),
        };
        let data = frame.length.checked_sub(prefix + padding).ok_or(ConnectionError::PaddingTooLong)?;
        let credit =
            self.receive_window.received(frame.length).map_err(|_| ConnectionError::WindowExceeded)?;
        if let Some(credit) = credit {
            frame::put_window_update(0, credit, turn.out);
        }
        let end = if frame.has(END_STREAM) { End::Stream } else { End::No };
        if data == 0 && end == End::No {
            self.floods.empty_data.take(turn.now, ConnectionError::EmptyDataFlood)?;
        } else {
            self.floods.data_came();
        }
        turn.consumed = start + prefix;
        let Some(stream) = self.streams.find(frame.stream) else {
            self.late_data(frame.stream, turn)?;
            self.reading = Reading::Data { stream: None, data, padding, end };
            return Ok(ControlFlow::Continue(turn.consumed));
        };
        match self.take_data(stream, frame.length, data, end) {
            Ok(()) => {
                // Nobody says of padding that it was consumed; a peer that sends nothing else would wait for ever.
                if data < frame.length && end == End::No {
                    self.credit(stream, turn.out);
                }
                self.reading = Reading::Data { stream: Some(stream), data, padding, end };
                Ok(ControlFlow::Continue(turn.consumed))
            }
            Err(reason) => {
                self.reading = Reading::Data { stream: None, data, padding, end };
                Ok(ControlFlow::Break(self.refuse(stream, reason, turn)?))
            }
        }
    }

    /// Whether the stream may have that DATA; accounts for it.
    fn take_data(&mut self, id: StreamId, length: usize, data: usize, end: End) -> Result<(), Reason> {
        let Some(stream) = self.streams.open_mut(id) else { return Ok(()) };
        match stream.receiving {
            Receiving::Head => return Err(Reason::DataBeforeHead),
            Receiving::Ended => return Err(Reason::AfterEnd),
            Receiving::Body => {}
        }
        stream.window.received(length).map_err(|_| Reason::WindowExceeded)?;
        stream.window.skipped(length - data);
        if let Some(left) = stream.receive_left {
            let left = left.checked_sub(data as u64).ok_or(match stream.is_bodiless {
                true => Reason::UnexpectedBody,
                false => Reason::LengthMismatch,
            })?;
            if end == End::Stream && left > 0 {
                return Err(Reason::LengthMismatch);
            }
            stream.receive_left = Some(left);
        }
        Ok(())
    }

    /// What there is of the current DATA frame.
    fn data_piece(
        &mut self,
        input: &[u8],
        at: usize,
        (stream, data, padding, end): (Option<StreamId>, usize, usize, End),
    ) -> ControlFlow<Step, usize> {
        let there = input.len() - at;
        // The driver may have reset or released the stream since the last piece.
        let Some(id) = stream.filter(|id| self.is_open(*id)) else {
            let (taken, left) = (there.min(data + padding), (data + padding).saturating_sub(there));
            self.reading = match left {
                0 => Reading::Frame,
                _ => Reading::Data { stream: None, data: 0, padding: left, end },
            };
            return match taken {
                0 if left > 0 => ControlFlow::Break(Step::NeedMore { consumed: at }),
                _ => ControlFlow::Continue(at + taken),
            };
        };
        let taken = there.min(data);
        let is_last = taken == data;
        if taken == 0 && !is_last {
            return ControlFlow::Break(Step::NeedMore { consumed: at });
        }
        self.reading = match (is_last, padding) {
            (true, 0) => Reading::Frame,
            (true, _) => Reading::Data { stream: None, data: 0, padding, end: End::No },
            (false, _) => Reading::Data { stream, data: data - taken, padding, end },
        };
        let end = is_last && end == End::Stream;
        if end {
            self.received_end(id);
        }
        match taken {
            0 if !end => ControlFlow::Continue(at),
            _ => {
                let data = at..at + taken;
                ControlFlow::Break(Step::Data { consumed: data.end, stream: id, data, end })
            }
        }
    }

    /// DATA on a stream that is not open.
    fn late_data(&mut self, number: u32, turn: &mut Turn<'_>) -> Result<(), ConnectionError> {
        if self.is_idle(number) {
            return Err(ConnectionError::IdleStream);
        }
        self.floods.late_frames.take(turn.now, ConnectionError::LateFrameFlood)?;
        if self.is_left_behind(number) || self.streams.memory(number) == Memory::ResetByUs {
            return Ok(());
        }
        // 5.1: its peer had ended it.
        frame::put_rst_stream(number, ErrorCode::STREAM_CLOSED, turn.out);
        self.streams.remember_reset(number);
        Ok(())
    }

    pub(super) fn received_end(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.open_mut(id) {
            stream.receiving = Receiving::Ended;
            self.end_if_both_ended(id);
        }
    }

    /// Resets a stream for what came on it.
    pub(super) fn refuse(
        &mut self,
        stream: StreamId,
        reason: Reason,
        turn: &mut Turn<'_>,
    ) -> Result<Step, ConnectionError> {
        self.count_reset(turn)?;
        let code = reason.code();
        self.reset(stream, code, turn.out);
        let reset = Reset { code, by: By::Us(reason), certainty: Certainty::Unknown };
        Ok(Step::Reset { consumed: turn.consumed, stream, reset })
    }

    /// A client made a stream that came to nothing. (A server's resets cost only itself: we open streams.)
    pub(super) fn count_reset(&mut self, turn: &Turn<'_>) -> Result<(), ConnectionError> {
        match self.role {
            Role::Server => self.floods.resets.take(turn.now, ConnectionError::RapidReset),
            Role::Client => Ok(()),
        }
    }

    /// No stream of that number was opened yet, or ever can be.
    pub(super) fn is_idle(&self, number: u32) -> bool {
        match self.role {
            Role::Client => number.is_multiple_of(2) || number >= self.next_number,
            Role::Server => number.is_multiple_of(2) || number > self.highest,
        }
    }

    /// Opened after our last GOAWAY: the peer will hear that it was not taken (6.8).
    pub(super) fn is_left_behind(&self, number: u32) -> bool {
        match (self.role, self.goaway_sent) {
            (Role::Server, super::connection::Sent::Final { last }) => number > last,
            _ => false,
        }
    }
}

fn need_more(at: usize) -> Progress {
    Ok(ControlFlow::Break(Step::NeedMore { consumed: at }))
}
