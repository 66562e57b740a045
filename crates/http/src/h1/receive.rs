//! One direction of a connection, messages coming in: bytes to [`Step`]s.
//!
//! The driver keeps the input. It shows all bytes not yet consumed, is told how many the step took, and
//! asks again until [`Step::NeedMore`] (even with no bytes left: a message without a body ends after its
//! head). Body bytes are never copied: a step says where they lie.
//!
//! A message's end stops the receiver: bytes behind it are the next, pipelined message's, and are left
//! alone until the driver asks for it ([`Receiver::next_message`], [`Receiver::expect_response_to`]).

use std::ops::Range;

use super::chunked::{Chunked, Next};
use super::framing::{Facts, ResponseBody};
use super::head_end::HeadEnd;
use super::{BodyLength, Limits, ReceiveError, RequestMethod, Role, parse};
use crate::{Head, StatusCode, Version};

/// Of the first line, all but the target: the longest registered method, the version, the blanks, and
/// room for methods of one's own.
const REQUEST_LINE_FRAME_MAX: usize = 64;

/// What was found in the input. `consumed` bytes of it are done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more can be told before further bytes come.
    NeedMore { consumed: usize },
    /// The head is filled. After an interim one ([`StatusCode::is_interim`]) another head follows.
    Head { consumed: usize },
    /// A piece of the body, never empty: `input[data]`.
    Data { consumed: usize, data: Range<usize> },
    /// The head is filled with the trailers, of which at least one is left.
    Trailers { consumed: usize },
    /// The message is complete; told again until the next one is asked for.
    End { consumed: usize },
    /// All that follows is opaque; told again at each call.
    Upgraded { consumed: usize },
}

/// What the end of the input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfInput {
    /// It fell between messages, or into opaque bytes.
    Clean,
    /// It ended the body of this response, as its head said: the message is complete.
    BodyEnd,
}

/// Receives the messages of one direction, one after the other.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    limits: Limits,
    state: State,
    empty_lines: usize,
    interim: usize,
    /// Responses only: what the next one answers, and whether it may switch protocols.
    to: RequestMethod,
    upgrade: Upgrade,
    body_length: BodyLength,
    keep_alive: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No response is expected.
    Idle,
    Head(HeadEnd),
    Length {
        remaining: u64,
    },
    Chunked(Chunked),
    Trailers(HeadEnd),
    UntilClose,
    /// Complete; `told` once a step has said so.
    Ended {
        told: bool,
    },
    Opaque,
    Failed(ReceiveError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    NotAsked,
    Asked,
    /// A request's answer switched protocols: opaque bytes follow the request.
    Done,
}

impl Receiver {
    pub fn requests(limits: Limits) -> Self {
        Self::new(Role::Requests, limits, State::Head(HeadEnd::default()))
    }

    pub fn responses(limits: Limits) -> Self {
        Self::new(Role::Responses, limits, State::Idle)
    }

    fn new(role: Role, limits: Limits, state: State) -> Self {
        Self {
            role,
            limits,
            state,
            empty_lines: 0,
            interim: 0,
            to: RequestMethod::Other,
            upgrade: Upgrade::NotAsked,
            body_length: BodyLength::None,
            keep_alive: true,
        }
    }

    /// Responses: says which request the next one answers; must be called before each. Until then every
    /// byte is an error: an origin that speaks unasked is out of step.
    pub fn expect_response_to(&mut self, method: RequestMethod) {
        debug_assert!(self.role == Role::Responses, "requests answer nothing");
        self.next_message();
        if matches!(self.state, State::Idle) {
            self.to = method;
            self.upgrade = Upgrade::NotAsked;
            self.state = State::Head(HeadEnd::default());
        }
    }

    /// Responses: the expected one may be 101, as its request asked for an upgrade. Otherwise a 101 is
    /// an error: it would turn a pooled connection into a tunnel that only one end knows of.
    pub fn expect_upgrade(&mut self) {
        self.upgrade = Upgrade::Asked;
    }

    /// Requests: the current one was answered with 101, or, being CONNECT, with 2xx. When it has ended,
    /// all that follows is opaque.
    pub fn switch_to_opaque(&mut self) {
        debug_assert!(self.role == Role::Requests, "a response says so itself");
        self.upgrade = Upgrade::Done;
    }

    /// After the end: ready for the next message (requests), or for being told what the next one answers
    /// (responses; `expect_response_to` does both). At any other time it changes nothing.
    pub fn next_message(&mut self) {
        if matches!(self.state, State::Ended { .. }) {
            self.empty_lines = 0;
            self.interim = 0;
            self.state = match self.role {
                Role::Requests if self.upgrade == Upgrade::Done => State::Opaque,
                Role::Requests => State::Head(HeadEnd::default()),
                Role::Responses => State::Idle,
            };
        }
    }

    /// The length that the current message's head declares. A response to HEAD, or a 304, declares one
    /// that does not follow: its end comes at once, and the sender passes the declaration on.
    pub fn body_length(&self) -> BodyLength {
        self.body_length
    }

    /// Whether the connection may carry a further message after this one, as far as its sender and its
    /// framing say.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The whole message was received, though its end may still have to be told.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// The next thing in `input`: all bytes that were not consumed, and perhaps more than last time.
    pub fn advance(&mut self, input: &[u8], head: &mut Head) -> Result<Step, ReceiveError> {
        let step = match &mut self.state {
            State::Idle if input.is_empty() => Ok(Step::NeedMore { consumed: 0 }),
            State::Idle => Err(ReceiveError::UnaskedResponse),
            State::Head(_) => self.advance_head(input, head),
            State::Length { .. } | State::UntilClose => Ok(self.advance_plain(input)),
            State::Chunked(_) => self.advance_chunked(input, head),
            State::Trailers(_) => self.advance_trailers(input, 0, head),
            State::Ended { told: true } if self.upgrade == Upgrade::Done => {
                self.state = State::Opaque;
                Ok(Step::Upgraded { consumed: 0 })
            }
            State::Ended { told } => {
                *told = true;
                Ok(Step::End { consumed: 0 })
            }
            State::Opaque => Ok(Step::Upgraded { consumed: 0 }),
            State::Failed(error) => Err(*error),
        };
        if let Err(error) = step {
            self.state = State::Failed(error);
            self.keep_alive = false;
        }
        step
    }

    /// The transport will bring no more. Ask only after [`Step::NeedMore`], [`Step::End`] or
    /// [`Step::Upgraded`]; `unconsumed` bytes were left then.
    pub fn end_of_input(&mut self, unconsumed: usize) -> Result<EndOfInput, ReceiveError> {
        self.keep_alive = false;
        let error = match self.state {
            State::Idle | State::Ended { .. } | State::Opaque => return Ok(EndOfInput::Clean),
            State::UntilClose => {
                self.state = State::Ended { told: true };
                return Ok(EndOfInput::BodyEnd);
            }
            State::Head(_) => match (self.role, unconsumed) {
                (Role::Requests, 0) => return Ok(EndOfInput::Clean),
                (Role::Responses, 0) if self.interim == 0 => ReceiveError::ClosedBeforeResponse,
                _ => ReceiveError::TruncatedHead,
            },
            State::Length { .. } | State::Chunked(_) | State::Trailers(_) => ReceiveError::TruncatedBody,
            State::Failed(error) => error,
        };
        self.state = State::Failed(error);
        Err(error)
    }

    fn advance_head(&mut self, input: &[u8], head: &mut Head) -> Result<Step, ReceiveError> {
        let skipped = self.skip_empty_lines(input)?;
        let State::Head(end) = &mut self.state else { return Ok(Step::NeedMore { consumed: skipped }) };
        let rest = &input[skipped..];
        let window = &rest[..rest.len().min(self.limits.head_bytes_max)];
        let first_line_max = self.limits.target_bytes_max + REQUEST_LINE_FRAME_MAX;
        if self.role == Role::Requests && end.in_first_line() && window.len() >= first_line_max {
            // Looked at alone first, so that an endless target is called that and not an endless head.
            let ended = end.find(&window[..first_line_max])?;
            if end.in_first_line() {
                return Err(ReceiveError::TargetTooLong);
            }
            if let Some(length) = ended {
                return self.finish_head(skipped, &rest[..length], head);
            }
        }
        match end.find(window)? {
            Some(length) => self.finish_head(skipped, &rest[..length], head),
            None if rest.len() >= self.limits.head_bytes_max => Err(ReceiveError::HeadTooLarge),
            None => Ok(Step::NeedMore { consumed: skipped }),
        }
    }

    /// RFC 9112, 2.2: old clients send an empty line after a body. Not so servers.
    fn skip_empty_lines(&mut self, input: &[u8]) -> Result<usize, ReceiveError> {
        let mut skipped = 0;
        while self.role == Role::Requests && input[skipped..].starts_with(b"\r\n") {
            skipped += 2;
            self.empty_lines += 1;
            if self.empty_lines > self.limits.empty_lines_max {
                return Err(ReceiveError::TooManyEmptyLines);
            }
        }
        if skipped > 0 {
            self.state = State::Head(HeadEnd::default()); // a lone CR may have been looked at
        }
        Ok(skipped)
    }

    fn finish_head(&mut self, skipped: usize, text: &[u8], head: &mut Head) -> Result<Step, ReceiveError> {
        match self.role {
            Role::Requests => {
                let facts = parse::request(text, &self.limits, head)?;
                self.body_length = facts.request(head.version(), head.method().as_bytes())?;
                self.keep_alive = facts.keep_alive(head.version());
                self.upgrade = Upgrade::NotAsked;
                self.state = State::body(self.body_length);
            }
            Role::Responses => {
                let facts = parse::response(text, &self.limits, head)?;
                self.take_response(facts, head.version(), head.status())?;
            }
        }
        Ok(Step::Head { consumed: skipped + text.len() })
    }

    fn take_response(
        &mut self,
        facts: Facts,
        version: Version,
        status: StatusCode,
    ) -> Result<(), ReceiveError> {
        let body = facts.response(version, status, self.to)?;
        self.keep_alive = facts.keep_alive(version);
        self.body_length = BodyLength::None;
        if status.is_interim() {
            self.interim += 1;
            if self.interim > self.limits.interim_max {
                return Err(ReceiveError::TooManyInterim);
            }
            self.state = State::Head(HeadEnd::default());
            return Ok(());
        }
        match body {
            ResponseBody::Follows(length) => {
                self.body_length = length;
                self.keep_alive &= length != BodyLength::UntilClose;
                self.state = State::body(length);
            }
            ResponseBody::Absent(declared) => {
                self.body_length = declared;
                self.state = State::Ended { told: false };
            }
            ResponseBody::Doubtful => {
                self.keep_alive = false;
                self.state = State::Ended { told: false };
            }
            ResponseBody::Tunnel => {
                if status == StatusCode::SWITCHING_PROTOCOLS && self.upgrade != Upgrade::Asked {
                    return Err(ReceiveError::UnaskedUpgrade);
                }
                self.keep_alive = false;
                self.state = State::Opaque;
            }
        }
        Ok(())
    }

    /// Body bytes without framing.
    fn advance_plain(&mut self, input: &[u8]) -> Step {
        let mut length = input.len();
        if let State::Length { remaining } = &mut self.state {
            length = length.min(usize::try_from(*remaining).unwrap_or(usize::MAX));
            *remaining -= length as u64;
            if *remaining == 0 {
                self.state = State::Ended { told: false };
            }
        }
        if length == 0 {
            return Step::NeedMore { consumed: 0 };
        }
        Step::Data { consumed: length, data: 0..length }
    }

    fn advance_chunked(&mut self, input: &[u8], head: &mut Head) -> Result<Step, ReceiveError> {
        let State::Chunked(chunked) = &mut self.state else { return Ok(Step::NeedMore { consumed: 0 }) };
        let (consumed, next) = chunked.advance(input, &self.limits)?;
        match next {
            Next::NeedMore => Ok(Step::NeedMore { consumed }),
            Next::Data(length) => {
                Ok(Step::Data { consumed: consumed + length, data: consumed..consumed + length })
            }
            Next::Last => {
                self.state = State::Trailers(HeadEnd::default());
                self.advance_trailers(input, consumed, head)
            }
        }
    }

    fn advance_trailers(
        &mut self,
        input: &[u8],
        before: usize,
        head: &mut Head,
    ) -> Result<Step, ReceiveError> {
        let State::Trailers(end) = &mut self.state else { return Ok(Step::NeedMore { consumed: before }) };
        let rest = &input[before..];
        let window = &rest[..rest.len().min(self.limits.trailer_bytes_max)];
        match end.find(window)? {
            None if rest.len() >= self.limits.trailer_bytes_max => Err(ReceiveError::TrailersTooLarge),
            None => Ok(Step::NeedMore { consumed: before }),
            Some(length) => {
                let consumed = before + length;
                if length > b"\r\n".len() {
                    parse::trailers(&rest[..length], &self.limits, head)?;
                }
                let has_fields = length > b"\r\n".len() && head.fields().next().is_some();
                self.state = State::Ended { told: !has_fields };
                Ok(if has_fields { Step::Trailers { consumed } } else { Step::End { consumed } })
            }
        }
    }
}

impl State {
    fn body(length: BodyLength) -> Self {
        match length {
            BodyLength::None | BodyLength::Known(0) => Self::Ended { told: false },
            BodyLength::Known(remaining) => Self::Length { remaining },
            BodyLength::Chunked => Self::Chunked(Chunked::new()),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }
}
