//! The connection's tests: one end against frames made by hand, or both ends against each other.

mod conversation;
mod ending;
mod floods;
mod flow;
mod frames;

use super::frame::{self, FrameHead, HEAD_BYTES, Kind};
use super::hpack::{Decoder, Encoder, Indexing};
use super::*;
use crate::{BodyLength, Head, Instant, StatusCode, Version};

/// What an end told, in a form that tests compare.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// Number, first line and fields, and whether no body follows.
    Head(u32, String, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, String),
    Reset(u32, Reset),
    Refused(Reason),
    Writable(Option<u32>),
    GoAway(u32, ErrorCode),
}

/// One end, with what its driver would hold.
struct End {
    connection: Connection,
    input: Vec<u8>,
    head: Head,
    out: Vec<u8>,
    now: Instant,
    /// By number.
    streams: std::collections::BTreeMap<u32, StreamId>,
}

impl End {
    fn client() -> Self {
        Self::new(|out| Connection::client(Limits::default(), out))
    }

    fn server() -> Self {
        Self::new(|out| Connection::server(Limits::default(), out))
    }

    fn new(make: impl FnOnce(&mut Vec<u8>) -> Connection) -> Self {
        let mut out = Vec::new();
        let connection = make(&mut out);
        let (input, head, now) = (Vec::new(), Head::default(), Instant::default());
        Self { connection, input, head, out, now, streams: Default::default() }
    }

    /// A server that has seen the preface and SETTINGS of its client, and was read.
    fn greeted_server() -> Self {
        let mut server = Self::server();
        server.take(&[&frame::PREFACE[..], &frame(Kind::Settings, 0, 0, b"")].concat()).unwrap();
        server.out.clear();
        server
    }

    /// A client that has seen its server's SETTINGS, and was read.
    fn greeted_client() -> Self {
        let mut client = Self::client();
        client.take(&frame(Kind::Settings, 0, 0, b"")).unwrap();
        client.out.clear();
        client
    }

    /// Takes bytes; everything that they told.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ConnectionError> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        loop {
            let step = self.connection.advance(&self.input, &mut self.head, self.now, &mut self.out)?;
            let consumed = step.consumed();
            let event = match step {
                Step::NeedMore { .. } => None,
                Step::Head { stream, end, .. } => {
                    self.streams.insert(stream.number(), stream);
                    Some(Event::Head(stream.number(), text(&self.head), end))
                }
                Step::Data { stream, data, end, .. } => {
                    Some(Event::Data(stream.number(), self.input[data].to_vec(), end))
                }
                Step::Trailers { stream, .. } => Some(Event::Trailers(stream.number(), text(&self.head))),
                Step::Reset { stream, reset, .. } => Some(Event::Reset(stream.number(), reset)),
                Step::Refused { reason, .. } => Some(Event::Refused(reason)),
                Step::Writable { stream, .. } => Some(Event::Writable(stream.map(StreamId::number))),
                Step::GoAway { last, code, .. } => Some(Event::GoAway(last, code)),
            };
            self.input.drain(..consumed);
            match event {
                Some(event) => events.push(event),
                None => return Ok(events),
            }
        }
    }

    fn id(&self, number: u32) -> StreamId {
        self.streams[&number]
    }

    /// The frames written since it was last read.
    fn written(&mut self) -> Vec<Frame> {
        frames(&std::mem::take(&mut self.out))
    }

    /// The last of them.
    fn written_tail(&mut self) -> Frame {
        self.written().pop().expect("a frame was written")
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        body: BodyLength,
        end: bool,
    ) -> Result<StreamId, NotOpened> {
        let mut head = Head::default();
        head.start_request(Version::Http11, method, path);
        head.append("Host", b"cart");
        let stream = self.connection.request(&head, body, end, &mut self.out)?;
        self.streams.insert(stream.number(), stream);
        Ok(stream)
    }

    fn respond(&mut self, number: u32, status: u16, body: BodyLength, end: bool) -> Result<(), SendError> {
        let head = response_head(status);
        self.connection.response(self.id(number), &head, body, end, &mut self.out)
    }

    fn data(&mut self, number: u32, bytes: &[u8], end: bool) -> Result<usize, SendError> {
        self.connection.data(self.id(number), bytes, end, &mut self.out)
    }

    fn release(&mut self, number: u32) {
        let stream = self.streams.remove(&number).unwrap();
        self.connection.release(stream, &mut self.out);
    }
}

fn response_head(status: u16) -> Head {
    let mut head = Head::default();
    head.start_response(Version::Http2, StatusCode::new(status).unwrap(), b"");
    head
}

fn trailers_head(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    head.start_trailers();
    fields.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
    head
}

/// Carries bytes between both ends until neither has any; what each told.
fn pump(client: &mut End, server: &mut End) -> (Vec<Event>, Vec<Event>) {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    while !client.out.is_empty() || !server.out.is_empty() {
        let (up, down) = (std::mem::take(&mut client.out), std::mem::take(&mut server.out));
        to_server.extend(server.take(&up).unwrap());
        to_client.extend(client.take(&down).unwrap());
    }
    (to_client, to_server)
}

/// Both ends, having heard of each other's SETTINGS.
fn pair() -> (End, End) {
    let (mut client, mut server) = (End::client(), End::server());
    pump(&mut client, &mut server);
    (client, server)
}

fn text(head: &Head) -> String {
    let mut text = match head.kind() {
        crate::Kind::Request => {
            format!("{} {}{}", head.method(), head.authority().unwrap_or_default(), head.path_and_query())
        }
        crate::Kind::Response => head.status().to_string(),
        crate::Kind::Trailers => String::new(),
    };
    for (name, value) in head.fields() {
        text += &format!(" {}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    text
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&frame::head(payload.len(), kind, flags, stream)[..], payload].concat()
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(&frame::PREFACE[..]).unwrap_or(bytes);
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let FrameHead { length, kind, flags, stream } = FrameHead::parse(head);
        frames.push(Frame { kind, flags, stream, payload: rest[..length].to_vec() });
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a frame is cut off");
    frames
}

/// A header block that puts nothing into a table.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.begin(&mut out);
    fields.iter().for_each(|(name, value)| {
        encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Without, &mut out);
    });
    out
}

fn decode(block: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let take = |field: hpack::Field<'_>| fields.push(format!("{}={}", text(field.name), text(field.value)));
    Decoder::default().decode(block, take).unwrap();
    fields
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "cart"), (":path", "/")];

/// A request without a body.
fn get(stream: u32) -> Vec<u8> {
    frame(Kind::Headers, frame::END_HEADERS | frame::END_STREAM, stream, &block(&GET))
}

/// A request whose body follows.
fn post(stream: u32) -> Vec<u8> {
    frame(Kind::Headers, frame::END_HEADERS, stream, &block(&GET))
}

fn rst(stream: u32, code: ErrorCode) -> Frame {
    Frame { kind: Kind::RstStream, flags: 0, stream, payload: code.0.to_be_bytes().to_vec() }
}
