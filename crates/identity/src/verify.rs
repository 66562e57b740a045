//! rustls' verifiers: the chain by webpki against a trust bundle, then the SPIFFE ID; never a DNS name.
//!
//! They run in full handshakes only: see `peer::check_peer` for the rest.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::{RootHash, TrustBundle};
use crate::crypto::provider;
use crate::peer::{Leaf, PeerRefused, Refusal};
use crate::{CONTROL_ACCOUNT, SYSTEM_NAMESPACE};

/// Whose signature on a peer's chain counts.
enum Trust {
    Bundle(Arc<TrustBundle>),
    /// A root that the peer itself presents, if its key has this hash: all that a join token knows.
    Pinned(RootHash),
}

/// Which peers are meant.
enum Expected {
    /// Anybody of the trust domain: a server's clients.
    AnyOfTheMesh,
    OneOf(BTreeSet<SpiffeId>),
    /// The control plane of whatever trust domain the pinned root belongs to.
    Control,
}

/// What a server asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    Required,
    /// Who enrols has none yet. One that is presented must hold, or have held until a while ago: then it is good for
    /// its own renewal, and the caller of the handshake must see to that.
    Optional,
}

pub(crate) struct SpiffeVerifier {
    trust: Trust,
    expected: Expected,
    client_certificate: ClientCertificate,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(crate) fn of_servers(bundle: Arc<TrustBundle>, expected: BTreeSet<SpiffeId>) -> Self {
        Self::new(Trust::Bundle(bundle), Expected::OneOf(expected), ClientCertificate::Required)
    }

    pub(crate) fn of_clients(bundle: Arc<TrustBundle>, client_certificate: ClientCertificate) -> Self {
        Self::new(Trust::Bundle(bundle), Expected::AnyOfTheMesh, client_certificate)
    }

    pub(crate) fn of_pinned_control(root: RootHash) -> Self {
        Self::new(Trust::Pinned(root), Expected::Control, ClientCertificate::Required)
    }

    fn new(trust: Trust, expected: Expected, client_certificate: ClientCertificate) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { trust, expected, client_certificate, algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let read = Leaf::read(leaf)?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let as_of = match self.client_certificate {
            ClientCertificate::Required => now,
            ClientCertificate::Optional => read.effective_time(now),
        };
        let webpki_time =
            UnixTime::since_unix_epoch(as_of.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.verify_chain(leaf, others, usage, webpki_time).map_err(|reason| read.refused(reason))?;
        // The leaf's own time, once more: webpki's error does not tell whose certificate expired.
        read.check_time(as_of)?;
        match (&self.trust, &self.expected) {
            (Trust::Bundle(bundle), Expected::OneOf(expected)) => {
                read.check_identity(Some(expected), Some(bundle.trust_domain()))
            }
            (Trust::Bundle(bundle), Expected::AnyOfTheMesh) => {
                read.check_identity(None, Some(bundle.trust_domain()))
            }
            (Trust::Bundle(_) | Trust::Pinned(_), Expected::Control) => check_control(&read),
            (Trust::Pinned(_), Expected::OneOf(expected)) => read.check_identity(Some(expected), None),
            (Trust::Pinned(_), Expected::AnyOfTheMesh) => read.check_identity(None, None),
        }
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let verify = |anchors: &[TrustAnchor<'_>]| -> Result<(), Refusal> {
            let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
            certificate
                .verify_for_usage(self.algorithms.all, anchors, others, now, usage, None, None)
                .map(drop)
                .map_err(refusal)
        };
        match &self.trust {
            Trust::Bundle(bundle) => verify(bundle.anchors()),
            Trust::Pinned(hash) => {
                let pinned = others.iter().find(|other| RootHash::of(other) == Some(*hash));
                let anchor = pinned.and_then(|root| webpki::anchor_from_trusted_cert(root).ok());
                verify(&[anchor.ok_or(Refusal::UnknownRoot)?])
            }
        }
    }
}

fn check_control(leaf: &Leaf) -> Result<(), PeerRefused> {
    if leaf.id.namespace() == SYSTEM_NAMESPACE && leaf.id.account() == CONTROL_ACCOUNT {
        Ok(())
    } else {
        Err(leaf.refused(Refusal::WrongService("the mesh's control plane".to_owned())))
    }
}

fn refusal(error: webpki::Error) -> Refusal {
    let time = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        webpki::Error::UnknownIssuer => Refusal::UnknownRoot,
        webpki::Error::CertExpired { not_after, .. } => Refusal::Expired(time(not_after)),
        webpki::Error::CertNotValidYet { not_before, .. } => Refusal::NotYetValid(time(not_before)),
        webpki::Error::BadDer => Refusal::Malformed,
        // foreign enum, open-ended: its own words are the best there are
        other => Refusal::Invalid(other.to_string()),
    }
}

fn tls_error(refused: PeerRefused) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(refused))).into()
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::server_auth(), now).map_err(tls_error)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_certificate == ClientCertificate::Required
    }

    /// None: a sidecar has one certificate, it need not choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::client_auth(), now).map_err(tls_error)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier")
            .field("client_certificate", &self.client_certificate)
            .finish_non_exhaustive()
    }
}
