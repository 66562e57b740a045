//! Which rule of a route takes a request, and which of its backends.
//!
//! `compile` has sorted the rules by Gateway API's precedence, so the first that matches wins. TCP has
//! nothing to match: it takes `rule_for_opaque`.
//!
//! Pure, borrows, allocates nothing: this runs for every request.

use meshwork_http::Head;

use crate::model::{PathMatch, RouteMatch};
use crate::resource::{Route, Rule, WeightedBackend};

/// The rule for a request; `None`: 404 `no_route`.
pub fn select<'a>(route: &'a Route, head: &Head) -> Option<&'a Rule> {
    route.rules.iter().find(|rule| rule.matches.iter().any(|wanted| matches(wanted, head)))
}

/// The rule for bytes that are not parsed: the last, which is the least specific one.
pub fn rule_for_opaque(route: &Route) -> Option<&Rule> {
    route.rules.last()
}

/// The backend for one request, each by its share of the rule's weights; `None`: 500 `no_backend`.
pub fn backend(rule: &Rule, random: u64) -> Option<&WeightedBackend> {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut left = share(random, total)?;
    rule.backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let taken = left < weight;
        left = left.saturating_sub(weight);
        taken
    })
}

/// Scales a random number to `0..total` without the bias of a remainder; `None` if there is nothing.
pub(crate) fn share(random: u64, total: u64) -> Option<u64> {
    let scaled = (u128::from(random) * u128::from(total)) >> 64;
    (total > 0).then_some(scaled as u64)
}

fn matches(wanted: &RouteMatch, head: &Head) -> bool {
    matches_path(&wanted.path, head.path())
        && wanted.method.as_ref().is_none_or(|method| method == head.method())
        && wanted.headers.iter().all(|(name, value)| has_header(head, name, value))
}

fn matches_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            // `/a/` means the same as `/a` (Gateway API); `/` takes everything, `*` of OPTIONS too.
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            match path.strip_prefix(prefix) {
                Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
                None => false,
            }
        }
    }
}

/// Whether one of the fields of that name has exactly that value.
fn has_header(head: &Head, name: &str, value: &str) -> bool {
    head.fields()
        .any(|(field, found)| field.eq_ignore_ascii_case(name.as_bytes()) && found == value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeaderModifier, Key};
    use crate::name::PortName;
    use meshwork_http::Version;

    fn rule(name: &str, matches: Vec<RouteMatch>) -> Rule {
        Rule {
            name: name.to_owned(),
            matches,
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
            backends: Vec::new(),
            timeouts: Default::default(),
            retry: None,
        }
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        head.start_request(Version::Http11, method, path);
        for (name, value) in headers {
            head.append(name, value.as_bytes());
        }
        head
    }

    #[track_caller]
    fn check_path(wanted: PathMatch, path: &str, expect: bool) {
        let route = Route {
            name: PortName::new(Key::new("default", "cart"), 80),
            rules: vec![rule("r", vec![RouteMatch { path: wanted, ..RouteMatch::default() }])],
        };
        assert_eq!(select(&route, &request("GET", path, &[])).is_some(), expect, "{path}");
    }

    #[test]
    fn a_prefix_matches_whole_elements() {
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        check_path(prefix("/a"), "/a", true);
        check_path(prefix("/a"), "/a/", true);
        check_path(prefix("/a"), "/a/b", true);
        check_path(prefix("/a"), "/a?b", true);
        check_path(prefix("/a"), "/ab", false);
        check_path(prefix("/a/"), "/a", true);
        check_path(prefix("/a/"), "/a/b", true);
        check_path(prefix("/a/"), "/ab", false);
        check_path(prefix("/"), "/anything", true);
        check_path(prefix("/"), "*", true);
        check_path(prefix("/"), "", true);
    }

    #[test]
    fn an_exact_path_matches_itself_whatever_the_query() {
        let exact = || PathMatch::Exact("/a".to_owned());
        check_path(exact(), "/a", true);
        check_path(exact(), "/a?b=c", true);
        check_path(exact(), "/a/", false);
        check_path(exact(), "/A", false);
    }

    #[track_caller]
    fn check(head: &Head, expect: Option<&str>) {
        let header = |value: &str| vec![("x-canary".to_owned(), value.to_owned())];
        let by_header = RouteMatch { headers: header("yes"), ..RouteMatch::default() };
        let by_method = RouteMatch { method: Some("POST".to_owned()), ..RouteMatch::default() };
        let both =
            RouteMatch { method: Some("PUT".to_owned()), headers: header("no"), ..RouteMatch::default() };
        let route = Route {
            name: PortName::new(Key::new("default", "cart"), 80),
            rules: vec![rule("canary", vec![by_header]), rule("write", vec![by_method, both])],
        };
        assert_eq!(select(&route, head).map(|rule| rule.name.as_str()), expect);
    }

    #[test]
    fn the_first_rule_with_a_match_whose_parts_all_hold_wins() {
        check(&request("POST", "/", &[("X-Canary", "yes")]), Some("canary"));
        check(&request("POST", "/", &[("X-Canary", "Yes")]), Some("write"));
        check(&request("PUT", "/", &[("x-canary", "no")]), Some("write"));
        check(&request("PUT", "/", &[]), None);
        check(&request("post", "/", &[]), None);
    }

    #[test]
    fn any_field_of_the_name_may_hold_the_value() {
        check(&request("GET", "/", &[("x-canary", "no"), ("x-canary", "yes")]), Some("canary"));
        check(&request("GET", "/", &[("x-canary", "no"), ("x-canary", "yes, yes")]), None);
    }

    fn weighted(weights: &[u32]) -> Rule {
        let backend = |(index, weight): (usize, &u32)| WeightedBackend {
            cluster: PortName::new(Key::new("default", format!("b{index}")), 80),
            weight: *weight,
        };
        Rule { backends: weights.iter().enumerate().map(backend).collect(), ..rule("r", Vec::new()) }
    }

    #[test]
    fn a_rule_without_weight_has_no_backend() {
        for weights in [&[][..], &[0], &[0, 0]] {
            assert_eq!(backend(&weighted(weights), 7), None);
        }
    }

    #[test]
    fn the_ends_of_the_random_range_are_the_first_and_the_last_backend_with_weight() {
        let rule = weighted(&[0, 1_000_000, 1, 0]);
        assert_eq!(backend(&rule, 0), Some(&rule.backends[1]));
        assert_eq!(backend(&rule, u64::MAX), Some(&rule.backends[2]));
    }

    #[test]
    fn backends_get_their_share_within_four_sigma() {
        const REQUESTS: u32 = 200_000;
        for weights in [&[90, 10][..], &[1, 1, 1], &[1, 0, 999]] {
            let rule = weighted(weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0_u32; weights.len()];
            let mut random = 7_u64;
            for _ in 0..REQUESTS {
                random = crate::balance::mix(random);
                let chosen = backend(&rule, random).unwrap();
                counts[rule.backends.iter().position(|backend| backend == chosen).unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(weights) {
                let p = f64::from(*weight) / f64::from(total);
                let mean = f64::from(REQUESTS) * p;
                let sigma = (mean * (1.0 - p)).sqrt();
                assert!((f64::from(*count) - mean).abs() <= 4.0 * sigma, "{weights:?}: {counts:?}");
            }
        }
    }
}
