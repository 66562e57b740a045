//! What was found out about a request before anything was sent.

use meshwork_core::model::HeaderModifier;
use meshwork_core::policy::RuleRetry;
use meshwork_core::retry::Call;
use meshwork_http::forward::ForwardRequest;
use meshwork_http::{Head, websocket};

use super::deadline::Patience;
use crate::drain::Drain;

/// Of one request; each of its tries goes by it.
pub(crate) struct Plan<'a> {
    pub(crate) upgrade: Upgrade,
    pub(crate) expects_continue: bool,
    pub(crate) response_headers: Option<&'a HeaderModifier>,
    /// What the rule wants tried again beyond what is safe.
    pub(crate) retry: Option<&'a RuleRetry>,
    /// The connection may go on after this request.
    pub(crate) keep_alive: bool,
    /// What the application at the end of the way speaks, as far as it is known here.
    pub(crate) application: Speaks,
    /// The way out of the direction that the request came from.
    pub(crate) drain: &'a Drain,
    pub(crate) call: Call,
    /// How long the request and each of its tries may take.
    pub(crate) patience: Patience,
}

/// Whether the request asks for another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    No,
    /// By `Upgrade`, as HTTP/1 does: WebSocket, or anything else.
    Http1,
    /// By an extended CONNECT of HTTP/2 (RFC 8441): WebSocket.
    WebSocket,
}

pub(super) fn upgrade(asked: &ForwardRequest, head: &Head) -> Upgrade {
    match asked.upgrade {
        true => Upgrade::Http1,
        false if websocket::is_extended_connect(head) => Upgrade::WebSocket,
        false => Upgrade::No,
    }
}

/// Which HTTP is spoken on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}
