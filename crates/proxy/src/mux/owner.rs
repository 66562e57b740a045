//! The turn of the loop of one HTTP/2 connection: write, read, and make way for those who were woken.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use meshwork_core::Instant;
use meshwork_http::h2::{ConnectionError, ErrorCode, Step, StreamId};

use super::slot::{PENDING_BYTES_MAX, PendingEnd};
use super::stream::OUTPUT_BYTES_MAX;
use super::{Broken, End, Inner, Life, Mux};
use crate::conn::{ConnError, Filled};
use crate::telemetry::Event;
use crate::worker::Worker;

/// Reads in one turn: a busy connection must not keep the worker's others waiting.
const READS_PER_TURN: usize = 2;

/// Batches written in one turn, for the same reason.
const WRITES_PER_TURN: usize = 2;

/// What one stream may put into a batch while others wait.
const QUANTUM_BYTES: usize = 16 * 1024;

/// Bytes that may wait for a peer that does not read before we read no more from it: it would have us write
/// answers (to PING, SETTINGS) without end.
const UNREAD_REPLIES_MAX: usize = 256 * 1024;

/// Why the owner's work is done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Over {
    /// All was said.
    #[error("closed")]
    Farewell,
    #[error("{0}")]
    Conn(#[from] ConnError),
    #[error("{0}")]
    Protocol(#[from] ConnectionError),
    #[error("the other end closed it")]
    Closed,
    #[error("{0}")]
    Failed(Arc<str>),
}

impl Over {
    /// A peer that breaks the protocol, or meets a limit, is told of in a metric and a log line.
    pub(crate) fn report(&self, with: impl std::fmt::Display, worker: &Worker) {
        match self {
            Self::Protocol(error) => {
                worker.registry.count(Event::Http2Protocol);
                tracing::warn!(%error, %with, "an HTTP/2 connection is given up");
            }
            Self::Failed(reason) => tracing::warn!(%reason, %with, "an HTTP/2 connection is given up"),
            Self::Farewell | Self::Closed | Self::Conn(_) => {
                tracing::debug!(over = %self, %with, "an HTTP/2 connection ended")
            }
        }
    }
}

impl Mux {
    /// Drives the connection to its end, and tells every stream's user. `between` is called in each turn,
    /// after what was received was handed out.
    pub(crate) async fn drive(&self, mut between: impl FnMut(&mut Context<'_>)) -> Over {
        let owned = Owned(self);
        let over = poll_fn(|cx| {
            let turned = self.0.borrow_mut().turn(cx);
            between(cx);
            turned
        })
        .await;
        self.end(match &over {
            Over::Protocol(ConnectionError::Http1) => Broken::Http1,
            over => Broken::Lost(over.to_string().into()),
        });
        drop(owned);
        self.farewell().await;
        over
    }

    /// Nobody shall wait for what will not come.
    fn end(&self, broken: Broken) {
        let mut inner = self.0.borrow_mut();
        if matches!(inner.life, Life::Over(_)) {
            return;
        }
        inner.life = Life::Over(broken.to_string().into());
        inner.slots.used().for_each(|slot| slot.break_off(broken.clone()));
        inner.slots.idle.drain(..).for_each(|seat| seat.wake());
        inner.awaiting_greeting.drain(..).for_each(Waker::wake);
    }

    async fn farewell(&self) {
        // GOAWAY, or TLS's farewell; a peer that is gone has no use for it.
        let closed = poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            let conn = &mut inner.conn;
            match conn.poll_flush(cx) {
                Poll::Ready(Ok(())) if conn.farewell().is_ok() => conn.poll_shutdown(cx),
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        });
        let _ = tokio::time::timeout(super::FAREWELL_MAX, closed).await;
    }
}

/// An owner's task may be dropped, or panic: its streams' users learn of it all the same.
struct Owned<'a>(&'a Mux);

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.0.end(Broken::Lost("its task was ended".into()));
    }
}

impl Inner {
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        match &mut self.owner {
            Some(owner) => owner.clone_from(cx.waker()),
            None => self.owner = Some(cx.waker().clone()),
        }
        self.woken = false;
        if let Life::Failed(reason) = &self.life {
            return Poll::Ready(Over::Failed(reason.clone()));
        }
        match self.write_and_read(cx) {
            Err(over) => Poll::Ready(over),
            Ok(()) if self.engine.is_finished() && self.conn.unsent() == 0 => Poll::Ready(Over::Farewell),
            Ok(()) => {
                self.conn.spare_output();
                Poll::Pending
            }
        }
    }

    fn write_and_read(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let written = self.write(cx)?;
        // What came with the handshake, or was read to find out the protocol, is here already; nothing more may
        // come before it is answered.
        if !self.greeted && !self.conn.input().is_empty() {
            self.take_in()?;
        }
        for _ in 0..READS_PER_TURN {
            if self.conn.unsent() > UNREAD_REPLIES_MAX {
                return Ok(());
            }
            match self.conn.poll_fill(cx) {
                Poll::Pending => {
                    // Replies wait for the answers of those who were just woken, and go out with them. A socket
                    // that takes no more wakes us itself.
                    if written.is_ready() && (self.conn.has_output() || !self.slots.queue.is_empty()) {
                        self.wake_owner();
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(Filled::More)) => {}
                Poll::Ready(Ok(Filled::End)) => return Err(Over::Closed),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
            self.take_in()?;
        }
        self.wake_owner();
        Ok(())
    }

    fn take_in(&mut self) -> Result<(), Over> {
        let now = self.clock.now();
        self.heard = now;
        self.take_apart(now)?;
        if !self.greeted {
            self.greeted = true;
            self.awaiting_greeting.drain(..).for_each(Waker::wake);
        }
        Ok(())
    }

    /// Encrypts and writes what was appended since the last turn, and what waited for room. Pending: the socket
    /// takes no more.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Over> {
        for _ in 0..WRITES_PER_TURN {
            self.fill_output();
            if self.conn.poll_flush(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            if self.slots.queue.is_empty() {
                return Ok(Poll::Ready(()));
            }
        }
        self.wake_owner();
        Ok(Poll::Ready(()))
    }

    /// Each stream that waits gives a piece in turn, as long as there is room.
    fn fill_output(&mut self) {
        while self.conn.unsent() < OUTPUT_BYTES_MAX {
            let Some(stream) = self.slots.queue.pop_front() else { return };
            let Self { engine, conn, slots, .. } = self;
            let Some(slot) = slots.get(stream) else { continue };
            slot.is_queued = false;
            let was_full = slot.pending_bytes() >= PENDING_BYTES_MAX;
            let rest = slot.pending_bytes();
            let piece = rest.min(QUANTUM_BYTES);
            let mut taken = 0;
            let with_end = piece == rest && matches!(slot.pending_end, Some(PendingEnd::WithData));
            if rest > 0 {
                let bytes = &slot.pending[slot.pending_start..slot.pending_start + piece];
                match engine.data(stream, bytes, with_end, conn.output()) {
                    Ok(count) => taken = count,
                    Err(error) => debug_assert!(false, "a body out of turn: {error}"),
                }
                slot.pending_start += taken;
            }
            if taken < piece {
                continue; // until credit comes
            }
            if taken == rest {
                slot.pending = Vec::new();
                slot.pending_start = 0;
                if let Some(PendingEnd::Trailers(trailers)) = slot.pending_end.take()
                    && let Err(error) = engine.trailers(stream, trailers.as_ref(), conn.output())
                {
                    debug_assert!(false, "an end out of turn: {error}");
                }
                slot.wake();
            } else {
                if was_full && slot.pending_bytes() < PENDING_BYTES_MAX {
                    slot.wake();
                }
                slots.enqueue(stream);
            }
        }
    }

    /// Hands out what was received.
    fn take_apart(&mut self, now: Instant) -> Result<(), Over> {
        loop {
            let Self { engine, conn, head, .. } = self;
            let (input, out) = conn.input_and_output();
            match engine.advance(input, head, now, out)? {
                Step::NeedMore { consumed } => {
                    conn.consume(consumed);
                    return Ok(());
                }
                Step::Head { consumed, stream, end } => {
                    self.conn.consume(consumed);
                    self.take_head(stream, end);
                }
                Step::Data { consumed, stream, data, end } => {
                    let moved = data.len();
                    if let Some(slot) = self.slots.get(stream) {
                        slot.take_data(&self.conn.input()[data], end);
                    }
                    self.conn.consume(consumed);
                    self.count(stream, moved);
                }
                Step::Trailers { consumed, stream } => {
                    self.conn.consume(consumed);
                    if let Some(slot) = self.slots.get(stream) {
                        slot.trailers = Some(std::mem::take(&mut self.head));
                        slot.ended = true;
                        slot.wake();
                    }
                }
                Step::Reset { consumed, stream, reset } => {
                    self.conn.consume(consumed);
                    self.take_reset(stream, Broken::Reset(reset));
                }
                Step::Refused { consumed, reason } => {
                    self.conn.consume(consumed);
                    self.registry.count(Event::Http2Refused);
                    tracing::warn!(%reason, "a request was refused before it was one");
                }
                Step::Writable { consumed, stream } => {
                    self.conn.consume(consumed);
                    match stream {
                        Some(stream) => self.slots.enqueue(stream),
                        None => self.slots.enqueue_all(),
                    }
                }
                Step::GoAway { consumed, last, code } => {
                    self.conn.consume(consumed);
                    if code != ErrorCode::NO_ERROR {
                        tracing::info!(%code, last, "the other end of an HTTP/2 connection gives it up");
                    }
                }
            }
        }
    }

    fn take_head(&mut self, stream: StreamId, end: bool) {
        let is_new = self.end == End::Server;
        if is_new {
            self.slots.open(stream);
            self.slots.arrived.push_back(stream);
            if let Some(seat) = self.slots.idle.pop() {
                seat.call();
                self.slots.called += 1;
            }
        }
        if let Some(slot) = self.slots.get(stream) {
            slot.take_head(&mut self.head);
            slot.ended = end;
            slot.wake();
        }
    }

    fn take_reset(&mut self, stream: StreamId, broken: Broken) {
        // Given up before anybody looked at it: its place is free at once. Or a client that opens streams and resets them, a
        // thousand in one read, would have us begin them all, and refuse those of others for want of places.
        if let Some(at) = self.slots.arrived.iter().rposition(|arrived| *arrived == stream) {
            self.slots.arrived.remove(at);
            return self.release(stream, Vec::new());
        }
        if let Some(slot) = self.slots.get(stream) {
            slot.break_off(broken);
        }
    }
}
