//! The trust bundle: whose signatures count in a trust domain; and the hash that pins one root.
//!
//! There are two roots in it while one is replaced. Its version is a hash of its content, so that two
//! processes call the same bundle the same; it is part of the key under which TLS sessions are kept.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use meshwork_core::resource;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::EndEntityCert;

use crate::control_id;

/// Roots in a bundle. A replacement needs two; the rest is room for federation.
const ROOTS_MAX: usize = 16;

/// The roots of one trust domain; never empty, each readable.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: String,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    hashes: Vec<RootHash>,
    version: String,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidBundle {
    #[error("the trust bundle has {0} roots (want 1 to {ROOTS_MAX})")]
    Roots(usize),
    #[error("root {0} of the trust bundle is no X.509 certificate")]
    Root(usize),
    #[error("the trust bundle's trust domain {0:?} has not the form of one")]
    TrustDomain(String),
}

impl TrustBundle {
    /// Order and repetition of the roots do not matter.
    pub fn new(trust_domain: &str, mut roots: Vec<CertificateDer<'static>>) -> Result<Self, InvalidBundle> {
        control_id(trust_domain).map_err(|_| InvalidBundle::TrustDomain(trust_domain.to_owned()))?;
        roots.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        if !(1..=ROOTS_MAX).contains(&roots.len()) {
            return Err(InvalidBundle::Roots(roots.len()));
        }
        let (mut anchors, mut hashes) = (Vec::new(), Vec::new());
        for (index, root) in roots.iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(root).map_err(|_| InvalidBundle::Root(index))?;
            anchors.push(anchor.to_owned());
            hashes.push(RootHash::of(root).ok_or(InvalidBundle::Root(index))?);
        }
        let version = version(trust_domain, &roots);
        Ok(Self { trust_domain: trust_domain.to_owned(), roots, anchors, hashes, version })
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Of each root's key, in the roots' order.
    pub fn hashes(&self) -> &[RootHash] {
        &self.hashes
    }

    /// Equal for equal content, in every process.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl TryFrom<&resource::TrustBundle> for TrustBundle {
    type Error = InvalidBundle;

    fn try_from(bundle: &resource::TrustBundle) -> Result<Self, InvalidBundle> {
        Self::new(&bundle.trust_domain, bundle.roots.iter().cloned().map(CertificateDer::from).collect())
    }
}

impl From<&TrustBundle> for resource::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let roots = bundle.roots.iter().map(|root| root.to_vec()).collect();
        Self { trust_domain: bundle.trust_domain.clone(), roots }
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.hashes)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a root's SubjectPublicKeyInfo: stays when the certificate is signed anew with the same key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; 32]);

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the hash of the root's key is not 64 hexadecimal digits")]
pub struct InvalidRootHash;

impl RootHash {
    /// `None`: that is no certificate.
    pub fn of(root: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(root).ok()?;
        let hash = digest(&SHA256, &certificate.subject_public_key_info());
        hash.as_ref().try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for RootHash {
    type Err = InvalidRootHash;

    fn from_str(hex: &str) -> Result<Self, InvalidRootHash> {
        parse_hex(hex).map(Self).ok_or(InvalidRootHash)
    }
}

fn version(trust_domain: &str, roots: &[CertificateDer<'_>]) -> String {
    // Each root's own hash has a fixed length, so no two lists of roots run into the same input.
    let mut content = trust_domain.as_bytes().to_vec();
    content.push(b'\n');
    for root in roots {
        content.extend_from_slice(digest(&SHA256, root).as_ref());
    }
    let hash = digest(&SHA256, &content);
    hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(crate) fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        hex.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then_some(())?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Authority;

    fn root() -> CertificateDer<'static> {
        Authority::create("mesh.local", SystemTime::now()).unwrap().roots()[0].clone()
    }

    #[test]
    fn a_bundles_version_is_its_content() {
        let (one, other) = (root(), root());
        let version = |roots: &[&CertificateDer<'static>], domain: &str| -> String {
            let roots = roots.iter().map(|root| (*root).clone()).collect();
            TrustBundle::new(domain, roots).unwrap().version().to_owned()
        };
        let both = version(&[&one, &other], "mesh.local");
        assert_eq!(both, version(&[&other, &one, &other], "mesh.local"));
        assert_ne!(both, version(&[&one], "mesh.local"));
        assert_ne!(both, version(&[&one, &other], "mesh2.local"));
    }

    #[test]
    fn what_is_no_bundle_is_told_so() {
        let check = |domain: &str, roots, expect| {
            assert_eq!(TrustBundle::new(domain, roots).unwrap_err(), expect);
        };
        check("mesh.local", vec![], InvalidBundle::Roots(0));
        check("mesh.local", vec![vec![1, 2, 3].into()], InvalidBundle::Root(0));
        check("Mesh/local", vec![root()], InvalidBundle::TrustDomain("Mesh/local".to_owned()));
    }

    #[test]
    fn the_wire_form_keeps_every_root() {
        let bundle = TrustBundle::new("mesh.local", vec![root(), root()]).unwrap();
        assert_eq!(TrustBundle::try_from(&resource::TrustBundle::from(&bundle)).unwrap(), bundle);
    }

    #[test]
    fn a_root_hash_is_64_hexadecimal_digits() {
        let hash = RootHash::of(&root()).unwrap();
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let padded = format!("{hash}0");
        for text in ["", "zz", &hash.to_string()[1..], &padded] {
            assert_eq!(text.parse::<RootHash>(), Err(InvalidRootHash), "{text}");
        }
    }
}
