//! From the local application: the HTTP proxy port, tunnels, and local ports that lead to one service.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::balance::Tried;
use meshwork_core::detect::server_preface;
use meshwork_core::discover::Destination as Asked;
use meshwork_core::model::{AppProtocol, Transport};
use meshwork_core::outlier::Finding;
use meshwork_core::retry::UNREACHED_MAX;
use meshwork_core::route;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::alpn::ALPN_TCP;
use crate::conn::{Conn, ConnError, Filled};
use crate::destination::{Backend, Destination, Member};
use crate::detect::{DETECT_UNDECIDED, First, decided, first_bytes, is_http2, is_http2_or_broken};
use crate::failure::Failure;
use crate::http::{self, Outbound, Role, Served, Speaks};
use crate::limits::Account;
use crate::outliers::Trial;
use crate::spoke_first::Server;
use crate::telemetry::Event;
use crate::worker::Worker;
use crate::{clients, connect, mux, passthrough, tcp};

/// A connection to the HTTP proxy port.
pub(crate) async fn proxy(socket: TcpStream, worker: &Rc<Worker>) {
    let mut conn = Conn::plain(socket, worker.buffers.clone());
    let role = Role::Outbound(Outbound::Proxy);
    if is_http2(&mut conn, worker).await {
        return mux::serve(conn, role, worker).await;
    }
    match http::serve(conn, &role, worker).await {
        Served::Ended => {}
        Served::Tunnel(conn, asked) => tunnel(*conn, asked, worker).await,
    }
}

/// A connection to a local port that leads to one service.
pub(crate) async fn upstream(socket: TcpStream, asked: Asked<'static>, worker: &Rc<Worker>) {
    let conn = Conn::plain(socket, worker.buffers.clone());
    lead(conn, asked, Client::Unaware, worker).await;
}

/// What the client knows of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// It speaks to the destination, and takes whatever comes for the destination's words.
    Unaware,
    /// It waits for the answer to its CONNECT.
    AwaitsTunnel,
}

async fn tunnel(conn: Conn, asked: Asked<'static>, worker: &Rc<Worker>) {
    lead(conn, asked, Client::AwaitsTunnel, worker).await;
}

/// Finds out where the connection goes and what it speaks, and carries it there.
async fn lead(mut conn: Conn, asked: Asked<'static>, mut client: Client, worker: &Rc<Worker>) {
    let carried = match destination(&asked, worker).await {
        Ok(Some(destination)) => to_service(&mut conn, &destination, &mut client, worker).await,
        Ok(None) => passthrough::connection(&mut conn, &asked, client == Client::AwaitsTunnel, worker).await,
        Err(failure) => Err(failure),
    };
    finish(conn, Outbound::Fixed(asked), carried, client, worker).await;
}

/// What is left to do once it was carried, or found to speak HTTP, or neither.
pub(crate) async fn finish(
    mut conn: Conn,
    outbound: Outbound,
    carried: Result<After, Failure>,
    client: Client,
    worker: &Rc<Worker>,
) {
    match carried {
        Ok(After::Done) => {}
        Ok(After::Http(version)) => {
            let role = Role::Outbound(outbound);
            match version {
                Speaks::Http1 => {
                    http::serve(conn, &role, worker).await;
                }
                Speaks::Http2 => mux::serve(conn, role, worker).await,
            }
        }
        Err(failure) => {
            tracing::info!(destination = %outbound, %failure, cause = failure.cause().map(|c| c.word()), "connection not carried");
            match client {
                Client::AwaitsTunnel => http::refuse_tunnel(&mut conn, &failure).await,
                Client::Unaware => conn.abort(),
            }
        }
    }
}

pub(crate) enum After {
    Done,
    /// The client speaks HTTP: its requests are routed one by one.
    Http(Speaks),
}

/// `None`: outside the mesh. The destination alone, as a connection may outlive many versions of the mesh.
pub(crate) async fn destination(
    asked: &Asked<'_>,
    worker: &Rc<Worker>,
) -> Result<Option<Arc<Destination>>, Failure> {
    worker.shared.ceilings.memory.admit(&worker.registry)?;
    match http::find(asked, &worker.snapshot(), worker)? {
        http::Lead::Found(found) => return Ok(Some(found.clone())),
        http::Lead::Outside => return Ok(None),
        http::Lead::Unknown(_) => {}
    }
    let answered = http::first_answer(asked, worker).await?;
    match http::find(asked, &answered, worker)? {
        http::Lead::Found(found) => Ok(Some(found.clone())),
        http::Lead::Outside => Ok(None),
        http::Lead::Unknown(_) => Err(Failure::UnknownServiceYet { host: asked.to_string() }),
    }
}

pub(crate) async fn to_service(
    conn: &mut Conn,
    destination: &Destination,
    client: &mut Client,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    destination.touch(worker.clock.now_millis());
    if *client == Client::AwaitsTunnel {
        // A tunnel's client says nothing before it is told that the way is open.
        http::accept_tunnel(conn).await.map_err(|_| Failure::ClientGone)?;
        *client = Client::Unaware;
    }
    let spoke_first = &worker.shared.spoke_first;
    let first = match destination.hint {
        Some(AppProtocol::Tcp) => First::Opaque,
        // Which version the client speaks is its own choice: what the application speaks is met at the end of
        // the way. A client that waits for the server to speak waits in vain, as it would without the mesh.
        Some(AppProtocol::Http) if is_http2(conn, worker).await => First::Http2,
        Some(AppProtocol::Http2 | AppProtocol::Grpc) if is_http2_or_broken(conn, worker).await => {
            First::Http2
        }
        Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => First::Http1,
        None if spoke_first.is_known(Server::Service(&destination.name), worker.now()) => First::Silent,
        None => first_bytes(conn).await.map_err(|_| Failure::ClientGone)?,
    };
    match first {
        First::Http1 => Ok(After::Http(Speaks::Http1)),
        First::Http2 => Ok(After::Http(Speaks::Http2)),
        First::Opaque => opaque(conn, destination, worker).await,
        First::Silent => whoever_speaks_first(conn, destination, worker).await,
        First::Gone => Ok(After::Done),
    }
}

/// Opens the way, and waits for the first word from either side.
async fn whoever_speaks_first(
    conn: &mut Conn,
    destination: &Destination,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let mut way = open(destination, worker).await?;
    match first_word(conn, &mut way.conn, way.address, Server::Service(&destination.name), worker).await? {
        FirstWord::Http(version) => Ok(After::Http(version)),
        FirstWord::Server | FirstWord::Client => carry(conn, way, destination, worker).await,
    }
}

/// Who spoke first on an open way.
pub(crate) enum FirstWord {
    /// The client, in HTTP.
    Http(Speaks),
    /// The client, in anything else; or one of them left.
    Client,
    Server,
}

/// Waits for it, among those that may be asked to go. Whether this server speaks first is known from then on.
pub(crate) async fn first_word(
    conn: &mut Conn,
    way: &mut Conn,
    endpoint: SocketAddr,
    server: Server<'_>,
    worker: &Worker,
) -> Result<FirstWord, Failure> {
    let client = Rc::<clients::Client>::default();
    let _among_silent = worker.enter_silent(&client);
    let Some(word) = client.idle(either_speaks(conn, way, endpoint, worker)).await else {
        return Err(Failure::SilentFull { endpoint, max: worker.shared.ceilings.silent_max });
    };
    let spoke_first = &worker.shared.spoke_first;
    match word {
        Ok(FirstWord::Http(_)) => spoke_first.forget(server),
        Ok(FirstWord::Server) => spoke_first.remember(server, worker.now()),
        Ok(FirstWord::Client) | Err(_) => {}
    }
    word
}

/// Nothing has been sent yet, so a client that wakes up with HTTP is still HTTP.
async fn either_speaks(
    conn: &mut Conn,
    way: &mut Conn,
    endpoint: SocketAddr,
    worker: &Worker,
) -> Result<FirstWord, Failure> {
    // Of a client that has said a little, and then waits for an answer to just that.
    let mut undecided: Option<Instant> = None;
    loop {
        let spoken = tokio::select! {
            biased;
            filled = conn.fill() => Spoke::Client(filled),
            filled = way.fill() => Spoke::Server(filled),
            () = sleep_until(undecided.unwrap_or_else(Instant::now)), if undecided.is_some() => {
                return Ok(FirstWord::Client);
            }
        };
        match spoken {
            Spoke::Client(Ok(Filled::More)) => match decided(conn) {
                None => {
                    undecided.get_or_insert_with(|| Instant::now() + DETECT_UNDECIDED);
                }
                Some(First::Http1) => return Ok(FirstWord::Http(Speaks::Http1)),
                Some(First::Http2) => return Ok(FirstWord::Http(Speaks::Http2)),
                Some(First::Opaque | First::Silent | First::Gone) => return Ok(FirstWord::Client),
            },
            Spoke::Client(Ok(Filled::End)) | Spoke::Server(Ok(Filled::End)) => return Ok(FirstWord::Client),
            Spoke::Client(Err(_)) => return Err(Failure::ClientGone),
            Spoke::Server(Ok(Filled::More)) => match server_preface(way.input()) {
                None => {}
                // A server of HTTP/2 speaks first too, but its client's requests are ours to route.
                Some(true) => {
                    let version = if is_http2(conn, worker).await { Speaks::Http2 } else { Speaks::Http1 };
                    return Ok(FirstWord::Http(version));
                }
                Some(false) => return Ok(FirstWord::Server),
            },
            Spoke::Server(Err(source)) => return Err(Failure::Reset { endpoint, source: source.into() }),
        }
    }
}

enum Spoke {
    Client(Result<Filled, ConnError>),
    Server(Result<Filled, ConnError>),
}

pub(crate) async fn opaque(
    conn: &mut Conn,
    destination: &Destination,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let way = open(destination, worker).await?;
    carry(conn, way, destination, worker).await
}

/// A way to an endpoint for opaque bytes.
struct Way<'a> {
    conn: Conn,
    address: SocketAddr,
    /// Without a byte for so long it is closed.
    idle: Option<Duration>,
    _trial: Trial<'a>,
}

async fn carry(
    conn: &mut Conn,
    mut way: Way<'_>,
    destination: &Destination,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    worker.registry.count(Event::OpaqueOutbound);
    let started = worker.now();
    let transferred = tcp::splice(conn, &mut way.conn, way.idle, &worker.drains.outbound).await;
    let took = worker.now().since(started);
    match transferred {
        Ok(moved) => {
            tracing::debug!(destination = %destination.name, endpoint = %way.address, ?moved, ?took, "opaque connection ended")
        }
        Err(error) => {
            tracing::debug!(destination = %destination.name, endpoint = %way.address, %error, ?took, "opaque connection broke off")
        }
    }
    Ok(After::Done)
}

/// Tries endpoints until one can be connected to: nothing has been sent, so trying again is always safe.
async fn open<'a>(destination: &'a Destination, worker: &Rc<Worker>) -> Result<Way<'a>, Failure> {
    let backend = route::rule_for_opaque(&destination.route)
        .and_then(|rule| destination.backend(rule, worker.random()))
        .ok_or_else(|| Failure::NoBackend { rule: destination.name.to_string() })?;
    let key = backend.key(None, worker);
    let mut tried = Tried::default();
    let mut last = None;
    let others = if backend.traffic().retry.attempts == 0 { 0 } else { UNREACHED_MAX };
    for _ in 0..=others {
        let Some((index, member)) = backend.choose(key, tried, worker) else { break };
        if last.is_some() {
            worker.registry.count(Event::RetryUnreached);
        }
        match try_member(backend, member, worker).await {
            Ok(way) => return Ok(way),
            Err(failure) => {
                last = Some(failure);
                tried.add(index);
            }
        }
    }
    Err(last.unwrap_or_else(|| backend.nobody(worker)))
}

async fn try_member<'a>(
    backend: &'a Backend,
    member: &'a Member,
    worker: &Rc<Worker>,
) -> Result<Way<'a>, Failure> {
    let trial = backend.begin(member, worker)?;
    let opened = open_member(backend, member, worker).await;
    // That it can be connected to is all that can be known of opaque bytes.
    let finding = opened.as_ref().map_or_else(Failure::finding, |_| Some(Finding::Success));
    trial.judge(finding, worker.now(), &worker.registry);
    let (address, idle) = (member.endpoint.address, backend.traffic().connect.idle);
    Ok(Way { conn: opened?, address, idle, _trial: trial })
}

async fn open_member(backend: &Backend, member: &Member, worker: &Rc<Worker>) -> Result<Conn, Failure> {
    let address = member.endpoint.address;
    let patience = backend.traffic().connect.timeout;
    let spoken = |transport: &Transport| matches!(transport, Transport::MtlsTcp | Transport::Plaintext);
    let account = Account { backend, member };
    let _waiting = account.wait(worker)?;
    let counted = account.connect(worker)?;
    let mut conn = match (member.endpoint.transports.iter().copied().find(spoken), &backend.tls) {
        (Some(Transport::Plaintext), _) => connect::plain(address, patience, worker).await?,
        (Some(_), Some(tls)) => {
            let mut conn = connect::mtls(address, tls, ALPN_TCP, patience, worker).await?;
            crate::preamble::write(member.endpoint.app_port, conn.output());
            let sent = timeout(patience, conn.flush()).await;
            match sent {
                Ok(Ok(())) => conn,
                Ok(Err(source)) => return Err(Failure::Reset { endpoint: address, source: source.into() }),
                Err(_) => return Err(Failure::ConnectTimeout { endpoint: address }),
            }
        }
        (Some(_) | None, _) => return Err(Failure::NoTransport { endpoint: address }),
    };
    conn.count(counted);
    Ok(conn)
}
