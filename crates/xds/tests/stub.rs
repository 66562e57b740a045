//! The server stub with its codec against Envoy's own client stub, over a real connection: both sessions talk, and
//! the bytes that were encoded once arrive as the messages that they stand for.

use std::net::SocketAddr;
use std::pin::Pin;

use meshwork_core::compile::{Audience, Features};
use meshwork_core::model::AccessLog;
use meshwork_core::resource::{MeshSettings, Resource, ResourceType};
use meshwork_xds::codec::{DeltaResponse, SotwResponse};
use meshwork_xds::convert;
use meshwork_xds::discovery::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use meshwork_xds::session::client::Sidecar;
use meshwork_xds::session::{ClientSession, ServerSession, Session as _};
use meshwork_xds::wire::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DiscoveryRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

fn settings() -> Resource {
    Resource::MeshSettings(MeshSettings {
        mesh_id: "m".to_owned(),
        trust_domain: "mesh.local".to_owned(),
        access_log: AccessLog::Errors,
        issuing_root: String::new(),
        ranges: vec!["240.0.0.0/8".parse().expect("a CIDR")],
        virtual_ranges: Vec::new(),
        unknown: Default::default(),
    })
}

/// A control plane that knows the settings only.
struct Control;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Control {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaResponse, Status>> + Send + 'static>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut session = ServerSession::new();
            while let Some(Ok(request)) = requests.next().await {
                let mut resolve = |resource_type: ResourceType, _: &str| {
                    let audience = Audience::Sidecar(Features::default());
                    (resource_type == ResourceType::MeshSettings)
                        .then(|| convert::encode(&settings(), audience))
                };
                let outcome = session.request(request, "42", &mut resolve).expect("a valid request");
                for response in outcome.responses {
                    let _ = responses.send(Ok(response)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<SotwResponse, Status>> + Send + 'static>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("sidecars speak delta"))
    }
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = Server::builder().add_service(AggregatedDiscoveryServiceServer::new(Control));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test]
async fn both_sessions_understand_each_other_over_grpc() {
    let address = serve().await;
    let mut client =
        AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.expect("it listens");
    let mut session = ClientSession::new(Sidecar {
        workload: "default/web-1".to_owned(),
        trust_domain: "mesh.local".to_owned(),
        version: "0.1.0".to_owned(),
        features: Vec::new(),
        mesh_id: None,
    });
    session.want("cart:80").expect("one is not too many");
    let (requests, stream) = mpsc::channel(8);
    for request in session.connected() {
        requests.send(request).await.expect("there is room");
    }
    let outbound = ReceiverStream::new(stream);
    let mut responses = client.delta_aggregated_resources(outbound).await.expect("served").into_inner();
    let mut applied = Vec::new();
    let mut absent = Vec::new();
    while absent.is_empty() {
        let response = responses.message().await.expect("no error").expect("the stream goes on");
        let reaction = session.response(response).expect("our mesh");
        applied.extend(reaction.applied);
        absent.extend(reaction.absent);
    }
    assert_eq!(applied.iter().map(|versioned| &versioned.resource).collect::<Vec<_>>(), [&settings()]);
    let absent: Vec<_> = absent.iter().map(ToString::to_string).collect();
    assert_eq!(absent, ["Listener cart:80"]);
    assert_eq!(session.revision(), "42");
    assert_eq!(session.mesh_id(), Some("m"));
}
