//! Opaque bytes both ways, with half-close: an end on one side is passed on, the other direction goes on.
//! A break on one side is passed on as a break: nothing else tells the other that bytes are missing. So is the end of a
//! drain's time, unless the bytes are a WebSocket's, in which its end can be said.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use meshwork_http::websocket::Frames;
use tokio::time::{Instant, sleep};

use crate::conn::{Conn, ConnError, OUTPUT_BYTES_MAX};
use crate::drain::Drain;
use crate::http::Conversation;

/// Bytes carried, from the first connection to the second and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transferred {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// Carries bytes until both directions ended. What either connection has received already goes first. `idle`: with
/// no byte for so long, and at most twice that, both are broken off; a timer that is set anew with every byte would
/// be exact, and cost more than it is worth.
pub(crate) async fn splice(
    downstream: &mut Conn,
    upstream: &mut Conn,
    idle: Option<Duration>,
    drain: &Drain,
) -> Result<Transferred, ConnError> {
    let spliced = carry(downstream, upstream, idle, drain, None).await;
    let spliced = spliced.and_then(|carried| carried.ok_or_else(time_up));
    if spliced.is_err() {
        downstream.abort();
        upstream.abort();
    }
    spliced
}

/// The same, and `frames` follows where a WebSocket's end. `None`: the drain's time is up.
pub(crate) async fn splice_frames(
    downstream: &mut Conn,
    upstream: &mut Conn,
    drain: &Drain,
    frames: &mut Conversation,
) -> Result<Option<Transferred>, ConnError> {
    let spliced = carry(downstream, upstream, None, drain, Some(frames)).await;
    if spliced.is_err() {
        downstream.abort();
        upstream.abort();
    }
    spliced
}

async fn carry(
    downstream: &mut Conn,
    upstream: &mut Conn,
    idle: Option<Duration>,
    drain: &Drain,
    mut frames: Option<&mut Conversation>,
) -> Result<Option<Transferred>, ConnError> {
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut time_up = pin!(drain.time_up());
    let mut timer = pin!(idle.map(sleep));
    let mut seen = 0;
    poll_fn(|cx| {
        let first = up.poll(downstream, upstream, frames.as_mut().map(|both| &mut both.up), cx)?;
        let second = down.poll(upstream, downstream, frames.as_mut().map(|both| &mut both.down), cx)?;
        if first.is_ready() && second.is_ready() {
            return Poll::Ready(Ok(Some(())));
        }
        while let (Some(limit), Some(mut timer)) = (idle, timer.as_mut().as_pin_mut())
            && timer.as_mut().poll(cx).is_ready()
        {
            let moved = up.bytes + down.bytes;
            if moved == seen {
                return Poll::Ready(Err(ConnError::Io(ErrorKind::TimedOut.into())));
            }
            seen = moved;
            timer.reset(Instant::now() + limit);
        }
        time_up.as_mut().poll(cx).map(|()| Ok(None))
    })
    .await
    .map(|carried| carried.map(|()| Transferred { up: up.bytes, down: down.bytes }))
}

fn time_up() -> ConnError {
    ConnError::Io(std::io::Error::other("the workload drains, and the time for what still ran was up"))
}

#[derive(Default)]
struct Direction {
    bytes: u64,
    farewell: bool,
    closed: bool,
}

impl Direction {
    /// Moves what can be moved. Ready: the end was passed on.
    fn poll(
        &mut self,
        from: &mut Conn,
        to: &mut Conn,
        mut frames: Option<&mut Frames>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnError>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            if to.unsent() < OUTPUT_BYTES_MAX && !from.input().is_empty() {
                self.bytes += from.input().len() as u64;
                if let Some(frames) = &mut frames {
                    frames.advance(from.input());
                }
                from.move_input_to(to);
            }
            let flushed = to.poll_flush(cx)?;
            if to.unsent() >= OUTPUT_BYTES_MAX {
                return Poll::Pending; // and the sender is not read from: it must slow down
            }
            if from.is_ended() && from.input().is_empty() {
                return if flushed.is_ready() { self.close(to, cx) } else { Poll::Pending };
            }
            if from.input().is_empty() && from.poll_fill(cx)?.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn close(&mut self, to: &mut Conn, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        if !self.farewell {
            self.farewell = true;
            to.farewell()?;
        }
        let closed = to.poll_shutdown(cx);
        self.closed = closed.is_ready();
        // A peer that is gone already has no use for our end.
        closed.map(|_| Ok(()))
    }
}
