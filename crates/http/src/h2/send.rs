//! What goes out on streams: heads, bodies, trailers (RFC 9113, 8), as far as the peer's windows allow.

use super::connection::{Connection, End};
use super::frame::{self, END_STREAM, Kind, LARGEST};
use super::settings::{ConnectProtocol, FRAME_BYTES_DEFAULT};
use super::streams::{Life, Sending, Stream};
use super::{NotOpened, Role, SendError, StreamId, write};
use crate::h1::RequestMethod;
use crate::head::Pseudo;
use crate::{BodyLength, Head, Kind as HeadKind, StatusCode};

/// Client.
impl Connection {
    /// Whether [`Connection::request`] would get a stream. No: the peer's or our own limit of open streams is reached, either end
    /// is going away, or the numbers are used up.
    pub fn can_open(&self) -> bool {
        self.check_room().is_ok()
    }

    /// Opens a stream with this request. `content-length` is written from `body`, whatever the head says; `end`: no body follows.
    ///
    /// # Errors
    /// Nothing was written: the request can go another way.
    pub fn request(
        &mut self,
        head: &Head,
        body: BodyLength,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<StreamId, NotOpened> {
        debug_assert!(self.role == Role::Client, "a server opens no streams");
        self.check_room()?;
        if head.kind() != HeadKind::Request || head.pseudo(Pseudo::Method).is_empty() {
            return Err(NotOpened::WrongKind);
        }
        if !head.pseudo(Pseudo::Protocol).is_empty() && !self.peer_takes_connect_protocol() {
            return Err(NotOpened::NoConnectProtocol);
        }
        let method = RequestMethod::from(head.pseudo(Pseudo::Method));
        let length = match (body, method) {
            (BodyLength::Known(missing @ 1..), _) if end => return Err(NotOpened::TooShort { missing }),
            (BodyLength::Known(length), RequestMethod::Head | RequestMethod::Other) => Some(length),
            // RFC 9110, 9.3.6: what follows is the tunnel's.
            (_, RequestMethod::Connect) => None,
            (BodyLength::None | BodyLength::Chunked | BodyLength::UntilClose, _) => None,
        };
        let number = self.next_number;
        self.next_number += 2;
        let start = write::begin(out);
        write::request(head, length, &mut self.encoder, out);
        let is_end = if end { End::Stream } else { End::No };
        write::end(start, number, is_end, self.peer.frame_bytes_max as usize, out);
        self.floods.head_passed();
        let mut stream = Stream::new(method, self.peer.window_bytes);
        stream.send_left = length;
        stream.sending = if end { Sending::Ended } else { Sending::Body };
        Ok(self.streams.insert(number, stream))
    }

    /// The peer takes CONNECT with a protocol (RFC 8441).
    pub fn peer_takes_connect_protocol(&self) -> bool {
        self.peer.connect_protocol == ConnectProtocol::Taken
    }

    fn check_room(&self) -> Result<(), NotOpened> {
        if self.is_draining() || self.has_failed() {
            return Err(NotOpened::GoingAway);
        }
        if self.next_number > LARGEST {
            return Err(NotOpened::NumbersUsedUp);
        }
        let open_max = self.limits.streams_max.min(self.peer.streams_max as usize);
        let is_full =
            self.streams.open() >= open_max || self.streams.held() >= self.limits.unreleased_streams_max;
        if is_full { Err(NotOpened::Full) } else { Ok(()) }
    }
}

/// Server.
impl Connection {
    /// Writes an interim response (`end` false), or the final one. `content-length` is written from `body`. Where no body can be
    /// (to HEAD; 204, 304) the message ends with its head, and further bytes for it are dropped.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn response(
        &mut self,
        stream: StreamId,
        head: &Head,
        body: BodyLength,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let frame_bytes_max = self.peer.frame_bytes_max as usize;
        let found = self.sending(stream)?;
        match found.sending {
            Sending::Head => {}
            Sending::Body => return Err(SendError::SecondHead),
            Sending::Ended | Sending::EndedWithHead => return Err(SendError::Ended),
        }
        let status = head.status();
        if head.kind() != HeadKind::Response || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(SendError::WrongKind);
        }
        let (length, sending) = framing(status, found.method, body, end)?;
        (found.sending, found.send_left) = (sending, length);
        let is_end = if sending.is_ended() { End::Stream } else { End::No };
        let start = write::begin(out);
        write::response(head, length, &mut self.encoder, out);
        write::end(start, stream.number, is_end, frame_bytes_max, out);
        self.floods.head_passed();
        self.end_if_both_ended(stream);
        Ok(())
    }
}

/// Both.
impl Connection {
    /// Bytes that the stream's and the connection's windows let through now.
    pub fn capacity(&self, stream: StreamId) -> usize {
        let Some(found) = self.streams.get(stream) else { return 0 };
        match (found.sending, found.life) {
            (Sending::EndedWithHead, _) => usize::MAX, // dropped, so any number
            (Sending::Head | Sending::Body, Life::Open) => {
                usize::try_from(found.send_window.min(self.send_window)).unwrap_or(0)
            }
            (Sending::Ended, _) | (_, Life::Over) => 0,
        }
    }

    /// Writes as much of the body as the windows let through, and says how much that was. The message ends only if `end` and all
    /// was taken. After less than all was taken wait for [`Step::Writable`](super::Step::Writable).
    ///
    /// # Errors
    /// Nothing was written.
    pub fn data(
        &mut self,
        stream: StreamId,
        bytes: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, SendError> {
        let connection_window = self.send_window;
        let Some(found) = self.body_to_send(stream)? else { return Ok(bytes.len()) };
        let room = usize::try_from(found.send_window.min(connection_window)).unwrap_or(0);
        let taken = bytes.len().min(room);
        let ends = end && taken == bytes.len();
        if let Some(left) = found.send_left {
            let left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| SendError::TooLong { excess: bytes.len() as u64 - left })?;
            if ends && left > 0 {
                return Err(SendError::TooShort { missing: left });
            }
            found.send_left = Some(left + (bytes.len() - taken) as u64);
        }
        if taken == 0 && !ends {
            return Ok(0);
        }
        found.send_window -= taken as i64;
        if ends {
            found.sending = Sending::Ended;
        }
        self.send_window -= taken as i64;
        put_data(stream.number, &bytes[..taken], ends, out);
        self.floods.data_went(taken);
        if ends {
            self.end_if_both_ended(stream);
        }
        Ok(taken)
    }

    /// Ends the message, with trailers if there are any that may be sent.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn trailers(
        &mut self,
        stream: StreamId,
        trailers: Option<&Head>,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let Some(found) = self.body_to_send(stream)? else { return Ok(()) };
        if let Some(missing @ 1..) = found.send_left {
            return Err(SendError::TooShort { missing });
        }
        found.sending = Sending::Ended;
        match trailers.filter(|trailers| write::has_trailers(trailers)) {
            Some(trailers) => {
                let start = write::begin(out);
                write::trailers(trailers, &mut self.encoder, out);
                write::end(start, stream.number, End::Stream, self.peer.frame_bytes_max as usize, out);
            }
            None => put_data(stream.number, &[], true, out),
        }
        self.end_if_both_ended(stream);
        Ok(())
    }

    /// The stream whose body may go on; `None` if what is sent of it is dropped.
    fn body_to_send(&mut self, stream: StreamId) -> Result<Option<&mut Stream>, SendError> {
        if self.streams.get(stream).is_some_and(|stream| stream.sending == Sending::EndedWithHead) {
            return Ok(None);
        }
        let found = self.sending(stream)?;
        match found.sending {
            Sending::Head => Err(SendError::NoHead),
            Sending::Ended => Err(SendError::Ended),
            Sending::Body | Sending::EndedWithHead => Ok(Some(found)),
        }
    }

    fn sending(&mut self, stream: StreamId) -> Result<&mut Stream, SendError> {
        if self.has_failed() {
            return Err(SendError::Closed);
        }
        self.streams.open_mut(stream).ok_or(SendError::Closed)
    }
}

/// What a response's head declares, and what follows it.
fn framing(
    status: StatusCode,
    to: RequestMethod,
    body: BodyLength,
    end: bool,
) -> Result<(Option<u64>, Sending), SendError> {
    if status.is_interim() {
        return if end { Err(SendError::WrongKind) } else { Ok((None, Sending::Head)) };
    }
    let declared = match body {
        BodyLength::Known(length) => Some(length),
        BodyLength::None | BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    Ok(match (to, status.as_u16()) {
        (_, 204) => (None, Sending::EndedWithHead),
        (RequestMethod::Head, _) | (_, 304) => (declared, Sending::EndedWithHead),
        (RequestMethod::Connect, 200..=299) if end => (None, Sending::Ended),
        (RequestMethod::Connect, 200..=299) => (None, Sending::Body),
        _ => match (declared, end) {
            (Some(missing @ 1..), true) => return Err(SendError::TooShort { missing }),
            (_, true) => (declared, Sending::Ended),
            (_, false) => (declared, Sending::Body),
        },
    })
}

/// DATA frames: small ones, so that streams take turns, even if the peer allows larger ones. The last one may be empty.
fn put_data(stream: u32, bytes: &[u8], ends: bool, out: &mut Vec<u8>) {
    out.reserve(bytes.len() + frame::HEAD_BYTES);
    let mut rest = bytes;
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(FRAME_BYTES_DEFAULT));
        let flags = if ends && behind.is_empty() { END_STREAM } else { 0 };
        frame::put_head(piece.len(), Kind::Data, flags, stream, out);
        out.extend_from_slice(piece);
        rest = behind;
        if rest.is_empty() {
            return;
        }
    }
}
