//! SPIFFE IDs in the one form that the mesh uses.

use std::fmt;
use std::str::FromStr;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; every part non-empty.
///
/// Source: the SPIFFE ID standard, sections 2.1-2.4 (trust domain: lower-case letters, digits, `.-_`;
/// path segments: letters, digits, `.-_`), narrowed to the path that Istio and Linkerd use too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: String,
    namespace: String,
    account: String,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("not a mesh identity: {0:?} (want spiffe://<trust domain>/ns/<namespace>/sa/<account>)")]
pub struct InvalidSpiffeId(String);

impl SpiffeId {
    pub fn new(trust_domain: &str, namespace: &str, account: &str) -> Result<Self, InvalidSpiffeId> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").parse()
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn account(&self) -> &str {
        &self.account
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(uri: &str) -> Result<Self, InvalidSpiffeId> {
        let invalid = || InvalidSpiffeId(uri.chars().take(256).collect());
        // 2,048 bytes: the most that SPIFFE lets an ID have (SPIFFE ID, 2.3).
        let path = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= 2_048).ok_or_else(invalid)?;
        match path.split('/').collect::<Vec<_>>()[..] {
            [domain, "ns", namespace, "sa", account]
                if is_trust_domain(domain) && is_segment(namespace) && is_segment(account) =>
            {
                Ok(Self {
                    trust_domain: domain.to_owned(),
                    namespace: namespace.to_owned(),
                    account: account.to_owned(),
                })
            }
            _ => Err(invalid()),
        }
    }
}

fn is_trust_domain(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    !part.is_empty() && part.len() <= 255 && part.bytes().all(allowed)
}

fn is_segment(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, valid: bool) {
        assert_eq!(uri.parse::<SpiffeId>().is_ok(), valid, "{uri}");
    }

    #[test]
    fn only_the_one_form_is_an_identity() {
        check("spiffe://mesh.local/ns/default/sa/cart", true);
        check("spiffe://mesh.local/ns/default/sa/", false);
        check("spiffe://mesh.local/ns//sa/cart", false);
        check("spiffe:///ns/default/sa/cart", false);
        check("spiffe://Mesh/ns/default/sa/cart", false);
        check("spiffe://mesh.local/ns/default/sa/cart/x", false);
        check("spiffe://mesh.local/ns/../sa/cart", false);
        check("https://mesh.local/ns/default/sa/cart", false);
        check("spiffe://user@mesh.local/ns/default/sa/cart", false);
        check("spiffe://mesh.local:1/ns/default/sa/cart", false);
    }

    #[test]
    fn an_identity_is_written_as_it_was_read() {
        let uri = "spiffe://mesh.local/ns/default/sa/cart";
        assert_eq!(uri.parse::<SpiffeId>().unwrap().to_string(), uri);
    }
}
