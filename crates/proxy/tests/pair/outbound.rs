//! The outbound port: who is meant, who is refused, and what lies outside the mesh.

use meshwork_core::model::AccessLog;
use meshwork_core::resource::{MeshSettings, Resource, ResourceType};
use meshwork_proxy::Ask;
use meshwork_proxy::telemetry::Event;

use super::support::{Mesh, Pair, Sidecar, TRUST_DOMAIN, endpoint};
use super::talk::{App, Talk, ok};

fn web() -> Sidecar {
    Sidecar::start(&Mesh::new(), "web", &[], &[])
}

fn web_behind(parent: &App) -> Sidecar {
    let parent = format!("http://{}/", parent.address());
    Sidecar::start_with(&Mesh::new(), "web", &[], &[], |settings| settings.parent_proxy = Some(parent))
}

fn get(web: &Sidecar, url: &str) -> Talk {
    let mut client = Talk::to(web.outbound);
    client.send(format!("GET {url} HTTP/1.1\r\nHost: not-asked.example\r\n\r\n"));
    client
}

#[test]
fn the_targets_authority_beats_the_host() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = get(&pair.web, "http://CART:80/a");
    let mut served = app.accept();
    let request = served.head();
    request.expect("GET /a HTTP/1.1");
    assert_eq!(request.get("host"), Some("CART:80"));
    served.send(ok("meant"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("meant");
}

#[test]
fn link_local_addresses_and_own_ports_are_refused() {
    let web = web();
    let own = web.outbound.port();
    for (url, cause) in [
        ("http://169.254.169.254/latest/meta-data".to_owned(), "link_local_refused"),
        ("http://[fe80::1]/".to_owned(), "link_local_refused"),
        ("http://[::ffff:169.254.169.254]/".to_owned(), "link_local_refused"),
        (format!("http://127.0.0.1:{own}/"), "own_port_refused"),
        (format!("http://localhost:{own}/"), "own_port_refused"), // found out after the look-up
        ("http://0.0.0.0/".to_owned(), "address_refused"),
    ] {
        get(&web, &url).head().expect_cause("403", cause);
        let authority = url.trim_start_matches("http://").trim_end_matches("/latest/meta-data");
        let authority = authority.trim_end_matches('/');
        let authority = if authority.ends_with(&format!(":{own}")) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let mut client = Talk::to(web.outbound);
        client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        client.head().expect_cause("403", cause);
    }
}

#[test]
fn a_name_that_only_the_mesh_could_have_is_unknown() {
    let mut web = web();
    let mut client = get(&web, "http://nobody.default.mesh/");
    assert_eq!(web.asks.blocking_recv(), Some(Ask::Destination("nobody.default.mesh:80".to_owned())));
    web.live.apply(Vec::new(), &[(ResourceType::Listener, "nobody.default.mesh:80".to_owned())]);
    client.head().expect_cause("502", "unknown_service");
    let mut client = Talk::to(web.outbound);
    client.send("CONNECT nobody.default.mesh:80 HTTP/1.1\r\nHost: nobody.default.mesh:80\r\n\r\n");
    client.head().expect_cause("502", "unknown_service");
}

#[test]
fn a_request_waits_for_the_first_answer_about_its_service() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let mut web = Sidecar::start(&mesh, "web", &[], &[]);
    let mut client = get(&web, "http://cart/");
    assert_eq!(web.asks.blocking_recv(), Some(Ask::Destination("cart:80".to_owned())));
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    let mut served = app.accept();
    served.head().expect("GET / HTTP/1.1");
    served.send(ok("found"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("found");
}

#[test]
fn a_control_plane_that_does_not_answer_costs_two_seconds_and_a_503() {
    let web = web();
    get(&web, "http://cart/").head().expect_cause("503", "unknown_service_yet");
    assert_eq!(web.registry.counted(Event::FirstAnswerTimeout), 1);
}

#[test]
fn a_name_that_is_no_services_is_looked_for_outside() {
    let parent = App::listen();
    let mut web = web_behind(&parent);
    let mut client = get(&web, "http://legacy/a?b");
    assert_eq!(web.asks.blocking_recv(), Some(Ask::Destination("legacy:80".to_owned())));
    web.live.apply(Vec::new(), &[(ResourceType::Listener, "legacy:80".to_owned())]);
    let mut served = parent.accept();
    served.head().expect("GET http://legacy/a?b HTTP/1.1");
    served.send(ok("old"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("old");
}

#[test]
fn a_host_outside_the_mesh_is_called_as_the_application_would() {
    let (web, host) = (web(), App::listen());
    let mut client = Talk::to(web.outbound);
    let address = host.address();
    client.send(format!(
        "GET http://{address}/x HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eDp5\r\nProxy-X: 1\r\n\
         X-Meshwork-Cause: draining\r\n\r\n"
    ));
    let mut served = host.accept();
    let request = served.head();
    request.expect("GET /x HTTP/1.1");
    assert_eq!(request.get("host"), Some(address.to_string().as_str()));
    request.expect_without(&["proxy-authorization", "proxy-x", "x-meshwork-cause"]);
    request.expect_without(&["x-request-id", "traceparent", "x-forwarded-client-cert"]);
    served.send(ok("outside"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("outside");
    assert_eq!(web.registry.counted(Event::PassthroughRequest), 1);

    let mut client = Talk::to(web.outbound);
    client.send(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    client.head().expect("HTTP/1.1 200 OK");
    client.send([0, 1, 2]);
    let mut served = host.accept();
    served.expect([0, 1, 2]);
    served.send([3]);
    client.expect([3]);
    assert_eq!(web.registry.counted(Event::PassthroughConnection), 1);
}

#[test]
fn an_outside_host_that_is_not_there_is_said_to_be_so() {
    let (web, closed) = (web(), super::talk::Closed::new());
    get(&web, &format!("http://{}/", closed.address())).head().expect_cause("502", "passthrough_failed");
    let mut client = Talk::to(web.outbound);
    let address = closed.address();
    client.send(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    client.head().expect_cause("502", "passthrough_failed");
}

#[test]
fn outside_hosts_are_reached_by_the_proxy_that_was_set_before() {
    let parent = App::listen();
    let web = web_behind(&parent);
    let mut client = Talk::to(web.outbound);
    client.send(
        "GET http://www.outside.example/x HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
    );
    let mut served = parent.accept();
    let request = served.head();
    request.expect("GET http://www.outside.example/x HTTP/1.1");
    assert_eq!(request.get("host"), Some("www.outside.example"));
    assert_eq!(request.get("proxy-authorization"), Some("Basic eDp5"), "it is the parent's");
    served.send(ok("fetched"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("fetched");

    let connect = "CONNECT www.outside.example:443 HTTP/1.1\r\nHost: www.outside.example:443\r\n\r\n";
    let mut client = Talk::to(web.outbound);
    client.send(connect);
    let mut served = parent.accept();
    let request = served.head();
    request.expect("CONNECT www.outside.example:443 HTTP/1.1");
    assert_eq!(request.get("host"), Some("www.outside.example:443"));
    served.send("HTTP/1.1 200 Connection established\r\nVia: 1.1 parent\r\n\r\nearly");
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("early");
    client.send([22, 3, 1]);
    served.expect([22, 3, 1]);

    let mut client = Talk::to(web.outbound);
    client.send(connect);
    let mut served = parent.accept();
    served.head();
    served.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    client.head().expect_cause("502", "passthrough_failed");
}

#[test]
fn an_address_in_the_meshs_ranges_is_asked_about() {
    let mut web = web();
    web.live.apply(
        vec![Resource::MeshSettings(MeshSettings {
            mesh_id: "m".to_owned(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            access_log: AccessLog::Off,
            issuing_root: String::new(),
            ranges: vec!["240.0.0.0/8".parse().unwrap()],
            virtual_ranges: Vec::new(),
            unknown: Default::default(),
        })],
        &[],
    );
    let _client = get(&web, "http://240.0.0.7:8080/");
    assert_eq!(web.asks.blocking_recv(), Some(Ask::Destination("240.0.0.7:8080".to_owned())));
}

#[test]
fn the_meshs_own_answers_are_said_in_what_the_client_reads() {
    let web = web();
    for (accept, kind) in [("application/json", "application/json"), ("*/*", "text/plain")] {
        let mut client = Talk::to(web.outbound);
        client.send(format!("GET http://0.0.0.0/ HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"));
        let answer = client.head();
        answer.expect_cause("403", "address_refused");
        assert!(answer.get("content-type").unwrap().starts_with(kind), "{answer:?}");
        let body = client.take(answer.get("content-length").unwrap().parse().unwrap());
        assert!(String::from_utf8(body).unwrap().contains("address_refused"));
    }
}
