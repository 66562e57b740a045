//! Messages from RFC 9110 and RFC 9112, and what must be read from them and written for them.

use meshwork_http::h1::{
    BodyLength, EndOfInput, Limits, ReceiveError, Receiver, RequestMethod, ResponseTo, SendError, Sender,
    Step,
};
use meshwork_http::{Head, StatusCode, Version};

use crate::transcript::{Event, Side, transcript_at_any_cut};
use Event::{Closed, End, Trailers, Upgraded};

fn head(text: &str, length: BodyLength) -> Event {
    Event::Head(text.to_owned(), length, true)
}

fn last(text: &str, length: BodyLength) -> Event {
    Event::Head(text.to_owned(), length, false)
}

fn data(text: &str) -> Event {
    Event::Data(text.as_bytes().to_vec())
}

const CLEAN: Event = Closed(EndOfInput::Clean);

#[track_caller]
fn requests(input: &str, expect: &[Event]) {
    assert_eq!(transcript_at_any_cut(&Side::Requests, Limits::default(), input.as_bytes()), expect);
}

#[track_caller]
fn responses(to: &[RequestMethod], input: &str, expect: &[Event]) {
    let side = Side::Responses(to.to_vec());
    assert_eq!(transcript_at_any_cut(&side, Limits::default(), input.as_bytes()), expect);
}

#[test]
fn the_request_of_rfc_9110_6_4() {
    requests(
        "GET /hello.txt HTTP/1.1\r\nUser-Agent: curl/7.64.1\r\nHost: www.example.com\r\nAccept-Language: en, mi\r\n\r\n",
        &[
            head(
                "GET www.example.com /hello.txt Http11 | User-Agent: curl/7.64.1 | Host: www.example.com | Accept-Language: en, mi",
                BodyLength::None,
            ),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn pipelined_requests_end_where_they_say() {
    requests(
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\nGET /b HTTP/1.1\r\nhost: b\r\nConnection: close\r\n\r\n",
        &[
            head("POST a /a Http11 | Host: a | Content-Length: 5", BodyLength::Known(5)),
            data("hello"),
            End,
            last("GET b /b Http11 | host: b | Connection: close", BodyLength::None),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn the_four_forms_of_a_target() {
    requests(
        "GET http://www.example.org/pub?x HTTP/1.1\r\nHost: other\r\n\r\n",
        &[head("GET www.example.org /pub?x Http11 | Host: other", BodyLength::None), End, CLEAN],
    );
    requests(
        "GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
        &[head("GET a /?x Http11 | Host: a", BodyLength::None), End, CLEAN],
    );
    requests(
        "OPTIONS http://www.example.org:8001 HTTP/1.1\r\nHost: www.example.org:8001\r\n\r\n",
        &[
            head("OPTIONS www.example.org:8001 * Http11 | Host: www.example.org:8001", BodyLength::None),
            End,
            CLEAN,
        ],
    );
    requests(
        "CONNECT server.example.com:80 HTTP/1.1\r\nHost: server.example.com:80\r\n\r\n",
        &[
            head("CONNECT server.example.com:80  Http11 | Host: server.example.com:80", BodyLength::None),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn chunks_extensions_and_trailers() {
    requests(
        "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nWiki\r\n7;x=\"y\"\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
        &[
            head("PUT a /a Http11 | Host: a | Transfer-Encoding: Chunked", BodyLength::Chunked),
            data("Wikipedia in \r\nchunks."),
            Trailers(" | X-Sum: 1".to_owned()),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn http_1_0_goes_on_only_if_asked_to() {
    requests("GET / HTTP/1.0\r\n\r\n", &[last("GET - / Http10", BodyLength::None), End, CLEAN]);
    requests(
        "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        &[head("GET - / Http10 | Connection: Keep-Alive", BodyLength::None), End, CLEAN],
    );
}

#[test]
fn a_few_empty_lines_before_a_request_are_skipped() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let events = [head("GET a / Http11 | Host: a", BodyLength::None), End, CLEAN];
    requests(&format!("\r\n\r\n\r\n\r\n{get}"), &events);
    requests(&format!("\r\n\r\n\r\n\r\n\r\n{get}"), &[Event::Error(ReceiveError::TooManyEmptyLines)]);
}

#[test]
fn interim_responses_come_before_the_final_one() {
    responses(
        &[RequestMethod::Other],
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        &[
            head("100 Continue Http11", BodyLength::None),
            head("103 Early Hints Http11 | Link: </x>", BodyLength::None),
            head("200 OK Http11 | Content-Length: 2", BodyLength::Known(2)),
            data("hi"),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn what_was_asked_says_whether_a_body_follows() {
    responses(
        &[RequestMethod::Head, RequestMethod::Other, RequestMethod::Other],
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 \r\nContent-Length: 9\r\n\r\nHTTP/1.1 204\r\n\r\n",
        &[
            head("200 OK Http11 | Content-Length: 9", BodyLength::Known(9)),
            End,
            head("304  Http11 | Content-Length: 9", BodyLength::Known(9)),
            End,
            head("204  Http11", BodyLength::None),
            End,
            CLEAN,
        ],
    );
}

#[test]
fn a_body_may_end_with_its_connection() {
    responses(
        &[RequestMethod::Other],
        "HTTP/1.0 200 OK\r\n\r\nall of it",
        &[last("200 OK Http10", BodyLength::UntilClose), data("all of it"), Closed(EndOfInput::BodyEnd)],
    );
}

#[test]
fn a_switched_protocol_and_a_tunnel_are_opaque() {
    responses(
        &[RequestMethod::Other],
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n\0\x01",
        &[
            last("101 Switching Protocols Http11 | Upgrade: x | Connection: Upgrade", BodyLength::None),
            Upgraded(b"\0\x01".to_vec()),
        ],
    );
    responses(
        &[RequestMethod::Connect],
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x16",
        &[last("200 OK Http11 | Content-Length: 3", BodyLength::None), Upgraded(b"\x16".to_vec())],
    );
}

#[test]
fn a_101_that_nobody_asked_for_is_refused() {
    let mut receiver = Receiver::responses(Limits::default());
    receiver.expect_response_to(RequestMethod::Other);
    let switch = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    assert_eq!(receiver.advance(switch, &mut Head::default()), Err(ReceiveError::UnaskedUpgrade));
    assert!(!receiver.keep_alive());
}

#[test]
fn a_request_that_was_answered_with_a_switch_is_followed_by_opaque_bytes() {
    let upgrade =
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nb\0";
    let (mut receiver, mut head) = (Receiver::requests(Limits::default()), Head::default());
    let body = upgrade.len() - 2;
    assert_eq!(receiver.advance(upgrade, &mut head), Ok(Step::Head { consumed: body }));
    receiver.switch_to_opaque(); // the answer may come before the body has ended
    assert_eq!(receiver.advance(&upgrade[body..], &mut head), Ok(Step::Data { consumed: 1, data: 0..1 }));
    assert_eq!(receiver.advance(b"\0", &mut head), Ok(Step::End { consumed: 0 }));
    assert_eq!(receiver.advance(b"\0", &mut head), Ok(Step::Upgraded { consumed: 0 }));
    assert_eq!(receiver.end_of_input(1), Ok(EndOfInput::Clean));
}

#[test]
fn a_refused_connect_leaves_the_connection_to_further_requests() {
    let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let (mut receiver, mut head) = (Receiver::requests(Limits::default()), Head::default());
    for _ in 0..2 {
        assert_eq!(receiver.advance(connect, &mut head), Ok(Step::Head { consumed: connect.len() }));
        assert_eq!(receiver.advance(b"", &mut head), Ok(Step::End { consumed: 0 }));
        receiver.next_message();
    }
}

#[test]
fn a_doubtful_204_ends_its_connection() {
    responses(
        &[RequestMethod::Other],
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        &[last("204 No Content Http11 | Content-Length: 5", BodyLength::None), End, CLEAN],
    );
}

#[test]
fn a_cut_message_is_told_from_a_finished_one() {
    let error = |error| Event::Error(error);
    requests("", &[CLEAN]);
    requests("GET / HTTP/1.1\r\nHost: a\r\n", &[error(ReceiveError::TruncatedHead)]);
    requests(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
        &[
            head("POST a / Http11 | Host: a | Content-Length: 3", BodyLength::Known(3)),
            data("ab"),
            error(ReceiveError::TruncatedBody),
        ],
    );
    responses(&[RequestMethod::Other], "", &[error(ReceiveError::ClosedBeforeResponse)]);
    responses(&[RequestMethod::Other], "HTTP/1.1 2", &[error(ReceiveError::TruncatedHead)]);
    responses(&[], "HTTP/1.1 408 Request Timeout\r\n\r\n", &[error(ReceiveError::UnaskedResponse)]);
}

fn response_head(status: u16, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::default();
    head.start_response(Version::Http11, StatusCode::new(status).unwrap(), b"");
    fields.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
    head
}

/// Writes a response to (method, version) with two bytes of body: the text, and whether it goes on.
#[track_caller]
fn written(head: &Head, body: BodyLength, method: &str, version: Version, keep_alive: bool, expect: &str) {
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    let to = ResponseTo { method: method.into(), version };
    sender.response(head, body, to, keep_alive, &mut out).unwrap();
    sender.data(b"hi", &mut out).unwrap();
    sender.end(None, &mut out).unwrap();
    assert!(sender.is_ended());
    let keeps = if sender.keep_alive() { "" } else { "!" };
    assert_eq!(format!("{}{keeps}", String::from_utf8(out).unwrap()), expect);
}

#[test]
fn responses_are_framed_for_their_reader() {
    use BodyLength::{Chunked, Known, None, UntilClose};
    use Version::{Http10, Http11};
    let ok = &response_head(200, &[("X", "1"), ("Content-Length", "77"), ("Connection", "close")]);
    let known = "HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let until_close = "HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\n";
    written(ok, Known(2), "GET", Http11, true, &format!("{known}hi"));
    written(ok, Known(2), "HEAD", Http11, true, known);
    written(ok, Chunked, "GET", Http11, true, &format!("{chunked}2\r\nhi\r\n0\r\n\r\n"));
    written(ok, Chunked, "HEAD", Http11, true, chunked);
    written(ok, UntilClose, "GET", Http11, true, &format!("{chunked}2\r\nhi\r\n0\r\n\r\n"));
    written(ok, Chunked, "GET", Http10, true, &format!("{until_close}hi!"));
    written(
        ok,
        Known(2),
        "GET",
        Http10,
        true,
        "HTTP/1.1 200 OK\r\nX: 1\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    );
    written(
        ok,
        Known(2),
        "GET",
        Http11,
        false,
        "HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi!",
    );
    written(&response_head(204, &[]), None, "GET", Http11, true, "HTTP/1.1 204 No Content\r\n\r\n");
    written(
        &response_head(304, &[]),
        Known(9),
        "GET",
        Http11,
        true,
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    );
    written(ok, None, "HEAD", Http11, true, "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n");
    let upgrade = response_head(101, &[("Upgrade", "x"), ("Connection", "Upgrade")]);
    written(
        &upgrade,
        None,
        "GET",
        Http11,
        true,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhi!",
    );
    written(ok, None, "CONNECT", Http11, true, "HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhi!");
}

#[test]
fn a_response_without_a_body_says_so() {
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    let to = ResponseTo { method: RequestMethod::Other, version: Version::Http11 };
    sender.response(&response_head(200, &[]), BodyLength::None, to, true, &mut out).unwrap();
    sender.end(None, &mut out).unwrap();
    assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn interim_responses_are_for_http_1_1() {
    for (version, expect) in [(Version::Http11, "HTTP/1.1 100 Continue\r\n\r\n"), (Version::Http10, "")] {
        let (mut sender, mut out) = (Sender::new(), Vec::new());
        let to = ResponseTo { method: RequestMethod::Other, version };
        sender.interim(&response_head(100, &[]), to, &mut out).unwrap();
        assert_eq!(out, expect.as_bytes());
        assert!(sender.is_ended(), "the final response may follow");
    }
}

#[test]
fn a_body_that_breaks_its_promise_is_not_written() {
    let mut head = Head::default();
    head.start_request(Version::Http11, "POST", "/");
    head.append("Host", b"a");
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    assert_eq!(sender.data(b"x", &mut out), Err(SendError::NoHead));
    assert_eq!(sender.request(&head, BodyLength::UntilClose, &mut out), Err(SendError::RequestUntilClose));
    sender.request(&head, BodyLength::Known(3), &mut out).unwrap();
    let written = out.len();
    assert_eq!(sender.request(&head, BodyLength::None, &mut out), Err(SendError::Unfinished));
    assert_eq!(sender.end(None, &mut out), Err(SendError::TooShort { missing: 3 }));
    assert_eq!(sender.data(b"1234", &mut out), Err(SendError::TooLong { excess: 1 }));
    assert_eq!(out.len(), written);
    sender.data(b"123", &mut out).unwrap();
    assert_eq!(sender.end(None, &mut out), Ok(()));
}

#[track_caller]
fn request_line(head: &Head, expect: &str) {
    let mut out = Vec::new();
    Sender::new().request(head, BodyLength::None, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), expect);
}

#[test]
fn a_target_is_written_in_the_form_its_reader_wants() {
    let mut head = Head::default();
    head.start_request(Version::Http11, "GET", "/x");
    head.append("host", b"a");
    request_line(&head, "GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
    head.set_authority("b:1");
    request_line(&head, "GET /x HTTP/1.1\r\nHost: b:1\r\n\r\n");
    head.set_scheme("http");
    request_line(&head, "GET http://b:1/x HTTP/1.1\r\nHost: b:1\r\n\r\n");
    head.start_request(Version::Http11, "CONNECT", "");
    head.set_authority("b:1");
    request_line(&head, "CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n");
    head.start_request(Version::Http10, "GET", "/");
    request_line(&head, "GET / HTTP/1.1\r\nHost: \r\n\r\n");
}

#[test]
fn trailers_that_frame_or_route_are_left_out() {
    let mut head = Head::default();
    head.start_request(Version::Http11, "POST", "/");
    let mut trailers = Head::default();
    trailers.start_trailers();
    trailers.append("X-Sum", b"1");
    trailers.append("Transfer-Encoding", b"chunked");
    trailers.append("Host", b"b");
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    sender.request(&head, BodyLength::Chunked, &mut out).unwrap();
    out.clear();
    sender.end(Some(&trailers), &mut out).unwrap();
    assert_eq!(out, b"0\r\nX-Sum: 1\r\n\r\n");
}
