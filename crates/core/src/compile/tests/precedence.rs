//! Gateway API's precedence said the other way round: of all matches that take a request, the one that no
//! other beats. Held against what `compile` sorted and `route::select` found first.

use super::*;
use meshwork_http::{Head, Version};
use proptest::prelude::*;

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        prop_oneof!["/a", "/a/b", "/"].prop_map(PathMatch::Exact),
        prop_oneof!["/", "/a", "/a/", "/a/b"].prop_map(PathMatch::Prefix),
    ];
    let method = proptest::option::of(prop_oneof!["GET", "PUT"]);
    let headers = proptest::sample::subsequence(vec!["x", "y"], 0..=2);
    (path, method, headers).prop_map(|(path, method, headers)| matching(path, method.as_deref(), &headers))
}

fn any_route() -> impl Strategy<Value = HttpRoute> {
    let rules = proptest::collection::vec(proptest::collection::vec(any_match(), 1..3), 1..3);
    ("[a-c]", 0..3_u64, rules).prop_map(|(name, created, rules)| HttpRoute {
        created,
        rules: rules.into_iter().map(|matches| rule(matches, Vec::new())).collect(),
        ..route("default", &name, "default", "cart")
    })
}

fn takes(wanted: &RouteMatch, path: &str, method: &str, headers: &[&str]) -> bool {
    let path_fits = match &wanted.path {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let elements = |path: &str| -> Vec<String> {
                path.split('/').filter(|element| !element.is_empty()).map(str::to_owned).collect()
            };
            elements(path).starts_with(&elements(prefix))
        }
    };
    path_fits
        && wanted.method.as_ref().is_none_or(|wanted| wanted == method)
        && wanted.headers.iter().all(|(name, _)| headers.contains(&name.as_str()))
}

/// Whether one match comes before another, criterion by criterion.
fn beats(one: &(&HttpRoute, usize, &RouteMatch), other: &(&HttpRoute, usize, &RouteMatch)) -> bool {
    let exact = |wanted: &RouteMatch| matches!(wanted.path, PathMatch::Exact(_));
    let length = |wanted: &RouteMatch| match &wanted.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.trim_end_matches('/').len(),
    };
    let criteria = [
        exact(one.2).cmp(&exact(other.2)),
        length(one.2).cmp(&length(other.2)),
        one.2.method.is_some().cmp(&other.2.method.is_some()),
        one.2.headers.len().cmp(&other.2.headers.len()),
        other.0.created.cmp(&one.0.created),
        other.0.key.cmp(&one.0.key),
        other.1.cmp(&one.1),
    ];
    criteria.into_iter().find(|order| order.is_ne()).is_some_and(|order| order.is_gt())
}

proptest! {
    #[test]
    fn the_first_rule_is_the_one_that_no_other_beats(
        routes in proptest::collection::vec(any_route(), 1..4),
        path in prop_oneof!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab"],
        method in prop_oneof!["GET", "PUT", "POST"],
        headers in proptest::sample::subsequence(vec!["x", "y"], 0..=2),
    ) {
        let mut mesh = mesh();
        for route in routes {
            mesh.put_route(route);
        }
        let mut head = Head::default();
        head.start_request(Version::Http11, &method, &path);
        for name in &headers {
            head.append(name, b"1");
        }
        let Some(Resource::Route(compiled)) = compiled(&mesh, ResourceType::Route, "default/cart:80") else {
            panic!("no route");
        };
        let selected = crate::route::select(&compiled, &head).map(|rule| rule.name.clone());

        let all = mesh.routes().flat_map(|route| {
            let rules = route.rules.iter().enumerate();
            rules.flat_map(move |(index, rule)| rule.matches.iter().map(move |wanted| (&**route, index, wanted)))
        });
        let taking: Vec<_> = all.filter(|(_, _, wanted)| takes(wanted, &path, &method, &headers)).collect();
        let best = taking.iter().find(|one| !taking.iter().any(|other| beats(other, one)));
        let expect = best.map(|(route, index, _)| format!("{}#{index}", route.key));
        prop_assert_eq!(selected, expect);
    }
}
