//! What waits for a stream's user, and what its user has waiting to be sent. One slot for each stream, at
//! the index that the engine gave it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use meshwork_http::Head;
use meshwork_http::h2::StreamId;

use super::Broken;
use super::serve::Seat;

/// Bytes of a stream that may wait for its window, or for the connection, before its user must wait.
pub(super) const PENDING_BYTES_MAX: usize = 32 * 1024;

/// A slot's buffers stay for its next stream up to this size: a hundred streams with small bodies hold
/// about as much as one connection's buffer.
const KEPT_BYTES_MAX: usize = 4 * 1024;

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// Streams that have bytes waiting and, as far as is known, credit.
    pub(super) queue: VecDeque<StreamId>,
    /// Server: streams whose head has come and whom nobody serves yet.
    pub(super) arrived: VecDeque<StreamId>,
    /// Server: tasks that wait for a stream to serve.
    pub(super) idle: Vec<Rc<Seat>>,
    /// Server: tasks that were called to serve one of those that have arrived, and have not looked yet.
    pub(super) called: usize,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) stream: Option<StreamId>,
    /// The first of those that wait; kept when it is taken, so that its buffers are used again.
    pub(super) head: Head,
    pub(super) head_waits: bool,
    /// Rare: interim heads that came faster than they were taken.
    pub(super) more_heads: VecDeque<Head>,
    pub(super) input: Vec<u8>,
    pub(super) trailers: Option<Head>,
    /// All of the message was received.
    pub(super) ended: bool,
    /// The stream is over; nothing can be sent, and what was not received whole never will be.
    pub(super) broken: Option<Broken>,
    /// To be sent from `pending_start` on, once there is credit and room.
    pub(super) pending: Vec<u8>,
    pub(super) pending_start: usize,
    pub(super) pending_end: Option<PendingEnd>,
    /// The user said that nothing follows.
    pub(super) said_end: bool,
    pub(super) is_queued: bool,
    pub(super) moved: u64,
    user: Option<Waker>,
}

pub(super) enum PendingEnd {
    WithData,
    Trailers(Option<Head>),
}

impl Slots {
    /// Makes the slot a new stream's.
    pub(super) fn open(&mut self, stream: StreamId) -> &mut Slot {
        let index = stream.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        debug_assert!(slot.stream.is_none(), "the engine uses an index again before it was released");
        slot.stream = Some(stream);
        slot
    }

    /// The stream's slot, as long as it has a user.
    pub(super) fn get(&mut self, stream: StreamId) -> Option<&mut Slot> {
        self.slots.get_mut(stream.index()).filter(|slot| slot.stream == Some(stream))
    }

    pub(super) fn used(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.stream.is_some())
    }

    /// Has the owner send what the stream has waiting.
    pub(super) fn enqueue(&mut self, stream: StreamId) {
        if let Some(slot) = self.get(stream)
            && slot.has_pending()
            && !slot.is_queued
        {
            slot.is_queued = true;
            self.queue.push_back(stream);
        }
    }

    /// Credit for the whole connection came: whoever waits may try.
    pub(super) fn enqueue_all(&mut self) {
        let Self { slots, queue, .. } = self;
        for slot in slots.iter_mut().filter(|slot| slot.has_pending() && !slot.is_queued) {
            if let Some(stream) = slot.stream {
                slot.is_queued = true;
                queue.push_back(stream);
            }
        }
    }

    /// Its user is done with it.
    pub(super) fn close(&mut self, stream: StreamId) {
        if let Some(slot) = self.get(stream) {
            slot.clear();
        }
    }
}

impl Slot {
    pub(super) fn wake(&mut self) {
        if let Some(user) = self.user.take() {
            user.wake();
        }
    }

    pub(super) fn waits(&mut self, cx: &Context<'_>) {
        match &mut self.user {
            Some(user) => user.clone_from(cx.waker()),
            None => self.user = Some(cx.waker().clone()),
        }
    }

    /// Takes the head that the engine just decoded.
    pub(super) fn take_head(&mut self, decoded: &mut Head) {
        if self.head_waits {
            self.more_heads.push_back(std::mem::take(decoded));
        } else {
            std::mem::swap(&mut self.head, decoded);
            self.head_waits = true;
        }
    }

    /// Gives the next head, for one whose buffers can be used again.
    pub(super) fn give_head(&mut self, to: &mut Head) -> bool {
        if !self.head_waits {
            return false;
        }
        std::mem::swap(&mut self.head, to);
        match self.more_heads.pop_front() {
            Some(next) => self.head = next,
            None => self.head_waits = false,
        }
        true
    }

    pub(super) fn take_data(&mut self, data: &[u8], end: bool) {
        self.input.extend_from_slice(data);
        self.ended = end;
        self.wake();
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending_start < self.pending.len() || self.pending_end.is_some()
    }

    /// Has `bytes` wait to be sent.
    pub(super) fn keep_pending(&mut self, bytes: &[u8]) {
        // What was sent goes, once it is as much as may wait: a long body never drains whole.
        if self.pending_start >= PENDING_BYTES_MAX {
            self.pending.drain(..self.pending_start);
            self.pending_start = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len() - self.pending_start
    }

    pub(super) fn break_off(&mut self, broken: Broken) {
        if self.broken.is_none() {
            self.broken = Some(broken);
        }
        self.pending = Vec::new();
        self.pending_start = 0;
        self.pending_end = None;
        self.wake();
    }

    /// Takes back a user's buffer for the next stream.
    pub(super) fn keep(&mut self, mut input: Vec<u8>) {
        if input.capacity() <= KEPT_BYTES_MAX && self.input.capacity() == 0 {
            input.clear();
            self.input = input;
        }
    }

    fn clear(&mut self) {
        let (mut head, mut input) = (std::mem::take(&mut self.head), std::mem::take(&mut self.input));
        input.clear();
        if input.capacity() > KEPT_BYTES_MAX {
            input = Vec::new();
        }
        if head.capacity() > 2 * KEPT_BYTES_MAX {
            head = Head::default();
        }
        *self = Self { head, input, ..Self::default() };
    }
}
