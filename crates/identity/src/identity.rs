//! A certificate with its key, ready for handshakes.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_core::model::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::provider;
use crate::peer::{Leaf, PeerRefused};

/// One SPIFFE ID's leaf, the intermediates that prove it, and the leaf's key.
pub struct Identity {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum InvalidIdentity {
    #[error("the certificate has no mesh identity in it: {0}")]
    Leaf(PeerRefused),
    #[error("the certificate's chain is empty")]
    NoCertificate,
    #[error("certificate and key do not belong together ({0})")]
    Key(rustls::Error),
}

impl Identity {
    /// `chain`: leaf first, without the root.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, InvalidIdentity> {
        let leaf = chain.first().ok_or(InvalidIdentity::NoCertificate)?;
        let leaf = Leaf::read(leaf).map_err(InvalidIdentity::Leaf)?;
        let certified =
            CertifiedKey::from_der(chain, key.clone_key(), &provider()).map_err(InvalidIdentity::Key)?;
        Ok(Self { leaf, certified: Arc::new(certified), key })
    }

    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.leaf.check_time(now).is_ok()
    }

    /// When to ask for its successor: at half of its life.
    pub fn half_life(&self) -> SystemTime {
        let life = self.leaf.not_after.duration_since(self.leaf.not_before).unwrap_or_default();
        self.leaf.not_before + life / 2
    }

    /// Leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &self.leaf.id)
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}
