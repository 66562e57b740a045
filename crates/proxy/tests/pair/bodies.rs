//! Bodies that end otherwise than planned: early answers, aborts, truncation.

use super::support::Pair;
use super::talk::{App, Closed, Talk, ok};

fn start() -> (Pair, App, Talk) {
    let app = App::listen();
    let pair = Pair::start(app.port);
    let client = Talk::to(pair.web.outbound);
    (pair, app, client)
}

#[test]
fn an_answer_that_refuses_the_body_arrives_before_the_body_was_read() {
    let (_pair, app, mut client) = start();
    client.send("POST /upload HTTP/1.1\r\nHost: cart\r\nContent-Length: 100000000\r\n\r\n");
    client.send(vec![b'x'; 100_000]);
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    drop(served); // unread bytes and all: the kernel resets the connection
    let answer = client.head();
    answer.expect("HTTP/1.1 413 Content Too Large");
    assert_eq!(answer.get("connection"), Some("close"));
    client.expect("big");
    client.expect_end();
}

#[track_caller]
fn check_early_answer(connection: &str) -> (Talk, Talk) {
    let (_pair, app, mut client) = start();
    client.send(format!("POST / HTTP/1.1\r\nHost: cart\r\n{connection}Content-Length: 10\r\n\r\n01234"));
    let mut served = app.accept();
    served.head();
    served.send(ok("early"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("early");
    client.send("56789");
    served.expect("0123456789");
    if connection.is_empty() {
        client.send("GET /next HTTP/1.1\r\nHost: cart\r\n\r\n");
        served.head().expect("GET /next HTTP/1.1");
        served.send(ok("next"));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect("next");
    } else {
        client.expect_end();
    }
    (client, served)
}

#[test]
fn a_body_goes_on_after_an_early_answer_and_the_next_request_is_found() {
    check_early_answer("");
}

#[test]
fn a_body_goes_on_after_an_early_answer_even_if_no_request_will_follow() {
    check_early_answer("Connection: close\r\n");
}

#[test]
fn a_client_that_leaves_within_its_body_breaks_the_request_off_at_the_application() {
    let (_pair, app, mut client) = start();
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\n01234");
    let mut served = app.accept();
    served.head();
    served.expect("01234");
    drop(client);
    assert_eq!(served.rest().0, b"", "five bytes are missing");
}

#[test]
fn a_chunked_body_that_breaks_off_does_not_look_whole_to_the_application() {
    let (_pair, app, mut client) = start();
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut served = app.accept();
    served.head();
    served.expect("3\r\nabc\r\n");
    drop(client);
    assert_eq!(served.rest().0, b"", "the last chunk must not come");
}

#[test]
fn a_client_that_leaves_before_the_answer_takes_its_request_along() {
    let (_pair, app, mut client) = start();
    client.send("GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    drop(client);
    assert_eq!(served.rest().0, b"");
}

#[test]
fn an_answer_that_breaks_off_is_not_whole_at_the_client() {
    for (head, body, arrives) in [
        ("Content-Length: 10\r\n", "01234", "01234"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n01234\r\n", "5\r\n01234\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n012", "3\r\n012\r\n"),
    ] {
        let (_pair, app, mut client) = start();
        client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        let mut served = app.accept();
        served.head();
        served.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
        drop(served);
        client.head().expect("HTTP/1.1 200 OK");
        let (rest, _) = client.rest();
        assert_eq!(String::from_utf8_lossy(&rest), arrives, "{head}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 200 OK\r\n\r\nall of it");
    drop(served);
    assert_eq!(client.head().get("transfer-encoding"), Some("chunked"));
    assert_eq!(client.chunked().0, b"all of it");
}

#[test]
fn a_broken_answer_breaks_the_connection_of_a_client_that_would_take_its_end_for_the_bodys() {
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.0\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n");
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("01234");
    drop(served);
    client.expect_broken();
}

#[test]
fn an_application_that_closes_before_it_answers_is_told_as_such() {
    let (_pair, app, mut client) = start();
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\nhi");
    let mut served = app.accept();
    served.head();
    served.expect("hi");
    drop(served);
    let answer = client.head();
    answer.expect_cause("502", "app_reset");
    app.expect_nobody(); // a POST that may have been processed is not sent twice
}

#[test]
fn an_application_that_speaks_no_http_is_told_as_such() {
    let (_pair, app, mut client) = start();
    client.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    for _ in 0..3 {
        let mut served = app.accept(); // a GET may be repeated, and is
        served.head();
        served.send("220 mail.example ESMTP\r\n\r\n");
    }
    client.head().expect_cause("502", "app_protocol");
}

#[test]
fn an_application_that_answers_unasked_spoils_only_its_own_connection() {
    let (_pair, app, mut client) = start();
    client.send("GET /1 HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut served = app.accept();
    served.head();
    served.send(format!("{}{}", ok("one"), ok("smuggled")));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("one");
    client.send("GET /2 HTTP/1.1\r\nHost: cart\r\n\r\n");
    let mut fresh = app.accept();
    fresh.head().expect("GET /2 HTTP/1.1");
    fresh.send(ok("two"));
    client.head().expect("HTTP/1.1 200 OK");
    client.expect("two");
    assert_eq!(served.rest().0, b""); // and its connection is given up
}

#[test]
fn a_body_that_is_no_http_is_refused_and_breaks_off_at_the_application() {
    let (_pair, app, mut client) = start();
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut served = app.accept();
    served.head();
    served.expect("3\r\nabc\r\n");
    client.send("no size\r\n");
    client.head().expect_cause("400", "bad_request");
    assert_eq!(served.rest().0, b"", "the last chunk must not come");
}

#[test]
fn a_body_whose_request_failed_is_never_taken_for_a_request() {
    let pair = Pair::start(Closed::new().port());
    let mut client = Talk::to(pair.web.outbound);
    client.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 1000\r\n\r\n");
    let answer = client.head();
    answer.expect_cause("502", "app_refused");
    assert_eq!(answer.get("connection"), Some("close"));
    client.take(answer.get("content-length").unwrap().parse().unwrap());
    let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n");
    assert_eq!(client.rest().0, b"");
}
