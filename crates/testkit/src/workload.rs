//! What is to run under one identity: a service's name, the application's ports, a sidecar's flags.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use meshwork_core::model::{AppProtocol, Locality};
use meshwork_proxy::{DRAIN_DEFAULT, HealthCheck, PortSpec};

use crate::{App, GrpcApp};

/// As `meshwork run` would be told it.
#[derive(Clone, Debug)]
pub struct Workload {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) token_of: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) upstreams: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) health: Option<HealthCheck>,
    pub(crate) address: IpAddr,
    pub(crate) http2: Option<bool>,
    pub(crate) drain: Duration,
    pub(crate) workers: usize,
    pub(crate) memory_max: Option<u64>,
    pub(crate) locality: Locality,
}

/// A workload of that service in namespace `default`, without ports: a caller, until it serves something.
pub fn workload(service: &str) -> Workload {
    Workload {
        service: service.to_owned(),
        namespace: "default".to_owned(),
        token_of: None,
        token: None,
        ports: Vec::new(),
        upstreams: Vec::new(),
        labels: BTreeMap::new(),
        health: None,
        address: Ipv4Addr::LOCALHOST.into(),
        http2: None,
        drain: DRAIN_DEFAULT,
        workers: 1,
        memory_max: None,
        locality: Locality::default(),
    }
}

impl Workload {
    /// HTTP on the service's port.
    pub fn serving(self, service_port: u16, app: &App) -> Self {
        self.serving_port(service_port, app.address().port())
    }

    /// Opaque bytes on the service's port.
    pub fn serving_tcp(self, service_port: u16, app: &App) -> Self {
        self.serving_as(service_port, app, AppProtocol::Tcp)
    }

    /// Whatever the first bytes show.
    pub fn serving_detected(self, service_port: u16, app: &App) -> Self {
        self.port(service_port, app.address().port(), None)
    }

    /// What the application was declared to speak there.
    pub fn serving_as(self, service_port: u16, app: &App, protocol: AppProtocol) -> Self {
        self.port(service_port, app.address().port(), Some(protocol))
    }

    /// gRPC on the service's port.
    pub fn serving_grpc(self, service_port: u16, app: &GrpcApp) -> Self {
        self.port(service_port, app.address().port(), Some(AppProtocol::Grpc))
    }

    /// HTTP on the service's port, by an application of the test's own on that port of loopback.
    pub fn serving_port(self, service_port: u16, app_port: u16) -> Self {
        self.serving_port_as(service_port, app_port, AppProtocol::Http)
    }

    /// The same, declared to speak something else.
    pub fn serving_port_as(self, service_port: u16, app_port: u16, protocol: AppProtocol) -> Self {
        self.port(service_port, app_port, Some(protocol))
    }

    /// Whatever is to be told of a port of loopback; `None`: what the first bytes show.
    pub fn port(mut self, service_port: u16, app_port: u16, protocol: Option<AppProtocol>) -> Self {
        self.ports.push(PortSpec { service_port, app_port, protocol });
        self
    }

    /// A local port that leads to a service: `stock:9000`.
    pub fn upstream(mut self, destination: &str) -> Self {
        self.upstreams.push(destination.to_owned());
        self
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Where the mesh reaches it: another address of this machine.
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// Healthy while this path answers 200 to 399.
    pub fn health(mut self, path: &str) -> Self {
        self.health = Some(HealthCheck::Http(path.to_owned()));
        self
    }

    /// Whether its sidecar speaks HTTP/2 with others, whatever the mesh's other sidecars do.
    pub fn http2(mut self, http2: bool) -> Self {
        self.http2 = Some(http2);
        self
    }

    /// How long inbound requests may take to finish when it drains.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Where it runs.
    pub fn within(mut self, region: &str, zone: &str) -> Self {
        self.locality = Locality { region: region.to_owned(), zone: zone.to_owned() };
        self
    }

    /// Threads of its sidecar that carry traffic.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The memory past which its sidecar takes nothing new.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.memory_max = Some(bytes);
        self
    }

    /// What its mesh says, if it was not told itself.
    pub(crate) fn or_http2(mut self, http2: bool) -> Self {
        self.http2.get_or_insert(http2);
        self
    }

    /// Joins with a token that was made before.
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Joins with a token that was made for another service.
    pub fn with_token_of(mut self, service: &str) -> Self {
        self.token_of = Some(service.to_owned());
        self
    }
}

/// A loopback listener on a port of the kernel's choice.
///
/// # Panics
/// If this machine has none.
pub fn bind(address: IpAddr) -> TcpListener {
    TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"))
}
