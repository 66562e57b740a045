//! Queries that come over connections (RFC 7766): several on one, answered as they are ready.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use meshwork_core::dns::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Answerer, Begun};
use super::udp::QUERY_BYTES_MAX;
use crate::seldom::Seldom;
use crate::telemetry::Event;

/// Connections at a time: what was too large for UDP, of one host's programs. Beyond, a new one is closed.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may be silent while nothing of it is waited for: a client that has more to ask asks soon.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Queries of one connection that wait at a time; more are read once there is room.
const PIPELINED_MAX: usize = 32;

/// How long an answer may take to be written: the client does not read.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// When accepting fails (out of descriptors): it passes, we stay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves until dropped. Owns every connection.
pub(super) async fn serve(listener: TcpListener, answerer: Arc<Answerer>) {
    let mut connections = JoinSet::new();
    let full_told = Seldom::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    let answerer = answerer.clone();
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, answerer).await {
                            tracing::debug!(%error, "a connection with look-ups ended");
                        }
                    });
                }
                Ok(_) => {
                    answerer.registry.count(Event::LimitDnsConnections);
                    if full_told.is_due(answerer.clock.now()) {
                        tracing::warn!(max = CONNECTIONS_MAX, "as many connections for look-ups are open as may be: a new one is closed");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for look-ups");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err() {
                    answerer.registry.count(Event::Panic);
                }
            }
        }
    }
}

/// Until the client has no more to ask, or breaks the rules.
async fn converse(stream: TcpStream, answerer: Arc<Answerer>) -> io::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let mut input = BytesMut::new();
    let mut waiting = JoinSet::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() {
        tokio::select! {
            query = next(&mut reading, &mut input), if is_open && waiting.len() < PIPELINED_MAX => {
                let Some(query) = query? else {
                    is_open = false; // it may have closed its half only, and still reads
                    continue;
                };
                match answerer.begin(&query, Transport::Tcp) {
                    Begun::Ignored => return Ok(()),
                    Begun::Answered(reply) => write(&mut writing, &reply).await?,
                    Begun::Waiting(query) => {
                        let answerer = answerer.clone();
                        waiting.spawn(async move { answerer.finish(query).await });
                    }
                }
            }
            Some(reply) = waiting.join_next() => write(&mut writing, &reply.map_err(io::Error::other)?).await?,
            never = idle(), if waiting.is_empty() => match never? {},
        }
    }
    Ok(())
}

/// Fails after a while. A turn of the loop begins it anew.
async fn idle() -> io::Result<Infallible> {
    tokio::time::sleep(IDLE_MAX).await;
    Err(io::Error::new(io::ErrorKind::TimedOut, "the client asks nothing more"))
}

/// The next message; `None`: the client sends no more. What came of it stays in `input` if this is dropped.
async fn next(reading: &mut OwnedReadHalf, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    loop {
        if let [high, low, rest @ ..] = &input[..] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > QUERY_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no query is as large"));
            }
            if rest.len() >= length {
                input.advance(2);
                return Ok(Some(input.split_to(length)));
            }
        }
        if reading.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

async fn write(writing: &mut OwnedWriteHalf, reply: &[u8]) -> io::Result<()> {
    let framed = [&(reply.len() as u16).to_be_bytes(), reply].concat();
    timeout(WRITE_MAX, writing.write_all(&framed)).await?
}
