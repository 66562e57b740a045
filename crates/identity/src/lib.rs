//! Keys, certificates, verification and signing: who is who in the mesh, and how it is proven.
//!
//! Every workload has a SPIFFE ID in an X.509 leaf (`leaf <- issuing intermediate <- root`). Between sidecars
//! and to the control plane everything is mutual TLS 1.3 with post-quantum key exchange; the peer's SPIFFE ID
//! is checked in both directions. No sockets here; the only files are those of `enrolled.rs`. Time is an
//! argument; rustls alone reads the clock, in a handshake.
//!
//! | file | what |
//! |---|---|
//! | `ca.rs` | the mesh's authority: root, issuing intermediate, leaves |
//! | `csr.rs` | a workload's key and its request for a certificate |
//! | `token.rs` | the join token: how a workload gets its first certificate |
//! | `login.rs` | the login token: how an operator reaches a control plane from afar |
//! | `identity.rs` | a certificate with its key, ready for handshakes |
//! | `bundle.rs` | the trust bundle: whose signatures count; the hash that pins a root |
//! | `peer.rs` | reading a peer's certificate; why a peer is refused; the check after every handshake |
//! | `verify.rs` | rustls' verifiers on top of it |
//! | `config.rs` | rustls' configs, one for each kind of connection |
//! | `crypto.rs` | the provider of cryptography that all of them take |
//! | `enrolled.rs` | what enrolling gave a sidecar, and how it is kept on its disk |
//! | `private_file.rs` | replacing a file whole, for its owner alone |

mod bundle;
mod ca;
mod config;
mod crypto;
mod csr;
mod enrolled;
mod identity;
mod login;
mod peer;
pub mod private_file;
mod published;
mod token;
mod verify;

pub use bundle::{InvalidBundle, InvalidRootHash, RootHash, TrustBundle};
pub use ca::{Authority, AuthorityError, Issued};
pub use config::{
    ConfigError, client_config, control_client_config, control_server_config, enrol_client_config,
    server_config, session_name,
};
pub use crypto::provider;
pub use csr::{InvalidCsr, KeyAndCsr};
pub use enrolled::{Enrolled, EnrolledError, Membership, PEM_BUNDLE, PEM_CERTIFICATE, PEM_KEY};
pub use identity::{Identity, InvalidIdentity};
pub use login::{InvalidLogin, LoginToken};
pub use peer::{Peer, PeerRefused, Refusal, check_peer, check_renewable};
pub use token::{InvalidToken, JoinToken, SecretHash, TokenSecret};

use std::time::{Duration, SystemTime};

use meshwork_core::model::{InvalidSpiffeId, SpiffeId};

/// The namespace of the mesh's own parts; never given to a workload.
pub const SYSTEM_NAMESPACE: &str = "meshwork-system";

/// The control plane's account in it.
pub const CONTROL_ACCOUNT: &str = "control";

/// How far in the past a certificate's validity begins: clocks in a mesh differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Whom a sidecar expects behind the control plane's address.
pub fn control_id(trust_domain: &str) -> Result<SpiffeId, InvalidSpiffeId> {
    SpiffeId::new(trust_domain, SYSTEM_NAMESPACE, CONTROL_ACCOUNT)
}

/// The cryptography failed underneath (no randomness, out of memory): nothing that a caller did.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the cryptographic library failed while {doing}: {detail}")]
pub struct CryptoFailed {
    pub doing: &'static str,
    pub detail: String,
}

/// Seconds since the epoch; negative before it. X.509 knows no fractions.
fn unix_seconds(time: SystemTime) -> i64 {
    let clamp = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

fn from_unix_seconds(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        ..0 => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// `2026-11-22 22:45:00 UTC`, for messages.
fn utc(time: SystemTime) -> String {
    match time::OffsetDateTime::from_unix_timestamp(unix_seconds(time)) {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        Err(_) => "a time out of range".to_owned(),
    }
}
