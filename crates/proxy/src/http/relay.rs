//! Carries one request to an endpoint and its answer back, piece by piece and both ways at once.
//!
//! One task polls both ends; nothing is buffered whole, and whoever cannot be written to is not read
//! from. Each direction is tracked apart: an answer may be complete before its request is (413, or a
//! server that answers early), and neither connection is used again unless both are.

use std::future::poll_fn;
use std::task::{Context, Poll};

use meshwork_core::filter;
use meshwork_http::forward::{self, ProxyAuthentication};
use meshwork_http::{BodyLength, Head, StatusCode};

use super::deadline::Deadline;
use super::{Downstream, Pieces};
use crate::drain::{Drain, Stage};
use crate::exchange::{Exchange, ReceiveError, Step};

/// A body is kept for another try up to this size; beyond it the request is sent once.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The request's body on its way. Outlives an attempt: what was taken from the client is kept for the
/// next one as long as that is affordable.
pub(crate) struct RequestBody {
    /// As the request's head declared it.
    length: BodyLength,
    /// The head was all of the request.
    over: bool,
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
    /// The endpoint takes none of it before it has switched protocols.
    Held,
    /// All of it was taken from the client, and its end sent to the endpoint.
    Ended,
    /// The endpoint takes no more of it.
    Abandoned,
}

impl RequestBody {
    /// Of the request whose head was just received.
    pub(crate) fn of(down: &Exchange) -> Self {
        Self {
            length: down.body_length(),
            over: down.has_ended(),
            state: BodyState::Flowing,
            replay: Some(Vec::new()),
            replayed: 0,
            seen: false,
            continued: false,
        }
    }

    /// Waits until the endpoint has switched protocols.
    pub(crate) fn hold(&mut self) {
        self.state = BodyState::Held;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.state == BodyState::Held
    }

    /// The endpoint switched.
    pub(crate) fn release(&mut self) {
        if self.state == BodyState::Held {
            self.state = BodyState::Flowing;
        }
    }

    pub(crate) fn length(&self) -> BodyLength {
        self.length
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
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

/// Why a request's way ended before its answer did.
#[derive(Debug)]
pub(crate) enum Broken {
    Client,
    /// The endpoint's answer will never be whole.
    Upstream(ReceiveError),
    /// What the client sent, after its head, is not HTTP.
    Request(ReceiveError),
    /// The answer was not whole in time.
    TooLate(Deadline),
    /// Nobody's fault: a drain is over.
    TimeUp,
}

pub(crate) struct Relay<'a> {
    pub(crate) down: &'a mut Downstream,
    pub(crate) up: &'a mut Exchange,
    pub(crate) body: &'a mut RequestBody,
    /// Scratch for the request's trailers.
    pub(crate) trailers: Head,
    pub(crate) drain: &'a Drain,
    /// Where they end.
    pub(crate) pieces: Pieces,
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
    /// Sends the request (its head was sent already) until the final answer's head is there, in
    /// `down.response`. Interim answers are passed on.
    pub(crate) async fn head(&mut self) -> Result<(), Broken> {
        self.down.exchange.settle();
        poll_fn(|cx| {
            self.pump_request(cx)?;
            match self.pump_head(cx)? {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending if self.is_time_up() => Poll::Ready(Err(Broken::TimeUp)),
                Poll::Pending => {
                    let _ = self.flush_down(cx)?; // interim answers
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Carries the answer's body; its head was sent to the client already.
    pub(crate) async fn body(&mut self) -> Result<Ended, Broken> {
        let mut ended = None;
        poll_fn(|cx| match self.poll_body(&mut ended, cx) {
            Poll::Pending if self.is_time_up() => Poll::Ready(Err(Broken::TimeUp)),
            carried => carried,
        })
        .await
    }

    fn poll_body(&mut self, ended: &mut Option<Ended>, cx: &mut Context<'_>) -> Poll<Result<Ended, Broken>> {
        let told = ended.filter(|_| self.down.exchange.is_flushed());
        match (self.pump_request(cx), told) {
            // Whoever has all of the answer may leave with the rest of the request.
            (Err(_), Some(how)) => {
                self.abandon_request();
                return Poll::Ready(Ok(how));
            }
            (pumped, _) => pumped?,
        }
        if ended.is_none() {
            *ended = self.pump_body(cx)?;
        }
        let flushed = self.flush_down(cx)?;
        let Some(how) = *ended else { return Poll::Pending };
        if flushed.is_pending() || (self.must_finish_request() && how == Ended::Message) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(how))
    }

    /// A drain is over, and whoever else should end this has not. Its task is woken for it.
    fn is_time_up(&self) -> bool {
        self.drain.stage() == Stage::TimeUp
    }

    /// The answer is complete but the request is not, or waits for the endpoint, which goes on reading it.
    fn must_finish_request(&self) -> bool {
        let is_unfinished = match self.body.state {
            BodyState::Flowing => true,
            BodyState::Ended => !self.up.is_flushed(),
            BodyState::Held | BodyState::Abandoned => false,
        };
        is_unfinished && self.up.keep_alive()
    }

    /// Client to endpoint.
    fn pump_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            match self.body.state {
                BodyState::Flowing => {}
                BodyState::Held | BodyState::Ended => {
                    if self.down.exchange.poll_left(cx).is_ready() {
                        return Err(Broken::Client);
                    }
                    break;
                }
                BodyState::Abandoned => return Ok(()),
            }
            if self.up.is_full() {
                self.flush_up(cx);
                if self.up.is_full() {
                    // A stream's end is told though nobody reads from it; a connection's is not.
                    let has_left =
                        self.down.exchange.is_http2() && self.down.exchange.poll_left(cx).is_ready();
                    return if has_left { Err(Broken::Client) } else { Ok(()) };
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
            self.up.send_data(&replay[self.body.replayed..], false);
            self.body.replayed = replay.len();
        }
        let step = match self.down.exchange.poll_step(&mut self.trailers, cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(step)) => step,
            Poll::Ready(Err(error)) => return Err(broken_request(error)),
        };
        match step {
            Step::Data { data, consumed, last } => {
                let piece = &self.down.exchange.input()[data];
                self.body.keep(piece);
                self.pieces.go_up(piece);
                self.up.send_data(piece, last);
                self.down.exchange.consume(consumed);
            }
            Step::Trailers => {
                filter::strip_own(&mut self.trailers);
                self.body.replay = None; // rare, and not worth keeping a second head for
                self.up.send_end(Some(&self.trailers));
            }
            Step::End => {
                self.up.send_end(None);
                self.body.state = BodyState::Ended;
            }
            Step::Closed => return Err(Broken::Client),
            // A request tells neither after its head.
            Step::Head | Step::Upgraded => self.body.state = BodyState::Abandoned,
        }
        Ok(Poll::Ready(()))
    }

    /// Endpoint to client: heads, until the final one.
    fn pump_head(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        loop {
            match self.answer_step(cx)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Step::Head) => {
                    if !self.down.response.status().is_interim() {
                        return Ok(Poll::Ready(()));
                    }
                    self.pass_interim();
                }
                // The end; before a head there is nothing else.
                Poll::Ready(_) => return Err(Broken::Upstream(ReceiveError::ended())),
            }
        }
    }

    fn answer_step(&mut self, cx: &mut Context<'_>) -> Result<Poll<Step>, Broken> {
        match self.up.poll_step(&mut self.down.response, cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(step) => step.map(Poll::Ready).map_err(Broken::Upstream),
        }
    }

    fn pass_interim(&mut self) {
        let Downstream { exchange, response, to, .. } = &mut *self.down;
        self.body.continued |= response.status() == StatusCode::CONTINUE;
        forward::response(response, ProxyAuthentication::Remove);
        filter::strip_own(response); // the mesh itself never speaks before its answer
        exchange.send_interim(response, *to);
    }

    /// Endpoint to client: the body. `Some`: it has ended.
    fn pump_body(&mut self, cx: &mut Context<'_>) -> Result<Option<Ended>, Broken> {
        loop {
            if self.down.exchange.is_full() {
                let _ = self.flush_down(cx)?;
                if self.down.exchange.is_full() {
                    return Ok(None);
                }
            }
            let Poll::Ready(step) = self.answer_step(cx)? else { return Ok(None) };
            match step {
                Step::Data { data, consumed, last } => {
                    let piece = &self.up.input()[data];
                    self.pieces.come_down(piece);
                    self.down.exchange.send_data(piece, last);
                    self.up.consume(consumed);
                }
                Step::Trailers => {
                    let Downstream { exchange, response, .. } = &mut *self.down;
                    filter::strip_own(response);
                    exchange.send_end(Some(response));
                }
                Step::End => {
                    self.down.exchange.send_end(None);
                    return Ok(Some(Ended::Message));
                }
                Step::Upgraded => return Ok(Some(Ended::Upgraded)),
                Step::Closed => return Err(Broken::Upstream(ReceiveError::ended())),
                // A final head comes once.
                Step::Head => {}
            }
        }
    }

    /// An endpoint that takes no more may still have answered: the failure shows when its answer is read.
    fn flush_up(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(_)) = self.up.poll_flush(cx) {
            self.abandon_request();
            if !self.up.is_flushed() {
                self.body.state = BodyState::Abandoned; // what waits will never go
            }
        }
    }

    fn flush_down(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match self.down.exchange.poll_flush(cx) {
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
        if matches!(self.body.state, BodyState::Flowing | BodyState::Held) {
            self.body.state = BodyState::Abandoned;
        }
    }
}

/// A client that leaves within its request is gone; one that sends something else is at fault.
fn broken_request(error: ReceiveError) -> Broken {
    match error {
        ReceiveError::Conn(_) | ReceiveError::Http2(_) | ReceiveError::WebSocket => Broken::Client,
        ReceiveError::Http1(_) => Broken::Request(error),
    }
}
