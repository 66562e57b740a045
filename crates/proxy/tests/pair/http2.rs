//! Applications that speak HTTP/2, whatever sidecars speak with each other.

use std::time::Duration;

use meshwork_core::model::AppProtocol;
use meshwork_http::h2::ErrorCode;
use meshwork_proxy::ALPN_HTTP2;
use meshwork_proxy::telemetry::Event;

use super::life::draining;
use super::peers::as_client;
use super::streams::{Said, Streams};
use super::support::{Mesh, Sidecar, bind, endpoint};
use super::talk::{App, Talk, eventually, ok};

/// The sidecar of an application that was declared to speak this.
fn cart(mesh: &Mesh, app: &App, protocol: AppProtocol, workers: usize) -> Sidecar {
    Sidecar::start_with(mesh, "cart", &[app.port], &[], |settings| {
        settings.ports[0].protocol = Some(protocol);
        settings.workers = workers;
    })
}

/// A pair whose application was declared to speak this.
fn declared(app: &App, protocol: AppProtocol) -> (Sidecar, Sidecar) {
    let mesh = Mesh::new();
    let cart = cart(&mesh, app, protocol, 1);
    let web = Sidecar::start(&mesh, "web", &[], &["cart:80"]);
    web.learn_as("cart", 80, vec![endpoint(cart.inbound[0], app.port)], "cart", Some(protocol));
    (web, cart)
}

#[test]
fn a_client_that_says_all_at_once_and_then_nothing_is_answered() {
    // curl sends preface, SETTINGS and its request in one write. Finding out the protocol reads all of it.
    let app = App::listen();
    let (web, _cart) = declared(&app, AppProtocol::Http);
    app.serve(|head, _| ok(&head.first));
    for address in [web.outbound, web.upstreams[0]] {
        let mut client = Streams::client(Talk::to(address));
        let asked = client.get("/all");
        client.fall_silent();
        let (head, body) = client.whole(asked);
        assert_eq!((&*head.first, &*body), ("200", "GET /all HTTP/1.1"));
    }
}

#[test]
fn requests_of_one_connection_are_carried_at_once_and_answered_in_any_order() {
    let app = App::listen();
    let (web, _cart) = declared(&app, AppProtocol::Http2);
    let mut client = Streams::client(Talk::to(web.outbound));
    let asked: Vec<_> = (0..3).map(|number| client.ask("GET", "cart", &format!("/{number}"), true)).collect();
    client.flush();
    let mut served = Streams::server(app.accept());
    let heads: Vec<_> = (0..3).map(|_| served.head()).collect();
    for (stream, message) in heads.into_iter().rev() {
        let caller = "URI=spiffe://mesh.test/ns/default/sa/web";
        assert_eq!(message.get("x-forwarded-client-cert"), Some(caller), "{message:?}");
        served.ok(stream, &message.first);
    }
    for (number, (head, body)) in client.wholes(&asked).into_iter().enumerate() {
        assert_eq!((&*head.first, body), ("200", format!("GET /{number}")));
    }
    app.expect_nobody(); // all of them on one connection
}

#[test]
fn a_stream_that_the_client_gives_up_is_given_up_at_the_application_and_others_go_on() {
    let app = App::listen();
    let (web, _cart) = declared(&app, AppProtocol::Http2);
    let mut client = Streams::client(Talk::to(web.outbound));
    let given_up = client.get("/given-up");
    let mut served = Streams::server(app.accept());
    let (at_server, message) = served.head();
    assert_eq!(message.first, "GET /given-up");
    client.reset(given_up, ErrorCode::CANCEL);
    let told = loop {
        match served.next() {
            Said::Writable => {}
            Said::Reset { stream, reset } => break (stream, reset.code),
            other => panic!("not given up, but {other:?}"),
        }
    };
    assert_eq!(told, (at_server, ErrorCode::CANCEL));
    let asked = client.get("/next");
    let (next, _) = served.head();
    served.ok(next, "served");
    assert_eq!(client.whole(asked).1, "served");
}

/// The most streams that a connection takes, and one more.
const MORE_THAN_A_CONNECTION_TAKES: usize = 257;
const AT_ONCE: usize = 16;

#[test]
fn more_requests_at_once_than_a_connection_takes_open_another_one() {
    let app = App::listen();
    let (web, cart) = declared(&app, AppProtocol::Http2);
    // A client of HTTP/2 keeps to the limit that it was told; two connections ask for more.
    let mut clients = [Streams::client(Talk::to(web.outbound)), Streams::client(Talk::to(web.outbound))];
    let warm = clients.each_mut().map(|client| client.get("/warm")); // after it, the limit is known
    let mut served = vec![Streams::server(app.accept())];
    for _ in 0..2 {
        let (stream, _) = served[0].head(); // whoever's comes first
        served[0].ok(stream, "warm");
    }
    for (client, asked) in clients.iter_mut().zip(warm) {
        client.whole(asked);
    }
    let mut asked = Vec::new();
    let mut waiting = Vec::new();
    // A few at a time, for between sidecars of HTTP/1 each is a handshake, and none of them may take too long.
    for number in 0..MORE_THAN_A_CONNECTION_TAKES {
        let client = &mut clients[number % 2];
        asked.push((number % 2, client.ask("GET", "cart", &format!("/{number}"), true)));
        client.flush();
        if number % AT_ONCE < AT_ONCE - 1 && number < MORE_THAN_A_CONNECTION_TAKES - 1 {
            continue;
        }
        while waiting.len() <= number {
            if waiting.len() == MORE_THAN_A_CONNECTION_TAKES - 1 {
                served.push(Streams::server(app.accept()));
            }
            let at = served.len() - 1;
            let (stream, message) = served[at].head();
            waiting.push((at, stream, message.first));
        }
    }
    if super::HTTP2 {
        assert_eq!(cart.registry.counted(Event::AcceptedInbound), 2, "and so between the sidecars");
    }
    for (at, stream, first) in waiting {
        served[at].ok(stream, &first);
    }
    let mut all = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let asked: Vec<_> = asked.iter().filter(|(by, _)| *by == number).map(|(_, stream)| *stream).collect();
        all.extend(client.wholes(&asked).into_iter().map(|(_, body)| body));
    }
    all.sort();
    let mut expected: Vec<_> =
        (0..MORE_THAN_A_CONNECTION_TAKES).map(|number| format!("GET /{number}")).collect();
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn a_draining_sidecar_says_goaway_finishes_what_runs_and_its_callers_go_elsewhere() {
    let (mesh, old, new) = (Mesh::new(), App::listen(), App::listen());
    let leaving = cart(&mesh, &old, AppProtocol::Http, 1);
    let staying = cart(&mesh, &new, AppProtocol::Http, 1);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(leaving.inbound[0], old.port)]);
    let mut client = Streams::client(Talk::to(web.outbound));
    let running = client.get("/running");
    let mut served = old.accept();
    served.head();
    // As in a rollout: callers are told of the other one, then this one drains.
    web.learn("cart", 80, vec![endpoint(staying.inbound[0], new.port)]);
    let draining = draining(leaving, Duration::from_secs(30));
    let next = client.get("/next");
    let mut elsewhere = new.accept();
    elsewhere.head().expect("GET /next HTTP/1.1");
    elsewhere.send(ok("new"));
    assert_eq!(client.whole(next).1, "new");
    served.send(ok("finished"));
    assert_eq!(client.whole(running).1, "finished");
    draining.join().unwrap().data.stop();
    old.expect_nobody();
}

#[test]
fn callers_are_told_of_a_drain_by_goaway_and_what_runs_is_finished() {
    if !super::HTTP2 {
        return; // `life.rs` has the same for HTTP/1.1
    }
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = cart(&mesh, &app, AppProtocol::Http, 1);
    let config = as_client(&mesh.identity("web"), &mesh.bundle(), "cart", ALPN_HTTP2);
    let mut caller = Streams::client(Talk::tls_to(cart.inbound[0], config));
    let running = caller.get("/running");
    let mut served = app.accept();
    served.head();
    let draining = draining(cart, Duration::from_secs(30));
    loop {
        match caller.next() {
            Said::Writable => {}
            Said::GoAway { code: ErrorCode::NO_ERROR } => break,
            other => panic!("no GOAWAY, but {other:?}"),
        }
    }
    served.send(ok("finished"));
    assert_eq!(caller.whole(running).1, "finished");
    while matches!(caller.next(), Said::GoAway { .. }) {}
    draining.join().unwrap().data.stop();
}

/// Trailers behind half a message would be a status that contradicts its body.
#[test]
fn when_a_drains_time_is_up_a_call_gets_its_status_between_two_messages_and_a_reset_within_one() {
    let app = App::listen();
    let (web, cart) = declared(&app, AppProtocol::Http);
    let mut client = Streams::client(Talk::to(web.outbound));
    let mut serve = |message: &str| {
        let stream = client.call("/shop.Cart/Watch");
        let mut served = app.accept();
        served.head();
        served
            .send("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n");
        served.send(format!("{:x}\r\n{message}\r\n", message.len()));
        client.head();
        while !matches!(client.next(), Said::Data { .. }) {}
        (stream, served)
    };
    let (whole, _served) = serve("\0\0\0\0\x03abc");
    let (half, _also) = serve("\0\0\0\0\x03ab");
    let cart = draining(cart, Duration::from_millis(50)).join().unwrap();
    let mut ends = [None, None];
    while ends.contains(&None) {
        match client.next() {
            Said::Trailers { stream } if stream == whole => ends[0] = Some("status"),
            Said::Reset { stream, .. } if stream == half => ends[1] = Some("reset"),
            Said::Writable | Said::GoAway { code: ErrorCode::NO_ERROR } => {}
            other => panic!("{ends:?}, then {other:?}"),
        }
    }
    cart.data.stop();
}

#[test]
fn an_application_that_goes_away_finishes_what_it_took_and_gets_the_rest_on_a_new_connection() {
    let app = App::listen();
    let (web, _cart) = declared(&app, AppProtocol::Http2);
    let mut client = Streams::client(Talk::to(web.outbound));
    let running = client.get("/running");
    let mut first = Streams::server(app.accept());
    let (stream, _) = first.head();
    first.drain();
    // Once it was read, nothing new comes on that connection; before, what comes is refused and sent again.
    let asked = client.get("/next");
    let mut second = Streams::server(app.accept());
    let (next, message) = second.head();
    assert_eq!(message.first, "GET /next");
    second.ok(next, "again");
    assert_eq!(client.whole(asked).1, "again");
    first.ok(stream, "finished");
    assert_eq!(client.whole(running).1, "finished");
}

#[test]
fn sixteen_connections_of_http2_are_four_for_each_of_four_workers() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = cart(&mesh, &app, AppProtocol::Http, 4);
    let web = Sidecar::start_with(&mesh, "web", &[], &[], |settings| settings.workers = 4);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    app.serve(|head, _| ok(&head.first));
    let mut clients: Vec<_> = (0..16).map(|_| Streams::client(Talk::to(web.outbound))).collect();
    for client in &mut clients {
        for number in 0..3 {
            let asked = client.get(&format!("/{number}"));
            assert_eq!(client.whole(asked).1, format!("GET /{number} HTTP/1.1"));
        }
    }
    assert_eq!(web.registry.worker_connections(), [4, 4, 4, 4]);
    // Each worker has its own ways: one to the other sidecar, whose workers share them evenly, too.
    if super::HTTP2 {
        assert_eq!(cart.registry.worker_connections(), [1, 1, 1, 1]);
    }
    let labels = "direction=\"outbound\",source=\"default/web\",destination=\"default/cart\",\
                  route=\"default\",method=\"safe\",status=\"200\",cause=\"\"";
    super::telemetry::shows(&web.registry, "meshwork_requests_total", &[(labels, 48)]);
    drop(clients);
    eventually("all are gone", || web.registry.worker_connections() == [0, 0, 0, 0]);
}

#[test]
fn a_sidecar_that_is_restarted_with_http2_or_without_is_called_as_it_can() {
    let (mesh, app, listener) = (Mesh::new(), App::listen(), bind());
    let port = app.port;
    let start = |http2: bool| {
        let kept = vec![listener.try_clone().unwrap()]; // as `meshwork run` keeps it
        Sidecar::start_on(&mesh, "cart", &[port], kept, &[], |settings| settings.http2 = http2)
    };
    let mut cart = start(super::HTTP2);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    // What it is told stays as it was: news of the control plane takes longer than the next request.
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    app.serve(|head, _| ok(&head.first));
    let mut client = Talk::to(web.outbound);
    for (number, http2) in [!super::HTTP2, super::HTTP2, !super::HTTP2].into_iter().enumerate() {
        for method in ["GET", "POST"] {
            client.send(format!("{method} /{number} HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n"));
            client.head().expect("HTTP/1.1 200 OK");
            client.expect(format!("{method} /{number} HTTP/1.1"));
        }
        cart.data.stop();
        cart = start(http2);
        // Until web has seen the end of its connection, a POST on it might be lost without anybody's fault.
        let asked = format!("GET /again-{number} HTTP/1.1");
        client.send(format!("{asked}\r\nHost: cart\r\n\r\n"));
        client.head().expect("HTTP/1.1 200 OK");
        client.expect(asked);
    }
    assert!(web.retries() <= 3, "once each time that it was gone");
}

#[test]
fn a_request_that_is_answered_early_may_still_be_said_to_its_end() {
    let app = App::listen();
    let (web, _cart) = declared(&app, AppProtocol::Http);
    let mut client = Streams::client(Talk::to(web.outbound));
    let asked = client.ask("POST", "cart", "/big", false);
    client.data(asked, b"part", false);
    client.flush();
    let mut served = app.accept();
    served.head().expect("POST /big HTTP/1.1");
    served.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    while !matches!(client.next(), Said::Data { end: true, .. }) {}
    client.data(asked, b"rest", true);
    drop(served);
    let next = client.get("/next");
    let mut served = app.accept();
    served.head().expect("GET /next HTTP/1.1");
    served.send(ok("whole"));
    // A reset of the first stream would be told here: old clients drop an answer for one.
    assert_eq!(client.whole(next).1, "whole");
}

#[test]
fn an_application_of_which_nobody_said_what_it_speaks_is_found_to_speak_http1() {
    let (mesh, app) = (Mesh::new(), App::listen());
    let cart = Sidecar::start(&mesh, "cart", &[app.port], &[]);
    let web = Sidecar::start(&mesh, "web", &[], &[]);
    web.learn("cart", 80, vec![endpoint(cart.inbound[0], app.port)]);
    let mut client = Streams::client(Talk::to(web.outbound));
    let asked = client.ask("POST", "cart", "/first", false);
    client.data(asked, b"body", true);
    client.flush();
    // It takes the preface for a request that it does not understand, as every server of HTTP/1 does.
    let mut guessed = app.accept();
    guessed.head().expect("PRI * HTTP/2.0");
    guessed.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut served = app.accept();
    served.head().expect("POST /first HTTP/1.1");
    served.expect("4\r\nbody\r\n0\r\n\r\n");
    served.send(ok("found"));
    assert_eq!(client.whole(asked).1, "found");
    let next = client.get("/second");
    served.head().expect("GET /second HTTP/1.1"); // at once, and not by another guess
    served.send(ok("known"));
    assert_eq!(client.whole(next).1, "known");
}
