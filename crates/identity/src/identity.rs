//! A certificate with its key, ready for handshakes.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use meshwork_core::model::SpiffeId;
use meshwork_core::rotate::Life;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::crypto::provider;
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

    /// Its life, which began when it was signed, not at NotBefore: a short-lived certificate would be due for renewal
    /// at once, for ever.
    pub fn life(&self) -> Life {
        self.leaf.life()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Authority, KeyAndCsr};

    #[test]
    fn a_life_is_counted_from_the_signature() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::create("mesh.local", now).unwrap();
        let id = SpiffeId::new("mesh.local", "default", "cart").unwrap();
        for minutes in [1, 24 * 60] {
            let ttl = Duration::from_secs(minutes * 60);
            let request = KeyAndCsr::generate().unwrap();
            let issued = authority.issue(&request.csr_der, &id, ttl, now).unwrap();
            let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
            let identity = Identity::new(chain, request.key).unwrap();
            assert_eq!(identity.life(), Life { begins: now, ends: now + ttl });
            assert!(identity.is_valid(now) && !identity.is_valid(now + ttl + ttl));
        }
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let now = SystemTime::now();
        let authority = Authority::create("mesh.local", now).unwrap();
        let id = SpiffeId::new("mesh.local", "default", "cart").unwrap();
        let (one, other) = (KeyAndCsr::generate().unwrap(), KeyAndCsr::generate().unwrap());
        let issued = authority.issue(&one.csr_der, &id, Duration::from_secs(60), now).unwrap();
        let chain: Vec<CertificateDer<'static>> =
            issued.chain_der.into_iter().map(CertificateDer::from).collect();
        let error = Identity::new(chain, other.key).unwrap_err().to_string();
        assert!(error.contains("do not belong together"), "{error}");
        assert!(matches!(Identity::new(Vec::new(), one.key), Err(InvalidIdentity::NoCertificate)));
    }
}
