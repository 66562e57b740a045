//! A sidecar as the control plane sees it: enrols, holds a session, asks for resources.

use std::sync::Arc;
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use meshwork_core::compile::Features;
use meshwork_identity::{
    Identity, JoinToken, KeyAndCsr, TrustBundle, control_client_config, enrol_client_config,
};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::enrollment_client::EnrollmentClient;
use meshwork_xds::proto::sidecar_client::SidecarClient;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::proto::{self, SidecarMessage};
use meshwork_xds::session::ClientSession;
use meshwork_xds::session::client::{Reaction, Sidecar};
use meshwork_xds::wire::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use super::soon;

const ALPN: [&[u8]; 1] = [b"h2"];

/// An enrolled workload.
pub struct Enrolled {
    pub address: String,
    pub identity: Identity,
    pub bundle: Arc<TrustBundle>,
    pub certificate: proto::Certificate,
}

/// A channel whose TLS is ours, not tonic's.
pub async fn channel(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let connect = move |uri: Uri| {
        let connector = TlsConnector::from(Arc::clone(&tls));
        async move {
            let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
            let name = ServerName::try_from("control.mesh").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector(tower::service_fn(connect)).await
}

pub async fn enrol(token: &str) -> Result<Enrolled, Status> {
    let token: JoinToken = token.parse().unwrap();
    let own = KeyAndCsr::generate().unwrap();
    let tls = enrol_client_config(token.root_hash, &ALPN).unwrap();
    let channel = channel(&token.address, tls).await.expect("the control plane proves itself by its root");
    let request =
        proto::EnrollRequest { token_secret: token.secret.reveal().to_owned(), csr_der: own.csr_der.clone() };
    let certificate = EnrollmentClient::new(channel).enroll(request).await?.into_inner();
    Ok(Enrolled::new(token.address, own, certificate))
}

impl Enrolled {
    fn new(address: String, own: KeyAndCsr, certificate: proto::Certificate) -> Self {
        let der = |bytes: &Vec<u8>| CertificateDer::from(bytes.clone());
        let chain = certificate.chain_der.iter().map(der).collect();
        let identity = Identity::new(chain, own.key).unwrap();
        let roots = certificate.roots_der.iter().map(der).collect();
        let bundle = Arc::new(TrustBundle::new("mesh.local", roots).unwrap());
        assert!(identity.is_valid(SystemTime::now()));
        Self { address, identity, bundle, certificate }
    }

    pub async fn channel(&self) -> Channel {
        let tls = control_client_config(&self.identity, &self.bundle, &ALPN).unwrap();
        channel(&self.address, tls).await.unwrap()
    }

    /// The connection itself may be refused, too.
    pub async fn renew(&self) -> Result<Self, Status> {
        let tls = control_client_config(&self.identity, &self.bundle, &ALPN).unwrap();
        let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let channel = channel(&self.address, tls).await.map_err(unavailable)?;
        let own = KeyAndCsr::generate().unwrap();
        let request = proto::RenewRequest { csr_der: own.csr_der.clone() };
        let certificate = EnrollmentClient::new(channel).renew(request).await?.into_inner();
        Ok(Self::new(self.address.clone(), own, certificate))
    }

    /// Opens a session and registers; the answer to that.
    pub async fn register(&self, register: proto::Register) -> (Session, Down) {
        let mut session = Session::open(self).await;
        session.send(Up::Register(register)).await;
        let answer = session.next().await.expect("an answer to Register");
        (session, answer)
    }

    /// The same, where it must hold.
    pub async fn join(&self, workload: &str, service: &str, app_port: u16) -> Session {
        let (session, answer) = self.register(register(workload, service, app_port)).await;
        assert!(matches!(answer, Down::Welcome(_)), "{answer:?}");
        session
    }

    pub async fn ads(&self) -> Ads {
        let (requests, stream) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let responses =
            client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Ads { requests, responses }
    }
}

/// One port: service port 80, the application's as given, reached at a socket made of both.
pub fn register(workload: &str, service: &str, app_port: u16) -> proto::Register {
    proto::Register {
        workload: workload.to_owned(),
        service: service.to_owned(),
        ports: vec![proto::RegisteredPort {
            service_port: 80,
            app_port: u32::from(app_port),
            app_protocol: "http".to_owned(),
            address: format!("127.0.0.1:{}", 20_000 + app_port),
            alpn: vec!["http/1.1".to_owned(), "meshwork-tcp/1".to_owned()],
        }],
        version: "0.1.0".to_owned(),
        healthy: true,
        ..proto::Register::default()
    }
}

/// `meshwork.v1.Sidecar/Session` from the sidecar's end.
pub struct Session {
    pub up: mpsc::Sender<SidecarMessage>,
    down: Streaming<proto::ControlMessage>,
    sequence: u64,
}

impl Session {
    pub async fn open(enrolled: &Enrolled) -> Self {
        let (up, stream) = mpsc::channel(16);
        let mut client = SidecarClient::new(enrolled.channel().await);
        let down = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { up, down, sequence: 0 }
    }

    pub async fn send(&mut self, message: Up) {
        self.sequence += 1;
        self.up.send(SidecarMessage { sequence: self.sequence, message: Some(message) }).await.unwrap();
    }

    /// `None`: the stream ended.
    pub async fn next(&mut self) -> Option<Down> {
        soon(self.down.message()).await.ok()??.message
    }
}

/// A delta ADS stream from the sidecar's end.
pub struct Ads {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Ads {
    pub async fn subscribe(&self, type_url: &str, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub async fn answer(&self, response: &DeltaDiscoveryResponse, refuse: Option<&str>) {
        let error = |message: &str| meshwork_xds::wire::Status {
            code: 3,
            message: message.to_owned(),
            ..meshwork_xds::wire::Status::default()
        };
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refuse.map(error),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response, not answered.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        Ok(soon(self.responses.message()).await?.expect("the stream goes on"))
    }

    /// The next response, answered with an ACK.
    pub async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.answer(&response, None).await;
        response
    }
}

/// A sidecar's whole xDS end: the session of `meshwork_xds` over a real stream.
pub struct Follower {
    pub session: ClientSession,
    ads: Ads,
    /// Bytes of the response that came last.
    pub response_bytes: usize,
}

impl Follower {
    pub async fn connect(enrolled: &Enrolled, mut session: ClientSession) -> Self {
        let ads = enrolled.ads().await;
        for request in session.connected() {
            ads.send(request).await;
        }
        Self { session, ads, response_bytes: 0 }
    }

    pub fn session(workload: &str) -> ClientSession {
        Self::session_with(workload, Features::default())
    }

    pub fn session_with(workload: &str, features: Features) -> ClientSession {
        ClientSession::new(Sidecar {
            workload: workload.to_owned(),
            trust_domain: "mesh.local".to_owned(),
            version: "0.1.0".to_owned(),
            features: features.names().map(str::to_owned).collect(),
            mesh_id: None,
        })
    }

    pub async fn want(&mut self, listener: &str) {
        for request in self.session.want(listener).unwrap().requests {
            self.ads.send(request).await;
        }
    }

    /// The next response, judged and answered.
    pub async fn next(&mut self) -> Reaction {
        let response = self.ads.next().await.unwrap();
        self.response_bytes = prost::Message::encoded_len(&response);
        let mut reaction = self.session.response(response).unwrap();
        for request in reaction.requests.drain(..) {
            self.ads.send(request).await;
        }
        assert_eq!(reaction.refused, []);
        reaction
    }
}
