//! The mesh's certificate authority: a root, an issuing intermediate, and the leaves that it signs.
//!
//! The root signs intermediates only, so that it can go offline one day; its key's hash is what a join token
//! pins. Whoever holds an `Authority` decides who gets which SPIFFE ID: this file checks the proof of
//! possession, never the right to a name.

use std::fmt;
use std::time::{Duration, SystemTime};

use meshwork_core::model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;

use crate::bundle::{RootHash, TrustBundle};
use crate::csr::{InvalidCsr, proven_key};
use crate::{CLOCK_SKEW, CryptoFailed, from_unix_seconds, unix_seconds, utc};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A root outlives whatever it signed; replacing one touches every sidecar.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// An intermediate is renewed at half of it, without anybody noticing: the root stays.
const INTERMEDIATE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

const ROOT_KEY_TAG: &str = "PRIVATE KEY";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

/// Root and issuing intermediate of one trust domain, with their keys.
pub struct Authority {
    trust_domain: String,
    bundle: TrustBundle,
    root: Signer,
    intermediate: Signer,
}

/// A CA certificate and its key.
struct Signer {
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf with what proves it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing intermediate.
    pub chain_der: Vec<Vec<u8>>,
    pub not_after: SystemTime,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Csr(#[from] InvalidCsr),
    #[error(
        "{id} is not of this mesh's trust domain {trust_domain}, so its certificate can't be signed here"
    )]
    ForeignTrustDomain { id: SpiffeId, trust_domain: String },
    #[error("the issuing certificate expired at {}; renew it before signing (it is renewed at each start)", utc(*.0))]
    Expired(SystemTime),
    #[error("the authority's file is damaged: {0}; restore it from a backup of the state directory")]
    Damaged(String),
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
}

impl Authority {
    /// A new root for a trust domain, and its first intermediate.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        // The only check that there is of a trust domain's form is an identity's.
        crate::control_id(trust_domain).map_err(|error| AuthorityError::Damaged(error.to_string()))?;
        let key = generate_key()?;
        let params = ca_params("root", trust_domain, BasicConstraints::Constrained(1), now, ROOT_TTL)?;
        let certificate = params.self_signed(&key).map_err(failed("signing the root"))?;
        let root = Signer::new(certificate.der().clone(), key)?;
        let intermediate = sign_intermediate(&root, trust_domain, now)?;
        Self::assemble(root, intermediate)
    }

    /// Signs a leaf for `id` if the request proves its key. Valid from five minutes back until `ttl` from
    /// now, or until the intermediate's own end if that is earlier.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        self.issue_reached_by(csr_der, id, &[], ttl, now)
    }

    /// The same with DNS names or IP addresses beside the identity, for clients that know no identities: they check by
    /// what name they came.
    pub fn issue_reached_by(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        if id.trust_domain() != self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(AuthorityError::ForeignTrustDomain { id: id.clone(), trust_domain });
        }
        if now >= self.intermediate.not_after {
            return Err(AuthorityError::Expired(self.intermediate.not_after));
        }
        let public_key = proven_key(csr_der)?;
        let end = now.checked_add(ttl).unwrap_or(self.intermediate.not_after);
        let not_after = whole_seconds(end.min(self.intermediate.not_after));
        let mut params = leaf_params(id, now, not_after)?;
        for name in names {
            params.subject_alt_names.push(server_name(name)?);
        }
        let leaf = params
            .signed_by(&public_key, &self.intermediate.issuer)
            .map_err(failed("signing a certificate"))?;
        let chain_der = vec![leaf.der().to_vec(), self.intermediate.certificate.to_vec()];
        Ok(Issued { chain_der, not_after })
    }

    /// Whether half of the intermediate's life is over.
    pub fn intermediate_is_due(&self, now: SystemTime) -> bool {
        now + INTERMEDIATE_TTL / 2 >= self.intermediate.not_after
    }

    /// Signs a fresh intermediate; leaves of the old one stay good, as they bring it along.
    pub fn renew_intermediate(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        self.intermediate = sign_intermediate(&self.root, &self.trust_domain, now)?;
        Ok(())
    }

    /// A certificate in which this root vouches for another one's key: who trusts only this root can follow it from the
    /// other's leaves to here. For as long as one replaces the other.
    pub fn vouch_for(
        &self,
        other: &Self,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let parsed = parse(&other.root.certificate)?;
        let end = self.root.not_after.min(other.root.not_after);
        let ttl = end.duration_since(now).unwrap_or_default().min(INTERMEDIATE_TTL);
        let constraints = BasicConstraints::Constrained(1);
        let mut params = ca_params("root", &other.trust_domain, constraints, now, ttl)?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.ok_or_else(|| AuthorityError::Damaged("the root has no name".to_owned()))?;
        params.distinguished_name.push(DnType::CommonName, name);
        let signed = params.signed_by(other.root.issuer.key(), &self.root.issuer);
        Ok(signed.map_err(failed("vouching for a root"))?.der().clone())
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When the root ends, and when the intermediate.
    pub fn ends(&self) -> (SystemTime, SystemTime) {
        (self.root.not_after, self.intermediate.not_after)
    }

    /// Whose signatures count in this mesh.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.bundle.roots()
    }

    /// What a join token pins.
    pub fn root_key_hash(&self) -> RootHash {
        self.bundle.hashes()[0]
    }

    /// Root, its key, intermediate, its key. Secret: whoever reads it is the mesh.
    pub fn to_pem(&self) -> String {
        let pems: Vec<pem::Pem> = [&self.root, &self.intermediate]
            .into_iter()
            .flat_map(|signer| {
                [
                    pem::Pem::new(CERTIFICATE_TAG, signer.certificate.to_vec()),
                    pem::Pem::new(ROOT_KEY_TAG, signer.issuer.key().serialized_der()),
                ]
            })
            .collect();
        pem::encode_many(&pems)
    }

    /// Reads what `to_pem` wrote, and checks that its parts belong together.
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let damaged = |what: &str| AuthorityError::Damaged(what.to_owned());
        let parts = pem::parse_many(text).map_err(|error| AuthorityError::Damaged(error.to_string()))?;
        let tags: Vec<&str> = parts.iter().map(pem::Pem::tag).collect();
        if tags != [CERTIFICATE_TAG, ROOT_KEY_TAG, CERTIFICATE_TAG, ROOT_KEY_TAG] {
            return Err(damaged("want the root and its key, then the intermediate and its key"));
        }
        let signer = |certificate: &pem::Pem, key: &pem::Pem| {
            let key = PrivatePkcs8KeyDer::from(key.contents());
            let key = KeyPair::try_from(&key).map_err(|_| damaged("a key can't be read"))?;
            Signer::new(certificate.contents().to_vec().into(), key)
        };
        Self::assemble(signer(&parts[0], &parts[1])?, signer(&parts[2], &parts[3])?)
    }

    fn assemble(root: Signer, intermediate: Signer) -> Result<Self, AuthorityError> {
        let damaged = |what: String| AuthorityError::Damaged(what);
        let trust_domain = organization(&root.certificate)?;
        let bundle = TrustBundle::new(&trust_domain, vec![root.certificate.clone()])
            .map_err(|error| damaged(error.to_string()))?;
        root.check_signed(&intermediate)?;
        Ok(Self { trust_domain, bundle, root, intermediate })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("root_key_hash", &self.root_key_hash())
            .finish_non_exhaustive()
    }
}

impl Signer {
    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let damaged = |what: &str| AuthorityError::Damaged(what.to_owned());
        let (rest, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate)
            .map_err(|_| damaged("a certificate can't be read"))?;
        if !rest.is_empty() || !parsed.is_ca() {
            return Err(damaged("a certificate is none of an authority"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(damaged("a key is not its certificate's"));
        }
        let not_after = from_unix_seconds(parsed.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(failed("reading the authority"))?;
        Ok(Self { certificate, not_after, issuer })
    }

    fn check_signed(&self, intermediate: &Self) -> Result<(), AuthorityError> {
        let signed = match (parse(&self.certificate), parse(&intermediate.certificate)) {
            (Ok(root), Ok(below)) => below.verify_signature(Some(root.public_key())).is_ok(),
            _ => false,
        };
        if signed {
            Ok(())
        } else {
            Err(AuthorityError::Damaged("the intermediate was not signed by the root".to_owned()))
        }
    }
}

fn sign_intermediate(root: &Signer, trust_domain: &str, now: SystemTime) -> Result<Signer, AuthorityError> {
    if now >= root.not_after {
        return Err(AuthorityError::Expired(root.not_after));
    }
    let ttl = root.not_after.duration_since(now).unwrap_or_default().min(INTERMEDIATE_TTL);
    let key = generate_key()?;
    let params = ca_params("issuing", trust_domain, BasicConstraints::Constrained(0), now, ttl)?;
    let certificate =
        params.signed_by(&key, &root.issuer).map_err(failed("signing the issuing certificate"))?;
    Signer::new(certificate.der().clone(), key)
}

fn ca_params(
    role: &str,
    trust_domain: &str,
    constraints: BasicConstraints,
    now: SystemTime,
    ttl: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Two intermediates of one mesh differ in name too, so that a chain is built without trying keys.
    let role = format!("Meshwork {role} {:08x}", u32::from_be_bytes(random()?));
    params.distinguished_name.push(DnType::CommonName, role);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The intermediate must begin before the leaves that it signs, whose validity begins 5 minutes back.
    params.not_before = date(now - DAY)?;
    params.not_after = date(now + ttl)?;
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn leaf_params(
    id: &SpiffeId,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    // No subject: the SPIFFE ID is the only name (X509-SVID, 2), and the SAN is then critical (RFC 5280, 4.2.1.6).
    params.distinguished_name = DistinguishedName::new();
    let uri = id.to_string().try_into().map_err(failed("writing a SPIFFE ID"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date(now - CLOCK_SKEW)?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn server_name(name: &str) -> Result<SanType, AuthorityError> {
    match name.parse() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into().map_err(failed("writing a DNS name"))?)),
    }
}

fn parse<'c>(
    certificate: &'c CertificateDer<'_>,
) -> Result<x509_parser::certificate::X509Certificate<'c>, AuthorityError> {
    let parsed = x509_parser::certificate::X509Certificate::from_der(certificate);
    parsed
        .map(|(_, parsed)| parsed)
        .map_err(|_| AuthorityError::Damaged("a certificate can't be read".to_owned()))
}

/// The trust domain as the root's subject names it.
fn organization(certificate: &CertificateDer<'_>) -> Result<String, AuthorityError> {
    let parsed = parse(certificate)?;
    let name = parsed.subject().iter_organization().next().and_then(|name| name.as_str().ok());
    name.map(str::to_owned)
        .ok_or_else(|| AuthorityError::Damaged("the root does not name its trust domain".to_owned()))
}

fn generate_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("making a key"))?)
}

/// 127 random bits, positive (RFC 5280, 4.1.2.2: unique for each issuer, at most 20 octets).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], CryptoFailed> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|error| CryptoFailed { doing: "drawing random bytes", detail: error.to_string() })?;
    Ok(bytes)
}

fn date(time: SystemTime) -> Result<OffsetDateTime, CryptoFailed> {
    OffsetDateTime::from_unix_timestamp(unix_seconds(time))
        .map_err(|error| CryptoFailed { doing: "writing a date", detail: error.to_string() })
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    from_unix_seconds(unix_seconds(time))
}

fn failed<E: fmt::Display>(doing: &'static str) -> impl Fn(E) -> CryptoFailed {
    move |error| CryptoFailed { doing, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::KeyAndCsr;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn authority() -> Authority {
        Authority::create("mesh.local", now()).unwrap()
    }

    fn cart() -> SpiffeId {
        SpiffeId::new("mesh.local", "default", "cart").unwrap()
    }

    fn issue(authority: &Authority, csr_der: &[u8], ttl: Duration) -> Issued {
        authority.issue(csr_der, &cart(), ttl, now()).unwrap()
    }

    #[track_caller]
    fn with_leaf(issued: &Issued, look: impl Fn(&x509_parser::certificate::X509Certificate<'_>)) {
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&issued.chain_der[0]).unwrap();
        look(&leaf);
    }

    #[track_caller]
    fn check_only_cart(issued: &Issued) {
        with_leaf(issued, |leaf| {
            let names = leaf.subject_alternative_name().unwrap().unwrap();
            assert!(names.critical);
            assert_eq!(
                names.value.general_names,
                [GeneralName::URI("spiffe://mesh.local/ns/default/sa/cart")]
            );
            assert_eq!(leaf.subject().iter().count(), 0);
            assert!(!leaf.is_ca());
        });
    }

    #[test]
    fn a_leaf_says_who_and_how_long_and_nothing_else() {
        let issued = issue(&authority(), &KeyAndCsr::generate().unwrap().csr_der, HOUR);
        check_only_cart(&issued);
        assert_eq!(issued.chain_der.len(), 2);
        assert_eq!(issued.not_after, now() + HOUR);
        with_leaf(&issued, |leaf| {
            assert_eq!(leaf.validity().not_before.timestamp(), unix_seconds(now() - CLOCK_SKEW));
            assert_eq!(leaf.validity().not_after.timestamp(), unix_seconds(now() + HOUR));
            let usage = leaf.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_cert_sign());
            let extended = leaf.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.client_auth && extended.server_auth && !extended.any);
        });
    }

    #[test]
    fn a_request_for_another_ones_name_gets_its_own_name_only() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["payments.default.mesh".to_owned()]).unwrap();
        let payments = "spiffe://mesh.local/ns/default/sa/payments";
        params.subject_alt_names.push(SanType::URI(payments.try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "payments");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = params.serialize_request(&key).unwrap();
        check_only_cart(&issue(&authority(), csr.der(), HOUR));
    }

    #[test]
    fn no_leaf_outlives_its_issuer() {
        let authority = authority();
        let csr = KeyAndCsr::generate().unwrap().csr_der;
        for ttl in [2 * INTERMEDIATE_TTL, Duration::MAX] {
            assert_eq!(issue(&authority, &csr, ttl).not_after, now() + INTERMEDIATE_TTL);
        }
        let late = authority.issue(&csr, &cart(), HOUR, now() + INTERMEDIATE_TTL).unwrap_err();
        assert!(late.to_string().contains("expired at 2028-01-15"), "{late}");
    }

    #[test]
    fn a_leaf_of_another_trust_domain_is_not_signed() {
        let other = SpiffeId::new("other.local", "default", "cart").unwrap();
        let csr = KeyAndCsr::generate().unwrap().csr_der;
        let error = authority().issue(&csr, &other, HOUR, now()).unwrap_err();
        assert!(matches!(error, AuthorityError::ForeignTrustDomain { .. }), "{error}");
    }

    #[test]
    fn serials_differ_even_for_one_key() {
        let (authority, csr) = (authority(), KeyAndCsr::generate().unwrap().csr_der);
        let serial = || {
            let issued = issue(&authority, &csr, HOUR);
            let (_, leaf) =
                x509_parser::certificate::X509Certificate::from_der(&issued.chain_der[0]).unwrap();
            leaf.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn an_intermediate_is_renewed_at_half_life_below_the_same_root() {
        let mut authority = authority();
        let half = now() + INTERMEDIATE_TTL / 2;
        assert!(!authority.intermediate_is_due(half - HOUR));
        assert!(authority.intermediate_is_due(half));
        let (old, version) =
            (authority.intermediate.certificate.clone(), authority.bundle.version().to_owned());
        authority.renew_intermediate(half).unwrap();
        assert!(!authority.intermediate_is_due(half));
        assert_ne!(authority.intermediate.certificate, old);
        assert_eq!(authority.bundle.version(), version);
        let end_of_root = now() + ROOT_TTL;
        assert!(matches!(authority.renew_intermediate(end_of_root), Err(AuthorityError::Expired(_))));
    }

    #[test]
    fn an_authority_is_read_as_it_was_written() {
        let authority = authority();
        let read = Authority::from_pem(&authority.to_pem()).unwrap();
        assert_eq!(read.trust_domain(), "mesh.local");
        assert_eq!(read.root_key_hash(), authority.root_key_hash());
        assert_eq!(read.bundle().version(), authority.bundle().version());
        check_only_cart(&issue(&read, &KeyAndCsr::generate().unwrap().csr_der, HOUR));
    }

    #[test]
    fn a_damaged_authority_is_told_so() {
        let (one, other) = (authority().to_pem(), authority().to_pem());
        let parts = |text: &str| pem::parse_many(text).unwrap();
        let (one, other) = (parts(&one), parts(&other));
        let mixed = |order: [&pem::Pem; 4]| {
            let pems: Vec<pem::Pem> = order.into_iter().cloned().collect();
            Authority::from_pem(&pem::encode_many(&pems)).unwrap_err().to_string()
        };
        assert!(mixed([&one[0], &other[1], &one[2], &one[3]]).contains("not its certificate's"));
        assert!(mixed([&one[0], &one[1], &other[2], &other[3]]).contains("not signed by the root"));
        assert!(mixed([&one[1], &one[0], &one[2], &one[3]]).contains("want the root"));
        assert!(Authority::from_pem("").unwrap_err().to_string().contains("backup"));
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", authority());
        assert!(shown.contains("mesh.local") && !shown.contains("PRIVATE"), "{shown}");
    }
}
