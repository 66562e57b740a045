//! Values for tests: small ones by hand, and whole meshes by seed.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::balance::mix;
use crate::compile::{Audience, Features};
use crate::mesh::Mesh;
use crate::model::{
    AppProtocol, BackendRef, Balance, Check, HeaderModifier, Health, HttpRoute, Key, Labels, Locality,
    MeshConfig, MtlsMode, ParentRef, PathMatch, RouteMatch, RouteRule, Service, ServicePort, TargetRef,
    TrafficPolicy, Transport, Unknown, UnknownDestinations, Workload, WorkloadPort,
};
use crate::policy::{Timeouts, Traffic};
use crate::resource::{Resource, ResourceType};
use crate::virtual_address::{VirtualRange, VirtualRanges};

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Port 80 at the application's 8080, served by the account of its name, selecting `app: NAME`.
pub(crate) fn service(namespace: &str, name: &str) -> Service {
    Service {
        key: Key::new(namespace, name),
        ports: vec![ServicePort { name: None, port: 80, target_port: 8080, app_protocol: None }],
        selector: labels(&[("app", name)]),
        headless: false,
        accounts: BTreeSet::from([name.to_owned()]),
        balance: Balance::PeakEwma,
        cluster_ip: None,
        inbound: Default::default(),
        virtual_address: None,
    }
}

/// `SERVICE-NUMBER` at 10.0.0.NUMBER:15008, of the service's account.
pub(crate) fn workload(namespace: &str, service: &str, number: u8) -> Workload {
    Workload {
        key: Key::new(namespace, format!("{service}-{number}")),
        labels: labels(&[("app", service)]),
        account: service.to_owned(),
        ports: vec![WorkloadPort {
            service_port: None,
            app_port: 8080,
            address: ([10, 0, 0, number], 15008).into(),
            transports: vec![Transport::MtlsHttp1, Transport::MtlsTcp],
            check: Check::Unasked,
            health: Health::Healthy,
        }],
        locality: Locality::default(),
        health: Health::Healthy,
        weight: 1,
    }
}

/// A route in `namespace` for all of a service's ports, with one rule that takes everything to itself.
pub(crate) fn route(namespace: &str, name: &str, service_namespace: &str, service: &str) -> HttpRoute {
    let service = Key::new(service_namespace, service);
    let backend = BackendRef { service: service.clone(), port: 80, weight: 1 };
    HttpRoute {
        key: Key::new(namespace, name),
        parents: vec![ParentRef { service, port: None }],
        rules: vec![rule(vec![RouteMatch::default()], vec![backend])],
        created: 0,
    }
}

pub(crate) fn rule(matches: Vec<RouteMatch>, backends: Vec<BackendRef>) -> RouteRule {
    let (request_headers, response_headers) = (HeaderModifier::default(), HeaderModifier::default());
    let timeouts = Timeouts::default();
    RouteRule { matches, request_headers, response_headers, backends, timeouts, retry: None }
}

/// A policy for all ports of a service of its namespace: requests may take 10 s.
pub(crate) fn policy(namespace: &str, name: &str, service: &str) -> TrafficPolicy {
    let request = Some(Duration::from_secs(10));
    TrafficPolicy {
        key: Key::new(namespace, name),
        targets: vec![TargetRef { service: Key::new(namespace, service), section: None }],
        balance: None,
        traffic: Traffic { timeouts: Timeouts { request, backend_request: None }, ..Traffic::default() },
        created: 0,
    }
}

pub(crate) fn compile(
    mesh: &Mesh,
    resource_type: ResourceType,
    name: &str,
    asker_namespace: &str,
) -> Option<Resource> {
    let audience = Audience::Sidecar(Features::ALL);
    crate::compile::compile(mesh, resource_type, name, asker_namespace, audience).unwrap()
}

const NAMESPACES: &[&str] = &["default", "shop"];
const SERVICES: &[&str] = &["cart", "pay", "web"];

pub(crate) fn virtual_ranges() -> VirtualRanges {
    VirtualRanges::new(VirtualRange::default(), "mesh-1")
}

/// Every name that someone might ask for, with the asker's namespace; ordered.
pub(crate) fn all_names(mesh: &Mesh) -> Vec<(ResourceType, String, String)> {
    let mut names = BTreeSet::new();
    for asker in NAMESPACES {
        let mut add = |resource_type, name: String| {
            names.insert((resource_type, name, (*asker).to_owned()));
        };
        for service in mesh.services() {
            let Service { key: Key { namespace, name }, .. } = &**service;
            add(ResourceType::NameTable, namespace.clone());
            for port in [80, 81] {
                for address in service.addresses() {
                    add(ResourceType::Listener, SocketAddr::new(address, port).to_string());
                }
                for workload in mesh.workloads_in(namespace) {
                    let one = format!("{namespace}/{name}:{port}?instance={}", workload.key.name);
                    add(ResourceType::Cluster, one.clone());
                    add(ResourceType::Endpoints, one.clone());
                    add(ResourceType::Route, one);
                }
                add(ResourceType::Cluster, format!("{namespace}/{name}:{port}"));
                add(ResourceType::Endpoints, format!("{namespace}/{name}:{port}"));
                add(ResourceType::Route, format!("{namespace}/{name}:{port}"));
                add(ResourceType::Route, format!("{namespace}/{name}:{port}?from={asker}"));
                add(ResourceType::Listener, format!("{name}:{port}"));
                add(ResourceType::Listener, format!("{name}.{namespace}:{port}"));
            }
        }
        for workload in mesh.workloads() {
            add(ResourceType::Inbound, workload.key.to_string());
            for address in workload.addresses() {
                for port in [80, 81, 8080, 8081] {
                    add(ResourceType::Listener, SocketAddr::new(address, port).to_string());
                }
            }
        }
        add(ResourceType::MeshSettings, "default".to_owned());
        add(ResourceType::TrustBundle, mesh.trust_domain().to_owned());
    }
    names.into_iter().collect()
}

/// A mesh of a few dozen entries. Filled in an order that differs from process to process.
pub(crate) fn random_mesh(seed: u64) -> Mesh {
    let mut mesh = Mesh::new("mesh-1", "mesh.local");
    mesh.set_roots(vec![vec![1, 2, 3]]);
    mesh.set_virtual_ranges(virtual_ranges());
    let changes: HashMap<u64, Change> = (0..60)
        .map(|number| mix(seed ^ mix(number)))
        .map(|random| (random, Change::random(random)))
        .collect();
    let mut decided: HashMap<String, u64> = HashMap::new();
    for (random, change) in &changes {
        // Where two changes meet in one entry, the same one must win whatever the order.
        let winner = decided.entry(change.entry()).or_insert(*random);
        *winner = (*winner).max(*random);
    }
    for (random, change) in changes {
        if decided.get(&change.entry()) == Some(&random) {
            change.apply(&mut mesh);
        }
    }
    mesh
}

/// One change to a mesh of a small universe, so that changes meet.
pub(crate) enum Change {
    Service(Service),
    Workload(Workload),
    Route(HttpRoute),
    Policy(TrafficPolicy),
    NoService(Key),
    NoWorkload(Key),
    NoRoute(Key),
    NoPolicy(Key),
    Config(MeshConfig),
}

impl Change {
    pub(crate) fn random(seed: u64) -> Self {
        let dice = &mut Dice(seed);
        match dice.below(11) {
            0 | 1 => Self::Service(dice.service()),
            2..=4 => Self::Workload(dice.workload()),
            5 => Self::Route(dice.route()),
            6 => Self::Policy(dice.policy()),
            7 => Self::Config(dice.config()),
            _ => match dice.below(4) {
                0 => Self::NoService(dice.service().key),
                1 => Self::NoWorkload(dice.workload().key),
                2 => Self::NoRoute(dice.route().key),
                _ => Self::NoPolicy(dice.policy().key),
            },
        }
    }

    fn entry(&self) -> String {
        match self {
            Self::Service(Service { key, .. }) | Self::NoService(key) => format!("service {key}"),
            Self::Workload(Workload { key, .. }) | Self::NoWorkload(key) => format!("workload {key}"),
            Self::Route(HttpRoute { key, .. }) | Self::NoRoute(key) => format!("route {key}"),
            Self::Policy(TrafficPolicy { key, .. }) | Self::NoPolicy(key) => format!("policy {key}"),
            Self::Config(_) => "config".to_owned(),
        }
    }

    pub(crate) fn apply(self, mesh: &mut Mesh) {
        match self {
            Self::Service(service) => mesh.put_service(service),
            Self::Workload(workload) => mesh.put_workload(workload),
            Self::Route(route) => mesh.put_route(route),
            Self::Policy(policy) => mesh.put_policy(policy),
            Self::Config(config) => mesh.set_config(config),
            Self::NoService(key) => drop(mesh.remove_service(&key)),
            Self::NoWorkload(key) => drop(mesh.remove_workload(&key)),
            Self::NoRoute(key) => drop(mesh.remove_route(&key)),
            Self::NoPolicy(key) => drop(mesh.remove_policy(&key)),
        }
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    fn service(&mut self) -> Service {
        let mut made = service(self.one(NAMESPACES), self.one(SERVICES));
        if self.below(3) == 0 {
            made.ports[0].app_protocol = Some(AppProtocol::Http);
        }
        if self.below(3) == 0 {
            made.ports.push(ServicePort { port: 81, target_port: 8081, ..made.ports[0].clone() });
        }
        if self.below(2) == 0 {
            made.ports[0].name = Some("http".to_owned());
        }
        if self.below(3) == 0 {
            made.selector = labels(&[("app", self.one(SERVICES))]);
        }
        if self.below(3) > 0 {
            let v4 = Ipv4Addr::new(240, 0, 0, self.below(5) as u8);
            made.virtual_address = Some(virtual_ranges().address(v4));
        }
        if self.below(4) == 0 {
            made.cluster_ip = Some([10, 0, 0, self.below(3) as u8].into());
        }
        made.headless = self.below(3) == 0;
        made.inbound.all = self.mode();
        made.inbound.ports.extend(self.mode().map(|mode| (80, mode)));
        if self.below(3) == 0 {
            made.accounts.insert(self.one(SERVICES).to_owned());
        }
        made
    }

    fn mode(&mut self) -> Option<MtlsMode> {
        [None, Some(MtlsMode::Strict), Some(MtlsMode::Permissive)][self.below(3) as usize]
    }

    fn config(&mut self) -> MeshConfig {
        let inbound = self.mode().unwrap_or_default();
        let default = [Unknown::Passthrough, Unknown::Deny][self.below(2) as usize];
        let unknown = UnknownDestinations { default, ..UnknownDestinations::default() };
        MeshConfig { inbound, unknown, ..MeshConfig::default() }
    }

    fn workload(&mut self) -> Workload {
        let mut made = workload(self.one(NAMESPACES), self.one(SERVICES), self.below(4) as u8);
        made.labels = labels(&[("app", self.one(SERVICES))]);
        made.health = [Health::Healthy, Health::Unhealthy, Health::Draining][self.below(3) as usize];
        made.weight = self.below(3) as u32;
        made.ports[0].service_port = (self.below(3) == 0).then(|| 80 + self.below(2) as u16);
        if self.below(2) == 0 {
            let address = ([10, 0, 0, self.below(3) as u8], 15009).into();
            made.ports.push(WorkloadPort { app_port: 8081, address, ..made.ports[0].clone() });
        }
        made
    }

    fn policy(&mut self) -> TrafficPolicy {
        let mut made = policy(self.one(NAMESPACES), self.one(&["slow", "limits"]), self.one(SERVICES));
        made.created = self.below(3);
        made.traffic.retry.attempts = self.below(4) as u32;
        made.balance = [None, Some(Balance::Random)][self.below(2) as usize].clone();
        if self.below(2) == 0 {
            made.targets[0].section = Some(self.one(&["http", "admin"]).to_owned());
        }
        if self.below(2) == 0 {
            let service = Key::new(&made.key.namespace, self.one(SERVICES));
            made.targets.push(TargetRef { service, section: None });
        }
        made
    }

    fn route(&mut self) -> HttpRoute {
        let mut made = route(
            self.one(NAMESPACES),
            self.one(&["split", "canary"]),
            self.one(NAMESPACES),
            self.one(SERVICES),
        );
        made.created = self.below(3);
        if self.below(2) == 0 {
            made.parents[0].port = Some(80 + self.below(2) as u16);
        }
        if self.below(2) == 0 {
            let path = PathMatch::Exact(format!("/{}", self.one(SERVICES)));
            let backend = BackendRef {
                service: Key::new(self.one(NAMESPACES), self.one(SERVICES)),
                port: 80,
                weight: self.below(100) as u32,
            };
            made.rules.push(rule(vec![RouteMatch { path, ..RouteMatch::default() }], vec![backend]));
        }
        made
    }
}
