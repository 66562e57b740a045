//! Who sends a request, and as whom they act: what `server.rs` found out of the connection travels with each request as
//! its extensions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshwork_core::model::SpiffeId;
use tonic::{Request, Status};

use crate::logins::{Proven, Role};

/// Who sent a request; a request extension. The connection says it (`server.rs`); a login is proven by each request
/// anew (`api/access.rs`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Caller {
    /// Over the operator socket: this user of this machine.
    Operator { uid: u32 },
    /// Over TLS, with a login token.
    Login { proven: Proven, remote: SocketAddr },
    /// Over TLS with a certificate of the mesh.
    Workload(SpiffeId),
    /// The same, but it ended a while ago: good for its own renewal.
    Late(SpiffeId),
    /// Over TLS without a certificate.
    Anonymous,
}

/// What an operator may do, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rights<'c> {
    pub(crate) role: Role,
    /// `None`: in the whole mesh.
    pub(crate) namespace: Option<&'c str>,
}

impl Caller {
    /// `None`: no operator at all.
    pub(crate) fn rights(&self) -> Option<Rights<'_>> {
        match self {
            Self::Operator { .. } => Some(Rights { role: Role::Admin, namespace: None }),
            Self::Login { proven, .. } => {
                let record = &proven.record;
                Some(Rights { role: record.role, namespace: record.namespace.as_deref() })
            }
            Self::Workload(_) | Self::Late(_) | Self::Anonymous => None,
        }
    }

    /// The only namespace that it may see, if there is such a limit.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.rights().and_then(|rights| rights.namespace)
    }

    /// For the audit log.
    pub(crate) fn who(&self) -> String {
        match self {
            Self::Operator { uid } => format!("uid {uid}"),
            Self::Login { proven, remote } => {
                let record = &proven.record;
                let place = record.namespace.as_ref().map(|namespace| format!(" in {namespace}"));
                let (name, role) = (&record.name, record.role.word());
                format!("login {name} ({role}{}) from {remote}", place.unwrap_or_default())
            }
            Self::Workload(id) | Self::Late(id) => id.to_string(),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }
}

/// Whose certificate the caller presented.
pub(crate) fn workload<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Workload(id)) => Ok(id.clone()),
        Some(Caller::Late(_)) => Err(Status::unauthenticated(
            "the workload's certificate has expired; it is good for its own renewal only",
        )),
        Some(Caller::Operator { .. } | Caller::Login { .. } | Caller::Anonymous) | None => {
            Err(Status::unauthenticated(
                "this call needs the workload's certificate; enrol with a join token first",
            ))
        }
    }
}

/// A connection's remote address; a request extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteAddress(pub(crate) SocketAddr);

/// When the caller's certificate ends, in seconds since the epoch; a request extension. What was renewed over the
/// connection counts: nobody else could have asked for it there. Without a certificate: when the login ends that an operator
/// has shown over it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertificateEnd(Arc<AtomicU64>);

impl CertificateEnd {
    pub(crate) fn new(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn extend_to(&self, seconds: u64) {
        self.0.fetch_max(seconds, Ordering::Relaxed);
    }
}
