//! Renewal and new roots, against a control plane of this file over real sockets: only its own authority can sign
//! certificates that are old already.

use std::sync::Mutex;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meshwork_core::model::SpiffeId;
use meshwork_identity::{Authority, Identity, control_id, control_server_config};
use meshwork_xds::proto::enrollment_server::{Enrollment, EnrollmentServer};
use rustls_pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response};

use super::super::channel::to_control;
use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn id(service: &str) -> SpiffeId {
    SpiffeId::new("mesh.local", "default", service).unwrap()
}

/// Signs for whatever service it is told to.
struct Ca {
    authority: Authority,
    signs_for: String,
    mesh_id: String,
}

impl Ca {
    fn new(signs_for: &str) -> Self {
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
    fn enrolled(&self, ago: Duration, control: String) -> Enrolled {
        let own = KeyAndCsr::generate().unwrap();
        let answer = self.sign(&own.csr_der, "cart", SystemTime::now() - ago);
        read_answer(own, answer, control).unwrap()
    }

    async fn serve(self) -> (Arc<Self>, String) {
        let own = KeyAndCsr::generate().unwrap();
        let control = control_id("mesh.local").unwrap();
        let issued = self.authority.issue(&own.csr_der, &control, HOUR, SystemTime::now()).unwrap();
        let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        let identity = Identity::new(chain, own.key).unwrap();
        let bundle = Arc::new(self.authority.bundle().clone());
        let tls = TlsAcceptor::from(control_server_config(&identity, &bundle, &[b"h2"]).unwrap());
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
async fn a_certificate_past_its_half_life_is_renewed_kept_and_installed() {
    let (ca, address) = Ca::new("cart").serve().await;
    let dir = tempfile::tempdir().unwrap();
    let old = Arc::new(ca.enrolled(13 * HOUR, address));
    let (enrolled, mut current) = watch::channel(old.clone());
    let (_bundles, new_bundles) = watch::channel(None);
    let installed = Mutex::new(Vec::new());
    let keeper = Keeper {
        state_dir: dir.path(),
        enrolled,
        channel: to_control(current.clone()),
        bundles: new_bundles,
        install: &|enrolled| installed.lock().unwrap().push(enrolled.identity.not_after()),
    };
    current.mark_unchanged();
    tokio::select! {
        () = keeper.keep() => {}
        changed = tokio::time::timeout(PATIENCE, current.changed()) => changed.expect("never renewed").unwrap(),
    }
    let renewed = current.borrow().clone();
    assert_eq!(renewed.identity.spiffe_id(), old.identity.spiffe_id());
    assert!(renewed.identity.not_after() > old.identity.not_after() + 12 * HOUR);
    assert_ne!(renewed.identity.key().secret_der(), old.identity.key().secret_der(), "the key is new, too");
    assert_eq!(*installed.lock().unwrap(), [renewed.identity.not_after()]);
    let kept = Enrolled::load(dir.path()).unwrap().unwrap();
    assert_eq!(kept.identity.not_after(), renewed.identity.not_after());
}

#[tokio::test]
async fn a_renewal_for_somebody_else_or_by_another_mesh_is_refused() {
    let refused = async |ca: Ca| {
        let (ca, address) = ca.serve().await;
        let mut own = ca.enrolled(13 * HOUR, address);
        own.membership.mesh_id = "m1".to_owned();
        let (_enrolled, current) = watch::channel(Arc::new(own.clone()));
        match renew(to_control(current), &own).await {
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
async fn new_roots_are_taken_and_another_trust_domains_are_not() {
    let (ca, other) = (Ca::new("cart"), Ca::new("cart"));
    let dir = tempfile::tempdir().unwrap();
    let (enrolled, mut current) = watch::channel(Arc::new(ca.enrolled(HOUR, "127.0.0.1:9".to_owned())));
    let (bundles, new_bundles) = watch::channel(None);
    let keeper = Keeper {
        state_dir: dir.path(),
        enrolled,
        channel: to_control(current.clone()),
        bundles: new_bundles,
        install: &|_| {},
    };
    let both = [ca.authority.roots(), other.authority.roots()].concat();
    let both = TrustBundle::new("mesh.local", both).unwrap();
    let foreign = TrustBundle::new("other.local", other.authority.roots().to_vec()).unwrap();
    keeper.take_bundle(foreign);
    assert!(!current.has_changed().unwrap());
    bundles.send_replace(Some(both.clone()));
    tokio::select! {
        () = keeper.keep() => {}
        changed = tokio::time::timeout(PATIENCE, current.changed()) => changed.expect("never taken").unwrap(),
    }
    assert_eq!(*current.borrow().bundle, both);
    assert_eq!(*Enrolled::load(dir.path()).unwrap().unwrap().bundle, both);
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
    let wanted = |service| Wanted { service, namespace: "default", token: None, state_dir: Path::new("") };
    let now = SystemTime::now();
    let saved = ca.enrolled(HOUR, "127.0.0.1:9".to_owned());
    assert_eq!(unfit(&saved, &wanted("cart"), None, now), None);
    assert_eq!(unfit(&saved, &wanted("cart"), Some(&token(&ca)), now), None);
    let why = |service, token: Option<&JoinToken>, now| unfit(&saved, &wanted(service), token, now).unwrap();
    assert!(why("payments", None, now).contains("another service's"));
    assert!(why("cart", Some(&token(&other)), now).contains("another mesh"));
    assert!(why("cart", None, now + 24 * HOUR).contains("expired"));
    assert_eq!(at_address(saved, Some(&token(&ca))).membership.control, "127.0.0.1:7");
}
