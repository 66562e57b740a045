//! The seam to the other side: one request and its answer with an endpoint, whatever carries them.
//!
//! Today HTTP/1.1 on a pooled connection, mutual TLS or clear. `request.rs` and `relay.rs` see only
//! what is here; HTTP/2 will stand beside it. A failure says whether the application may have seen the
//! request.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_http::h1::{Limits, Receiver, Sender};
use socket2::SockRef;

use crate::conn::Conn;

/// Connections kept open to one endpoint with nothing to do: what a burst of that many requests at once
/// leaves behind; more would hold descriptors that others need.
const IDLE_MAX: usize = 256;

/// Shorter than what servers commonly allow (nginx 75 s), so that we are the ones who close.
const IDLE_AGE_MAX: Duration = Duration::from_secs(60);

/// Methods that may not be repeated get a connection that was idle for less than this, because the other
/// end may be closing it just now: the classic 503 of sidecars.
const FRESH: Duration = Duration::from_secs(1);

/// What tells pooled connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: SocketAddr,
    /// Expected identities, bundle and own certificate (`BackendTls::id`); 0: in clear.
    pub(crate) tls: u64,
}

/// An open way to an endpoint, for one request at a time.
pub(crate) struct Exchange {
    pub(crate) conn: Conn,
    pub(crate) receiver: Receiver,
    pub(crate) sender: Sender,
    pub(crate) key: Key,
}

impl Exchange {
    pub(crate) fn new(conn: Conn, key: Key) -> Self {
        Self { conn, receiver: Receiver::responses(Limits::default()), sender: Sender::default(), key }
    }
}

struct Idle {
    exchange: Exchange,
    since: Instant,
}

/// A worker's open connections that have nothing to do.
#[derive(Default)]
pub(crate) struct Pool {
    idle: HashMap<Key, VecDeque<Idle>>,
}

impl Pool {
    /// The connection that was used last, if it still stands. `repeatable`: the request may be sent twice.
    pub(crate) fn take(&mut self, key: Key, repeatable: bool, now: Instant) -> Option<Exchange> {
        let idle = self.idle.get_mut(&key)?;
        while let Some(Idle { exchange, since }) = idle.pop_back() {
            let age = now.since(since);
            if age > IDLE_AGE_MAX || !is_silent(&exchange.conn) {
                continue;
            }
            if !repeatable && age >= FRESH {
                // The rest is older still, but good for others.
                idle.push_back(Idle { exchange, since });
                return None;
            }
            return Some(exchange);
        }
        None
    }

    pub(crate) fn put(&mut self, exchange: Exchange, now: Instant) {
        let idle = self.idle.entry(exchange.key).or_default();
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { exchange, since: now });
    }

    /// Closes what is too old.
    pub(crate) fn reap(&mut self, now: Instant) {
        for idle in self.idle.values_mut() {
            while idle.front().is_some_and(|front| now.since(front.since) > IDLE_AGE_MAX) {
                idle.pop_front();
            }
        }
        self.idle.retain(|_, idle| !idle.is_empty());
    }
}

/// Whether the other end neither closed nor spoke out of turn. Asks the kernel: what the runtime knows
/// is as old as its last turn.
fn is_silent(conn: &Conn) -> bool {
    if !conn.input().is_empty() || conn.is_ended() {
        return false;
    }
    let mut byte = [MaybeUninit::uninit()];
    let peeked = SockRef::from(conn.socket()).peek(&mut byte);
    match peeked {
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        // TLS may have sent a session ticket; a farewell looks the same, and costs a new connection.
        Ok(_) => false,
    }
}
