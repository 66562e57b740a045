//! The gRPC service `meshwork.v1.Enrollment`: join token -> first certificate, certificate -> its successor.
//!
//! A token's secret is worth exactly the service and namespace that it was made for; a certificate is
//! worth its own renewal, for a while after its end, too. Nothing that a request says of itself decides a name.

use std::sync::Arc;
use std::time::SystemTime;

use meshwork_core::model::SpiffeId;
use meshwork_xds::proto;
use meshwork_xds::proto::enrollment_server::Enrollment;
use tonic::{Request, Response, Status};

use crate::api::Caller;
use crate::ca::{Ca, Grant};
use crate::server::{CertificateEnd, RemoteAddress};
use crate::time::unix_seconds;
use crate::tokens::{TokenRefused, Tokens};

/// The gRPC service `meshwork.v1.Enrollment`.
pub(crate) struct EnrollmentService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) tokens: Tokens,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(
        &self,
        request: Request<proto::EnrollRequest>,
    ) -> Result<Response<proto::Certificate>, Status> {
        let remote = remote(&request);
        let proto::EnrollRequest { token_secret, csr_der } = request.into_inner();
        match self.redeem(&token_secret, &csr_der).await {
            Ok(grant) => {
                tracing::info!(remote, id = %grant.id, "enrolled a workload");
                Ok(Response::new(self.ca.certificate(grant)))
            }
            Err(status) => {
                tracing::warn!(remote, reason = status.message(), "refused to enrol a workload");
                Err(status)
            }
        }
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::Certificate>, Status> {
        let remote = remote(&request);
        let id = renewable(&request)?;
        let grant = self.ca.issue(&request.get_ref().csr_der, id.clone()).await;
        match &grant {
            Ok(_) => tracing::info!(remote, %id, "renewed a workload's certificate"),
            Err(status) => {
                tracing::warn!(remote, %id, reason = status.message(), "refused to renew a certificate")
            }
        }
        let grant = grant?;
        if let (Some(end), Some(Caller::Workload(_))) =
            (request.extensions().get::<CertificateEnd>(), request.extensions().get::<Caller>())
        {
            end.extend_to(unix_seconds(grant.not_after));
        }
        Ok(Response::new(self.ca.certificate(grant)))
    }
}

impl EnrollmentService {
    /// The certificate is signed first: a token is used up only for one that can be handed out.
    async fn redeem(&self, secret: &str, csr_der: &[u8]) -> Result<Grant, Status> {
        let token = self.tokens.find(secret, unix_seconds(SystemTime::now())).map_err(status)?;
        let (namespace, service) = (&token.record.namespace, &token.record.service);
        let id = SpiffeId::new(&self.ca.trust_domain(), namespace, service)
            .map_err(|error| Status::internal(error.to_string()))?;
        let grant = self.ca.issue(csr_der, id).await?;
        self.tokens.use_up(token).await.map_err(status)?;
        Ok(grant)
    }
}

fn status(refused: TokenRefused) -> Status {
    match refused {
        TokenRefused::Unknown | TokenRefused::Expired { .. } | TokenRefused::UsedUp => {
            Status::unauthenticated(refused.to_string())
        }
        TokenRefused::Store(_) => Status::unavailable(refused.to_string()),
    }
}

/// Whose certificate the caller presented.
pub(crate) fn workload<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Workload(id)) => Ok(id.clone()),
        Some(Caller::Late(_)) => Err(Status::unauthenticated(
            "the workload's certificate has expired; it is good for its own renewal only",
        )),
        Some(Caller::Operator { .. } | Caller::Login { .. } | Caller::Anonymous) | None => {
            Err(Status::unauthenticated(
                "this call needs the workload's certificate; enrol with a join token first",
            ))
        }
    }
}

/// The same, of one that may have ended a while ago.
fn renewable<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Late(id)) => Ok(id.clone()),
        _ => workload(request),
    }
}

fn remote<T>(request: &Request<T>) -> String {
    let address = request.extensions().get::<RemoteAddress>();
    address.map_or_else(|| "the operator socket".to_owned(), |RemoteAddress(address)| address.to_string())
}
