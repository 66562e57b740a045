//! A request's story, from its head to its answer. Every stage is a line here; deciding is in `core`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshwork_core::discover::{self, Absent, Course, Destination as Asked, Ranges};
use meshwork_core::model::{AccessLog, AppProtocol};
use meshwork_core::policy::ConnectPolicy;
use meshwork_core::retry::Kind;
use meshwork_core::{filter, grpc, meant, route};
use meshwork_http::forward::{self, ForwardRequest, ProxyAuthentication, Upgrades};
use meshwork_http::websocket;
use tokio::time::timeout;

use super::deadline::Patience;
use super::passthrough::Outside;
use super::plan::{Plan, Speaks, Upgrade, upgrade};
use super::record::Record;
use super::send::{Place, Target};
use super::{Admission, After, Downstream, Inbound, Outbound, Role, attempt, passthrough, respond};
use crate::destination::Destination;
use crate::failure::Failure;
use crate::live::{Found, Snapshot};
use crate::telemetry::Event;
use crate::worker::Worker;

/// The first request to a service waits this long for the control plane's answer: a round trip, with
/// room for a control plane that is starting.
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Requests that may wait for first answers. Each holds a connection; the rest is told at once.
const FIRST_ANSWER_WAITING_MAX: usize = 1_000;

pub(super) async fn handle(down: &mut Downstream, role: &Role, worker: &Rc<Worker>) -> After {
    let snapshot = worker.snapshot(); // one version of the mesh, held to the end
    let log = snapshot.settings.as_ref().map_or(AccessLog::Off, |settings| settings.access_log);
    let mut record = Record::begin(&down.request, log, worker);
    let handled = match (worker.shared.ceilings.memory.admit(&worker.registry), role) {
        (Err(full), _) => Err(full),
        (Ok(()), Role::Outbound(outbound)) => {
            self::outbound(down, outbound, &snapshot, &mut record, worker).await
        }
        (Ok(()), Role::Inbound(inbound)) => {
            self::inbound(down, inbound, &snapshot, &mut record, worker).await
        }
    };
    let after = match handled {
        Ok(After::Tunnel(destination)) => return After::Tunnel(destination),
        Ok(after) => after,
        Err(failure) => respond::failure(down, &failure, &mut record, role.drain(worker)).await,
    };
    record.finish(worker);
    after
}

/// From the local application to whatever it asked for.
async fn outbound(
    down: &mut Downstream,
    outbound: &Outbound,
    snapshot: &Snapshot,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    if down.request.method() == "CONNECT" && !websocket::is_extended_connect(&down.request) {
        if down.exchange.is_http2() {
            return Err(Failure::TunnelOverHttp2);
        }
        match outbound {
            Outbound::Proxy => {
                let asked = discover::destination(down.request.authority().unwrap_or_default(), 80)?;
                return Ok(After::Tunnel(asked.into_owned()));
            }
            Outbound::Captured(_) => return Err(Failure::LateTunnel),
            Outbound::Fixed(_) => {}
        }
    }
    // The name is borrowed from the head, which is edited next: what is needed later is found first.
    let named;
    let asked = match outbound {
        Outbound::Proxy => {
            named = discover::destination(down.request.authority().unwrap_or_default(), 80)?;
            &named
        }
        Outbound::Fixed(destination) => destination,
        Outbound::Captured(original) => return captured(down, *original, snapshot, record, worker).await,
    };
    let later;
    let found = match find(asked, snapshot, worker)? {
        Lead::Found(found) => Some(found),
        Lead::Outside => None,
        Lead::Unknown(absent) => {
            later = first_answer(asked, worker).await?;
            known(later.find(&asked.to_string()), absent, asked)?
        }
    };
    match found {
        Some(destination) => to_service(down, destination, record, worker).await,
        None => {
            let asked = asked.clone().into_owned();
            passthrough::request(down, &Outside::Host(asked), record, worker).await
        }
    }
}

/// From the local application, which went to an address that no service claims.
async fn captured(
    down: &mut Downstream,
    original: SocketAddr,
    snapshot: &Snapshot,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let later;
    let found = match meant::by_host(down.request.authority().unwrap_or_default(), original) {
        None => None,
        Some(named) => match find(&named, snapshot, worker)? {
            Lead::Found(found) => Some(found),
            Lead::Outside => None,
            Lead::Unknown(absent) => match (first_answer(&named, worker).await, absent) {
                (Ok(answered), _) => {
                    later = answered;
                    known(later.find(&named.to_string()), absent, &named)?
                }
                // Nobody says that it is a service, and it has an address of its own.
                (Err(_), Absent::Passthrough) => None,
                (Err(failure), Absent::Unknown) => return Err(failure),
            },
        },
    };
    match found {
        Some(destination) => to_service(down, destination, record, worker).await,
        None => passthrough::request(down, &Outside::Address(original), record, worker).await,
    }
}

/// Where a name leads, as far as that is known.
pub(crate) enum Lead<'a> {
    Found(&'a Arc<Destination>),
    Outside,
    /// Nobody asked for it yet.
    Unknown(Absent),
}

pub(crate) fn find<'a>(
    asked: &Asked<'_>,
    snapshot: &'a Snapshot,
    worker: &Rc<Worker>,
) -> Result<Lead<'a>, Failure> {
    let ranges = Ranges::of(snapshot.settings.as_deref());
    let course = discover::course(asked, ranges, &worker.shared.own)
        .map_err(|source| Failure::Refused { host: asked.to_string(), source })?;
    let Course::Ask(absent) = course else { return Ok(Lead::Outside) };
    let lead = worker.with_name(asked, |name| snapshot.find(name));
    match lead {
        None => Ok(Lead::Unknown(absent)),
        found => Ok(known(found, absent, asked)?.map_or(Lead::Outside, Lead::Found)),
    }
}

/// What the control plane's answer means; `None`: the name is no service's, and may exist outside.
fn known<'a>(
    found: Option<&'a Found>,
    absent: Absent,
    asked: &Asked<'_>,
) -> Result<Option<&'a Arc<Destination>>, Failure> {
    match (found, absent) {
        (Some(Found::Service(destination)), _) => Ok(Some(destination)),
        (Some(Found::Absent), Absent::Passthrough) => Ok(None),
        (Some(Found::Absent), Absent::Unknown) => Err(Failure::UnknownService { host: asked.to_string() }),
        (None, _) => Err(Failure::UnknownServiceYet { host: asked.to_string() }),
    }
}

/// Asks the control plane and waits for its first answer about a name.
pub(crate) async fn first_answer(asked: &Asked<'_>, worker: &Rc<Worker>) -> Result<Arc<Snapshot>, Failure> {
    let name = asked.to_string();
    let live = &worker.shared.live;
    let Some(_waiting) = live.wait(FIRST_ANSWER_WAITING_MAX) else {
        return Err(Failure::UnknownServiceYet { host: name });
    };
    let mut versions = live.watch();
    if !live.ask(&name) {
        return Err(Failure::UnknownServiceYet { host: name });
    }
    let answered = async {
        loop {
            let snapshot = live.snapshot();
            if snapshot.find(&name).is_some() || versions.changed().await.is_err() {
                return snapshot;
            }
        }
    };
    timeout(FIRST_ANSWER_WAIT, answered).await.map_err(|_| {
        worker.registry.count(Event::FirstAnswerTimeout);
        Failure::UnknownServiceYet { host: name.clone() }
    })
}

/// By the service's rules to one of its backends.
async fn to_service(
    down: &mut Downstream,
    destination: &Destination,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    destination.touch(worker.clock.now_millis());
    record.labels = Some(destination.unmatched);
    let asked = prepare(down, worker);
    record.identified(&down.request);
    filter::strip_proxy(&mut down.request);
    filter::set_client_cert(&mut down.request, None); // who calls is said by the other sidecar, not by the application
    let rule = route::select(&destination.route, &down.request).ok_or_else(|| Failure::NoRoute {
        service: destination.name.to_string(),
        method: down.request.method().chars().take(32).collect(),
        path: down.request.path().chars().take(256).collect(),
    })?;
    record.labels = Some(destination.labels(rule));
    let backend = destination
        .backend(rule, worker.random())
        .ok_or_else(|| Failure::NoBackend { rule: rule.name.clone() })?;
    let _admitted = backend.admit(worker)?;
    filter::apply(&rule.request_headers, &mut down.request);
    let call = record.call(&down.request);
    let told = match call.kind {
        Kind::Grpc => grpc::timeout(&down.request),
        Kind::Http => None,
    };
    let timeouts = rule.timeouts.or(backend.traffic().timeouts);
    let plan = Plan {
        upgrade: upgrade(&asked, &down.request),
        expects_continue: asked.expects_continue,
        response_headers: Some(&rule.response_headers),
        retry: rule.retry.as_ref(),
        keep_alive: down.exchange.keep_alive(),
        application: spoken(destination.hint, down.exchange.is_http2()),
        drain: &worker.drains.outbound,
        call,
        patience: Patience::of(timeouts, told, || record.elapsed(worker)),
    };
    attempt::balanced(down, backend, &plan, record, worker).await
}

/// From the mesh to the local application.
async fn inbound(
    down: &mut Downstream,
    inbound: &Inbound,
    snapshot: &Snapshot,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    record.labels = Some(inbound.labels);
    if inbound.admission == Admission::Draining {
        return Err(Failure::Draining);
    }
    let is_client_http2 = match inbound.client_cert {
        Some(_) => down.request.header(filter::APPLICATION_HTTP) == Some(b"2"), // its sidecar says so
        None => down.exchange.is_http2(),
    };
    let application = spoken(inbound.hint(snapshot), is_client_http2);
    let asked = prepare(down, worker);
    record.identified(&down.request);
    filter::set_client_cert(&mut down.request, inbound.client_cert.as_deref());
    let plan = Plan {
        upgrade: upgrade(&asked, &down.request),
        expects_continue: asked.expects_continue,
        response_headers: None,
        retry: None,
        keep_alive: down.exchange.keep_alive(),
        application,
        drain: &worker.drains.inbound,
        call: record.call(&down.request),
        patience: Patience::default(),
    };
    // An upgrade is HTTP/1's, and WebSocket is spoken so wherever nobody said that the application does otherwise.
    let speaks = match (plan.upgrade, inbound.hint(snapshot)) {
        (Upgrade::No, _) => application,
        (Upgrade::WebSocket, Some(AppProtocol::Http2)) => Speaks::Http2,
        (Upgrade::Http1 | Upgrade::WebSocket, _) => Speaks::Http1,
    };
    let place = inbound.undeclared.map_or(Place::Application(inbound.app_port), Place::Clear);
    let connect = ConnectPolicy::default();
    let target = Target { place, speaks, connect, account: None };
    attempt::direct(down, target, &plan, record, worker).await
}

/// What the application is spoken to, if nobody said it: what its client speaks.
fn spoken(hint: Option<AppProtocol>, is_client_http2: bool) -> Speaks {
    match hint {
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => Speaks::Http2,
        Some(AppProtocol::Http) => Speaks::Http1,
        Some(AppProtocol::Tcp) | None if is_client_http2 => Speaks::Http2,
        Some(AppProtocol::Tcp) | None => Speaks::Http1,
    }
}

/// What every forwarded request gets: hop-by-hop fields end here, names of the mesh are the mesh's, and
/// whoever follows the request finds an ID.
fn prepare(down: &mut Downstream, worker: &Rc<Worker>) -> ForwardRequest {
    let asked = forward::request(&mut down.request, Upgrades::Pass, ProxyAuthentication::Remove);
    filter::strip_own(&mut down.request);
    filter::ensure_request_id(&mut down.request, worker.random_wide());
    filter::ensure_traceparent(&mut down.request, worker.random_wide(), worker.random());
    asked
}
