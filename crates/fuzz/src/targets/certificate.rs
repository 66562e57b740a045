//! Certificates of peers, and requests for them.
//!
//! Who a certificate names, webpki reads alike, the library that judges its signatures; it is valid from its first second to
//! its last and not beyond; nobody is let in whom nobody expects. A request that is signed gets its own key and the
//! identity that was decided for it, and nothing of what it says.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use meshwork_core::model::SpiffeId;
use meshwork_identity::{Authority, TrustBundle, check_peer, check_renewable};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::{Target, shop};

pub(super) const TARGET: Target =
    Target { name: "certificate", run: certificate, seeds: Vec::new, words: WORDS };

pub(super) const CSR: Target = Target { name: "csr", run: csr, seeds: Vec::new, words: WORDS };

const WORDS: &[&[u8]] = &[
    b"spiffe://mesh.local/ns/default/sa/web",
    b"spiffe://",
    &[0x30, 0x82],
    &[0x30, 0x80],
    &[0x86, 0x25],
    &[0x82, 4],
    &[0x87, 4, 10, 0, 0, 1],
    &[0x06, 0x03, 0x55, 0x1d, 0x11],
    &[0x17, 0x0d],
    b"270115080000Z",
    b"491231235959Z",
    &[0x18, 0x0f],
    b"20500101000000Z",
    b"99991231235959Z",
    &[0x02, 1, 0],
    &[0x05, 0],
    &[0x03, 0x42, 0],
    &[0x80, 1, 1],
    &[0xff; 4],
    &[0x30, 0],
];

/// A request that is longer is not looked at.
const CSR_BYTES_MAX: usize = 8 * 1024;

/// A leaf of ours with its intermediate has some 900 bytes.
const CHAIN_BYTES_MAX: usize = 2 * 1024;

const HOUR: Duration = Duration::from_secs(3_600);

/// In January 2027.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn certificate(bytes: &[u8]) {
    let der = [CertificateDer::from(bytes)];
    let bundle = TrustBundle::new(shop::TRUST_DOMAIN, vec![CertificateDer::from(bytes.to_vec())]);
    if let Ok(bundle) = bundle {
        let twice = vec![der[0].clone().into_owned(), der[0].clone().into_owned()];
        assert_eq!(TrustBundle::new(shop::TRUST_DOMAIN, twice).as_ref(), Ok(&bundle));
        assert_eq!(bundle.hashes().len(), 1);
    }
    let peer = match check_peer(&der, None, shop::TRUST_DOMAIN, now()) {
        Ok(peer) => peer,
        Err(refused) => {
            let told = refused.to_string();
            assert!(!told.is_empty() && told.len() < 2_000, "{told}");
            return;
        }
    };
    let check =
        |expected: Option<&BTreeSet<SpiffeId>>, at| check_peer(&der, expected, shop::TRUST_DOMAIN, at);
    assert_eq!(check_renewable(&der, shop::TRUST_DOMAIN, now()).as_ref(), Ok(&peer));
    assert_eq!(check(Some(&[peer.id.clone()].into()), now()).as_ref(), Ok(&peer));
    assert!(check(Some(&BTreeSet::new()), now()).is_err(), "nobody is expected");
    assert!(check_peer(&der, None, "other.local", now()).is_err());
    assert!(peer.not_after >= now());
    assert!(check(None, peer.not_after).is_ok());
    if let Some(later) = peer.not_after.checked_add(Duration::from_secs(1)) {
        assert!(check(None, later).is_err(), "it has ended");
    }
    if let Ok(theirs) = EndEntityCert::try_from(&der[0]) {
        // It reads none where it is stricter about lengths; such a certificate no authority signs.
        let id = peer.id.to_string();
        assert!(theirs.valid_uri_names().all(|uri| uri == id), "webpki reads another name");
    }
}

fn csr(bytes: &[u8]) {
    let id = SpiffeId::new(shop::TRUST_DOMAIN, shop::NAMESPACE, "web").expect("an identity");
    let issued = match authority().issue(bytes, &id, HOUR, now()) {
        Ok(issued) => issued,
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty() && told.len() < 500, "{told}");
            return;
        }
    };
    assert!(bytes.len() <= CSR_BYTES_MAX);
    assert_eq!(issued.not_after, now() + HOUR);
    assert!(
        issued.chain_der.iter().map(Vec::len).sum::<usize>() <= CHAIN_BYTES_MAX,
        "it brought something along"
    );
    let chain: Vec<CertificateDer<'static>> =
        issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let peer = check_peer(&chain, None, shop::TRUST_DOMAIN, now()).expect("what we sign we take");
    assert_eq!(peer.id, id);
    let leaf = EndEntityCert::try_from(&chain[0]).expect("what we sign webpki reads");
    assert_eq!(leaf.valid_dns_names().count(), 0, "a name that it asked for");
    assert_eq!(leaf.valid_uri_names().collect::<Vec<_>>(), [id.to_string()]);
    let (_, request) = X509CertificationRequest::from_der(bytes).expect("it was just read");
    let asked = request.certification_request_info.subject_pki.raw;
    assert_eq!(leaf.subject_public_key_info().as_ref(), asked, "another key");
    let key = &request.certification_request_info.subject_pki.subject_public_key.data;
    let proof = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
    let proven = proof.verify(request.certification_request_info.raw, &request.signature_value.data);
    assert!(proven.is_ok(), "whoever asked does not hold the key");
}

/// Its key is a new one in each process; what is asked of it holds for any.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(shop::TRUST_DOMAIN, now()).expect("randomness"))
}
