//! From the local application, which knows nothing of the mesh: the service that it meant, or where it was going.
//!
//! Deciding is `core::meant`. An address that a service claims is asked about, as a name at the proxy port is. Else the
//! first bytes may name a service: HTTP is decided request by request (`http/request.rs`), TLS by the name that its
//! client asks for, and is carried untouched. What names none goes to the original address, if that is allowed
//! (`MeshSettings.unknown`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::detect::{Detected, detect};
use meshwork_core::discover::{Absent, Destination as Asked, Host, Ranges};
use meshwork_core::meant::{self, Meant};
use meshwork_core::sni::{ServerName, server_name};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{captured, refuse};
use crate::clients;
use crate::conn::{Conn, Filled};
use crate::destination::Destination;
use crate::detect::{DETECT_UNDECIDED, First, first_bytes, first_bytes_within};
use crate::failure::Failure;
use crate::http::{self, Lead, Outbound, Speaks};
use crate::outbound::{self, After, Client, FirstWord, first_word};
use crate::passthrough::Passage;
use crate::spoke_first::Server;
use crate::telemetry::Event;
use crate::worker::Worker;

/// HTTP and HTTPS: nobody waits for a server to speak first there.
const CLIENTS_SPEAK_FIRST: [u16; 2] = [80, 443];

/// How long such a client may be silent where nobody answers, until it is told so: what it says may name a service, which
/// is why nobody has to answer there. A program on a machine that is out of CPU says it in less.
const LATE_MAX: Duration = Duration::from_secs(5);

/// A connection that the application opened to some address.
pub(crate) async fn serve(socket: TcpStream, from: SocketAddr, worker: &Rc<Worker>) {
    let Some(original) = captured(&socket, from, worker) else { return };
    let snapshot = worker.snapshot();
    let ranges = Ranges::of(snapshot.settings.as_deref());
    let meant = match meant::by_address(original, ranges, &worker.shared.own) {
        Ok(meant) => meant,
        Err(refusal) => return refuse(&socket, from, format_args!("{original}: {refusal}"), worker),
    };
    drop(snapshot);
    let conn = Conn::plain(socket, worker.buffers.clone());
    match meant {
        Meant::Ask => by_address(conn, original, worker).await,
        Meant::Unclaimed => unclaimed(conn, original, worker).await,
    }
}

async fn by_address(mut conn: Conn, original: SocketAddr, worker: &Rc<Worker>) {
    let asked = Asked { host: Host::Ip(original.ip()), port: original.port() };
    let carried = match outbound::destination(&asked, worker).await {
        Ok(Some(destination)) => {
            worker.registry.count(Event::CapturedAddress);
            outbound::to_service(&mut conn, &destination, &mut Client::Unaware, worker).await
        }
        Ok(None) => return unclaimed(conn, original, worker).await,
        Err(failure) => told(&mut conn, failure).await,
    };
    outbound::finish(conn, Outbound::Fixed(asked), carried, Client::Unaware, worker).await;
}

/// Who speaks HTTP is told by its own requests' answers why it can't go on.
async fn told(conn: &mut Conn, failure: Failure) -> Result<After, Failure> {
    match first_bytes(conn).await {
        Ok(First::Http1) => Ok(After::Http(Speaks::Http1)),
        Ok(First::Http2) => Ok(After::Http(Speaks::Http2)),
        Ok(First::Opaque | First::Silent | First::Gone) | Err(_) => Err(failure),
    }
}

async fn unclaimed(mut conn: Conn, original: SocketAddr, worker: &Rc<Worker>) {
    let carried = look_inside(&mut conn, original, worker).await;
    if let Err(Failure::Denied { .. }) = &carried {
        worker.registry.count(Event::DeniedConnection);
    }
    outbound::finish(conn, Outbound::Captured(original), carried, Client::Unaware, worker).await;
}

async fn look_inside(conn: &mut Conn, original: SocketAddr, worker: &Rc<Worker>) -> Result<After, Failure> {
    worker.shared.ceilings.memory.admit(&worker.registry)?;
    let mut passage = Passage::new(original, worker);
    let spoke_first = worker.shared.spoke_first.is_known(Server::Outside(original), worker.now());
    let first = match spoke_first {
        true => First::Silent,
        false => first_bytes(conn).await.map_err(|_| Failure::ClientGone)?,
    };
    match first {
        First::Gone => return Ok(After::Done),
        First::Silent => match whoever_speaks_first(conn, &mut passage, worker).await? {
            FirstWord::Http(version) => return Ok(http(version, worker)),
            FirstWord::Client => {}
            FirstWord::Server => return passage.carry(conn, worker).await,
        },
        // For a proxy outside the mesh: what follows is no request.
        First::Http1 if conn.input().starts_with(b"CONNECT ") => return passage.carry(conn, worker).await,
        First::Http1 => return Ok(http(Speaks::Http1, worker)),
        First::Http2 => return Ok(http(Speaks::Http2, worker)),
        First::Opaque => {}
    }
    match by_server_name(conn, &mut passage, worker).await? {
        Some(destination) => {
            worker.registry.count(Event::CapturedServerName);
            outbound::opaque(conn, &destination, worker).await
        }
        None => passage.carry(conn, worker).await,
    }
}

fn http(version: Speaks, worker: &Worker) -> After {
    worker.registry.count(Event::CapturedHttp);
    After::Http(version)
}

/// Opens the way to where the connection was going. Nothing has been sent, so a client that wakes up with HTTP, or with
/// a service's name, may still go elsewhere.
async fn whoever_speaks_first(
    conn: &mut Conn,
    passage: &mut Passage,
    worker: &Rc<Worker>,
) -> Result<FirstWord, Failure> {
    let original = passage.original;
    let failure = match passage.open(worker).await {
        Ok(way) => return first_word(conn, way, original, Server::Outside(original), worker).await,
        Err(failure) => failure,
    };
    let Some(word) = late_word(conn, original, worker).await else { return Err(failure) };
    passage.fail(failure);
    Ok(word)
}

/// The first word of a client that was silent until it was clear that nobody answers. `None`: there is none.
async fn late_word(conn: &mut Conn, original: SocketAddr, worker: &Worker) -> Option<FirstWord> {
    let silence = if CLIENTS_SPEAK_FIRST.contains(&original.port()) { LATE_MAX } else { Duration::ZERO };
    let client = Rc::<clients::Client>::default();
    let _among_silent = worker.enter_silent(&client);
    match client.idle(first_bytes_within(conn, silence)).await?.ok()? {
        First::Http1 => Some(FirstWord::Http(Speaks::Http1)),
        First::Http2 => Some(FirstWord::Http(Speaks::Http2)),
        First::Opaque => Some(FirstWord::Client),
        First::Silent | First::Gone => None,
    }
}

/// The service that a TLS client asks for, if there is one of that name.
async fn by_server_name(
    conn: &mut Conn,
    passage: &mut Passage,
    worker: &Rc<Worker>,
) -> Result<Option<Arc<Destination>>, Failure> {
    let Some(name) = asked_name(conn).await else { return Ok(None) };
    let Some(asked) = meant::by_server_name(&name, passage.original) else {
        passage.authority = name;
        return Ok(None);
    };
    let found = named(&asked, worker).await?;
    passage.authority = name;
    Ok(found)
}

/// Waits for a whole ClientHello, no longer than for anything else that could still be decided.
async fn asked_name(conn: &mut Conn) -> Option<String> {
    if detect(conn.input()) != Detected::Tls {
        return None;
    }
    let undecided = Instant::now() + DETECT_UNDECIDED;
    loop {
        match server_name(conn.input()) {
            ServerName::Named(name) => return Some(name),
            ServerName::Unnamed => return None,
            ServerName::NeedMore => match timeout_at(undecided, conn.fill()).await {
                Ok(Ok(Filled::More)) => {}
                Ok(Ok(Filled::End) | Err(_)) | Err(_) => return None,
            },
        }
    }
}

async fn named(asked: &Asked<'_>, worker: &Rc<Worker>) -> Result<Option<Arc<Destination>>, Failure> {
    let absent = match http::find(asked, &worker.snapshot(), worker)? {
        Lead::Found(found) => return Ok(Some(found.clone())),
        Lead::Outside => return Ok(None),
        Lead::Unknown(absent) => absent,
    };
    match (http::first_answer(asked, worker).await, absent) {
        (Ok(answered), _) => match http::find(asked, &answered, worker)? {
            Lead::Found(found) => Ok(Some(found.clone())),
            Lead::Outside | Lead::Unknown(_) => Ok(None),
        },
        // Nobody says that it is a service, and it has an address of its own.
        (Err(_), Absent::Passthrough) => Ok(None),
        (Err(failure), Absent::Unknown) => Err(failure),
    }
}
