//! Why a request or connection got no answer from an application: a sentence for the operator, and the
//! one word for everyone else (`core::cause` has the table).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_core::cause::Cause;
use meshwork_core::discover::{InvalidAuthority, Refusal};
use meshwork_core::outlier::Finding;
use meshwork_http::{StatusCode, h1};

use crate::exchange::ReceiveError;
use crate::mux::Broken;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the request cannot be read: {0}")]
    BadRequest(ReceiveError),
    #[error("the request names no destination: {0}")]
    BadAuthority(#[from] InvalidAuthority),
    #[error("the request's head did not arrive within {0} s")]
    HeadTimeout(u64),
    #[error("{host} is refused: {source}")]
    Refused { host: String, source: Refusal },
    #[error("the mesh has no service {host}")]
    UnknownService { host: String },
    #[error("the control plane has not answered yet where {host} is")]
    UnknownServiceYet { host: String },
    #[error("{destination} is no service of the mesh, which lets nothing else out of namespace {namespace}")]
    Denied { destination: String, namespace: String },
    #[error("no route of {service} matches {method} {path}")]
    NoRoute { service: String, method: String, path: String },
    #[error("the rule {rule} names no backend that exists and has a weight")]
    NoBackend { rule: String },
    #[error("no endpoint of {service} is available ({known} known, {ejected} ejected)")]
    NoEndpoint { service: String, known: usize, ejected: u32 },
    #[error(
        "{service} has {max} {limit} from this sidecar, as many as its TrafficPolicy allows (limits.{limit})"
    )]
    LimitReached { service: String, limit: &'static str, max: u32 },
    #[error("the sidecar uses as much memory as it may ({} MiB, --memory-max)", max >> 20)]
    MemoryFull { max: u64 },
    #[error("cannot connect to {endpoint}: this sidecar has no file descriptor or port left ({source})")]
    OutOfDescriptors { endpoint: SocketAddr, source: io::Error },
    #[error(
        "neither the client nor {endpoint} has said anything, and such connections are as many as they may be ({max})"
    )]
    SilentFull { endpoint: SocketAddr, max: usize },
    #[error("{endpoint} speaks nothing that this sidecar may use: it has no certificate of the mesh yet")]
    NoTransport { endpoint: SocketAddr },
    #[error("cannot connect to {endpoint}: {source}")]
    Connect { endpoint: SocketAddr, source: io::Error },
    #[error("cannot connect to {endpoint}: no answer in time")]
    ConnectTimeout { endpoint: SocketAddr },
    #[error("no secure connection to {endpoint}: {reason}")]
    Tls { endpoint: SocketAddr, reason: String },
    #[error("no secure connection to {endpoint}: it does not speak {protocol}")]
    NotSpoken { endpoint: SocketAddr, protocol: String },
    #[error("no connection: {reason}")]
    Unconnected { reason: String },
    #[error("the application does not accept connections on port {port}: {source}")]
    AppRefused { port: u16, source: io::Error },
    #[error("the application on port {port} did not accept the connection in time")]
    AppConnectTimeout { port: u16 },
    #[error("the application on port {port} ended the connection before it answered: {source}")]
    AppReset { port: u16, source: ReceiveError },
    #[error("the application on port {port} answered with something that is not HTTP: {source}")]
    AppProtocol { port: u16, source: ReceiveError },
    #[error("{endpoint} did not complete its answer within {limit:?}, the time for one try")]
    TryTooLong { endpoint: SocketAddr, limit: Duration },
    #[error("there was no complete answer within {limit:?}, the time for the whole request")]
    TooLong { limit: Duration },
    #[error("there was no complete answer within {limit:?}, as long as the caller waits")]
    CallTooLong { limit: Duration },
    #[error("{endpoint} proved the wrong identity: {reason}")]
    WrongIdentity { endpoint: SocketAddr, reason: String },
    #[error("{endpoint} ended the connection before it answered: {source}")]
    Reset { endpoint: SocketAddr, source: ReceiveError },
    #[error("{endpoint} answered with something that is not HTTP: {source}")]
    Protocol { endpoint: SocketAddr, source: ReceiveError },
    #[error("cannot find {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("the proxy {proxy} refused the way to {host}: {status}")]
    ParentRefused { proxy: String, host: String, status: u16 },
    /// Nobody is there to be told.
    #[error("a tunnel by CONNECT over HTTP/2 is not carried: ask for it over HTTP/1.1")]
    TunnelOverHttp2,
    #[error("a CONNECT that follows other requests is not carried: open a connection of its own for it")]
    LateTunnel,
    #[error("all connections that may be open to {endpoint} have as many requests as they take")]
    ConnectionsFull { endpoint: SocketAddr },
    #[error("this workload drains and takes nothing new")]
    Draining,
    #[error("this workload drains, and the time for what still ran was up")]
    TimeUp,
    #[error("the client went away")]
    ClientGone,
}

impl Failure {
    pub(crate) fn bad_request(error: h1::ReceiveError) -> Self {
        Self::BadRequest(error.into())
    }

    /// The other end was spoken to in HTTP/2, and answered in HTTP/1.
    pub(crate) fn is_http1(&self) -> bool {
        match self {
            Self::AppProtocol { source, .. } | Self::Protocol { source, .. } => {
                matches!(source, ReceiveError::Http2(Broken::Http1))
            }
            _ => false,
        }
    }

    /// The same again, for another request that waited for the same connection.
    pub(crate) fn again(&self) -> Self {
        let copy = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
        match self {
            Self::OutOfDescriptors { endpoint, source } => {
                Self::OutOfDescriptors { endpoint: *endpoint, source: copy(source) }
            }
            Self::Connect { endpoint, source } => Self::Connect { endpoint: *endpoint, source: copy(source) },
            Self::AppRefused { port, source } => Self::AppRefused { port: *port, source: copy(source) },
            Self::AppConnectTimeout { port } => Self::AppConnectTimeout { port: *port },
            Self::Tls { endpoint, reason } => Self::Tls { endpoint: *endpoint, reason: reason.clone() },
            Self::NotSpoken { endpoint, protocol } => {
                Self::NotSpoken { endpoint: *endpoint, protocol: protocol.clone() }
            }
            Self::WrongIdentity { endpoint, reason } => {
                Self::WrongIdentity { endpoint: *endpoint, reason: reason.clone() }
            }
            Self::ConnectTimeout { endpoint } => Self::ConnectTimeout { endpoint: *endpoint },
            // Nothing else comes of making a connection.
            other => Self::Unconnected { reason: other.to_string() },
        }
    }

    /// What it says of the endpoint that was tried. `None`: nothing.
    pub(crate) fn finding(&self) -> Option<Finding> {
        match self {
            Self::Connect { .. }
            | Self::Unconnected { .. }
            | Self::ConnectTimeout { .. }
            | Self::Tls { .. }
            | Self::NotSpoken { .. }
            | Self::WrongIdentity { .. } => Some(Finding::ConnectFailure),
            // The caller's impatience says nothing of the endpoint.
            Self::CallTooLong { .. } => None,
            // This sidecar's own.
            Self::NoTransport { .. }
            | Self::NoEndpoint { .. }
            | Self::ConnectionsFull { .. }
            | Self::LimitReached { .. }
            | Self::MemoryFull { .. }
            | Self::SilentFull { .. }
            | Self::OutOfDescriptors { .. } => None,
            other => other.cause().and_then(Finding::of_cause),
        }
    }

    /// The row of the one table. `None`: there is nobody to answer.
    pub(crate) fn cause(&self) -> Option<Cause> {
        Some(match self {
            Self::BadRequest(ReceiveError::Http1(error)) => of_request(error.status()),
            Self::BadRequest(_) => Cause::BadRequest,
            Self::TunnelOverHttp2 | Self::LateTunnel => Cause::NotImplemented,
            Self::ConnectionsFull { .. }
            | Self::LimitReached { .. }
            | Self::MemoryFull { .. }
            | Self::SilentFull { .. }
            | Self::OutOfDescriptors { .. } => Cause::Overloaded,
            Self::BadAuthority(_) => Cause::BadRequest,
            Self::HeadTimeout(_) => Cause::RequestTimeout,
            Self::Refused { source: Refusal::LinkLocal, .. } => Cause::LinkLocalRefused,
            Self::Refused { source: Refusal::OwnPort, .. } => Cause::OwnPortRefused,
            Self::Refused { source: Refusal::NotAHost, .. } => Cause::AddressRefused,
            Self::UnknownService { .. } => Cause::UnknownService,
            Self::UnknownServiceYet { .. } => Cause::UnknownServiceYet,
            Self::Denied { .. } => Cause::DestinationDenied,
            Self::NoRoute { .. } => Cause::NoRoute,
            Self::NoBackend { .. } => Cause::NoBackend,
            Self::NoEndpoint { .. } | Self::NoTransport { .. } => Cause::NoEndpoint,
            Self::Connect { .. } | Self::Unconnected { .. } => Cause::ConnectFailed,
            Self::ConnectTimeout { .. } => Cause::ConnectTimeout,
            Self::Tls { .. } | Self::NotSpoken { .. } => Cause::TlsFailed,
            Self::WrongIdentity { .. } => Cause::WrongIdentity,
            Self::AppRefused { .. } => Cause::AppRefused,
            Self::AppConnectTimeout { .. } => Cause::AppConnectTimeout,
            Self::AppReset { .. } => Cause::AppReset,
            Self::AppProtocol { .. } => Cause::AppProtocol,
            Self::Reset { .. } => Cause::UpstreamReset,
            Self::Protocol { .. } => Cause::UpstreamProtocol,
            Self::TryTooLong { .. } => Cause::BackendRequestTimeout,
            Self::TooLong { .. } | Self::CallTooLong { .. } => Cause::DeadlineExceeded,
            Self::Lookup { .. } | Self::ParentRefused { .. } => Cause::PassthroughFailed,
            Self::Draining => Cause::Draining,
            Self::TimeUp => Cause::Drained,
            Self::ClientGone => return None,
        })
    }
}

/// The engine names a status for each request that it refuses; each has its cause.
fn of_request(status: StatusCode) -> Cause {
    match status {
        StatusCode::URI_TOO_LONG => Cause::UriTooLong,
        StatusCode::HEADERS_TOO_LARGE => Cause::HeadTooLarge,
        StatusCode::NOT_IMPLEMENTED => Cause::NotImplemented,
        StatusCode::VERSION_NOT_SUPPORTED => Cause::VersionNotSupported,
        _ => Cause::BadRequest,
    }
}
