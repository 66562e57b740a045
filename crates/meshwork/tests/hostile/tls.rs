//! TLS clients that prove themselves with whatever they are given, and take any server.

#[path = "../../../proxy/tests/pair/any_server.rs"]
mod any_server;

use std::sync::Arc;

use meshwork_identity::provider;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

pub(crate) use any_server::anonymous;

/// With these certificates, whether they are any or not, and this key, whether it is theirs or not.
pub(crate) fn claiming(chain: &[Vec<u8>], key: &PrivateKeyDer<'static>, alpn: &[u8]) -> Arc<ClientConfig> {
    let key = provider().key_provider.load_private_key(key.clone_key()).unwrap();
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let mut config = ClientConfig::clone(&anonymous(alpn));
    config.client_auth_cert_resolver = Arc::new(Claim(Arc::new(CertifiedKey::new(chain, key))));
    Arc::new(config)
}

#[derive(Debug)]
struct Claim(Arc<CertifiedKey>);

impl ResolvesClientCert for Claim {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
