//! One message each way with somebody, whatever carries it: a connection of HTTP/1 or a stream of HTTP/2.
//!
//! The seam between what is done with a request (`http/`) and how it travels. Both ends of a sidecar are an
//! `Exchange`: towards the client it receives a request and sends an answer, towards an endpoint the other
//! way round. Each direction is tracked apart; nothing here decides anything.
//!
//! Poll functions, as one task drives both ends of a request and must be woken by either. A message is
//! received in steps, in place: a piece of a body lies in [`Exchange::input`] until it is consumed.

use std::ops::Range;
use std::task::{Context, Poll};

use meshwork_http::h1::{self, EndOfInput, Receiver, RequestMethod, ResponseTo, Sender};
use meshwork_http::h2::ErrorCode;
use meshwork_http::{BodyLength, Head, StatusCode};

use crate::conn::{Conn, ConnError, Filled, OUTPUT_BYTES_MAX};
use crate::mux::{Broken, Stream};

/// Bytes that a client may send ahead while its request is being answered (pipelining).
const AHEAD_BYTES_MAX: usize = 64 * 1024;

pub(crate) enum Exchange {
    /// Boxed: the pool hands it from request to request.
    Http1(Box<Http1>),
    Http2(Stream),
}

/// A connection that carries one message each way at a time.
pub(crate) struct Http1 {
    pub(crate) conn: Conn,
    pub(crate) receiver: Receiver,
    pub(crate) sender: Sender,
    tunnel: Tunnel,
}

/// Whether the connection switched to another protocol, whose bytes are a body without framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnel {
    No,
    Open,
    /// We said that nothing follows.
    Closing,
}

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The head is filled. After an interim one another follows.
    Head,
    /// `input()[data]`, to be consumed. `last`: only the end follows, and no trailers.
    Data {
        data: Range<usize>,
        consumed: usize,
        last: bool,
    },
    /// The head is filled with the trailers; only the end follows.
    Trailers,
    End,
    /// All that follows is opaque.
    Upgraded,
    /// The other end closed the connection between two messages.
    Closed,
}

/// Why the other end's message will never be whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("{0}")]
    Conn(#[from] ConnError),
    #[error("{0}")]
    Http1(#[from] h1::ReceiveError),
    #[error("{0}")]
    Http2(#[from] Broken),
    /// 101, but not to the key that was sent (RFC 6455, 4.1).
    #[error("the answer to the WebSocket's opening does not prove that it was understood")]
    WebSocket,
}

impl ReceiveError {
    /// What was received is not HTTP, as opposed to its end.
    pub(crate) fn is_protocol(&self) -> bool {
        match self {
            Self::Conn(_) => false,
            Self::Http1(_) | Self::WebSocket => true,
            Self::Http2(broken) => broken.is_protocol(),
        }
    }

    /// The connection ended where it should not have.
    pub(crate) fn ended() -> Self {
        Self::Conn(ConnError::Io(std::io::ErrorKind::UnexpectedEof.into()))
    }
}

fn limits(conn: &Conn) -> h1::Limits {
    if conn.is_of_mesh() { h1::Limits::between_proxies() } else { h1::Limits::default() }
}

impl Exchange {
    /// Towards an endpoint.
    pub(crate) fn to_endpoint(conn: Conn) -> Self {
        let limits = limits(&conn);
        Self::Http1(Box::new(Http1::new(conn, Receiver::responses(limits))))
    }

    /// Towards a client.
    pub(crate) fn to_client(conn: Conn) -> Self {
        let limits = limits(&conn);
        Self::Http1(Box::new(Http1::new(conn, Receiver::requests(limits))))
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// What was received and not consumed.
    pub(crate) fn input(&self) -> &[u8] {
        match self {
            Self::Http1(http1) => http1.conn.input(),
            Self::Http2(stream) => stream.input(),
        }
    }

    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Self::Http1(http1) => http1.conn.consume(count),
            Self::Http2(stream) => stream.consume(count),
        }
    }

    /// The length that the message being received declares.
    pub(crate) fn body_length(&self) -> BodyLength {
        match self {
            Self::Http1(http1) => http1.receiver.body_length(),
            Self::Http2(stream) => stream.body_length(),
        }
    }

    /// Nothing of the message being received is still to come: after a head, that no body follows it.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.receiver.has_ended(),
            Self::Http2(stream) => stream.has_ended(),
        }
    }

    /// Whether the way can carry a further message, as far as whoever is at its other end says.
    pub(crate) fn keep_alive(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.receiver.keep_alive(),
            Self::Http2(_) => true,
        }
    }

    /// Whether the way can carry a further message, as far as we told whoever is at its other end.
    pub(crate) fn stays(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.sender.keep_alive(),
            Self::Http2(_) => true,
        }
    }

    /// Before a wait that does not read here: a small leftover must not hold a large buffer.
    pub(crate) fn settle(&mut self) {
        match self {
            Self::Http1(http1) => http1.conn.settle(),
            Self::Http2(_) => {}
        }
    }

    /// The next thing that was received.
    pub(crate) fn poll_step(
        &mut self,
        head: &mut Head,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Step, ReceiveError>> {
        match self {
            Self::Http1(http1) => http1.poll_step(head, cx),
            Self::Http2(stream) => stream.poll_step(head, cx).map_err(ReceiveError::from),
        }
    }

    /// The client's request is read whole. Ready: it left before its answer was complete.
    ///
    /// On HTTP/1, whatever it sends now is its next request, and its end means that nobody waits for the
    /// answer. A client that only half-closed and would still read is taken for gone too, as nginx and Envoy
    /// do: both look the same, and work for nobody is what piles up under load. (Opaque connections and
    /// upgraded ones keep their half-close.)
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(http1) => {
                let Http1 { conn, .. } = &mut **http1;
                while conn.input().len() < AHEAD_BYTES_MAX {
                    match conn.poll_fill(cx) {
                        Poll::Ready(Ok(Filled::More)) => {}
                        Poll::Ready(Ok(Filled::End) | Err(_)) => return Poll::Ready(()),
                        Poll::Pending => break,
                    }
                }
                Poll::Pending
            }
            Self::Http2(stream) => stream.poll_left(cx),
        }
    }
}

/// Sending. What does not fit waits here; [`Exchange::is_full`] asks whoever produces to wait too.
impl Exchange {
    /// `over`: no body follows, not even an empty one.
    pub(crate) fn send_request(&mut self, head: &Head, length: BodyLength, over: bool) {
        match self {
            Self::Http1(http1) => {
                let Http1 { conn, sender, receiver, .. } = &mut **http1;
                receiver.expect_response_to(RequestMethod::from(head.method()));
                let length = match length {
                    BodyLength::UntilClose => BodyLength::None, // no request has this
                    length => length,
                };
                let written = sender.request(head, length, conn.output());
                debug_assert!(written.is_ok(), "a connection in the middle of a request");
            }
            Self::Http2(stream) => stream.send_request(head, length, over),
        }
    }

    /// An interim answer, told at once.
    pub(crate) fn send_interim(&mut self, head: &Head, to: ResponseTo) {
        match self {
            Self::Http1(http1) => {
                let Http1 { conn, sender, .. } = &mut **http1;
                let written = sender.interim(head, to, conn.output());
                debug_assert!(written.is_ok(), "an interim head between two messages");
            }
            Self::Http2(stream) => stream.send_response(head, BodyLength::None, false),
        }
    }

    /// A final answer's head. `over`: no body follows. `keep_alive`: the connection may go on after it.
    pub(crate) fn send_response(
        &mut self,
        head: &Head,
        length: BodyLength,
        to: ResponseTo,
        over: bool,
        keep_alive: bool,
    ) {
        match self {
            Self::Http1(http1) => {
                let Http1 { conn, sender, .. } = &mut **http1;
                let written = sender.response(head, length, to, keep_alive, conn.output());
                debug_assert!(written.is_ok(), "an answer between two messages");
            }
            Self::Http2(stream) => {
                let bodiless = to.method == RequestMethod::Head
                    || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                stream.send_response(head, length, over || bodiless);
            }
        }
    }

    /// A piece of a body. `last`: only the end follows, and no trailers.
    pub(crate) fn send_data(&mut self, piece: &[u8], last: bool) {
        match self {
            Self::Http1(http1) if http1.tunnel != Tunnel::No => {
                http1.conn.output().extend_from_slice(piece);
            }
            Self::Http1(http1) => {
                let Http1 { conn, sender, .. } = &mut **http1;
                // The receiver checked the same length that the sender promised.
                let sent = sender.data(piece, conn.output());
                debug_assert!(sent.is_ok(), "received more than declared");
            }
            Self::Http2(stream) => stream.send_data(piece, last),
        }
    }

    /// The message's end; nothing if that was said already.
    pub(crate) fn send_end(&mut self, trailers: Option<&Head>) {
        match self {
            Self::Http1(http1) if http1.tunnel != Tunnel::No => http1.tunnel = Tunnel::Closing,
            Self::Http1(http1) => {
                let Http1 { conn, sender, .. } = &mut **http1;
                if !sender.is_ended() {
                    let ended = sender.end(trailers, conn.output());
                    debug_assert!(ended.is_ok(), "received less than declared");
                }
            }
            Self::Http2(stream) => stream.send_end(trailers),
        }
    }

    /// So much waits to be sent that whoever produces it should wait.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.conn.unsent() >= OUTPUT_BYTES_MAX,
            Self::Http2(stream) => stream.is_full(),
        }
    }

    /// Everything that was sent is out of our hands.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.conn.unsent() == 0,
            Self::Http2(stream) => stream.is_flushed(),
        }
    }

    /// Error: the other end takes no more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReceiveError>> {
        match self {
            Self::Http1(http1) => http1.poll_flush(cx),
            Self::Http2(stream) => stream.poll_flush(cx).map_err(ReceiveError::from),
        }
    }

    /// What was sent can't be completed, and its reader must not take it for whole.
    pub(crate) fn reset(&mut self, code: ErrorCode) {
        match self {
            Self::Http1(http1) => http1.conn.abort(),
            Self::Http2(stream) => stream.reset(code),
        }
    }
}

impl Http1 {
    fn new(conn: Conn, receiver: Receiver) -> Self {
        Self { conn, receiver, sender: Sender::new(), tunnel: Tunnel::No }
    }

    /// From here on bytes pass as they are, as two bodies: the other protocol that 101 switched to.
    pub(crate) fn open_tunnel(&mut self) {
        self.tunnel = Tunnel::Open;
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, ReceiveError>> {
        loop {
            let waiting = self.conn.input().len();
            if waiting > 0 {
                let data = 0..waiting;
                return Poll::Ready(Ok(Step::Data { data, consumed: waiting, last: false }));
            }
            match self.conn.poll_fill(cx)? {
                Poll::Ready(Filled::More) => {}
                Poll::Ready(Filled::End) => return Poll::Ready(Ok(Step::End)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReceiveError>> {
        match self.tunnel {
            Tunnel::No | Tunnel::Open => self.conn.poll_flush(cx).map_err(ReceiveError::from),
            Tunnel::Closing => self.conn.poll_shutdown(cx).map_err(ReceiveError::from),
        }
    }

    fn poll_step(&mut self, head: &mut Head, cx: &mut Context<'_>) -> Poll<Result<Step, ReceiveError>> {
        if self.tunnel != Tunnel::No {
            return self.poll_tunnel(cx);
        }
        loop {
            let Self { conn, receiver, .. } = self;
            let (step, consumed) = match receiver.advance(conn.input(), head)? {
                h1::Step::NeedMore { consumed } => {
                    conn.consume(consumed);
                    match conn.poll_fill(cx)? {
                        Poll::Ready(Filled::More) => continue,
                        Poll::Ready(Filled::End) => return Poll::Ready(self.end_of_input()),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                h1::Step::Data { consumed, data } => {
                    return Poll::Ready(Ok(Step::Data { data, consumed, last: receiver.has_ended() }));
                }
                h1::Step::Head { consumed } => (Step::Head, consumed),
                h1::Step::Trailers { consumed } => (Step::Trailers, consumed),
                h1::Step::End { consumed } => (Step::End, consumed),
                h1::Step::Upgraded { consumed } => (Step::Upgraded, consumed),
            };
            conn.consume(consumed);
            return Poll::Ready(Ok(step));
        }
    }

    fn end_of_input(&mut self) -> Result<Step, ReceiveError> {
        match self.receiver.end_of_input(self.conn.input().len()) {
            Ok(EndOfInput::BodyEnd) => Ok(Step::End),
            Ok(EndOfInput::Clean) => Ok(Step::Closed),
            // For whoever waits it is one thing: the connection ended too early.
            Err(_) => Err(ReceiveError::ended()),
        }
    }
}
