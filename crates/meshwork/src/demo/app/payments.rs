//! Payments speaks gRPC: what do these items cost?
//!
//! Its caller keeps one connection, as gRPC's clients do, to a local port of its sidecar (`--upstream`); which instance
//! answers, the sidecar decides call by call. (Clients that honour `grpc_proxy` need no such port; tonic's does not.)

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Error, Server};
use tonic::{Request, Response, Status};

use self::proto::payments_client::PaymentsClient as Stub;
use self::proto::payments_server::{Payments, PaymentsServer};
pub(super) use self::proto::{QuoteReply, QuoteRequest};
use crate::BoxError;
use crate::settings::Address;

#[allow(unreachable_pub)] // generated
mod proto {
    tonic::include_proto!("shop.v1");
}

/// Goes along with the call (`grpc-timeout`): past it neither side works for nothing.
const DEADLINE: Duration = Duration::from_secs(5);

/// What one item costs, in cents.
const ITEM_PRICE: u64 = 1_050;

pub(super) async fn serve(
    listener: TcpListener,
    version: String,
    stopped: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(PaymentsServer::new(Counter { version }));
    Ok(server.serve_with_incoming_shutdown(incoming, stopped).await?)
}

struct Counter {
    version: String,
}

#[tonic::async_trait]
impl Payments for Counter {
    async fn quote(&self, request: Request<QuoteRequest>) -> Result<Response<QuoteReply>, Status> {
        let items = request.into_inner().items;
        if items.is_empty() {
            return Err(Status::invalid_argument("there is nothing to pay for: send items"));
        }
        let total = ITEM_PRICE * items.len() as u64;
        Ok(Response::new(QuoteReply { version: self.version.clone(), currency: "EUR".to_owned(), total }))
    }
}

/// Asks over one connection, which is made with the first call and again when it is lost.
pub(super) struct PaymentsClient {
    channel: Channel,
}

impl PaymentsClient {
    pub(super) fn to(address: &Address) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}:{}", address.host, address.port))?;
        Ok(Self { channel: endpoint.timeout(DEADLINE).connect_lazy() })
    }

    pub(super) async fn quote(&self, items: Vec<String>) -> Result<QuoteReply, String> {
        let mut request = Request::new(QuoteRequest { items });
        request.set_timeout(DEADLINE);
        let answer = Stub::new(self.channel.clone()).quote(request).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| format!("payments answered {:?}: {}", status.code(), status.message()))
    }
}
