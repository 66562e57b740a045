//! What enrolling gave a sidecar, and how it is kept on its disk.
//!
//! One file, `identity.json`, readable by its owner alone and replaced atomically: a sidecar that restarts
//! needs no token, and no crash leaves a certificate without its key.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::bundle::{InvalidBundle, RootHash, TrustBundle};
use crate::identity::{Identity, InvalidIdentity};
use crate::{private_file, published};

const FILE: &str = "identity.json";
/// What `Enrolled::export` writes: the private key, PKCS #8.
pub const PEM_KEY: &str = "key.pem";
/// Leaf first.
pub const PEM_CERTIFICATE: &str = "certificate.pem";
/// Whose signatures count.
pub const PEM_BUNDLE: &str = "bundle.pem";
/// Of a hash, as the name of a version: enough that two never meet.
const VERSION_BYTES: usize = 8;
const CERTIFICATE_TAG: &str = "CERTIFICATE";
const KEY_TAG: &str = "PRIVATE KEY";

/// Bytes of the file. Ours have 4 KiB; a bundle of 16 roots has 16.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Clone, Debug)]
pub struct Enrolled {
    pub identity: Arc<Identity>,
    pub bundle: Arc<TrustBundle>,
    pub membership: Membership,
}

/// In which mesh a sidecar is, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The store that signed: another one's config is refused.
    pub mesh_id: String,
    /// What the token was made for.
    pub service: String,
    pub namespace: String,
    /// The control plane's address as the token told it: a restart needs no token.
    pub control: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EnrolledError {
    #[error("the control plane's certificate can't be used: {0}")]
    Identity(#[from] InvalidIdentity),
    #[error("the control plane's trust bundle can't be used: {0}")]
    Bundle(#[from] InvalidBundle),
    #[error("can't {what} {}: {source}; check that the state directory belongs to this user", .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged ({detail}); without it the sidecar needs a join token again", .path.display())]
    Damaged { path: PathBuf, detail: String },
}

impl Enrolled {
    /// From what the control plane answered and the key that never left.
    pub fn new(
        key: PrivateKeyDer<'static>,
        chain_der: Vec<Vec<u8>>,
        roots_der: Vec<Vec<u8>>,
        membership: Membership,
    ) -> Result<Self, EnrolledError> {
        let certificates = |der: Vec<Vec<u8>>| der.into_iter().map(CertificateDer::from).collect();
        let identity = Arc::new(Identity::new(certificates(chain_der), key)?);
        let bundle = TrustBundle::new(identity.spiffe_id().trust_domain(), certificates(roots_der))?;
        Ok(Self { identity, bundle: Arc::new(bundle), membership })
    }

    /// The root of the bundle that signed the intermediate; `None`: none of them did.
    pub fn issuing_root(&self) -> Option<RootHash> {
        let (_, intermediate) = X509Certificate::from_der(self.identity.chain().get(1)?).ok()?;
        let signed = |root: &CertificateDer<'_>| {
            let root = X509Certificate::from_der(root).ok().map(|(_, root)| root);
            root.is_some_and(|root| intermediate.verify_signature(Some(root.public_key())).is_ok())
        };
        let place = self.bundle.roots().iter().position(signed)?;
        Some(self.bundle.hashes()[place])
    }

    /// Whole or not at all.
    pub fn save(&self, directory: &Path) -> Result<(), EnrolledError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(&Saved::of(self))
            .map_err(|error| EnrolledError::Damaged { path: path.clone(), detail: error.to_string() })?;
        private_file::replace(&path, |file| file.write_all(text.as_bytes()))
            .map_err(|source| EnrolledError::File { what: "write", path, source })
    }

    /// Key, certificate and roots as files of their own, for programs that read PEM: for their owner alone, and replaced
    /// all at once (`published.rs`).
    pub fn export(&self, directory: &Path) -> Result<(), EnrolledError> {
        let saved = Saved::of(self);
        // All but the key says whether it is another pair.
        let version = digest(&SHA256, format!("{}{}", saved.certificate, saved.roots).as_bytes());
        let version: String =
            version.as_ref()[..VERSION_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let files = [
            (PEM_KEY, saved.key.as_str()),
            (PEM_CERTIFICATE, saved.certificate.as_str()),
            (PEM_BUNDLE, saved.roots.as_str()),
        ];
        published::publish(directory, &version, &files).map_err(|source| EnrolledError::File {
            what: "write key, certificate and bundle to",
            path: directory.to_owned(),
            source,
        })
    }

    /// `None`: never enrolled.
    pub fn load(directory: &Path) -> Result<Option<Self>, EnrolledError> {
        let path = directory.join(FILE);
        let text = match read_limited(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EnrolledError::File { what: "read", path, source }),
        };
        let damaged = |detail: String| EnrolledError::Damaged { path: path.clone(), detail };
        // serde_json's message could quote a piece of the key: only the place is told.
        let saved: Saved = serde_json::from_str(&text)
            .map_err(|error| damaged(format!("line {}, column {}", error.line(), error.column())))?;
        saved.into_enrolled().map(Some).map_err(damaged)
    }

    /// Moves a damaged file out of the way, so that it can be looked at; returns where it is now.
    pub fn set_aside(directory: &Path) -> Result<PathBuf, EnrolledError> {
        let (path, aside) = (directory.join(FILE), directory.join(format!("{FILE}.damaged")));
        fs::rename(&path, &aside).map_err(|source| EnrolledError::File {
            what: "set aside",
            path,
            source,
        })?;
        Ok(aside)
    }
}

/// The file. PEM, so that `openssl` can read its parts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Saved {
    mesh_id: String,
    service: String,
    namespace: String,
    control: String,
    certificate: String,
    key: String,
    roots: String,
}

impl Saved {
    fn of(enrolled: &Enrolled) -> Self {
        let Membership { mesh_id, service, namespace, control } = enrolled.membership.clone();
        Self {
            mesh_id,
            service,
            namespace,
            control,
            certificate: to_pem(enrolled.identity.chain()),
            key: pem::encode(&pem::Pem::new(KEY_TAG, enrolled.identity.key().secret_der())),
            roots: to_pem(enrolled.bundle.roots()),
        }
    }

    fn into_enrolled(self) -> Result<Enrolled, String> {
        let key = pem::parse(&self.key).map_err(|_| "no key".to_owned())?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.into_contents()));
        let (chain, roots) = (from_pem(&self.certificate)?, from_pem(&self.roots)?);
        let Self { mesh_id, service, namespace, control, .. } = self;
        let membership = Membership { mesh_id, service, namespace, control };
        Enrolled::new(key, chain, roots, membership).map_err(|error| error.to_string())
    }
}

fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let pems: Vec<pem::Pem> =
        certificates.iter().map(|der| pem::Pem::new(CERTIFICATE_TAG, der.to_vec())).collect();
    pem::encode_many(&pems)
}

fn from_pem(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let parts = pem::parse_many(text).map_err(|_| "no certificates".to_owned())?;
    if parts.iter().any(|part| part.tag() != CERTIFICATE_TAG) {
        return Err("something else between the certificates".to_owned());
    }
    Ok(parts.into_iter().map(pem::Pem::into_contents).collect())
}

fn read_limited(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    io::read_to_string(file)
}
