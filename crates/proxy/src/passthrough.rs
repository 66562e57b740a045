//! Connections to hosts that no service of the mesh claims: carried as they are, by the proxy that was set
//! before ours if there was one; counted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::cause::Cause;
use meshwork_core::discover::{self, Destination, Host};
use meshwork_core::model::{AccessLog, Unknown};
use meshwork_http::h1::{BodyLength, Limits, Receiver, RequestMethod, Sender, Step};
use meshwork_http::{Head, Version};
use tokio::time::timeout;

use crate::conn::{Conn, Filled};
use crate::connect::CONNECT_TIMEOUT;
use crate::failure::Failure;
use crate::outbound::After;
use crate::tcp::Transferred;
use crate::telemetry::access_log::{Line, epoch_millis};
use crate::telemetry::{Event, LabelId};
use crate::worker::Worker;
use crate::{connect, http, tcp};

/// A proxy has its own connection to make before it answers.
const PARENT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn connection(
    conn: &mut Conn,
    asked: &Destination<'_>,
    by_connect: bool,
    worker: &Worker,
) -> Result<After, Failure> {
    admit(asked, Event::DeniedConnection, worker)?;
    worker.registry.count(Event::PassthroughConnection);
    let mut way = match &worker.shared.parent_proxy {
        Some(parent) => by_parent(parent, asked, worker).await?,
        None => connect::plain(resolve(asked, worker).await?, CONNECT_TIMEOUT, worker)
            .await
            .map_err(|failure| outside(failure, asked))?,
    };
    if by_connect {
        http::accept_tunnel(conn).await.map_err(|_| Failure::ClientGone)?;
    }
    if let Err(error) = tcp::splice(conn, &mut way, None, &worker.drains.outbound).await {
        tracing::debug!(destination = %asked, %error, "passthrough connection broke off");
    }
    Ok(After::Done)
}

/// Whether what no service claims may go on, from this namespace. What goes to this machine is no business of the
/// mesh's, and is not captured either.
pub(crate) fn admit(asked: &Destination<'_>, denied: Event, worker: &Worker) -> Result<(), Failure> {
    judge(asked, worker).inspect_err(|_| worker.registry.count(denied))
}

fn judge(asked: &Destination<'_>, worker: &Worker) -> Result<(), Failure> {
    let snapshot = worker.snapshot();
    let unknown = snapshot.settings.as_ref().map(|settings| settings.unknown.of(&worker.shared.namespace));
    match unknown.unwrap_or_default() {
        Unknown::Passthrough => Ok(()),
        Unknown::Deny if asked.is_this_machine() => Ok(()),
        Unknown::Deny => {
            let namespace = worker.shared.namespace.clone();
            Err(Failure::Denied { destination: asked.to_string(), namespace })
        }
    }
}

pub(crate) fn by_ip(address: SocketAddr) -> Destination<'static> {
    Destination { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
}

/// A captured connection that no service claims, on its way to where it was going.
pub(crate) struct Passage {
    pub(crate) original: SocketAddr,
    /// What its client said where it wants to go; empty: nothing that could be read.
    pub(crate) authority: String,
    way: Option<Conn>,
    /// Why there is none, for when nothing else comes of the connection.
    failed: Option<Failure>,
    started: Instant,
}

impl Passage {
    pub(crate) fn new(original: SocketAddr, worker: &Worker) -> Self {
        Self { original, authority: String::new(), way: None, failed: None, started: worker.now() }
    }

    /// Opens the way, if that may be; once. Who gives up then counts what was denied.
    pub(crate) async fn open(&mut self, worker: &Worker) -> Result<&mut Conn, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let asked = by_ip(self.original);
        judge(&asked, worker)?;
        let way = match self.way.take() {
            Some(way) => way,
            None => connect::plain(self.original, CONNECT_TIMEOUT, worker)
                .await
                .map_err(|failure| outside(failure, &asked))?,
        };
        Ok(self.way.insert(way))
    }

    /// It could not be opened, and the client may still mean somebody else.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failed = Some(failure);
    }

    /// Carries the bytes as they are.
    pub(crate) async fn carry(&mut self, conn: &mut Conn, worker: &Worker) -> Result<After, Failure> {
        worker.registry.count(Event::CapturedUnclaimed);
        let opened = self.open(worker).await;
        let way = match opened {
            Ok(way) => way,
            Err(failure) => {
                self.log(None, Some(&failure), worker);
                return Err(failure);
            }
        };
        worker.registry.count(Event::PassthroughConnection);
        let moved = tcp::splice(conn, way, None, &worker.drains.outbound).await;
        if let Err(error) = &moved {
            tracing::debug!(destination = %self.original, %error, "passthrough connection broke off");
        }
        self.log(moved.ok(), None, worker);
        Ok(After::Done)
    }

    fn log(&self, moved: Option<Transferred>, failure: Option<&Failure>, worker: &Worker) {
        let snapshot = worker.snapshot();
        let log = snapshot.settings.as_ref().map_or(AccessLog::Off, |settings| settings.access_log);
        match log {
            AccessLog::All => {}
            AccessLog::Errors if moved.is_none() => {}
            AccessLog::Errors | AccessLog::Off => return,
        }
        let authority = match self.authority.as_str() {
            "" => self.original.to_string(),
            authority => authority.to_owned(),
        };
        let ends = worker.registry.ends(LabelId::OTHER_OUTBOUND);
        worker.shared.access_log.write(Line {
            time: epoch_millis(),
            direction: ends.direction,
            source: ends.source,
            destination: ends.destination,
            authority,
            cause: failure.and_then(Failure::cause).map(Cause::word),
            error: failure.map(ToString::to_string),
            endpoint: Some(self.original.to_string()),
            tries: 1,
            duration_us: worker.now().since(self.started).as_micros(),
            bytes_sent: moved.map(|moved| moved.up),
            bytes_received: moved.map(|moved| moved.down),
            ..Line::default()
        });
    }
}

/// For the client it is one thing: the host outside the mesh could not be reached.
pub(crate) fn outside(failure: Failure, asked: &Destination<'_>) -> Failure {
    let host = asked.to_string();
    match failure {
        Failure::Connect { source, .. } => Failure::Lookup { host, source },
        Failure::ConnectTimeout { .. } => {
            Failure::Lookup { host, source: std::io::ErrorKind::TimedOut.into() }
        }
        other => other,
    }
}

/// Asks the other proxy for a tunnel (RFC 9110, 9.3.6).
async fn by_parent(parent: &str, asked: &Destination<'_>, worker: &Worker) -> Result<Conn, Failure> {
    let mut way = connect::plain(resolve_proxy(parent).await?, CONNECT_TIMEOUT, worker)
        .await
        .map_err(|failure| outside(failure, asked))?;
    let refused =
        |status: u16| Failure::ParentRefused { proxy: parent.to_owned(), host: asked.to_string(), status };
    let authority = asked.to_string();
    let mut head = Head::default();
    head.start_request(Version::Http11, "CONNECT", "");
    head.set_authority(&authority);
    head.append("Host", authority.as_bytes());
    let written = Sender::new().request(&head, BodyLength::None, way.output());
    debug_assert!(written.is_ok(), "the first message of a connection");
    let answer = async {
        way.flush().await.map_err(|_| refused(0))?;
        let mut receiver = Receiver::responses(Limits::default());
        receiver.expect_response_to(RequestMethod::Connect);
        loop {
            match receiver.advance(way.input(), &mut head).map_err(|_| refused(0))? {
                Step::Head { consumed } if head.status().is_interim() => way.consume(consumed),
                Step::Head { consumed } => {
                    way.consume(consumed);
                    let status = head.status();
                    return if status.class() == 2 { Ok(()) } else { Err(refused(status.as_u16())) };
                }
                Step::NeedMore { consumed } => way.consume(consumed),
                Step::Data { .. } | Step::Trailers { .. } | Step::End { .. } | Step::Upgraded { .. } => {
                    return Err(refused(0));
                }
            }
            if way.fill().await.map_err(|_| refused(0))? == Filled::End {
                return Err(refused(0));
            }
        }
    };
    timeout(PARENT_TIMEOUT, answer).await.map_err(|_| refused(0))??;
    Ok(way)
}

/// The host's first address that may be called. Addresses are judged after the look-up: a name may lead
/// to the machine's own metadata service.
pub(crate) async fn resolve(asked: &Destination<'_>, worker: &Worker) -> Result<SocketAddr, Failure> {
    let judged = |address: SocketAddr| {
        let judged = discover::judge_address(address, &worker.shared.own);
        judged.map(|()| address).map_err(|source| Failure::Refused { host: asked.to_string(), source })
    };
    let name = match &asked.host {
        Host::Ip(ip) => return judged(SocketAddr::new(*ip, asked.port)),
        Host::Name(name) => name,
    };
    let failed = |source| Failure::Lookup { host: asked.to_string(), source };
    let found = tokio::net::lookup_host((&**name, asked.port)).await.map_err(failed)?;
    let mut found: Vec<SocketAddr> = found.collect();
    // IPv4 first: a machine without a way for IPv6 would otherwise wait for its time-out.
    found.sort_by_key(|address| matches!(address.ip(), IpAddr::V6(_)));
    let first = found.first().copied();
    judged(first.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?)
}

/// Address of the proxy that was set before ours: `http://host:port`, `host:port`.
pub(crate) async fn resolve_proxy(proxy: &str) -> Result<SocketAddr, Failure> {
    let authority = proxy.strip_prefix("http://").unwrap_or(proxy).trim_end_matches('/');
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let asked = discover::destination(authority, 80)?;
    let failed = |source| Failure::Lookup { host: authority.to_owned(), source };
    let mut found = tokio::net::lookup_host(asked.to_string()).await.map_err(failed)?;
    found.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}
