//! To the local application: a connection that was on its way to one of its ports.
//!
//! A port takes mutual TLS from the mesh alone (`strict`), or others beside it (`permissive`), as the control plane
//! says; until it does, `strict`. Who comes in clear is nobody: his requests are read, so that none says who he is, and he
//! is counted by where he comes from. TLS that is not the mesh's is the application's own, and is carried as it is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use meshwork_core::detect::{Detected, detect, may_be_request};
use meshwork_core::discover::Refusal;
use meshwork_core::meant::{self, Toward};
use meshwork_core::model::{AppProtocol, MtlsMode};
use meshwork_core::sni::{Caller, caller};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{captured, refuse};
use crate::alpn::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP};
use crate::conn::{Conn, Filled};
use crate::connect::{self, CONNECT_TIMEOUT};
use crate::detect::{DETECT_SILENCE, DETECT_UNDECIDED, First, first_bytes_within};
use crate::failure::Failure;
use crate::http::{self, Inbound, Role, Speaks};
use crate::outbound::{FirstWord, first_word};
use crate::settings::PortSpec;
use crate::spoke_first::Server;
use crate::telemetry::plaintext::Met;
use crate::telemetry::{Event, Labels};
use crate::worker::Worker;
use crate::{inbound, mux, tcp};

/// Whoever comes in clear, in the metrics.
const PLAINTEXT_PEER: &str = "plaintext";

/// How long a client may be silent where the application is known to speak first. A sidecar's first bytes come with its
/// connection: it is not taken for another, for whom a way is opened that servers as MariaDB's count as broken off.
const SIDECAR_SILENCE: Duration = Duration::from_millis(1);

pub(crate) async fn serve(socket: TcpStream, from: SocketAddr, worker: &Rc<Worker>) {
    let Some(original) = captured(&socket, from, worker) else { return };
    let toward = meant::toward(original, &worker.shared.served, worker.shared.probe_port, &worker.shared.own);
    let port = match toward {
        Toward::Declared(index) => worker.shared.ports[index].clone(),
        Toward::Undeclared => {
            PortSpec { service_port: original.port(), app_port: original.port(), protocol: None }
        }
        Toward::Probes => return probe(socket, worker).await,
        Toward::Sidecar => {
            return refuse(&socket, from, format_args!("{original}: {}", Refusal::OwnPort), worker);
        }
    };
    match (mtls_of(port.app_port, worker), toward) {
        (MtlsMode::Permissive, _) => {
            let undeclared = (toward == Toward::Undeclared).then_some(original);
            let conn = Conn::plain(socket, worker.buffers.clone());
            Visit { from, port, undeclared }.take(conn, worker).await;
        }
        (MtlsMode::Strict, Toward::Declared(_)) => inbound::serve(socket, from, &port, worker).await,
        (MtlsMode::Strict, Toward::Undeclared | Toward::Probes | Toward::Sidecar) => {
            worker.registry.plaintext.met(from.ip(), port.app_port, Met::Refused);
            refuse(&socket, from, format_args!("nobody declared the port of {original} (--port)"), worker);
        }
    }
}

/// The platform's own question, which no rule should have redirected.
async fn probe(socket: TcpStream, worker: &Worker) {
    let Some(port) = worker.shared.probe_port else { return };
    let mut conn = Conn::plain(socket, worker.buffers.clone());
    match connect::application(port, worker).await {
        // Its ends are its own to judge.
        Ok(mut way) => drop(tcp::splice(&mut conn, &mut way, None, &worker.drains.inbound).await),
        Err(failure) => tracing::warn!(%failure, "a probe is not answered"),
    }
}

fn mtls_of(app_port: u16, worker: &Worker) -> MtlsMode {
    let snapshot = worker.snapshot();
    snapshot.inbound.as_ref().map_or(MtlsMode::Strict, |inbound| inbound.mtls_of(app_port))
}

/// A connection to a port that takes others beside the mesh.
struct Visit {
    from: SocketAddr,
    port: PortSpec,
    /// Where it was going, if that is no declared port.
    undeclared: Option<SocketAddr>,
}

impl Visit {
    async fn take(self, conn: Conn, worker: &Rc<Worker>) {
        let (from, port) = (self.from, self.port.app_port);
        if let Err(failure) = self.look(conn, worker).await {
            tracing::info!(%from, port, %failure, "a connection in clear is not carried");
        }
    }

    async fn look(self, mut conn: Conn, worker: &Rc<Worker>) -> Result<(), Failure> {
        worker.shared.ceilings.memory.admit(&worker.registry)?;
        let server = Server::Application(self.address());
        let silence = match worker.shared.spoke_first.is_known(server, worker.now()) {
            true => SIDECAR_SILENCE,
            false => DETECT_SILENCE,
        };
        // A sidecar speaks at once. Whoever does not may wait for the application to speak first.
        let first = first_bytes_within(&mut conn, silence).await;
        let (word, way) = match first.map_err(|_| Failure::ClientGone)? {
            First::Gone => return Ok(()),
            First::Http1 => (FirstWord::Http(Speaks::Http1), None),
            First::Http2 => (FirstWord::Http(Speaks::Http2), None),
            First::Opaque => (FirstWord::Client, None),
            First::Silent => {
                let mut way = self.open(&conn, worker).await?;
                (first_word(&mut conn, &mut way, self.address(), server, worker).await?, Some(way))
            }
        };
        let is_tls = matches!(word, FirstWord::Client) && detect(conn.input()) == Detected::Tls;
        if is_tls && self.undeclared.is_none() && is_sidecar(&mut conn).await {
            inbound::serve_begun(conn, self.from, &self.port, worker).await;
            return Ok(());
        }
        worker.registry.count(Event::PlaintextCarried);
        worker.registry.plaintext.met(self.from.ip(), self.port.app_port, Met::Carried);
        let inbound = self.inbound(worker);
        match request(&conn, word, inbound.hint(&worker.snapshot())) {
            Some(Speaks::Http1) => {
                http::serve(conn, &Role::Inbound(inbound), worker).await;
                Ok(())
            }
            Some(Speaks::Http2) => {
                mux::serve(conn, Role::Inbound(inbound), worker).await;
                Ok(())
            }
            None => self.opaque(conn, way, worker).await,
        }
    }

    async fn opaque(&self, mut conn: Conn, way: Option<Conn>, worker: &Worker) -> Result<(), Failure> {
        let mut way = match way {
            Some(way) => way,
            None => self.open(&conn, worker).await?,
        };
        worker.registry.count(Event::OpaqueInbound);
        if let Err(error) = tcp::splice(&mut conn, &mut way, None, &worker.drains.inbound).await {
            tracing::debug!(from = %self.from, %error, "a connection in clear broke off");
        }
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        self.undeclared.unwrap_or_else(|| connect::loopback(self.port.app_port))
    }

    async fn open(&self, client: &Conn, worker: &Worker) -> Result<Conn, Failure> {
        let opened = match self.undeclared {
            Some(address) => connect::plain(address, CONNECT_TIMEOUT, worker).await,
            None => connect::application(self.port.app_port, worker).await,
        };
        if opened.is_err() {
            client.abort(); // as it would be without us
        }
        opened
    }

    fn inbound(&self, worker: &Worker) -> Inbound {
        let labels = Labels { peer: PLAINTEXT_PEER.to_owned(), route: String::new() };
        Inbound {
            client_cert: None,
            app_port: self.port.app_port,
            undeclared: self.undeclared,
            registered: self.port.protocol,
            labels: worker.registry.inbound(&labels),
            admission: inbound::admission(worker),
        }
    }
}

/// In which HTTP the client's words are read; `None`: in none.
fn request(conn: &Conn, word: FirstWord, hint: Option<AppProtocol>) -> Option<Speaks> {
    match (word, hint) {
        // Whoever declared the port so answers for what passes.
        (FirstWord::Client | FirstWord::Http(_), Some(AppProtocol::Tcp)) | (FirstWord::Server, _) => None,
        (FirstWord::Http(version), _) => Some(version),
        // The engine says what is wrong with it.
        (FirstWord::Client, _) => may_be_request(conn.input()).then_some(Speaks::Http1),
    }
}

/// Waits for a whole ClientHello, no longer than for anything else that could still be decided.
async fn is_sidecar(conn: &mut Conn) -> bool {
    let undecided = Instant::now() + DETECT_UNDECIDED;
    loop {
        match caller(conn.input(), &[ALPN_HTTP2, ALPN_HTTP1, ALPN_TCP]) {
            Caller::Sidecar => return true,
            Caller::Other => return false,
            Caller::NeedMore => match timeout_at(undecided, conn.fill()).await {
                Ok(Ok(Filled::More)) => {}
                Ok(Ok(Filled::End) | Err(_)) | Err(_) => return false,
            },
        }
    }
}
