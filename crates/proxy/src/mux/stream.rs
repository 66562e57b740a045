//! A user's hold on a stream: receives and sends one message each way. Dropped, the stream is given up: what
//! is not complete by then is reset, so that nobody at the other end works for nobody.

use std::rc::Rc;
use std::task::{Context, Poll};

use meshwork_http::h2::{Connection, ErrorCode, StreamId};
use meshwork_http::{BodyLength, Head};

use super::serve::Seat;
use super::slot::{PENDING_BYTES_MAX, PendingEnd, Slot};
use super::{BULK_BYTES, Broken, Inner, Life, Mux};
use crate::conn::Conn;
use crate::exchange::Step;

/// The connection's bytes that may wait to be written before streams keep theirs. A batch of so many, and
/// what encryption adds, still fits one of the worker's buffers.
pub(super) const OUTPUT_BYTES_MAX: usize = 48 * 1024;

pub(crate) struct Stream {
    pub(super) mux: Rc<Mux>,
    /// `None`: nothing was sent yet, or it could not be.
    id: Option<StreamId>,
    /// Received and taken out of the slot; consumed up to `start`.
    input: Vec<u8>,
    start: usize,
    /// Where its user waits for the next one, if it serves one after the other.
    pub(super) seat: Option<Rc<Seat>>,
}

impl Stream {
    /// For a request that is sent next.
    pub(crate) fn to_open(mux: Rc<Mux>) -> Self {
        Self { mux, id: None, input: Vec::new(), start: 0, seat: None }
    }

    /// A request that came.
    pub(super) fn served(mux: Rc<Mux>, id: StreamId) -> Self {
        Self { mux, id: Some(id), input: Vec::new(), start: 0, seat: None }
    }

    /// See [`Mux::takes_connect_protocol`].
    pub(crate) async fn takes_connect_protocol(&self) -> bool {
        self.mux.takes_connect_protocol().await
    }

    pub(crate) fn input(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Gives the sender credit for what was taken.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.input.len(), "consumed more than was received");
        let Some(id) = self.id else { return };
        let mut inner = self.mux.0.borrow_mut();
        let now = inner.clock.now();
        let Inner { engine, conn, .. } = &mut *inner;
        let before = conn.unsent();
        engine.consumed(id, count, now, conn.output());
        let is_credit_due = conn.unsent() > before;
        if is_credit_due {
            inner.wake_owner();
        } else {
            conn.spare_output();
        }
    }

    pub(crate) fn body_length(&self) -> BodyLength {
        self.id.map_or(BodyLength::None, |id| self.mux.0.borrow().engine.body_length(id))
    }

    /// Nothing is still to come but what was told already.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(id) = self.id else { return false };
        let mut inner = self.mux.0.borrow_mut();
        let over = |slot: &mut Slot| slot.ended && slot.input.is_empty() && slot.trailers.is_none();
        inner.slots.get(id).is_some_and(over)
    }

    pub(crate) fn poll_step(&mut self, head: &mut Head, cx: &mut Context<'_>) -> Poll<Result<Step, Broken>> {
        let Some(id) = self.id else { return Poll::Ready(Err(Broken::NotOpened)) };
        if self.start < self.input.len() {
            let left = self.input.len() - self.start;
            let last = self.has_ended();
            return Poll::Ready(Ok(Step::Data { data: 0..left, consumed: left, last }));
        }
        let mut inner = self.mux.0.borrow_mut();
        let Some(slot) = inner.slots.get(id) else { return Poll::Ready(Err(Broken::NotOpened)) };
        if slot.give_head(head) {
            return Poll::Ready(Ok(Step::Head));
        }
        if !slot.input.is_empty() {
            self.input.clear();
            self.start = 0;
            std::mem::swap(&mut self.input, &mut slot.input);
            let last = slot.ended && slot.trailers.is_none();
            let length = self.input.len();
            return Poll::Ready(Ok(Step::Data { data: 0..length, consumed: length, last }));
        }
        if let Some(trailers) = slot.trailers.take() {
            *head = trailers;
            return Poll::Ready(Ok(Step::Trailers));
        }
        if slot.ended {
            return Poll::Ready(Ok(Step::End));
        }
        // Behind what came before it: a reader that sees none of an answer takes its request for unread.
        if let Some(broken) = &slot.broken {
            return Poll::Ready(Err(broken.clone()));
        }
        slot.waits(cx);
        Poll::Pending
    }

    /// Ready: the client gave the stream up.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(id) = self.id else { return Poll::Ready(()) };
        match self.mux.0.borrow_mut().slots.get(id) {
            Some(slot) if slot.broken.is_none() => {
                slot.waits(cx);
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Opens the stream. If that is not possible, `poll_step` says so.
    pub(crate) fn send_request(&mut self, head: &Head, length: BodyLength, over: bool) {
        let mut inner = self.mux.0.borrow_mut();
        if let Life::Failed(reason) | Life::Over(reason) = &inner.life {
            // Not even the connection took it.
            tracing::debug!(%reason, "a request found its connection gone");
            return;
        }
        let Inner { engine, conn, slots, .. } = &mut *inner;
        match engine.request(head, length, over, conn.output()) {
            Ok(id) => {
                slots.open(id).said_end = over;
                self.id = Some(id);
                inner.wake_owner();
            }
            Err(refused) => tracing::debug!(%refused, "a request found its connection full"),
        }
    }

    pub(crate) fn send_response(&mut self, head: &Head, length: BodyLength, over: bool) {
        self.send(|engine, conn, id, slot| {
            slot.said_end = over;
            let sent = engine.response(id, head, length, over, conn.output());
            debug_assert!(sent.is_ok(), "an answer out of turn: {sent:?}");
        });
    }

    /// What neither window nor connection takes now, waits in the slot.
    pub(crate) fn send_data(&mut self, piece: &[u8], last: bool) {
        self.send(|engine, conn, id, slot| {
            if slot.said_end {
                return;
            }
            let mut rest = piece;
            if !slot.has_pending() && conn.unsent() < OUTPUT_BYTES_MAX {
                match engine.data(id, piece, last, conn.output()) {
                    Ok(taken) => rest = &piece[taken..],
                    Err(error) => debug_assert!(false, "a body out of turn: {error}"),
                }
                if rest.is_empty() {
                    slot.said_end |= last;
                    return;
                }
            }
            slot.said_end |= last;
            slot.keep_pending(rest);
            if last {
                slot.pending_end = Some(PendingEnd::WithData);
            }
        });
        let Some(id) = self.id else { return };
        let mut inner = self.mux.0.borrow_mut();
        inner.slots.enqueue(id);
        inner.count(id, piece.len());
    }

    /// The message's end; nothing if it was said already.
    pub(crate) fn send_end(&mut self, trailers: Option<&Head>) {
        self.send(|engine, conn, id, slot| {
            if std::mem::replace(&mut slot.said_end, true) {
                return;
            }
            if slot.has_pending() {
                slot.pending_end = Some(PendingEnd::Trailers(trailers.cloned()));
            } else if let Err(error) = engine.trailers(id, trailers, conn.output()) {
                debug_assert!(false, "an end out of turn: {error}");
            }
        });
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pending(|slot| slot.pending_bytes() >= PENDING_BYTES_MAX)
    }

    pub(crate) fn is_flushed(&self) -> bool {
        !self.pending(|slot| slot.has_pending())
    }

    /// Ready once all that was sent is the connection's. Error: the other end takes no more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(id) = self.id else { return Poll::Ready(Err(Broken::NotOpened)) };
        let mut inner = self.mux.0.borrow_mut();
        let Some(slot) = inner.slots.get(id) else { return Poll::Ready(Err(Broken::NotOpened)) };
        if let Some(broken) = &slot.broken {
            return Poll::Ready(Err(broken.clone()));
        }
        if !slot.has_pending() {
            return Poll::Ready(Ok(()));
        }
        slot.waits(cx);
        Poll::Pending
    }

    pub(crate) fn reset(&mut self, code: ErrorCode) {
        self.send(|engine, conn, id, _| engine.reset(id, code, conn.output()));
    }

    fn pending(&self, ask: impl FnOnce(&Slot) -> bool) -> bool {
        let Some(id) = self.id else { return false };
        self.mux.0.borrow_mut().slots.get(id).is_some_and(|slot| ask(slot))
    }

    /// Appends to the connection's output; nothing on a stream that is over.
    fn send(&mut self, append: impl FnOnce(&mut Connection, &mut Conn, StreamId, &mut Slot)) {
        let Some(id) = self.id else { return };
        let mut inner = self.mux.0.borrow_mut();
        let Inner { engine, conn, slots, .. } = &mut *inner;
        let Some(slot) = slots.get(id).filter(|slot| slot.broken.is_none()) else { return };
        append(engine, conn, id, slot);
        inner.wake_owner();
    }
}

impl Stream {
    /// Holds another stream, after `close`.
    pub(super) fn take(&mut self, id: StreamId) {
        (self.id, self.start) = (Some(id), 0);
    }

    /// Lets go of the stream: reset, if a message is not whole.
    pub(super) fn close(&mut self) {
        if let Some(id) = self.id.take() {
            self.mux.0.borrow_mut().release(id, std::mem::take(&mut self.input));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Bytes that a stream moved, either way.
    pub(super) fn count(&mut self, id: StreamId, bytes: usize) {
        let Some(slot) = self.slots.get(id) else { return };
        let before = slot.moved;
        slot.moved += bytes as u64;
        if before <= BULK_BYTES && slot.moved > BULK_BYTES {
            self.bulk += 1;
        }
    }

    pub(super) fn release(&mut self, id: StreamId, input: Vec<u8>) {
        let Self { engine, conn, slots, .. } = self;
        let Some(slot) = slots.get(id) else { return };
        if slot.moved > BULK_BYTES {
            self.bulk -= 1;
        }
        slot.keep(input);
        slots.close(id);
        engine.release(id, conn.output());
        self.wake_owner();
    }
}
