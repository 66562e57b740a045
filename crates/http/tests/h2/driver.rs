//! A small driver around the engine's server end: one task, one connection, any byte stream.
//!
//! For tests against real peers and for `examples/h2_server.rs`, which h2spec judges. What it answers is chosen by the path:
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the request's body as it comes, and its trailers |
//! | `/bytes/N` | N bytes |
//! | `/none` | 204 |
//! | `/early` | 413 before the body is read; the rest of it is taken and thrown away, because curl 7.88 loses an answer that comes together with the reset |
//! | `/interim` | 103, then as `/` |
//! | a gRPC method (by `content-type`) | as `/echo`, with `grpc-status: 0` behind it |
//! | else | a line about the request, once it is complete, with the trailer `x-sum` |

use std::collections::HashMap;

use meshwork_http::h2::{Connection, ConnectionError, Limits, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, Known, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How many bytes of answers may wait while the peer does not read.
const OUT_BYTES_MAX: usize = 1 << 20;

/// How a connection came to its end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed.
    Closed,
    /// We said GOAWAY because of this, and closed.
    Failed(ConnectionError),
}

struct Exchange {
    kind: Kind,
    method: String,
    path: String,
    received: usize,
    /// What is to be sent, and how much of it went.
    body: Vec<u8>,
    sent: usize,
    /// Nothing will be added to the body.
    is_whole: bool,
    trailers: Option<Head>,
}

/// Whether a body goes back as it comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Grpc,
    Plain,
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) -> std::io::Result<Ended> {
    let start = tokio::time::Instant::now();
    let mut out = Vec::new();
    let mut server = Server {
        connection: Connection::server(Limits::default(), &mut out),
        exchanges: HashMap::new(),
        head: Head::default(),
        now: Instant::default(),
    };
    let mut input = Vec::new();
    loop {
        server.now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        let result = server.take(&mut input, &mut out);
        io.write_all(&out).await?;
        io.flush().await?;
        out.clear();
        if let Err(error) = result {
            io.shutdown().await?;
            return Ok(Ended::Failed(error));
        }
        if server.connection.is_finished() {
            return Ok(Ended::Closed);
        }
        if io.read_buf(&mut input).await? == 0 {
            return Ok(Ended::Closed);
        }
    }
}

struct Server {
    connection: Connection,
    exchanges: HashMap<StreamId, Exchange>,
    head: Head,
    now: Instant,
}

impl Server {
    /// Everything that the input holds, and what can be answered to it.
    fn take(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let mut at = 0;
        let result = loop {
            if out.len() > OUT_BYTES_MAX {
                break Ok(());
            }
            let step = match self.connection.advance(&input[at..], &mut self.head, self.now, out) {
                Ok(step) => step,
                Err(error) => break Err(error),
            };
            let consumed = step.consumed();
            match step {
                Step::NeedMore { .. } => {
                    at += consumed;
                    break Ok(());
                }
                Step::Head { stream, end, .. } => self.begin(stream, end, out),
                Step::Data { stream, data, end, .. } => self.data(stream, &input[at..][data], end, out),
                Step::Trailers { stream, .. } => {
                    if let Some(exchange) = self.exchanges.get_mut(&stream) {
                        exchange.trailers = Some(self.head.clone());
                    }
                    self.complete(stream, out);
                }
                Step::Reset { stream, .. } => {
                    self.exchanges.remove(&stream);
                    self.connection.release(stream, out);
                }
                Step::Writable { stream: Some(stream), .. } => self.send(stream, out),
                Step::Writable { stream: None, .. } => {
                    let streams: Vec<_> = self.exchanges.keys().copied().collect();
                    streams.into_iter().for_each(|stream| self.send(stream, out));
                }
                Step::Refused { .. } | Step::GoAway { .. } => {}
            }
            at += consumed;
        };
        input.drain(..at);
        result
    }

    fn begin(&mut self, stream: StreamId, end: bool, out: &mut Vec<u8>) {
        let is_grpc =
            self.head.get(Known::ContentType).is_some_and(|value| value.starts_with(b"application/grpc"));
        let kind = match self.head.path() {
            _ if is_grpc => Kind::Grpc,
            "/echo" => Kind::Echo,
            _ => Kind::Plain,
        };
        let exchange = Exchange {
            kind,
            method: self.head.method().to_owned(),
            path: self.head.path().to_owned(),
            received: 0,
            body: Vec::new(),
            sent: 0,
            is_whole: false,
            trailers: None,
        };
        let path = exchange.path.clone();
        let protocol = self.head.protocol().to_owned();
        self.exchanges.insert(stream, exchange);
        match &*path {
            _ if kind != Kind::Plain => self.respond(stream, StatusCode::OK, BodyLength::Chunked, false, out),
            "/early" => {
                self.respond(stream, StatusCode::PAYLOAD_TOO_LARGE, BodyLength::Known(0), true, out);
            }
            "/interim" => self.respond(stream, StatusCode::new(103).unwrap(), BodyLength::None, false, out),
            _ if !protocol.is_empty() => {
                self.respond(stream, StatusCode::OK, BodyLength::None, false, out);
            }
            _ => {}
        }
        if end {
            self.complete(stream, out);
        }
    }

    fn data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) {
        let Some(exchange) = self.exchanges.get_mut(&stream) else { return };
        exchange.received += data.len();
        if exchange.kind != Kind::Plain {
            exchange.body.extend_from_slice(data);
            self.send(stream, out);
        } else {
            self.connection.consumed(stream, data.len(), self.now, out);
        }
        if end {
            self.complete(stream, out);
        }
    }

    /// The request is complete.
    fn complete(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let Some(exchange) = self.exchanges.get_mut(&stream) else { return };
        exchange.is_whole = true;
        if exchange.path == "/early" {
            self.exchanges.remove(&stream);
            return self.connection.release(stream, out);
        }
        if exchange.kind == Kind::Grpc {
            exchange.trailers = Some(trailers("grpc-status", "0"));
        }
        if exchange.kind != Kind::Plain {
            return self.send(stream, out);
        }
        let Exchange { method, path, received, .. } = exchange;
        let (status, body) = match (&**path, path.strip_prefix("/bytes/")) {
            ("/none", _) => (StatusCode::NO_CONTENT, Vec::new()),
            (_, Some(count)) => (StatusCode::OK, vec![b'x'; count.parse().unwrap_or(0)]),
            _ => (StatusCode::OK, format!("{method} {path} {received}\n").into_bytes()),
        };
        let length = BodyLength::Known(body.len() as u64);
        if !path.starts_with("/bytes/") {
            exchange.trailers = Some(trailers("x-sum", "7"));
        }
        exchange.body = body;
        self.respond(stream, status, length, false, out);
        self.send(stream, out);
    }

    fn respond(
        &mut self,
        stream: StreamId,
        status: StatusCode,
        body: BodyLength,
        end: bool,
        out: &mut Vec<u8>,
    ) {
        let mut head = Head::default();
        head.start_response(Version::Http2, status, b"");
        if !status.is_interim() {
            let is_grpc = self.exchanges.get(&stream).is_some_and(|exchange| exchange.kind == Kind::Grpc);
            head.append("content-type", if is_grpc { &b"application/grpc"[..] } else { b"text/plain" });
            head.append("server", b"meshwork");
        }
        self.connection.response(stream, &head, body, end, out).expect("one head for each request");
    }

    /// As much of the answer as the windows let through.
    fn send(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let Some(exchange) = self.exchanges.get_mut(&stream) else { return };
        let taken = match exchange.body.len() - exchange.sent {
            0 => 0,
            _ => match self.connection.data(stream, &exchange.body[exchange.sent..], false, out) {
                Ok(taken) => taken,
                Err(_) => return, // not begun yet
            },
        };
        exchange.sent += taken;
        let is_sent = exchange.sent == exchange.body.len();
        if is_sent {
            exchange.sent = 0;
            exchange.body.clear();
        }
        if exchange.kind != Kind::Plain {
            self.connection.consumed(stream, taken, self.now, out);
        }
        if is_sent && exchange.is_whole {
            self.connection.trailers(stream, exchange.trailers.as_ref(), out).expect("the body is whole");
            self.exchanges.remove(&stream);
            self.connection.release(stream, out);
        }
    }
}

fn trailers(name: &str, value: &str) -> Head {
    let mut trailers = Head::default();
    trailers.start_trailers();
    trailers.append(name, value.as_bytes());
    trailers
}
