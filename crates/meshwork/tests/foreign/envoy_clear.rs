//! Envoy to workloads without a sidecar, written by hand: it goes to the applications themselves. All of it with both
//! dialects of xDS.

use meshwork_testkit::{App, GrpcApp, Load, Mesh, eventually, get, grpc_client};
use meshwork_xds::wire::ClientResourceStatus;
use meshwork_xds::wire::matcher::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use meshwork_xds::wire::status::ClientStatusRequest;
use meshwork_xds::wire::status::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use serde_json::json;
use tokio::time::{Duration, Instant, timeout};

use crate::envoy::{Dialect, Envoy, Setup, answered, app, ask, upstream};
use crate::yaml;

const SERVICE: &str = "cart:80";

/// Envoy waits so long for Endpoints before it gives up on a Cluster that changed: whoever stalls, stalls for this.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

fn service(name: &str) -> String {
    yaml::service(name, 80, "http")
}

fn instance(service: &str, number: usize, app: &App) -> String {
    yaml::instance(service, number, app.address().port(), 80)
}

fn policy(spec: &str) -> String {
    format!(
        "
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: cart}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: cart}}]
  {spec}
---"
    )
}

fn route(rule: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart}}
spec:
  parentRefs: [{{kind: Service, group: \"\", name: cart}}]
  rules: [{{{rule}}}]
"
    )
}

/// Whoever comes without the cookie is given one.
const STICKY: &str = "loadBalancer: {type: maglev, hash: {type: cookie, name: session, ttl: 1h}}";
const IN_TURN: &str = "loadBalancer: {type: roundRobin}";

/// `cart` with two applications, called in turn, and an Envoy that carries it.
async fn start(dialect: Dialect) -> Option<(Mesh, App, App, Envoy)> {
    let mesh = Mesh::builder().start().await;
    let (one, two) = (App::http("cart-0").await, App::http("cart-1").await);
    let instances = instance("cart", 0, &one) + &instance("cart", 1, &two);
    mesh.apply(&(service("cart") + &instances + &policy(IN_TURN))).await;
    let envoy = Envoy::carrying(&mesh, dialect, &[SERVICE]).await?;
    Some((mesh, one, two, envoy))
}

fn count(apps: &[String], name: &str) -> usize {
    apps.iter().filter(|app| *app == name).count()
}

#[tokio::test]
async fn requests_are_balanced_and_follow_the_endpoints_by_delta() {
    balanced(Dialect::Delta).await;
}

#[tokio::test]
async fn requests_are_balanced_and_follow_the_endpoints_by_state_of_the_world() {
    balanced(Dialect::StateOfTheWorld).await;
}

async fn balanced(dialect: Dialect) {
    let Some((mesh, one, _two, envoy)) = start(dialect).await else { return };
    let mut client = envoy.client(SERVICE).await;
    let apps = answered(&mut client, 40).await;
    assert_eq!((count(&apps, "cart-0"), count(&apps, "cart-1")), (20, 20), "{apps:?}");

    let three = App::http("cart-2").await;
    let load = Load::through(envoy.listening(SERVICE).await, "http://cart/", 2);
    load.goes_on(20).await;
    mesh.apply(&instance("cart", 2, &three)).await;
    three.reached(5).await;
    let (status, _) = mesh.api("DELETE", "/api/v1/namespaces/default/workloads/cart-0", "").await;
    assert_eq!(status, 200);
    eventually("who is gone is not called", async || {
        let before = one.begun();
        load.goes_on(20).await;
        one.begun() == before
    })
    .await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{tally:?}");
    drop(one);
    let apps = answered(&mut client, 20).await;
    assert_eq!((count(&apps, "cart-1"), count(&apps, "cart-2")), (10, 10), "{apps:?}");
    cluster_changes_alone(&mesh, &envoy).await;
    mesh.stop().await;
}

/// Envoy makes the Cluster anew and waits for its Endpoints, which did not change: they must be sent again, or everything
/// that comes after waits with it.
async fn cluster_changes_alone(mesh: &Mesh, envoy: &Envoy) {
    let updates = async || envoy.stat("cluster_manager.cluster_modified").await.unwrap_or_default();
    let warming = async || envoy.stat("cluster_manager.warming_clusters").await.unwrap_or(u64::MAX);
    let load = Load::through(envoy.listening(SERVICE).await, "http://cart/", 2);
    let began = Instant::now();
    for connections in 100..103 {
        let before = updates().await;
        mesh.apply(&policy(&format!("{IN_TURN}\n  limits: {{connections: {connections}}}"))).await;
        eventually("the cluster has changed, and is used", async || {
            updates().await > before && warming().await == 0
        })
        .await;
        load.goes_on(20).await;
    }
    assert!(began.elapsed() < FETCH_TIMEOUT, "it waited for endpoints: {:?}", began.elapsed());
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{tally:?}");
    let limit = envoy.admin("/clusters").await;
    assert!(limit.contains("default/cart:80::default_priority::max_connections::102"), "{limit}");
}

#[tokio::test]
async fn routes_weigh_match_and_end_in_time_by_delta() {
    routed(Dialect::Delta).await;
}

#[tokio::test]
async fn routes_weigh_match_and_end_in_time_by_state_of_the_world() {
    routed(Dialect::StateOfTheWorld).await;
}

async fn routed(dialect: Dialect) {
    let Some((mesh, _one, two, envoy)) = start(dialect).await else { return };
    let canary = App::http("canary").await;
    let mut client = envoy.client(SERVICE).await;
    mesh.apply(&(service("canary") + &instance("canary", 0, &canary))).await;
    let backends = |stable: u32, canary: u32| {
        format!(
            "backendRefs: [{{name: cart, port: 80, weight: {stable}}}, {{name: canary, port: 80, weight: {canary}}}]"
        )
    };
    // The route leads to a cluster that this Envoy was not told of before.
    mesh.apply(&route(&backends(3, 1))).await;
    eventually("the canary is called", async || {
        let apps = answered(&mut envoy.client(SERVICE).await, 10).await;
        count(&apps, "canary") > 0
    })
    .await;
    let apps = answered(&mut client, 800).await;
    // 600 of 800, and 6 sigma of 12.2 to either side.
    let stable = count(&apps, "cart-0") + count(&apps, "cart-1");
    assert!((527..=673).contains(&stable) && stable + count(&apps, "canary") == 800, "{stable} of {apps:?}");

    let matches = "matches: [{path: {type: PathPrefix, value: /new}}], \
                   filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: share, value: \"100%\"}]}}], ";
    mesh.apply(&route(&format!("{matches}{}", backends(0, 1)))).await;
    eventually("what matches nothing is nobody's", async || {
        ask(&mut envoy.client(SERVICE).await, "/").await.status == 404
    })
    .await;
    assert_eq!(app(&ask(&mut client, "/new/things").await), "canary");
    assert_eq!(canary.last().header("share"), Some("100%"), "a value is no format");
    assert_eq!(ask(&mut client, "/newer").await.status, 404);

    let slow = App::http_after("slow", Duration::from_secs(60)).await;
    mesh.apply(&(service("slow") + &instance("slow", 0, &slow))).await;
    mesh.apply(&route("timeouts: {request: 300ms}, backendRefs: [{name: slow, port: 80}]")).await;
    eventually("whoever hangs is ended by the route", async || {
        ask(&mut envoy.client(SERVICE).await, "/").await.status == 504
    })
    .await;
    assert!(slow.begun() > 0);

    two.answers_with(503);
    mesh.apply(&route(
        "retry: {codes: [503], attempts: 3, backoff: 10ms}, backendRefs: [{name: cart, port: 80}]",
    ))
    .await;
    eventually("a 503 is tried again elsewhere", async || {
        let before = two.begun();
        let apps = answered(&mut envoy.client(SERVICE).await, 10).await;
        count(&apps, "cart-0") == 10 && two.begun() > before
    })
    .await;
    // What Envoy was told of before and is not needed any more is gone.
    eventually("the canary's cluster is gone", async || {
        !envoy.admin("/clusters").await.contains("default/canary:80::")
    })
    .await;

    mesh.apply(&route(&format!("{matches}{}", backends(1, 0)))).await;
    let status = async || ask(&mut envoy.client(SERVICE).await, "/").await.status;
    eventually("what matches nothing is nobody's", async || status().await == 404).await;
    let (deleted, _) = mesh.api("DELETE", "/api/v1/namespaces/default/httproutes/cart", "").await;
    assert_eq!(deleted, 200);
    // It ignores that a route configuration is gone: the service's own comes in its place.
    eventually("everything is the service's again", async || status().await == 200).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_restarts_costs_no_request_by_delta() {
    restarted(Dialect::Delta).await;
}

#[tokio::test]
async fn a_control_plane_that_restarts_costs_no_request_by_state_of_the_world() {
    restarted(Dialect::StateOfTheWorld).await;
}

async fn restarted(dialect: Dialect) {
    let Some((mut mesh, _one, _two, envoy)) = start(dialect).await else { return };
    let load = Load::through(envoy.listening(SERVICE).await, "http://cart/", 2);
    load.goes_on(20).await;
    mesh.stop_control().await;
    load.goes_on(50).await;
    mesh.start_control().await;
    let three = App::http("cart-2").await;
    // A cluster and its endpoints change before it is back.
    mesh.apply(
        &(instance("cart", 2, &three) + &policy(&format!("{IN_TURN}\n  limits: {{connections: 99}}"))),
    )
    .await;
    let reached = timeout(Duration::from_secs(60), three.reached(5)).await;
    assert!(reached.is_ok(), "what changes after the restart reaches it");
    eventually("the cluster's change reaches it", async || {
        envoy.admin("/clusters").await.contains("default/cart:80::default_priority::max_connections::99")
    })
    .await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{tally:?}");
    mesh.stop().await;
}

#[tokio::test]
async fn a_service_that_comes_later_is_carried_and_one_that_goes_is_not() {
    let mesh = Mesh::builder().start().await;
    let Some(envoy) = start_unserved(&mesh).await else { return };
    let name = upstream(SERVICE);
    eventually("it has heard that there is nothing", async || {
        envoy.stat("listener_manager.lds.update_success").await == Some(1)
    })
    .await;
    assert_eq!(envoy.listener(&name).await, None);
    let app = App::http("cart-0").await;
    mesh.apply(&(service("cart") + &instance("cart", 0, &app))).await;
    let mut client = envoy.client(SERVICE).await;
    assert_eq!(answered(&mut client, 3).await, ["cart-0"; 3]);
    let (status, _) = mesh.api("DELETE", "/api/v1/namespaces/default/services/cart", "").await;
    assert_eq!(status, 200);
    // It ignores that the route is gone; without its listener nobody gets there.
    eventually("it does not listen any more", async || envoy.listener(&name).await.is_none()).await;
    mesh.stop().await;
}

/// One that carries `cart`, of which there is nothing yet.
async fn start_unserved(mesh: &Mesh) -> Option<Envoy> {
    let setup = Setup::join(mesh, "web").await?;
    let bootstrap = setup.bootstrap(&["--upstream", &upstream(SERVICE)]).await;
    Some(setup.start(&bootstrap).await)
}

#[tokio::test]
async fn what_envoy_cannot_honour_is_refused_by_name_and_described() {
    let mesh = Mesh::builder().start().await;
    let near = "loadBalancer: {type: maglev, hash: {type: header, name: x-user}, trafficDistribution: PreferSameZone}";
    mesh.apply(&(service("cart") + &policy(near))).await;
    let (_, described) = mesh.api("GET", "/api/v1/describe/service/default/cart", "").await;
    assert_eq!(described["balance"], json!({"80": "maglev of the header x-user, near endpoints first"}));
    let unsupported = described["unsupported"].as_array().cloned().unwrap_or_default();
    let of_envoy: Vec<_> = unsupported.into_iter().filter(|one| one["audience"] == "envoy").collect();
    assert_eq!(
        of_envoy,
        [json!({
            "audience": "envoy",
            "resource": "default/cart:80",
            "what": "Envoy without a sidecar can't honour a preference for endpoints that are near"
        })]
    );
    mesh.stop().await;
}

/// An address of nobody's machine (RFC 5737), where no Envoy can listen.
const NOWHERE: &str = "cart:80=192.0.2.1:9000";

#[tokio::test]
async fn what_an_envoy_took_and_refused_is_told_by_status_and_by_xds_own_discovery() {
    let mesh = Mesh::builder().start().await;
    let Some(setup) = Setup::join(&mesh, "web").await else { return };
    let app = App::http("cart-0").await;
    mesh.apply(&(service("cart") + &instance("cart", 0, &app))).await;
    let bootstrap = setup.bootstrap(&["--upstream", NOWHERE]).await;
    let envoy = setup.start(&bootstrap).await;
    let listed = async || mesh.status().await["clients"][0].clone();
    eventually("the refusal is told", async || !listed().await["config"]["nacks"][0].is_null()).await;
    let client = listed().await;
    assert_eq!((&client["program"], &client["service"]), (&json!("envoy"), &json!("web")), "{client:#}");
    assert_eq!(client["version"], "1.40.0", "{client:#}");
    let nack = &client["config"]["nacks"][0];
    assert_eq!((&nack["type"], &nack["name"]), (&json!("listener"), &json!(NOWHERE)), "{nack:#}");
    assert!(nack["reason"].as_str().unwrap().contains("192.0.2.1"), "{nack:#}");

    let mut asked = ClientStatusDiscoveryServiceClient::new(mesh.operator().channel().await);
    let told = asked.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
    let [client] = &told.config[..] else { panic!("{told:?}") };
    assert_eq!(client.client_scope, "spiffe://mesh.local/ns/default/sa/web");
    let status_of = |name: &str, message: &str| {
        let found =
            client.generic_xds_configs.iter().find(|one| one.name == name && one.type_url.ends_with(message));
        let found = found.unwrap_or_else(|| panic!("no {message} {name} in {told:?}"));
        (found.client_status(), found.error_state.as_ref().map(|error| error.details.clone()))
    };
    assert_eq!(status_of("default/cart:80", ".Cluster"), (ClientResourceStatus::Acked, None));
    assert_eq!(status_of("default/cart:80", ".ClusterLoadAssignment"), (ClientResourceStatus::Acked, None));
    let (refused, reason) = status_of(NOWHERE, ".Listener");
    assert_eq!(refused, ClientResourceStatus::Nacked);
    assert!(reason.is_some_and(|reason| reason.contains("192.0.2.1")));

    let of = |id: &str| {
        let exact = StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.to_owned())),
            ..StringMatcher::default()
        };
        let matcher = NodeMatcher { node_id: Some(exact), ..NodeMatcher::default() };
        ClientStatusRequest { node_matchers: vec![matcher], ..ClientStatusRequest::default() }
    };
    let requests = futures_util::stream::iter([of("default/web"), of("default/other")]);
    let mut answers = asked.stream_client_status(requests).await.unwrap().into_inner();
    let mut counts = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        counts.push(answer.config.len());
    }
    assert_eq!(counts, [1, 0]);
    drop(envoy);
    eventually("who is gone is not listed", async || listed().await.is_null()).await;
    mesh.stop().await;
}

#[tokio::test]
async fn clients_are_given_the_cookie_by_which_they_come_back() {
    let Some((mesh, _one, _two, envoy)) = start(Dialect::Delta).await else { return };
    mesh.apply(&policy(STICKY)).await;
    let mut client = envoy.client(SERVICE).await;
    eventually("a cookie is given", async || {
        ask(&mut envoy.client(SERVICE).await, "/").await.header("set-cookie").is_some()
    })
    .await;
    for _ in 0..5 {
        let first = ask(&mut client, "/").await;
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("session="), "{cookie}");
        for _ in 0..5 {
            let mut request = get("http://cart/");
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
            let again = client.send(request).await.unwrap();
            assert_eq!((app(&again), again.header("set-cookie")), (app(&first), None));
        }
    }
    mesh.stop().await;
}

/// Without being told so it speaks HTTP/1.1 to everybody, and no call comes about.
#[tokio::test]
async fn a_grpc_service_is_spoken_to_in_http2() {
    let mesh = Mesh::builder().start().await;
    let payments = GrpcApp::start("payments");
    let port = payments.address().port();
    mesh.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: payments}}
spec:
  selector: {{app: payments}}
  ports: [{{port: 50051, appProtocol: grpc}}]
---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: payments-1, labels: {{app: payments}}}}
spec:
  address: 127.0.0.1
  ports: [{{port: {port}, servicePort: 50051}}]
"
    ))
    .await;
    let Some(envoy) = Envoy::carrying(&mesh, Dialect::Delta, &["payments:50051"]).await else { return };
    let mut client = grpc_client(envoy.listening("payments:50051").await);
    let answer = client.unary(hyper::body::Bytes::from_static(b"hello")).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(payments.calls(), 1);
    mesh.stop().await;
}
