//! The operators' API over its socket: what may be declared, and what is told of it.

mod common;

use common::{Log, Plane, service, soon};
use serde_json::{Value, json};

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} of {value}"))
}

#[tokio::test]
async fn what_was_applied_is_read_back_until_it_is_deleted() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let answer = operator.apply_ok(&(service("default", "cart", 80) + &service("shop", "web", 80))).await;
    assert_eq!(
        answer["applied"][1],
        json!({"kind": "Service", "namespace": "shop", "name": "web", "outcome": "created"})
    );

    let (status, cart) = operator.get("/api/v1/namespaces/default/services/cart").await;
    assert_eq!((status, &cart["spec"]["ports"][0]["port"]), (200, &json!(80)));
    assert_eq!(text(&cart, "/metadata/resourceVersion"), answer["revision"].to_string());
    assert!(text(&cart, "/metadata/creationTimestamp").ends_with('Z'));

    let (_, all) = operator.get("/api/v1/services").await;
    let (_, shop) = operator.get("/api/v1/Service?namespace=shop").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    assert_eq!(text(&shop, "/items/0/metadata/name"), "web");

    // What `get` showed can be applied again, as JSON, and changes nothing.
    let again = operator.apply_ok(&cart.to_string()).await;
    assert_eq!(
        (&again["applied"][0]["outcome"], &again["revision"]),
        (&json!("unchanged"), &answer["revision"])
    );

    let (status, _) = operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    assert_eq!(status, 200);
    let (status, gone) = operator.get("/api/v1/namespaces/default/services/cart").await;
    assert_eq!((status, text(&gone, "/error/word")), (404, "not_found"));
    let (status, _) = operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    assert_eq!(status, 404);
    plane.control.stop().await;
}

/// A service's two addresses as `get` shows them.
async fn addresses(plane: &Plane, name: &str) -> Value {
    let (status, shown) = plane.operator().get(&format!("/api/v1/namespaces/default/services/{name}")).await;
    assert_eq!(status, 200, "{shown}");
    shown["status"]["virtualAddresses"].clone()
}

#[tokio::test]
async fn a_service_has_addresses_that_outlive_changes_deletion_and_restarts() {
    let plane = Plane::start().await;
    let both = service("default", "cart", 80) + &service("default", "web", 80);
    plane.operator().apply_ok(&both).await;
    let (cart, web) = (addresses(&plane, "cart").await, addresses(&plane, "web").await);
    assert!(text(&cart, "/0").starts_with("240.") && text(&cart, "/1").starts_with("fd"), "{cart}");
    assert_ne!(cart, web);

    plane.operator().apply_ok(&service("default", "cart", 81)).await;
    assert_eq!(addresses(&plane, "cart").await, cart, "another port is no other service");
    plane.operator().send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    let plane = plane.restart_with(|_| ()).await;
    assert_eq!(addresses(&plane, "web").await, web);
    plane.operator().apply_ok(&service("default", "cart", 80)).await;
    assert_eq!(addresses(&plane, "cart").await, cart, "it came back within a day");

    let range = "10.9.8.0/24".parse().unwrap();
    let plane = plane.restart_with(|settings| settings.virtual_range = range).await;
    assert!(text(&addresses(&plane, "cart").await, "/0").starts_with("10.9.8."));
    plane.control.stop().await;
}

#[tokio::test]
async fn addresses_come_back_with_a_backup_those_that_rest_too() {
    let plane = Plane::start().await;
    plane.operator().apply_ok(&(service("default", "cart", 80) + &service("default", "web", 80))).await;
    let (cart, web) = (addresses(&plane, "cart").await, addresses(&plane, "web").await);
    plane.operator().send("DELETE", "/api/v1/namespaces/default/services/web", "").await;
    let backup = plane.operator().bytes("/api/v1/backup").await;
    plane.control.stop().await;

    let dir = tempfile::tempdir().unwrap();
    meshwork_control::restore(dir.path(), &backup).unwrap();
    let control = meshwork_control::start(common::settings(dir.path(), |_| ())).await.unwrap();
    let plane = Plane { control, dir };
    assert_eq!(addresses(&plane, "cart").await, cart);
    plane.operator().apply_ok(&service("default", "web", 80)).await;
    assert_eq!(addresses(&plane, "web").await, web);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_service_for_which_no_address_is_left_is_made_and_told_so() {
    let plane = Plane::start_with(|settings| settings.virtual_range = "10.9.8.0/24".parse().unwrap()).await;
    let all: String = (0..255).map(|number| service("default", &format!("s{number}"), 80)).collect();
    let answer = plane.operator().apply_ok(&all).await;
    assert_eq!(answer["applied"].as_array().unwrap().len(), 255);
    let mut without = Vec::new();
    for number in 0..255 {
        let name = format!("s{number}");
        if addresses(&plane, &name).await.is_null() {
            without.push(name);
        }
    }
    assert_eq!(without.len(), 1);
    let path = format!("/api/v1/describe/services/default/{}", without[0]);
    let (_, described) = plane.operator().get(&path).await;
    let problem = text(&described, "/problems/0/message");
    assert!(problem.contains("every address of 10.9.8.0/24 is taken"), "{described}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_bad_document_among_good_ones_is_shown_and_nothing_is_applied() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  lables: {}\nspec:\n  ports: []\n";
    let good = service("default", "cart", 80);
    let (status, answer) = operator.apply(&format!("{good}{bad}")).await;
    assert_eq!((status, text(&answer, "/error/word")), (422, "invalid"));
    let error = &answer["error"];
    let line = good.lines().count() + 5;
    assert_eq!(
        (text(error, "/file"), &error["line"], &error["column"]),
        ("shop.yaml", &json!(line), &json!(3))
    );
    assert!(text(error, "/message").contains("unknown field `lables`"), "{error}");
    assert!(text(error, "/snippet").ends_with("  lables: {}\n   |   ^"), "{error}");
    let (_, all) = operator.get("/api/v1/services").await;
    assert_eq!(all["items"], json!([]));
    plane.control.stop().await;
}

#[tokio::test]
async fn every_bad_document_is_named_at_once() {
    let plane = Plane::start().await;
    let documents = [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
        "apiVersion: v2\nkind: Service\nmetadata: {name: a}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], type: NodePort}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n",
        "- 1\n",
    ];
    let (status, answer) = plane.operator().apply(&documents.join("---\n")).await;
    assert_eq!(status, 422);
    let error = &answer["error"];
    assert!(text(error, "/message").contains("unknown kind \"Pod\""), "{error}");
    assert_eq!(error["line"], json!(2), "{error}");
    assert!(text(error, "/more/0/message").contains("known: "), "{error}");
    assert!(text(error, "/more/1/message").contains("unknown field `type`"), "{error}");
    assert!(text(error, "/more/2/message").starts_with("spec.ports[0].port: 0 is no port; "), "{error}");
    assert_eq!(error["more"][2]["column"], json!(23), "{error}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_document_for_another_version_is_a_conflict() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let first = operator.apply_ok(&service("default", "cart", 80)).await["revision"].as_u64().unwrap();
    let second = operator.apply_ok(&service("default", "cart", 81)).await["revision"].as_u64().unwrap();
    assert!(second > first);
    let versioned = |version: u64| {
        service("default", "cart", 82)
            .replace("metadata:\n", &format!("metadata:\n  resourceVersion: \"{version}\"\n"))
    };
    let (status, answer) = operator.apply(&(service("default", "web", 80) + &versioned(first))).await;
    assert_eq!((status, text(&answer, "/error/word")), (409, "conflict"));
    assert_eq!(answer["error"]["line"], json!(16), "{answer}");
    let (status, _) = operator.get("/api/v1/namespaces/default/services/web").await;
    assert_eq!(status, 404, "all or nothing");
    operator.apply_ok(&versioned(second)).await;
    let path = format!("/api/v1/namespaces/default/services/cart?resourceVersion={second}");
    let (status, _) = operator.send("DELETE", &path, "").await;
    assert_eq!(status, 409);
    plane.control.stop().await;
}

#[tokio::test]
async fn what_a_list_showed_can_be_applied_again() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let both = service("default", "cart", 80) + &service("shop", "web", 80);
    let revision = operator.apply_ok(&both).await["revision"].clone();
    let (_, list) = operator.get("/api/v1/services").await;
    let answer = operator.apply_ok(&list.to_string()).await;
    assert_eq!(answer["revision"], revision, "nothing changed");
    assert_eq!(answer["applied"].as_array().unwrap().len(), 2, "{answer}");

    // Each of them holds for the version that it had.
    operator.apply_ok(&service("shop", "web", 81)).await;
    let (status, answer) = operator.apply(&list.to_string()).await;
    assert_eq!(status, 409);
    assert!(text(&answer, "/error/message").starts_with("Service shop/web was written for"), "{answer}");
    plane.control.stop().await;
}

/// As `kubectl get httproute -o yaml` prints it.
const FROM_KUBERNETES: &str = r#"apiVersion: v1
items:
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata:
    annotations:
      example.com/team: carts
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute"}
    creationTimestamp: "2026-11-22T22:00:00Z"
    generation: 3
    managedFields:
    - apiVersion: gateway.networking.k8s.io/v1
      fieldsType: FieldsV1
      fieldsV1: {"f:spec": {".": {}, "f:rules": {}}}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2026-11-22T22:00:00Z"
    name: split
    namespace: default
    resourceVersion: "184467"
    selfLink: /apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/split
    uid: 9d5e4b4e-3a31-4a52-9c0f-0d3d4f5c1a11
  spec:
    parentRefs:
    - group: ""
      kind: Service
      name: cart
    rules:
    - backendRefs:
      - group: ""
        kind: Service
        name: cart
        port: 80
        weight: 1
      matches:
      - path:
          type: PathPrefix
          value: /
  status:
    parents: []
kind: List
metadata:
  resourceVersion: ""
  selfLink: ""
"#;

#[tokio::test]
async fn what_kubernetes_prints_can_be_applied() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    for outcome in ["created", "unchanged"] {
        let answer = operator.apply_ok(FROM_KUBERNETES).await;
        assert_eq!(answer["applied"][0]["outcome"], outcome);
    }
    let (_, split) = operator.get("/api/v1/namespaces/default/httproutes/split").await;
    assert_eq!(split["metadata"]["annotations"], json!({"example.com/team": "carts"}));
    let mut fields: Vec<&String> = split["metadata"].as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["annotations", "creationTimestamp", "name", "namespace", "resourceVersion"]);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_list_of_one_kind_says_it_for_its_items() {
    let plane = Plane::start().await;
    let list = json!({
        "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "9", "remainingItemCount": 1},
        "items": [{"metadata": {"name": "cart"}, "spec": {"ports": [{"port": 80}]}}],
    });
    let answer = plane.operator().apply_ok(&list.to_string()).await;
    assert_eq!(
        (&answer["applied"][0]["kind"], &answer["applied"][0]["name"]),
        (&json!("Service"), &json!("cart"))
    );
    plane.control.stop().await;
}

#[tokio::test]
async fn each_item_of_a_list_is_judged_where_it_stands() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let list = "kind: List\napiVersion: v1\nitems:\n\
                - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 0, targetPort: 1}]}}\n\
                - {apiVersion: v1, kind: List, items: []}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: c, finalizers: [x]}, spec: {ports: []}}\n\
                ---\nkind: List\napiVersion: v1\nitem: []\n";
    let (status, answer) = operator.apply(list).await;
    assert_eq!(status, 422);
    let error = &answer["error"];
    let told = std::iter::once(error).chain(error["more"].as_array().unwrap());
    let told: Vec<String> =
        told.map(|flaw| format!("{}: {}", flaw["line"], text(flaw, "/message"))).collect();
    let expect = [
        "5: Service default/a is there twice; the first is at line 4",
        "6: spec.ports[0].port: 0 is no port; ",
        "7: unknown kind \"List\"",
        "8: unknown field `finalizers`",
        "12: unknown field `item`; known here: apiVersion, kind, metadata, items",
    ];
    assert_eq!(told.len(), expect.len(), "{told:#?}");
    for (told, expect) in told.iter().zip(expect) {
        assert!(told.starts_with(expect), "{told}\nwant {expect}");
    }
    let (status, answer) = operator.apply("{apiVersion: v1, kind: List, items: []}").await;
    assert_eq!((status, text(&answer, "/error/message")), (422, "there is no document in it"));
    let many = format!("items: [{}1]\napiVersion: v1\nkind: List\n---\n", "1,".repeat(9_999)).repeat(3);
    let (status, answer) = operator.apply(&many).await;
    let told = text(&answer, "/error/message");
    assert_eq!((status, told), (422, "more than 20000 documents in one text; split it"));
    plane.control.stop().await;
}

#[tokio::test]
async fn every_write_is_audited() {
    let log = Log::start();
    let plane = Plane::start().await;
    let operator = plane.operator();
    operator.apply_ok(&service("default", "cart", 80)).await;
    operator.apply("kind: Nonsense").await;
    operator.token("default", "cart").await;
    operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    let who = format!("who=\"uid {}\"", rustix::process::getuid().as_raw());
    let audit = |action: &str, what: &str, outcome: &str| {
        log.assert_line(&["meshwork::audit", &who, &format!("action=\"{action}\""), what, outcome]);
    };
    audit("apply", "Service default/cart", "written");
    audit("apply", "shop.yaml", "refused");
    audit("create", "token for default/cart", "written");
    audit("delete", "Service default/cart", "written");
    audit("delete", "Service default/cart", "refused");
    plane.control.stop().await;
}

#[tokio::test]
async fn what_is_amiss_is_a_warning_and_refuses_nothing() {
    let plane = Plane::start().await;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: split}\nspec:\n  \
                 parentRefs: [{group: '', kind: Service, name: cart}]\n  \
                 rules: [{backendRefs: [{name: cart-v2, port: 80}]}]\n---\n";
    let answer = plane.operator().apply_ok(&(route.to_owned() + &service("default", "cart", 80))).await;
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!(
        (&warnings[0]["name"], text(&warnings[0], "/path")),
        (&json!("split"), "spec.rules[0].backendRefs[0].name")
    );
    assert!(text(&warnings[1], "/message").contains("no workload"), "{answer}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_dry_run_judges_and_writes_nothing() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let (status, answer) =
        operator.send("POST", "/api/v1/apply?dryRun=1", &service("default", "cart", 80)).await;
    assert_eq!(
        (status, &answer["dryRun"], &answer["applied"][0]["outcome"]),
        (200, &json!(true), &json!("created"))
    );
    let (_, all) = operator.get("/api/v1/services").await;
    assert_eq!(all["items"], json!([]));
    plane.control.stop().await;
}

#[tokio::test]
async fn a_watch_tells_what_changes() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let start = operator.apply_ok(&service("default", "cart", 80)).await["revision"].as_u64().unwrap();

    let mut from_now = operator.watch(&format!("/api/v1/services?watch=1&resourceVersion={start}")).await;
    let mut from_all = operator.watch("/api/v1/services?watch=1&namespace=default").await;
    let told = async |lines: &mut common::Lines| {
        let line = lines.next().await.unwrap();
        let name =
            line.pointer("/object/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        (line["type"].as_str().unwrap().to_owned(), name)
    };
    let pair = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    assert_eq!(told(&mut from_all).await, pair("ADDED", "cart"));
    assert_eq!(told(&mut from_all).await, pair("BOOKMARK", ""));

    operator.apply_ok(&service("shop", "web", 80)).await;
    operator.apply_ok(&service("default", "cart", 81)).await;
    operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    assert_eq!(told(&mut from_now).await, pair("ADDED", "web"));
    for lines in [&mut from_now, &mut from_all] {
        assert_eq!(told(lines).await, pair("MODIFIED", "cart"));
        assert_eq!(told(lines).await, pair("DELETED", "cart"));
    }
    let ended = common::soon(plane.control.stop());
    let (_, end) = tokio::join!(ended, from_now.next());
    assert_eq!(end, None, "the watch ends with the control plane");
}

#[tokio::test]
async fn a_watch_shows_an_object_as_a_list_does() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let mut lines = operator.watch("/api/v1/services?watch=1").await;
    assert_eq!(lines.next().await.unwrap()["type"], "BOOKMARK");
    for (port, change) in [(80, "ADDED"), (81, "MODIFIED")] {
        operator.apply_ok(&service("default", "cart", port)).await;
        let (_, list) = operator.get("/api/v1/services").await;
        assert!(list["items"][0]["status"]["virtualAddresses"][0].is_string(), "{list}");
        assert_eq!(lines.next().await.unwrap(), json!({"type": change, "object": list["items"][0]}));
    }
    // Nothing is known of it any more but what it was.
    operator.send("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    let line = lines.next().await.unwrap();
    assert_eq!((&line["type"], &line["object"]["spec"]["ports"][0]["port"]), (&json!("DELETED"), &json!(81)));
    assert_eq!(line["object"]["status"], Value::Null);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_watch_from_before_the_log_is_gone() {
    let plane = Plane::start_with(|settings| settings.changes_kept = 5).await;
    let operator = plane.operator();
    for port in 80..90 {
        operator.apply_ok(&service("default", "cart", port)).await;
    }
    let (status, answer) = operator.get("/api/v1/services?watch=1&resourceVersion=3").await;
    assert_eq!((status, text(&answer, "/error/word")), (410, "gone"));
    let (status, _) = operator.get("/api/v1/services?watch=1&resourceVersion=99999999").await;
    assert_eq!(status, 400);
    plane.control.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_sentence() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    for (method, path, body, expect) in [
        ("GET", "/api/v1/pods", "", 404),
        ("GET", "/api/v1/services?namspace=x", "", 400),
        ("GET", "/api/v2/services", "", 404),
        ("POST", "/api/v1/apply", "", 422),
        ("POST", "/api/v1/tokens", "{}", 400),
        ("POST", "/api/v1/tokens", r#"{"service": "cart", "ttlSeconds": 0}"#, 400),
        ("POST", "/api/v1/tokens", r#"{"service": "control", "namespace": "meshwork-system"}"#, 400),
        ("PUT", "/api/v1/services", "", 400),
    ] {
        let (status, answer) = operator.send(method, path, body).await;
        assert_eq!(status, expect, "{method} {path}: {answer}");
        assert!(!text(&answer, "/error/message").is_empty());
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn the_state_belongs_to_its_user_and_its_trust_domain() {
    use std::os::unix::fs::PermissionsExt;
    let plane = Plane::start().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(plane.dir.path()), 0o700);
    assert_eq!(mode(plane.control.operator_socket()), 0o600);
    plane.control.stop().await;
    let other =
        common::settings(plane.dir.path(), |settings| settings.trust_domain = "other.mesh".to_owned());
    let error = meshwork_control::start(other).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("mesh.local") && error.contains("--state-dir"), "{error}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_a_sentence() {
    let plane = Plane::start().await;
    let (status, answer) = plane.operator().apply(&"#".repeat(17 << 20)).await;
    assert_eq!((status, text(&answer, "/error/word")), (413, "too_large"), "{answer}");
    plane.control.stop().await;
}

#[tokio::test]
async fn status_and_describe_tell_what_the_documentation_says() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    operator.apply_ok(&service("default", "cart", 80)).await;
    let (_, status) = operator.get("/api/v1/status").await;
    for field in ["meshId", "trustDomain", "version", "address", "revision", "keys", "services", "proxies"] {
        assert!(!status[field].is_null(), "{field} in {status}");
    }
    let (_, described) = operator.get("/api/v1/describe/svc/default/cart").await;
    assert_eq!(described["resource"]["metadata"]["name"], "cart", "{described}");
    assert_eq!(described["endpoints"], json!([]));
    let config = "apiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLog: all}\n";
    operator.apply_ok(config).await;
    let (status, found) = operator.get("/api/v1/namespaces/default/meshconfigs/default").await;
    assert_eq!((status, &found["spec"]["accessLog"]), (200, &json!("all")));
    let (_, all) = operator.get("/api/v1/meshconfigs?namespace=default").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    let (status, _) = operator.send("DELETE", "/api/v1/namespaces/default/meshconfigs/default", "").await;
    assert_eq!(status, 200);
    plane.control.stop().await;
}

fn policy(name: &str, service: &str) -> String {
    format!(
        "apiVersion: meshwork.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  timeouts: {{request: 10s}}\n---\n"
    )
}

/// The older of two policies holds. The other is told so where it was written and wherever it is looked at, until
/// the way is free.
#[tokio::test]
async fn a_policy_is_told_how_it_stands() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    operator.apply_ok(&(service("default", "cart", 80) + &policy("first", "cart"))).await;
    // Of the same second, so the name decides.
    let answer = operator.apply_ok(&(policy("second", "cart") + &policy("lost", "gone"))).await;
    assert!(text(&answer, "/warnings/0/message").starts_with("Conflicted: the TrafficPolicy default/first"));
    assert!(
        text(&answer, "/warnings/1/message").starts_with("TargetNotFound: there is no Service default/gone")
    );

    let standing = async |name: &str| {
        let (_, shown) = operator.get(&format!("/api/v1/namespaces/default/trafficpolicies/{name}")).await;
        let condition = &shown["status"]["ancestors"][0]["conditions"][0];
        assert_eq!(condition["type"], "Accepted");
        format!("{} {}", text(condition, "/status"), text(condition, "/reason"))
    };
    assert_eq!(standing("first").await, "True Accepted");
    assert_eq!(standing("second").await, "False Conflicted");
    assert_eq!(standing("lost").await, "False TargetNotFound");
    let described = async |what: &str| operator.get(&format!("/api/v1/describe/{what}")).await.1;
    assert_eq!(described("tp/default/second").await["problems"][0]["path"], "spec.targetRefs[0]");
    assert_eq!(described("svc/default/cart").await["policies"], json!(["default/first"]));

    let (status, _) = operator.send("DELETE", "/api/v1/namespaces/default/tp/first", "").await;
    assert_eq!(status, 200);
    assert_eq!(standing("second").await, "True Accepted");
    assert_eq!(described("svc/default/cart").await["policies"], json!(["default/second"]));

    let wrong = policy("wrong", "cart").replace("{request: 10s}", "{request: 1s, connects: 1s}");
    let (status, answer) = operator.apply(&wrong).await;
    assert_eq!(status, 422);
    assert!(answer.to_string().contains("unknown field `connects`"), "{answer}");
    plane.control.stop().await;
}

/// Who has connected, and speaks only once nobody new is let in.
async fn answer_of_a_late_word() -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let plane = Plane::start().await;
    let socket = plane.control.operator_socket().to_owned();
    let mut late = tokio::net::UnixStream::connect(&socket).await.unwrap();
    plane.operator().get("/api/v1/status").await; // who came before it has been let in by now
    let stopped = tokio::spawn(plane.control.stop());
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let request = b"GET /healthz HTTP/1.1\r\nHost: operator\r\n\r\n";
    let mut answer = Vec::new();
    if late.write_all(request).await.is_ok() {
        // Broken off: no answer.
        let _ = soon(late.read_to_end(&mut answer)).await;
    }
    stopped.await.unwrap();
    answer
}

#[tokio::test]
async fn whoever_was_let_in_before_the_end_is_answered() {
    // It is waited for two seconds: this test may itself be kept from its word for longer.
    for _ in 0..5 {
        let answer = answer_of_a_late_word().await;
        if answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    panic!("nobody was answered");
}
