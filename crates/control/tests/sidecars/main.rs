//! Sidecars over real sockets: token -> certificate -> registration -> endpoints in everybody's ADS stream.

#[path = "../common/mod.rs"]
mod common;
mod fan_out;
mod metrics;

use std::time::Duration;

use common::sidecar::{Ads, Enrolled, Follower, enrol, register};
use common::{Log, Plane, service, soon};
use meshwork_core::model::Health;
use meshwork_core::resource::{Endpoint, Resource, ResourceType};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::wire::DeltaDiscoveryResponse;
use meshwork_xds::{convert, proto, type_url};
use serde_json::{Value, json};
use tonic::Code;

async fn enrolled(plane: &Plane, namespace: &str, service: &str) -> Enrolled {
    enrol(&plane.operator().token(namespace, service).await).await.unwrap()
}

fn resource(response: &DeltaDiscoveryResponse) -> Resource {
    let [resource] = &response.resources[..] else { panic!("want one resource in {response:?}") };
    let body = resource.resource.as_ref().unwrap();
    convert::from_wire(&body.type_url, &resource.name, &body.value).unwrap()
}

fn endpoints(response: &DeltaDiscoveryResponse) -> Vec<Endpoint> {
    match resource(response) {
        Resource::Endpoints(endpoints) => endpoints.endpoints,
        other => panic!("want endpoints, not {other:?}"),
    }
}

fn told(response: &DeltaDiscoveryResponse) -> Vec<(String, Health)> {
    endpoints(response).into_iter().map(|found| (found.address.to_string(), found.health)).collect()
}

fn at(app_port: u16, health: Health) -> (String, Health) {
    (format!("127.0.0.1:{}", 20_000 + app_port), health)
}

async fn watch_endpoints(enrolled: &Enrolled, name: &str) -> Ads {
    let ads = enrolled.ads().await;
    ads.subscribe(&type_url(ResourceType::Endpoints), &[name]).await;
    ads
}

#[tokio::test]
async fn a_token_is_worth_one_identity_and_its_registration_reaches_everybody() {
    let plane = Plane::start().await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    // Nobody knows cart yet, and that is said at once.
    assert_eq!(ads.take().await.removed_resources, ["default/cart:80"]);

    let cart = enrolled(&plane, "default", "cart").await;
    assert_eq!(cart.certificate.spiffe_id, "spiffe://mesh.local/ns/default/sa/cart");
    assert_eq!(cart.identity.spiffe_id().to_string(), cart.certificate.spiffe_id);
    let _session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let response = ads.take().await;
    let found = endpoints(&response);
    assert_eq!(told(&response), [at(8080, Health::Healthy)]);
    assert_eq!((found[0].app_port, found[0].workload.as_str()), (8080, "cart-aaaaaa"));

    // The service that it made is there like any other.
    let (_, made) = plane.operator().get("/api/v1/namespaces/default/services/cart").await;
    assert_eq!(made["spec"]["selector"], json!({"app": "cart"}));
    assert_eq!(made["metadata"]["labels"]["meshwork.dev/managed-by"], "registration");
    let (_, workload) = plane.operator().get("/api/v1/namespaces/default/workloads/cart-aaaaaa").await;
    assert_eq!(workload["status"]["health"], "healthy", "{workload}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_workload_that_only_calls_others_registers_without_ports_and_makes_no_service() {
    let plane = Plane::start().await;
    let web = enrolled(&plane, "default", "web").await;
    let mut nothing = register("web-aaaaaa", "web", 8080);
    nothing.ports.clear();
    let (_session, answer) = web.register(nothing).await;
    assert!(matches!(answer, Down::Welcome(_)), "{answer:?}");
    let (_, workload) = plane.operator().get("/api/v1/namespaces/default/workloads/web-aaaaaa").await;
    assert_eq!(workload["status"]["health"], "healthy", "{workload}");
    let (status, _) = plane.operator().get("/api/v1/namespaces/default/services/web").await;
    assert_eq!(status, 404);
    plane.control.stop().await;
}

#[tokio::test]
async fn the_whole_way_to_a_service_is_told_by_name() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let _session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = web.ads().await;
    for (resource_type, name) in [
        (ResourceType::Listener, "cart:80"),
        (ResourceType::Route, "default/cart:80"),
        (ResourceType::Cluster, "default/cart:80"),
        (ResourceType::TrustBundle, "mesh.local"),
        (ResourceType::MeshSettings, "default"),
    ] {
        ads.subscribe(&type_url(resource_type), &[name]).await;
        let mut response = ads.take().await;
        while response.resources.is_empty() {
            response = ads.take().await; // the model was a moment behind
        }
        let resource = resource(&response);
        assert_eq!(convert::resource_type(&resource), resource_type);
        if let Resource::Cluster(cluster) = &resource {
            let identities: Vec<_> = cluster.identities.iter().map(ToString::to_string).collect();
            assert_eq!(identities, ["spiffe://mesh.local/ns/default/sa/cart"]);
        }
        let (_, status) = plane.operator().get("/api/v1/status").await;
        assert_eq!(response.system_version_info, status["revision"].to_string());
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn one_wish_brings_the_whole_way_and_a_restart_brings_nothing_twice() {
    let plane = Plane::start().await;
    let address = plane.control.address();
    let (cart, web) = (enrolled(&plane, "default", "cart").await, enrolled(&plane, "default", "web").await);
    let _cart = cart.join("cart-aaaaaa", "cart", 8080).await;
    let _web = web.join("web-aaaaaa", "web", 8081).await;

    let mut follower = Follower::connect(&web, Follower::session("default/web-aaaaaa")).await;
    follower.want("cart.default.mesh:80").await;
    let mut held = Vec::new();
    while held.len() < 7 {
        let applied = follower.next().await.applied;
        held.extend(applied.iter().map(|versioned| convert::resource_type(&versioned.resource)));
    }
    held.sort_unstable();
    assert_eq!(
        held,
        [
            ResourceType::Cluster,
            ResourceType::Endpoints,
            ResourceType::Listener,
            ResourceType::Route,
            ResourceType::Inbound,
            ResourceType::MeshSettings,
            ResourceType::TrustBundle,
        ]
    );

    let mut session = follower.session;
    session.disconnected();
    let plane = plane.restart_with(|settings| settings.listen = address).await;
    let mut follower = Follower::connect(&web, session).await;
    follower.want("nobody:80").await;
    loop {
        let reaction = follower.next().await;
        let again = reaction.applied.iter().map(|versioned| convert::resource_type(&versioned.resource));
        // The mesh says who it is on every stream; nothing else has changed.
        assert!(
            again.clone().all(|again| again == ResourceType::MeshSettings),
            "{:?}",
            again.collect::<Vec<_>>()
        );
        assert_eq!(reaction.removed, []);
        if reaction.absent == [convert::Reference::new(ResourceType::Listener, "nobody:80")] {
            break;
        }
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn two_namespaces_that_ask_for_cart_each_get_their_own() {
    let plane = Plane::start().await;
    plane.operator().apply_ok(&(service("default", "cart", 80) + &service("shop", "cart", 80))).await;
    for namespace in ["default", "shop"] {
        let web = enrolled(&plane, namespace, "web").await;
        let mut ads = web.ads().await;
        ads.subscribe(&type_url(ResourceType::Listener), &["cart:80"]).await;
        let Resource::Listener(listener) = resource(&ads.take().await) else { panic!("want a listener") };
        assert_eq!(listener.target.to_string(), format!("{namespace}/cart:80"));
    }
    plane.control.stop().await;
}

#[tokio::test]
async fn a_workload_that_claims_another_service_is_refused_by_name() {
    let log = Log::start();
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let (mut session, answer) = cart.register(register("payments-aaaaaa", "payments", 8080)).await;
    let Down::Refused(refused) = answer else { panic!("want a refusal, not {answer:?}") };
    assert!(
        refused
            .reason
            .starts_with("spiffe://mesh.local/ns/default/sa/cart may register for service cart only")
    );
    assert!(session.next().await.is_none(), "the stream ends");
    log.assert_line(&["WARN", "refused a sidecar", "spiffe://mesh.local/ns/default/sa/cart", "payments"]);
    let (_, services) = plane.operator().get("/api/v1/services").await;
    assert_eq!(services["items"], json!([]));

    // Nor does it get at a payments workload by its name, or what is told to it alone.
    let payments = enrolled(&plane, "default", "payments").await;
    let _session = payments.join("payments-aaaaaa", "payments", 8081).await;
    let (_, answer) = cart.register(register("payments-aaaaaa", "cart", 8080)).await;
    assert!(
        matches!(&answer, Down::Refused(refused) if refused.reason.contains("belongs to account payments"))
    );
    let mut ads = cart.ads().await;
    ads.subscribe(&type_url(ResourceType::Inbound), &["default/payments-aaaaaa"]).await;
    assert_eq!(ads.take().await.removed_resources, ["default/payments-aaaaaa"]);
    plane.control.stop().await;
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_refused() {
    let log = Log::start();
    let plane = Plane::start().await;
    let once = json!({"service": "cart", "once": true}).to_string();
    let (_, answer) = plane.operator().send("POST", "/api/v1/tokens", &once).await;
    let token = answer["token"].as_str().unwrap();
    assert!(enrol(token).await.is_ok());
    let refused = enrol(token).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("used up"), "{refused}");
    log.assert_line(&["WARN", "refused to enrol", "remote=\"127.0.0.1:", "used up"]);

    // A sidecar of another mesh that was built on the same address: its token is not known here.
    let other = Plane::start().await;
    let foreign = other.operator().token("default", "cart").await;
    let foreign: meshwork_identity::JoinToken = foreign.parse().unwrap();
    let own: meshwork_identity::JoinToken = token.parse().unwrap();
    let own_secret = own.secret.reveal().to_owned();
    let mixed = meshwork_identity::JoinToken { secret: foreign.secret.clone(), ..own };
    assert_eq!(enrol(&mixed.to_string()).await.err().unwrap().code(), Code::Unauthenticated);
    for secret in [own_secret.as_str(), foreign.secret.reveal(), token] {
        assert!(!log.lines().iter().any(|line| line.contains(secret)), "a secret was logged");
    }
    plane.control.stop().await;
    other.control.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_identity() {
    let plane = Plane::start().await;
    plane
        .operator()
        .apply_ok("apiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {leafTtl: 1h}\n")
        .await;
    let first = enrolled(&plane, "shop", "cart").await;
    let second = first.renew().await.unwrap();
    assert_eq!(second.certificate.spiffe_id, "spiffe://mesh.local/ns/shop/sa/cart");
    assert_ne!(second.identity.chain()[0], first.identity.chain()[0]);
    let mut life = second.identity.not_after().duration_since(std::time::SystemTime::now()).unwrap();
    // The settings reach the authority with the next view.
    while life > Duration::from_secs(3_600) {
        life = second
            .renew()
            .await
            .unwrap()
            .identity
            .not_after()
            .duration_since(std::time::SystemTime::now())
            .unwrap();
    }
    // Without a certificate there is nothing to renew.
    let token: meshwork_identity::JoinToken = plane.operator().token("shop", "cart").await.parse().unwrap();
    let tls = meshwork_identity::enrol_client_config(token.root_hash, &[b"h2"]).unwrap();
    let channel = common::sidecar::channel(&token.address, tls).await.unwrap();
    let mut client = proto::enrollment_client::EnrollmentClient::new(channel);
    let refused = client.renew(proto::RenewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_sidecars_certificate_gets_nothing_from_the_api_but_its_pulse() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let get = async |path: &str| {
        let tls =
            meshwork_identity::control_client_config(&cart.identity, &cart.bundle, &[b"http/1.1"]).unwrap();
        let stream = tokio::net::TcpStream::connect(plane.control.address()).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("control.mesh").unwrap();
        let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request =
            http::Request::get(path).header("host", "c").body(http_body_util::Empty::<&[u8]>::new()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    assert_eq!(get("/healthz").await, 200);
    assert_eq!(get("/api/v1/services").await, 403);
    assert_eq!(get("/api/v1/status").await, 403);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_strangers_certificate_is_refused_and_named() {
    let log = Log::start();
    let (plane, other) = (Plane::start().await, Plane::start().await);
    let own = enrolled(&plane, "default", "cart").await;
    let stranger = enrolled(&other, "default", "cart").await;
    // It trusts the control plane, which does not trust it: the same names, but another root.
    let stranger = Enrolled { address: own.address.clone(), bundle: own.bundle.clone(), ..stranger };
    assert!(stranger.renew().await.is_err());
    let refused = || log.lines().iter().any(|line| line.contains("unknown_root"));
    while !refused() {
        tokio::task::yield_now().await;
    }
    log.assert_line(&["WARN", "reason=\"unknown_root\"", "remote=127.0.0.1:"]);
    plane.control.stop().await;
    other.control.stop().await;
}

#[tokio::test]
async fn a_drain_is_confirmed_once_the_callers_know() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    while told_or_none(&ads.take().await).is_none() {}

    session.send(Up::Drain(proto::Drain {})).await;
    let response = ads.next().await.unwrap();
    assert_eq!(told(&response), [at(8080, Health::Draining)]);
    // Not before the caller has said so.
    let early = tokio::time::timeout(Duration::from_millis(100), session.next()).await;
    assert!(early.is_err(), "{early:?}");
    ads.answer(&response, None).await;
    assert!(matches!(session.next().await, Some(Down::Withdrawn(proto::Withdrawn { sequence: 2 }))));
    plane.control.stop().await;
}

fn told_or_none(response: &DeltaDiscoveryResponse) -> Option<Vec<(String, Health)>> {
    (!response.resources.is_empty()).then(|| told(response))
}

#[tokio::test]
async fn a_control_plane_that_comes_back_sends_nobody_to_a_workload_that_drained() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let _other = cart.join("cart-bbbbbb", "cart", 8081).await;
    session.send(Up::Drain(proto::Drain {})).await;
    assert!(matches!(session.next().await, Some(Down::Withdrawn(_))));
    drop(session);

    let plane = plane.restart_with(|_| ()).await;
    let service = plane.operator().get("/api/v1/status").await.1["services"][0].clone();
    assert_eq!((&service["healthy"], &service["draining"]), (&1.into(), &1.into()), "{service:#}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_caller_that_does_not_answer_holds_a_drain_up_for_a_while_only() {
    let plane = Plane::start_with(|settings| settings.withdrawal = Duration::from_millis(100)).await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    while told_or_none(&ads.take().await).is_none() {}
    session.send(Up::Drain(proto::Drain {})).await;
    assert!(matches!(session.next().await, Some(Down::Withdrawn(_))));
    plane.control.stop().await;
}

#[tokio::test]
async fn a_silent_workload_becomes_unhealthy_and_one_that_moves_is_at_one_address() {
    let plane = Plane::start_with(|settings| {
        settings.lease = Duration::from_millis(300);
        settings.lapsed_kept = Duration::from_millis(300);
    })
    .await;
    let cart = enrolled(&plane, "default", "cart").await;
    let session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    let mut seen = Vec::new();
    let mut next = async || loop {
        let response = ads.take().await;
        if let Some(found) = told_or_none(&response).filter(|found| seen.last() != Some(found)) {
            seen.push(found.clone());
            return found;
        }
    };
    // The test's first look may come when the lease is over already, on a busy machine.
    let mut found = next().await;
    if found == [at(8080, Health::Healthy)] {
        drop(session); // the lease runs on, and then it lapses
        found = next().await;
    }
    assert_eq!(found, [at(8080, Health::Unhealthy)]);
    assert_eq!(next().await, [], "and is removed at last");

    let _first = cart.join("cart-aaaaaa", "cart", 8080).await;
    assert_eq!(next().await, [at(8080, Health::Healthy)]);
    let _second = cart.join("cart-aaaaaa", "cart", 9090).await;
    assert_eq!(next().await, [at(9090, Health::Healthy)], "never both");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_failed_health_check_is_told_at_once() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let web = enrolled(&plane, "default", "web").await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    while told_or_none(&ads.take().await).is_none() {}
    session
        .send(Up::Health(proto::HealthReport { healthy: false, detail: "GET / answered 500".to_owned() }))
        .await;
    assert_eq!(told(&ads.take().await), [at(8080, Health::Unhealthy)]);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_restarted_control_plane_keeps_every_endpoint_it_knew() {
    let short = |settings: &mut meshwork_control::Settings| settings.lease = Duration::from_millis(300);
    let plane = Plane::start_with(short).await;
    let address = plane.control.address();
    let cart = enrolled(&plane, "default", "cart").await;
    let web = enrolled(&plane, "default", "web").await;
    let session = cart.join("cart-aaaaaa", "cart", 8080).await;
    drop(session);
    let plane = plane
        .restart_with(|settings| {
            short(settings);
            settings.listen = address;
        })
        .await;
    // Longer than a lease, and nobody has come back: it is still believed.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut ads = watch_endpoints(&web, "default/cart:80").await;
    assert_eq!(told(&ads.take().await), [at(8080, Health::Healthy)]);
    // The first is back: the others have one term from then on.
    let mut back = web.join("web-aaaaaa", "web", 8081).await;
    assert_eq!(told(&ads.take().await), [at(8080, Health::Unhealthy)]);
    back.send(Up::Renewal(proto::Renewal {})).await;
    plane.control.stop().await;
}

#[tokio::test]
async fn the_status_says_when_a_sidecars_traffic_stops_and_which_limits_it_hit() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let (_, status) = plane.operator().get("/api/v1/status").await;
    assert_eq!(status["proxies"][0]["trafficStops"], Value::Null, "{status}");
    let summary = proto::Summary {
        certificate_warning: "the control plane says no".to_owned(),
        limits: vec![proto::LimitReached { kind: "memory".to_owned(), times: 3 }],
        retries_withheld: 7,
        ..proto::Summary::default()
    };
    session.send(Up::Summary(summary)).await;
    let proxy = loop {
        let (_, status) = plane.operator().get("/api/v1/status").await;
        if status["proxies"][0]["trafficStops"].is_object() {
            break status["proxies"][0].clone();
        }
        tokio::task::yield_now().await;
    };
    let stops = &proxy["trafficStops"];
    assert_eq!(
        (&stops["at"], &stops["reason"]),
        (&proxy["certificateExpires"], &json!("the control plane says no"))
    );
    assert_eq!(proxy["summary"]["limits"], json!([{"kind": "memory", "times": 3}]));
    assert_eq!(proxy["summary"]["retriesWithheld"], 7);
    plane.control.stop().await;
}

#[tokio::test]
async fn a_refused_resource_is_shown_in_the_status() {
    let plane = Plane::start().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let _session = cart.join("cart-aaaaaa", "cart", 8080).await;
    let ads = &mut cart.ads().await;
    let request = meshwork_xds::wire::DeltaDiscoveryRequest {
        node: Some(meshwork_xds::wire::core::Node { id: "cart-aaaaaa".to_owned(), ..Default::default() }),
        type_url: type_url(ResourceType::MeshSettings),
        resource_names_subscribe: vec!["default".to_owned()],
        ..Default::default()
    };
    ads.send(request).await;
    let response = ads.next().await.unwrap();
    ads.answer(&response, Some("too new for me")).await;
    let nack = loop {
        let (_, status) = plane.operator().get("/api/v1/status").await;
        if let Some(nack) = status.pointer("/proxies/0/config/nacks/0") {
            assert_eq!(status["proxies"][0]["connected"], Value::Bool(true));
            assert!(status["proxies"][0]["certificateExpires"].is_string(), "{status}");
            break nack.clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&nack["name"], &nack["reason"]), (&json!("default"), &json!("too new for me")));
    let (_, described) = plane.operator().get("/api/v1/describe/workloads/default/cart-aaaaaa").await;
    assert_eq!(described["config"][0]["refused"], "too new for me", "{described}");
    let (_, described) = plane.operator().get("/api/v1/describe/services/default/cart").await;
    assert_eq!(described["endpoints"][0]["health"], "healthy", "{described}");
    plane.control.stop().await;
}

#[tokio::test]
async fn a_slow_reader_delays_nobody() {
    let plane = Plane::start().await;
    let web = enrolled(&plane, "default", "web").await;
    // It asks for much and reads nothing.
    let slow = web.ads().await;
    let many: String = (0..200).map(|n| service("default", &format!("s{n}"), 80)).collect();
    plane.operator().apply_ok(&many).await;
    for n in 0..200 {
        slow.subscribe(&type_url(ResourceType::Cluster), &[&format!("default/s{n}:80")]).await;
    }
    let mut quick = watch_endpoints(&web, "default/cart:80").await;
    quick.take().await;
    let cart = enrolled(&plane, "default", "cart").await;
    let mut session = cart.join("cart-aaaaaa", "cart", 8080).await;
    assert_eq!(told(&quick.take().await), [at(8080, Health::Healthy)]);
    session.send(Up::Renewal(proto::Renewal {})).await;
    soon(plane.control.stop()).await;
}

#[tokio::test]
async fn replicas_that_start_together_are_all_there() {
    const REPLICAS: u16 = 32;
    let plane = Plane::start().await;
    let token = plane.operator().token("default", "cart").await;
    let start = |n: u16| {
        let token = token.clone();
        async move {
            let cart = enrol(&token).await.unwrap();
            let mut registration = register(&format!("cart-{n:06x}"), "cart", 8_000 + n);
            // Half of them bring a port of their own, which the service must get too.
            registration.ports[0].service_port = if n.is_multiple_of(2) { 80 } else { 1_000 + u32::from(n) };
            let (session, answer) = cart.register(registration).await;
            assert!(matches!(answer, Down::Welcome(_)), "{answer:?}");
            session
        }
    };
    let tasks: Vec<_> = (0..REPLICAS).map(|n| tokio::spawn(start(n))).collect();
    let mut sessions = Vec::new();
    for task in tasks {
        sessions.push(task.await.unwrap());
    }
    let (_, status) = plane.operator().get("/api/v1/status").await;
    let cart = &status["services"][0];
    assert_eq!(cart["ports"].as_array().unwrap().len(), 1 + usize::from(REPLICAS) / 2, "{cart}");
    assert_eq!(status["proxies"].as_array().unwrap().len(), usize::from(REPLICAS));
    assert!(status["proxies"].as_array().unwrap().iter().all(|proxy| proxy["connected"] == true), "{status}");
    plane.control.stop().await;
}
