//! The smallest driver of the engine over an async stream: reads whole messages, writes whole messages.

use meshwork_http::Head;
use meshwork_http::h1::{BodyLength, EndOfInput, Limits, Receiver, RequestMethod, Step};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A message as the engine told it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) head: Head,
    pub(crate) interim: Vec<u16>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Head>,
}

pub(crate) struct Reader<R> {
    io: R,
    pub(crate) receiver: Receiver,
    input: Vec<u8>,
    /// Bytes read from the stream at a time.
    step: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn requests(io: R, step: usize) -> Self {
        Self { io, receiver: Receiver::requests(Limits::default()), input: Vec::new(), step }
    }

    pub(crate) fn responses(io: R, step: usize) -> Self {
        Self { io, receiver: Receiver::responses(Limits::default()), input: Vec::new(), step }
    }

    pub(crate) async fn response(&mut self, to: RequestMethod) -> Option<Received> {
        self.receiver.expect_response_to(to);
        self.message().await
    }

    /// The next message; `None` if the stream ended before one.
    pub(crate) async fn message(&mut self) -> Option<Received> {
        self.receiver.next_message();
        let mut received = Received::default();
        let mut head = Head::default();
        loop {
            let step = self.receiver.advance(&self.input, &mut head).expect("the other end is well-behaved");
            let consumed = match step {
                Step::NeedMore { consumed } => {
                    self.input.drain(..consumed);
                    let mut piece = vec![0; self.step];
                    let length = self.io.read(&mut piece).await.expect("memory cannot fail");
                    self.input.extend_from_slice(&piece[..length]);
                    if length == 0 {
                        match self.receiver.end_of_input(self.input.len()).expect("no message is cut") {
                            EndOfInput::Clean => return None,
                            EndOfInput::BodyEnd => return Some(received),
                        }
                    }
                    continue;
                }
                Step::Head { consumed } => {
                    if head.status().is_interim() {
                        received.interim.push(head.status().as_u16());
                    } else {
                        received.head = head.clone();
                    }
                    consumed
                }
                Step::Data { consumed, data } => {
                    received.body.extend_from_slice(&self.input[data]);
                    consumed
                }
                Step::Trailers { consumed } => {
                    received.trailers = Some(head.clone());
                    consumed
                }
                Step::End { consumed } => {
                    self.input.drain(..consumed);
                    return Some(received);
                }
                Step::Upgraded { .. } => panic!("nobody asked for an upgrade"),
            };
            self.input.drain(..consumed);
        }
    }

    pub(crate) fn body_length(&self) -> BodyLength {
        self.receiver.body_length()
    }
}

pub(crate) async fn write(io: &mut (impl AsyncWrite + Unpin), out: &mut Vec<u8>) {
    io.write_all(out).await.expect("the other end reads");
    out.clear();
}
