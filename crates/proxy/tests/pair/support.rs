//! Two real sidecars' data planes with real certificates, told by hand what a control plane would say.
//! Everything is on loopback and on ports that the kernel chose.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::model::{
    AppProtocol, Balance, HeaderModifier, Health, Key, Locality, RouteMatch, SpiffeId, Transport,
};
use meshwork_core::name::PortName;
use meshwork_core::policy::Traffic;
use meshwork_core::resource::{
    Cluster, Endpoint, Endpoints, Listener, Resource, Route, Rule, WeightedBackend,
};
use meshwork_identity::{Authority, Identity, KeyAndCsr, TrustBundle};
use meshwork_proxy::telemetry::{Event, Registry};
use meshwork_proxy::{Captured, Clock, DataPlane, Live, Mark, PortSpec, Settings, Sockets, Upstream};

use super::HTTP2;

pub(crate) const TRUST_DOMAIN: &str = "mesh.test";

/// A mesh's root, to give identities.
pub(crate) struct Mesh {
    authority: Authority,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::create(TRUST_DOMAIN, SystemTime::now()).unwrap() }
    }

    pub(crate) fn identity(&self, account: &str) -> Arc<Identity> {
        self.identity_for(account, Duration::from_secs(3_600))
    }

    pub(crate) fn identity_for(&self, account: &str, ttl: Duration) -> Arc<Identity> {
        let KeyAndCsr { key, csr_der } = KeyAndCsr::generate().unwrap();
        let issued = self.authority.issue(&csr_der, &id(account), ttl, SystemTime::now()).unwrap();
        let chain = issued.chain_der.into_iter().map(Into::into).collect();
        Arc::new(Identity::new(chain, key).unwrap())
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        Arc::new(self.authority.bundle().clone())
    }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(TRUST_DOMAIN, "default", account).unwrap()
}

/// One sidecar's data plane.
pub(crate) struct Sidecar {
    pub(crate) data: DataPlane,
    pub(crate) live: Arc<Live>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) outbound: SocketAddr,
    pub(crate) upstreams: Vec<SocketAddr>,
    /// In the order of the application's ports.
    pub(crate) inbound: Vec<SocketAddr>,
    /// Names that the workers asked for.
    pub(crate) asks: tokio::sync::mpsc::Receiver<meshwork_proxy::Ask>,
}

impl Sidecar {
    pub(crate) fn start(mesh: &Mesh, account: &str, app_ports: &[u16], upstreams: &[&str]) -> Self {
        Self::start_with(mesh, account, app_ports, upstreams, |_| {})
    }

    pub(crate) fn start_with(
        mesh: &Mesh,
        account: &str,
        app_ports: &[u16],
        upstreams: &[&str],
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        let inbound = app_ports.iter().map(|_| bind()).collect();
        Self::start_on(mesh, account, app_ports, inbound, upstreams, adjust)
    }

    /// With sockets that a test's rules redirect to.
    pub(crate) fn start_captured(
        mesh: &Mesh,
        account: &str,
        app_ports: &[u16],
        captured: Captured,
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        let inbound = app_ports.iter().map(|_| bind()).collect();
        Self::start_whole(mesh, account, app_ports, inbound, &[], Some(captured), adjust)
    }

    /// Further tries, for whatever reason.
    pub(crate) fn retries(&self) -> u64 {
        use Event::{RetryNotProcessed, RetryReset, RetryRule, RetryStatus, RetryUnreached};
        let reasons = [RetryUnreached, RetryNotProcessed, RetryReset, RetryStatus, RetryRule];
        reasons.map(|reason| self.registry.counted(reason)).iter().sum()
    }

    /// With listeners that are there already, as a supervisor holds them.
    pub(crate) fn start_on(
        mesh: &Mesh,
        account: &str,
        app_ports: &[u16],
        inbound: Vec<TcpListener>,
        upstreams: &[&str],
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::start_whole(mesh, account, app_ports, inbound, upstreams, None, adjust)
    }

    fn start_whole(
        mesh: &Mesh,
        account: &str,
        app_ports: &[u16],
        inbound: Vec<TcpListener>,
        upstreams: &[&str],
        captured: Option<Captured>,
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        let clock = Clock::start();
        let registry = Registry::new(format!("default/{account}"));
        let mut settings = settings(account);
        settings.ports = app_ports
            .iter()
            .map(|port| PortSpec { service_port: 80, app_port: *port, protocol: None })
            .collect();
        adjust(&mut settings);
        let (live, asks) = Live::new(registry.clone(), clock, settings.alpn());
        live.set_locality(settings.locality.clone());
        live.set_credentials(mesh.identity(account), mesh.bundle()).unwrap();
        let outbound_http = bind();
        let outbound = outbound_http.local_addr().unwrap();
        let inbound: Vec<_> = settings.ports.iter().cloned().zip(inbound).collect();
        let upstreams: Vec<_> = upstreams
            .iter()
            .map(|destination| {
                let listener = bind();
                let listen = listener.local_addr().unwrap();
                (Upstream { destination: (*destination).to_owned(), listen }, listener)
            })
            .collect();
        let inbound_addresses = inbound.iter().map(|(_, listener)| listener.local_addr().unwrap()).collect();
        let upstream_addresses = upstreams.iter().map(|(upstream, _)| upstream.listen).collect();
        let captured_listeners =
            captured.iter().flat_map(|captured| captured.outbound.iter().chain(&captured.inbound));
        let own = captured_listeners.map(|listener| listener.local_addr().unwrap());
        let own = own.chain([outbound]).collect();
        let sockets = Sockets {
            mark: Mark::default(),
            outbound_http: Some(outbound_http),
            upstreams,
            inbound,
            captured,
            probe_port: None,
        };
        let data = DataPlane::start(&settings, sockets, own, live.clone(), registry.clone(), clock).unwrap();
        Self {
            data,
            live,
            registry,
            outbound,
            upstreams: upstream_addresses,
            inbound: inbound_addresses,
            asks,
        }
    }

    /// Tells it about a service, as the control plane would.
    pub(crate) fn learn(&self, service: &str, port: u16, endpoints: Vec<Endpoint>) {
        self.learn_as(service, port, endpoints, service, None);
    }

    pub(crate) fn learn_as(
        &self,
        service: &str,
        port: u16,
        endpoints: Vec<Endpoint>,
        account: &str,
        hint: Option<AppProtocol>,
    ) {
        self.live.apply(told_of(service, port, endpoints, account, hint), &[]);
    }
}

/// What a control plane tells of a service.
pub(crate) fn told_of(
    service: &str,
    port: u16,
    endpoints: Vec<Endpoint>,
    account: &str,
    hint: Option<AppProtocol>,
) -> Vec<Resource> {
    let name = PortName::new(Key::new("default", service), port);
    let listener = Listener { name: format!("{service}:{port}"), target: name.clone(), hint, address: None };
    let rule = Rule {
        name: "default".to_owned(),
        matches: vec![RouteMatch::default()],
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        backends: vec![WeightedBackend { cluster: name.clone(), weight: 1 }],
        timeouts: Default::default(),
        retry: None,
    };
    let cluster = Cluster {
        name: name.clone(),
        balance: Balance::RoundRobin,
        identities: [id(account)].into(),
        traffic: Traffic::default(),
        hint: None,
    };
    vec![
        Resource::Cluster(cluster),
        Resource::Endpoints(Endpoints { name: name.clone(), endpoints }),
        Resource::Listener(listener),
        Resource::Route(Route { name, rules: vec![rule] }),
    ]
}

/// What a sidecar of this mesh is known by.
pub(crate) fn endpoint(address: SocketAddr, app_port: u16) -> Endpoint {
    let mut endpoint = http1_endpoint(address, app_port);
    if HTTP2 {
        endpoint.transports.insert(0, Transport::MtlsHttp2);
    }
    endpoint
}

/// A sidecar that knows no HTTP/2, such as one that the test plays itself.
pub(crate) fn http1_endpoint(address: SocketAddr, app_port: u16) -> Endpoint {
    Endpoint {
        address,
        app_port,
        transports: vec![Transport::MtlsHttp1, Transport::MtlsTcp],
        health: Health::Healthy,
        weight: 1,
        locality: Locality::default(),
        workload: "cart-1".to_owned(),
    }
}

pub(crate) fn plaintext_endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { transports: vec![Transport::Plaintext], ..endpoint(address, address.port()) }
}

pub(crate) fn settings(account: &str) -> Settings {
    Settings {
        service: account.to_owned(),
        namespace: "default".to_owned(),
        token: None,
        state_dir: std::path::PathBuf::new(),
        ports: Vec::new(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        health: None,
        workers: 1,
        http2: HTTP2,
        memory_max: None,
        wait: Duration::from_secs(30),
        drain: Duration::from_secs(30),
        resolv_conf: meshwork_proxy::side::dns::RESOLV_CONF.into(),
        parent_proxy: None,
    }
}

pub(crate) fn bind() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// Two sidecars: `web` calls, `cart` serves the application on `app_port`.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) web: Sidecar,
    pub(crate) cart: Sidecar,
}

impl Pair {
    pub(crate) fn start(app_port: u16) -> Self {
        let mesh = Mesh::new();
        let cart = Sidecar::start(&mesh, "cart", &[app_port], &[]);
        let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
        web.learn("cart", 80, vec![endpoint(cart.inbound[0], app_port)]);
        Self { mesh, web, cart }
    }
}
