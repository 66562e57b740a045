//! Joining and renewal, against a control plane of this file over real sockets: only its own authority can sign
//! certificates that are old already.

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meshwork_core::model::SpiffeId;
use meshwork_identity::{Authority, Identity, control_id, control_server_config};
use meshwork_xds::proto::enrollment_server::{Enrollment, EnrollmentServer};
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response};

use super::*;

pub(in crate::side) const HOUR: Duration = Duration::from_secs(3_600);

fn id(service: &str) -> SpiffeId {
    SpiffeId::new("mesh.local", "default", service).unwrap()
}

/// Signs for whatever service it is told to.
pub(in crate::side) struct Ca {
    pub(in crate::side) authority: Authority,
    signs_for: String,
    mesh_id: String,
}

impl Ca {
    pub(in crate::side) fn new(signs_for: &str) -> Self {
        let authority = Authority::create("mesh.local", SystemTime::now() - 30 * 24 * HOUR).unwrap();
        Self { authority, signs_for: signs_for.to_owned(), mesh_id: "m1".to_owned() }
    }

    fn sign(&self, csr_der: &[u8], service: &str, now: SystemTime) -> Certificate {
        let issued = self.authority.issue(csr_der, &id(service), 24 * HOUR, now).unwrap();
        Certificate {
            chain_der: issued.chain_der,
            roots_der: self.authority.roots().iter().map(|root| root.to_vec()).collect(),
            spiffe_id: id(service).to_string(),
            mesh_id: self.mesh_id.clone(),
            service: service.to_owned(),
            namespace: "default".to_owned(),
        }
    }

    /// cart's, signed so long ago.
    pub(in crate::side) fn enrolled(&self, ago: Duration, control: String) -> Enrolled {
        let own = KeyAndCsr::generate().unwrap();
        let answer = self.sign(&own.csr_der, "cart", SystemTime::now() - ago);
        read_answer(own, answer, control).unwrap()
    }

    pub(in crate::side) async fn serve(self) -> (Arc<Self>, String) {
        let own = KeyAndCsr::generate().unwrap();
        let control = control_id("mesh.local").unwrap();
        let issued = self.authority.issue(&own.csr_der, &control, HOUR, SystemTime::now()).unwrap();
        let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        let identity = Identity::new(chain, own.key).unwrap();
        let bundle = Arc::new(self.authority.bundle().clone());
        let tls = TlsAcceptor::from(control_server_config(&identity, &bundle, &[], &[b"h2"]).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ca = Arc::new(self);
        let service = EnrollmentServer::from_arc(ca.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(stream).await else { continue };
                let service = TowerToHyperService::new(service.clone());
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        (ca, address)
    }
}

#[tonic::async_trait]
impl Enrollment for Ca {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.sign(&request.csr_der, &self.signs_for, SystemTime::now())))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.sign(&request.csr_der, &self.signs_for, SystemTime::now())))
    }
}

#[tokio::test]
async fn a_renewal_for_somebody_else_or_by_another_mesh_is_refused() {
    let refused = async |ca: Ca| {
        let (ca, address) = ca.serve().await;
        let mut own = ca.enrolled(13 * HOUR, address);
        own.membership.mesh_id = "m1".to_owned();
        let (_enrolled, current) = watch::channel(Arc::new(own.clone()));
        match renew(to_control(current, Dial::default()), &own).await {
            Err(Failed::Final(error)) => error.to_string(),
            Err(Failed::Call(status)) => panic!("{status}"),
            Ok(_) => panic!("it was taken"),
        }
    };
    let other = refused(Ca::new("payments")).await;
    assert!(
        other.contains("renewed the certificate for spiffe://mesh.local/ns/default/sa/payments"),
        "{other}"
    );
    let foreign = refused(Ca { mesh_id: "m2".to_owned(), ..Ca::new("cart") }).await;
    assert!(foreign.contains("another mesh, m2"), "{foreign}");
}

#[tokio::test]
async fn a_saved_certificate_is_used_only_where_it_fits() {
    let (ca, other) = (Ca::new("cart"), Ca::new("cart"));
    let token = |ca: &Ca| JoinToken {
        address: "127.0.0.1:7".to_owned(),
        expires: 0, // a saved certificate needs no token that still holds
        root_hash: ca.authority.root_key_hash(),
        secret: meshwork_identity::TokenSecret::generate().unwrap(),
    };
    let wanted = |service| Wanted {
        service,
        namespace: "default",
        token: None,
        state_dir: Path::new(""),
        dial: Dial::default(),
    };
    let now = SystemTime::now();
    let saved = ca.enrolled(HOUR, "127.0.0.1:9".to_owned());
    assert_eq!(unfit(&saved, &wanted("cart"), None, now), None);
    assert_eq!(unfit(&saved, &wanted("cart"), Some(&token(&ca)), now), None);
    let why = |service, token: Option<&JoinToken>, now| unfit(&saved, &wanted(service), token, now).unwrap();
    assert_eq!(why("payments", None, now), Unfit::OtherService);
    let good = JoinToken { expires: 4_000_000_000, ..token(&other) };
    assert_eq!(why("cart", Some(&good), now), Unfit::OtherMesh);
    assert_eq!(unfit(&saved, &wanted("cart"), Some(&token(&other)), now), None, "its time is over anyway");
    assert_eq!(why("cart", None, now + 24 * HOUR), Unfit::Ended);
    assert_eq!(at_address(saved, Some(&token(&ca))).membership.control, "127.0.0.1:7");
}

#[tokio::test]
async fn a_sidecar_that_was_away_too_long_gets_a_successor_for_its_own_certificate() {
    let (ca, address) = Ca::new("cart").serve().await;
    let dir = tempfile::tempdir().unwrap();
    let wanted = Wanted {
        service: "cart",
        namespace: "default",
        token: None,
        state_dir: dir.path(),
        dial: Dial::default(),
    };
    ca.enrolled(25 * HOUR, address.clone()).save(dir.path()).unwrap();
    let renewed = obtain(&wanted, HOUR).await.unwrap();
    assert!(renewed.identity.is_valid(SystemTime::now()));
    let kept = Enrolled::load(dir.path()).unwrap().unwrap();
    assert_eq!(kept.identity.not_after(), renewed.identity.not_after());
    // After as long again it is a stranger's.
    ca.enrolled(49 * HOUR, address).save(dir.path()).unwrap();
    let refused = obtain(&wanted, Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(refused.contains("expired") && refused.contains("token create --service cart"), "{refused}");
}

#[tokio::test]
async fn a_token_of_a_root_that_was_replaced_stops_nobody_who_is_in_the_mesh_already() {
    let (ca, address) = Ca::new("cart").serve().await;
    let dir = tempfile::tempdir().unwrap();
    let token = JoinToken {
        address: address.clone(),
        expires: 4_000_000_000,
        root_hash: Ca::new("cart").authority.root_key_hash(),
        secret: meshwork_identity::TokenSecret::generate().unwrap(),
    };
    let token = token.to_string();
    let wanted = Wanted {
        service: "cart",
        namespace: "default",
        token: Some(&token),
        state_dir: dir.path(),
        dial: Dial::default(),
    };
    let refused = obtain(&wanted, HOUR).await.unwrap_err().to_string();
    assert!(refused.contains("if its root was replaced since, make a new token"), "{refused}");
    let saved = ca.enrolled(HOUR, address);
    saved.save(dir.path()).unwrap();
    let used = obtain(&wanted, HOUR).await.unwrap();
    assert_eq!(used.identity.not_after(), saved.identity.not_after());
}
