//! Frames of fixed form that come in (RFC 9113, 6.3 to 6.9): SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM, PRIORITY.

use super::connection::{Connection, Reading};
use super::frame::{self, ACK, FrameHead, LARGEST};
use super::receive::{Told, Turn};
use super::streams::Sending;
use super::{By, Certainty, ConnectionError, ErrorCode, Reason, Reset, Role, Step, settings};

impl Connection {
    pub(super) fn settings(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream != 0 {
            return Err(ConnectionError::OnlyOnStreamZero);
        }
        self.floods.settings.take(turn.now, ConnectionError::SettingsFlood)?;
        if frame.has(ACK) {
            return match payload {
                [] => {
                    self.decoder.set_limit(self.limits.header_table_bytes_max);
                    Ok(None)
                }
                _ => Err(ConnectionError::FrameSize),
            };
        }
        let is_first = self.reading == Reading::FirstFrame;
        let before = if is_first { self.peer.unbounded_streams() } else { self.peer };
        self.reading = Reading::Frame;
        let after = before.changed(payload, self.role)?;
        let growth = i64::from(after.window_bytes) - i64::from(self.peer.window_bytes);
        // The driver asks with `can_open`.
        let is_roomier = self.role == Role::Client && after.streams_max > self.peer.streams_max;
        self.peer = after;
        settings::header_table_sizes(payload).for_each(|size| self.encoder.set_peer_limit(size));
        self.change_windows(growth)?;
        frame::put_settings_ack(turn.out);
        Ok((growth > 0 || is_roomier).then_some(Step::Writable { consumed: turn.consumed, stream: None }))
    }

    /// 6.9.2: the change holds for streams that are open, too.
    fn change_windows(&mut self, growth: i64) -> Result<(), ConnectionError> {
        if growth == 0 {
            return Ok(());
        }
        for stream in self.streams.iter_open() {
            stream.send_window += growth;
            if stream.send_window > i64::from(LARGEST) {
                return Err(ConnectionError::InvalidWindowSetting);
            }
        }
        Ok(())
    }

    pub(super) fn ping_frame(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream != 0 {
            return Err(ConnectionError::OnlyOnStreamZero);
        }
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| ConnectionError::FrameSize)?;
        self.floods.pings.take(turn.now, ConnectionError::PingFlood)?;
        if frame.has(ACK) {
            self.ponged(payload, turn.now, turn.out);
        } else {
            Self::pong(payload, turn.out);
        }
        Ok(None)
    }

    pub(super) fn goaway(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream != 0 {
            return Err(ConnectionError::OnlyOnStreamZero);
        }
        let Some((last, rest)) = payload.split_first_chunk::<4>() else {
            return Err(ConnectionError::FrameSize);
        };
        let Some(code) = rest.first_chunk::<4>() else { return Err(ConnectionError::FrameSize) };
        self.floods.settings.take(turn.now, ConnectionError::SettingsFlood)?;
        // It may not grow (6.8); a peer that lets it grow is taken at its first word.
        let last = frame::number(last).min(self.goaway_received.unwrap_or(LARGEST));
        self.goaway_received = Some(last);
        if self.role == Role::Client {
            self.sweep = Some(0);
        }
        let code = ErrorCode(u32::from_be_bytes(*code));
        Ok(Some(Step::GoAway { consumed: turn.consumed, last, code }))
    }

    /// The next stream that the peer's GOAWAY takes away.
    pub(super) fn swept(&mut self, turn: &Turn<'_>) -> Option<Step> {
        let (from, last) = (self.sweep?, self.goaway_received?);
        let Some(stream) = self.streams.above(last, from) else {
            self.sweep = None;
            return None;
        };
        self.sweep = Some(stream.index() + 1);
        // A server that had begun to answer it all the same is not worth the other streams.
        self.streams.remember_reset(stream.number);
        self.end(stream);
        let reset =
            Reset { code: ErrorCode::REFUSED_STREAM, by: By::Peer, certainty: Certainty::NotProcessed };
        Some(Step::Reset { consumed: turn.consumed, stream, reset })
    }

    pub(super) fn window_update(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        let increment = frame::number(payload.try_into().map_err(|_| ConnectionError::FrameSize)?);
        self.floods.window_updates.take(turn.now, ConnectionError::WindowUpdateFlood)?;
        if frame.stream != 0 {
            return self.stream_window_update(frame.stream, increment, turn);
        }
        if increment == 0 {
            return Err(ConnectionError::ZeroIncrement);
        }
        let was_shut = self.send_window <= 0;
        self.send_window += i64::from(increment);
        if self.send_window > i64::from(LARGEST) {
            return Err(ConnectionError::WindowOverflow);
        }
        Ok(was_shut.then_some(Step::Writable { consumed: turn.consumed, stream: None }))
    }

    fn stream_window_update(&mut self, number: u32, increment: u32, turn: &mut Turn<'_>) -> Told {
        let Some(id) = self.streams.find(number) else {
            return if self.is_idle(number) { Err(ConnectionError::IdleStream) } else { Ok(None) };
        };
        let is_shut = self.send_window <= 0;
        let Some(stream) = self.streams.open_mut(id) else { return Ok(None) };
        let was_shut = stream.send_window <= 0;
        stream.send_window += i64::from(increment);
        let fault = match stream.send_window {
            _ if increment == 0 => Some(Reason::ZeroIncrement),
            window if window > i64::from(LARGEST) => Some(Reason::WindowOverflow),
            _ => None,
        };
        if let Some(reason) = fault {
            return self.refuse(id, reason, turn).map(Some);
        }
        let opens = was_shut && stream.send_window > 0 && !is_shut && stream.sending == Sending::Body;
        Ok(opens.then_some(Step::Writable { consumed: turn.consumed, stream: Some(id) }))
    }

    pub(super) fn rst_stream(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream == 0 {
            return Err(ConnectionError::NotOnStreamZero);
        }
        let code = <[u8; 4]>::try_from(payload).map_err(|_| ConnectionError::FrameSize)?;
        let code = ErrorCode(u32::from_be_bytes(code));
        let Some(stream) = self.streams.find(frame.stream) else {
            if self.is_idle(frame.stream) {
                return Err(ConnectionError::IdleStream);
            }
            self.floods.late_frames.take(turn.now, ConnectionError::LateFrameFlood)?;
            return Ok(None);
        };
        self.count_reset(turn)?;
        self.end(stream);
        let certainty = match code {
            ErrorCode::REFUSED_STREAM => Certainty::NotProcessed,
            _ => Certainty::Unknown,
        };
        let reset = Reset { code, by: By::Peer, certainty };
        Ok(Some(Step::Reset { consumed: turn.consumed, stream, reset }))
    }

    /// Ignored, but for its form (5.3.2 and 6.3).
    pub(super) fn priority(&mut self, frame: FrameHead, payload: &[u8], turn: &mut Turn<'_>) -> Told {
        if frame.stream == 0 {
            return Err(ConnectionError::NotOnStreamZero);
        }
        self.floods.priorities.take(turn.now, ConnectionError::PriorityFlood)?;
        if payload.len() == 5 {
            return Ok(None);
        }
        match self.streams.find(frame.stream) {
            Some(stream) => self.refuse(stream, Reason::InvalidPriority, turn).map(Some),
            // A stream that is not open cannot be reset.
            None => Err(ConnectionError::FrameSize),
        }
    }
}
