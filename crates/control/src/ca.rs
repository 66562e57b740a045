//! The certificate authority at work: what signs, what is trusted, and for how long.
//!
//! Whoever gets a certificate was judged before (`enrollment.rs`). Replacing the root is `ca/rotation.rs`; which step
//! comes next is `core::rotate`'s decision.

mod rotation;

pub(crate) use rotation::{Going, RotateError};

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meshwork_core::model::SpiffeId;
use meshwork_identity::{
    Authority, AuthorityError, Identity, KeyAndCsr, RootHash, TrustBundle, control_id, control_server_config,
};
use meshwork_xds::proto;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::StartError;
use crate::store::{Expect, Key, Store, Transaction};
use crate::time::unix_seconds;
use crate::view::Views;
use rotation::Replacement;

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
    /// What stands in our own certificate beside our identity, for gRPC and others that check names.
    names: Vec<String>,
    store: Store,
    /// Replaced whole, by whoever holds `longest_leaf_end`.
    trust: ArcSwap<Trust>,
    /// No leaf that was ever signed ends later (seconds since the epoch). Held while one is signed, so that none
    /// comes of a root that a rotation counts as silent.
    longest_leaf_end: Mutex<u64>,
    pub(crate) mesh_id: String,
    /// What the mesh's settings say; set once they are read.
    views: OnceLock<Views>,
    /// For the TLS port.
    tls: Arc<ArcSwap<ServerConfig>>,
    own: ArcSwap<Identity>,
    told: watch::Sender<Told>,
    /// A rotation begins.
    begun: Notify,
}

/// Who signs, and whose signatures count.
struct Trust {
    /// Signs for the control plane itself, and for everybody unless its replacement does.
    current: Arc<Authority>,
    replacement: Option<Arc<Replacement>>,
    /// The roots of both.
    bundle: Arc<TrustBundle>,
}

/// What sidecars are told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// DER.
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) issuing_root: String,
}

/// What operators see. Seconds since the epoch.
pub(crate) struct Shown {
    pub(crate) roots: Vec<ShownRoot>,
    pub(crate) longest_leaf_end: u64,
    pub(crate) own_end: u64,
}

pub(crate) struct ShownRoot {
    pub(crate) hash: RootHash,
    pub(crate) signs: bool,
    pub(crate) ends: u64,
    pub(crate) intermediate_ends: u64,
}

/// A certificate for a peer, and whose it is.
pub(crate) struct Grant {
    pub(crate) id: SpiffeId,
    pub(crate) not_after: SystemTime,
    chain_der: Vec<Vec<u8>>,
    bundle: Arc<TrustBundle>,
}

impl Trust {
    fn new(current: Arc<Authority>, replacement: Option<Arc<Replacement>>) -> Result<Self, StartError> {
        let roots = current.roots().iter().chain(replacement.iter().flat_map(|new| new.authority.roots()));
        let bundle = TrustBundle::new(current.trust_domain(), roots.cloned().collect())
            .map_err(|error| StartError::Identity(error.to_string()))?;
        Ok(Self { current, replacement, bundle: Arc::new(bundle) })
    }

    /// Who signs for sidecars, and the old root's word for it.
    fn signer(&self) -> (&Authority, Option<&CertificateDer<'static>>) {
        match &self.replacement {
            Some(new) if new.signs() => (&new.authority, Some(&new.vouched_for)),
            Some(_) | None => (&self.current, None),
        }
    }

    fn told(&self) -> Told {
        Told {
            roots: self.bundle.roots().iter().map(|root| root.to_vec()).collect(),
            issuing_root: self.signer().0.root_key_hash().to_string(),
        }
    }
}

impl Ca {
    /// Reads the authority from the store, or makes one for a new mesh; goes on with a rotation that was begun.
    /// `names`: by which DNS names and IP addresses it is reached.
    pub(crate) async fn open(
        store: &Store,
        trust_domain: &str,
        names: Vec<String>,
    ) -> Result<Self, StartError> {
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
        let authority = Arc::new(renewed(store, authority, now).await?);
        let replacement = rotation::load(store, &authority, now)?.map(Arc::new);
        let trust = Trust::new(authority, replacement)?;
        let (tls, own) = server_config(&trust, &names)?;
        Ok(Self {
            names,
            store: store.clone(),
            longest_leaf_end: Mutex::new(longest_leaf_end(store)?),
            mesh_id,
            views: OnceLock::new(),
            tls: Arc::new(ArcSwap::new(tls)),
            own: ArcSwap::new(own),
            told: watch::Sender::new(trust.told()),
            begun: Notify::new(),
            trust: ArcSwap::from_pointee(trust),
        })
    }

    /// From now on leaves live as long as the mesh's settings say.
    pub(crate) fn follow(&self, views: Views) {
        // A second call would change nothing, and there is none.
        let _ = self.views.set(views);
    }

    pub(crate) fn leaf_ttl(&self) -> Duration {
        let settings = self.views.get().map(|views| views.current().mesh.config().clone());
        settings.unwrap_or_default().leaf_ttl
    }

    /// For the model, and its changes.
    pub(crate) fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// For the TLS port; replaced when the own certificate is.
    pub(crate) fn tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.tls)
    }

    /// What a join token pins that is made now: the root that will stay.
    pub(crate) fn root_key_hash(&self) -> RootHash {
        let trust = self.trust.load();
        trust.replacement.as_ref().map_or(&*trust.current, |new| &new.authority).root_key_hash()
    }

    pub(crate) fn trust_domain(&self) -> String {
        self.trust.load().current.trust_domain().to_owned()
    }

    /// Keeps the own certificate and the intermediate fresh until drained.
    pub(crate) async fn keep_fresh(self: Arc<Self>, drain: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEWAL_EVERY) => {}
                () = drain.cancelled() => return,
            }
            let now = SystemTime::now();
            if let Err(error) = self.renew_intermediate(now).await {
                tracing::error!(%error, "the issuing certificate could not be renewed");
            }
            // There is one control plane: nobody else comes at the same time.
            if now < self.own.load().life().renewal(0) {
                continue;
            }
            match self.renew_own() {
                Ok(()) => tracing::info!("the control plane renewed its own certificate"),
                Err(error) => {
                    tracing::error!(%error, ends = self.own_end(), "the control plane could not renew its own certificate")
                }
            }
        }
    }

    /// For `ca status`.
    pub(crate) async fn shown(&self) -> Shown {
        let longest_leaf_end = *self.longest_leaf_end.lock().await;
        let trust = self.trust.load();
        let signer = trust.signer().0.root_key_hash();
        let new = trust.replacement.iter().map(|new| &new.authority);
        let roots = std::iter::once(&*trust.current).chain(new).map(|authority| {
            let (hash, (root, intermediate)) = (authority.root_key_hash(), authority.ends());
            let (ends, intermediate_ends) = (unix_seconds(root), unix_seconds(intermediate));
            ShownRoot { hash, signs: hash == signer, ends, intermediate_ends }
        });
        Shown { roots: roots.collect(), longest_leaf_end, own_end: self.own_end() }
    }

    /// Seconds since the epoch.
    pub(crate) fn own_end(&self) -> u64 {
        unix_seconds(self.own.load().not_after())
    }

    fn renew_own(&self) -> Result<(), StartError> {
        let (tls, own) = server_config(&self.trust.load(), &self.names)?;
        self.tls.store(tls);
        self.own.store(own);
        Ok(())
    }

    async fn renew_intermediate(&self, now: SystemTime) -> Result<(), StartError> {
        let trust = self.trust.load_full();
        if !trust.current.intermediate_is_due(now) {
            return Ok(());
        }
        let _unsigned = self.longest_leaf_end.lock().await;
        let trust = self.trust.load_full(); // a rotation may have ended before the lock was ours
        // A copy, so that whoever signs meanwhile uses the old one, which is still good.
        let renewed = renewed(&self.store, Authority::from_pem(&trust.current.to_pem())?, now).await?;
        self.trust.store(Arc::new(Trust::new(Arc::new(renewed), trust.replacement.clone())?));
        tracing::info!("renewed the issuing certificate");
        Ok(())
    }

    /// Signs for who was judged to be `id`.
    pub(crate) async fn issue(&self, csr_der: &[u8], id: SpiffeId) -> Result<Grant, Status> {
        let ttl = self.leaf_ttl();
        let mut longest = self.longest_leaf_end.lock().await;
        let trust = self.trust.load_full();
        let (signer, vouching) = trust.signer();
        match signer.issue(csr_der, &id, ttl, SystemTime::now()) {
            Ok(issued) => {
                self.note_end(&mut longest, issued.not_after, ttl).await;
                let mut chain_der = issued.chain_der;
                chain_der.extend(vouching.map(|certificate| certificate.to_vec()));
                let bundle = Arc::clone(&trust.bundle);
                Ok(Grant { id, not_after: issued.not_after, chain_der, bundle })
            }
            Err(AuthorityError::Csr(error)) => Err(Status::invalid_argument(error.to_string())),
            Err(error) => {
                tracing::error!(%error, %id, "a certificate could not be signed");
                Err(Status::internal(error.to_string()))
            }
        }
    }

    /// Remembers until when leaves are out, before this one is. Rounded up, so that it is written a few times in a
    /// leaf's life only. A disk that can't be written stops rotations, not renewals.
    async fn note_end(&self, longest: &mut u64, end: SystemTime, ttl: Duration) {
        let end = unix_seconds(end);
        if end <= *longest {
            return;
        }
        *longest = end + ttl.as_secs() / 8;
        let transaction = Transaction::default().put(Key::longest_leaf(), longest.to_string().into_bytes());
        if let Err(error) = self.store.commit(transaction).await {
            tracing::warn!(%error, "until when certificates are out could not be written down");
        }
    }

    pub(crate) fn certificate(&self, grant: Grant) -> proto::Certificate {
        proto::Certificate {
            chain_der: grant.chain_der,
            roots_der: grant.bundle.roots().iter().map(|root| root.to_vec()).collect(),
            spiffe_id: grant.id.to_string(),
            mesh_id: self.mesh_id.clone(),
            service: grant.id.account().to_owned(),
            namespace: grant.id.namespace().to_owned(),
        }
    }
}

/// A TLS config with a new certificate of our own. It is the old root's while one is replaced: sidecars that were away
/// since know no other, and who has a token of the new one is led there by its word for the old one.
fn server_config(trust: &Trust, names: &[String]) -> Result<(Arc<ServerConfig>, Arc<Identity>), StartError> {
    let authority = &trust.current;
    let failed = |error: String| StartError::Identity(error);
    let id = control_id(authority.trust_domain()).map_err(|error| failed(error.to_string()))?;
    let own = KeyAndCsr::generate().map_err(AuthorityError::from)?;
    let issued = authority.issue_reached_by(&own.csr_der, &id, names, OWN_TTL, SystemTime::now())?;
    let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let identity = Identity::new(chain, own.key).map_err(|error| failed(error.to_string()))?;
    let vouching: Vec<_> = trust.replacement.iter().map(|new| new.vouches_for_old.clone()).collect();
    let config = control_server_config(&identity, &trust.bundle, &vouching, &ALPN)
        .map_err(|error| failed(error.to_string()))?;
    Ok((config, Arc::new(identity)))
}

/// With a new intermediate if that is due, written down.
async fn renewed(store: &Store, mut authority: Authority, now: SystemTime) -> Result<Authority, StartError> {
    if authority.intermediate_is_due(now) {
        authority.renew_intermediate(now)?;
        save(store, &authority, Expect::Present).await?;
    }
    Ok(authority)
}

fn longest_leaf_end(store: &Store) -> Result<u64, StartError> {
    let Some(found) = store.get(&Key::longest_leaf())? else { return Ok(0) };
    let text = String::from_utf8_lossy(&found.value).into_owned();
    text.parse()
        .map_err(|_| AuthorityError::Damaged("it does not say until when leaves are out".to_owned()).into())
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
