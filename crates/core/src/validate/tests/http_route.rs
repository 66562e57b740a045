//! `HTTPRoute`.

use super::*;

fn parent() -> Value {
    json!([{"group": "", "kind": "Service", "name": "cart"}])
}

#[track_caller]
fn check_rule(rule: Value, expect: &[(&str, &str)]) {
    let spec = json!({"parentRefs": parent(), "rules": [rule]});
    check(judge(Kind::HttpRoute, named("split"), spec), expect);
}

#[test]
fn a_route_is_read_with_its_defaults() {
    let metadata = json!({"name": "split.v1", "creationTimestamp": "1970-01-01T00:01:00Z"});
    let rules = json!([{
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "1"}]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["Server"]}},
        ],
        "backendRefs": [{"name": "cart-v2", "port": 80}],
    }]);
    let spec = json!({"parentRefs": parent(), "rules": rules});
    let Ok(Declared::HttpRoute(route)) = judge(Kind::HttpRoute, metadata, spec) else {
        panic!("refused");
    };
    assert_eq!(route.created, 60);
    assert_eq!(route.parents[0].service, Key::new("default", "cart"));
    let rule = &route.rules[0];
    assert_eq!(rule.matches, [crate::model::RouteMatch::default()]);
    assert_eq!(rule.request_headers.set, [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(rule.response_headers.remove, ["server"]);
    assert_eq!((rule.backends[0].port, rule.backends[0].weight), (80, 1));
}

#[test]
fn a_parent_is_a_service_said_in_full() {
    let rules = json!([{"backendRefs": [{"name": "cart", "port": 80}]}]);
    let spec = json!({
        "parentRefs": [
            {"name": "cart"},
            {"group": "", "kind": "Service", "name": "Cart", "namespace": "A", "port": 0},
            {"name": "cart"},
        ],
        "rules": rules,
    });
    check(
        judge(Kind::HttpRoute, named("split"), spec),
        &[
            ("spec.parentRefs[0]", "bound to a Service"),
            ("spec.parentRefs[1].name", "not a DNS label"),
            ("spec.parentRefs[1].namespace", "not a DNS label"),
            ("spec.parentRefs[1].port", "0 is no port"),
            ("spec.parentRefs[2]", "bound to a Service"),
            ("spec.parentRefs[2]", "twice"),
        ],
    );
    check(
        judge(
            Kind::HttpRoute,
            json!({"name": "A", "creationTimestamp": "x"}),
            json!({"parentRefs": [], "rules": []}),
        ),
        &[
            ("metadata.name", "is not a name"),
            ("spec.parentRefs", "0 entries"),
            ("spec.rules", "0 entries"),
            ("metadata.creationTimestamp", "RFC 3339"),
        ],
    );
}

#[test]
fn a_path_can_be_read_in_one_way_only() {
    for (value, message) in [
        ("a", "does not begin"),
        ("/a?b", "unescaped"),
        ("/a b", "unescaped"),
        ("/a%2", "unescaped"),
        ("/a//b", "another one"),
        ("/a/../b", "another one"),
        ("/a/.", "another one"),
        ("/a%2Fb", "another one"),
    ] {
        check_rule(
            json!({"matches": [{"path": {"value": value}}]}),
            &[("spec.rules[0].matches[0].path.value", message)],
        );
    }
    let long = format!("/{}", "a".repeat(1_024));
    check_rule(
        json!({"matches": [{"path": {"type": "Exact", "value": long}}]}),
        &[("spec.rules[0].matches[0].path.value", "longer than")],
    );
    check_rule(json!({"matches": [{"path": {"value": "/a/b.c/...;d=%20"}}]}), &[]);
}

#[test]
fn headers_are_matched_by_valid_names_once() {
    let headers = json!([
        {"name": "x y", "value": "1"}, {"name": "x", "value": "a\nb"}, {"name": "X", "value": "1"},
    ]);
    check_rule(
        json!({"matches": [{"headers": headers}]}),
        &[
            ("spec.rules[0].matches[0].headers[0].name", "not a header's name"),
            ("spec.rules[0].matches[0].headers[1].value", "can't be sent"),
            ("spec.rules[0].matches[0].headers[2].name", "matched twice"),
        ],
    );
}

#[test]
fn filters_change_each_header_once_and_none_of_the_meshs() {
    let modifier = json!({
        "set": [{"name": "x", "value": "1"}, {"name": "Content-Length", "value": "1"}],
        "add": [{"name": "X", "value": "1"}, {"name": "x-meshwork-cause", "value": "1"}],
        "remove": ["Host", "a b"],
    });
    let path = |rest: &str| format!("spec.rules[0].filters[0].requestHeaderModifier.{rest}");
    check_rule(
        json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}]}),
        &[
            (&path("set[1].name"), "can't change"),
            (&path("add[0].name"), "changed twice"),
            (&path("add[1].name"), "can't change"),
            (&path("remove[0]"), "can't change"),
            (&path("remove[1].name"), "not a header's name"),
        ],
    );
}

#[test]
fn a_filter_has_the_field_that_its_type_names() {
    let filters = json!([
        {"type": "RequestHeaderModifier"},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {}, "responseHeaderModifier": {}},
    ]);
    check_rule(
        json!({"filters": filters}),
        &[
            ("spec.rules[0].filters[0]", "another field"),
            ("spec.rules[0].filters[1]", "a second"),
            ("spec.rules[0].filters[1]", "another field"),
        ],
    );
}

#[test]
fn a_backend_is_a_service_of_the_routes_namespace() {
    let backends = json!([
        {"name": "cart", "kind": "Pod", "port": 80},
        {"name": "cart", "namespace": "shop", "port": 80},
        {"name": "cart", "weight": 1_000_001},
    ]);
    check_rule(
        json!({"backendRefs": backends}),
        &[
            ("spec.rules[0].backendRefs[0]", "is a Service"),
            ("spec.rules[0].backendRefs[1].namespace", "in another namespace"),
            ("spec.rules[0].backendRefs[2].weight", "more than"),
            ("spec.rules[0].backendRefs[2].port", "needs a port"),
        ],
    );
}

#[test]
fn a_consumer_route_may_send_on_to_its_parent() {
    let spec = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "cart", "namespace": "shop"}],
        "rules": [{"backendRefs": [{"name": "cart", "namespace": "shop", "port": 80}]}],
    });
    check(judge(Kind::HttpRoute, named("split"), spec), &[]);
}

#[test]
fn a_rules_timeouts_and_retry_are_read_as_they_were_meant() {
    let rules = json!([{
        "timeouts": {"request": "10s", "backendRequest": "0s"},
        "retry": {"codes": [503, 500], "backoff": "10ms"},
    }]);
    let spec = json!({"parentRefs": parent(), "rules": rules});
    let Ok(Declared::HttpRoute(route)) = judge(Kind::HttpRoute, named("split"), spec) else {
        panic!("refused");
    };
    let RouteRule { timeouts, retry, .. } = &route.rules[0];
    assert_eq!(timeouts.request, Some(Duration::from_secs(10)));
    assert_eq!(timeouts.backend_request, Some(Duration::ZERO), "said, and it means none");
    let backoff = Some(Duration::from_millis(10));
    assert_eq!(*retry, Some(RuleRetry { codes: [500, 503].into(), attempts: None, backoff }));
}

#[test]
fn a_try_is_part_of_its_request() {
    check_rule(
        json!({"timeouts": {"request": "1s", "backendRequest": "1001ms"}}),
        &[("spec.rules[0].timeouts.backendRequest", "1s1ms, which is longer than the whole request with 1s")],
    );
    check_rule(json!({"timeouts": {"request": "1s", "backendRequest": "1s"}}), &[]);
    check_rule(json!({"timeouts": {"request": "0s", "backendRequest": "1s"}}), &[]);
    check_rule(
        json!({"timeouts": {"request": "25h"}}),
        &[("spec.rules[0].timeouts.request", "25h is longer than 24h")],
    );
}

#[test]
fn only_failures_are_tried_again_and_not_forever() {
    check_rule(
        json!({"retry": {"codes": [200, 503, 503, 600], "attempts": 11, "backoff": "0s"}}),
        &[
            ("spec.rules[0].retry.codes[0]", "200 is no status of a failure"),
            ("spec.rules[0].retry.codes[2]", "twice"),
            ("spec.rules[0].retry.codes[3]", "600 is no status"),
            ("spec.rules[0].retry.attempts", "11 is not between 0 and 10"),
            ("spec.rules[0].retry.backoff", "0s is not between 1ms and 1m"),
        ],
    );
}
