//! A sidecar of this version in a mesh whose control plane, and whose other sidecars, are of an earlier one: all that it is told
//! are their bytes. It is the same member of it that one of their version was.
//!
//! What takes keys is made anew: its certificate, and the trust bundle.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::SpiffeId;
use meshwork_core::resource::{Resource, ResourceType, TrustBundle};
use meshwork_identity::{
    Authority, Enrolled, JoinToken, KeyAndCsr, Membership, TokenSecret, control_id, control_server_config,
};
use meshwork_testkit::{App, BytesCodec, Mesh, eventually, soon, workload};
use meshwork_xds::convert::to_wire;
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::proto::{
    Certificate, ControlMessage, EnrollRequest, RefusedResources, Register, SidecarMessage,
};
use meshwork_xds::resource_type;
use meshwork_xds::wire::core::SocketAddress;
use meshwork_xds::wire::core::socket_address::PortSpecifier;
use meshwork_xds::wire::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::Streaming;
use tonic::{Request, Response, Status};

use super::older_peer::{HTTP2, Played, call};
use super::raw::MESSAGES_MAX;
use super::recording::{By, Recording, says};
use super::{ADS, CALLS, ENROL, PEERS, SESSION, SPOILED, recorded};

const HOUR: Duration = Duration::from_secs(3_600);

type Answers = mpsc::Sender<Result<Bytes, Status>>;

/// The earlier control plane, as web found it.
struct Older {
    calls: Recording,
    authority: Authority,
    token: JoinToken,
    /// What came on a session, and on a config's stream.
    told: Mutex<Vec<(Instant, Up)>>,
    asked: Mutex<Vec<DeltaDiscoveryRequest>>,
    /// The session that stands.
    session: Mutex<Option<Answers>>,
    /// The stream that stands, and what of the recording it has been told.
    config: Mutex<Option<Config>>,
}

struct Config {
    answers: Answers,
    left: Vec<Vec<u8>>,
}

impl Older {
    async fn start(calls: Recording) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let authority = Authority::create("mesh.local", SystemTime::now()).unwrap();
        let token = JoinToken {
            address: address.to_string(),
            expires: u64::MAX / 4,
            root_hash: authority.root_key_hash(),
            secret: TokenSecret::generate().unwrap(),
        };
        let (told, asked, session, config) =
            (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        let older = Arc::new(Self { calls, authority, token, told, asked, session, config });
        let id = control_id("mesh.local").unwrap();
        let bundle = Arc::new(older.authority.bundle().clone());
        let own = older.member(&id);
        let tls = control_server_config(&own.identity, &bundle, &[], &[b"h2"]).unwrap();
        let serving = tokio::spawn(older.clone().serve(listener, TlsAcceptor::from(tls)));
        (older, AbortOnDropHandle::new(serving))
    }

    /// What somebody of the mesh has on his disk.
    fn member(&self, id: &SpiffeId) -> Enrolled {
        let KeyAndCsr { key, csr_der } = KeyAndCsr::generate().unwrap();
        let chain = self.authority.issue(&csr_der, id, HOUR, SystemTime::now()).unwrap().chain_der;
        let membership = Membership {
            mesh_id: self.calls.fact("mesh-id").to_owned(),
            service: id.account().to_owned(),
            namespace: "default".to_owned(),
            control: self.token.address.clone(),
        };
        Enrolled::new(key, chain, self.roots(), membership).unwrap()
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        self.authority.roots().iter().map(|root| root.to_vec()).collect()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (older, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.expect("it is believed");
                let answer = move |request| older.clone().answer(request);
                let service = hyper::service::service_fn(answer);
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // The sidecar ends it.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<tonic::body::Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let call = tower::service_fn(move |request: Request<Streaming<Bytes>>| {
            let (older, path) = (self.clone(), path.clone());
            async move {
                let (answers, stream) = mpsc::channel(MESSAGES_MAX);
                tokio::spawn(older.hear(path, request.into_inner(), answers));
                Ok::<_, Status>(Response::new(ReceiverStream::new(stream)))
            }
        });
        Ok(tonic::server::Grpc::new(BytesCodec).streaming(call, request).await)
    }

    async fn hear(self: Arc<Self>, path: String, mut messages: Streaming<Bytes>, answers: Answers) {
        while let Ok(Some(message)) = messages.message().await {
            for answer in self.answers(&path, &message, &answers) {
                answers.try_send(Ok(answer.into())).expect("it is read");
            }
            if path == ENROL {
                return;
            }
        }
    }

    fn answers(&self, path: &str, message: &[u8], answers: &Answers) -> Vec<Vec<u8>> {
        match path {
            ENROL => vec![self.certificate(message)],
            SESSION => self.session(message, answers),
            ADS => self.config(message, answers),
            _ => panic!("nobody called {path} then"),
        }
    }

    /// What web got, for another key.
    fn certificate(&self, message: &[u8]) -> Vec<u8> {
        let EnrollRequest { token_secret, csr_der } = EnrollRequest::decode(message).unwrap();
        assert_eq!(token_secret, self.token.secret.reveal());
        let recorded = self.calls.one("web", "control", ENROL).of(By::Server)[0];
        let mut certificate = Certificate::decode(recorded).unwrap();
        let id: SpiffeId = certificate.spiffe_id.parse().unwrap();
        certificate.chain_der =
            self.authority.issue(&csr_der, &id, HOUR, SystemTime::now()).unwrap().chain_der;
        certificate.roots_der = self.roots();
        certificate.encode_to_vec()
    }

    fn session(&self, message: &[u8], answers: &Answers) -> Vec<Vec<u8>> {
        *lock(&self.session) = Some(answers.clone());
        let message = SidecarMessage::decode(message).unwrap().message.expect("a message");
        let answer = match &message {
            Up::Register(_) => Some(self.order("web", |down| matches!(down, Down::Welcome(_)))),
            Up::Drain(_) => Some(self.order("cart", |down| matches!(down, Down::Withdrawn(_)))),
            Up::Renewal(_) | Up::Health(_) | Up::Summary(_) => None,
        };
        lock(&self.told).push((Instant::now(), message));
        answer.into_iter().collect()
    }

    /// The message of that kind that the sidecar of that account was told.
    fn order(&self, account: &str, wanted: impl Fn(&Down) -> bool) -> Vec<u8> {
        let session = self.calls.one(account, "control", SESSION);
        let is_wanted =
            |bytes: &&[u8]| ControlMessage::decode(*bytes).unwrap().message.is_some_and(|down| wanted(&down));
        session.of(By::Server).into_iter().find(is_wanted).expect("it was told so").to_vec()
    }

    /// Each response that was recorded goes out once what it tells of is asked for.
    fn config(&self, message: &[u8], answers: &Answers) -> Vec<Vec<u8>> {
        lock(&self.asked).push(DeltaDiscoveryRequest::decode(message).unwrap());
        let mut config = lock(&self.config);
        let config = config.get_or_insert_with(|| {
            let ads = self.calls.one("web", "control", ADS);
            let unspoiled = ads.of(By::Server).into_iter().take_while(|bytes| !says(bytes, SPOILED));
            Config { answers: answers.clone(), left: unspoiled.map(<[u8]>::to_vec).collect() }
        });
        let (now, left): (Vec<_>, Vec<_>) = config.left.drain(..).partition(|bytes| self.is_asked_for(bytes));
        config.left = left;
        now.into_iter().map(|bytes| self.with_own_roots(bytes)).collect()
    }

    fn is_asked_for(&self, bytes: &[u8]) -> bool {
        let response = DeltaDiscoveryResponse::decode(bytes).unwrap();
        let asked = lock(&self.asked);
        let is_subscribed = |type_url: &str, wanted: &dyn Fn(&str) -> bool| {
            let of_type = asked.iter().filter(|one| one.type_url == type_url);
            of_type.flat_map(|one| &one.resource_names_subscribe).any(|name| wanted(name))
        };
        match resource_type(&response.type_url).unwrap() {
            ResourceType::Cluster
            | ResourceType::Endpoints
            | ResourceType::Route
            | ResourceType::Listener => {
                let name = &response.resources[0].name;
                let port = name.rsplit(':').next().unwrap();
                let listener = meshwork_xds::wire::type_url(ResourceType::Listener);
                is_subscribed(&listener, &|name| name == format!("cart:{port}"))
            }
            ResourceType::Inbound
            | ResourceType::MeshSettings
            | ResourceType::TrustBundle
            | ResourceType::NameTable => is_subscribed(&response.type_url, &|_| true),
        }
    }

    fn with_own_roots(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
        if resource_type(&response.type_url) != Some(ResourceType::TrustBundle) {
            return bytes;
        }
        let bundle = TrustBundle { trust_domain: "mesh.local".to_owned(), roots: self.roots() };
        let audience = Audience::Sidecar(Features::default());
        let value = to_wire(&Resource::TrustBundle(bundle), audience);
        response.resources[0].resource = Some(Any { type_url: response.type_url.clone(), value });
        response.encode_to_vec()
    }

    /// When it was told something of that kind first, and what; waits for it.
    async fn told<T>(&self, what: &str, wanted: impl Fn(&Up) -> Option<T>) -> (Instant, T) {
        let find = || lock(&self.told).iter().find_map(|(at, up)| Some((*at, wanted(up)?)));
        eventually(what, async || find().is_some()).await;
        find().expect("it was there")
    }
}

fn registration(up: &Up) -> Option<Register> {
    match up {
        Up::Register(register) => Some(register.clone()),
        Up::Renewal(_) | Up::Health(_) | Up::Drain(_) | Up::Summary(_) => None,
    }
}

fn standing(up: &Up) -> Option<String> {
    match up {
        Up::Summary(summary) => Some(summary.config.clone()).filter(|config| config != "none"),
        Up::Register(_) | Up::Renewal(_) | Up::Health(_) | Up::Drain(_) => None,
    }
}

/// What a sidecar of this version tells is what one of theirs told: but for addresses, ports, and the clock.
fn comparable(mut register: Register) -> Register {
    assert!(register.time_seconds > 0);
    register.time_seconds = 0;
    for port in &mut register.ports {
        assert!(port.address.parse::<SocketAddr>().is_ok() && port.app_port > 0, "{port:?}");
        port.address.clear();
        port.app_port = 0;
    }
    register
}

/// An address as an endpoint has it: the end of an Envoy's `SocketAddress`.
fn as_told(address: SocketAddr) -> Vec<u8> {
    let message = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    message.encode_to_vec()
}

fn refused(request: &DeltaDiscoveryRequest) -> Option<RefusedResources> {
    let detail = request.error_detail.as_ref()?.details.first()?;
    Some(RefusedResources::decode(&detail.value[..]).unwrap())
}

#[tokio::test]
async fn a_sidecar_of_this_version_is_at_home_in_an_older_mesh() {
    let (mut calls, peers) = (recorded(CALLS), recorded(PEERS));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (theirs, ours) = (calls.fact("cart-80").parse().unwrap(), listener.local_addr().unwrap());
    calls.replace(as_told(theirs), as_told(ours));
    let (older, _serving) = Older::start(calls).await;
    let cart = older.member(&SpiffeId::new("mesh.local", "default", "cart").unwrap());
    let to_cart = peers.one("web", "cart", HTTP2);
    let played = Played::on(listener, &cart, to_cart);

    let session: Vec<Up> = older
        .calls
        .one("web", "control", SESSION)
        .of(By::Client)
        .into_iter()
        .map(|bytes| SidecarMessage::decode(bytes).unwrap().message.expect("a message of this version"))
        .collect();
    let (app, state) = (App::http("web").await, tempfile::tempdir().unwrap());
    // Its own resources are told by this name.
    std::fs::write(state.path().join("workload"), older.calls.fact("web")).unwrap();
    let web = workload("web").serving(80, &app).http2(true).with_token(&older.token.to_string());
    let mesh = Mesh::builder().start().await; // has nothing to say here
    let web = mesh.join_in(web, state).await;
    let (registered_at, registered) = older.told("its registration", registration).await;
    assert_eq!(comparable(registered), comparable(registration(&session[0]).unwrap()));

    call(&mut web.client()).await;
    played.was_asked(to_cart).await;
    let (_, config) = older.told("how it stands", standing).await;
    assert_eq!(Some(config), session.iter().find_map(standing));
    let (renewed_at, ()) =
        older.told("that its lease goes on", |up| matches!(up, Up::Renewal(_)).then_some(())).await;
    // A third of fifteen seconds, less what the clocks of tasks may differ.
    assert!(renewed_at - registered_at > Duration::from_secs(4), "{:?}", renewed_at - registered_at);

    let ads = older.calls.one("web", "control", ADS);
    let spoiled = ads.of(By::Server).into_iter().find(|bytes| says(bytes, SPOILED)).unwrap().to_vec();
    let answers = lock(&older.config).as_ref().expect("it asked").answers.clone();
    answers.send(Ok(spoiled.into())).await.unwrap();
    let refusal = || lock(&older.asked).iter().find_map(refused);
    eventually("it refuses the spoiled route", async || refusal().is_some()).await;
    let requests = ads.of(By::Client).into_iter().map(|bytes| DeltaDiscoveryRequest::decode(bytes).unwrap());
    let theirs = requests.filter_map(|request| refused(&request)).next();
    assert_eq!(refusal(), theirs);
    assert_eq!(theirs.unwrap().resources[0].name, "default/cart:80");

    let session = lock(&older.session).clone().expect("it registered");
    let order = older.order("cart", |down| matches!(down, Down::DrainOrder(_)));
    session.send(Ok(order.into())).await.unwrap();
    web.until("told to drain", |status| status.drain_order.is_some()).await;
    let reason = web.status().drain_order.unwrap();
    assert!(reason.starts_with("`meshwork drain`"), "{reason}");
    soon("it is withdrawn", web.drain()).await;
    older.told("that it drains", |up| matches!(up, Up::Drain(_)).then_some(())).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
