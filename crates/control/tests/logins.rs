//! Operators from other machines: over the TLS port, with a login token, as its role says.

mod common;

use common::{Lines, Plane, soon};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use meshwork_identity::{LoginToken, enrol_client_config};
use serde_json::{Value, json};

/// An operator on another machine, with what they present.
struct Remote<'p> {
    plane: &'p Plane,
    bearer: Option<String>,
}

impl Remote<'_> {
    /// A connection over which nothing was said yet.
    async fn stream(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        // The root is known by its hash alone, as `meshwork login` knows it.
        let (_, authority) = self.plane.operator().get("/api/v1/ca").await;
        let root = authority["roots"][0]["hash"].as_str().unwrap().parse().unwrap();
        let tls = enrol_client_config(root, &[b"http/1.1"]).unwrap();
        let address = self.plane.control.address();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = meshwork_identity::session_name(address);
        tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap()
    }

    async fn connect(&self) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let io = hyper_util::rt::TokioIo::new(self.stream().await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn request(&self, method: &str, path: &str, body: &str) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "control");
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
    }

    async fn open(&self, method: &str, path: &str, body: &str) -> http::Response<Incoming> {
        self.connect().await.send_request(self.request(method, path, body)).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let response = self.open(method, path, body).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "").await
    }

    async fn refusal(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.send(method, path, body).await;
        (status, answer["error"]["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// A login token's text.
async fn login(plane: &Plane, wanted: Value) -> String {
    let (status, answer) = plane.operator().send("POST", "/api/v1/login-tokens", &wanted.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

async fn remote(plane: &Plane, wanted: Value) -> Remote<'_> {
    Remote { plane, bearer: Some(login(plane, wanted).await) }
}

fn service(namespace: &str, name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}}}"
    )
}

/// The lines of `audit.log`.
fn audit(plane: &Plane) -> Vec<Value> {
    let text = std::fs::read_to_string(plane.dir.path().join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `docs/api.md` says of each route: method, path with something in each place, role. A test of the crate's holds the
/// page to the routes that are served.
fn documented() -> Vec<(String, String, String)> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = std::fs::read_to_string(file).unwrap();
    let section = page.split("## Roles").nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let mut cells =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        let (request, role) = (cells.next().unwrap(), cells.next().unwrap());
        let (method, path) = request.split_once(' ').unwrap();
        let path =
            path.replace("{kind}", "services").replace("{namespace}", "shop").replace("{name}", "cart");
        (method.to_owned(), path, role)
    };
    let rows: Vec<_> = rows.map(row).collect();
    assert!(rows.len() >= 18, "the table was not found");
    rows
}

#[tokio::test]
async fn every_route_is_refused_to_whoever_lacks_its_role_and_to_nobody_else() {
    let plane = Plane::start().await;
    let ranks = ["view", "edit", "admin"];
    for (rank, role) in ranks.iter().enumerate() {
        let operator = remote(&plane, json!({"role": role, "name": format!("all-{role}")})).await;
        for (method, path, needed) in documented() {
            let needed_rank = ranks.iter().position(|known| *known == needed).unwrap();
            let (status, message) = operator.refusal(&method, &path, "{}").await;
            if rank < needed_rank {
                assert_eq!(status, 403, "{role}: {method} {path}");
                assert!(message.contains(&format!("takes the role {needed}")), "{message}");
                assert!(message.contains(&format!("login all-{role}")), "{message}");
            } else {
                assert!(![401, 403, 405].contains(&status), "{role}: {method} {path} {status} {message}");
            }
        }
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_that_holds() {
    let plane = Plane::start().await;
    let nobody = Remote { plane: &plane, bearer: None };
    assert_eq!(nobody.get("/healthz").await.0, 200);
    let response = nobody.open("GET", "/api/v1/services", "").await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (status, message) = nobody.refusal("POST", "/api/v1/apply", &service("shop", "cart", 80)).await;
    assert_eq!(status, 401);
    assert!(message.contains("meshwork login --token-file"), "{message}");

    let alice = remote(&plane, json!({"role": "admin", "name": "alice"})).await;
    assert_eq!(alice.get("/api/v1/services").await.0, 200);
    // Somebody else's secret under her name.
    let mut forged: LoginToken =
        login(&plane, json!({"role": "admin", "name": "bob"})).await.parse().unwrap();
    forged.name = "alice".to_owned();
    let forged = Remote { plane: &plane, bearer: Some(forged.to_string()) };
    assert_eq!(forged.refusal("GET", "/api/v1/services", "").await.0, 401);
    // A join token is none.
    let join = plane.operator().token("shop", "cart").await;
    let join = Remote { plane: &plane, bearer: Some(join) };
    let (status, message) = join.refusal("GET", "/api/v1/services", "").await;
    assert_eq!(status, 401);
    assert!(message.contains("no login token"), "{message}");

    // Revoked: from the next request on.
    assert_eq!(plane.operator().send("DELETE", "/api/v1/login-tokens/alice", "").await.0, 200);
    let (status, message) = alice.refusal("GET", "/api/v1/services", "").await;
    assert_eq!(status, 401);
    assert!(message.contains("revoked"), "{message}");
    let (_, status) = plane.operator().get("/api/v1/status").await;
    assert_eq!(status["logins"], json!({"refused": 5, "limited": 0}), "{status}");
    plane.control.stop().await;
}

#[tokio::test]
async fn whoever_is_wrong_too_often_waits_and_is_counted() {
    let plane = Plane::start().await;
    let wrong = Remote { plane: &plane, bearer: Some("ml1.wrong".to_owned()) };
    for _ in 0..10 {
        assert_eq!(wrong.refusal("GET", "/api/v1/services", "").await.0, 401);
    }
    let (status, message) = wrong.refusal("GET", "/api/v1/services", "").await;
    assert_eq!(status, 429);
    assert!(message.contains("127.0.0.1"), "{message}");
    // The socket is not the address's.
    let (_, status) = plane.operator().get("/api/v1/status").await;
    assert_eq!(status["logins"], json!({"refused": 10, "limited": 1}), "{status}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_login_of_one_namespace_sees_and_writes_that_one_only() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    operator.apply_ok(&service("default", "web", 80)).await;
    operator
        .apply_ok(
            "{apiVersion: meshwork.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {}}",
        )
        .await;
    // A program of another namespace that takes its config, without a sidecar.
    let program = common::sidecar::enrol(&operator.token("default", "web").await).await.unwrap();
    let mut stream = program.ads().await;
    let node = meshwork_xds::wire::core::Node {
        id: "web-1".to_owned(),
        user_agent_name: "gRPC C-core linux".to_owned(),
        ..Default::default()
    };
    let request = meshwork_xds::wire::DeltaDiscoveryRequest {
        node: Some(node),
        type_url: meshwork_xds::type_url(meshwork_core::resource::ResourceType::Listener),
        resource_names_subscribe: vec!["web:80".to_owned()],
        ..Default::default()
    };
    stream.send(request).await;
    stream.take().await; // once it has its answer, the status has it
    assert_eq!(operator.get("/api/v1/status").await.1["clients"][0]["namespace"], "default");
    let shop = remote(&plane, json!({"role": "edit", "name": "shop-team", "namespace": "shop"})).await;
    let apply = "/api/v1/apply?namespace=shop";
    assert_eq!(shop.send("POST", apply, &service("shop", "cart", 80)).await.0, 200);

    // What is elsewhere is not seen.
    for path in ["/api/v1/services", "/api/v1/services?namespace=shop", "/api/v1/namespaces/shop/services"] {
        let (status, list) = shop.get(path).await;
        assert_eq!((status, list["items"].as_array().unwrap().len()), (200, 1), "{path}: {list}");
        assert_eq!(list["items"][0]["metadata"]["name"], "cart");
    }
    let (_, status) = shop.get("/api/v1/status").await;
    assert_eq!(status["services"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["clients"], json!([]), "{status}");
    let (_, problems) = shop.get("/api/v1/problems").await;
    let of_others = problems["items"].as_array().unwrap().iter().any(|item| item["namespace"] != "shop");
    assert!(!of_others, "{problems}");
    for path in [
        "/api/v1/services?namespace=default",
        "/api/v1/services?namespace=default&watch=1",
        "/api/v1/namespaces/default/services",
        "/api/v1/namespaces/default/services/web",
        "/api/v1/describe/services/default/web",
    ] {
        let (status, message) = shop.refusal("GET", path, "").await;
        assert_eq!(status, 403, "{path}");
        assert!(message.contains("in namespace shop; name that one (--namespace shop)"), "{message}");
    }
    // What holds for all may be read, and not written.
    assert_eq!(shop.get("/api/v1/meshconfigs").await.0, 200);
    assert_eq!(shop.get("/api/v1/namespaces/shop/meshconfigs/default").await.0, 200);
    let mesh_config =
        "{apiVersion: meshwork.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {}}";
    let (status, message) = shop.refusal("POST", apply, mesh_config).await;
    assert_eq!(status, 403);
    assert!(message.contains("login without namespace") && message.contains("MeshConfig"), "{message}");
    let path = "/api/v1/namespaces/shop/meshconfigs/default";
    assert_eq!(shop.refusal("DELETE", path, "").await.0, 403);

    // One document elsewhere refuses all.
    let both = format!("{}\n---\n{}", service("shop", "stock", 80), service("default", "web", 81));
    let (status, message) = shop.refusal("POST", apply, &both).await;
    assert_eq!(status, 403);
    assert!(message.contains("Service default/web") && message.contains("nothing was applied"), "{message}");
    assert_eq!(operator.get("/api/v1/namespaces/shop/services/stock").await.0, 404);
    assert_eq!(shop.refusal("DELETE", "/api/v1/namespaces/default/services/web", "").await.0, 403);
    assert_eq!(shop.send("DELETE", "/api/v1/namespaces/shop/services/cart", "").await.0, 200);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_watch_ends_with_the_login_that_opened_it() {
    let plane = Plane::start().await;
    let alice = remote(&plane, json!({"role": "view", "name": "alice"})).await;
    let response = alice.open("GET", "/api/v1/services?watch=1", "").await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut line = async || {
        let frame = soon(body.frame()).await?.unwrap();
        Some(serde_json::from_slice::<Value>(frame.data_ref().unwrap()).unwrap())
    };
    assert_eq!(line().await.unwrap()["type"], "BOOKMARK");
    plane.operator().apply_ok(&service("shop", "cart", 80)).await;
    assert_eq!(line().await.unwrap()["type"], "ADDED");
    assert_eq!(plane.operator().send("DELETE", "/api/v1/login-tokens/alice", "").await.0, 200);
    let end = line().await.unwrap();
    assert_eq!((&end["type"], &end["error"]["word"]), (&json!("ERROR"), &json!("unauthorized")), "{end}");
    assert_eq!(line().await, None);
    plane.control.stop().await;
}

#[tokio::test]
async fn logins_are_listed_without_secrets_and_live_through_a_restart() {
    let plane = Plane::start().await;
    let token = login(&plane, json!({"role": "edit", "name": "alice", "namespace": "shop"})).await;
    let secret = token.parse::<LoginToken>().unwrap().secret;
    let plane = plane.restart_with(|_| ()).await;
    let (_, list) = plane.operator().get("/api/v1/login-tokens").await;
    let shown = &list["items"][0];
    assert_eq!(
        (&shown["name"], &shown["role"], &shown["namespace"]),
        (&json!("alice"), &json!("edit"), &json!("shop"))
    );
    assert!(shown["madeBy"].as_str().unwrap().starts_with("uid "), "{shown}");
    assert!(
        !list.to_string().contains(secret.reveal()) && !list.to_string().contains(&secret.hash().to_string())
    );
    let alice = Remote { plane: &plane, bearer: Some(token) };
    let (status, known) = alice.get("/api/v1/login").await;
    assert_eq!(
        (status, &known["role"], &known["namespace"]),
        (200, &json!("edit"), &json!("shop")),
        "{known}"
    );

    let taken = json!({"role": "view", "name": "alice"}).to_string();
    let (status, answer) = plane.operator().send("POST", "/api/v1/login-tokens", &taken).await;
    assert_eq!(status, 409, "{answer}");
    let (status, _) = plane.operator().send("DELETE", "/api/v1/login-tokens/nobody", "").await;
    assert_eq!(status, 404);
    for refused in [json!({"role": "admin", "namespace": "shop"}), json!({"role": "root"}), json!({})] {
        let (status, answer) =
            plane.operator().send("POST", "/api/v1/login-tokens", &refused.to_string()).await;
        assert_eq!(status, 400, "{answer}");
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn every_write_is_in_the_audit_log_with_who_and_what_changed() {
    let plane = Plane::start().await;
    let alice = remote(&plane, json!({"role": "edit", "name": "alice"})).await;
    let apply = "/api/v1/apply";
    assert_eq!(alice.send("POST", apply, &service("shop", "cart", 80)).await.0, 200);
    assert_eq!(alice.send("POST", apply, &service("shop", "cart", 8080)).await.0, 200);
    assert_eq!(alice.send("POST", "/api/v1/apply?dryRun=1", &service("shop", "cart", 1)).await.0, 200);
    assert_eq!(alice.refusal("POST", "/api/v1/tokens", r#"{"service": "cart"}"#).await.0, 403);
    assert_eq!(alice.refusal("POST", apply, "{kind: Nonsense}").await.0, 422);
    assert_eq!(alice.refusal("GET", "/api/v1/backup", "").await.0, 403);
    assert_eq!(alice.send("DELETE", "/api/v1/namespaces/shop/services/cart", "").await.0, 200);
    let nobody = Remote { plane: &plane, bearer: None };
    assert_eq!(nobody.refusal("DELETE", "/api/v1/namespaces/shop/services/cart", "").await.0, 401);
    plane.operator().token("shop", "cart").await;

    let lines = audit(&plane);
    let of_alice: Vec<&Value> = lines
        .iter()
        .filter(|line| line["who"].as_str().unwrap().starts_with("login alice (edit) from 127.0.0.1:"))
        .collect();
    let told = |line: &Value| {
        let word = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        [word("action"), word("outcome"), word("what"), word("word")].join(" ").trim_end().to_owned()
    };
    let expect = [
        "apply written Service shop/cart",
        "apply written Service shop/cart",
        "create refused /api/v1/tokens forbidden",
        "apply refused what - holds invalid",
        "back up refused /api/v1/backup forbidden",
        "delete written Service shop/cart",
    ];
    assert_eq!(of_alice.iter().map(|line| told(line)).collect::<Vec<_>>(), expect);
    assert_eq!(of_alice[1]["change"], json!(["Service shop/cart spec.ports[0].port: 80 -> 8080"]));
    assert!(of_alice[1]["revision"].as_u64() > of_alice[0]["revision"].as_u64());
    let created = of_alice[0]["change"].to_string();
    assert!(created.contains("Service shop/cart metadata.name: none -> "), "{created}");
    let deleted = of_alice[5]["change"].to_string();
    assert!(deleted.contains("spec.ports[0].port: 8080 -> none"), "{deleted}");
    let unknown = lines.iter().find(|line| line["word"] == "unauthorized").unwrap();
    assert!(unknown["who"].as_str().unwrap().starts_with("somebody from 127.0.0.1:"), "{unknown}");
    let made = lines.iter().find(|line| line["what"] == "login alice").unwrap();
    assert!(made["change"].to_string().contains("login alice role: none -> "), "{made}");
    let text = std::fs::read_to_string(plane.dir.path().join("audit.log")).unwrap();
    let secret = alice.bearer.as_ref().unwrap().parse::<LoginToken>().unwrap().secret;
    assert!(!text.contains(secret.reveal()) && !text.contains("ml1.") && !text.contains("mw1."));
    plane.control.stop().await;
}

#[tokio::test]
async fn an_operator_from_afar_is_no_stranger_however_long_he_watches() {
    // Long enough to log in, on a busy machine too.
    let limit = std::time::Duration::from_secs(3);
    let plane = Plane::start_with(|settings| settings.stranger_max = limit).await;
    let viewer = remote(&plane, json!({"role": "view"})).await;
    // One over which nothing is asked at the end, and one that watches, which would be given time to finish.
    let mut idle = viewer.connect().await;
    let first = idle.send_request(viewer.request("GET", "/api/v1/services", "")).await.unwrap();
    assert_eq!(first.status(), 200);
    first.into_body().collect().await.unwrap(); // whole, or the connection would not be asked again
    let watch = viewer.open("GET", "/api/v1/services?watch=1", "").await;
    assert_eq!(watch.status(), 200);
    let mut watch = Lines::of(watch);
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");

    // Who came later and shows nothing is sent away, so by then the other's time is over, too.
    let nobody = Remote { plane: &plane, bearer: None };
    let mut stranger = nobody.stream().await;
    let mut rest = Vec::new();
    // Without a word, as nothing was asked; TLS may be broken off.
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut stranger, &mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");

    let again = idle.send_request(viewer.request("GET", "/api/v1/services", "")).await;
    assert_eq!(again.expect("the operator's connection is kept").status(), 200);
    plane.operator().apply_ok(&service("shop", "cart", 80)).await;
    let told = watch.next().await.expect("the watch goes on");
    assert_eq!((&told["type"], &told["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("cart")));
    plane.control.stop().await;
}

#[tokio::test]
async fn metrics_are_for_whoever_may_see_the_whole_mesh() {
    let plane = Plane::start().await;
    let scraper = remote(&plane, json!({"role": "view", "name": "prometheus"})).await;
    for path in ["/metrics", "/api/v1/metrics"] {
        let response = scraper.open("GET", path, "").await;
        assert_eq!(response.status(), 200, "{path}");
        assert!(
            response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text")
        );
        let nobody = Remote { plane: &plane, bearer: None };
        assert_eq!(nobody.open("GET", path, "").await.status(), 401, "{path}");
        let wanted = json!({"role": "edit", "namespace": "shop"});
        let of_shop = remote(&plane, wanted).await;
        assert_eq!(of_shop.open("GET", path, "").await.status(), 403, "{path}");
    }
    let text = scraper.open("GET", "/metrics", "").await.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = "meshwork_control_logins_refused_total{kind=\"no_token\"} 2";
    assert!(text.lines().any(|found| found == line), "{text}");
    plane.control.stop().await;
}
