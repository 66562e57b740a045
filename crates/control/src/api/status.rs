//! `GET /api/v1/status`: the mesh at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use meshwork_core::compile::{Audience, Features, compile};
use meshwork_core::mesh::Mesh;
use meshwork_core::model::{Health, Key as Named, Service, Transport, Workload};
use meshwork_core::resource::{Endpoint, Resource, ResourceType};
use meshwork_core::{name::PortName, timestamp};
use meshwork_xds::proto;
use serde::Serialize;

use super::loads::{self, Reported};
use super::store::{self, LostEra};
use super::words::{health_word, resource_word};
use super::{Api, ApiError};
use crate::caller::Caller;
use crate::handshakes::Seen;
use crate::logins::Counts;
use crate::sessions::Stream;
use crate::view::View;

/// Refused resources that one sidecar's entry lists.
const NACKS_MAX: usize = 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    mesh_id: String,
    trust_domain: String,
    version: &'static str,
    /// The store's.
    revision: u64,
    keys: u64,
    /// What sidecars have seen, and the store does not have: it is an older copy, and they keep their config.
    lost: Vec<LostEra>,
    /// Where sidecars connect.
    address: String,
    /// Sidecars that connect.
    handshakes: Seen,
    /// Login tokens that were no good.
    logins: Counts,
    services: Vec<ServiceStatus>,
    proxies: Vec<Proxy>,
    /// Programs without a sidecar that take their config from here.
    clients: Vec<ForeignClient>,
    /// What they report of the services that they call.
    loads: Vec<Reported>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceStatus {
    namespace: String,
    name: String,
    ports: Vec<u16>,
    healthy: usize,
    unhealthy: usize,
    draining: usize,
    endpoints: Vec<String>,
}

/// One sidecar: its session, its lease, its config.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proxy {
    namespace: String,
    workload: String,
    service: String,
    spiffe_id: String,
    /// Where its connection comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    version: String,
    /// What it can beside what every sidecar can, as it announced.
    features: Vec<&'static str>,
    /// What this control plane knows and the sidecar did not announce.
    lacks: Vec<&'static str>,
    /// How far its clock was ahead of ours when it registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_ahead_seconds: Option<i64>,
    /// Whether its session stands.
    connected: bool,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<String>,
    /// Its certificate should have been renewed by now, and was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_stops: Option<TrafficStops>,
    config: Config,
    /// What it told last of what it sees; left out while its session is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// A program without a sidecar.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForeignClient {
    namespace: String,
    /// Of its certificate.
    service: String,
    /// `grpc`, `envoy`.
    program: &'static str,
    /// As it says itself.
    node: String,
    agent: String,
    version: String,
    spiffe_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    config: Config,
}

#[derive(Serialize)]
struct TrafficStops {
    /// Its certificate's end.
    at: String,
    reason: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    config: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    config_reason: String,
    backends: Vec<BackendSummary>,
    /// Since its start.
    limits: Vec<LimitReached>,
    /// Tries that it did not make, as a budget was spent; since its start.
    retries_withheld: u64,
}

#[derive(Serialize)]
struct LimitReached {
    kind: String,
    times: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendSummary {
    backend: String,
    requests: u64,
    retries: u64,
    budget_used_up: bool,
    ejected: Vec<Ejected>,
}

#[derive(Serialize)]
struct Ejected {
    address: String,
    workload: String,
    times: u32,
}

/// What a sidecar was told and has answered.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    /// Whether an ADS stream stands.
    connected: bool,
    subscribed: usize,
    /// Resources whose newest version the sidecar has confirmed.
    acknowledged: usize,
    nacks: Vec<Nack>,
}

#[derive(Serialize)]
struct Nack {
    #[serde(rename = "type")]
    resource_type: &'static str,
    name: String,
    version: String,
    reason: String,
}

/// One endpoint as lists show it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointStatus {
    port: u16,
    address: String,
    app_port: u16,
    workload: String,
    health: &'static str,
    weight: u32,
    /// Best first.
    transports: Vec<Transport>,
}

pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Status>, ApiError> {
    let view = api.view().await;
    let streams = streams(&api);
    let own = caller.namespace();
    let seen = |named: &Named| own.is_none_or(|own| own == named.namespace);
    let workloads = view.mesh.workloads().filter(|workload| seen(&workload.key));
    let proxies = workloads.filter_map(|workload| proxy(&api, workload, &streams)).collect();
    let services = view.mesh.services().filter(|service| seen(&service.key));
    let foreign_clients = api.sessions.all().into_iter().filter_map(|stream| foreign(&stream));
    let clients = foreign_clients.filter(|client| own.is_none_or(|own| own == client.namespace)).collect();
    let lost = store::told(api.eras.lost());
    let lost = match own {
        Some(own) => store::narrowed(lost, own),
        None => lost,
    };
    Ok(Json(Status {
        mesh_id: view.mesh.mesh_id().to_owned(),
        trust_domain: view.mesh.trust_domain().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        revision: api.store.revision(),
        keys: api.store.len()?,
        lost,
        address: api.advertised.clone(),
        handshakes: api.handshakes.seen(),
        logins: api.logins.counts(),
        services: services.map(|service| service_status(&view, service)).collect(),
        proxies,
        clients,
        loads: loads::reported(&api.loads, own),
    }))
}

fn service_status(view: &View, service: &Service) -> ServiceStatus {
    let endpoints = endpoints(&view.mesh, service);
    let count = |health: Health| endpoints.iter().filter(|found| found.health == health_word(health)).count();
    ServiceStatus {
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        ports: service.ports.iter().map(|port| port.port).collect(),
        healthy: count(Health::Healthy),
        unhealthy: count(Health::Unhealthy),
        draining: count(Health::Draining),
        endpoints: endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
    }
}

fn foreign(stream: &Stream) -> Option<ForeignClient> {
    let program = stream.foreign()?.word();
    let client = stream.session().client().cloned()?;
    Some(ForeignClient {
        namespace: stream.id.namespace().to_owned(),
        service: stream.id.account().to_owned(),
        program,
        node: client.id,
        agent: client.agent,
        version: client.version,
        spiffe_id: stream.id.to_string(),
        address: stream.remote.map(|address| address.to_string()),
        config: config(stream),
    })
}

/// A service's endpoints, as a sidecar of this version is told them.
pub(super) fn endpoints(mesh: &Mesh, service: &Service) -> Vec<EndpointStatus> {
    let mut endpoints = Vec::new();
    for port in &service.ports {
        let name = PortName::new(service.key.clone(), port.port).to_string();
        let audience = Audience::Sidecar(Features::ALL);
        let found = compile(mesh, ResourceType::Endpoints, &name, &service.key.namespace, audience);
        if let Ok(Some(Resource::Endpoints(found))) = found {
            endpoints.extend(found.endpoints.iter().map(|endpoint| endpoint_status(port.port, endpoint)));
        }
    }
    endpoints
}

fn endpoint_status(port: u16, endpoint: &Endpoint) -> EndpointStatus {
    EndpointStatus {
        port,
        address: endpoint.address.to_string(),
        app_port: endpoint.app_port,
        workload: endpoint.workload.clone(),
        health: health_word(endpoint.health),
        weight: endpoint.weight,
        transports: endpoint.transports.clone(),
    }
}

/// The open ADS streams by the workload that each says it is. Believed as far as the certificate's namespace.
pub(super) fn streams(api: &Api) -> BTreeMap<Named, Arc<Stream>> {
    let named = |stream: Arc<Stream>| {
        let id = stream.session().client().map(|client| client.id.clone())?;
        let name = id.rsplit('/').next().unwrap_or_default().to_owned();
        Some((Named::new(stream.id.namespace(), name), stream))
    };
    api.sessions.all().into_iter().filter(|stream| stream.foreign().is_none()).filter_map(named).collect()
}

/// `None`: a workload without sidecar, written by hand.
pub(super) fn proxy(api: &Api, workload: &Workload, streams: &BTreeMap<Named, Arc<Stream>>) -> Option<Proxy> {
    let (age, connected) = api.standings.standing(&workload.key);
    let stream = streams.get(&workload.key).filter(|stream| stream.id.account() == workload.account);
    if age.is_none() && stream.is_none() {
        return None;
    }
    let remote = connected.as_ref().and_then(|connected| connected.remote).or_else(|| stream?.remote);
    let ends = [
        connected.as_ref().map(|c| c.certificate_end.seconds()),
        stream.map(|s| s.certificate_end.seconds()),
    ];
    // A connection that outlived a renewal shows the older certificate.
    let end = ends.into_iter().flatten().max().filter(|end| *end > 0);
    let certificate_expires = end.map(timestamp::format);
    let traffic_stops = connected.as_ref().and_then(|connected| {
        let reason = connected.summary.certificate_warning.clone();
        Some(TrafficStops { at: certificate_expires.clone()?, reason })
            .filter(|stops| !stops.reason.is_empty())
    });
    let spiffe_id = connected.as_ref().map(|connected| &connected.id).or_else(|| Some(&stream?.id));
    Some(Proxy {
        namespace: workload.key.namespace.clone(),
        workload: workload.key.name.clone(),
        service: workload.account.clone(),
        spiffe_id: spiffe_id.map(ToString::to_string).unwrap_or_default(),
        address: remote.map(|address| address.to_string()),
        version: version(connected.as_ref().map(|connected| connected.version.clone()), stream),
        lacks: stream.map(|stream| lacks(&features(stream))).unwrap_or_default(),
        features: stream.map(|stream| features(stream)).unwrap_or_default(),
        clock_ahead_seconds: connected.as_ref().and_then(|connected| connected.clock_ahead_seconds),
        connected: connected.is_some(),
        health: health_word(workload.health),
        lease_age_seconds: age.as_ref().map(Duration::as_secs_f64),
        certificate_expires,
        traffic_stops,
        config: stream.map(|stream| config(stream)).unwrap_or_default(),
        summary: connected.map(|connected| summary(connected.summary)),
    })
}

fn summary(told: proto::Summary) -> Summary {
    let proto::Summary { config, config_reason, backends, certificate_warning: _, limits, retries_withheld } =
        told;
    let limits = limits.into_iter().map(|proto::LimitReached { kind, times }| LimitReached { kind, times });
    Summary {
        config,
        config_reason,
        backends: backends.into_iter().map(backend_summary).collect(),
        limits: limits.collect(),
        retries_withheld,
    }
}

fn backend_summary(told: proto::BackendSummary) -> BackendSummary {
    let proto::BackendSummary { backend, requests, retries, budget_used_up, ejected } = told;
    let ejected = ejected
        .into_iter()
        .map(|proto::Ejected { address, workload, times }| Ejected { address, workload, times })
        .collect();
    BackendSummary { backend, requests, retries, budget_used_up, ejected }
}

fn version(told: Option<String>, stream: Option<&Arc<Stream>>) -> String {
    let of_stream =
        || stream.and_then(|stream| stream.session().client().map(|client| client.version.clone()));
    told.or_else(of_stream).unwrap_or_default()
}

/// Those that are known here; a newer sidecar announces more.
fn features(stream: &Stream) -> Vec<&'static str> {
    let session = stream.session();
    let announced = session.client().map(|client| client.features.as_slice()).unwrap_or_default();
    Features::from_names(announced.iter().map(String::as_str)).names().collect()
}

fn lacks(announced: &[&str]) -> Vec<&'static str> {
    Features::ALL.names().filter(|name| !announced.contains(name)).collect()
}

fn config(stream: &Stream) -> Config {
    let session = stream.session();
    let mut config = Config { connected: true, ..Config::default() };
    for (reference, subscription) in session.subscriptions() {
        config.subscribed += 1;
        config.acknowledged += usize::from(subscription.sent() == subscription.acknowledged());
        if let Some(refusal) = subscription.refused().filter(|_| config.nacks.len() < NACKS_MAX) {
            config.nacks.push(Nack {
                resource_type: resource_word(reference.resource_type),
                name: reference.name.clone(),
                version: refusal.version.to_string(),
                reason: refusal.reason.clone(),
            });
        }
    }
    config
}
