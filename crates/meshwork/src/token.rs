//! Finds what a sidecar joins with: a token among the flags, or what an earlier start left in its state directory.
//! What a token is, and whether it is good, is `meshwork_identity`'s and the control plane's business.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meshwork_identity::{Enrolled, JoinToken};

use crate::BoxError;
use crate::cli::ProxyArgs;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "no join token for {service}, and {state_dir} holds no certificate: make a token with \
         `meshwork token create --service {service}` and give it with --token or --token-file"
    )]
    Missing { service: String, state_dir: PathBuf },
    #[error("cannot read the join token from {path}: {source}; check --token-file")]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "the control plane's address {address} can't be found: {source}; check the name, or make a new token with `meshwork token create`"
    )]
    Address { address: String, source: std::io::Error },
}

/// What to join with, and whom.
#[derive(Debug)]
pub(crate) struct Joining {
    /// `None`: the state directory holds a certificate.
    pub(crate) token: Option<String>,
    pub(crate) control: SocketAddr,
}

pub(crate) async fn joining(proxy: &ProxyArgs, state_dir: &Path) -> Result<Joining, BoxError> {
    let token = read(proxy)?;
    let address = match &token {
        Some(token) => token.parse::<JoinToken>()?.address,
        None => match Enrolled::load(state_dir)? {
            Some(enrolled) => enrolled.membership.control,
            None => {
                let service = proxy.service.to_string();
                return Err(TokenError::Missing { service, state_dir: state_dir.to_owned() }.into());
            }
        },
    };
    let found = match tokio::net::lookup_host(&address).await {
        Ok(mut addresses) => addresses.next().ok_or_else(|| std::io::Error::other("no such host")),
        Err(error) => Err(error),
    };
    let control = found.map_err(|source| TokenError::Address { address, source })?;
    Ok(Joining { token, control })
}

/// The token as text: the flag's, or the file's.
fn read(proxy: &ProxyArgs) -> Result<Option<String>, TokenError> {
    let given = match (&proxy.token, &proxy.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|source| TokenError::File { path: path.clone(), source })?)
        }
        (None, None) => None,
    };
    Ok(given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
}
