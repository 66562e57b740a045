//! Finds what a sidecar joins with: a token among the flags, or what an earlier start left in its state directory.
//! What a token is, and whether it is good, is `meshwork_identity`'s and the control plane's business.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshwork_identity::{Enrolled, EnrolledError, JoinToken};
use meshwork_proxy::side::dns::Lookup;

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
    File { path: PathBuf, source: io::Error },
    #[error(
        "the control plane's address {address} can't be found: {source}; check the name, or make a new token with `meshwork token create`"
    )]
    Address { address: String, source: io::Error },
}

/// How long the control plane's name may be looked for by a sidecar that can start without it: from its disk it is to
/// serve within a second.
const LOOKUP_MAX: Duration = Duration::from_millis(300);

/// What to join with, and whom.
#[derive(Debug)]
pub(crate) struct Joining {
    /// `None`: the state directory holds a certificate.
    pub(crate) token: Option<String>,
    /// `None`: its name leads nowhere right now, and the state directory is enough to start with.
    pub(crate) control: Option<SocketAddr>,
}

/// `lookup` finds the control plane's name.
pub(crate) async fn joining(
    proxy: &ProxyArgs,
    state_dir: &Path,
    lookup: &Lookup,
) -> Result<Joining, BoxError> {
    let token = read(proxy.token.as_deref(), proxy.token_file.as_deref())?;
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
    let control = match found(&address, Enrolled::load(state_dir), lookup).await {
        Ok(control) => control,
        Err(source) => return Err(TokenError::Address { address, source }.into()),
    };
    Ok(Joining { token, control })
}

/// Where the control plane is. Whoever was in the mesh before starts without knowing, too: a name may vanish with the
/// machine that it names.
async fn found(
    address: &str,
    before: Result<Option<Enrolled>, EnrolledError>,
    lookup: &Lookup,
) -> Result<Option<SocketAddr>, io::Error> {
    let lookup = async {
        let addresses = lookup.addresses(address).await?;
        addresses.into_iter().next().ok_or_else(|| io::Error::other("no such host"))
    };
    let Ok(Some(_)) = before else { return lookup.await.map(Some) };
    let found = match tokio::time::timeout(LOOKUP_MAX, lookup).await {
        Ok(found) => found,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match found {
        Ok(control) => Ok(Some(control)),
        Err(error) => {
            tracing::warn!(address, %error, "the control plane's name can't be found now; starting from the state directory");
            Ok(None)
        }
    }
}

/// The token as text: the flag's, or the file's.
pub(crate) fn read(token: Option<&str>, file: Option<&Path>) -> Result<Option<String>, TokenError> {
    let given = match (token, file) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|source| TokenError::File { path: path.to_owned(), source })?)
        }
        (None, None) => None,
    };
    Ok(given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
}
