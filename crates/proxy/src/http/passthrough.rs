//! Requests to hosts that no service of the mesh claims: sent on in clear as the application would have,
//! by the proxy that it would have used; counted.

use std::rc::Rc;

use meshwork_core::discover::Destination;
use meshwork_core::filter;
use meshwork_core::policy::ConnectPolicy;
use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};

use super::attempt::{self, Plan, Upgrade};
use super::deadline::Patience;
use super::record::Record;
use super::send::{Place, Speaks, Target};
use super::{After, Downstream};
use crate::failure::Failure;
use crate::passthrough::{outside, resolve, resolve_proxy};
use crate::telemetry::Event;
use crate::worker::Worker;

pub(super) async fn request(
    down: &mut Downstream,
    asked: &Destination<'_>,
    record: &mut Record,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
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
