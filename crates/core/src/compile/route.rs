//! A service's port as its callers' namespace sees it: the rules of all bound routes in one order.
//!
//! Callers of a namespace that has routes of its own for the service (consumer routes) get those alone;
//! everyone else gets the routes of the service's namespace (producer routes); without any, the service
//! itself. Routes that are bound replace the service's own way, so a request that no rule matches is a 404
//! (GEP-1294).

use std::cmp::Reverse;
use std::time::Duration;

use super::Features;
use crate::mesh::Mesh;
use crate::model::{HeaderModifier, HttpRoute, Key, PathMatch, RouteMatch, RouteRule};
use crate::name::PortName;
use crate::policy::Timeouts;
use crate::resource::{Route, Rule, WeightedBackend};

/// The rule of a service that no route is bound to.
pub const DEFAULT_RULE: &str = "default";

pub(super) fn route(mesh: &Mesh, name: &str, features: Features) -> Option<Route> {
    let name: PortName = name.parse().ok()?;
    if !super::instance::has_port(mesh, &name) {
        return None;
    }
    if name.instance.is_some() {
        // Routes are for who calls the service; whoever calls an instance means that one.
        let mut rules = vec![default_rule(&name)];
        rules.iter_mut().for_each(|rule| restrain(rule, features));
        return Some(Route { name, rules });
    }
    let owner = match &name.from {
        Some(from) if mesh.has_view(&name.service, name.port, from) => from,
        Some(_) => return None,
        None => &name.service.namespace,
    };
    let routes = mesh.routes_bound(&name.service, name.port, owner);
    let mut parts: Vec<Part<'_>> = routes.flat_map(|route| parts(route)).collect();
    parts.sort_by(|one, other| one.precedence().cmp(&other.precedence()));
    let mut rules = rejoined(parts.into_iter().map(Part::into_rule));
    // A bound route without rules is still a route: it matches nothing.
    let bound = mesh.routes_bound(&name.service, name.port, owner).next().is_some();
    if !bound {
        rules.push(default_rule(&name));
    }
    for rule in &mut rules {
        restrain(rule, features);
    }
    Some(Route { name, rules })
}

/// Takes out what means nothing here, or nothing to the asker.
fn restrain(rule: &mut Rule, features: Features) {
    if rule.backends.is_empty() {
        // Answered at once by the sidecar itself.
        (rule.timeouts, rule.retry) = (Timeouts::default(), None);
    } else if !features.has(Features::TRAFFIC) {
        // In so many words: a sidecar from before knows of no service that could say something else.
        rule.timeouts = Timeouts { request: Some(Duration::ZERO), backend_request: None };
        rule.retry = None;
    }
}

/// Matches of one rule that stand side by side are one rule again. On the wire they are one anyway, as only names
/// tell rules apart there: the resource must be what its reader makes of it.
fn rejoined(parts: impl Iterator<Item = Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for mut part in parts {
        match rules.last_mut() {
            Some(last) if last.name == part.name => last.matches.append(&mut part.matches),
            _ => rules.push(part),
        }
    }
    rules
}

fn default_rule(name: &PortName) -> Rule {
    Rule {
        name: DEFAULT_RULE.to_owned(),
        matches: vec![RouteMatch::default()],
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        backends: vec![WeightedBackend { cluster: PortName { from: None, ..name.clone() }, weight: 1 }],
        timeouts: Timeouts::default(),
        retry: None,
    }
}

/// One match of one rule. Precedence is among matches, so a rule with several is split into as many.
struct Part<'a> {
    route: &'a HttpRoute,
    index: usize,
    rule: &'a RouteRule,
    wanted: &'a RouteMatch,
}

fn parts(route: &HttpRoute) -> impl Iterator<Item = Part<'_>> {
    route.rules.iter().enumerate().flat_map(move |(index, rule)| {
        rule.matches.iter().map(move |wanted| Part { route, index, rule, wanted })
    })
}

/// Smaller goes first. Gateway API, `HTTPRouteRule.matches`: exact path, longest prefix, method, most
/// headers; then the oldest route, the route first by `namespace/name`, the first rule (the sort is stable,
/// which leaves the first match).
type Precedence<'a> = (bool, Reverse<usize>, bool, Reverse<usize>, u64, &'a Key, usize);

impl Part<'_> {
    fn precedence(&self) -> Precedence<'_> {
        let RouteMatch { path, method, headers } = self.wanted;
        let (is_prefix, length) = match path {
            PathMatch::Exact(path) => (false, path.len()),
            // `/a/` means the same as `/a`.
            PathMatch::Prefix(path) => (true, path.trim_end_matches('/').len()),
        };
        let headers = Reverse(headers.len());
        let HttpRoute { key, created, .. } = self.route;
        (is_prefix, Reverse(length), method.is_none(), headers, *created, key, self.index)
    }

    fn into_rule(self) -> Rule {
        let RouteRule { matches: _, request_headers, response_headers, backends, timeouts, retry } =
            self.rule;
        let backend = |backend: &crate::model::BackendRef| WeightedBackend {
            cluster: PortName::new(backend.service.clone(), backend.port),
            weight: backend.weight,
        };
        Rule {
            name: format!("{}#{}", self.route.key, self.index),
            matches: vec![self.wanted.clone()],
            request_headers: request_headers.clone(),
            response_headers: response_headers.clone(),
            backends: backends.iter().map(backend).collect(),
            timeouts: *timeouts,
            retry: retry.clone(),
        }
    }
}
