//! An end of an HTTP/2 connection in the hands of a test: what `talk.rs` is for HTTP/1. The frames are our
//! engine's, which h2spec and the h2 crate judge elsewhere; what is said, and when, is the test's.

use std::time::Instant as Clock;

use meshwork_http::h2::{Connection, ErrorCode, Limits, Reset, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, StatusCode, Version};

use super::talk::Talk;

/// A head as a test reads it.
#[derive(Debug)]
pub(crate) struct Message {
    /// `GET /path`, or the status.
    pub(crate) first: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Message {
    fn of(head: &Head) -> Self {
        let first = match head.method() {
            "" => head.status().as_u16().to_string(),
            method => format!("{method} {}", head.path_and_query()),
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields = head.fields().map(|(name, value)| (text(name), text(value)));
        Self { first, fields: fields.collect() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// What the other side said next.
#[derive(Debug)]
pub(crate) enum Said {
    Head {
        stream: StreamId,
        message: Message,
        end: bool,
    },
    Data {
        stream: StreamId,
        bytes: Vec<u8>,
        end: bool,
    },
    Trailers {
        stream: StreamId,
    },
    Reset {
        stream: StreamId,
        reset: Reset,
    },
    GoAway {
        code: ErrorCode,
    },
    /// Windows have grown.
    Writable,
    End,
}

pub(crate) struct Streams {
    talk: Talk,
    engine: Connection,
    input: Vec<u8>,
    out: Vec<u8>,
    head: Head,
    start: Clock,
    /// Not even the protocol's own replies are sent.
    silent: bool,
}

impl Streams {
    /// Nothing is sent before the first [`Streams::flush`].
    pub(crate) fn client(talk: Talk) -> Self {
        let mut out = Vec::new();
        let engine = Connection::client(Limits::default(), &mut out);
        Self::new(talk, engine, out)
    }

    pub(crate) fn server(talk: Talk) -> Self {
        let mut out = Vec::new();
        let engine = Connection::server(Limits::default(), &mut out);
        let mut server = Self::new(talk, engine, out);
        server.flush();
        server
    }

    fn new(talk: Talk, engine: Connection, out: Vec<u8>) -> Self {
        Self {
            talk,
            engine,
            input: Vec::new(),
            out,
            head: Head::default(),
            start: Clock::now(),
            silent: false,
        }
    }

    /// Sends what was appended, at once.
    pub(crate) fn flush(&mut self) {
        self.talk.send(&self.out);
        self.out.clear();
    }

    /// From now on nothing is said unless the test says it.
    pub(crate) fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// Appends a request to `authority`; without an end, [`Streams::data`] goes on.
    pub(crate) fn ask(&mut self, method: &str, authority: &str, path: &str, end: bool) -> StreamId {
        let mut head = Head::default();
        head.start_request(Version::Http2, method, path);
        head.set_scheme("http");
        head.set_authority(authority);
        let length = if end { BodyLength::None } else { BodyLength::Chunked };
        self.engine.request(&head, length, end, &mut self.out).unwrap()
    }

    pub(crate) fn get(&mut self, path: &str) -> StreamId {
        let stream = self.ask("GET", "cart", path, true);
        self.flush();
        stream
    }

    /// Begins a gRPC call whose request is over.
    pub(crate) fn call(&mut self, path: &str) -> StreamId {
        let mut head = Head::default();
        head.start_request(Version::Http2, "POST", path);
        head.set_scheme("http");
        head.set_authority("cart");
        head.append("content-type", b"application/grpc");
        let stream = self.engine.request(&head, BodyLength::None, true, &mut self.out).unwrap();
        self.flush();
        stream
    }

    /// Appends an answer's head.
    pub(crate) fn answer(&mut self, stream: StreamId, status: u16, end: bool) {
        let mut head = Head::default();
        head.start_response(Version::Http2, StatusCode::new(status).unwrap(), b"");
        let length = if end { BodyLength::None } else { BodyLength::Chunked };
        self.engine.response(stream, &head, length, end, &mut self.out).unwrap();
    }

    /// Appends what the windows allow; how much that was.
    pub(crate) fn data(&mut self, stream: StreamId, bytes: &[u8], end: bool) -> usize {
        self.engine.data(stream, bytes, end, &mut self.out).unwrap()
    }

    /// Answers with a short body.
    pub(crate) fn ok(&mut self, stream: StreamId, body: &str) {
        self.answer(stream, 200, false);
        assert_eq!(self.data(stream, body.as_bytes(), true), body.len());
        self.flush();
    }

    pub(crate) fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        self.engine.reset(stream, code, &mut self.out);
        self.flush();
    }

    /// No further streams, please.
    pub(crate) fn drain(&mut self) {
        self.engine.drain(&mut self.out);
        self.flush();
    }

    /// What the other side says next; replies of the protocol are sent on the way, and bytes are credited.
    pub(crate) fn next(&mut self) -> Said {
        loop {
            let now = Instant::from_nanos(self.start.elapsed().as_nanos() as u64);
            let step = match self.engine.advance(&self.input, &mut self.head, now, &mut self.out) {
                Ok(step) => step,
                Err(error) => panic!("the other side broke HTTP/2: {error}"),
            };
            let consumed = step.consumed();
            let said = match step {
                Step::NeedMore { .. } => None,
                Step::Head { stream, end, .. } => {
                    Some(Said::Head { stream, message: Message::of(&self.head), end })
                }
                Step::Data { stream, data, end, .. } => {
                    let bytes = self.input[data].to_vec();
                    self.engine.consumed(stream, bytes.len(), now, &mut self.out);
                    Some(Said::Data { stream, bytes, end })
                }
                Step::Trailers { stream, .. } => Some(Said::Trailers { stream }),
                Step::Reset { stream, reset, .. } => Some(Said::Reset { stream, reset }),
                Step::Writable { .. } => Some(Said::Writable),
                Step::GoAway { code, .. } => Some(Said::GoAway { code }),
                Step::Refused { reason, .. } => panic!("a request was refused: {reason}"),
            };
            self.input.drain(..consumed);
            if !self.out.is_empty() && !self.silent {
                self.flush();
            }
            if let Some(said) = said {
                return said;
            }
            let piece = self.talk.piece();
            if piece.is_empty() {
                return Said::End;
            }
            self.input.extend(piece);
        }
    }

    /// The next head, whatever windows do meanwhile.
    #[track_caller]
    pub(crate) fn head(&mut self) -> (StreamId, Message) {
        loop {
            match self.next() {
                Said::Head { stream, message, .. } => return (stream, message),
                Said::Writable => {}
                other => panic!("no head, but {other:?}"),
            }
        }
    }

    /// An answer with its whole body, while nothing else goes on.
    #[track_caller]
    pub(crate) fn whole(&mut self, asked: StreamId) -> (Message, String) {
        self.wholes(&[asked]).remove(0)
    }

    /// Answers with their whole bodies, in the order in which they were asked for, whatever their own is.
    #[track_caller]
    pub(crate) fn wholes(&mut self, asked: &[StreamId]) -> Vec<(Message, String)> {
        let mut answers: Vec<(Option<Message>, Vec<u8>)> = asked.iter().map(|_| Default::default()).collect();
        let at =
            |stream| asked.iter().position(|asked| *asked == stream).expect("an answer that was asked for");
        let mut ended = 0;
        while ended < asked.len() {
            let over = match self.next() {
                Said::Head { stream, message, end } => {
                    answers[at(stream)].0 = Some(message);
                    end.then_some(stream)
                }
                Said::Data { stream, bytes, end } => {
                    answers[at(stream)].1.extend(bytes);
                    end.then_some(stream)
                }
                Said::Trailers { stream } => Some(stream),
                Said::Writable | Said::GoAway { code: ErrorCode::NO_ERROR } => None,
                other => panic!("something else was said: {other:?}"),
            };
            if let Some(stream) = over {
                self.engine.release(stream, &mut self.out);
                ended += 1;
            }
        }
        let whole =
            |(head, body): (Option<Message>, Vec<u8>)| (head.unwrap(), String::from_utf8(body).unwrap());
        answers.into_iter().map(whole).collect()
    }
}
