//! A machine between a sidecar and its control plane that spoils one resource on its way: what a control plane
//! with a fault, or of a version that knows more, would send.
//!
//! The sidecar believes it because its trust bundle holds a second root, under which this machine has the control
//! plane's name; to the real control plane it speaks as the sidecar, with the sidecar's certificate.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meshwork_core::resource::ResourceType;
use meshwork_identity::{
    Authority, Enrolled, Identity, KeyAndCsr, Membership, TrustBundle, control_id, control_server_config,
};
use meshwork_xds::codec::{DeltaResponse, EncodedResource, SotwResponse};
use meshwork_xds::convert::Reference;
use meshwork_xds::discovery::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use meshwork_xds::proto::sidecar_client::SidecarClient;
use meshwork_xds::proto::sidecar_server::{Sidecar, SidecarServer};
use meshwork_xds::proto::{ControlMessage, SidecarMessage};
use meshwork_xds::wire::route::{RetryPolicy, RouteConfiguration};
use meshwork_xds::wire::{
    AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
    Resource,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::ads;

type Down<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The machine. Dropped, it is gone.
pub(crate) struct Middle {
    spoiled: Spoiled,
    _serving: AbortOnDropHandle<()>,
}

/// The route that is spoiled on its way, by name.
type Spoiled = Arc<Mutex<Option<String>>>;

impl Middle {
    /// Before the control plane that `own`, a sidecar's, is of; and what that sidecar is to find on its disk.
    pub(crate) async fn start(own: &Enrolled) -> (Self, Enrolled) {
        let trust_domain = own.bundle.trust_domain();
        let authority = Authority::create(trust_domain, SystemTime::now()).unwrap();
        let KeyAndCsr { key, csr_der } = KeyAndCsr::generate().unwrap();
        let hour = Duration::from_secs(3_600);
        let control = control_id(trust_domain).unwrap();
        let issued = authority.issue(&csr_der, &control, hour, SystemTime::now()).unwrap();
        let identity = Identity::new(issued.chain_der.into_iter().map(Into::into).collect(), key).unwrap();
        let roots = own.bundle.roots().iter().chain(authority.roots()).cloned().collect();
        let bundle = Arc::new(TrustBundle::new(trust_domain, roots).unwrap());
        let tls = control_server_config(&identity, &bundle, &[], &[b"h2"]).unwrap();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let spoiled = Spoiled::default();
        let relay = Relay { control: ads::channel(own).await, spoiled: spoiled.clone() };
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(tls), relay));
        let told = Enrolled {
            identity: own.identity.clone(),
            bundle,
            membership: Membership { control: address.to_string(), ..own.membership.clone() },
        };
        (Self { spoiled, _serving: AbortOnDropHandle::new(serving) }, told)
    }

    /// From now on that route does not arrive as it was sent.
    pub(crate) fn spoil(&self, route: &str) {
        *lock(&self.spoiled) = Some(route.to_owned());
    }

    pub(crate) fn spoil_nothing(&self) {
        *lock(&self.spoiled) = None;
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, relay: Relay) {
    let routes = Routes::new(AggregatedDiscoveryServiceServer::new(relay.clone()));
    let routes = routes.add_service(SidecarServer::new(relay));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _): (_, SocketAddr) = listener.accept().await.unwrap();
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(routes.clone()));
        connections.spawn(async move {
            let stream = acceptor.accept(stream).await.expect("the sidecar believes it");
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The sidecar ends it.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[derive(Clone)]
struct Relay {
    control: Channel,
    spoiled: Spoiled,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type DeltaAggregatedResourcesStream = Down<DeltaResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let up = request.into_inner().filter_map(Result::ok);
        let mut client = AggregatedDiscoveryServiceClient::new(self.control.clone());
        let down = client.delta_aggregated_resources(up).await?.into_inner();
        let spoiled = self.spoiled.clone();
        Ok(Response::new(Box::pin(down.map(move |response| Ok(pass(response?, &spoiled))))))
    }

    type StreamAggregatedResourcesStream = Down<SotwResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("sidecars speak delta"))
    }
}

#[tonic::async_trait]
impl Sidecar for Relay {
    type SessionStream = Down<ControlMessage>;

    async fn session(
        &self,
        request: Request<Streaming<SidecarMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let up = request.into_inner().filter_map(Result::ok);
        let down = SidecarClient::new(self.control.clone()).session(up).await?.into_inner();
        Ok(Response::new(Box::pin(down)))
    }
}

fn pass(response: DeltaDiscoveryResponse, spoiled: &Spoiled) -> DeltaResponse {
    let spoiled = lock(spoiled).clone();
    let passed = |resource: Resource| pass_resource(resource, spoiled.as_deref());
    DeltaResponse {
        system_version_info: response.system_version_info,
        type_url: response.type_url,
        nonce: response.nonce,
        resources: response.resources.into_iter().filter_map(passed).collect(),
        removed_resources: response.removed_resources,
    }
}

fn pass_resource(resource: Resource, spoiled: Option<&str>) -> Option<EncodedResource> {
    let body = resource.resource.unwrap();
    let reference = Reference::new(meshwork_xds::resource_type(&body.type_url).unwrap(), &*resource.name);
    let body = match reference.resource_type {
        // It would take our root away.
        ResourceType::TrustBundle => return None,
        ResourceType::Route if spoiled == Some(&resource.name) => spoil(&body.value),
        _ => body.value,
    };
    Some(EncodedResource::new(&reference, &resource.version, body, Vec::new()))
}

/// A field that means something, and that a sidecar of this version can't honour.
fn spoil(route: &[u8]) -> Vec<u8> {
    let mut route = RouteConfiguration::decode(route).unwrap();
    route.virtual_hosts[0].retry_policy = Some(RetryPolicy::default());
    route.encode_to_vec()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
