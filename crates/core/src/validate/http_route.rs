//! `HTTPRoute` -> model. The limits on lists and lengths are those of Gateway API's own schema.

use super::{Problem, Problems, metadata};
use crate::manifest::{self, Filter, FilterType, HttpHeader, Modifier, PathType};
use crate::model::{BackendRef, HeaderModifier, HttpRoute, Key, ParentRef, PathMatch, RouteMatch, RouteRule};
use crate::policy::{RuleRetry, Timeouts};

const PARENTS_MAX: usize = 32;
const RULES_MAX: usize = 16;
const MATCHES_MAX: usize = 64;
const HEADERS_MAX: usize = 16;
const FILTERS_MAX: usize = 16;
const BACKENDS_MAX: usize = 16;
const RETRY_CODES_MAX: usize = 200;
const PATH_BYTES_MAX: usize = 1_024;
const HEADER_NAME_BYTES_MAX: usize = 256;
const HEADER_VALUE_BYTES_MAX: usize = 4_096;

pub(super) fn judge(document: &manifest::HttpRoute) -> Result<HttpRoute, Vec<Problem>> {
    let mut problems = Problems::default();
    metadata::judge(document, &mut problems);
    let (key, spec) = (document.key(), &document.spec);
    problems.count("spec.parentRefs", spec.parent_refs.len(), 1, PARENTS_MAX);
    problems.count("spec.rules", spec.rules.len(), 1, RULES_MAX);
    let parent =
        |(index, parent)| parent_ref(&format!("spec.parentRefs[{index}]"), parent, &key, &mut problems);
    let parents: Vec<_> = spec.parent_refs.iter().enumerate().map(parent).collect();
    if let Some(index) = (1..parents.len()).find(|index| parents[..*index].contains(&parents[*index])) {
        let message = "the same parent stands in the list twice".to_owned();
        problems.add(format!("spec.parentRefs[{index}]"), message, "give each parent once");
    }
    let mut rules = Vec::new();
    for (index, written) in spec.rules.iter().enumerate() {
        rules.push(rule(&format!("spec.rules[{index}]"), written, &key, &parents, &mut problems));
    }
    let created = problems.created(&document.metadata);
    problems.or(HttpRoute { key, parents, rules, created })
}

fn parent_ref(path: &str, written: &manifest::ParentRef, route: &Key, problems: &mut Problems) -> ParentRef {
    // Gateway API's defaults mean a Gateway, so a Service must be said in full.
    let is_service = written.kind.as_deref() == Some("Service");
    if !is_service || !matches!(written.group.as_deref(), Some("" | "core")) {
        problems.add(
            path.to_owned(),
            "a route of the mesh is bound to a Service, and left out, group and kind mean a Gateway"
                .to_owned(),
            "write kind: Service and group: \"\"",
        );
    }
    let service = reference(path, &written.name, written.namespace.as_deref(), route, problems);
    if let Some(port) = written.port {
        problems.port(&format!("{path}.port"), port);
    }
    ParentRef { service, port: written.port }
}

fn reference(path: &str, name: &str, namespace: Option<&str>, route: &Key, problems: &mut Problems) -> Key {
    problems.label(&format!("{path}.name"), name);
    if let Some(namespace) = namespace {
        problems.label(&format!("{path}.namespace"), namespace);
    }
    Key::new(namespace.unwrap_or(&route.namespace), name)
}

fn rule(
    path: &str,
    written: &manifest::Rule,
    route: &Key,
    parents: &[ParentRef],
    problems: &mut Problems,
) -> RouteRule {
    problems.count(&format!("{path}.matches"), written.matches.len(), 0, MATCHES_MAX);
    problems.count(&format!("{path}.filters"), written.filters.len(), 0, FILTERS_MAX);
    problems.count(&format!("{path}.backendRefs"), written.backend_refs.len(), 0, BACKENDS_MAX);
    let mut rule = RouteRule {
        matches: Vec::new(),
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        backends: Vec::new(),
        timeouts: timeouts(&format!("{path}.timeouts"), written.timeouts.as_ref(), problems),
        retry: written.retry.as_ref().map(|retry| judge_retry(&format!("{path}.retry"), retry, problems)),
    };
    for (index, written) in written.matches.iter().enumerate() {
        rule.matches.push(route_match(&format!("{path}.matches[{index}]"), written, problems));
    }
    if rule.matches.is_empty() {
        rule.matches.push(RouteMatch::default());
    }
    filters(path, &written.filters, &mut rule, problems);
    for (index, written) in written.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        rule.backends.push(backend_ref(&path, written, route, parents, problems));
    }
    rule
}

/// GEP-1742: a try is part of its request. `0s` is kept: it takes the place of the service's time-out.
fn timeouts(path: &str, written: Option<&manifest::RuleTimeouts>, problems: &mut Problems) -> Timeouts {
    let Some(manifest::RuleTimeouts { request, backend_request }) = written else {
        return Timeouts::default();
    };
    let timeouts = Timeouts {
        request: request.map(|limit| limit.0),
        backend_request: backend_request.map(|limit| limit.0),
    };
    super::judge_timeouts(path, timeouts, problems);
    timeouts
}

fn judge_retry(path: &str, written: &manifest::RuleRetry, problems: &mut Problems) -> RuleRetry {
    let manifest::RuleRetry { codes, attempts, backoff } = written;
    problems.count(&format!("{path}.codes"), codes.len(), 0, RETRY_CODES_MAX);
    for (index, code) in codes.iter().enumerate() {
        let path = format!("{path}.codes[{index}]");
        if !(400..=599).contains(&code.0) {
            let message = format!("{} is no status of a failure", code.0);
            problems.add(path, message, "write 400 to 599: what succeeded is not tried again");
        } else if codes[..index].contains(code) {
            problems.add(path, format!("{} stands in the list twice", code.0), "give each status once");
        }
    }
    RuleRetry {
        codes: codes.iter().map(|code| code.0).collect(),
        attempts: super::retry_attempts(path, *attempts, problems),
        backoff: super::retry_backoff(path, *backoff, problems),
    }
}

fn route_match(path: &str, written: &manifest::Match, problems: &mut Problems) -> RouteMatch {
    let path_type = written.path.as_ref().and_then(|path| path.path_type).unwrap_or(PathType::PathPrefix);
    let value = written.path.as_ref().and_then(|path| path.value.as_deref()).unwrap_or("/");
    judge_path(&format!("{path}.path.value"), value, problems);
    problems.count(&format!("{path}.headers"), written.headers.len(), 0, HEADERS_MAX);
    let mut headers: Vec<(String, String)> = Vec::new();
    for (index, header) in written.headers.iter().enumerate() {
        let path = format!("{path}.headers[{index}]");
        let header = judge_header(&path, &header.name, &header.value, problems);
        if headers.iter().any(|(name, _)| *name == header.0) {
            let message = format!("the header {:?} is matched twice", header.0);
            problems.add(
                format!("{path}.name"),
                message,
                "match each header once; a second match is another entry of `matches`",
            );
        }
        headers.push(header);
    }
    RouteMatch {
        path: match path_type {
            PathType::Exact => PathMatch::Exact(value.to_owned()),
            PathType::PathPrefix => PathMatch::Prefix(value.to_owned()),
        },
        method: written.method.map(|method| method.as_str().to_owned()),
        headers,
    }
}

/// Gateway API's rules for paths: nothing that a server could read as another path.
fn judge_path(path: &str, value: &str, problems: &mut Problems) {
    let segments_plain = value.split('/').all(|segment| segment != "." && segment != "..");
    let lower = value.to_ascii_lowercase();
    let ambiguous = value.contains("//") || lower.contains("%2f") || !segments_plain;
    let message = if !value.starts_with('/') {
        "the path does not begin with '/'"
    } else if value.len() > PATH_BYTES_MAX {
        "the path is longer than 1,024 bytes"
    } else if !is_path(value) {
        "the path holds a character that a path can't have unescaped"
    } else if ambiguous {
        "the path could be read as another one (//, /./, /../ or an escaped slash)"
    } else {
        return;
    };
    problems.add(
        path.to_owned(),
        format!("{message}: {value:?}"),
        "write the path as it stands in a request, without a query",
    );
}

/// RFC 3986, 3.3.
fn is_path(value: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b);
    let escapes_whole = value
        .split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
    value.bytes().all(allowed) && escapes_whole
}

/// Name (in lower case) and value of a header.
fn judge_header(path: &str, name: &str, value: &str, problems: &mut Problems) -> (String, String) {
    if !metadata::is_token(name) || name.len() > HEADER_NAME_BYTES_MAX {
        let message = format!("{name:?} is not a header's name");
        problems.add(format!("{path}.name"), message, "write up to 256 letters, digits or '-'");
    }
    let valid = |c: char| c == '\t' || !c.is_control();
    let trimmed = value.trim_matches([' ', '\t']) == value;
    if !value.chars().all(valid) || !trimmed || value.len() > HEADER_VALUE_BYTES_MAX {
        let message = "the value can't be sent in a header".to_owned();
        let cure = "write up to 4,096 bytes without line breaks, and without blanks at the ends";
        problems.add(format!("{path}.value"), message, cure);
    }
    (name.to_ascii_lowercase(), value.to_owned())
}

fn filters(path: &str, written: &[Filter], rule: &mut RouteRule, problems: &mut Problems) {
    let mut seen: Vec<FilterType> = Vec::new();
    for (index, filter) in written.iter().enumerate() {
        let path = format!("{path}.filters[{index}]");
        if seen.contains(&filter.filter_type) {
            let message = format!("a second {:?} in one rule", filter.filter_type);
            problems.add(path.clone(), message, "put all changes of headers into one filter");
        }
        seen.push(filter.filter_type);
        let (request, response) = (&filter.request_header_modifier, &filter.response_header_modifier);
        let (name, wanted, other, target) = match filter.filter_type {
            FilterType::RequestHeaderModifier => {
                ("requestHeaderModifier", request, response, &mut rule.request_headers)
            }
            FilterType::ResponseHeaderModifier => {
                ("responseHeaderModifier", response, request, &mut rule.response_headers)
            }
        };
        match (wanted, other) {
            (Some(modifier), None) => *target = judge_modifier(&format!("{path}.{name}"), modifier, problems),
            (Some(_) | None, _) => problems.add(
                path.clone(),
                format!("type {:?} stands with another field than {name}", filter.filter_type),
                "give the one field that the type names",
            ),
        }
    }
}

fn judge_modifier(path: &str, written: &Modifier, problems: &mut Problems) -> HeaderModifier {
    let mut modifier = HeaderModifier::default();
    let mut names: Vec<String> = Vec::new();
    let lists: [(&str, &[HttpHeader], &mut Vec<_>); 2] =
        [("set", &written.set, &mut modifier.set), ("add", &written.add, &mut modifier.add)];
    for (list, headers, target) in lists {
        problems.count(&format!("{path}.{list}"), headers.len(), 0, HEADERS_MAX);
        for (index, HttpHeader { name, value }) in headers.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let header = judge_header(&path, name, value, problems);
            judge_changeable(&format!("{path}.name"), &header.0, &mut names, problems);
            target.push(header);
        }
    }
    problems.count(&format!("{path}.remove"), written.remove.len(), 0, HEADERS_MAX);
    for (index, name) in written.remove.iter().enumerate() {
        let path = format!("{path}.remove[{index}]");
        let (name, _) = judge_header(&path, name, "", problems);
        judge_changeable(&path, &name, &mut names, problems);
        modifier.remove.push(name);
    }
    modifier
}

/// Headers that frame a message, steer a connection or are the mesh's word: a route that changes them would
/// break the message or tell the application something untrue.
const UNCHANGEABLE: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

fn judge_changeable(path: &str, name: &str, names: &mut Vec<String>, problems: &mut Problems) {
    let own = name.starts_with(crate::filter::OWN_PREFIX) || name.starts_with("proxy-");
    if own || UNCHANGEABLE.contains(&name) {
        let message = format!("a route can't change the header {name:?}");
        problems.add(path.to_owned(), message, "leave it to the mesh; use a header of your own");
    }
    if names.iter().any(|other| other == name) {
        let message = format!("the header {name:?} is changed twice");
        problems.add(path.to_owned(), message, "name each header once in set, add and remove together");
    }
    names.push(name.to_owned());
}

fn backend_ref(
    path: &str,
    written: &manifest::BackendRef,
    route: &Key,
    parents: &[ParentRef],
    problems: &mut Problems,
) -> BackendRef {
    let (kind, group) = (written.kind.as_deref(), written.group.as_deref());
    if !matches!(kind, None | Some("Service")) || !matches!(group, None | Some("" | "core")) {
        let message = "a backend is a Service".to_owned();
        problems.add(path.to_owned(), message, "write kind: Service and group: \"\", or leave both out");
    }
    let service = reference(path, &written.name, written.namespace.as_deref(), route, problems);
    // GEP-1294 would allow any namespace, as callers could go there themselves. This version keeps to the
    // route's own namespace and the very service that was called, which is easier to loosen than to tighten.
    let is_parent = parents.iter().any(|parent| parent.service == service);
    if service.namespace != route.namespace && !is_parent {
        problems.add(
            format!("{path}.namespace"),
            format!("the backend {service} is in another namespace than the route, which this version does not carry out"),
            "name a backend of the route's namespace, or the route's own parent",
        );
    }
    let weight = written.weight.unwrap_or(1);
    problems.weight(&format!("{path}.weight"), weight);
    match written.port {
        Some(port) => problems.port(&format!("{path}.port"), port),
        None => {
            let message = "a Service as backend needs a port".to_owned();
            problems.add(format!("{path}.port"), message, "write the Service's port");
        }
    }
    BackendRef { service, port: written.port.unwrap_or(0), weight }
}
