//! rustls' configs, one for each kind of connection of the mesh.
//!
//! All are TLS 1.3 only, X25519MLKEM768 first, without early data, without SNI. A config belongs to one
//! (own certificate, trust bundle, expected identities): its session store and its ticket keys are its own, so
//! that what was proven under one cannot be resumed under another. Callers cache configs under that key.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshwork_core::model::{InvalidSpiffeId, SpiffeId};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, DnsName, ServerName};

use crate::bundle::{RootHash, TrustBundle};
use crate::control_id;
use crate::crypto::provider;
use crate::identity::Identity;
use crate::verify::{ClientCertificate, SpiffeVerifier};

/// Endpoints for which a client keeps tickets, per config. A service has rarely more endpoints; beyond it
/// the oldest handshake is a full one again.
const SESSIONS_MAX: usize = 256;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("TLS can't be configured: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Identity(#[from] InvalidSpiffeId),
}

/// From a sidecar to an endpoint where one of `expected` must answer.
pub fn client_config(
    identity: &Identity,
    bundle: &Arc<TrustBundle>,
    expected: &BTreeSet<SpiffeId>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    let verifier = SpiffeVerifier::of_servers(bundle.clone(), expected.clone());
    client(verifier, Some(identity), alpn)
}

/// A sidecar's inbound side: anybody of the mesh, with a certificate.
pub fn server_config(
    identity: &Identity,
    bundle: &Arc<TrustBundle>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let verifier = SpiffeVerifier::of_clients(bundle.clone(), ClientCertificate::Required);
    server(verifier, identity.certified().clone(), alpn)
}

/// The control plane's port. Clients may come without a certificate, as those that enrol have none, or with one that
/// has just ended, to renew it: what a caller may do is the API's decision. The roots are presented too, for those
/// who know only a hash, and certificates in which one root vouches for another.
pub fn control_server_config(
    identity: &Identity,
    bundle: &Arc<TrustBundle>,
    vouching: &[CertificateDer<'static>],
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let verifier = SpiffeVerifier::of_clients(bundle.clone(), ClientCertificate::Optional);
    let mut certified = CertifiedKey::clone(identity.certified());
    certified.cert.extend_from_slice(bundle.roots());
    certified.cert.extend_from_slice(vouching);
    server(verifier, Arc::new(certified), alpn)
}

/// From who holds a join token to the control plane: no certificate of one's own, the root known by its
/// key's hash alone.
pub fn enrol_client_config(root: RootHash, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, ConfigError> {
    client(SpiffeVerifier::of_pinned_control(root), None, alpn)
}

/// From an enrolled sidecar to the control plane.
pub fn control_client_config(
    identity: &Identity,
    bundle: &Arc<TrustBundle>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    let expected = BTreeSet::from([control_id(bundle.trust_domain())?]);
    client_config(identity, bundle, &expected, alpn)
}

/// The name that rustls keeps an endpoint's tickets under. Never sent (no SNI), never verified; an address
/// with its port, as a hundred sidecars may share one IP address.
pub fn session_name(address: SocketAddr) -> ServerName<'static> {
    let host = match address.ip() {
        IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
    };
    match DnsName::try_from(format!("x{host}.p{}.endpoint", address.port())) {
        Ok(name) => ServerName::DnsName(name),
        // Hexadecimal labels are a DNS name always; the address alone would do as well.
        Err(_) => ServerName::from(address.ip()),
    }
}

fn client(
    verifier: SpiffeVerifier,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for "not by DNS name"
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => {
            let own = SingleCertAndKey::from(identity.certified().clone());
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

fn server(
    verifier: SpiffeVerifier,
    certified: Arc<CertifiedKey>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = protocols(alpn);
    // Keys made here and held nowhere else: with the config die its tickets.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
