//! One end of a connection as a driver has it: the engine, the bytes on their way, and the exchanges that it carries out.
//!
//! It checks every step that the engine tells against the list of exchanges, uses streams' indices as a proxy does, and
//! sends on a stream that was out of room only after the engine has said that there is some. Which of its streams goes
//! on, and by how much, is drawn; no I/O.

mod incoming;
mod outgoing;

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use meshwork_http::h2::{
    By, Certainty, Connection, ConnectionError, ErrorCode, Limits, NotOpened, Reason, Reset, SendError, Step,
    StreamId,
};
use meshwork_http::{BodyLength, Head, Instant, Kind, StatusCode, Version};

use crate::exchange::{Body, Exchange, Fields, Message, Trouble, fields_seen, trailers_head};
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Whether the bytes that come are those that the other end sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Faithful,
    Corrupt,
}

/// Whether the other end keeps the order of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Kept,
    /// Those of one name are put together.
    Grouped,
}

/// When a client asks for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    AtOnce,
    /// When the server has announced how many streams it takes.
    AfterSettings,
}

/// How an exchange went, as this end saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) sent: Progress,
    pub(crate) received: Progress,
    pub(crate) reset: Option<Reset>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Whole,
    Cut,
}

pub(crate) struct End {
    side: Side,
    pub(crate) engine: Connection,
    /// Bytes that came and are not consumed.
    input: Vec<u8>,
    /// Bytes to be sent.
    pub(crate) out: Vec<u8>,
    head: Head,
    exchanges: Rc<[Exchange]>,
    /// Client: those that are still to be asked for.
    waiting: VecDeque<usize>,
    /// By the stream's index.
    streams: Vec<Option<Stream>>,
    pub(crate) outcomes: Vec<Option<Outcome>>,
    /// Numbers of the streams that were told to (server), and that were said not to be processed (client).
    pub(crate) told: BTreeSet<u32>,
    pub(crate) not_processed: BTreeSet<u32>,
    pub(crate) going_away: bool,
    pub(crate) wire: Wire,
    pub(crate) order: Order,
    pub(crate) start: Start,
    /// The most streams that were held at once.
    held_max: usize,
    error: Option<ConnectionError>,
    pub(crate) tally: Tally,
}

/// How often things happened that a test must have seen, or it shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) whole: usize,
    pub(crate) out_of_room: usize,
    pub(crate) refused: usize,
    pub(crate) resets: usize,
    pub(crate) not_processed: usize,
    pub(crate) index_again: usize,
    pub(crate) errors: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.out_of_room += other.out_of_room;
        self.refused += other.refused;
        self.resets += other.resets;
        self.not_processed += other.not_processed;
        self.index_again += other.index_again;
        self.errors += other.errors;
    }
}

struct Stream {
    id: StreamId,
    exchange: usize,
    sent: Sent,
    received: Received,
    /// Received and not taken by the application.
    untaken: usize,
    reset: Option<Reset>,
    room: Room,
}

#[derive(Default)]
struct Sent {
    interim: usize,
    head: bool,
    bytes: usize,
    ended: bool,
}

#[derive(Default)]
struct Received {
    interim: usize,
    head: bool,
    bytes: usize,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Perhaps,
    /// Until the engine says `Writable`.
    None,
}

impl End {
    pub(crate) fn new(side: Side, limits: Limits, exchanges: Rc<[Exchange]>) -> Self {
        let mut out = Vec::new();
        let (engine, waiting) = match side {
            Side::Client => (Connection::client(limits, &mut out), (0..exchanges.len()).collect()),
            Side::Server => (Connection::server(limits, &mut out), VecDeque::new()),
        };
        Self {
            side,
            engine,
            input: Vec::new(),
            out,
            head: Head::default(),
            waiting,
            streams: Vec::new(),
            outcomes: vec![None; exchanges.len()],
            exchanges,
            told: BTreeSet::new(),
            not_processed: BTreeSet::new(),
            going_away: false,
            wire: Wire::Faithful,
            order: Order::Kept,
            start: Start::AtOnce,
            held_max: 0,
            error: None,
            tally: Tally::default(),
        }
    }

    /// All exchanges were carried out, as far as this end can tell.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.streams.iter().all(Option::is_none)
    }

    /// Nothing may be left behind.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.engine.open_streams(), 0, "{:?}", self.side);
        assert_eq!(self.input, b"", "{:?}: all input is read", self.side);
        assert!(self.streams.len() <= self.held_max, "an index was not used again");
        assert_eq!(self.engine.is_finished(), self.engine.is_draining());
    }

    fn stream(&mut self, id: StreamId) -> &mut Stream {
        let stream = self.streams[id.index()].as_mut().expect("a stream that nobody holds");
        assert_eq!(stream.id, id, "an index that stands for another stream");
        stream
    }

    fn hold(&mut self, stream: Stream) {
        let index = stream.id.index();
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, || None);
        } else {
            self.tally.index_again += 1;
        }
        assert!(self.streams[index].is_none(), "an index was used again before its release");
        self.streams[index] = Some(stream);
        self.held_max = self.held_max.max(self.streams.iter().flatten().count());
    }
}

impl Order {
    fn of(self, mut fields: Fields) -> Fields {
        match self {
            Self::Kept => {}
            Self::Grouped => fields.sort_by(|one, other| one.0.cmp(&other.0)),
        }
        fields
    }
}

impl Stream {
    fn new(id: StreamId, exchange: usize) -> Self {
        let (sent, received) = (Sent::default(), Received::default());
        Self { id, exchange, sent, received, untaken: 0, reset: None, room: Room::Perhaps }
    }
}
