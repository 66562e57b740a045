//! The gRPC service `meshwork.v1.Enrollment`: join token -> first certificate, certificate -> its successor.
//!
//! A token's secret is worth exactly the service and namespace that it was made for; a certificate is
//! worth its own renewal, for a while after its end, too. Nothing that a request says of itself decides a name.

use std::sync::Arc;
use std::time::SystemTime;

use meshwork_core::model::SpiffeId;
use meshwork_xds::proto;
use meshwork_xds::proto::enrollment_server::Enrollment;
use tonic::{Code, Request, Response, Status};

use crate::ca::{Ca, Grant};
use crate::caller::{Caller, CertificateEnd, RemoteAddress, workload};
use crate::metrics::Metrics;
use crate::time::unix_seconds;
use crate::tokens::{TokenRefused, Tokens};

/// The gRPC service `meshwork.v1.Enrollment`.
pub(crate) struct EnrollmentService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) tokens: Tokens,
    pub(crate) metrics: Arc<Metrics>,
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
                self.metrics.certificates.count("enrolled");
                tracing::info!(remote, id = %grant.id, "enrolled a workload");
                Ok(Response::new(self.ca.certificate(grant)))
            }
            Err(refused) => {
                self.metrics.certificates_refused.count(refused.word());
                let status = Status::from(refused);
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
        let id = renewable(&request).inspect_err(|_| {
            self.metrics.certificates_refused.count("no_certificate");
        })?;
        let grant = self.ca.issue(&request.get_ref().csr_der, id.clone()).await;
        match &grant {
            Ok(_) => {
                self.metrics.certificates.count("renewed");
                tracing::info!(remote, %id, "renewed a workload's certificate");
            }
            Err(status) => {
                self.metrics.certificates_refused.count(unsigned(status));
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
    async fn redeem(&self, secret: &str, csr_der: &[u8]) -> Result<Grant, Refused> {
        let token = self.tokens.find(secret, unix_seconds(SystemTime::now()))?;
        let (namespace, service) = (&token.record.namespace, &token.record.service);
        let id = SpiffeId::new(&self.ca.trust_domain(), namespace, service)
            .map_err(|error| Refused::Unsigned(Status::internal(error.to_string())))?;
        let grant = self.ca.issue(csr_der, id).await.map_err(Refused::Unsigned)?;
        self.tokens.use_up(token).await?;
        Ok(grant)
    }
}

/// Why there is no first certificate.
enum Refused {
    Token(TokenRefused),
    Unsigned(Status),
}

impl Refused {
    fn word(&self) -> &'static str {
        match self {
            Self::Token(refused) => refused.word(),
            Self::Unsigned(status) => unsigned(status),
        }
    }
}

/// For the metric: whose fault it is that nothing was signed.
fn unsigned(status: &Status) -> &'static str {
    if status.code() == Code::InvalidArgument { "request" } else { "failed" }
}

impl From<TokenRefused> for Refused {
    fn from(refused: TokenRefused) -> Self {
        Self::Token(refused)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token(
                refused @ (TokenRefused::Unknown | TokenRefused::Expired { .. } | TokenRefused::UsedUp),
            ) => Self::unauthenticated(refused.to_string()),
            Refused::Token(refused @ TokenRefused::Store(_)) => Self::unavailable(refused.to_string()),
            Refused::Unsigned(status) => status,
        }
    }
}

/// Whose certificate the caller presented; it may have ended a while ago.
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
