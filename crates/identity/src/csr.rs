//! A workload's key and its request for a certificate (PKCS #10).
//!
//! The key is made in the sidecar and never leaves it. Of a request only the public key and the proof that
//! the sender holds its private half count; whatever subject or names it carries are ignored, as the authority
//! alone says who somebody is.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::CryptoFailed;

/// Bytes of a request. Ours has about 200; the limit keeps strangers from making us parse more.
const CSR_BYTES_MAX: usize = 8 * 1024;

/// A fresh ECDSA P-256 key, and the request that proves it.
pub struct KeyAndCsr {
    pub key: PrivateKeyDer<'static>,
    pub csr_der: Vec<u8>,
}

impl KeyAndCsr {
    pub fn generate() -> Result<Self, CryptoFailed> {
        let failed = |error: rcgen::Error| CryptoFailed { doing: "making a key", detail: error.to_string() };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr_der = params.serialize_request(&key).map_err(failed)?.der().to_vec();
        Ok(Self { key: PrivatePkcs8KeyDer::from(key).into(), csr_der })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    #[error("the certificate request has {0} bytes, more than {CSR_BYTES_MAX}")]
    TooLong(usize),
    #[error("the certificate request is no PKCS #10 in DER")]
    Malformed,
    #[error("the certificate request's signature is wrong: its sender does not hold the private key")]
    NotProven,
    #[error("the certificate request's key is not ECDSA P-256, the only kind that the mesh signs")]
    WrongKey,
}

/// The public key, once its owner has proven to hold the private one.
pub(crate) fn proven_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, InvalidCsr> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(InvalidCsr::TooLong(csr_der.len()));
    }
    let (rest, csr) = X509CertificationRequest::from_der(csr_der).map_err(|_| InvalidCsr::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidCsr::Malformed);
    }
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| InvalidCsr::WrongKey)?;
    if rcgen::PublicKeyData::algorithm(&key) != &PKCS_ECDSA_P256_SHA256 {
        return Err(InvalidCsr::WrongKey);
    }
    csr.verify_signature().map_err(|_| InvalidCsr::NotProven)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_request_proves_its_key() {
        let request = KeyAndCsr::generate().unwrap();
        let key = KeyPair::try_from(&request.key).unwrap();
        let proven = proven_key(&request.csr_der).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&proven), key.public_key_raw());
    }

    #[test]
    fn no_byte_of_what_was_signed_can_be_changed() {
        let request = KeyAndCsr::generate().unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&request.csr_der).unwrap();
        let signed = parsed.certification_request_info.raw;
        let start = request.csr_der.windows(signed.len()).position(|window| window == signed).unwrap();
        for at in start..start + signed.len() {
            let mut tampered = request.csr_der.clone();
            tampered[at] ^= 1;
            assert!(proven_key(&tampered).is_err(), "byte {at} was changed and nobody noticed");
        }
        let mut wrong_signature = request.csr_der.clone();
        *wrong_signature.last_mut().unwrap() ^= 1;
        assert_eq!(proven_key(&wrong_signature).unwrap_err(), InvalidCsr::NotProven);
        let mut longer = request.csr_der;
        longer.push(0);
        assert_eq!(proven_key(&longer).unwrap_err(), InvalidCsr::Malformed);
    }

    #[test]
    fn a_request_with_another_ones_key_is_refused() {
        let (victim, thief) = (KeyAndCsr::generate().unwrap(), KeyAndCsr::generate().unwrap());
        let key_of = |csr: &[u8]| proven_key(csr).map(|key| rcgen::PublicKeyData::der_bytes(&key).to_vec());
        let (wanted, own) = (key_of(&victim.csr_der).unwrap(), key_of(&thief.csr_der).unwrap());
        let at = thief.csr_der.windows(own.len()).position(|window| window == own).unwrap();
        let mut stolen = thief.csr_der;
        stolen[at..at + wanted.len()].copy_from_slice(&wanted);
        assert_eq!(proven_key(&stolen).unwrap_err(), InvalidCsr::NotProven);
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let csr = CertificateParams::default().serialize_request(&key).unwrap();
            assert_eq!(proven_key(csr.der()).unwrap_err(), InvalidCsr::WrongKey);
        }
        assert_eq!(proven_key(&[0; CSR_BYTES_MAX + 1]).unwrap_err(), InvalidCsr::TooLong(CSR_BYTES_MAX + 1));
        assert_eq!(proven_key(b"hello").unwrap_err(), InvalidCsr::Malformed);
    }
}
