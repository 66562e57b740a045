//! Requests to hosts that no service of the mesh claims: sent on in clear as the application would have,
//! by the proxy that it would have used; counted.

use std::net::SocketAddr;
use std::rc::Rc;

use meshwork_core::discover::Destination;
use meshwork_core::filter;
use meshwork_core::policy::ConnectPolicy;
use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};

use super::deadline::Patience;
use super::plan::{Plan, Speaks, Upgrade, upgrade};
use super::record::Record;
use super::send::{Place, Target};
use super::{After, Downstream, attempt};
use crate::failure::Failure;
use crate::passthrough::{self, by_ip, outside, resolve, resolve_proxy};
use crate::telemetry::Event;
use crate::worker::Worker;

/// Where a request goes that no service claims.
pub(super) enum Outside {
    Host(Destination<'static>),
    /// The client went there itself, and was redirected to us.
    Address(SocketAddr),
}

pub(super) async fn request(
    down: &mut Downstream,
    outside: &Outside,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    match outside {
        Outside::Host(asked) => to_host(down, asked, record, worker).await,
        Outside::Address(original) => to_address(down, *original, record, worker).await,
    }
}

/// As little is changed as can be: what is at the end may be a proxy itself.
async fn to_address(
    down: &mut Downstream,
    original: SocketAddr,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    passthrough::admit(&by_ip(original), Event::DeniedRequest, worker)?;
    worker.registry.count(Event::PassthroughRequest);
    let is_http2 = down.exchange.is_http2();
    let is_absolute = !is_http2 && down.request.scheme() == "http";
    let forwarded = forward::request(&mut down.request, Upgrades::Pass, ProxyAuthentication::Pass);
    filter::strip_own(&mut down.request);
    if is_absolute {
        down.request.set_scheme("http");
    }
    record.endpoint = Some(original);
    let speaks = if is_http2 { Speaks::Http2 } else { Speaks::Http1 };
    let plan = Plan {
        upgrade: upgrade(&forwarded, &down.request),
        expects_continue: forwarded.expects_continue,
        response_headers: None,
        keep_alive: down.exchange.keep_alive(),
        application: speaks,
        drain: &worker.drains.outbound,
        retry: None,
        call: record.call(&down.request),
        patience: Patience::default(),
    };
    let target =
        Target { place: Place::Clear(original), speaks, connect: ConnectPolicy::default(), account: None };
    let sent = attempt::direct(down, target, &plan, record, worker).await;
    sent.map_err(|failure| outside(failure, &by_ip(original)))
}

async fn to_host(
    down: &mut Downstream,
    asked: &Destination<'_>,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    passthrough::admit(asked, Event::DeniedRequest, worker)?;
    worker.registry.count(Event::PassthroughRequest);
    let parent = worker.shared.parent_proxy.as_deref();
    let proxy = if parent.is_some() { ProxyAuthentication::Pass } else { ProxyAuthentication::Remove };
    let forwarded = forward::request(&mut down.request, Upgrades::Pass, proxy);
    filter::strip_own(&mut down.request);
    if parent.is_none() {
        filter::strip_proxy(&mut down.request);
    }
    let address = match parent {
        Some(parent) => {
            // A proxy wants to be told where to go: absolute-form (RFC 9112, 3.2.2).
            down.request.set_scheme("http");
            resolve_proxy(parent).await?
        }
        None => resolve(asked, worker).await?,
    };
    record.endpoint = Some(address);
    let plan = Plan {
        upgrade: if forwarded.upgrade { Upgrade::Http1 } else { Upgrade::No },
        expects_continue: forwarded.expects_continue,
        response_headers: None,
        keep_alive: down.exchange.keep_alive(),
        application: Speaks::Http1,
        drain: &worker.drains.outbound,
        retry: None,
        call: record.call(&down.request),
        patience: Patience::default(),
    };
    let (place, connect) = (Place::Clear(address), ConnectPolicy::default());
    let target = Target { place, speaks: Speaks::Http1, connect, account: None };
    attempt::direct(down, target, &plan, record, worker).await.map_err(|failure| outside(failure, asked))
}
