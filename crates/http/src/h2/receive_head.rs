//! HEADERS and CONTINUATION that come in (RFC 9113, 6.2, 6.10 and 8): requests, responses, trailers.
//!
//! A block is always decoded, whatever becomes of its stream: the decoder's table must follow the peer's.

use super::connection::{Connection, End, Reading};
use super::fields::{Facts, Fields, ReadAs};
use super::frame::{self, END_HEADERS, END_STREAM, FrameHead, LARGEST, PADDED, PRIORITY};
use super::receive::{Told, Turn};
use super::streams::{Memory, Receiving, Stream};
use super::{ConnectionError, ErrorCode, Reason, Role, Step, StreamId, write};
use crate::h1::RequestMethod;
use crate::head::Pseudo;
use crate::{BodyLength, Kind, StatusCode};

/// Dependency and weight, before the block of a HEADERS frame that has the flag (RFC 9113, 6.2). Ignored.
const PRIORITY_BYTES: usize = 5;

impl Connection {
    pub(super) fn headers(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream == 0 {
            return Err(ConnectionError::NotOnStreamZero);
        }
        let fragment = fragment(frame, payload)?;
        let end = if frame.has(END_STREAM) { End::Stream } else { End::No };
        if frame.has(END_HEADERS) {
            return self.block_complete(frame.stream, end, fragment, turn);
        }
        self.block.clear();
        self.append_to_block(fragment)?;
        self.reading = Reading::Block { stream: frame.stream, end, continuations: 0 };
        Ok(None)
    }

    pub(super) fn continuation(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        let Reading::Block { stream, end, continuations } = self.reading else {
            return Err(ConnectionError::UnaskedContinuation);
        };
        if continuations >= self.limits.continuations_max {
            return Err(ConnectionError::ContinuationFlood);
        }
        self.append_to_block(payload)?;
        if !frame.has(END_HEADERS) {
            self.reading = Reading::Block { stream, end, continuations: continuations + 1 };
            return Ok(None);
        }
        self.reading = Reading::Frame;
        let block = std::mem::take(&mut self.block);
        let told = self.block_complete(stream, end, &block, turn);
        self.put_back(block);
        told
    }

    fn append_to_block(&mut self, fragment: &[u8]) -> Result<(), ConnectionError> {
        if self.block.len() + fragment.len() > self.limits.header_block_bytes_max {
            return Err(ConnectionError::HeaderBlockTooLarge);
        }
        self.block.extend_from_slice(fragment);
        Ok(())
    }

    fn block_complete(&mut self, number: u32, end: End, block: &[u8], turn: &mut Turn<'_>) -> Told {
        self.floods.head_passed();
        if let Some(stream) = self.streams.find(number) {
            return self.head_on_open(stream, end, block, turn).map(Some);
        }
        match self.role {
            Role::Server if number.is_multiple_of(2) => Err(ConnectionError::InvalidStreamNumber),
            Role::Server if number > self.highest => self.request_head(number, end, block, turn),
            Role::Client if self.is_idle(number) => Err(ConnectionError::IdleStream),
            Role::Server | Role::Client => self.late_head(number, block, turn),
        }
    }

    /// A client opens a stream.
    fn request_head(&mut self, number: u32, end: End, block: &[u8], turn: &mut Turn<'_>) -> Told {
        if number > self.highest + 2 {
            self.skipped = (self.highest + 2, number - 2);
        }
        self.highest = number;
        if self.is_left_behind(number) {
            self.decode(ReadAs::Nothing, block, turn)?.ok();
            return Ok(None);
        }
        let is_full = self.streams.open() >= self.limits.streams_max
            || self.streams.held() >= self.limits.unreleased_streams_max;
        if is_full {
            self.decode(ReadAs::Nothing, block, turn)?.ok();
            return self.refuse_request(number, end, Reason::TooManyStreams, turn).map(Some);
        }
        let facts = match self.decode(ReadAs::Message(Kind::Request), block, turn)? {
            Ok(facts) => facts,
            Err(reason) => return self.refuse_request(number, end, reason, turn).map(Some),
        };
        let method = RequestMethod::from(turn.head.pseudo(Pseudo::Method));
        let mut stream = Stream::new(method, self.peer.window_bytes);
        if let Err(reason) = stream.expect_body(facts, end) {
            return self.refuse_request(number, end, reason, turn).map(Some);
        }
        let stream = self.streams.insert(number, stream);
        Ok(Some(Step::Head { consumed: turn.consumed, stream, end: end == End::Stream }))
    }

    /// A request that never becomes a stream. One that is only too long hears so in HTTP's own words, because whoever wrote it can do
    /// something about it; one that is malformed is not worth an answer (8.1.1).
    fn refuse_request(
        &mut self,
        number: u32,
        end: End,
        reason: Reason,
        turn: &mut Turn<'_>,
    ) -> Result<Step, ConnectionError> {
        self.count_reset(turn)?;
        let is_long = matches!(reason, Reason::HeaderListTooLarge | Reason::TooManyFields);
        if is_long {
            let start = write::begin(turn.out);
            write::refusal(StatusCode::HEADERS_TOO_LARGE, &mut self.encoder, turn.out);
            write::end(start, number, End::Stream, self.peer.frame_bytes_max as usize, turn.out);
        }
        if !is_long || end == End::No {
            let code = if is_long { ErrorCode::NO_ERROR } else { reason.code() };
            frame::put_rst_stream(number, code, turn.out);
            self.forget(number);
        }
        Ok(Step::Refused { consumed: turn.consumed, reason })
    }

    /// A response, or trailers.
    fn head_on_open(
        &mut self,
        stream: StreamId,
        end: End,
        block: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<Step, ConnectionError> {
        let receiving = self.streams.get(stream).map_or(Receiving::Ended, |stream| stream.receiving);
        let step = match receiving {
            Receiving::Head => self.response_head(stream, end, block, turn)?,
            Receiving::Body => self.trailers_head(stream, end, block, turn)?,
            Receiving::Ended => {
                self.decode(ReadAs::Nothing, block, turn)?.ok();
                Err(Reason::AfterEnd)
            }
        };
        match step {
            Ok(step) => Ok(step),
            Err(reason) => self.refuse(stream, reason, turn),
        }
    }

    fn response_head(
        &mut self,
        id: StreamId,
        end: End,
        block: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<Result<Step, Reason>, ConnectionError> {
        let facts = match self.decode(ReadAs::Message(Kind::Response), block, turn)? {
            Ok(facts) => facts,
            Err(reason) => return Ok(Err(reason)),
        };
        let (status, interim_max) = (turn.head.status(), self.limits.interim_max);
        let Some(stream) = self.streams.open_mut(id) else { return Ok(Err(Reason::AfterEnd)) };
        if let Err(reason) = stream.expect_response_body(status, facts, end, interim_max) {
            return Ok(Err(reason));
        }
        self.end_if_both_ended(id);
        Ok(Ok(Step::Head { consumed: turn.consumed, stream: id, end: end == End::Stream }))
    }

    fn trailers_head(
        &mut self,
        id: StreamId,
        end: End,
        block: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<Result<Step, Reason>, ConnectionError> {
        if let Err(reason) = self.decode(ReadAs::Message(Kind::Trailers), block, turn)? {
            return Ok(Err(reason));
        }
        let left = self.streams.get(id).and_then(|stream| stream.receive_left);
        if end == End::No {
            return Ok(Err(Reason::TrailersWithoutEnd));
        }
        if left.is_some_and(|left| left > 0) {
            return Ok(Err(Reason::LengthMismatch));
        }
        self.received_end(id);
        let consumed = turn.consumed;
        Ok(Ok(match turn.head.fields().next() {
            Some(_) => Step::Trailers { consumed, stream: id },
            // All of them had to be left out: a plain end.
            None => Step::Data { consumed, stream: id, data: consumed..consumed, end: true },
        }))
    }

    /// On a stream that is over.
    fn late_head(&mut self, number: u32, block: &[u8], turn: &mut Turn<'_>) -> Told {
        self.floods.late_frames.take(turn.now, ConnectionError::LateFrameFlood)?;
        self.decode(ReadAs::Nothing, block, turn)?.ok();
        if self.is_left_behind(number) || self.streams.memory(number) == Memory::ResetByUs {
            return Ok(None);
        }
        let (first, last) = self.skipped;
        let was_skipped = self.role == Role::Server && (first..=last).contains(&number);
        // 5.1.1: numbers that were passed over are used up, too.
        Err(if was_skipped {
            ConnectionError::InvalidStreamNumber
        } else {
            ConnectionError::HeadersOnClosedStream
        })
    }

    /// Decodes a block; the outer error ends the connection, the inner one the stream.
    fn decode(
        &mut self,
        read_as: ReadAs,
        block: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<Result<Facts, Reason>, ConnectionError> {
        let mut fields = Fields::new(read_as, turn.head, &self.limits);
        let decoded = self.decoder.decode(block, |field| fields.take(field));
        decoded.map_err(|_| ConnectionError::Compression)?;
        if fields.list_bytes() > self.limits.header_bomb_bytes_max {
            return Err(ConnectionError::HeaderBomb);
        }
        Ok(fields.finish())
    }
}

impl Stream {
    /// What a head says about the body that follows it.
    fn expect_body(&mut self, facts: Facts, end: End) -> Result<(), Reason> {
        self.receive_left = facts.content_length;
        (self.receiving, self.body_length) = match (end, facts.content_length) {
            (End::Stream, Some(1..)) => return Err(Reason::LengthMismatch),
            (End::Stream, Some(0)) => (Receiving::Ended, BodyLength::Known(0)),
            (End::Stream, None) => (Receiving::Ended, BodyLength::None),
            (End::No, Some(length)) => (Receiving::Body, BodyLength::Known(length)),
            (End::No, None) => (Receiving::Body, BodyLength::Chunked),
        };
        Ok(())
    }

    fn expect_response_body(
        &mut self,
        status: StatusCode,
        facts: Facts,
        end: End,
        interim_max: u32,
    ) -> Result<(), Reason> {
        if status.is_interim() {
            self.interim += 1;
            return match end {
                End::Stream => Err(Reason::InterimWithEnd),
                End::No if self.interim > interim_max => Err(Reason::TooManyInterim),
                End::No => Ok(()),
            };
        }
        // RFC 9110, 6.4.1: what such a response declares does not follow.
        let declared = facts.content_length.map_or(BodyLength::None, BodyLength::Known);
        self.is_bodiless = true;
        match (self.method, status.as_u16()) {
            (RequestMethod::Head, _) | (_, 304) => self.body_length = declared,
            (_, 204) => self.body_length = BodyLength::None,
            (RequestMethod::Connect, 200..=299) => {
                self.is_bodiless = false;
                return self.expect_body(Facts::default(), end);
            }
            _ => {
                self.is_bodiless = false;
                return self.expect_body(facts, end);
            }
        }
        self.receive_left = Some(0);
        self.receiving = if end == End::Stream { Receiving::Ended } else { Receiving::Body };
        Ok(())
    }
}

/// The piece of a block in a HEADERS frame, without padding and priority.
fn fragment(frame: FrameHead, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    let mut rest = payload;
    let mut padding = 0;
    if frame.has(PADDED) {
        let (first, behind) = rest.split_first().ok_or(ConnectionError::FrameSize)?;
        (padding, rest) = (usize::from(*first), behind);
    }
    if frame.has(PRIORITY) {
        rest = rest.get(PRIORITY_BYTES..).ok_or(ConnectionError::FrameSize)?;
    }
    let length = rest.len().checked_sub(padding).ok_or(ConnectionError::PaddingTooLong)?;
    debug_assert!(frame.stream <= LARGEST, "31 bits");
    Ok(&rest[..length])
}
