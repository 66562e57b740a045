//! What every document's `metadata` must be, and what the mesh reads from annotations.

use std::collections::{BTreeMap, BTreeSet};

use super::{ACCOUNTS_ANNOTATION, BALANCE_ANNOTATION, INBOUND_ANNOTATION, Problems, is_subdomain};
use crate::manifest::{Document, Kind, Metadata, Scope, Spec};
use crate::model::{Balance, InboundModes, MtlsMode, ServicePort};

/// Kubernetes' limit for all annotations of an object; here each for itself, as documents are limited too.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

pub(super) fn judge<S: Spec>(document: &Document<S>, problems: &mut Problems) {
    let Metadata { name, namespace, labels, annotations, .. } = &document.metadata;
    match S::KIND {
        // Parts of host names and of names on the wire.
        Kind::Service | Kind::Workload => problems.label("metadata.name", name),
        Kind::HttpRoute | Kind::TrafficPolicy | Kind::MeshConfig if !is_subdomain(name) => problems.add(
            "metadata.name".to_owned(),
            format!("{name:?} is not a name"),
            "write lower-case letters, digits, '-' or '.', beginning and ending with a letter or digit",
        ),
        Kind::HttpRoute | Kind::TrafficPolicy | Kind::MeshConfig => {}
    }
    match (S::KIND.scope(), namespace) {
        (Scope::Namespace, Some(namespace)) => problems.label("metadata.namespace", namespace),
        (Scope::Mesh, Some(_)) => problems.add(
            "metadata.namespace".to_owned(),
            format!("a {} belongs to the whole mesh", S::KIND),
            "leave the namespace out",
        ),
        (Scope::Namespace | Scope::Mesh, None) => {}
    }
    judge_labels("metadata.labels", labels, problems);
    for (key, value) in annotations {
        judge_annotation(S::KIND, key, value, problems);
    }
}

fn judge_annotation(kind: Kind, key: &str, value: &str, problems: &mut Problems) {
    let path = format!("metadata.annotations[{key:?}]");
    let of_service = [ACCOUNTS_ANNOTATION, BALANCE_ANNOTATION, INBOUND_ANNOTATION];
    let known = kind == Kind::Service && of_service.contains(&key);
    if !is_qualified_name(key) {
        problems.add(path, "not an annotation's name".to_owned(), NAME_CURE);
    } else if key.starts_with("meshwork.dev/") && !known {
        // A misspelt annotation of ours would otherwise be ignored in silence.
        let message = format!("a {kind} has no annotation of that name");
        let cure = "a Service has meshwork.dev/accounts, meshwork.dev/balance and meshwork.dev/inbound-mode, other \
                    kinds have none";
        problems.add(path, message, cure);
    } else if value.len() > ANNOTATION_BYTES_MAX {
        problems.add(path, "the value is longer than 256 KiB".to_owned(), "shorten it");
    }
}

const NAME_CURE: &str = "write up to 63 letters, digits, '-', '_' or '.', perhaps after a DNS name and a '/'";

pub(super) fn judge_labels(path: &str, labels: &BTreeMap<String, String>, problems: &mut Problems) {
    for (key, value) in labels {
        let path = || format!("{path}[{key:?}]");
        if !is_qualified_name(key) {
            problems.add(path(), "not a label's name".to_owned(), NAME_CURE);
        }
        if !value.is_empty() && !is_name_part(value) {
            let cure = "write up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit";
            problems.add(path(), format!("{value:?} is not a label's value"), cure);
        }
    }
}

/// `name` or `dns.name/name`, as Kubernetes names labels and annotations.
fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(key),
    }
}

fn is_name_part(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= 63 && name.bytes().all(inner) && outer(name.bytes().next()) && outer(name.bytes().last())
}

/// Who may serve a service: declared, else the account of its name.
pub(super) fn accounts(metadata: &Metadata, problems: &mut Problems) -> BTreeSet<String> {
    let Some(written) = metadata.annotations.get(ACCOUNTS_ANNOTATION) else {
        return BTreeSet::from([metadata.name.clone()]);
    };
    let accounts: BTreeSet<String> = written.split(',').map(|account| account.trim().to_owned()).collect();
    for account in &accounts {
        problems.account(&format!("metadata.annotations[{ACCOUNTS_ANNOTATION:?}]"), account);
    }
    accounts
}

pub(super) fn balance(metadata: &Metadata, problems: &mut Problems) -> Balance {
    match metadata.annotations.get(BALANCE_ANNOTATION).map(String::as_str) {
        None | Some("peakEwma") => Balance::PeakEwma,
        Some("roundRobin") => Balance::RoundRobin,
        Some(other) => {
            let path = format!("metadata.annotations[{BALANCE_ANNOTATION:?}]");
            problems.add(path, format!("{other:?} is no way to balance"), "write peakEwma or roundRobin");
            Balance::default()
        }
    }
}

/// Whether plaintext is taken: a word for all ports, or `PORT=word` for some of them.
pub(super) fn inbound(metadata: &Metadata, ports: &[ServicePort], problems: &mut Problems) -> InboundModes {
    let mut modes = InboundModes::default();
    let Some(written) = metadata.annotations.get(INBOUND_ANNOTATION) else { return modes };
    let mut wrong = |message: String| {
        let cure =
            "write strict or permissive for all ports, or such as 80=permissive for each that is meant";
        problems.add(format!("metadata.annotations[{INBOUND_ANNOTATION:?}]"), message, cure);
    };
    for part in written.split(',').map(str::trim) {
        let (port, word) = match part.split_once('=') {
            Some((port, word)) => (Some(port.trim()), word.trim()),
            None => (None, part),
        };
        let Some(mode) = mtls_mode(word) else {
            wrong(format!("{word:?} is neither strict nor permissive"));
            continue;
        };
        let twice = match port.map(|port| (port, port.parse::<u16>())) {
            None => modes.all.replace(mode).is_some(),
            Some((_, Ok(port))) if ports.iter().any(|known| known.port == port) => {
                modes.ports.insert(port, mode).is_some()
            }
            Some((port, _)) => {
                wrong(format!("the service has no port {port:?}"));
                continue;
            }
        };
        if twice {
            wrong(format!("{part:?} says once more what is said before it"));
        }
    }
    modes
}

fn mtls_mode(word: &str) -> Option<MtlsMode> {
    match word {
        "strict" => Some(MtlsMode::Strict),
        "permissive" => Some(MtlsMode::Permissive),
        _ => None,
    }
}

/// A token of HTTP (RFC 9110, 5.6.2), for header names.
pub(super) fn is_token(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qualified_name_has_at_most_one_prefix() {
        for name in ["app", "app.kubernetes.io/name", "A_b.c-d"] {
            assert!(is_qualified_name(name), "{name}");
        }
        for name in ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "A.b/c", &"a".repeat(64)] {
            assert!(!is_qualified_name(name), "{name}");
        }
    }
}
