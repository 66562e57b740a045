//! `GET /api/v1/describe/<kind>/<namespace>/<name>`: a resource, what is amiss with it, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use meshwork_core::compile::{Unsupported, compile};
use meshwork_core::manifest::Kind;
use meshwork_core::mesh::Mesh;
use meshwork_core::model::{Balance, HashKey, HashTable, Key as Named, Service, ServicePort};
use meshwork_core::name::PortName;
use meshwork_core::policy::Distribution;
use meshwork_core::resource::ResourceType;
use meshwork_core::status;
use meshwork_core::validate::Problem;
use serde::Serialize;
use serde_json::Value;

use super::objects::{find, show_now};
use super::status::{EndpointStatus, Proxy, endpoints, proxy, streams};
use super::words::{health_word, resource_word};
use super::{Api, ApiError, kind};
use crate::manifest;
use crate::sessions::{Foreign, Stream};
use crate::view::View;

/// Where an Envoy might listen.
const ANYWHERE: &str = "127.0.0.1:0";

/// Resources of one sidecar that are listed.
const RESOURCES_MAX: usize = 500;

#[derive(Serialize)]
pub(super) struct Described {
    resource: Value,
    /// What is amiss among documents that are each right.
    problems: Vec<Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<EndpointStatus>>,
    /// Routes that are bound to the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<String>>,
    /// Policies that hold for ports of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<Vec<String>>,
    /// How callers choose among the endpoints of each port.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<BTreeMap<u16, String>>,
    /// What programs without a sidecar are not told of the service, as they could not honour it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unsupported: Vec<UnsupportedBy>,
    /// What the control plane's own checks of a workload without sidecar found, where they found something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<CheckStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<Proxy>,
    /// What the workload's sidecar was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Vec<Sent>>,
}

#[derive(Serialize)]
struct UnsupportedBy {
    audience: &'static str,
    resource: String,
    what: String,
}

#[derive(Serialize)]
struct CheckStatus {
    address: String,
    health: &'static str,
    /// What was found; empty if it is well.
    detail: String,
}

#[derive(Serialize)]
struct Sent {
    #[serde(rename = "type")]
    resource_type: &'static str,
    name: String,
    sent: Option<String>,
    acknowledged: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

pub(super) async fn describe(
    State(api): State<Arc<Api>>,
    Path((word, namespace, name)): Path<(String, String, String)>,
) -> Result<Json<Described>, ApiError> {
    let kind = kind(&word)?;
    let named = manifest::named(kind, &namespace, &name);
    let view = api.view().await;
    let resource = show_now(&view, kind, &find(&api, kind, &named)?)?;
    let bare = Described {
        resource,
        problems: problems(&view.mesh, kind, &named),
        endpoints: None,
        routes: None,
        policies: None,
        balance: None,
        unsupported: Vec::new(),
        checks: Vec::new(),
        proxy: None,
        config: None,
    };
    Ok(Json(match kind {
        Kind::Service => of_service(&view, &named, bare),
        Kind::Workload => of_workload(&api, &view, &named, bare),
        Kind::HttpRoute | Kind::TrafficPolicy | Kind::MeshConfig => bare,
    }))
}

/// Warnings; empty as well for what the model has not taken up yet.
pub(super) fn problems(mesh: &Mesh, kind: Kind, named: &Named) -> Vec<Problem> {
    match kind {
        Kind::Service => mesh.service(named).map(|service| status::of_service(mesh, service)),
        Kind::Workload => mesh.workload(named).map(|workload| status::of_workload(mesh, workload)),
        Kind::HttpRoute => mesh.route(named).map(|route| status::of_route(mesh, route)),
        Kind::TrafficPolicy => mesh.policy(named).map(|policy| status::of_policy(mesh, policy)),
        Kind::MeshConfig => None,
    }
    .unwrap_or_default()
}

fn of_service(view: &View, named: &Named, described: Described) -> Described {
    let Some(service) = view.mesh.service(named) else { return described };
    let routes = view.mesh.routes_of(named).map(|route| route.key.to_string()).collect();
    let holding = service.ports.iter().filter_map(|port| view.mesh.policy_of(named, port));
    let policies: BTreeSet<_> = holding.map(|policy| policy.key.to_string()).collect();
    Described {
        endpoints: Some(endpoints(&view.mesh, service)),
        routes: Some(routes),
        policies: Some(policies.into_iter().collect()),
        balance: Some(
            service.ports.iter().map(|port| (port.port, balance(&view.mesh, service, port))).collect(),
        ),
        unsupported: unsupported(&view.mesh, service),
        ..described
    }
}

/// In a `TrafficPolicy`'s words, with what is hashed.
fn balance(mesh: &Mesh, service: &Service, port: &ServicePort) -> String {
    let policy = mesh.policy_of(&service.key, port);
    let balance = policy.and_then(|policy| policy.balance.as_ref()).unwrap_or(&service.balance);
    let near = policy.map(|policy| policy.traffic.distribution).unwrap_or_default();
    let algorithm = match balance {
        Balance::PeakEwma => "peakEwma".to_owned(),
        Balance::RoundRobin => "roundRobin".to_owned(),
        Balance::LeastRequest => "leastRequest".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::Hash { table, key } => {
            let table = match table {
                HashTable::Ring { .. } => "ringHash",
                HashTable::Maglev { .. } => "maglev",
            };
            match key {
                HashKey::Header(name) => format!("{table} of the header {name}"),
                HashKey::Cookie { name, given: None } => format!("{table} of the cookie {name}"),
                HashKey::Cookie { name, given: Some(_) } => {
                    format!("{table} of the cookie {name}, which is given")
                }
                HashKey::Source => format!("{table} of the caller's address"),
            }
        }
    };
    match near {
        Distribution::Anywhere => algorithm,
        Distribution::PreferSameZone => format!("{algorithm}, near endpoints first"),
    }
}

/// As callers of the service's own namespace would see it.
fn unsupported(mesh: &Mesh, service: &Service) -> Vec<UnsupportedBy> {
    let of_port = |port: &ServicePort| {
        let name = PortName::new(service.key.clone(), port.port).to_string();
        let asked = format!("{}.{}:{}", service.key.name, service.key.namespace, port.port);
        // An Envoy's has the address in its name, too; any will do.
        let listening = format!("{asked}={ANYWHERE}");
        let both = [(ResourceType::Route, name.clone()), (ResourceType::Cluster, name)];
        let grpc = both.clone().into_iter().chain([(ResourceType::Listener, asked)]);
        let envoy = both.into_iter().chain([(ResourceType::Listener, listening)]);
        let grpc = grpc.map(|(resource_type, name)| (Foreign::Grpc, resource_type, name));
        grpc.chain(envoy.map(|(resource_type, name)| (Foreign::Envoy, resource_type, name)))
    };
    let compiled = service.ports.iter().flat_map(of_port).map(|(foreign, resource_type, name)| {
        let refused = compile(mesh, resource_type, &name, &service.key.namespace, foreign.audience()).err();
        refused.into_iter().flatten().map(move |Unsupported { resource, what }| UnsupportedBy {
            audience: foreign.word(),
            resource: resource.split('=').next().unwrap_or_default().to_owned(),
            what,
        })
    });
    compiled.flatten().collect()
}

fn of_workload(api: &Api, view: &View, named: &Named, described: Described) -> Described {
    let Some(workload) = view.mesh.workload(named) else { return described };
    let streams = streams(api);
    let proxy = proxy(api, workload, &streams);
    let config = streams.get(named).filter(|_| proxy.is_some()).map(|stream| sent(stream));
    let checks = api.standings.checked(named).into_iter().map(|(address, checked)| CheckStatus {
        address: address.to_string(),
        health: health_word(checked.health),
        detail: checked.detail,
    });
    Described { checks: checks.collect(), proxy, config, ..described }
}

fn sent(stream: &Stream) -> Vec<Sent> {
    let session = stream.session();
    let subscriptions = session.subscriptions().iter().take(RESOURCES_MAX);
    subscriptions
        .map(|(reference, subscription)| Sent {
            resource_type: resource_word(reference.resource_type),
            name: reference.name.clone(),
            sent: subscription.sent().map(str::to_owned),
            acknowledged: subscription.acknowledged().map(str::to_owned),
            refused: subscription.refused().map(|refusal| refusal.reason.clone()),
        })
        .collect()
}
