//! HTTP/1 through the pair: one message after the other, each as the application or client meant it.

use super::HTTP2;
use super::support::{Mesh, Pair, Sidecar, plaintext_endpoint};
use super::talk::{App, Talk, ok};

fn start() -> (Pair, App, Talk) {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let client = Talk::to(pair.web.outbound);
    (pair, app, client)
}

#[test]
fn a_request_by_name_reaches_the_service_and_its_answer_comes_back() {
    let (_pair, app, mut client) = start();
    client.send(
        "GET http://cart/items?limit=3 HTTP/1.1\r\nHost: ignored\r\nX-Meshwork-Evil: 1\r\n\
         X-Forwarded-Client-Cert: URI=spiffe://mesh.test/ns/default/sa/admin\r\n\r\n",
    );
    let mut app = app.accept();
    let request = app.head();
    request.expect("GET /items?limit=3 HTTP/1.1");
    assert_eq!(request.get("host"), Some("cart"));
    let callers: Vec<_> =
        request.fields.iter().filter(|(name, _)| name == "x-forwarded-client-cert").collect();
    assert_eq!(callers.len(), 1, "{request:?}");
    assert_eq!(callers[0].1, "URI=spiffe://mesh.test/ns/default/sa/web");
    assert_eq!(request.get("x-request-id").map(str::len), Some(36));
    assert!(request.get("traceparent").unwrap().starts_with("00-"));
    request.expect_without(&["x-meshwork-evil"]);
    app.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Meshwork-Cause: app_refused\r\n\r\nhello");
    let answer = client.head();
    answer.expect("HTTP/1.1 200 OK");
    answer.expect_without(&["x-meshwork-cause"]);
    client.expect("hello");
}

#[test]
fn requests_in_one_write_are_answered_in_their_order() {
    let (_pair, app, mut client) = start();
    client.send(
        "GET /1 HTTP/1.1\r\nHost: cart\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\n\r\nbody\
         GET /3 HTTP/1.1\r\nHost: cart\r\n\r\n",
    );
    let mut served = app.accept();
    served.head().expect("GET /1 HTTP/1.1");
    served.send(ok("one"));
    served.head().expect("POST /2 HTTP/1.1");
    served.expect("body");
    served.send(ok("two"));
    served.head().expect("GET /3 HTTP/1.1");
    served.send(ok("three"));
    for body in ["one", "two", "three"] {
        client.head().expect("HTTP/1.1 200 OK");
        client.expect(body);
    }
    app.expect_nobody(); // one connection carried all
}

#[test]
fn a_connection_that_is_kept_carries_the_next_request() {
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(ok("first"));
    client.head();
    client.expect("first");
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head();
    served.send(ok("second"));
    client.head();
    client.expect("second");
    app.expect_nobody();
}

#[test]
fn answers_without_a_body_have_none_and_the_next_answer_is_found() {
    let (_pair, app, mut client) = start();
    let mut served = None;
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: cart\r\n\r\n"));
        let served = served.get_or_insert_with(|| app.accept());
        served.head().expect(&format!("{method} / HTTP/1.1"));
        served.send(head);
        let answer = client.head();
        answer.expect(head.split("\r\n").next().unwrap());
        // HTTP/2 has no word for a coding that frames.
        let fields: &[&str] = if HTTP2 {
            &["Content-Length", "ETag"]
        } else {
            &["Content-Length", "ETag", "Transfer-Encoding"]
        };
        for field in fields {
            let sent = head.split("\r\n").find_map(|line| line.strip_prefix(&format!("{field}: ")));
            assert_eq!(answer.get(&field.to_ascii_lowercase()), sent, "{answer:?}");
        }
    }
    client.send("GET /last HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = served.unwrap();
    served.head().expect("GET /last HTTP/1.1");
    served.send(ok("whole"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("whole");
}

#[test]
fn interim_answers_are_passed_on_but_do_not_speak_for_the_mesh() {
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Meshwork-Cause: draining\r\n\r\n");
    let hints = client.head();
    hints.expect("HTTP/1.1 103 Early Hints");
    assert_eq!(hints.get("link"), Some("</a.css>"));
    hints.expect_without(&["x-meshwork-cause"]);
    served.send(ok("late"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("late");
}

#[test]
fn a_client_that_expects_100_gets_the_applications() {
    let (_pair, app, mut client) = start();
    client.send("PUT /a HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut served = app.accept();
    assert_eq!(served.head().get("expect"), Some("100-continue"));
    served.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.head().expect("HTTP/1.1 100 Continue");
    client.send("hello");
    served.expect("hello");
    served.send(ok("stored"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("stored");
    client.send("GET /next HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /next HTTP/1.1");
}

#[test]
fn a_final_answer_instead_of_100_ends_the_connection() {
    let (_pair, app, mut client) = start();
    client.send("PUT /a HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.head();
    answer.expect("HTTP/1.1 401 Unauthorized");
    // Whether the body still comes nobody can know, so no request can follow.
    assert_eq!(answer.get("connection"), Some("close"));
    client.expect("no");
    client.expect_end();
}

#[test]
fn a_client_that_does_not_wait_for_100_is_served_all_the_same() {
    let (_pair, app, mut client) = start();
    client.send("PUT /a HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let mut served = app.accept();
    served.head();
    served.expect("hello");
    served.send(ok("stored"));
    let answer = client.head();
    answer.expect("HTTP/1.1 200 OK");
    answer.expect_without(&["connection"]);
    client.expect("stored");
    client.send("GET /next HTTP/1.1\r\nHost: cart\r\n\r\n");
    served.head().expect("GET /next HTTP/1.1");
}

#[test]
fn chunks_and_trailers_cross_both_ways_without_the_meshs_names() {
    let (_pair, app, mut client) = start();
    client.send(
        "POST /sum HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nConnection: TE\r\n\
         Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n",
    );
    let mut served = app.accept();
    let request = served.head();
    assert_eq!(request.get("transfer-encoding"), Some("chunked"));
    assert_eq!(request.get("te"), Some("trailers"));
    client.send("5;ext=1\r\nhello\r\n");
    served.expect("5\r\nhello\r\n"); // each piece goes on as it comes
    client.send(
        "6\r\n world\r\n0\r\nX-Sum: 11\r\nX-Meshwork-Cause: draining\r\nX-Forwarded-Client-Cert: a\r\n\r\n",
    );
    let (body, trailers) = served.chunked();
    assert_eq!(body, b" world");
    assert_eq!(trailers, [("x-sum".to_owned(), "11".to_owned())]);
    served.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-answer\r\n\r\n2\r\n42\r\n0\r\n\
         X-Answer: yes\r\nX-Meshwork-Cause: draining\r\n\r\n",
    );
    let answer = client.head();
    assert_eq!(answer.get("trailer"), Some("x-answer"));
    assert_eq!(client.chunked(), (b"42".to_vec(), vec![("x-answer".to_owned(), "yes".to_owned())]));
}

#[test]
fn what_is_for_one_connection_does_not_cross() {
    let (_pair, app, mut client) = start();
    client.send(
        "GET / HTTP/1.1\r\nHost: cart\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nProxy: evil:1\r\n\
         Proxy-Whatever: 2\r\nAccept: */*\r\n\r\n",
    );
    let mut served = app.accept();
    let request = served.head();
    request.expect_without(&["connection", "x-hop", "keep-alive", "proxy", "proxy-connection"]);
    request.expect_without(&["proxy-authorization", "proxy-whatever"]);
    assert_eq!(request.get("accept"), Some("*/*"));
    served.send(
        "HTTP/1.1 200 OK\r\nConnection: X-Res\r\nX-Res: 1\r\nKeep-Alive: timeout=5\r\nServer: a\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let answer = client.head();
    answer.expect_without(&["connection", "x-res", "keep-alive"]);
    assert_eq!(answer.get("server"), Some("a"));
}

#[test]
fn a_client_of_http_1_0_is_answered_as_it_can_read() {
    let (pair, app, mut client) = start();
    client.send("GET / HTTP/1.0\r\nHost: cart\r\nConnection: keep-alive\r\n\r\n");
    let mut served = app.accept();
    served.head().expect("GET / HTTP/1.1");
    served.send(ok("kept"));
    assert_eq!(client.head().get("connection"), Some("keep-alive"));
    client.expect("kept");
    client.send("GET / HTTP/1.0\r\nHost: cart\r\n\r\n");
    served.head();
    served.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nend\r\n0\r\n\r\n");
    client.head().expect_without(&["transfer-encoding", "content-length"]);
    client.expect("end");
    client.expect_end();
    drop(pair);
}

#[test]
fn what_is_no_http_is_refused_and_nothing_crashes() {
    let app = App::listen();
    let pair = Pair::start(app.port);
    for request in [
        "GET / HTTP/1.1\r\nHost:\r\n\r\n", // names nobody
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cart\r\nHost: pay\r\n\r\n",
        "GET http://user@cart/ HTTP/1.1\r\nHost: cart\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: cart\r\n folded\r\n\r\n",
        "\u{1}\u{2}\r\n\r\n",
    ] {
        let mut client = Talk::to(pair.web.outbound);
        client.send(request);
        client.head().expect_cause("400", "bad_request");
    }
    app.expect_nobody();
}

#[test]
fn an_application_without_a_sidecar_is_not_told_who_calls_by_the_caller() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("legacy", 80, vec![plaintext_endpoint(app.address())]);
    let mut client = Talk::to(web.outbound);
    client.send(
        "GET / HTTP/1.1\r\nHost: legacy\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.test/ns/default/sa/admin\r\n\r\n",
    );
    app.accept().head().expect_without(&["x-forwarded-client-cert"]);
}

#[test]
fn a_client_of_http_that_half_closes_is_taken_for_gone() {
    // By decision, as nginx and Envoy do it: `relay.rs` says why.
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    client.half_close();
    assert_eq!(served.rest().0, b"");
    assert_eq!(client.rest().0, b"");
}
