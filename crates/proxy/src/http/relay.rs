//! Carries one request to an endpoint and its answer back, piece by piece and both ways at once.
//!
//! One task polls both sockets; nothing is buffered whole, and whoever cannot be written to is not read
//! from. Each direction is tracked apart: an answer may be complete before its request is (413, or a
//! server that answers early), and neither connection is used again unless both are.

use std::future::poll_fn;
use std::task::{Context, Poll};

use meshwork_core::filter;
use meshwork_http::forward::{self, ProxyAuthentication};
use meshwork_http::h1::{EndOfInput, ReceiveError, Step};
use meshwork_http::{Head, StatusCode};

use super::Downstream;
use crate::conn::{ConnError, Filled, OUTPUT_BYTES_MAX};
use crate::exchange::Exchange;

/// A body is kept for another try up to this size; beyond it the request is sent once.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// Bytes that a client may send ahead while its request is being answered (pipelining).
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// The request's body on its way. Outlives an attempt: what was taken from the client is kept for the
/// next one as long as that is affordable.
pub(crate) struct RequestBody {
    state: BodyState,
    replay: Option<Vec<u8>>,
    /// Bytes of `replay` that this attempt has sent.
    replayed: usize,
    pub(crate) seen: bool,
    /// A 100 was passed to the client.
    continued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Flowing,
    /// All of it was taken from the client, and its end sent to the endpoint.
    Ended,
    /// The endpoint takes no more of it.
    Abandoned,
}

impl RequestBody {
    pub(crate) fn new() -> Self {
        Self {
            state: BodyState::Flowing,
            replay: Some(Vec::new()),
            replayed: 0,
            seen: false,
            continued: false,
        }
    }

    /// Whether another attempt could send all of it.
    pub(crate) fn is_replayable(&self) -> bool {
        self.replay.is_some()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state == BodyState::Ended
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state == BodyState::Abandoned
    }

    /// Before another attempt.
    pub(crate) fn rewind(&mut self) {
        self.state = BodyState::Flowing;
        self.replayed = 0;
    }

    fn keep(&mut self, piece: &[u8]) {
        self.seen = true;
        if let Some(replay) = &mut self.replay {
            if replay.len() + piece.len() <= REPLAY_BYTES_MAX {
                replay.extend_from_slice(piece);
                self.replayed = replay.len();
            } else {
                self.replay = None;
            }
        }
    }
}

/// Why an exchange ended before its answer did.
#[derive(Debug)]
pub(crate) enum Broken {
    Client,
    /// The endpoint's connection ended or broke.
    Upstream(ConnError),
    /// What the endpoint sent is not HTTP.
    Protocol(ReceiveError),
    /// What the client sent, after its head, is not HTTP.
    Request(ReceiveError),
}

pub(crate) struct Relay<'a> {
    pub(crate) down: &'a mut Downstream,
    pub(crate) up: &'a mut Exchange,
    pub(crate) body: &'a mut RequestBody,
    /// Scratch for the request's trailers.
    pub(crate) trailers: Head,
}

/// How the answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Complete.
    Message,
    /// Both sides speak something else from here on.
    Upgraded,
}

impl Relay<'_> {
    /// Sends the request (its head is in the endpoint's output already) until the final answer's head is
    /// there, in `down.response`. Interim answers are passed on.
    pub(crate) async fn head(&mut self) -> Result<(), Broken> {
        self.down.conn.settle();
        poll_fn(|cx| {
            self.pump_request(cx)?;
            match self.pump_head(cx)? {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => {
                    let _ = self.flush_down(cx)?; // interim answers
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Carries the answer's body; its head is in the client's output already.
    pub(crate) async fn body(&mut self) -> Result<Ended, Broken> {
        let mut ended = None;
        poll_fn(|cx| {
            match self.pump_request(cx) {
                // Whoever has all of the answer may leave with the rest of the request.
                Err(_) if ended.is_some() && self.down.conn.unsent() == 0 => self.abandon_request(),
                pumped => pumped?,
            }
            if ended.is_none() {
                ended = self.pump_body(cx)?;
            }
            let flushed = self.flush_down(cx)?;
            let Some(how) = ended else { return Poll::Pending };
            if flushed.is_pending() || (self.must_finish_request() && how == Ended::Message) {
                return Poll::Pending;
            }
            Poll::Ready(Ok(how))
        })
        .await
    }

    /// The answer is complete but the request is not, and the endpoint goes on reading it.
    fn must_finish_request(&self) -> bool {
        self.body.state == BodyState::Flowing && self.up.receiver.keep_alive()
    }

    /// Client to endpoint.
    fn pump_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            match self.body.state {
                BodyState::Flowing => {}
                BodyState::Ended => {
                    self.watch_client(cx)?;
                    break;
                }
                BodyState::Abandoned => return Ok(()),
            }
            if self.up.conn.unsent() >= OUTPUT_BYTES_MAX {
                self.flush_up(cx);
                if self.up.conn.unsent() >= OUTPUT_BYTES_MAX {
                    return Ok(());
                }
            }
            if self.request_step(cx)?.is_pending() {
                break;
            }
        }
        self.flush_up(cx);
        Ok(())
    }

    /// Moves one piece of the request's body. Pending: the client has nothing more for now.
    fn request_step(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        if let Some(replay) = &self.body.replay
            && self.body.replayed < replay.len()
        {
            let sent = self.up.sender.data(&replay[self.body.replayed..], self.up.conn.output());
            self.body.replayed = replay.len();
            debug_assert!(sent.is_ok(), "the same bytes fitted before");
        }
        let step = self
            .down
            .receiver
            .advance(self.down.conn.input(), &mut self.trailers)
            .map_err(Broken::Request)?;
        match step {
            Step::NeedMore { consumed } => {
                self.down.conn.consume(consumed);
                match self.down.conn.poll_fill(cx) {
                    Poll::Ready(Ok(Filled::More)) => {}
                    Poll::Ready(Ok(Filled::End) | Err(_)) => return Err(Broken::Client),
                    Poll::Pending => return Ok(Poll::Pending),
                }
            }
            Step::Data { consumed, data } => {
                let piece = &self.down.conn.input()[data];
                self.body.keep(piece);
                // The receiver checked the same length that the sender promised.
                let sent = self.up.sender.data(piece, self.up.conn.output());
                debug_assert!(sent.is_ok(), "received more than declared");
                self.down.conn.consume(consumed);
            }
            Step::Trailers { consumed } => {
                self.down.conn.consume(consumed);
                filter::strip_own(&mut self.trailers);
                self.body.replay = None; // rare, and not worth keeping a second head for
                self.end_request(true);
            }
            Step::End { consumed } => {
                self.down.conn.consume(consumed);
                if !self.up.sender.is_ended() {
                    self.end_request(false);
                }
                self.body.state = BodyState::Ended;
            }
            // A request's receiver tells neither after its head.
            Step::Head { .. } | Step::Upgraded { .. } => self.body.state = BodyState::Abandoned,
        }
        Ok(Poll::Ready(()))
    }

    fn end_request(&mut self, with_trailers: bool) {
        let trailers = with_trailers.then_some(&self.trailers);
        let ended = self.up.sender.end(trailers, self.up.conn.output());
        debug_assert!(ended.is_ok(), "received less than declared");
    }

    /// The whole request is read: whatever the client sends now is its next one, and its end means that
    /// nobody waits for the answer. A client of HTTP that only half-closed and would still read is taken
    /// for gone too, as nginx and Envoy do: both look the same, and work for nobody is what piles up
    /// under load. (Opaque connections and upgraded ones keep their half-close.)
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while self.down.conn.input().len() < AHEAD_BYTES_MAX {
            match self.down.conn.poll_fill(cx) {
                Poll::Ready(Ok(Filled::More)) => {}
                Poll::Ready(Ok(Filled::End) | Err(_)) => return Err(Broken::Client),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Endpoint to client: heads, until the final one.
    fn pump_head(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        loop {
            match self.answer_step(cx)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Some(Step::Head { consumed })) => {
                    self.up.conn.consume(consumed);
                    if !self.down.response.status().is_interim() {
                        return Ok(Poll::Ready(()));
                    }
                    self.pass_interim();
                }
                // The end; before a head there is nothing else.
                Poll::Ready(_) => return Err(Broken::Upstream(ended())),
            }
        }
    }

    /// The answer's next step, whose bytes are still to be consumed. `None`: the connection has ended.
    fn answer_step(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Step>>, Broken> {
        loop {
            let Exchange { conn, receiver, .. } = &mut *self.up;
            let step = receiver.advance(conn.input(), &mut self.down.response).map_err(Broken::Protocol)?;
            let Step::NeedMore { consumed } = step else { return Ok(Poll::Ready(Some(step))) };
            self.up.conn.consume(consumed);
            match self.up.conn.poll_fill(cx) {
                Poll::Ready(Ok(Filled::More)) => {}
                Poll::Ready(Ok(Filled::End)) => return Ok(Poll::Ready(None)),
                Poll::Ready(Err(error)) => return Err(Broken::Upstream(error)),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    fn pass_interim(&mut self) {
        let Downstream { conn, sender, response, to, .. } = &mut *self.down;
        self.body.continued |= response.status() == StatusCode::CONTINUE;
        forward::response(response, ProxyAuthentication::Remove);
        filter::strip_own(response); // the mesh itself never speaks before its answer
        let sent = sender.interim(response, *to, conn.output());
        debug_assert!(sent.is_ok(), "an interim head between two messages");
    }

    /// Endpoint to client: the body. `Some`: it has ended.
    fn pump_body(&mut self, cx: &mut Context<'_>) -> Result<Option<Ended>, Broken> {
        loop {
            if self.down.conn.unsent() >= OUTPUT_BYTES_MAX {
                let _ = self.flush_down(cx)?;
                if self.down.conn.unsent() >= OUTPUT_BYTES_MAX {
                    return Ok(None);
                }
            }
            let Poll::Ready(step) = self.answer_step(cx)? else { return Ok(None) };
            let Some(step) = step else {
                return match self.up.receiver.end_of_input(self.up.conn.input().len()) {
                    Ok(EndOfInput::BodyEnd) => self.end_answer(false).map(Some),
                    Ok(EndOfInput::Clean) | Err(_) => Err(Broken::Upstream(ended())),
                };
            };
            match step {
                Step::Data { consumed, data } => {
                    let sent = self.down.sender.data(&self.up.conn.input()[data], self.down.conn.output());
                    debug_assert!(sent.is_ok(), "received more than declared");
                    self.up.conn.consume(consumed);
                }
                Step::Trailers { consumed } => {
                    self.up.conn.consume(consumed);
                    self.end_answer(true)?;
                }
                Step::End { consumed } => {
                    self.up.conn.consume(consumed);
                    return self.end_answer(false).map(Some);
                }
                Step::Upgraded { consumed } => {
                    self.up.conn.consume(consumed);
                    return Ok(Some(Ended::Upgraded));
                }
                // A final head comes once, and what is not enough was read on.
                Step::Head { consumed } | Step::NeedMore { consumed } => self.up.conn.consume(consumed),
            }
        }
    }

    fn end_answer(&mut self, with_trailers: bool) -> Result<Ended, Broken> {
        if !self.down.sender.is_ended() {
            let Downstream { conn, sender, response, .. } = &mut *self.down;
            if with_trailers {
                filter::strip_own(response);
            }
            let sent = sender.end(with_trailers.then_some(&*response), conn.output());
            debug_assert!(sent.is_ok(), "received less than declared");
        }
        Ok(Ended::Message)
    }

    /// An endpoint that takes no more may still have answered: the failure shows when its answer is read.
    fn flush_up(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.up.conn.poll_flush(cx) {
            self.body.state = BodyState::Abandoned;
        }
    }

    fn flush_down(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match self.down.conn.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Broken::Client),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// The client was told to wait for a 100 and none came: it may send the body or not, and nobody can
    /// tell which, so the connection cannot carry another request (RFC 9110, 10.1.1).
    pub(crate) fn body_is_uncertain(&self, expects_continue: bool) -> bool {
        expects_continue && !self.body.continued && !self.body.seen && self.body.state != BodyState::Ended
    }

    /// The endpoint's answer is final and ends its connection: what is left of the request is not for it.
    pub(crate) fn abandon_request(&mut self) {
        if self.body.state == BodyState::Flowing {
            self.body.state = BodyState::Abandoned;
        }
    }
}

fn ended() -> ConnError {
    ConnError::Io(std::io::ErrorKind::UnexpectedEof.into())
}
