//! The certificate authority at work: join token -> first certificate, certificate -> its successor.
//!
//! A token's secret is worth exactly the service and namespace that it was made for; a certificate is
//! worth its own renewal. Nothing that a request says of itself decides a name.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meshwork_core::model::SpiffeId;
use meshwork_identity::{
    Authority, AuthorityError, Identity, KeyAndCsr, RootHash, TrustBundle, control_id, control_server_config,
};
use meshwork_xds::proto;
use meshwork_xds::proto::enrollment_server::Enrollment;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::StartError;
use crate::api::Caller;
use crate::server::RemoteAddress;
use crate::store::{Expect, Key, Store, Transaction};
use crate::time::unix_seconds;
use crate::tokens::{TokenRefused, Tokens};
use crate::view::Views;

/// The control plane's own certificate. It renews itself, so its life is ours to choose; a day like the
/// sidecars' shows a broken renewal soon.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);

/// How often the own certificate and the intermediate are looked at; a renewal is due for half a life.
const RENEWAL_EVERY: Duration = Duration::from_secs(600);

/// What the control plane's TLS port speaks.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Hexadecimal digits of a mesh ID: 64 bits, as meshes that meet are few.
const MESH_ID_DIGITS: usize = 16;

pub(crate) struct Ca {
    store: Store,
    /// Replaced when the intermediate is renewed.
    authority: ArcSwap<Authority>,
    pub(crate) mesh_id: String,
    /// What the mesh's settings say; set once they are read.
    views: OnceLock<Views>,
}

/// A certificate for a peer, and whose it is.
struct Grant {
    id: SpiffeId,
    chain_der: Vec<Vec<u8>>,
}

impl Ca {
    /// Reads the authority from the store, or makes one for a new mesh.
    pub(crate) async fn open(store: &Store, trust_domain: &str) -> Result<Self, StartError> {
        let mesh_id = mesh_id(store).await?;
        let now = SystemTime::now();
        let authority = match store.get(&Key::authority())? {
            Some(found) => Authority::from_pem(&String::from_utf8_lossy(&found.value))?,
            None => {
                let authority = Authority::create(trust_domain, now)?;
                save(store, &authority, Expect::Absent).await?;
                authority
            }
        };
        if authority.trust_domain() != trust_domain {
            return Err(StartError::OtherTrustDomain {
                found: authority.trust_domain().to_owned(),
                wanted: trust_domain.to_owned(),
            });
        }
        let ca = Self {
            store: store.clone(),
            authority: ArcSwap::from_pointee(authority),
            mesh_id,
            views: OnceLock::new(),
        };
        ca.renew_intermediate(now).await?;
        Ok(ca)
    }

    /// From now on leaves live as long as the mesh's settings say.
    pub(crate) fn follow(&self, views: Views) {
        // A second call would change nothing, and there is none.
        let _ = self.views.set(views);
    }

    fn leaf_ttl(&self) -> Duration {
        let settings = self.views.get().map(|views| views.current().mesh.config().clone());
        settings.unwrap_or_default().leaf_ttl
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        self.authority.load().bundle().clone()
    }

    pub(crate) fn root_key_hash(&self) -> RootHash {
        self.authority.load().root_key_hash()
    }

    pub(crate) fn trust_domain(&self) -> String {
        self.authority.load().trust_domain().to_owned()
    }

    /// A TLS config with a certificate of its own, and when to make the next one.
    pub(crate) fn server_config(&self) -> Result<(Arc<ServerConfig>, SystemTime), StartError> {
        let authority = self.authority.load();
        let id =
            control_id(authority.trust_domain()).map_err(|error| StartError::Identity(error.to_string()))?;
        let own = KeyAndCsr::generate().map_err(AuthorityError::from)?;
        let issued = authority.issue(&own.csr_der, &id, OWN_TTL, SystemTime::now())?;
        let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        let identity =
            Identity::new(chain, own.key).map_err(|error| StartError::Identity(error.to_string()))?;
        let bundle = Arc::new(authority.bundle().clone());
        let config = control_server_config(&identity, &bundle, &ALPN)
            .map_err(|error| StartError::Identity(error.to_string()))?;
        Ok((config, identity.half_life()))
    }

    /// Keeps the own certificate and the intermediate fresh until drained.
    pub(crate) async fn keep_fresh(
        self: Arc<Self>,
        tls: Arc<ArcSwap<ServerConfig>>,
        mut due: SystemTime,
        drain: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEWAL_EVERY) => {}
                () = drain.cancelled() => return,
            }
            let now = SystemTime::now();
            if let Err(error) = self.renew_intermediate(now).await {
                tracing::error!(%error, "the issuing certificate could not be renewed");
            }
            if now < due {
                continue;
            }
            match self.server_config() {
                Ok((config, next)) => {
                    tls.store(config);
                    due = next;
                    tracing::info!("the control plane renewed its own certificate");
                }
                Err(error) => {
                    tracing::error!(%error, "the control plane could not renew its own certificate")
                }
            }
        }
    }

    async fn renew_intermediate(&self, now: SystemTime) -> Result<(), StartError> {
        if !self.authority.load().intermediate_is_due(now) {
            return Ok(());
        }
        // A copy, so that whoever signs meanwhile uses the old one, which is still good.
        let mut authority = Authority::from_pem(&self.authority.load().to_pem())?;
        authority.renew_intermediate(now)?;
        save(&self.store, &authority, Expect::Present).await?;
        self.authority.store(Arc::new(authority));
        tracing::info!("renewed the issuing certificate");
        Ok(())
    }

    fn issue(&self, csr_der: &[u8], id: SpiffeId) -> Result<Grant, Status> {
        let ttl = self.leaf_ttl();
        match self.authority.load().issue(csr_der, &id, ttl, SystemTime::now()) {
            Ok(issued) => Ok(Grant { id, chain_der: issued.chain_der }),
            Err(AuthorityError::Csr(error)) => Err(Status::invalid_argument(error.to_string())),
            Err(error) => {
                tracing::error!(%error, %id, "a certificate could not be signed");
                Err(Status::internal(error.to_string()))
            }
        }
    }

    fn certificate(&self, grant: Grant) -> proto::Certificate {
        proto::Certificate {
            chain_der: grant.chain_der,
            roots_der: self.authority.load().roots().iter().map(|root| root.to_vec()).collect(),
            spiffe_id: grant.id.to_string(),
            mesh_id: self.mesh_id.clone(),
            service: grant.id.account().to_owned(),
            namespace: grant.id.namespace().to_owned(),
        }
    }
}

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
        let id = workload(&request)?;
        let grant = self.ca.issue(&request.get_ref().csr_der, id.clone());
        match &grant {
            Ok(_) => tracing::info!(remote, %id, "renewed a workload's certificate"),
            Err(status) => {
                tracing::warn!(remote, %id, reason = status.message(), "refused to renew a certificate")
            }
        }
        Ok(Response::new(self.ca.certificate(grant?)))
    }
}

impl EnrollmentService {
    /// The certificate is signed first: a token is used up only for one that can be handed out.
    async fn redeem(&self, secret: &str, csr_der: &[u8]) -> Result<Grant, Status> {
        let token = self.tokens.find(secret, unix_seconds(SystemTime::now())).map_err(status)?;
        let (namespace, service) = (&token.record.namespace, &token.record.service);
        let id = SpiffeId::new(&self.ca.trust_domain(), namespace, service)
            .map_err(|error| Status::internal(error.to_string()))?;
        let grant = self.ca.issue(csr_der, id)?;
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
        Some(Caller::Operator { .. } | Caller::Anonymous) | None => Err(Status::unauthenticated(
            "this call needs the workload's certificate; enrol with a join token first",
        )),
    }
}

fn remote<T>(request: &Request<T>) -> String {
    let address = request.extensions().get::<RemoteAddress>();
    address.map_or_else(|| "the operator socket".to_owned(), |RemoteAddress(address)| address.to_string())
}

/// When a certificate ends, in seconds since the epoch.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

async fn save(store: &Store, authority: &Authority, expect: Expect) -> Result<(), StartError> {
    let transaction = Transaction::default()
        .expect(Key::authority(), expect)
        .put(Key::authority(), authority.to_pem().into_bytes());
    store.commit(transaction).await.map(drop).map_err(|error| StartError::Write(error.to_string()))
}

/// Each store's own, for life.
async fn mesh_id(store: &Store) -> Result<String, StartError> {
    if let Some(found) = store.get(&Key::mesh_id())? {
        return Ok(String::from_utf8_lossy(&found.value).into_owned());
    }
    let random = meshwork_identity::TokenSecret::generate().map_err(AuthorityError::from)?;
    let mesh_id: String = random.hash().to_string().chars().take(MESH_ID_DIGITS).collect();
    let transaction = Transaction::default()
        .expect(Key::mesh_id(), Expect::Absent)
        .put(Key::mesh_id(), mesh_id.clone().into_bytes());
    store.commit(transaction).await.map_err(|error| StartError::Write(error.to_string()))?;
    Ok(mesh_id)
}
