//! A connection of HTTP/2, driven: one task owns it, others use its streams.
//!
//! ```text
//!                     users: a task for each client's connection, or for each served stream
//!                       │  ▲
//!   send_*: frames are  │  │  poll_step: heads and pieces that were received,
//!   appended, and the   │  │  from the stream's slot
//!   owner is woken once ▼  │
//!              ┌───────────────────────┐
//!              │  engine   slots       │   the owner's turn (`owner.rs`):
//!              │  output   input       │   1. encrypt and write all that was appended since the last one
//!              └───────────────────────┘   2. read, decrypt, take apart; wake whoever got something
//!                       │  ▲               3. back to the end of the queue: those who were woken append
//!                       ▼  │                  their answers before the next turn writes them all at once
//!                       socket
//! ```
//!
//! The batching needs no timer: a runtime of one thread polls in the order of waking, so the owner's next
//! turn comes after everybody who was ready.
//!
//! | file | what |
//! |---|---|
//! | `owner.rs` | the turn of the loop: what is read, written, and in which order |
//! | `slot.rs` | what waits for a stream's user, and what its user has waiting |
//! | `stream.rs` | a user's hold on a stream |
//! | `serve.rs` | the server's end: a task for each stream that is being served |
//!
//! The protocol is `meshwork_http::h2`; which connection a request takes is `pool.rs`.

mod owner;
mod serve;
mod slot;
mod stream;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_http::Head;
use meshwork_http::h2::{self, By, Certainty, Connection, Limits};

pub(crate) use serve::serve;
pub(crate) use stream::Stream;

use crate::clock::WorkerClock;
use crate::conn::Conn;
use crate::telemetry::{Event, Registry};
use crate::worker::Worker;
use slot::Slots;

/// Between sidecars: with streams open and nothing heard for so long, the peer is asked whether it lives. It is
/// given up after as long without an answer.
const PING_AFTER: Duration = Duration::from_secs(5);

/// A client's connection without streams is closed after this: shorter than what servers commonly allow.
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(60);

/// A server's connection without streams. Clients keep one for a long time on purpose.
const SERVER_IDLE_MAX: Duration = Duration::from_secs(3_600);

/// For the last frames, once nothing else is to be said.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A stream that moved more than this is bulk: its connection takes no further requests while others do, so
/// that small ones need not wait behind it.
const BULK_BYTES: u64 = 1024 * 1024;

/// Why a stream broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{}", reset_text(.0))]
    Reset(h2::Reset),
    #[error("the connection broke: {0}")]
    Lost(Arc<str>),
    /// The other end answered the connection's first bytes so; it took nothing for a request.
    #[error("it answers in HTTP/1")]
    Http1,
    /// Nothing was sent: the connection takes no further streams.
    #[error("the connection takes no further requests")]
    NotOpened,
}

impl Broken {
    /// The connection's end took the stream along; another connection may fare better.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::Reset(reset) => reset.certainty == Certainty::NotProcessed,
            Self::Lost(_) | Self::NotOpened => true,
            Self::Http1 => false,
        }
    }

    /// What the other end sent is not HTTP.
    pub(crate) fn is_protocol(&self) -> bool {
        match self {
            Self::Reset(reset) => matches!(reset.by, By::Us(_)),
            Self::Http1 => true,
            Self::Lost(_) | Self::NotOpened => false,
        }
    }

    pub(crate) fn certainty(&self) -> Certainty {
        match self {
            Self::Reset(reset) => reset.certainty,
            Self::Lost(_) => Certainty::Unknown,
            Self::Http1 | Self::NotOpened => Certainty::NotProcessed,
        }
    }
}

fn reset_text(reset: &h2::Reset) -> String {
    match reset.by {
        By::Peer => format!("the stream was reset with {}", reset.code),
        By::Us(reason) => reason.to_string(),
    }
}

/// What owner and users share.
pub(crate) struct Mux(RefCell<Inner>);

struct Inner {
    engine: Connection,
    conn: Conn,
    clock: Rc<WorkerClock>,
    registry: Arc<Registry>,
    end: End,
    /// Without a request for so long it ends.
    idle_max: Duration,
    slots: Slots,
    /// Scratch for what the engine decodes.
    head: Head,
    /// The owner, to be woken once between two of its turns.
    owner: Option<Waker>,
    woken: bool,
    heard: Instant,
    /// The other end's SETTINGS came.
    greeted: bool,
    awaiting_greeting: Vec<Waker>,
    /// Streams open now that moved more than [`BULK_BYTES`].
    bulk: usize,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

#[derive(Clone, Debug)]
enum Life {
    Open,
    /// The owner is to say farewell and end, whatever is open.
    Failed(Arc<str>),
    Over(Arc<str>),
}

impl Mux {
    fn new(mut conn: Conn, end: End, idle_max: Duration, worker: &Worker) -> Rc<Self> {
        let limits = if conn.is_of_mesh() { Limits::between_proxies() } else { Limits::default() };
        let engine = match end {
            End::Client => Connection::client(limits, conn.output()),
            End::Server => Connection::server(limits, conn.output()),
        };
        Rc::new(Self(RefCell::new(Inner {
            engine,
            conn,
            clock: worker.clock.clone(),
            registry: worker.registry.clone(),
            end,
            idle_max,
            slots: Slots::default(),
            head: Head::default(),
            owner: None,
            woken: false,
            heard: worker.now(),
            greeted: false,
            awaiting_greeting: Vec::new(),
            bulk: 0,
            life: Life::Open,
        })))
    }

    /// Speaks HTTP/2 as a client. `idle`: of a policy; `None`: our own limit.
    pub(crate) fn client(conn: Conn, idle: Option<Duration>, worker: &Worker) -> Rc<Self> {
        Self::new(conn, End::Client, idle.unwrap_or(CLIENT_IDLE_MAX), worker)
    }

    /// Speaks HTTP/2 as a server.
    fn server(conn: Conn, worker: &Worker) -> Rc<Self> {
        Self::new(conn, End::Server, SERVER_IDLE_MAX, worker)
    }

    /// Another request may begin here.
    pub(crate) fn can_open(&self) -> bool {
        let inner = self.0.borrow();
        matches!(inner.life, Life::Open) && inner.engine.can_open()
    }

    /// It carries a bulk body just now.
    pub(crate) fn is_bulky(&self) -> bool {
        self.0.borrow().bulk > 0
    }

    /// Streams that are open.
    pub(crate) fn load(&self) -> usize {
        self.0.borrow().engine.open_streams()
    }

    /// Whether the other end takes extended CONNECT (RFC 8441); known once its first frame is there.
    pub(crate) async fn takes_connect_protocol(&self) -> bool {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.greeted || !matches!(inner.life, Life::Open) {
                return Poll::Ready(inner.engine.peer_takes_connect_protocol());
            }
            inner.awaiting_greeting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends a connection that has nothing to do. `false`: it has, or ends already.
    pub(crate) fn dismiss(&self) -> bool {
        let is_idle = {
            let inner = self.0.borrow();
            matches!(inner.life, Life::Open)
                && inner.engine.open_streams() == 0
                && !inner.engine.is_draining()
        };
        if is_idle {
            self.drain();
        }
        is_idle
    }

    /// Takes nothing new, finishes what runs, then ends.
    pub(crate) fn drain(&self) {
        let mut inner = self.0.borrow_mut();
        let Inner { engine, conn, .. } = &mut *inner;
        engine.drain(conn.output());
        inner.wake_owner();
    }

    /// Now and then: is the peer alive, is the connection needed, does what it proved still hold?
    pub(crate) fn tick(&self, now: Instant) {
        let mut inner = self.0.borrow_mut();
        let silent = now.since(inner.heard);
        let idle_max = inner.idle_max;
        let Inner { engine, conn, .. } = &mut *inner;
        if conn.is_outdated(now) && !engine.is_draining() {
            engine.drain(conn.output());
            inner.wake_owner();
            return;
        }
        if engine.open_streams() == 0 {
            if silent > idle_max && !engine.is_draining() {
                engine.drain(conn.output());
                inner.wake_owner();
            } else if engine.is_draining() && silent > PING_AFTER {
                // Whoever is there answers, and closes.
                inner.life = Life::Failed("told to go, the other end said nothing".into());
                inner.wake_owner();
            }
        } else if conn.tls().is_none() {
            // An application on this machine that ends is heard of; and servers of gRPC take a PING every
            // few seconds for abuse (gRFC A8).
        } else if let Some(sent) = engine.ping_sent() {
            if now.since(sent) > PING_AFTER && silent > PING_AFTER {
                inner.registry.count(Event::Http2Silent);
                let reason = format!("no answer to a PING within {} s", PING_AFTER.as_secs());
                inner.life = Life::Failed(reason.into());
                inner.wake_owner();
            }
        } else if silent > PING_AFTER {
            engine.ping(now, conn.output());
            inner.wake_owner();
        }
    }
}

impl Inner {
    fn wake_owner(&mut self) {
        if !self.woken {
            self.woken = true;
            if let Some(owner) = &self.owner {
                owner.wake_by_ref();
            }
        }
    }
}
