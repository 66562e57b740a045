//! The control plane's end of one ADS stream: what the client subscribed to, what it was sent, what it took or refused.
//!
//! Here is what both dialects share: delta, which sidecars and Envoy speak, is `delta.rs`, state-of-the-world, which gRPC
//! and Envoy speak, `sotw.rs`.
//!
//! Pure. What exists, and whether this client may see it, the caller's `resolve` says.

mod delta;
mod everything;
mod facts;
mod sotw;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_core::resource::ResourceType;

pub use delta::ServerSession;
use everything::CARRIED_MAX;
pub use facts::{Answer, Refusal, RefusedName};
pub use sotw::SotwSession;
pub use subscription::Subscription;

use super::{LISTENERS_MAX, NAME_BYTES_MAX};
use crate::codec::EncodedResource;
use crate::convert::Reference;

/// What exists now as this session's client may see it; `None`: there is nothing of that name.
pub type Resolve<'a> = dyn FnMut(ResourceType, &str) -> Option<EncodedResource> + 'a;

/// Subscriptions of one stream: every Listener with a Route and two backends of its own.
const SUBSCRIPTIONS_MAX: usize = 6 * LISTENERS_MAX;

/// Unacknowledged responses at which the stream ends: the client asks on and on and never answers.
const UNANSWERED_MAX: usize = 1_024;

/// A response is closed at this size: larger ones block others' messages on the connection for long.
const RESPONSE_BYTES: usize = 1 << 20;

/// The name that subscribes to everything.
const WILDCARD: &str = "*";

/// Why the stream must end. The sentence goes into its gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a resource's name has {0} bytes, at most {NAME_BYTES_MAX} are taken")]
    NameTooLong(usize),
    #[error("more than {SUBSCRIPTIONS_MAX} resources are subscribed to on one stream")]
    TooManySubscriptions,
    #[error("{UNANSWERED_MAX} responses were neither acknowledged nor refused")]
    Unanswered,
    #[error("node.metadata names more than {CARRIED_MAX} upstreams to be carried")]
    TooManyCarried,
    #[error("resource locators are not understood: subscribe by name")]
    Locators,
    #[error("the stream's first request does not say who reports: set node")]
    Nobody,
}

impl Violation {
    /// It asks for more than there may be, as opposed to what nobody understands.
    pub fn is_limit(&self) -> bool {
        match self {
            Self::NameTooLong(_) | Self::TooManySubscriptions | Self::Unanswered | Self::TooManyCarried => {
                true
            }
            Self::Locators | Self::Nobody => false,
        }
    }
}

/// What a request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<R> {
    /// To be sent in this order.
    pub responses: Vec<R>,
    /// What the request said about an earlier response.
    pub answer: Option<Answer>,
}

impl<R> Default for Outcome<R> {
    fn default() -> Self {
        Self { responses: Vec::new(), answer: None }
    }
}

/// What both kinds of sessions know of their client.
pub trait Told: Send {
    /// `None` until the first request told.
    fn client(&self) -> Option<&Client>;

    fn subscriptions(&self) -> &BTreeMap<Reference, Subscription>;

    /// Another one whenever names were added or dropped.
    fn generation(&self) -> u64;

    /// Whether the client was told something about the name and has not answered yet, or is so far behind that it
    /// has yet to be told.
    fn awaits_answer(&self, resource_type: ResourceType, name: &str) -> bool;
}

/// What both kinds of sessions do.
pub trait Session: Told {
    type Request;
    type Response;

    /// Takes a request. `revision` is the store's, at which `resolve` answers.
    fn request(
        &mut self,
        request: Self::Request,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Result<Outcome<Self::Response>, Violation>;

    /// What a change of the model means to this client. `concerns` says of which names the resource may differ
    /// from the model that the last call was for; it may say too much.
    fn changed(
        &mut self,
        concerns: &mut dyn FnMut(ResourceType, &str) -> bool,
        revision: &str,
        resolve: &mut Resolve<'_>,
    ) -> Vec<Self::Response>;
}

/// Who is at the other end, as it says itself; its certificate is the caller's to check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    /// The program: `meshwork`, `gRPC C-core linux`.
    pub agent: String,
    pub version: String,
    pub features: Vec<String>,
    /// The Listeners that it carries, as its metadata say.
    pub carries: BTreeSet<String>,
    /// The directory of its key and certificate, as its metadata say.
    pub identity: Option<String>,
}

/// A response that was neither acknowledged nor refused.
#[derive(Clone, Debug)]
struct InFlight {
    resource_type: ResourceType,
    /// `None`: it was told that the name doesn't exist.
    versions: Vec<(String, Option<Arc<str>>)>,
}
