//! A small driver around the engine's client end: one connection, any number of requests at once.

use std::collections::HashMap;

use meshwork_http::h2::{Connection, ErrorCode, Limits, Reset, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is asked.
pub(crate) struct Ask {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str, body: &[u8]) -> Self {
        let mut head = Head::default();
        head.start_request(Version::Http2, method, path);
        head.set_authority("cart");
        Self { head, body: body.to_vec() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.head.append(name, value.as_bytes());
        self
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Of interim responses, too; the last is the final one.
    pub(crate) statuses: Vec<u16>,
    pub(crate) body: Vec<u8>,
    /// The last head: trailers, if there were any.
    pub(crate) last: Head,
    pub(crate) ended: bool,
    pub(crate) reset: Option<Reset>,
}

impl Answer {
    /// A field of the last head.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.last.header(name).map_or("", |value| std::str::from_utf8(value).unwrap())
    }
}

struct Going {
    nth: usize,
    body: Vec<u8>,
    sent: usize,
    sent_end: bool,
}

pub(crate) struct Client {
    io: tokio::net::TcpStream,
    pub(crate) connection: Connection,
    input: Vec<u8>,
    out: Vec<u8>,
    head: Head,
    going: HashMap<StreamId, Going>,
    pub(crate) goaway: Option<(u32, ErrorCode)>,
    start: tokio::time::Instant,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Self {
        let mut out = Vec::new();
        let connection = Connection::client(Limits::default(), &mut out);
        let io = tokio::net::TcpStream::connect(address).await.unwrap();
        Self {
            io,
            connection,
            input: Vec::new(),
            out,
            head: Head::default(),
            going: HashMap::new(),
            goaway: None,
            start: tokio::time::Instant::now(),
        }
    }

    pub(crate) async fn one(&mut self, ask: Ask) -> Answer {
        self.all(vec![ask]).await.pop().unwrap()
    }

    /// Asks all at once, as far as the server lets it; the answers in the same order. What gets no stream has neither
    /// status nor reset.
    pub(crate) async fn all(&mut self, asks: Vec<Ask>) -> Vec<Answer> {
        let mut answers: Vec<_> = asks.iter().map(|_| Answer::default()).collect();
        let mut waiting = asks.into_iter().enumerate();
        loop {
            while self.connection.can_open() {
                let Some((nth, Ask { head, body })) = waiting.next() else { break };
                let is_tunnel = !head.protocol().is_empty();
                let ends = body.is_empty() && !is_tunnel;
                let length = if ends { BodyLength::None } else { BodyLength::Chunked };
                let opened = self.connection.request(&head, length, ends, &mut self.out);
                self.going.insert(opened.unwrap(), Going { nth, body, sent: 0, sent_end: ends });
            }
            self.send();
            if self.going.is_empty() {
                return answers;
            }
            self.turn(&mut answers).await;
        }
    }

    /// As much of the bodies as the windows let through.
    fn send(&mut self) {
        for (stream, going) in &mut self.going {
            if !going.sent_end {
                // A server may have ended the stream before it had the whole request.
                let rest = &going.body[going.sent..];
                let taken = self.connection.data(*stream, rest, true, &mut self.out).unwrap_or(rest.len());
                going.sent += taken;
                going.sent_end = going.sent == going.body.len();
            }
        }
    }

    /// Writes what there is, takes what comes.
    async fn turn(&mut self, answers: &mut [Answer]) {
        self.io.write_all(&self.out).await.unwrap();
        self.out.clear();
        assert_ne!(self.io.read_buf(&mut self.input).await.unwrap(), 0, "the server hung up");
        self.take(answers);
    }

    fn take(&mut self, answers: &mut [Answer]) {
        let now = Instant::from_nanos(self.start.elapsed().as_nanos() as u64);
        let mut at = 0;
        loop {
            let step =
                self.connection.advance(&self.input[at..], &mut self.head, now, &mut self.out).unwrap();
            let told = &self.input[at..];
            at += step.consumed();
            let (stream, over) = match step {
                Step::NeedMore { .. } => break,
                Step::GoAway { last, code, .. } => {
                    self.goaway = Some((last, code));
                    continue;
                }
                Step::Writable { .. } => continue,
                Step::Refused { .. } => panic!("a server opens no streams"),
                Step::Head { stream, end, .. } => {
                    let answer = &mut answers[self.going[&stream].nth];
                    answer.statuses.push(self.head.status().as_u16());
                    answer.last = self.head.clone();
                    (stream, end)
                }
                Step::Data { stream, data, end, .. } => {
                    let answer = &mut answers[self.going[&stream].nth];
                    answer.body.extend_from_slice(&told[data.clone()]);
                    self.connection.consumed(stream, data.len(), now, &mut self.out);
                    (stream, end)
                }
                Step::Trailers { stream, .. } => {
                    answers[self.going[&stream].nth].last = self.head.clone();
                    (stream, true)
                }
                Step::Reset { stream, reset, .. } => {
                    if let Some(going) = self.going.remove(&stream) {
                        answers[going.nth].reset = Some(reset);
                        self.connection.release(stream, &mut self.out);
                    }
                    continue;
                }
            };
            if over {
                let going = self.going.remove(&stream).unwrap();
                answers[going.nth].ended = true;
                self.connection.release(stream, &mut self.out);
            }
        }
        self.input.drain(..at);
    }

    /// Reads until the server closes; it is to have said GOAWAY before.
    pub(crate) async fn until_closed(mut self) {
        loop {
            self.take(&mut []);
            let _ = self.io.write_all(&self.out).await;
            self.out.clear();
            if !matches!(self.io.read_buf(&mut self.input).await, Ok(1..)) {
                break;
            }
        }
        assert!(self.goaway.is_some() && self.connection.is_finished());
    }
}
