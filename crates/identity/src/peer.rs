//! Reading a peer's certificate, and why a peer is refused.
//!
//! One reader for everything: the verifiers use it in a handshake, `check_peer` after it. The chain's
//! signatures are `verify.rs`'s affair; here it is about who the leaf names and when it is valid.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use meshwork_core::model::SpiffeId;
use meshwork_core::rotate::Life;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::{CLOCK_SKEW, from_unix_seconds, utc};

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: SpiffeId,
    /// Until when that is proven.
    pub not_after: SystemTime,
}

/// Checks the peer's certificate for expiry and identity once a handshake is complete.
///
/// To be called after *every* handshake: rustls does not ask the verifier when a session is resumed, so a
/// certificate that expired since, or an identity that is not expected any more, would pass.
/// `expected: None` is for servers: anybody of the trust domain, authorization decides later.
pub fn check_peer(
    certificates: &[CertificateDer<'_>],
    expected: Option<&BTreeSet<SpiffeId>>,
    trust_domain: &str,
    now: SystemTime,
) -> Result<Peer, PeerRefused> {
    let leaf = Leaf::first_of(certificates)?;
    leaf.check_time(now)?;
    leaf.check_identity(expected, Some(trust_domain))?;
    Ok(Peer { id: leaf.id, not_after: leaf.not_after })
}

/// The same for somebody whose certificate has ended, and who may still ask for its successor: nothing else.
pub fn check_renewable(
    certificates: &[CertificateDer<'_>],
    trust_domain: &str,
    now: SystemTime,
) -> Result<Peer, PeerRefused> {
    let leaf = Leaf::first_of(certificates)?;
    leaf.check_time(leaf.effective_time(now))?;
    leaf.check_identity(None, Some(trust_domain))?;
    Ok(Peer { id: leaf.id, not_after: leaf.not_after })
}

/// A peer that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRefused {
    /// Whom its certificate names, if that can be read. Believe it only if the reason allows: behind
    /// `UnknownRoot` anybody can stand.
    pub peer: Option<SpiffeId>,
    pub reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it presented no certificate")]
    NoCertificate,
    #[error("its certificate can't be read")]
    Malformed,
    #[error("its certificate names no mesh identity ({0})")]
    NoMeshIdentity(String),
    #[error("it is not of this mesh's trust domain {expected}")]
    ForeignTrustDomain { expected: String },
    #[error("no root of the trust bundle signed its certificate")]
    UnknownRoot,
    #[error("its certificate expired at {}", utc(*.0))]
    Expired(SystemTime),
    #[error("its certificate is valid from {} only; compare the two machines' clocks", utc(*.0))]
    NotYetValid(SystemTime),
    #[error("expected {0}")]
    WrongService(String),
    #[error("its certificate does not hold: {0}")]
    Invalid(String),
}

impl Refusal {
    /// The word for metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed => "malformed",
            Self::NoMeshIdentity(_) => "no_mesh_identity",
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::UnknownRoot => "unknown_root",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::WrongService(_) => "wrong_service",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl PeerRefused {
    /// The refusal behind a failed handshake, if it was ours.
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }

    /// The same for the error that a TLS stream gives.
    pub fn of_io(error: &std::io::Error) -> Option<&Self> {
        Self::of(error.get_ref()?.downcast_ref()?)
    }

    pub(crate) fn unknown(reason: Refusal) -> Self {
        Self { peer: None, reason }
    }
}

impl fmt::Display for PeerRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Some(peer) => write!(f, "refused {peer}: {}", self.reason),
            None => write!(f, "refused a peer: {}", self.reason),
        }
    }
}

impl std::error::Error for PeerRefused {}

/// What a leaf says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    fn first_of(certificates: &[CertificateDer<'_>]) -> Result<Self, PeerRefused> {
        Self::read(certificates.first().ok_or_else(|| PeerRefused::unknown(Refusal::NoCertificate))?)
    }

    /// It began when it was signed, not at NotBefore, which lies back.
    pub(crate) fn life(&self) -> Life {
        Life { begins: (self.not_before + CLOCK_SKEW).min(self.not_after), ends: self.not_after }
    }

    /// As of when one that is to be renewed is judged: now, or its own end if that was not long ago.
    pub(crate) fn effective_time(&self, now: SystemTime) -> SystemTime {
        let late = now.duration_since(self.not_after).unwrap_or_default();
        if late <= self.life().grace() { now.min(self.not_after) } else { now }
    }

    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, PeerRefused> {
        let malformed = || PeerRefused::unknown(Refusal::Malformed);
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let id = spiffe_id(&parsed).map_err(PeerRefused::unknown)?;
        let time = |time: x509_parser::time::ASN1Time| from_unix_seconds(time.timestamp());
        let validity = parsed.validity();
        Ok(Self { id, not_before: time(validity.not_before), not_after: time(validity.not_after) })
    }

    /// The same bounds as webpki's: both ends belong to it.
    pub(crate) fn check_time(&self, now: SystemTime) -> Result<(), PeerRefused> {
        if now > self.not_after {
            return Err(self.refused(Refusal::Expired(self.not_after)));
        }
        if now < self.not_before {
            return Err(self.refused(Refusal::NotYetValid(self.not_before)));
        }
        Ok(())
    }

    pub(crate) fn check_identity(
        &self,
        expected: Option<&BTreeSet<SpiffeId>>,
        trust_domain: Option<&str>,
    ) -> Result<(), PeerRefused> {
        if let Some(domain) = trust_domain.filter(|domain| *domain != self.id.trust_domain()) {
            return Err(self.refused(Refusal::ForeignTrustDomain { expected: domain.to_owned() }));
        }
        match expected {
            Some(expected) if !expected.contains(&self.id) => {
                Err(self.refused(Refusal::WrongService(names(expected))))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn refused(&self, reason: Refusal) -> PeerRefused {
        PeerRefused { peer: Some(self.id.clone()), reason }
    }
}

/// Exactly one URI, and it has the mesh's form (X509-SVID, 2 and 5.2).
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let none = |why: String| Refusal::NoMeshIdentity(why);
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) => return Err(none("it has no subject alternative name".to_owned())),
        Err(_) => return Err(Refusal::Malformed),
    };
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(Refusal::Malformed),
            _ => {} // foreign: other kinds of names may stand beside the URI, and say nothing to us
        }
    }
    match uris[..] {
        [uri] => uri.parse().map_err(|error: meshwork_core::model::InvalidSpiffeId| none(error.to_string())),
        _ => Err(none(format!("it has {} URIs, want one", uris.len()))),
    }
}

/// Identities named in a message. A service has one account, rarely a few.
const NAMED_MAX: usize = 4;

fn names(expected: &BTreeSet<SpiffeId>) -> String {
    if expected.is_empty() {
        return "nobody: no identity is declared for the service".to_owned();
    }
    let named: Vec<String> = expected.iter().take(NAMED_MAX).map(SpiffeId::to_string).collect();
    let more = expected.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 { format!(" or {more} more") } else { String::new() };
    format!("{}{rest}", named.join(" or "))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[track_caller]
    fn check(names: Vec<SanType>, expect: Result<&str, &str>) {
        let found = check_peer(&[certificate(names)], None, "mesh.local", SystemTime::now());
        match (found, expect) {
            (Ok(peer), Ok(expect)) => assert_eq!(peer.id.to_string(), expect),
            (Err(refused), Err(word)) => assert_eq!(refused.reason.word(), word, "{refused}"),
            (found, expect) => panic!("{found:?}, want {expect:?}"),
        }
    }

    #[test]
    fn a_leaf_names_exactly_one_mesh_identity() {
        let cart = "spiffe://mesh.local/ns/default/sa/cart";
        let dns = || SanType::DnsName("cart.default".try_into().unwrap());
        check(vec![uri(cart)], Ok(cart));
        check(vec![dns(), uri(cart)], Ok(cart));
        check(vec![], Err("no_mesh_identity"));
        check(vec![dns()], Err("no_mesh_identity"));
        check(vec![uri(cart), uri("spiffe://mesh.local/ns/default/sa/web")], Err("no_mesh_identity"));
        check(vec![uri(cart), uri(cart)], Err("no_mesh_identity"));
        check(vec![uri("https://mesh.local/ns/default/sa/cart")], Err("no_mesh_identity"));
        check(vec![uri("spiffe://mesh.local/workload")], Err("no_mesh_identity"));
        check(vec![uri("spiffe://other.local/ns/default/sa/cart")], Err("foreign_trust_domain"));
    }

    #[test]
    fn no_certificate_and_no_sense_are_refused() {
        let now = SystemTime::now();
        let word = |certificates: &[CertificateDer<'_>]| {
            check_peer(certificates, None, "mesh.local", now).unwrap_err().reason.word()
        };
        assert_eq!(word(&[]), "no_certificate");
        assert_eq!(word(&[vec![0x30, 0x00].into()]), "malformed");
        let mut longer = certificate(vec![uri("spiffe://mesh.local/ns/default/sa/cart")]).to_vec();
        longer.push(0);
        assert_eq!(word(&[longer.into()]), "malformed");
    }

    #[test]
    fn a_refusal_is_found_behind_rustls_and_io() {
        let refused = PeerRefused::unknown(Refusal::UnknownRoot);
        let other = rustls::OtherError(std::sync::Arc::new(refused.clone()));
        let error: rustls::Error = rustls::CertificateError::Other(other).into();
        assert_eq!(PeerRefused::of(&error), Some(&refused));
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        assert_eq!(PeerRefused::of_io(&io), Some(&refused));
        assert_eq!(PeerRefused::of(&rustls::Error::DecryptError), None);
    }
}
