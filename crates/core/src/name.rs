//! The names of resources on the wire. A name determines its bytes: two sidecars that ask for the same
//! name get the same resource, so it is compiled and encoded once.
//!
//! A Listener's name is what the client asked for (`cart:80`, `cart.default:80`, `240.0.0.7:80`) and depends
//! on the asker's namespace; all other names are canonical (`default/cart:80`), with `?from=<namespace>`
//! where a consumer route gives callers of that namespace a view of their own, and `?instance=<workload>` where a
//! client means one instance, whose own address it holds.

use std::fmt;
use std::str::FromStr;

use crate::model::Key;

/// A service's port as one caller's namespace sees it: `default/cart:80` or `default/cart:80?from=web`; or one
/// instance of it: `default/cart:80?instance=cart-0`.
///
/// Names Routes (with or without `from`), Clusters and Endpoints (always without).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub service: Key,
    pub port: u16,
    /// The callers' namespace, where a consumer route exists.
    pub from: Option<String>,
    /// One workload of those that serve it. No routes are for it: whoever calls an instance means that one.
    pub instance: Option<String>,
}

impl PortName {
    pub fn new(service: Key, port: u16) -> Self {
        Self { service, port, from: None, instance: None }
    }

    /// Whether it stands for the service's port itself, not for a view of it or a part.
    pub fn is_whole(&self) -> bool {
        self.from.is_none() && self.instance.is_none()
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        if let Some(from) = &self.from {
            write!(f, "?from={from}")?;
        }
        match &self.instance {
            Some(instance) => write!(f, "?instance={instance}"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "not a resource name: {0:?} (want <namespace>/<service>:<port>, perhaps with ?from=<namespace> or \
     ?instance=<workload>)"
)]
pub struct InvalidPortName(String);

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<Self, InvalidPortName> {
        let parse = || {
            let (name, from, instance) = match text.split_once('?') {
                Some((name, view)) => match view.split_once('=')? {
                    ("from", from) => (name, Some(from), None),
                    ("instance", instance) => (name, None, Some(instance)),
                    _ => return None,
                },
                None => (text, None, None),
            };
            let (namespace, rest) = name.split_once('/')?;
            let (service, port) = rest.rsplit_once(':')?;
            let named = [namespace, service].into_iter().chain(from).chain(instance);
            let valid = named.clone().all(is_label) && !port.starts_with(['+', '0']);
            let port = port.parse().ok().filter(|_| valid)?;
            let [from, instance] = [from, instance].map(|name| name.map(str::to_owned));
            Some(Self { service: Key::new(namespace, service), port, from, instance })
        };
        parse().ok_or_else(|| InvalidPortName(text.chars().take(256).collect()))
    }
}

/// A DNS label (RFC 1123, 2.1): what Kubernetes lets a namespace or service be called.
pub fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for text in ["default/cart:80", "default/cart:80?from=web", "default/cart:80?instance=cart-0"] {
            assert_eq!(text.parse::<PortName>().unwrap().to_string(), text);
        }
        for text in [
            "cart:80",
            "default/cart",
            "default/cart:0",
            "default/cart:080",
            "default/cart:99999",
            "a/B:1",
            "default/cart:80?",
            "default/cart:80?other=web",
            "default/cart:80?from=web?instance=cart-0",
        ] {
            assert!(text.parse::<PortName>().is_err(), "{text}");
        }
    }
}
