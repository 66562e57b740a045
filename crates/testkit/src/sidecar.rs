//! One running sidecar, joined to the mesh with a token.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshwork_proxy::side::{Registration, Status};
use meshwork_proxy::{HTTP2_DEFAULT, Listeners, Live, Settings, StartError, Upstream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Answer, Client, get, post};
use crate::workload::{Workload, bind};
use crate::{Metrics, Operator};

/// How long a sidecar may take until it is ready.
const START_MAX: Duration = Duration::from_secs(20);

/// A sidecar. Dropped, it ends abruptly; [`Sidecar::drain`] and [`Sidecar::stop`] end it in order.
pub struct Sidecar {
    running: meshwork_proxy::Sidecar,
    outbound_http: SocketAddr,
    upstreams: BTreeMap<String, SocketAddr>,
    inbound: Vec<SocketAddr>,
    admin: SocketAddr,
    state: TempDir,
}

impl Sidecar {
    /// A new workload, with a token.
    pub(crate) async fn join(workload: Workload, operator: &Operator) -> Result<Self, StartError> {
        let state = tempfile::tempdir().expect("a directory for the sidecar's state");
        Self::join_in(workload, operator, state).await
    }

    /// The same with its state in that directory.
    pub(crate) async fn join_in(
        workload: Workload,
        operator: &Operator,
        state: TempDir,
    ) -> Result<Self, StartError> {
        let service = workload.token_of.as_ref().unwrap_or(&workload.service);
        let token = match &workload.token {
            Some(token) => token.clone(),
            None => operator.token(&workload.namespace, service).await,
        };
        Self::start(workload, Some(token), state).await
    }

    /// One that was in the mesh before: with what its disk holds.
    pub(crate) async fn come_back(workload: Workload, state: TempDir) -> Result<Self, StartError> {
        Self::start(workload, None, state).await
    }

    async fn start(workload: Workload, token: Option<String>, state: TempDir) -> Result<Self, StartError> {
        let serves = !workload.ports.is_empty();
        let settings = settings(&workload, token, state.path());
        let address = |listener: &std::net::TcpListener| listener.local_addr().expect("it is bound");
        let proxy = bind(Ipv4Addr::LOCALHOST.into());
        let outbound_http = address(&proxy);
        let listeners = listeners(&workload, proxy);
        let inbound = listeners.inbound.iter().map(address).collect();
        let admin = address(&listeners.admin);
        let named = |(upstream, _): &(Upstream, _)| (upstream.destination.clone(), upstream.listen);
        let upstreams = listeners.upstreams.iter().map(named).collect();
        let running = meshwork_proxy::start(settings, listeners, Arc::new(|_| Ok(()))).await?;
        let sidecar = Self { running, outbound_http, upstreams, inbound, admin, state };
        if serves {
            let registered = |status: &Status| status.registration == Registration::Registered;
            sidecar.until("registered", |status| registered(status) || status.failed().is_some()).await;
            if let Some(reason) = sidecar.status().failed() {
                return Err(StartError::Join(reason.to_owned()));
            }
        }
        Ok(sidecar)
    }

    /// A client of its own through the outbound HTTP port.
    pub fn client(&self) -> Client {
        Client::new(self.outbound_http)
    }

    /// One request of the application beside it.
    ///
    /// # Panics
    /// Without an answer. Whatever the status, an answer is one.
    pub async fn get(&self, url: &str) -> Answer {
        self.client().send(get(url)).await.unwrap_or_else(|error| panic!("GET {url}: {error}"))
    }

    /// # Panics
    /// Without an answer.
    pub async fn post(&self, url: &str, body: &str) -> Answer {
        self.client().send(post(url, body)).await.unwrap_or_else(|error| panic!("POST {url}: {error}"))
    }

    /// The local port that leads to a service.
    ///
    /// # Panics
    /// If there is none.
    pub fn upstream(&self, destination: &str) -> SocketAddr {
        *self.upstreams.get(destination).unwrap_or_else(|| panic!("no upstream {destination}"))
    }

    /// Connects to the local port that leads to a service.
    ///
    /// # Panics
    /// If there is none.
    pub async fn connect(&self, upstream: &str) -> TcpStream {
        TcpStream::connect(self.upstream(upstream)).await.expect("the sidecar accepts")
    }

    pub fn outbound_http(&self) -> SocketAddr {
        self.outbound_http
    }

    /// Where the mesh reaches the application's ports, in their order.
    pub fn inbound(&self) -> &[SocketAddr] {
        &self.inbound
    }

    /// What its admin port shows of its config.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn config(&self) -> Value {
        let answer = Client::new(self.admin).send(get(&format!("http://{}/config", self.admin))).await;
        let answer = answer.unwrap_or_else(|error| panic!("GET /config: {error}"));
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("/config is no JSON: {error}"))
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.running.registry().render())
    }

    /// What it knows of the mesh.
    pub fn live(&self) -> &Arc<Live> {
        self.running.live()
    }

    pub fn status(&self) -> Status {
        self.running.side().status().borrow().clone()
    }

    /// Waits until its status is so.
    ///
    /// # Panics
    /// If it never is.
    pub async fn until(&self, what: &str, holds: impl FnMut(&Status) -> bool) {
        let mut status = self.running.side().status();
        match timeout(START_MAX, status.wait_for(holds)).await {
            Ok(held) => drop(held.expect("the side thread runs")),
            Err(_) => panic!("it never was {what}, but is {:#?}", self.status()),
        }
    }

    /// Holds its certificate and key.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Takes the workload out of the mesh and finishes what it was asked; it still serves as the way out.
    pub async fn drain(&self) {
        self.running.drain().await;
    }

    /// Ends it; what is left is its state on disk.
    pub async fn stop(self) -> TempDir {
        self.running.stop().await;
        self.state
    }
}

fn settings(workload: &Workload, token: Option<String>, state_dir: &Path) -> Settings {
    Settings {
        service: workload.service.clone(),
        namespace: workload.namespace.clone(),
        token,
        state_dir: state_dir.to_owned(),
        ports: workload.ports.clone(),
        labels: workload.labels.clone(),
        locality: workload.locality.clone(),
        health: workload.health.clone(),
        workers: workload.workers,
        http2: workload.http2.unwrap_or(HTTP2_DEFAULT),
        memory_max: workload.memory_max,
        wait: START_MAX,
        drain: workload.drain,
        resolv_conf: meshwork_proxy::side::dns::RESOLV_CONF.into(),
        parent_proxy: None,
    }
}

fn listeners(workload: &Workload, outbound_http: std::net::TcpListener) -> Listeners {
    let local = || bind(Ipv4Addr::LOCALHOST.into());
    let upstream = |destination: &String| {
        let listener = local();
        let listen = listener.local_addr().expect("it is bound");
        (Upstream { destination: destination.clone(), listen }, listener)
    };
    Listeners {
        outbound_http: Some(outbound_http),
        upstreams: workload.upstreams.iter().map(upstream).collect(),
        inbound: workload.ports.iter().map(|_| bind(workload.address)).collect(),
        admin: local(),
        dns: Vec::new(),
        probes: None,
        captured: None,
    }
}
