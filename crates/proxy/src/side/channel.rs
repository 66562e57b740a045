//! The way to the control plane: one HTTP/2 connection over our own TLS, opened when something needs it, and
//! anew after it broke, with whatever certificate the sidecar holds then.
//!
//! tonic knows nothing of SPIFFE, so the connector does it all: TCP, TLS by the `identity` crate's configs, and
//! the check of the peer after the handshake. Who retries, and when, is the callers' affair.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use meshwork_identity::{
    Enrolled, Identity, PeerRefused, Refusal, RootHash, TrustBundle, check_peer, control_client_config,
    control_id, enrol_client_config, session_name,
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::backoff::Spacing;
use crate::mark::Dial;

const ALPN_H2: &[&[u8]] = &[b"h2"];

/// Until the machine answers.
const TCP_CONNECT_MAX: Duration = Duration::from_secs(5);

/// Until the connection can be used, TLS and all. Generous: to a control plane that starts, a thousand sidecars come at
/// once, and who waits for its turn there (`control/src/handshakes.rs`) must not give up and begin anew.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// A ping after so much silence, and no answer for as long again, is a dead control plane: 10 s, well
/// within a lease of 15 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

type Stream = TokioIo<TlsStream<TcpStream>>;

/// With the sidecar's current certificate. Connects when it is first used, and again when it broke.
pub(crate) fn to_control(enrolled: watch::Receiver<Arc<Enrolled>>, dial: Dial) -> Channel {
    let mut configs = Configs { enrolled, made: None };
    let mut spacing = Spacing::default();
    let connector = tower::service_fn(move |_| {
        // Several streams share the connection. Each is opened seldom, but they are not to take turns.
        let now = Instant::now();
        let turn = now + spacing.left(now);
        spacing.open(turn);
        let (prepared, dial) = (configs.current(), dial.clone());
        async move {
            tokio::time::sleep_until(turn).await;
            let (enrolled, config) = prepared?;
            connect_verified(&enrolled, config, &dial).await
        }
    });
    endpoint().connect_with_connector_lazy(connector)
}

/// Without a certificate, the root known by its hash.
pub(crate) fn to_enrol(address: String, root: RootHash, dial: Dial) -> Result<Channel, ConnectFailed> {
    let config = enrol_client_config(root, ALPN_H2)
        .map_err(|error| ConnectFailed::Config { detail: error.to_string() })?;
    let connector = tower::service_fn(move |_| {
        let (address, config, dial) = (address.clone(), config.clone(), dial.clone());
        // The verifier ran: a config this fresh has no session that could be resumed past it.
        async move {
            let connected = connect(&address, config, &dial).await;
            Ok::<Stream, ConnectFailed>(TokioIo::new(connected.map_err(ConnectFailed::of_token)?))
        }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}

fn endpoint() -> Endpoint {
    // The name is a header's content only: who is behind the address is proven by certificate. `http`, as
    // tonic would bring its own TLS for `https`.
    Endpoint::from_static("http://control.meshwork-system")
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// One TLS config for as long as certificate and bundle stay the same: its sessions can be resumed.
struct Configs {
    enrolled: watch::Receiver<Arc<Enrolled>>,
    made: Option<(Arc<Identity>, Arc<TrustBundle>, Arc<ClientConfig>)>,
}

impl Configs {
    fn current(&mut self) -> Result<(Arc<Enrolled>, Arc<ClientConfig>), ConnectFailed> {
        let enrolled = self.enrolled.borrow().clone();
        if let Some((identity, bundle, config)) = &self.made
            && Arc::ptr_eq(identity, &enrolled.identity)
            && Arc::ptr_eq(bundle, &enrolled.bundle)
        {
            return Ok((enrolled, config.clone()));
        }
        let config = control_client_config(&enrolled.identity, &enrolled.bundle, ALPN_H2)
            .map_err(|error| ConnectFailed::Config { detail: error.to_string() })?;
        self.made = Some((enrolled.identity.clone(), enrolled.bundle.clone(), config.clone()));
        Ok((enrolled, config))
    }
}

async fn connect_verified(
    enrolled: &Enrolled,
    config: Arc<ClientConfig>,
    dial: &Dial,
) -> Result<Stream, ConnectFailed> {
    let address = &enrolled.membership.control;
    let stream = connect(address, config, dial).await?;
    let trust_domain = enrolled.bundle.trust_domain();
    let control =
        control_id(trust_domain).map_err(|error| ConnectFailed::Config { detail: error.to_string() })?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    check_peer(certificates, Some(&BTreeSet::from([control])), trust_domain, SystemTime::now())
        .map_err(|refused| ConnectFailed::Refused { address: address.clone(), refused: Box::new(refused) })?;
    Ok(TokioIo::new(stream))
}

async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
    dial: &Dial,
) -> Result<TlsStream<TcpStream>, ConnectFailed> {
    let named = || address.to_owned();
    let tcp_failed = |source| ConnectFailed::Tcp { address: named(), source };
    let tcp = match timeout(TCP_CONNECT_MAX, dial.connect(address)).await {
        Ok(connected) => connected.map_err(tcp_failed)?,
        Err(_) => return Err(tcp_failed(io::Error::from(io::ErrorKind::TimedOut))),
    };
    tcp.set_nodelay(true).map_err(tcp_failed)?;
    let name = session_name(tcp.peer_addr().map_err(tcp_failed)?);
    TlsConnector::from(config).connect(name, tcp).await.map_err(|source| match PeerRefused::of_io(&source) {
        Some(refused) => ConnectFailed::Refused { address: named(), refused: Box::new(refused.clone()) },
        None => ConnectFailed::Tls { address: named(), source },
    })
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailed {
    #[error("cannot reach the control plane at {address} ({source}); is it running there?")]
    Tcp { address: String, source: io::Error },
    #[error(
        "cannot set up TLS with the control plane at {address} ({source}); is that address the control plane's?"
    )]
    Tls { address: String, source: io::Error },
    #[error("whoever answers at {address} is not this mesh's control plane: {refused}")]
    Refused { address: String, refused: Box<PeerRefused> },
    #[error(
        "whoever answers at {address} is not the control plane that the join token was made by: {refused}; if its root was \
         replaced since, make a new token with `meshwork token create`"
    )]
    OtherRoot { address: String, refused: Box<PeerRefused> },
    #[error("TLS to the control plane can't be configured: {detail}")]
    Config { detail: String },
}

impl ConnectFailed {
    /// What a refusal means to who knows only a token.
    fn of_token(self) -> Self {
        match self {
            Self::Refused { address, refused } if refused.reason == Refusal::UnknownRoot => {
                Self::OtherRoot { address, refused }
            }
            other => other,
        }
    }
}

/// A failed call as one sentence.
pub(crate) fn sentence(status: &Status) -> String {
    if let Some(failed) = connect_failed(status) {
        return failed.to_string();
    }
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
            format!("the connection to the control plane broke ({})", status.message())
        }
        _ => format!("the control plane refused: {}", status.message()),
    }
}

/// Whether somebody else answers there: another mesh's control plane, or no control plane at all.
pub(crate) fn is_foreign(status: &Status) -> bool {
    matches!(connect_failed(status), Some(ConnectFailed::Refused { .. }))
}

/// Whether asking again later can help.
pub(crate) fn is_transient(status: &Status) -> bool {
    match connect_failed(status) {
        Some(ConnectFailed::Tcp { .. } | ConnectFailed::Tls { .. }) => true,
        Some(
            ConnectFailed::Refused { .. } | ConnectFailed::OtherRoot { .. } | ConnectFailed::Config { .. },
        ) => false,
        None => matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::ResourceExhausted
        ),
    }
}

/// Whether the control plane is not below the root that the token names.
pub(crate) fn is_other_root(status: &Status) -> bool {
    matches!(connect_failed(status), Some(ConnectFailed::OtherRoot { .. }))
}

fn connect_failed(status: &Status) -> Option<&ConnectFailed> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(failed) = error.downcast_ref() {
            return Some(failed);
        }
        cause = error.source();
    }
    None
}
