//! Which endpoint answers, and when another one is tried: only if no application can have seen the request.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use meshwork_core::resource::Endpoint;
use meshwork_proxy::telemetry::Event;

use super::peers::as_sidecar;
use super::support::{Mesh, Pair, Sidecar, endpoint, http1_endpoint};
use super::talk::{App, Closed, Talk, eventually, ok};

/// `web`, with endpoints of `cart` that take turns.
fn web_with(mesh: &Mesh, endpoints: Vec<Endpoint>) -> Sidecar {
    let web = Sidecar::start(mesh, "web", &[], &["cart:80"]);
    web.learn("cart", 80, endpoints);
    web
}

#[test]
fn an_application_that_does_not_listen_is_told_as_such() {
    let pair = Pair::start(Closed::new().port());
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("502", "app_refused");
}

#[test]
fn a_request_that_no_application_saw_goes_to_another_endpoint_whatever_its_method() {
    let (mesh, app, closed) = (Mesh::new(), App::listen(), Closed::new());
    let dead = Sidecar::start(&mesh, "cart", &[closed.port()], &[]);
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web =
        web_with(&mesh, vec![endpoint(dead.inbound[0], closed.port()), endpoint(alive.inbound[0], app.port)]);
    let mut client = Talk::to(web.outbound);
    let body = "x".repeat(60 * 1024);
    let mut served = None;
    for _ in 0..2 {
        client.send(format!(
            "POST /buy HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let served = served.get_or_insert_with(|| app.accept());
        served.head().expect("POST /buy HTTP/1.1");
        served.expect(&body);
        served.send(ok("bought"));
        let answer = client.head();
        answer.expect("HTTP/1.1 200 OK");
        answer.expect_without(&["x-meshwork-cause"]);
        client.expect("bought");
    }
    // In turn, the dead one was first once.
    assert_eq!(web.retries(), 1);
    app.expect_nobody();
}

#[test]
fn a_body_that_is_not_kept_any_more_is_not_sent_again() {
    let (mesh, peer, app) = (Mesh::new(), App::listen(), App::listen());
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = web_with(&mesh, vec![http1_endpoint(peer.address(), 80), endpoint(alive.inbound[0], app.port)]);
    let body = "x".repeat(64 * 1024 + 1);
    let refuse = std::thread::spawn({
        let (config, length) = (as_sidecar(&mesh, "cart"), body.len());
        move || {
            let mut served = Talk::tls_server_on(peer.accept_socket(), config);
            served.head();
            served.take(length); // so all of it was sent
            served.send(
                "HTTP/1.1 502 Bad Gateway\r\nX-Meshwork-Cause: app_refused\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    app.serve(|head, talk| {
        talk.take(head.get("content-length").unwrap().parse().unwrap());
        ok("bought")
    });
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut client = Talk::to(web.outbound);
        client.send(format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let answer = client.head();
        statuses.push((answer.first[9..12].to_owned(), answer.get("x-meshwork-cause").map(str::to_owned)));
    }
    refuse.join().unwrap();
    statuses.sort();
    assert_eq!(statuses, [("200".to_owned(), None), ("502".to_owned(), Some("app_refused".to_owned()))]);
    assert_eq!(web.retries(), 0);
}

#[test]
fn endpoints_that_cannot_be_connected_to_are_stepped_over_and_counted() {
    let (mesh, app, dead) = (Mesh::new(), App::listen(), [Closed::new(), Closed::new()]);
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let endpoints = vec![
        endpoint(dead[0].address(), 80),
        endpoint(dead[1].address(), 80),
        endpoint(alive.inbound[0], app.port),
    ];
    let web = web_with(&mesh, endpoints);
    app.serve(|_, _| ok("fine"));
    let mut client = Talk::to(web.outbound);
    // Whatever the order of turns, a third try that returned to a dead one would show.
    for _ in 0..12 {
        client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("fine");
    }
    let failed = web.registry.counted(Event::ConnectFailed);
    assert!(failed >= 4, "{failed} failed connects");
    assert_eq!(web.retries(), failed);
    let text = web.registry.render();
    assert!(text.contains(&format!("meshwork_connect_failures_total {failed}")), "{text}");
}

#[test]
fn opaque_connections_step_over_dead_endpoints_too() {
    let (mesh, app, dead) = (Mesh::new(), App::listen(), [Closed::new(), Closed::new()]);
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let endpoints = vec![
        endpoint(dead[0].address(), 80),
        endpoint(dead[1].address(), 80),
        endpoint(alive.inbound[0], app.port),
    ];
    let web = web_with(&mesh, endpoints);
    for _ in 0..6 {
        let mut client = Talk::to(web.upstreams[0]);
        client.send("\u{0}ask");
        let mut served = app.accept();
        served.expect("\u{0}ask");
        served.send("told");
        client.expect("told");
    }
}

#[test]
fn no_endpoint_that_can_be_reached_is_said_with_the_last_reason() {
    let (mesh, dead) = (Mesh::new(), Closed::new());
    let web = web_with(&mesh, vec![endpoint(dead.address(), 80)]);
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("502", "connect_failed");
    let web = web_with(&mesh, Vec::new());
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect_cause("503", "no_endpoint");
}

#[test]
fn a_kept_connection_that_the_application_closed_is_not_used() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\nhi");
        let mut served = app.accept();
        served.head();
        served.expect("hi");
        served.send(ok("done"));
        drop(served); // without a word, as a server does that restarts
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("done");
    }
}

#[test]
fn a_kept_connection_that_closes_just_as_it_is_used_costs_a_get_nothing() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET /1 HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("one"));
    client.head();
    client.expect("one");
    client.send("GET /2 HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /2 HTTP/1.1");
    drop(served);
    let mut fresh = app.accept();
    fresh.head().expect("GET /2 HTTP/1.1");
    fresh.send(ok("two"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("two");
}

/// The sidecar beside the application leaves that to the caller's, which may know another endpoint.
#[test]
fn a_get_that_breaks_is_tried_again_twice_where_there_is_only_one_endpoint() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    for _ in 0..3 {
        app.accept().head().expect("GET / HTTP/1.1");
    }
    client.head().expect_cause("502", "app_reset");
    app.expect_nobody();
    assert_eq!(pair.web.registry.counted(Event::RetryStatus), 2);
    assert_eq!(pair.cart.retries(), 0);
}

#[test]
fn what_may_be_repeated_goes_to_another_endpoint_when_a_gateway_fails() {
    let (mesh, bad, good) = (Mesh::new(), App::listen(), App::listen());
    let one = Sidecar::start(&mesh, "cart", &[bad.port], &[]);
    let other = Sidecar::start(&mesh, "cart", &[good.port], &[]);
    let web =
        web_with(&mesh, vec![endpoint(one.inbound[0], bad.port), endpoint(other.inbound[0], good.port)]);
    let statuses = ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"];
    let served = AtomicUsize::new(0);
    bad.serve(move |head, talk| {
        talk.take(head.get("content-length").map_or(0, |length| length.parse().unwrap()));
        let status = statuses[served.fetch_add(1, Relaxed) % statuses.len()];
        format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nfailed")
    });
    good.serve(|head, talk| {
        let length = head.get("content-length").map_or(0, |length| length.parse().unwrap());
        ok(str::from_utf8(&talk.take(length)).unwrap())
    });
    let mut client = Talk::to(web.outbound);
    let body = "x".repeat(64 * 1024);
    for method in ["GET", "PUT", "DELETE", "PUT", "GET", "DELETE"] {
        let body = if method == "PUT" { &body } else { "" };
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect(body);
    }
    assert_eq!(web.registry.counted(Event::RetryStatus), 3, "in turn, half of them met the bad one first");
}

#[test]
fn what_may_not_be_repeated_is_sent_once_and_told_as_it_was_answered() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    app.serve(|_, _| "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy".to_owned());
    let mut client = Talk::to(pair.web.outbound);
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
    let answer = client.head();
    answer.expect("HTTP/1.1 503 Service Unavailable");
    answer.expect_without(&["x-meshwork-cause", "x-meshwork-retried"]);
    client.expect("busy");
    assert_eq!(pair.web.retries(), 0);
}

/// A verified peer's word; no application's.
#[test]
fn an_answer_behind_which_tries_were_spent_is_final_and_its_mark_is_not_shown() {
    let (mesh, peer) = (Mesh::new(), App::listen());
    let web = web_with(&mesh, vec![http1_endpoint(peer.address(), 80)]);
    let serving = std::thread::spawn({
        let config = as_sidecar(&mesh, "cart");
        move || {
            let mut served = Talk::tls_server_on(peer.accept_socket(), config);
            served.head();
            served.send(
                "HTTP/1.1 503 Service Unavailable\r\nX-Meshwork-Retried: 1\r\nContent-Length: 0\r\n\r\n",
            );
            peer
        }
    });
    let mut client = Talk::to(web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let answer = client.head();
    answer.expect("HTTP/1.1 503 Service Unavailable");
    answer.expect_without(&["x-meshwork-retried"]);
    serving.join().unwrap().expect_nobody();
    assert_eq!(web.retries(), 0);

    let app = App::listen();
    let pair = Pair::start(app.port);
    let liar = "HTTP/1.1 503 Service Unavailable\r\nX-Meshwork-Retried: 1\r\nContent-Length: 0\r\n\r\n";
    app.serve(|_, _| liar.to_owned());
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    client.head().expect("HTTP/1.1 503 Service Unavailable");
    assert_eq!(pair.web.retries(), 2);
}

#[test]
fn a_budget_that_is_used_up_lets_failures_through_and_is_counted() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    app.serve(|_, _| "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned());
    let mut client = Talk::to(pair.web.outbound);
    eventually("a request finds the budget used up", || {
        client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        client.head().expect("HTTP/1.1 503 Service Unavailable");
        pair.web.registry.counted(Event::RetryBudgetExhausted) > 0
    });
}

#[test]
fn a_post_on_a_kept_connection_is_never_sent_twice() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let mut client = Talk::to(pair.web.outbound);
    client.send("GET /1 HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut kept = app.accept();
    kept.head();
    kept.send(ok("one"));
    client.head();
    client.expect("one");
    client.send("POST /2 HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
    // On the kept connection, or on a new one if this machine took a second over the lines above.
    let mut fresh = None;
    eventually("the POST arrives", || {
        fresh = app.accepted();
        fresh.is_some() || kept.is_spoken_to()
    });
    let mut used = fresh.unwrap_or(kept);
    used.head().expect("POST /2 HTTP/1.1");
    drop(used);
    client.head().expect_cause("502", "app_reset");
    app.expect_nobody();
}

#[test]
fn a_client_that_waits_for_100_hears_nothing_of_the_endpoint_that_was_dead() {
    let (mesh, app, closed) = (Mesh::new(), App::listen(), Closed::new());
    let dead = Sidecar::start(&mesh, "cart", &[closed.port()], &[]);
    let alive = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web =
        web_with(&mesh, vec![endpoint(dead.inbound[0], closed.port()), endpoint(alive.inbound[0], app.port)]);
    let mut client = Talk::to(web.outbound);
    let mut served = None;
    for _ in 0..2 {
        client.send("PUT / HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        let served = served.get_or_insert_with(|| app.accept());
        assert_eq!(served.head().get("expect"), Some("100-continue"));
        served.send("HTTP/1.1 100 Continue\r\n\r\n");
        client.head().expect("HTTP/1.1 100 Continue");
        client.send("body");
        served.expect("body");
        served.send(ok("put"));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("put");
    }
    assert_eq!(web.retries(), 1);
}
