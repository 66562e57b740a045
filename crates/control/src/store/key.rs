//! Keys: paths whose first element says what kind of thing stands there.

use std::fmt;
use std::net::Ipv4Addr;

use meshwork_core::manifest::Kind;

/// A path in the store, as `intent/Service/default/cart`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(String);

/// All keys below a path; written with the slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(String);

const INTENT: &str = "intent/";
const REGISTRATION: &str = "registration/";

impl Key {
    /// A manifest that an operator applied.
    pub(crate) fn intent(kind: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{INTENT}{kind}/{namespace}/{name}"))
    }

    /// What a workload's sidecar registered.
    pub(crate) fn registration(namespace: &str, workload: &str) -> Self {
        Self(format!("{REGISTRATION}{namespace}/{workload}"))
    }

    /// A join token, by the hash of its secret: the secret itself is never stored.
    pub(crate) fn token(secret_hash: &str) -> Self {
        Self(format!("identity/token/{secret_hash}"))
    }

    /// A login token, by its name: the record holds the hash of its secret.
    pub(crate) fn login(name: &str) -> Self {
        Self(format!("identity/login/{name}"))
    }

    /// The authority's keys and certificates.
    pub(crate) fn authority() -> Self {
        Self("identity/authority".to_owned())
    }

    /// The root that is to replace the authority's, and how far that is.
    pub(crate) fn rotation() -> Self {
        Self("identity/rotation".to_owned())
    }

    /// Until when leaves are out.
    pub(crate) fn longest_leaf() -> Self {
        Self("identity/longest-leaf".to_owned())
    }

    /// The mesh's ID, chosen when the store was made.
    pub(crate) fn mesh_id() -> Self {
        Self("identity/mesh-id".to_owned())
    }

    /// The starts of control planes on this store.
    pub(crate) fn eras() -> Self {
        Self("identity/eras".to_owned())
    }

    /// Whose a virtual address is, or last was.
    pub(crate) fn address(address: Ipv4Addr) -> Self {
        Self(format!("identity/address/{address}"))
    }

    /// The virtual address that a service had when it was deleted.
    pub(crate) fn resting(namespace: &str, service: &str) -> Self {
        Self(format!("identity/resting/{namespace}/{service}"))
    }

    /// A key as it was written.
    pub(super) fn read(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last two elements: namespace and name of a manifest or registration.
    pub(crate) fn namespace_and_name(&self) -> (&str, &str) {
        let mut elements = self.0.rsplitn(3, '/');
        let name = elements.next().unwrap_or_default();
        (elements.next().unwrap_or_default(), name)
    }

    /// Which kind of resource stands there.
    pub(crate) fn kind(&self) -> Option<Kind> {
        if self.is_registration() {
            return Some(Kind::Workload);
        }
        let (name, _) = self.0.strip_prefix(INTENT)?.split_once('/')?;
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    pub(crate) fn is_registration(&self) -> bool {
        self.0.starts_with(REGISTRATION)
    }

    /// Whether its changes can be watched. Identities can't: nobody follows them, and the log would hold
    /// on to what was deleted.
    pub(super) fn is_logged(&self) -> bool {
        self.0.starts_with(INTENT) || self.0.starts_with(REGISTRATION)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    pub(crate) fn all_intent() -> Self {
        Self(INTENT.to_owned())
    }

    /// Manifests of a kind, perhaps of one namespace only.
    pub(crate) fn intent(kind: &str, namespace: Option<&str>) -> Self {
        Self(match namespace {
            Some(namespace) => format!("{INTENT}{kind}/{namespace}/"),
            None => format!("{INTENT}{kind}/"),
        })
    }

    pub(crate) fn registrations(namespace: Option<&str>) -> Self {
        Self(match namespace {
            Some(namespace) => format!("{REGISTRATION}{namespace}/"),
            None => REGISTRATION.to_owned(),
        })
    }

    pub(crate) fn tokens() -> Self {
        Self("identity/token/".to_owned())
    }

    pub(crate) fn logins() -> Self {
        Self("identity/login/".to_owned())
    }

    pub(crate) fn addresses() -> Self {
        Self("identity/address/".to_owned())
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.0)
    }

    /// The first text that sorts after everything below it: `0` follows `/`.
    pub(super) fn end(&self) -> String {
        format!("{}0", self.0.trim_end_matches('/'))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}
