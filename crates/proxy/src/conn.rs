//! A connection: a socket, perhaps TLS on it, and the bytes on their way in and out.
//!
//! Poll functions, because one task drives both ends of an exchange and must be woken by either.
//! Memory: buffers are the worker's (`buffers.rs`) and are held only while bytes are in them.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meshwork_core::Instant;
use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::buffers::{BUFFER_BYTES, Buffers};
use crate::limits::Counted;
use crate::tls::Tls;

/// Leftovers up to this size are copied out of a worker's buffer before the connection waits.
const LEFTOVER_BYTES: usize = 16 * 1024;

/// Bytes that may wait to be written before whoever produces them must wait.
pub(crate) const OUTPUT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Ended without `close_notify`: somebody may have cut it.
    #[error("TLS: the connection ended without a farewell")]
    Truncated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    More,
    End,
}

pub(crate) struct Conn {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    buffers: Rc<Buffers>,
    /// Plaintext that was received; consumed up to `start`.
    input: Vec<u8>,
    start: usize,
    /// Plaintext to be sent.
    output: Vec<u8>,
    /// Bytes for the socket; written up to `written`.
    wire: Vec<u8>,
    written: usize,
    ended: bool,
    /// When what the handshake proved of its ends is over; `None`: in clear.
    proof_ends: Option<Instant>,
    /// In the counts of a service that has limits.
    counted: Option<Counted>,
}

impl Conn {
    pub(crate) fn plain(socket: TcpStream, buffers: Rc<Buffers>) -> Self {
        Self::new(socket, None, buffers)
    }

    pub(crate) fn secured(socket: TcpStream, tls: Tls, buffers: Rc<Buffers>) -> Self {
        Self::new(socket, Some(Box::new(tls)), buffers)
    }

    fn new(socket: TcpStream, tls: Option<Box<Tls>>, buffers: Rc<Buffers>) -> Self {
        Self {
            socket,
            tls,
            buffers,
            input: Vec::new(),
            start: 0,
            output: Vec::new(),
            wire: Vec::new(),
            written: 0,
            ended: false,
            counted: None,
            proof_ends: None,
        }
    }

    /// The same socket with TLS on it, in which nothing has been said yet: what was received already is the handshake's.
    pub(crate) fn secure(mut self, mut tls: Tls) -> Self {
        debug_assert!(self.tls.is_none() && self.unsent() == 0, "what was said in clear stays in clear");
        if !self.input().is_empty() {
            tls.cipher = self.input().to_vec();
            self.consume(self.input().len());
        }
        self.tls = Some(Box::new(tls));
        self
    }

    pub(crate) fn set_proof_ends(&mut self, at: Instant) {
        self.proof_ends = Some(at);
    }

    /// No request should begin here any more: a certificate that it was opened with has ended. What runs may finish.
    pub(crate) fn is_outdated(&self, now: Instant) -> bool {
        self.proof_ends.is_some_and(|ends| now >= ends)
    }

    /// Until then; `None`: for ever.
    pub(crate) fn proven_for(&self, now: Instant) -> Option<Duration> {
        self.proof_ends.map(|ends| ends.since(now))
    }

    /// It counts for a service, for as long as it stands.
    pub(crate) fn count(&mut self, counted: Counted) {
        self.counted = Some(counted);
    }

    pub(crate) fn counted(&self) -> Option<&Counted> {
        self.counted.as_ref()
    }

    /// Another sidecar is at the other end: all TLS that ends here is the mesh's.
    pub(crate) fn is_of_mesh(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What was received and not consumed.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Nothing more will be received.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Moves past bytes of [`Conn::input`]; an emptied buffer goes back to the worker.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.input.len(), "consumed more than was received");
        if self.start == self.input.len() {
            self.start = 0;
            if self.input.capacity() > 0 {
                self.buffers.give(std::mem::take(&mut self.input));
            }
        }
    }

    /// Before it is dropped: the other end shall see that it broke, not that it ended. On TLS the missing
    /// farewell says so; in clear only a reset does.
    pub(crate) fn abort(&self) {
        if self.tls.is_none() {
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// From now on there is nothing to read, and nothing to write to: whoever serves it finds its end.
    pub(crate) fn hang_up(&self) {
        // It fails if the other end was quicker.
        let _ = SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both);
    }

    /// Hands everything in `input` over to another connection's output; without a copy where that is empty.
    pub(crate) fn move_input_to(&mut self, to: &mut Self) {
        if to.output.is_empty() && self.start == 0 {
            to.buffers.give(std::mem::replace(&mut to.output, std::mem::take(&mut self.input)));
        } else {
            to.output().extend_from_slice(&self.input[self.start..]);
            self.consume(self.input.len() - self.start);
        }
    }

    /// Before a wait that does not read here: a small leftover must not hold a large buffer.
    pub(crate) fn settle(&mut self) {
        let left = self.input.len() - self.start;
        if self.input.capacity() >= BUFFER_BYTES && left <= LEFTOVER_BYTES {
            let leftover = self.input()[..left].to_vec();
            self.buffers.give(std::mem::replace(&mut self.input, leftover));
            self.start = 0;
        }
    }

    /// Receives more bytes behind [`Conn::input`]. `End` stays `End`.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, ConnError>> {
        if self.ended {
            return Poll::Ready(Ok(Filled::End));
        }
        if self.tls.is_some() { self.poll_fill_tls(cx) } else { self.poll_fill_plain(cx) }
    }

    fn poll_fill_plain(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, ConnError>> {
        self.make_room();
        match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input) {
            Poll::Pending => {
                self.release();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.release();
                self.ended = true;
                Poll::Ready(Ok(Filled::End))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(Filled::More)),
            Poll::Ready(Err(error)) => {
                self.release();
                Poll::Ready(Err(error.into()))
            }
        }
    }

    fn poll_fill_tls(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, ConnError>> {
        let Self { socket, tls, buffers, input, wire, .. } = self;
        let Some(tls) = tls else { return Poll::Ready(Ok(Filled::End)) };
        loop {
            if tls.cipher.capacity() == 0 {
                tls.cipher = buffers.take();
            }
            tls.cipher.reserve(1024); // a record may be larger than what is left of the buffer
            let read = poll_read_buf(Pin::new(&mut *socket), cx, &mut tls.cipher);
            let count = match read {
                Poll::Ready(Ok(count)) => count,
                other => {
                    if tls.cipher.is_empty() {
                        buffers.give(std::mem::take(&mut tls.cipher));
                    } else if tls.cipher.capacity() >= BUFFER_BYTES && tls.cipher.len() <= LEFTOVER_BYTES {
                        let leftover = tls.cipher.clone();
                        buffers.give(std::mem::replace(&mut tls.cipher, leftover));
                    }
                    ready!(other)?;
                    return Poll::Pending;
                }
            };
            if count == 0 {
                self.ended = true;
                return Poll::Ready(if tls.peer_closed() {
                    Ok(Filled::End)
                } else {
                    Err(ConnError::Truncated)
                });
            }
            if input.capacity() == 0 {
                *input = buffers.take();
            }
            let (before, was_open) = (input.len(), tls.is_open());
            let processed = tls.process(input, wire, buffers);
            let (grown, closed) = (input.len() > before, tls.peer_closed());
            if input.is_empty() {
                buffers.give(std::mem::take(input));
            }
            if processed.is_err() || !wire.is_empty() {
                // Handshake flights, tickets, alerts: sent at once, as nobody else would.
                let _ = poll_write_wire(socket, cx, wire, &mut self.written);
            }
            processed?;
            if grown {
                return Poll::Ready(Ok(Filled::More));
            }
            if closed {
                self.ended = true;
                return Poll::Ready(Ok(Filled::End));
            }
            if !was_open {
                // The handshake loop wants to know that the machine moved.
                return Poll::Ready(Ok(Filled::More));
            }
        }
    }

    /// Writes everything in `output`: TLS encrypts the whole batch first.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        loop {
            if self.written < self.wire.len() {
                ready!(poll_write_wire(&mut self.socket, cx, &mut self.wire, &mut self.written))?;
            }
            if self.wire.capacity() > 0 {
                self.buffers.give(std::mem::take(&mut self.wire));
                self.written = 0;
            }
            if self.output.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.seal_output()?;
        }
    }

    /// `output` -> `wire`, encrypted where there is TLS.
    fn seal_output(&mut self) -> Result<(), ConnError> {
        match &mut self.tls {
            None => std::mem::swap(&mut self.wire, &mut self.output),
            Some(tls) => {
                self.wire = self.buffers.take();
                let sealed = tls.seal(&self.output, &mut self.input, &mut self.wire, &self.buffers);
                self.buffers.give(std::mem::take(&mut self.output));
                sealed?;
            }
        }
        Ok(())
    }

    /// The buffer for what is to be sent; appended to, then flushed.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = self.buffers.take();
        }
        &mut self.output
    }

    /// What was received and not consumed, and the buffer for what is to be sent.
    pub(crate) fn input_and_output(&mut self) -> (&[u8], &mut Vec<u8>) {
        if self.output.capacity() == 0 {
            self.output = self.buffers.take();
        }
        (&self.input[self.start..], &mut self.output)
    }

    /// Something was appended since the last flush.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Gives an output buffer that stayed empty back to the worker.
    pub(crate) fn spare_output(&mut self) {
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.buffers.give(std::mem::take(&mut self.output));
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() + self.wire.len() - self.written
    }

    /// Says that we send nothing more: `close_notify` where there is TLS, then FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx).map_err(ConnError::from)
    }

    /// Queues TLS's farewell behind what waits in `output`; nothing on a plain connection.
    pub(crate) fn farewell(&mut self) -> Result<(), ConnError> {
        if !self.output.is_empty() && self.wire.is_empty() {
            self.seal_output()?;
        }
        if let Some(tls) = &mut self.tls
            && tls.is_open()
        {
            tls.close(&mut self.input, &mut self.wire, &self.buffers)?;
        }
        Ok(())
    }

    pub(crate) async fn fill(&mut self) -> Result<Filled, ConnError> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    pub(crate) async fn flush(&mut self) -> Result<(), ConnError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Flushes, says farewell and half-closes.
    pub(crate) async fn shutdown(&mut self) -> Result<(), ConnError> {
        self.flush().await?;
        self.farewell()?;
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Runs the TLS handshake to its end; at once on a plain connection.
    pub(crate) async fn handshake(&mut self) -> Result<(), ConnError> {
        let shaken = self.shake_hands().await;
        if shaken.is_err() {
            // The alert that tells the peer why. On a fresh socket the runtime knows nothing of room to write, so
            // trying once is not enough.
            let _ = self.flush().await;
        }
        shaken
    }

    async fn shake_hands(&mut self) -> Result<(), ConnError> {
        loop {
            let Some(tls) = &mut self.tls else { return Ok(()) };
            tls.process(&mut self.input, &mut self.wire, &self.buffers)?;
            let open = tls.is_open();
            self.flush().await?;
            if open {
                return Ok(());
            }
            if self.fill().await? == Filled::End {
                return Err(ConnError::Truncated);
            }
        }
    }

    fn make_room(&mut self) {
        if self.input.capacity() == 0 {
            self.input = self.buffers.take();
        } else if self.input.len() == self.input.capacity() {
            if self.start > 0 {
                self.input.drain(..self.start);
                self.start = 0;
            } else {
                self.input.reserve(self.input.len());
            }
        }
    }

    fn release(&mut self) {
        if self.start == self.input.len() {
            self.consume(0);
        } else {
            self.settle();
        }
    }
}

fn poll_write_wire(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    wire: &mut [u8],
    written: &mut usize,
) -> Poll<io::Result<()>> {
    while *written < wire.len() {
        let count = ready!(Pin::new(&mut *socket).poll_write(cx, &wire[*written..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *written += count;
    }
    Poll::Ready(Ok(()))
}
