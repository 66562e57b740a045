//! A query to the host's resolvers: one after the other, each with an ID and a port that nobody can guess.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshwork_core::dns::relay::{Extended, Judged, Relayed, forwarded, judge};
use meshwork_core::dns::{Code, Query};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::host::Servers;
use crate::side::random;
use crate::telemetry::{Event, Registry};

/// How long one resolver is waited for. Together with [`TRIES_MAX`] below the 5 s after which clients ask again.
const TRY_MAX: Duration = Duration::from_millis(1_500);

/// Resolvers that are asked for one query, or how often if there is one.
const TRIES_MAX: usize = 3;

/// Messages at one socket that are no answer to what was asked: somebody guesses, and gets no more guesses.
const FOREIGN_MAX: usize = 16;

/// What a resolver may send over UDP: more than it was told.
const ANSWER_BYTES_MAX: usize = 4_096;

pub(super) struct Upstream {
    /// Of our sockets, so that rules don't redirect them back here.
    mark: Option<u32>,
    registry: Arc<Registry>,
    /// IDs and questions that are on their way.
    asking: Mutex<HashSet<(u16, Vec<u8>)>>,
}

/// Why a resolver gave no answer.
enum Failure {
    /// It said so.
    Told(Code),
    /// It can't be reached, or what it sent is none.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Upstream {
    pub(super) fn new(mark: Option<u32>, registry: Arc<Registry>) -> Self {
        Self { mark, registry, asking: Mutex::default() }
    }

    /// The answer, and the place of who gave it; or what the client is told.
    pub(super) async fn ask(&self, query: &Query, servers: &Servers) -> Result<(Relayed, usize), Code> {
        let mut extended = Extended::AsAsked;
        let mut told = Code::ServFail;
        for (place, server) in servers.in_turn().take(TRIES_MAX) {
            match timeout(TRY_MAX, self.ask_one(query, server, extended)).await {
                Ok(Ok(relayed)) => return Ok((relayed, place)),
                Ok(Err(Failure::Told(code))) => {
                    self.registry.count(Event::DnsResolverRefused);
                    if matches!(code, Code::FormErr | Code::NotImp) {
                        extended = Extended::No;
                    }
                    told = code;
                }
                Ok(Err(Failure::Broken(error))) => {
                    tracing::debug!(%server, %error, "a resolver can't be asked");
                    self.registry.count(Event::DnsResolverUnreachable);
                }
                Err(_) => self.registry.count(Event::DnsResolverTimeout),
            }
        }
        Err(told)
    }

    /// Whether this is a query that we sent: then what should let our sockets pass does not.
    pub(super) fn is_own(&self, query: &Query) -> bool {
        self.asking().contains(&(query.id, query.name().into_bytes()))
    }

    async fn ask_one(
        &self,
        query: &Query,
        server: SocketAddr,
        extended: Extended,
    ) -> Result<Relayed, Failure> {
        match self.over_udp(query, server, extended).await? {
            Some(relayed) => Ok(relayed),
            None => self.over_tcp(query, server, extended).await,
        }
    }

    /// `None`: there is more than fits.
    async fn over_udp(
        &self,
        query: &Query,
        server: SocketAddr,
        extended: Extended,
    ) -> Result<Option<Relayed>, Failure> {
        let socket = self.socket(server, Type::DGRAM, Protocol::UDP)?;
        // The kernel chooses the port, by chance; connected, it takes nothing from anybody else.
        socket.bind(&any_address(server).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(server).await?;
        let asking = self.begin(query);
        socket.send(&forwarded(query, asking.id(), extended)).await?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        for _ in 0..FOREIGN_MAX {
            let length = socket.recv(&mut buffer).await?;
            match judge(query, asking.id(), &buffer[..length]) {
                Judged::Answer(relayed) => return Ok(Some(relayed)),
                Judged::Truncated => return Ok(None),
                Judged::Failed(code) => return Err(Failure::Told(code)),
                Judged::Foreign => self.registry.count(Event::DnsResolverForeign),
            }
        }
        Err(io::Error::other("it sends other answers than what was asked for").into())
    }

    async fn over_tcp(
        &self,
        query: &Query,
        server: SocketAddr,
        extended: Extended,
    ) -> Result<Relayed, Failure> {
        let socket = self.socket(server, Type::STREAM, Protocol::TCP)?;
        let mut stream = TcpSocket::from_std_stream(socket.into()).connect(server).await?;
        let asking = self.begin(query);
        let message = forwarded(query, asking.id(), extended);
        // At once, so that it comes in one piece.
        let framed = [&(message.len() as u16).to_be_bytes(), &message[..]].concat();
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        match judge(query, asking.id(), &answer) {
            Judged::Answer(relayed) => Ok(relayed),
            Judged::Failed(code) => Err(Failure::Told(code)),
            Judged::Truncated | Judged::Foreign => Err(Failure::Told(Code::ServFail)),
        }
    }

    fn socket(&self, server: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(server), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }

    fn begin(&self, query: &Query) -> Asking<'_> {
        let entry = (random() as u16, query.name().into_bytes());
        self.asking().insert(entry.clone());
        Asking { upstream: self, entry }
    }

    fn asking(&self) -> MutexGuard<'_, HashSet<(u16, Vec<u8>)>> {
        // A panic left a set of whole entries.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query on its way.
struct Asking<'a> {
    upstream: &'a Upstream,
    entry: (u16, Vec<u8>),
}

impl Asking<'_> {
    fn id(&self) -> u16 {
        self.entry.0
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.upstream.asking().remove(&self.entry);
    }
}

fn any_address(server: SocketAddr) -> SocketAddr {
    match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
