//! One row for each thing that may be wrong with a document.

use super::*;
use crate::manifest::Kind;
use crate::model::{Balance, Check, HashKey, HashTable, Health, HealthCheck, Key, Probe, RouteRule};
use crate::policy::{
    ConnectPolicy, Distribution, OutlierPolicy, RetryBudget, RetryPolicy, RuleRetry, Traffic,
};
use crate::resource::{MtlsMode, Unknown};
use serde::de::DeserializeSeed;
use serde_json::{Value, json};
use std::num::NonZeroU32;

fn judge(kind: Kind, metadata: Value, spec: Value) -> Result<Declared, Vec<Problem>> {
    let document =
        json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec});
    manifest(&kind.deserialize(document).unwrap())
}

/// Each expected problem as (path, part of its message), in order.
#[track_caller]
fn check(judged: Result<Declared, Vec<Problem>>, expect: &[(&str, &str)]) {
    let problems = judged.err().unwrap_or_default();
    let found: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    let paths: Vec<_> = expect.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, paths, "{problems:#?}");
    for (problem, (_, message)) in problems.iter().zip(expect) {
        assert!(problem.message.contains(message), "{problem}");
        assert!(!problem.cure.is_empty());
    }
}

fn named(name: &str) -> Value {
    json!({"name": name})
}

#[track_caller]
fn check_service(metadata: Value, spec: Value, expect: &[(&str, &str)]) {
    check(judge(Kind::Service, metadata, spec), expect);
}

#[test]
fn a_service_is_read_with_its_defaults() {
    let spec = json!({"ports": [{"port": 80}], "selector": {"app": "cart"}});
    let Ok(Declared::Service(service)) = judge(Kind::Service, named("cart"), spec) else {
        panic!("refused");
    };
    let port = ServicePort { name: None, port: 80, target_port: 80, app_protocol: None };
    let expect = Service {
        key: Key::new("default", "cart"),
        ports: vec![port],
        selector: [("app".to_owned(), "cart".to_owned())].into(),
        headless: false,
        accounts: ["cart".to_owned()].into(),
        balance: Balance::PeakEwma,
        cluster_ip: None,
        inbound: Default::default(),
        virtual_address: None,
    };
    assert_eq!(service, expect);
}

#[test]
fn a_services_cluster_ip_is_an_address_that_others_can_reach() {
    let with = |address: &str| {
        judge(Kind::Service, named("cart"), json!({"ports": [{"port": 80}], "clusterIP": address}))
    };
    let Ok(Declared::Service(service)) = with("10.96.0.7") else { panic!("refused") };
    assert_eq!((service.cluster_ip, service.headless), (Some([10, 96, 0, 7].into()), false));
    check(with("127.0.0.1"), &[("spec.clusterIP", "127.0.0.1 is a loopback address")]);
    check(with("::ffff:127.0.0.1"), &[("spec.clusterIP", "127.0.0.1 is a loopback address")]);
    check(with("224.0.0.1"), &[("spec.clusterIP", "224.0.0.1 can't be a service's")]);
    check(with("169.254.169.254"), &[("spec.clusterIP", "link-local")]);
}

#[test]
fn a_services_annotations_say_who_serves_it_and_how() {
    let metadata = json!({
        "name": "cart", "namespace": "shop",
        "annotations": {"meshwork.dev/accounts": "cart, cart-canary", "meshwork.dev/balance": "roundRobin"},
    });
    let spec = json!({
        "clusterIP": "None",
        "ports": [
            {"name": "a", "port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c"},
            {"name": "b", "port": 81, "appProtocol": "tcp"},
        ],
    });
    let Ok(Declared::Service(service)) = judge(Kind::Service, metadata, spec) else {
        panic!("refused");
    };
    assert_eq!(service.accounts, ["cart".to_owned(), "cart-canary".to_owned()].into());
    assert_eq!(service.balance, Balance::RoundRobin);
    assert!(service.headless);
    assert_eq!(service.ports[0].target_port, 8080);
    assert_eq!(service.ports[0].app_protocol, Some(AppProtocol::Http2));
    assert_eq!(service.ports[1].app_protocol, Some(AppProtocol::Tcp));
}

#[test]
fn all_problems_of_a_service_are_told_at_once() {
    check_service(
        json!({
            "name": "Cart", "namespace": "a.b", "labels": {"-": "ok", "ok": "-"},
            "annotations": {
                "a b": "", "meshwork.dev/acounts": "x", "meshwork.dev/accounts": "Cart", "meshwork.dev/balance": "random",
            },
        }),
        json!({
            "selector": {"app": "not a value"},
            "ports": [
                {"name": "a", "port": 0},
                {"name": "A", "port": 80, "targetPort": 0},
                {"name": "a", "port": 80, "appProtocol": "quic"},
                {"port": 81},
            ],
        }),
        &[
            ("metadata.name", "not a DNS label"),
            ("metadata.namespace", "not a DNS label"),
            ("metadata.labels[\"-\"]", "not a label's name"),
            ("metadata.labels[\"ok\"]", "not a label's value"),
            ("metadata.annotations[\"a b\"]", "not an annotation's name"),
            ("metadata.annotations[\"meshwork.dev/acounts\"]", "no annotation of that name"),
            ("metadata.annotations[\"meshwork.dev/accounts\"]", "can't be a service account"),
            ("metadata.annotations[\"meshwork.dev/balance\"]", "no way to balance"),
            ("spec.selector[\"app\"]", "not a label's value"),
            ("spec.ports[0].port", "0 is no port"),
            ("spec.ports[0].targetPort", "0 is no port"),
            ("spec.ports[1].targetPort", "0 is no port"),
            ("spec.ports[1].name", "not a DNS label"),
            ("spec.ports[2].port", "twice"),
            ("spec.ports[2].name", "twice"),
            ("spec.ports[2].appProtocol", "\"quic\" is not known"),
            ("spec.ports[3].name", "must name each"),
        ],
    );
    check_service(named("cart"), json!({"ports": []}), &[("spec.ports", "0 entries, not 1 to 128")]);
}

#[track_caller]
fn check_workload(spec: Value, expect: &[(&str, &str)]) {
    check(judge(Kind::Workload, named("cart-1"), spec), expect);
}

#[test]
fn a_workload_written_by_hand_is_reached_in_plaintext() {
    let spec = json!({"address": "10.0.0.7", "ports": [{"port": 8080}]});
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    let port = WorkloadPort {
        service_port: None,
        app_port: 8080,
        address: "10.0.0.7:8080".parse().unwrap(),
        transports: vec![Transport::Plaintext],
        check: Check::Unasked,
        health: Health::Healthy,
    };
    assert_eq!(workload.ports, [port]);
    assert_eq!(
        (workload.account.as_str(), workload.weight, workload.health),
        ("default", 1, Health::Healthy)
    );
}

#[track_caller]
fn check_of(written: Value, expect: Check) {
    let spec = json!({"address": "10.0.0.7", "ports": [{"port": 8080, "healthCheck": written}]});
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    assert_eq!(workload.ports[0].check, expect);
}

#[test]
fn a_check_is_as_it_was_asked_for() {
    check_of(json!({"type": "none"}), Check::Off);
    check_of(json!({"type": "tcp"}), Check::Asked(HealthCheck::default()));
    let probe = Probe::Http { path: "/ok".to_owned(), status: Some(204) };
    check_of(
        json!({"type": "http", "path": "/ok", "status": 204, "interval": "30s", "timeout": "5s"}),
        Check::Asked(HealthCheck {
            probe,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }),
    );
    let probe = Probe::Grpc { service: "shop.Cart".to_owned() };
    check_of(
        json!({"type": "grpc", "service": "shop.Cart"}),
        Check::Asked(HealthCheck { probe, ..HealthCheck::default() }),
    );
}

#[test]
fn a_check_that_can_not_be_done_is_refused() {
    let check = |transports: &[&str], written: Value, expect: &[(&str, &str)]| {
        let port = json!({"port": 8080, "transports": transports, "healthCheck": written});
        check_workload(json!({"address": "10.0.0.7", "ports": [port]}), expect);
    };
    let plain = &["plaintext"];
    let at = |field: &'static str| -> &'static str {
        match field {
            "path" => "spec.ports[0].healthCheck.path",
            "status" => "spec.ports[0].healthCheck.status",
            "interval" => "spec.ports[0].healthCheck.interval",
            "timeout" => "spec.ports[0].healthCheck.timeout",
            _ => "spec.ports[0].healthCheck.type",
        }
    };
    check(plain, json!({"type": "tcp", "path": "/"}), &[(at("path"), "type tcp has no path")]);
    check(plain, json!({"type": "http", "path": "ok"}), &[(at("path"), "can't be asked for")]);
    check(plain, json!({"type": "http", "status": 99}), &[(at("status"), "no answer has this status")]);
    check(plain, json!({"type": "tcp", "interval": "500ms"}), &[(at("interval"), "not between 1s and 5m")]);
    check(plain, json!({"type": "tcp", "timeout": "11s"}), &[(at("timeout"), "longer than the interval")]);
    check(&["mtls-http1"], json!({"type": "http"}), &[(at("type"), "only a sidecar can look")]);
}

#[test]
fn a_registered_workload_is_reached_at_its_sidecars_sockets() {
    let spec = json!({
        "serviceAccount": "cart", "weight": 0, "locality": {"region": "eu", "zone": "a"},
        "ports": [{"port": 8080, "servicePort": 80, "address": "127.0.0.1:40123", "transports": ["mtls-http1", "mtls-tcp"]}],
    });
    let Ok(Declared::Workload(workload)) = judge(Kind::Workload, named("cart-1"), spec) else {
        panic!("refused");
    };
    assert_eq!(workload.ports[0].address, "127.0.0.1:40123".parse().unwrap());
    assert_eq!(workload.ports[0].service_port, Some(80));
    assert_eq!(workload.ports[0].transports, [Transport::MtlsHttp1, Transport::MtlsTcp]);
    assert_eq!(workload.locality, Locality { region: "eu".to_owned(), zone: "a".to_owned() });
}

#[test]
fn all_problems_of_a_workload_are_told_at_once() {
    check_workload(
        json!({
            "serviceAccount": "a/b", "weight": 1_000_001, "locality": {"region": "e u"},
            "ports": [
                {"port": 80},
                {"port": 81, "address": "0.0.0.0:1", "transports": []},
                {"port": 81, "address": "169.254.1.1:0", "transports": ["plaintext", "mtls-http1"]},
                {"port": 82, "address": "10.0.0.7:1", "transports": ["mtls-tcp", "mtls-tcp"]},
            ],
        }),
        &[
            ("spec.serviceAccount", "can't be a service account"),
            ("spec.weight", "more than 1000000"),
            ("spec.locality.region", "not the name of a place"),
            ("spec.ports[0].address", "neither the port nor the workload"),
            ("spec.ports[1].address", "can't be an endpoint"),
            ("spec.ports[1].transports", "empty"),
            ("spec.ports[2].port", "twice"),
            ("spec.ports[2].address", "link-local"),
            ("spec.ports[2].address", "0 is no port"),
            ("spec.ports[2].transports", "plaintext stands beside mTLS"),
            ("spec.ports[3].transports", "a transport stands twice"),
        ],
    );
    check_workload(json!({"ports": []}), &[]); // it only calls others
}

#[test]
fn a_mesh_has_one_config() {
    let spec = json!({"accessLog": "all", "leafTtl": "48h"});
    let expect = MeshConfig {
        access_log: crate::model::AccessLog::All,
        leaf_ttl: Duration::from_secs(48 * 3_600),
        ..MeshConfig::default()
    };
    assert_eq!(judge(Kind::MeshConfig, named("default"), spec), Ok(Declared::MeshConfig(expect)));
    assert_eq!(
        judge(Kind::MeshConfig, named("default"), json!({})),
        Ok(Declared::MeshConfig(MeshConfig::default()))
    );
    check(
        judge(Kind::MeshConfig, json!({"name": "other", "namespace": "default"}), json!({"leafTtl": "9s"})),
        &[
            ("metadata.namespace", "the whole mesh"),
            ("metadata.name", "not named \"other\""),
            ("spec.leafTtl", "9s is not between 10s and 720h"),
        ],
    );
    for (text, holds) in [("10s", true), ("720h", true), ("721h", false), ("0s", false)] {
        let judged = judge(Kind::MeshConfig, named("default"), json!({"leafTtl": text}));
        assert_eq!(judged.is_ok(), holds, "{text}");
    }
}

#[test]
fn a_mesh_says_what_becomes_of_unknown_destinations_and_of_plaintext() {
    let spec = json!({
        "outbound": {"namespaces": [{"name": "shop", "unknown": "deny"}]}, "inbound": {"mode": "permissive"},
    });
    let Ok(Declared::MeshConfig(config)) = judge(Kind::MeshConfig, named("default"), spec) else {
        panic!("refused");
    };
    assert_eq!(config.inbound, MtlsMode::Permissive);
    assert_eq!(config.unknown.of("shop"), Unknown::Deny);
    assert_eq!(config.unknown.of("default"), Unknown::Passthrough);
    let twice = json!({"outbound": {"unknown": "deny", "namespaces": [
        {"name": "shop", "unknown": "deny"}, {"name": "Shop", "unknown": "deny"}, {"name": "shop", "unknown": "passthrough"},
    ]}});
    check(
        judge(Kind::MeshConfig, named("default"), twice),
        &[
            ("spec.outbound.namespaces[1].name", "not a DNS label"),
            ("spec.outbound.namespaces[2].name", "\"shop\" stands in the list twice"),
        ],
    );
}

#[test]
fn a_service_says_of_each_port_whether_it_takes_plaintext() {
    let with = |mode: &str| {
        let metadata = json!({"name": "cart", "annotations": {"meshwork.dev/inbound-mode": mode}});
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
        judge(Kind::Service, metadata, json!({"ports": ports}))
    };
    let modes = |mode: &str| match with(mode) {
        Ok(Declared::Service(service)) => [80, 81].map(|port| service.inbound.of(port)),
        other => panic!("{other:?}"),
    };
    let (strict, permissive) = (Some(MtlsMode::Strict), Some(MtlsMode::Permissive));
    assert_eq!(modes("permissive"), [permissive, permissive]);
    assert_eq!(modes("81=permissive"), [None, permissive]);
    assert_eq!(modes("permissive, 80 = strict"), [strict, permissive]);
    let path = "metadata.annotations[\"meshwork.dev/inbound-mode\"]";
    check(with("open"), &[(path, "\"open\" is neither strict nor permissive")]);
    check(with(""), &[(path, "\"\" is neither")]);
    check(with("82=strict"), &[(path, "no port \"82\"")]);
    check(with("http=strict"), &[(path, "no port \"http\"")]);
    check(with("80=strict,80=permissive"), &[(path, "once more")]);
}

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

fn judge_policy(spec: Value) -> Result<Declared, Vec<Problem>> {
    let mut whole = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    judge(Kind::TrafficPolicy, named("cart"), whole)
}

#[track_caller]
fn traffic(spec: Value) -> Traffic {
    match judge_policy(spec) {
        Ok(Declared::TrafficPolicy(policy)) => policy.traffic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_that_says_nothing_is_the_default() {
    assert_eq!(traffic(json!({})), Traffic::default());
    let empty = json!({
        "timeouts": {}, "retry": {}, "retryConstraint": {}, "limits": {"endpoint": {}}, "outlierDetection": {},
    });
    assert_eq!(traffic(empty), Traffic::default());
}

#[test]
fn a_policys_words_reach_their_values() {
    let told = traffic(json!({
        "timeouts": {"request": "10s", "backendRequest": "0s", "connect": "500ms", "idle": "1m"},
        "retry": {"attempts": 0, "backoff": "5ms"},
        "retryConstraint": {
            "budget": {"percent": 30, "interval": "20s"}, "minRetryRate": {"count": 120, "interval": "1m"},
        },
        "limits": {
            "connections": 1, "pendingRequests": 2, "requests": 3, "endpoint": {"connections": 4, "requests": 5},
        },
        "outlierDetection": {"consecutive5xx": 0, "ejection": "1s", "panicPercent": 0},
        "slowStart": {"window": "30s"},
    }));
    let seconds = Duration::from_secs;
    assert_eq!(told.timeouts, Timeouts { request: Some(seconds(10)), backend_request: None });
    assert_eq!(told.connect, ConnectPolicy { timeout: Duration::from_millis(500), idle: Some(seconds(60)) });
    let budget = RetryBudget { percent: 30, interval: seconds(20), min_per_second: 2 };
    assert_eq!(told.retry, RetryPolicy { attempts: 0, backoff: Duration::from_millis(5), budget });
    let limits = [
        told.limits.connections,
        told.limits.pending_requests,
        told.limits.requests,
        told.limits.endpoint_connections,
        told.limits.endpoint_requests,
    ];
    assert_eq!(limits.map(|limit| limit.map_or(0, NonZeroU32::get)), [1, 2, 3, 4, 5]);
    let outlier = OutlierPolicy {
        consecutive_5xx: 0,
        ejection: seconds(1),
        panic_percent: 0,
        ..OutlierPolicy::default()
    };
    assert_eq!((told.outlier, told.slow_start), (outlier, Some(seconds(30))));
}

#[test]
fn all_problems_of_a_policy_are_told_at_once() {
    let targets = json!([
        {"group": "apps", "kind": "Deployment", "name": "cart"},
        {"kind": "Service", "name": "Cart", "sectionName": "H"},
        {"kind": "Service", "name": "Cart", "sectionName": "H"},
    ]);
    check(
        judge_policy(json!({
            "targetRefs": targets,
            "timeouts": {"request": "1s", "backendRequest": "2s", "connect": "0s", "idle": "0s"},
            "retry": {"attempts": 11, "backoff": "2m"},
            "retryConstraint": {
                "budget": {"percent": 101, "interval": "0s"}, "minRetryRate": {"count": 3, "interval": "2s"},
            },
            "limits": {"connections": 0, "endpoint": {"requests": 1_000_001}},
            "outlierDetection": {"ejectedPercentMax": 101, "interval": "1ms", "ejection": "10m"},
            "slowStart": {"window": "0s"},
        })),
        &[
            ("spec.targetRefs[0]", "a Deployment of the group \"apps\""),
            ("spec.targetRefs[1].name", "not a DNS label"),
            ("spec.targetRefs[1].sectionName", "not a DNS label"),
            ("spec.targetRefs[2].name", "not a DNS label"),
            ("spec.targetRefs[2].sectionName", "not a DNS label"),
            ("spec.targetRefs[2]", "twice"),
            ("spec.timeouts.backendRequest", "longer than the whole request"),
            ("spec.timeouts.connect", "0s is not between 10ms and 2m"),
            ("spec.timeouts.idle", "0s is not between"),
            ("spec.retry.attempts", "11 is not between 0 and 10"),
            ("spec.retry.backoff", "2m is not between"),
            ("spec.retryConstraint.budget.percent", "101 is not between 0 and 100"),
            ("spec.retryConstraint.budget.interval", "0s is not between 1s and 1h"),
            ("spec.retryConstraint.minRetryRate", "3 in 2s is no whole number a second"),
            ("spec.limits.connections", "0 is not between 1 and 1000000"),
            ("spec.limits.endpoint.requests", "1000001 is not between"),
            ("spec.outlierDetection.ejectedPercentMax", "101 is not between"),
            ("spec.outlierDetection.interval", "1ms is not between 100ms and 1h"),
            ("spec.outlierDetection.ejection", "10m, is longer than the longest, 5m"),
            ("spec.slowStart.window", "0s is not between"),
        ],
    );
    check(
        judge(Kind::TrafficPolicy, named("cart"), json!({"targetRefs": []})),
        &[("spec.targetRefs", "0 entries, not 1 to 16")],
    );
}

#[track_caller]
fn balanced(load_balancer: Value) -> (Option<Balance>, Distribution) {
    match judge_policy(json!({"loadBalancer": load_balancer})) {
        Ok(Declared::TrafficPolicy(policy)) => (policy.balance, policy.traffic.distribution),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policys_ways_to_balance_reach_their_values() {
    let check = |written: Value, expect: Option<Balance>| {
        assert_eq!(balanced(written), (expect, Distribution::Anywhere));
    };
    check(json!({}), None);
    check(json!({"type": "peakEwma"}), Some(Balance::PeakEwma));
    check(json!({"type": "roundRobin"}), Some(Balance::RoundRobin));
    check(json!({"type": "leastRequest"}), Some(Balance::LeastRequest));
    check(json!({"type": "random"}), Some(Balance::Random));
    let ring = HashTable::Ring { size_min: 1_024, size_max: 65_536 };
    let key = HashKey::Header("x-user".to_owned());
    let header = json!({"type": "header", "name": "X-User"});
    check(json!({"type": "ringHash", "hash": header}), Some(Balance::Hash { table: ring, key }));
    let sized = HashTable::Ring { size_min: 16, size_max: 64 };
    check(
        json!({"type": "ringHash", "hash": {"type": "source"}, "minimumRingSize": 16, "maximumRingSize": 64}),
        Some(Balance::Hash { table: sized, key: HashKey::Source }),
    );
    let session = |given| HashKey::Cookie { name: "Session".to_owned(), given };
    let key = session(None);
    let cookie = json!({"type": "cookie", "name": "Session"});
    let maglev = |size| Some(Balance::Hash { table: HashTable::Maglev { size }, key: key.clone() });
    check(json!({"type": "maglev", "hash": cookie}), maglev(65_537));
    check(json!({"type": "maglev", "hash": cookie, "tableSize": 251}), maglev(251));
    for (ttl, given) in [("0s", Duration::ZERO), ("9600h", Duration::from_secs(400 * 86_400))] {
        let cookie = json!({"type": "cookie", "name": "Session", "ttl": ttl});
        let key = session(Some(given));
        check(json!({"type": "ringHash", "hash": cookie}), Some(Balance::Hash { table: ring, key }));
    }
    let near = json!({"trafficDistribution": "PreferSameZone"});
    assert_eq!(balanced(near), (None, Distribution::PreferSameZone));
}

#[test]
fn a_way_to_balance_that_means_nothing_is_refused() {
    let check_one = |load_balancer: Value, problems: &[(&str, &str)]| {
        check(judge_policy(json!({"loadBalancer": load_balancer})), problems);
    };
    let hash = "spec.loadBalancer.hash";
    check_one(json!({"type": "ringHash"}), &[(hash, "nothing is said of what is hashed")]);
    check_one(
        json!({"type": "random", "hash": {"type": "source"}, "tableSize": 7}),
        &[(hash, "of ringHash or maglev only"), ("spec.loadBalancer.tableSize", "of maglev only")],
    );
    check_one(
        json!({"type": "maglev", "hash": {"type": "source"}, "tableSize": 65_536, "minimumRingSize": 7}),
        &[
            ("spec.loadBalancer.tableSize", "65536 is not a prime number"),
            ("spec.loadBalancer.minimumRingSize", "of ringHash only"),
        ],
    );
    let source = json!({"type": "source"});
    check_one(
        json!({"type": "ringHash", "hash": source, "minimumRingSize": 100_000, "maximumRingSize": 2_000_000}),
        &[("spec.loadBalancer.maximumRingSize", "2000000 is not between 1 and 1048576")],
    );
    check_one(
        json!({"type": "ringHash", "hash": source, "minimumRingSize": 100_000}),
        &[("spec.loadBalancer.minimumRingSize", "larger than the largest, 65536")],
    );
    let name = "spec.loadBalancer.hash.name";
    for (written, problem) in [
        (json!({"type": "header"}), "there is no name"),
        (json!({"type": "cookie", "name": "a b"}), "\"a b\" is not the name"),
        (json!({"type": "source", "name": "x"}), "the source has no name"),
    ] {
        check_one(json!({"type": "ringHash", "hash": written}), &[(name, problem)]);
    }
    for (written, problem) in [
        (json!({"type": "header", "name": "x", "ttl": "1h"}), "ttl is of a cookie only"),
        (json!({"type": "cookie", "name": "x", "ttl": "9601h"}), "9601h is not between 0s and 9600h"),
    ] {
        check_one(json!({"type": "ringHash", "hash": written}), &[("spec.loadBalancer.hash.ttl", problem)]);
    }
}
