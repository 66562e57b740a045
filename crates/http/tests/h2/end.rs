//! One end of a connection as a driver has it: the engine, the bytes on their way, and the exchanges that it carries out.
//!
//! It checks every step that the engine tells against the list of exchanges, uses streams' indices as a proxy does, and
//! sends on a stream that was out of room only after the engine has said that there is some. Which of its streams goes
//! on, and by how much, is drawn; no I/O.

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
}

/// What comes in.
impl End {
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), ConnectionError> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        let result = loop {
            let step = match self.engine.advance(&self.input[at..], &mut self.head, now, &mut self.out) {
                Ok(step) => step,
                Err(error) => break Err(error),
            };
            assert!(at + step.consumed() <= self.input.len(), "consumed more than was shown");
            let start = at;
            at += step.consumed();
            if let Step::NeedMore { .. } = step {
                break Ok(());
            }
            self.step(start, step);
        };
        self.input.drain(..at);
        if at > 0 {
            self.start = Start::AtOnce;
        }
        if let Err(error) = result {
            assert_eq!(*self.error.get_or_insert(error), error, "an error stays");
            self.tally.errors += 1;
            assert!(!self.engine.can_open());
        }
        result
    }

    fn step(&mut self, start: usize, step: Step) {
        match step {
            Step::NeedMore { .. } => {}
            Step::Head { stream, end, .. } => match self.side {
                Side::Client => self.response(stream, end),
                Side::Server => self.request(stream, end),
            },
            Step::Data { stream, data, end, .. } => {
                self.data(stream, start + data.start..start + data.end, end)
            }
            Step::Trailers { stream, .. } => self.trailers(stream),
            Step::Reset { stream, reset, .. } => self.reset(stream, reset),
            Step::Refused { reason, .. } => {
                assert_eq!(self.side, Side::Server);
                assert!(reason == Reason::TooManyStreams || self.wire == Wire::Corrupt, "{reason:?}");
                self.tally.refused += 1;
            }
            Step::Writable { stream, .. } => {
                let streams = self.streams.iter_mut().flatten();
                streams
                    .filter(|held| stream.is_none_or(|stream| stream == held.id))
                    .for_each(|held| held.room = Room::Perhaps);
            }
            Step::GoAway { .. } => {
                assert!(!self.engine.can_open());
                self.going_away = true;
            }
        }
    }

    fn request(&mut self, id: StreamId, end: bool) {
        assert!(self.told.insert(id.number()), "one stream twice");
        let exchange = match Exchange::number(self.head.path_and_query()) {
            Some(number) if number < self.exchanges.len() => number,
            _ => return self.unknown(id),
        };
        let expect = &self.exchanges[exchange];
        if self.wire == Wire::Faithful {
            assert_eq!(self.head.kind(), Kind::Request);
            assert_eq!((self.head.method(), self.head.protocol()), (expect.method, expect.protocol));
            assert_eq!(self.head.path_and_query(), expect.path);
            assert_eq!(self.head.authority(), Some(&*expect.authority));
            assert_eq!(self.head.scheme(), "http");
            let expect_fields = self.order.of(expect.request_seen().fields);
            assert_eq!(without_host(self.order.of(fields_seen(&self.head))), expect_fields);
            let declared = self.engine.body_length(id);
            check_declared(declared, &expect.request, end);
        }
        self.hold(Stream::new(id, exchange));
        self.stream(id).received.head = true;
        self.stream(id).received.ended = end;
    }

    fn response(&mut self, id: StreamId, end: bool) {
        let exchange = self.stream(id).exchange;
        let expect = &self.exchanges[exchange];
        let status = self.head.status().as_u16();
        let received = &mut self.streams[id.index()].as_mut().expect("held").received;
        if self.head.status().is_interim() {
            assert!(!end && !received.head);
            if self.wire == Wire::Faithful {
                assert_eq!(Some(&status), expect.interim.get(received.interim));
            }
            received.interim += 1;
            return;
        }
        assert!(!received.head, "a second final head");
        received.head = true;
        received.ended = end;
        if self.wire == Wire::Faithful {
            assert_eq!((received.interim, status), (expect.interim.len(), expect.status));
            let fields = self.order.of(fields_seen(&self.head));
            assert_eq!(fields, self.order.of(expect.response.fields.clone()));
            let declared = self.engine.body_length(id);
            if expect.has_response_body() {
                check_declared(declared, &expect.response, end);
            } else {
                assert!(end);
                check_absent(declared, expect);
            }
        }
    }

    fn data(&mut self, id: StreamId, data: std::ops::Range<usize>, end: bool) {
        let (exchanges, side, wire) = (self.exchanges.clone(), self.side, self.wire);
        let length = data.len();
        assert!(length > 0 || end, "empty, and nothing ends");
        let stream = self.streams[id.index()].as_mut().expect("data of a stream that nobody holds");
        assert_eq!(stream.id, id);
        assert!(stream.received.head && !stream.received.ended && stream.reset.is_none());
        let expect = incoming(&exchanges[stream.exchange], side);
        let (from, bytes) = (stream.received.bytes, &self.input[data]);
        stream.received.bytes += length;
        stream.received.ended = end;
        stream.untaken += length;
        if wire == Wire::Faithful {
            assert!(expect.has(from, bytes), "exchange {}: not its bytes at {from}", stream.exchange);
            assert!(!end || (stream.received.bytes == expect.body.len() && expect.trailers.is_empty()));
        }
    }

    fn trailers(&mut self, id: StreamId) {
        let (exchanges, side, wire) = (self.exchanges.clone(), self.side, self.wire);
        let seen = fields_seen(&self.head);
        let kind = self.head.kind();
        let stream = self.stream(id);
        assert!(stream.received.head && !stream.received.ended && stream.reset.is_none());
        stream.received.ended = true;
        if wire == Wire::Faithful {
            let expect = incoming(&exchanges[stream.exchange], side);
            assert_eq!((kind, seen), (Kind::Trailers, expect.trailers.clone()));
            assert_eq!(stream.received.bytes, expect.body.len());
        }
    }

    fn reset(&mut self, id: StreamId, reset: Reset) {
        let (side, wire) = (self.side, self.wire);
        if reset.certainty == Certainty::NotProcessed {
            assert_eq!(side, Side::Client, "only a client asks what became of its request");
            self.not_processed.insert(id.number());
        }
        self.tally.resets += 1;
        self.tally.not_processed += usize::from(reset.certainty == Certainty::NotProcessed);
        if let (By::Us(reason), Wire::Faithful) = (reset.by, wire) {
            panic!("nothing was wrong: {reason:?}");
        }
        let stream = self.stream(id);
        assert!(
            stream.reset.is_none() && !(stream.sent.ended && stream.received.ended),
            "it was over before"
        );
        stream.reset = Some(reset);
    }

    /// A request that only a corrupted connection can have brought.
    fn unknown(&mut self, id: StreamId) {
        assert_eq!(self.wire, Wire::Corrupt, "{}", self.head.path_and_query());
        self.engine.release(id, &mut self.out);
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

/// What goes out. Each returns whether there was anything to do.
impl End {
    /// One small thing on one stream.
    pub(crate) fn act(&mut self, random: &mut Random, now: Instant) -> bool {
        if self.error.is_some() {
            return false;
        }
        let index = random.below(self.streams.len() + 1);
        match self.streams.get(index) {
            None => self.open(random),
            Some(None) => false,
            Some(Some(stream)) => {
                let id = stream.id;
                match random.below(4) {
                    0 => self.take(id, 1 + random.below(5_000), now),
                    1 => self.finish(id),
                    _ => self.send(id, random),
                }
            }
        }
    }

    /// Everything that can be done at once, on all streams.
    pub(crate) fn act_all(&mut self, random: &mut Random, now: Instant) -> bool {
        if self.error.is_some() {
            return false;
        }
        let mut acted = false;
        for index in 0..self.streams.len() {
            let id = |end: &Self| end.streams[index].as_ref().map(|stream| stream.id);
            while id(self).is_some_and(|id| self.send(id, random)) {
                acted = true;
            }
            acted |= id(self).is_some_and(|id| self.take(id, usize::MAX, now));
            acted |= id(self).is_some_and(|id| self.finish(id));
        }
        while self.open(random) {
            acted = true;
        }
        acted
    }

    /// Client: the next request.
    fn open(&mut self, random: &mut Random) -> bool {
        let Some(&exchange) = self.waiting.front().filter(|_| self.start == Start::AtOnce) else {
            return false;
        };
        let request = &self.exchanges[exchange].request;
        self.exchanges[exchange].request_head(&mut self.head);
        let end = request.body.len() == 0
            && request.trailers.is_empty()
            && (request.body == Body::None || random.once_in(2));
        let can_open = self.engine.can_open();
        match self.engine.request(&self.head, request.body.declared(), end, &mut self.out) {
            Ok(id) => {
                assert!(can_open && id.number() % 2 == 1);
                self.waiting.pop_front();
                self.hold(Stream::new(id, exchange));
                self.stream(id).sent = Sent { head: true, ended: end, ..Sent::default() };
                true
            }
            // It may be that the server has not said yet what it takes.
            Err(NotOpened::NoConnectProtocol) if !self.engine.peer_takes_connect_protocol() => false,
            Err(error) => {
                assert!(!can_open, "{error}");
                false
            }
        }
    }

    fn send(&mut self, id: StreamId, random: &mut Random) -> bool {
        let side = self.side;
        let exchanges = self.exchanges.clone();
        let stream = self.streams[id.index()].as_mut().expect("held");
        let exchange = &exchanges[stream.exchange];
        if stream.reset.is_some() || stream.sent.ended || stream.room == Room::None {
            return false;
        }
        if !stream.sent.head {
            if stream.sent.interim < exchange.interim.len() {
                let status = StatusCode::new(exchange.interim[stream.sent.interim]).unwrap();
                self.head.start_response(Version::Http11, status, b"");
                self.engine.response(id, &self.head, BodyLength::None, false, &mut self.out).unwrap();
                stream.sent.interim += 1;
                return true;
            }
            let response = &exchange.response;
            exchange.response_head(&mut self.head);
            let is_empty = response.body.len() == 0 && response.trailers.is_empty();
            let end = is_empty && (response.body == Body::None || random.once_in(2));
            self.engine.response(id, &self.head, response.body.declared(), end, &mut self.out).unwrap();
            // Where no body can be a driver may say it all the same; its bytes are dropped.
            stream.sent.head = true;
            stream.sent.ended = end || (!exchange.has_response_body() && random.once_in(2));
            return true;
        }
        let message = outgoing(exchange, side);
        let piece = message.piece(stream.sent.bytes, piece_length(random));
        let is_last = stream.sent.bytes + piece.len() == message.body.len();
        let is_bare = exchange.has_response_body() || side == Side::Client;
        let capacity = self.engine.capacity(id);
        if piece.is_empty() {
            trailers_head(&message.trailers, &mut self.head);
            let trailers = (!message.trailers.is_empty() || random.once_in(2)).then_some(&self.head);
            self.engine.trailers(id, trailers, &mut self.out).unwrap();
            stream.sent.ended = true;
            return true;
        }
        let end = is_last && message.trailers.is_empty() && random.once_in(2);
        let taken = self.engine.data(id, piece, end, &mut self.out).unwrap();
        if is_bare {
            assert_eq!(taken, piece.len().min(capacity), "what fits the windows is taken");
        }
        stream.sent.bytes += taken;
        if taken < piece.len() {
            stream.room = Room::None;
            self.tally.out_of_room += 1;
        } else {
            stream.sent.ended = end;
        }
        taken > 0
    }

    /// The application takes some of what came.
    fn take(&mut self, id: StreamId, bytes: usize, now: Instant) -> bool {
        let stream = self.streams[id.index()].as_mut().expect("held");
        let bytes = bytes.min(stream.untaken);
        stream.untaken -= bytes;
        if bytes > 0 {
            self.engine.consumed(id, bytes, now, &mut self.out);
        }
        bytes > 0
    }

    /// Lets a stream go that is over, or that this end wants no more of.
    fn finish(&mut self, id: StreamId) -> bool {
        let stream = self.streams[id.index()].as_ref().expect("held");
        let exchange = &self.exchanges[stream.exchange];
        let trouble = exchange.trouble;
        let is_over = stream.sent.ended && stream.received.ended && stream.untaken == 0;
        let gives_up = match (self.side, trouble) {
            (Side::Client, Trouble::ClientCancels { received }) => stream.received.bytes >= received,
            (Side::Server, Trouble::ServerResets { received }) => stream.received.bytes >= received,
            (Side::Server, Trouble::ServerAnswersEarly) => stream.sent.ended,
            _ => false,
        };
        if !is_over && !gives_up && stream.reset.is_none() {
            return false;
        }
        let stream = self.streams[id.index()].take().expect("held");
        let resets = gives_up && !is_over && stream.reset.is_none() && trouble != Trouble::ServerAnswersEarly;
        if resets && id.number() % 4 == 1 {
            self.engine.reset(id, ErrorCode::CANCEL, &mut self.out);
            let late = self.engine.data(id, b"late", false, &mut self.out);
            // Bytes of a body that cannot be are dropped, also late.
            let has_body = self.side == Side::Client || exchange.has_response_body();
            assert!(late == Err(SendError::Closed) || !has_body);
        }
        self.engine.release(id, &mut self.out);
        self.settle(&stream);
        true
    }

    fn settle(&mut self, stream: &Stream) {
        let is_unprocessed = stream.reset.is_some_and(|reset| reset.certainty == Certainty::NotProcessed);
        if is_unprocessed && !self.going_away && self.wire == Wire::Faithful {
            self.waiting.push_back(stream.exchange);
            return;
        }
        let progress = |ended| if ended { Progress::Whole } else { Progress::Cut };
        let outcome = Outcome {
            sent: progress(stream.sent.ended),
            received: progress(stream.received.ended),
            reset: stream.reset,
        };
        let place = &mut self.outcomes[stream.exchange];
        assert!(place.is_none() || self.wire == Wire::Corrupt, "one exchange was carried out twice");
        *place = Some(outcome);
        self.tally.whole +=
            usize::from((outcome.sent, outcome.received) == (Progress::Whole, Progress::Whole));
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

/// The message that this end reads.
fn incoming(exchange: &Exchange, side: Side) -> &Message {
    match side {
        Side::Client => &exchange.response,
        Side::Server => &exchange.request,
    }
}

fn outgoing(exchange: &Exchange, side: Side) -> &Message {
    match side {
        Side::Client => &exchange.request,
        Side::Server => &exchange.response,
    }
}

fn without_host(mut fields: Fields) -> Fields {
    fields.retain(|(name, _)| name != "host");
    fields
}

fn check_declared(declared: BodyLength, message: &Message, end: bool) {
    let expect = match message.body {
        Body::Known(length) => BodyLength::Known(length as u64),
        _ if end => BodyLength::None,
        Body::None | Body::Chunked(_) => BodyLength::Chunked,
    };
    assert_eq!(declared, expect);
}

/// To HEAD and in a 304 the length that another answer would have had; in a 204 none.
fn check_absent(declared: BodyLength, exchange: &Exchange) {
    let expect = match exchange.response.body {
        Body::Known(length) if exchange.status != 204 => BodyLength::Known(length as u64),
        _ => BodyLength::None,
    };
    assert_eq!(declared, expect, "{exchange:?}");
}

fn piece_length(random: &mut Random) -> usize {
    match random.below(6) {
        0 => 1 + random.below(60_000),
        1 => 1,
        _ => 1 + random.below(2_000),
    }
}
