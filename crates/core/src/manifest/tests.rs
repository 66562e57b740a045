//! What may be written, what comes back, and what is refused by its name.

use super::*;
use serde_json::json;

fn read(document: &serde_json::Value) -> Result<Manifest, String> {
    let TypeMeta { api_version, kind } =
        serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    let kind = Kind::find(&api_version, &kind).map_err(|error| error.to_string())?;
    kind.deserialize(document).map_err(|error| error.to_string())
}

#[track_caller]
fn check_comes_back(document: serde_json::Value) {
    let manifest = read(&document).unwrap();
    assert_eq!(serde_json::to_value(manifest).unwrap(), document);
}

#[test]
fn what_was_written_comes_back() {
    check_comes_back(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "cart", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"},
            "resourceVersion": "7", "creationTimestamp": "2026-11-22T22:00:00Z", "uid": "u", "generation": 2,
        },
        "spec": {
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "appProtocol": "http"},
                {"port": 81},
            ],
            "selector": {"app": "cart"}, "clusterIP": "None",
        },
    }));
    check_comes_back(json!({
        "apiVersion": "meshwork.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "cart-1"},
        "spec": {
            "address": "10.0.0.7", "serviceAccount": "cart", "weight": 3,
            "locality": {"region": "eu", "zone": "a"},
            "ports": [{"port": 8080}, {"port": 81, "servicePort": 80, "address": "[::1]:4711", "transports": ["mtls-http1", "mtls-tcp"]}],
        },
    }));
    check_comes_back(json!({
        "apiVersion": "meshwork.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"},
        "spec": {
            "accessLog": "errors", "leafTtl": "24h", "inbound": {"mode": "permissive"},
            "outbound": {"unknown": "passthrough", "namespaces": [{"name": "shop", "unknown": "deny"}]},
        },
    }));
    check_comes_back(http_route());
    check_comes_back(traffic_policy());
}

fn traffic_policy() -> serde_json::Value {
    json!({
        "apiVersion": "meshwork.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "cart"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "cart", "sectionName": "http"}],
            "timeouts": {"request": "10s", "backendRequest": "2s", "connect": "500ms", "idle": "1m"},
            "retry": {"attempts": 2, "backoff": "25ms"},
            "retryConstraint": {
                "budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 10, "interval": "1s"},
            },
            "limits": {
                "connections": 1, "pendingRequests": 2, "requests": 3,
                "endpoint": {"connections": 4, "requests": 5},
            },
            "outlierDetection": {
                "consecutive5xx": 1, "consecutiveGatewayErrors": 2, "consecutiveConnectFailures": 3,
                "interval": "10s", "successRateStdevPercent": 190, "successRateRequestsMin": 100,
                "ejection": "5s", "ejectionMax": "5m", "ejectedPercentMax": 50, "panicPercent": 40,
            },
            "slowStart": {"window": "30s"},
        },
    })
}

#[test]
fn an_unknown_field_of_a_policy_is_refused_by_name() {
    for part in
        ["", "/timeouts", "/retryConstraint/budget", "/limits/endpoint", "/outlierDetection", "/slowStart"]
    {
        let mut document = traffic_policy();
        document.pointer_mut(&format!("/spec{part}")).unwrap()["patience"] = json!(1);
        let error = read(&document).unwrap_err();
        assert!(error.contains("unknown field `patience`"), "{part}: {error}");
    }
}

fn http_route() -> serde_json::Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "split"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart", "namespace": "shop", "port": 80}],
            "rules": [{
                "matches": [{
                    "path": {"type": "Exact", "value": "/a"}, "method": "GET",
                    "headers": [{"type": "Exact", "name": "x", "value": "1"}],
                }],
                "filters": [{
                    "type": "RequestHeaderModifier",
                    "requestHeaderModifier": {
                        "set": [{"name": "a", "value": "1"}], "add": [{"name": "b", "value": "2"}], "remove": ["c"],
                    },
                }],
                "backendRefs": [{"name": "cart", "port": 80, "weight": 90}],
                "timeouts": {"request": "10s", "backendRequest": "0s"},
                "retry": {"codes": [502, 503], "attempts": 3, "backoff": "50ms"},
            }],
        },
    })
}

#[test]
fn status_is_accepted_and_left_out() {
    let mut document = http_route();
    document["status"] = json!({"parents": [{"anything": true}]});
    assert_eq!(read(&document), read(&http_route()));
}

#[test]
fn the_books_of_kubernetes_are_accepted_and_left_out() {
    let mut document = http_route();
    document["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
    document["metadata"]["selfLink"] = json!("/apis/x");
    assert_eq!(read(&document), read(&http_route()));
    assert_eq!(serde_json::to_value(read(&document).unwrap()).unwrap(), http_route());
}

#[test]
fn null_maps_and_lists_are_empty() {
    let document = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart", "labels": null},
        "spec": {"ports": [{"port": 80}], "selector": null},
    });
    assert!(read(&document).is_ok());
}

#[track_caller]
fn check_refused(at: &str, value: serde_json::Value, expect: &str) {
    let mut document = http_route();
    if at.starts_with("/spec/ports") {
        document = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"},
            "spec": {"ports": [{"port": 80}]},
        });
    }
    let (parent, name) = at.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[name] = value;
    let error = read(&document).unwrap_err();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    check_refused("/extra", json!(1), "unknown field `extra`");
    check_refused("/metadata/finalizers", json!([]), "unknown field `finalizers`");
    check_refused("/metadata/ownerReferences", json!([]), "unknown field `ownerReferences`");
    check_refused("/metadata/deletionTimestamp", json!("x"), "unknown field `deletionTimestamp`");
    check_refused("/spec/hostnames", json!(["a"]), "unknown field `hostnames`");
    check_refused("/spec/rules/0/timeouts", json!({"connect": "1s"}), "unknown field `connect`");
    check_refused("/spec/rules/0/timeouts", json!({"request": "1 s"}), "not a duration");
    check_refused(
        "/spec/rules/0/retry",
        json!({"codes": ["503"]}),
        "expected a status as a number, 400 to 599",
    );
    check_refused("/spec/rules/0/retry", json!({"attempts": 1.5}), "expected a whole number");
    check_refused("/spec/rules/0/sessionPersistence", json!({}), "unknown field `sessionPersistence`");
    check_refused("/spec/rules/0/matches/0/queryParams", json!([]), "unknown field `queryParams`");
    check_refused(
        "/spec/rules/0/matches/0/path/type",
        json!("RegularExpression"),
        "unknown variant `RegularExpression`",
    );
    check_refused("/spec/rules/0/filters/0/type", json!("RequestMirror"), "unknown variant `RequestMirror`");
    check_refused("/spec/rules/0/matches/0/method", json!("get"), "unknown variant `get`");
    check_refused("/spec/ports/0/nodePort", json!(30080), "unknown field `nodePort`");
    check_refused("/spec/ports/0/protocol", json!("UDP"), "unknown variant `UDP`");
    check_refused(
        "/spec/ports/0/port",
        json!(65_536),
        "integer `65536`, expected a port as a number, 1 to 65535",
    );
    check_refused("/spec/ports/0/port", json!(-1), "integer `-1`, expected a port");
    check_refused("/spec/ports/0/port", json!("80"), "without quotes");
    check_refused("/spec/rules/0/backendRefs/0/weight", json!(-1), "expected a weight");
    check_refused("/spec/ports/0/targetPort", json!(65_536), "1 to 65535");
    check_refused("/spec/ports/0/targetPort", json!("http"), "\"http\" is a name");
}

#[test]
fn an_unknown_kind_is_told_the_known_ones() {
    let error = Kind::find("v1", "Pod").unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown kind \"Pod\" in apiVersion \"v1\" (known: meshwork.dev/v1alpha1 MeshConfig, v1 Service, \
         meshwork.dev/v1alpha1 Workload, gateway.networking.k8s.io/v1 HTTPRoute, meshwork.dev/v1alpha1 \
         TrafficPolicy)"
    );
}

#[test]
fn a_kind_is_found_by_every_word_for_it() {
    for kind in Kind::ALL {
        assert_eq!(Kind::find(kind.api_version(), kind.name()), Ok(*kind));
        for word in [kind.name(), kind.plural(), &kind.name().to_lowercase()].iter().chain(kind.words()) {
            assert_eq!(Kind::from_word(word), Some(*kind), "{word}");
        }
    }
    for (kind, short) in [
        (Kind::Service, "svc"),
        (Kind::Workload, "wl"),
        (Kind::HttpRoute, "route"),
        (Kind::HttpRoute, "routes"),
        (Kind::TrafficPolicy, "tp"),
        (Kind::MeshConfig, "MC"),
    ] {
        assert_eq!(Kind::from_word(short), Some(kind));
    }
    assert_eq!(Kind::from_word("pod"), None);
}

#[test]
fn a_document_without_a_namespace_is_in_the_default_one() {
    assert_eq!(read(&http_route()).unwrap().key(), Key::new("default", "split"));
    let config = MeshConfig::new(
        Metadata { name: "default".to_owned(), ..Metadata::default() },
        MeshConfigSpec::default(),
    );
    assert_eq!(Manifest::MeshConfig(config).key(), Key::new("", "default"));
}
