//! Certificates for the peers: one authority, one certificate at each end. Meshwork's own come from its control plane.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::failure::{Doing as _, Result};

/// What the proxies call each other.
pub(crate) const OUTBOUND_NAME: &str = "outbound.bench";
pub(crate) const INBOUND_NAME: &str = "inbound.bench";

/// Makes `ca.pem`, and for each end `.crt`, `.key` and (for HAProxy) both in one `.pem`.
pub(crate) fn make(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("certificates");
    let doing = || "making the peers' certificates".to_owned();
    fs::create_dir_all(&folder).doing(doing)?;
    let authority = authority("bench")?;
    fs::write(folder.join("ca.pem"), authority.pem()).doing(doing)?;
    for (file, name) in [("outbound", OUTBOUND_NAME), ("inbound", INBOUND_NAME)] {
        let san = SanType::DnsName(name.try_into().doing(doing)?);
        let (certificate, key) = leaf(&authority, san)?;
        fs::write(folder.join(format!("{file}.crt")), &certificate).doing(doing)?;
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).doing(doing)?;
        fs::write(folder.join(format!("{file}.pem")), certificate + &key.serialize_pem()).doing(doing)?;
    }
    Ok(folder)
}

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// ECDSA P-256, as Meshwork's are.
pub(crate) fn authority(name: &str) -> Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let doing = || "making an authority".to_owned();
    let key = KeyPair::generate().doing(doing)?;
    CertifiedIssuer::self_signed(params, key).doing(doing)
}

/// A certificate as PEM, with its key.
pub(crate) fn leaf(authority: &Authority, san: SanType) -> Result<(String, KeyPair)> {
    let doing = || "making a certificate".to_owned();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![san];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().doing(doing)?;
    let certificate = params.signed_by(&key, authority).doing(doing)?;
    Ok((certificate.pem(), key))
}
