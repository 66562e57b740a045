//! Manifests -> model. A value of the model that exists is right; what is wrong with a manifest is told all
//! at once: where, what, and how to mend it.
//!
//! Only what a document says by itself is judged here. Whether what it refers to exists depends on other
//! documents, which may come later: that is `status.rs`'s, and never refuses.

mod health_check;
mod http_route;
mod load_balancer;
mod metadata;
mod traffic_policy;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::manifest::{self, ClusterIp, Manifest};
use crate::model::{
    AppProtocol, Health, HttpRoute, Locality, MeshConfig, SETTINGS_NAME, Service, ServicePort, TrafficPolicy,
    Transport, UnknownDestinations, Workload, WorkloadPort,
};
use crate::name::is_label;
use crate::policy::Timeouts;

/// Services accounts that may serve it, separated by commas.
pub const ACCOUNTS_ANNOTATION: &str = "meshwork.dev/accounts";
/// `peakEwma` or `roundRobin`.
pub const BALANCE_ANNOTATION: &str = "meshwork.dev/balance";

/// `strict`, `permissive`, or either by port: `80=permissive,9090=strict`.
pub const INBOUND_ANNOTATION: &str = "meshwork.dev/inbound-mode";

/// The account of a workload that names none, as in Kubernetes.
const ACCOUNT_DEFAULT: &str = "default";

/// Gateway API's limit for a backend's weight; ours for a workload's too, so that sums stay far from 2^64.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Ports of one service or workload. Each is a listener or a cluster of its own in every sidecar that asks.
const PORTS_MAX: usize = 128;

/// Namespaces that a MeshConfig names. Every sidecar is told all of them.
const OUTBOUND_NAMESPACES_MAX: usize = 256;

/// Renewed at half of its life, it must outlive a restart of the control plane, which takes a second or two.
const LEAF_TTL_MIN: Duration = Duration::from_secs(10);
/// Leaves can't be revoked: this is how long a stolen key stays good.
const LEAF_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Time-outs end here: whoever wants longer wants none.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Further tries of one request. Each is a request more for a service that just failed.
const RETRY_ATTEMPTS_MAX: u32 = 10;
/// Without any pause a failure that lasts a millisecond is met by all tries.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(1);
/// A client rarely waits longer, and the body is kept meanwhile.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `spec.ports[1].port`
    pub path: String,
    pub message: String,
    pub cure: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.message, self.cure)
    }
}

/// What a manifest declares.
#[derive(Clone, Debug, PartialEq)]
pub enum Declared {
    Service(Service),
    Workload(Workload),
    HttpRoute(HttpRoute),
    TrafficPolicy(TrafficPolicy),
    MeshConfig(MeshConfig),
}

pub fn manifest(manifest: &Manifest) -> Result<Declared, Vec<Problem>> {
    match manifest {
        Manifest::Service(document) => service(document).map(Declared::Service),
        Manifest::Workload(document) => workload(document).map(Declared::Workload),
        Manifest::HttpRoute(document) => http_route(document).map(Declared::HttpRoute),
        Manifest::TrafficPolicy(document) => traffic_policy(document).map(Declared::TrafficPolicy),
        Manifest::MeshConfig(document) => mesh_config(document).map(Declared::MeshConfig),
    }
}

pub fn service(document: &manifest::Service) -> Result<Service, Vec<Problem>> {
    let mut problems = Problems::default();
    metadata::judge(document, &mut problems);
    let accounts = metadata::accounts(&document.metadata, &mut problems);
    let balance = metadata::balance(&document.metadata, &mut problems);
    metadata::judge_labels("spec.selector", &document.spec.selector, &mut problems);
    let ports = service_ports(&document.spec.ports, &mut problems);
    let inbound = metadata::inbound(&document.metadata, &ports, &mut problems);
    let cluster_ip = cluster_ip(document.spec.cluster_ip, &mut problems);
    problems.or(Service {
        key: document.key(),
        ports,
        selector: document.spec.selector.clone(),
        headless: document.spec.cluster_ip == Some(ClusterIp::None),
        accounts,
        balance,
        cluster_ip,
        inbound,
        virtual_address: None,
    })
}

fn cluster_ip(written: Option<ClusterIp>, problems: &mut Problems) -> Option<IpAddr> {
    let Some(ClusterIp::Address(address)) = written else { return None };
    let address = address.to_canonical();
    let cure = "write the address that Kubernetes shows for the service, or leave it out";
    if address.is_loopback() {
        let message = format!("{address} is a loopback address, which every machine has for itself");
        problems.add("spec.clusterIP".to_owned(), message, cure);
    } else if let Err(refusal) = crate::discover::judge_address(SocketAddr::new(address, 1), &[]) {
        let message = format!("{address} can't be a service's: {refusal}");
        problems.add("spec.clusterIP".to_owned(), message, cure);
    }
    Some(address)
}

fn service_ports(ports: &[manifest::ServicePort], problems: &mut Problems) -> Vec<ServicePort> {
    problems.count("spec.ports", ports.len(), 1, PORTS_MAX);
    let mut judged: Vec<ServicePort> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let target_port = port.target_port.map_or(port.port, |target| target.0);
        problems.port(&format!("{path}.port"), port.port);
        problems.port(&format!("{path}.targetPort"), target_port);
        if judged.iter().any(|other| other.port == port.port) {
            problems.add(
                format!("{path}.port"),
                format!("port {} stands in the list twice", port.port),
                "give each port of a service once",
            );
        }
        if let Some(name) = &port.name {
            problems.label(&format!("{path}.name"), name);
            if judged.iter().any(|other| other.name.as_ref() == Some(name)) {
                problems.add(
                    format!("{path}.name"),
                    format!("the name {name:?} stands in the list twice"),
                    "give each port a name of its own",
                );
            }
        } else if ports.len() > 1 {
            problems.add(
                format!("{path}.name"),
                "a service with several ports must name each".to_owned(),
                "add a name, such as the protocol's",
            );
        }
        let app_protocol = port.app_protocol.as_deref().and_then(|word| {
            let found = app_protocol(word);
            if found.is_none() {
                problems.add(
                    format!("{path}.appProtocol"),
                    format!("the protocol {word:?} is not known"),
                    "write http, http2, grpc or tcp (bytes that the mesh does not parse: TLS, databases, …), or \
                     leave it out to have it detected",
                );
            }
            found
        });
        judged.push(ServicePort { name: port.name.clone(), port: port.port, target_port, app_protocol });
    }
    judged
}

/// The words of `appProtocol`: ours, and Kubernetes' for the same things.
pub fn app_protocol(word: &str) -> Option<AppProtocol> {
    match word {
        "http" => Some(AppProtocol::Http),
        "http2" | "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "tcp" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

pub fn workload(document: &manifest::Workload) -> Result<Workload, Vec<Problem>> {
    let mut problems = Problems::default();
    metadata::judge(document, &mut problems);
    let spec = &document.spec;
    if let Some(address) = spec.address {
        judge_address("spec.address", address, &mut problems);
    }
    let account = spec.service_account.as_deref().unwrap_or(ACCOUNT_DEFAULT);
    problems.account("spec.serviceAccount", account);
    let weight = spec.weight.unwrap_or(1);
    problems.weight("spec.weight", weight);
    let locality = locality(spec.locality.as_ref(), &mut problems);
    let ports = workload_ports(spec, &mut problems);
    problems.or(Workload {
        key: document.key(),
        labels: document.metadata.labels.clone(),
        account: account.to_owned(),
        ports,
        locality,
        health: Default::default(),
        weight,
    })
}

fn workload_ports(spec: &manifest::WorkloadSpec, problems: &mut Problems) -> Vec<WorkloadPort> {
    // None: a workload that only calls others.
    problems.count("spec.ports", spec.ports.len(), 0, PORTS_MAX);
    let mut judged: Vec<WorkloadPort> = Vec::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        problems.port(&format!("{path}.port"), port.port);
        if let Some(service_port) = port.service_port {
            problems.port(&format!("{path}.servicePort"), service_port);
        }
        let same =
            |other: &WorkloadPort| (other.service_port, other.app_port) == (port.service_port, port.port);
        if judged.iter().any(same) {
            problems.add(
                format!("{path}.port"),
                format!("port {} stands in the list twice", port.port),
                "give each port of a workload once for each port of the service",
            );
        }
        if let Some(address) = port.address {
            judge_address(&format!("{path}.address"), address.ip(), problems);
            problems.port(&format!("{path}.address"), address.port());
        }
        let address = port.address.or_else(|| spec.address.map(|ip| SocketAddr::new(ip, port.port)));
        let transports = port.transports.clone().unwrap_or_else(|| vec![Transport::Plaintext]);
        judge_transports(&format!("{path}.transports"), &transports, problems);
        let check_path = format!("{path}.healthCheck");
        let check = health_check::judge(&check_path, port.health_check.as_ref(), &transports, problems);
        match address {
            Some(address) => judged.push(WorkloadPort {
                service_port: port.service_port,
                app_port: port.port,
                address,
                transports,
                check,
                health: Health::Healthy,
            }),
            None => problems.add(
                format!("{path}.address"),
                "neither the port nor the workload has an address".to_owned(),
                "give spec.address, or IP:PORT here",
            ),
        }
    }
    judged
}

/// The address of one host that others can reach.
fn judge_address(path: &str, address: IpAddr, problems: &mut Problems) {
    let judged = crate::discover::judge_address(SocketAddr::new(address, 1), &[]);
    if let Err(refusal) = judged {
        let cure = "give the address at which other machines reach this workload";
        problems.add(path.to_owned(), format!("{address} can't be an endpoint: {refusal}"), cure);
    }
}

fn judge_transports(path: &str, transports: &[Transport], problems: &mut Problems) {
    let different: BTreeSet<_> = transports.iter().collect();
    if transports.is_empty() {
        problems.add(
            path.to_owned(),
            "the list is empty, so nothing could reach the port".to_owned(),
            "name a transport, or leave the list out for plaintext",
        );
    } else if different.len() < transports.len() {
        problems.add(path.to_owned(), "a transport stands twice".to_owned(), "give each once, best first");
    } else if transports.contains(&Transport::Plaintext) && transports.len() > 1 {
        problems.add(
            path.to_owned(),
            "plaintext stands beside mTLS, which whoever disturbs a handshake could force to be used"
                .to_owned(),
            "name either plaintext or the transports over mTLS",
        );
    }
}

fn locality(written: Option<&manifest::Locality>, problems: &mut Problems) -> Locality {
    let Some(manifest::Locality { region, zone }) = written else {
        return Locality::default();
    };
    for (path, part) in [("spec.locality.region", region), ("spec.locality.zone", zone)] {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if part.len() > 63 || !part.bytes().all(allowed) {
            problems.add(
                path.to_owned(),
                format!("{part:?} is not the name of a place"),
                "write up to 63 letters, digits, '-', '_' or '.'",
            );
        }
    }
    Locality { region: region.clone(), zone: zone.clone() }
}

pub fn http_route(document: &manifest::HttpRoute) -> Result<HttpRoute, Vec<Problem>> {
    http_route::judge(document)
}

pub fn traffic_policy(document: &manifest::TrafficPolicy) -> Result<TrafficPolicy, Vec<Problem>> {
    traffic_policy::judge(document)
}

pub fn mesh_config(document: &manifest::MeshConfig) -> Result<MeshConfig, Vec<Problem>> {
    let mut problems = Problems::default();
    metadata::judge(document, &mut problems);
    if document.metadata.name != SETTINGS_NAME {
        problems.add(
            "metadata.name".to_owned(),
            format!("a mesh has one MeshConfig, which is not named {:?}", document.metadata.name),
            "name it default",
        );
    }
    let default = MeshConfig::default();
    let leaf_ttl = document.spec.leaf_ttl.map_or(default.leaf_ttl, |ttl| ttl.0);
    if !(LEAF_TTL_MIN..=LEAF_TTL_MAX).contains(&leaf_ttl) {
        let (min, max) = (manifest::Duration(LEAF_TTL_MIN), manifest::Duration(LEAF_TTL_MAX));
        problems.add(
            "spec.leafTtl".to_owned(),
            format!("{} is not between {min} and {max}", manifest::Duration(leaf_ttl)),
            "choose how long a stolen key may stay good, and at least twice what a restart of the control plane \
             takes",
        );
    }
    let access_log = document.spec.access_log.unwrap_or(default.access_log);
    let inbound = document.spec.inbound.as_ref().and_then(|inbound| inbound.mode).unwrap_or(default.inbound);
    let unknown = unknown(document.spec.outbound.as_ref(), &mut problems);
    problems.or(MeshConfig { access_log, leaf_ttl, unknown, inbound })
}

fn unknown(written: Option<&manifest::Outbound>, problems: &mut Problems) -> UnknownDestinations {
    let Some(manifest::Outbound { unknown, namespaces }) = written else {
        return UnknownDestinations::default();
    };
    problems.count("spec.outbound.namespaces", namespaces.len(), 0, OUTBOUND_NAMESPACES_MAX);
    let mut judged =
        UnknownDestinations { default: unknown.unwrap_or_default(), namespaces: BTreeMap::new() };
    for (index, namespace) in namespaces.iter().enumerate() {
        let path = format!("spec.outbound.namespaces[{index}].name");
        problems.label(&path, &namespace.name);
        if judged.namespaces.insert(namespace.name.clone(), namespace.unknown).is_some() {
            let message = format!("the namespace {:?} stands in the list twice", namespace.name);
            problems.add(path, message, "name each namespace once");
        }
    }
    judged
}

/// What a rule and a service say of time-outs alike.
fn judge_timeouts(path: &str, timeouts: Timeouts, problems: &mut Problems) {
    let Timeouts { request, backend_request } = timeouts;
    for (field, limit) in [("request", request), ("backendRequest", backend_request)] {
        if let Some(limit) = limit.filter(|limit| *limit > TIMEOUT_MAX) {
            let (limit, max) = (manifest::Duration(limit), manifest::Duration(TIMEOUT_MAX));
            let message = format!("{limit} is longer than {max}");
            problems.add(format!("{path}.{field}"), message, "write 0s for no time-out at all");
        }
    }
    let (Some(request), Some(of_try)) = (request.filter(|limit| !limit.is_zero()), backend_request) else {
        return;
    };
    if of_try > request {
        problems.add(
            format!("{path}.backendRequest"),
            format!(
                "one try may take {}, which is longer than the whole request with {}",
                manifest::Duration(of_try),
                manifest::Duration(request)
            ),
            "make it shorter than request, or leave it out",
        );
    }
}

fn retry_attempts(path: &str, written: Option<u32>, problems: &mut Problems) -> Option<u32> {
    let cure = "write how often a failed request is tried again, 0 for never";
    problems.number(&format!("{path}.attempts"), written, (0, RETRY_ATTEMPTS_MAX), cure)
}

fn retry_backoff(
    path: &str,
    written: Option<manifest::Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let cure = "write the pause before the first further try; it doubles from one to the next";
    problems.duration(&format!("{path}.backoff"), written, (RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX), cure)
}

/// What was found so far.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: String, message: String, cure: &str) {
        self.0.push(Problem { path, message, cure: cure.to_owned() });
    }

    /// The value, if nothing is wrong with it.
    fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }

    fn count(&mut self, path: &str, count: usize, min: usize, max: usize) {
        if !(min..=max).contains(&count) {
            let message = format!("the list has {count} entries, not {min} to {max}");
            self.add(path.to_owned(), message, "add what is missing, or split the document");
        }
    }

    /// A duration within its bounds; the default's place is the caller's.
    fn duration(
        &mut self,
        path: &str,
        written: Option<manifest::Duration>,
        (min, max): (Duration, Duration),
        cure: &str,
    ) -> Option<Duration> {
        let written = written?;
        if !(min..=max).contains(&written.0) {
            let (min, max) = (manifest::Duration(min), manifest::Duration(max));
            self.add(path.to_owned(), format!("{written} is not between {min} and {max}"), cure);
        }
        Some(written.0)
    }

    /// A number within its bounds.
    fn number(
        &mut self,
        path: &str,
        written: Option<u32>,
        (min, max): (u32, u32),
        cure: &str,
    ) -> Option<u32> {
        let written = written?;
        if !(min..=max).contains(&written) {
            self.add(path.to_owned(), format!("{written} is not between {min} and {max}"), cure);
        }
        Some(written)
    }

    /// When the store first saw a document, in seconds since the epoch; 0 if it has not yet.
    fn created(&mut self, metadata: &manifest::Metadata) -> u64 {
        let Some(written) = &metadata.creation_timestamp else {
            return 0;
        };
        crate::timestamp::parse(written).unwrap_or_else(|| {
            let message = format!("{written:?} is no moment in time as RFC 3339 writes it");
            let cure = "leave it out: the store knows when it first saw the document";
            self.add("metadata.creationTimestamp".to_owned(), message, cure);
            0
        })
    }

    fn port(&mut self, path: &str, port: u16) {
        if port == 0 {
            self.add(path.to_owned(), "0 is no port".to_owned(), "write 1 to 65535");
        }
    }

    fn weight(&mut self, path: &str, weight: u32) {
        if weight > WEIGHT_MAX {
            let message = format!("{weight} is more than {WEIGHT_MAX}");
            self.add(path.to_owned(), message, "only the ratio of weights counts: write smaller ones");
        }
    }

    fn label(&mut self, path: &str, name: &str) {
        if !is_label(name) {
            self.add(
                path.to_owned(),
                format!("{name:?} is not a DNS label"),
                "write 1 to 63 lower-case letters, digits or '-', with neither first nor last a '-'",
            );
        }
    }

    /// Accounts are part of an identity and of no host name, but Kubernetes names them so.
    fn account(&mut self, path: &str, name: &str) {
        if !is_subdomain(name) {
            self.add(
                path.to_owned(),
                format!("{name:?} can't be a service account"),
                "write lower-case letters, digits, '-' or '.'",
            );
        }
    }
}

/// RFC 1123 labels with dots between them.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests;
