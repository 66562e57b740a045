//! Who sends a request, and as whom they act.

use std::net::SocketAddr;

use meshwork_core::model::SpiffeId;

use crate::logins::{Proven, Role};

/// Who sent a request; a request extension. The connection says it (`server.rs`); a login is proven by each request
/// anew (`access.rs`).
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
pub(super) struct Rights<'c> {
    pub(super) role: Role,
    /// `None`: in the whole mesh.
    pub(super) namespace: Option<&'c str>,
}

impl Caller {
    /// `None`: no operator at all.
    pub(super) fn rights(&self) -> Option<Rights<'_>> {
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
    pub(super) fn namespace(&self) -> Option<&str> {
        self.rights().and_then(|rights| rights.namespace)
    }

    /// For the audit log.
    pub(super) fn who(&self) -> String {
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
