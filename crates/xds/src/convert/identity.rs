//! An Envoy's own key and certificate: an SDS secret that names the files which `meshwork identity` keeps on its machine.
//! The key itself never leaves that. Envoy looks at the directory, and takes a renewed pair as soon as it is there.
//!
//! The files are wherever its operator wants them. Clusters are the same for everybody, so they name the secret, and each
//! Envoy is told on its own stream what it said itself of where its files are.

use meshwork_core::resource::ResourceType;
use prost::Message as _;

use super::reference::Reference;
use crate::codec::EncodedResource;
use crate::wire::core::{DataSource, WatchedDirectory, data_source::Specifier};
use crate::wire::tls::{Secret, TlsCertificate, secret::Type};

/// The secret's name. No trust domain is called so, whose secrets are trust bundles.
pub const IDENTITY: &str = "meshwork:identity";

/// The secret for whoever keeps its files in that directory, as `certificate` and `key`.
pub fn identity(directory: &str, certificate: &str, key: &str) -> EncodedResource {
    let file = |name: &str| {
        let specifier = Some(Specifier::Filename(format!("{directory}/{name}")));
        Some(DataSource { specifier, ..DataSource::default() })
    };
    let secret = Secret {
        name: IDENTITY.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: file(certificate),
            private_key: file(key),
            watched_directory: Some(WatchedDirectory {
                path: directory.to_owned(),
                ..WatchedDirectory::default()
            }),
            ..TlsCertificate::default()
        })),
    };
    let reference = Reference::new(ResourceType::TrustBundle, IDENTITY);
    // It says nothing but the directory, so that is its version.
    EncodedResource::new(&reference, directory, secret.encode_to_vec(), Vec::new())
}
