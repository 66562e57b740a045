//! A bare client of the control plane: a sidecar's certificate, and streams to talk over.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use meshwork_identity::{Enrolled, control_client_config, session_name};
use meshwork_testkit::{Sidecar, soon};
use meshwork_xds::session::ClientSession;
use meshwork_xds::session::client::Versioned;
use meshwork_xds::wire::AggregatedDiscoveryServiceClient;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// More messages than any test here sends ahead.
const MESSAGES_MAX: usize = 64;

/// What a sidecar proves itself with, from its disk.
pub(crate) fn enrolled(sidecar: &Sidecar) -> Enrolled {
    Enrolled::load(sidecar.state_dir()).unwrap().expect("a sidecar that joined has a certificate")
}

/// To the control plane that the certificate is of.
pub(crate) async fn channel(enrolled: &Enrolled) -> Channel {
    let tls = control_client_config(&enrolled.identity, &enrolled.bundle, &[b"h2"]).unwrap();
    channel_by(tls, enrolled.membership.control.clone()).await
}

/// To whoever that config takes for the control plane.
pub(crate) async fn channel_by(tls: Arc<ClientConfig>, address: String) -> Channel {
    let connect = move |_| {
        let (connector, address) = (TlsConnector::from(Arc::clone(&tls)), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            let name = session_name(stream.peer_addr()?);
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    };
    let endpoint = Endpoint::from_static("http://control");
    endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap()
}

/// Asks for what leads to these destinations, until that many resources are held.
pub(crate) async fn fetch(
    enrolled: &Enrolled,
    workload: &str,
    wanted: &[&str],
    count: usize,
) -> Vec<Versioned> {
    let mut session = ClientSession::new(meshwork_xds::session::client::Sidecar {
        workload: workload.to_owned(),
        trust_domain: enrolled.bundle.trust_domain().to_owned(),
        version: "0.1.0".to_owned(),
        features: Vec::new(),
        mesh_id: Some(enrolled.membership.mesh_id.clone()),
    });
    for name in wanted {
        session.want(name).unwrap();
    }
    let (requests, stream) = mpsc::channel(MESSAGES_MAX);
    for request in session.connected() {
        requests.send(request).await.unwrap();
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel(enrolled).await);
    let answers = client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut held = Vec::new();
    while held.len() < count {
        let answer = soon("the next response", answers.message()).await.unwrap().expect("the stream goes on");
        let reaction = session.response(answer).unwrap();
        assert_eq!((&reaction.refused[..], &reaction.absent[..]), (&[][..], &[][..]));
        held.extend(reaction.applied);
        for request in reaction.requests {
            requests.send(request).await.unwrap();
        }
    }
    held
}
