//! HTTP/1 to HTTP/2 to HTTP/1, and the other way round, as two sidecars carry a message: what RFC 9110 lets pass arrives, in its
//! order, and nothing else does.
//!
//! What must arrive is worked out from how a message was made, apart from the engine.

use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{self, Receiver, RequestMethod, ResponseTo, Sender};
use meshwork_http::h2::{Connection, Limits, Step, StreamId};
use meshwork_http::{BodyLength, Head, Instant, Version};

use crate::exchange::{Body, Exchange, Fields, Message, Troubles, fields_seen, trailers_head, value};
use crate::random::Random;

/// A message that was read whole.
#[derive(Debug, Default)]
struct Whole {
    interim: Vec<Head>,
    head: Head,
    length: Option<BodyLength>,
    body: Vec<u8>,
    trailers: Head,
}

/// A connection between two sidecars.
struct Between {
    client: Connection,
    server: Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

impl Between {
    fn new() -> Self {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let client = Connection::client(Limits::default(), &mut to_server);
        let server = Connection::server(Limits::default(), &mut to_client);
        Self { client, server, to_server, to_client }
    }

    fn request(&mut self, sent: &Whole) -> (Whole, StreamId, StreamId) {
        let length = sent.length.unwrap();
        let end = length == BodyLength::None;
        let id = self.client.request(&sent.head, length, end, &mut self.to_server).unwrap();
        if !end {
            send_rest(&mut self.client, id, sent, &mut self.to_server);
        }
        let (whole, there) = read(&mut self.server, &mut self.to_server, &mut self.to_client);
        (whole, id, there)
    }

    fn response(&mut self, sent: &Whole, (id, there): (StreamId, StreamId)) -> Whole {
        for interim in &sent.interim {
            self.server.response(there, interim, BodyLength::None, false, &mut self.to_client).unwrap();
        }
        let end = sent.length == Some(BodyLength::None);
        self.server.response(there, &sent.head, sent.length.unwrap(), end, &mut self.to_client).unwrap();
        if !end {
            send_rest(&mut self.server, there, sent, &mut self.to_client);
        }
        let (whole, stream) = read(&mut self.client, &mut self.to_client, &mut self.to_server);
        assert_eq!(stream, id);
        self.client.release(id, &mut self.to_server);
        self.server.release(there, &mut self.to_client);
        assert_eq!((self.client.open_streams(), self.server.open_streams()), (0, 0));
        whole
    }
}

fn send_rest(from: &mut Connection, id: StreamId, sent: &Whole, out: &mut Vec<u8>) {
    assert_eq!(from.data(id, &sent.body, false, out), Ok(sent.body.len()), "tests' bodies fit a window");
    from.trailers(id, Some(&sent.trailers), out).unwrap();
}

/// The next message, of which all is there.
fn read(to: &mut Connection, input: &mut Vec<u8>, out: &mut Vec<u8>) -> (Whole, StreamId) {
    let (mut whole, mut head, mut at, mut stream) = (Whole::default(), Head::default(), 0, None);
    loop {
        let shown = &input[at..];
        let step = to.advance(shown, &mut head, Instant::default(), out).unwrap();
        let consumed = step.consumed();
        match step {
            Step::NeedMore { .. } => break,
            Step::Head { .. } if head.status().is_interim() => whole.interim.push(head.clone()),
            Step::Head { stream: id, .. } => {
                stream = Some(id);
                whole.head = head.clone();
                whole.length = Some(to.body_length(id));
            }
            Step::Data { data, .. } => {
                whole.body.extend_from_slice(&shown[data.clone()]);
                to.consumed(stream.unwrap(), data.len(), Instant::default(), out);
            }
            Step::Trailers { .. } => whole.trailers = head.clone(),
            Step::Writable { .. } => {}
            step => panic!("{step:?}"),
        }
        at += consumed;
    }
    input.clear();
    (whole, stream.unwrap())
}

/// Reads one message of HTTP/1, and what ends with the connection to its end.
fn read_text(receiver: &mut Receiver, text: &[u8]) -> Whole {
    let (mut whole, mut head, mut at) = (Whole::default(), Head::default(), 0);
    whole.trailers.start_trailers();
    loop {
        let step = receiver.advance(&text[at..], &mut head);
        at += match step.unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(text))) {
            h1::Step::Head { consumed } if head.status().is_interim() => {
                whole.interim.push(head.clone());
                consumed
            }
            h1::Step::Head { consumed } => {
                whole.head = head.clone();
                whole.length = Some(receiver.body_length());
                consumed
            }
            h1::Step::Data { consumed, data } => {
                whole.body.extend_from_slice(&text[at..][data]);
                consumed
            }
            h1::Step::Trailers { consumed } => {
                whole.trailers = head.clone();
                consumed
            }
            h1::Step::End { consumed } => {
                assert_eq!(at + consumed, text.len(), "bytes behind the message");
                return whole;
            }
            h1::Step::NeedMore { .. } => {
                receiver.end_of_input(text.len() - at).expect("cut");
                return whole;
            }
            h1::Step::Upgraded { .. } => panic!("nobody asked"),
        };
    }
}

fn request_text(sent: &Whole) -> Vec<u8> {
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    sender.request(&sent.head, sent.length.unwrap(), &mut out).unwrap();
    sender.data(&sent.body, &mut out).unwrap();
    sender.end(Some(&sent.trailers), &mut out).unwrap();
    out
}

fn response_text(sent: &Whole, method: RequestMethod) -> Vec<u8> {
    let (mut sender, mut out) = (Sender::new(), Vec::new());
    let to = ResponseTo { method, version: Version::Http11 };
    for interim in &sent.interim {
        sender.interim(interim, to, &mut out).unwrap();
    }
    sender.response(&sent.head, sent.length.unwrap(), to, true, &mut out).unwrap();
    sender.data(&sent.body, &mut out).unwrap();
    sender.end(Some(&sent.trailers), &mut out).unwrap();
    out
}

/// A message of HTTP/1 as text, and what must be left of it.
#[derive(Debug)]
struct Made {
    text: Vec<u8>,
    interim: Vec<u16>,
    /// Names in lower case, those that frame and `host` apart.
    fields: Fields,
    body: Body,
    trailers: Fields,
}

const FOR_ALL: [&str; 14] = [
    "Accept",
    "X-A",
    "x-a",
    "Via",
    "Authorization",
    "Max-Forwards",
    "X-Forwarded-For",
    "Content-Type",
    "ETag",
    "Vary",
    "Warning",
    "Upgrade-Insecure-Requests",
    "Alt-Svc",
    "X!#$%&'*+-.^_`|~9",
];

/// Fields that arrive, and among them those that end with the connection.
fn fields(random: &mut Random, text: &mut Vec<u8>, special: &[(&str, &str)]) -> Fields {
    let mut arrive = Vec::new();
    let mut options = vec!["keep-alive".to_owned()];
    for _ in 0..random.below(12) {
        let value = value(random);
        let name = match random.below(6) {
            0 => {
                let (name, value) = random.pick(special);
                line(text, name, value.as_bytes());
                continue;
            }
            1 => {
                let name = format!("X-Hop-{}", random.below(5));
                options.push(name.to_ascii_uppercase());
                line(text, &name, &value);
                continue;
            }
            _ => random.pick(&FOR_ALL),
        };
        line(text, name, &value);
        arrive.push((name.to_ascii_lowercase(), value));
    }
    line(text, "Connection", options.join(random.pick(&[",", ", ", " ,, "])).as_bytes());
    arrive
}

fn line(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

fn body(random: &mut Random, text: &mut Vec<u8>, bytes: &[u8], body: Body) -> Fields {
    let mut trailers = Vec::new();
    match body {
        Body::None => text.extend_from_slice(b"\r\n"),
        Body::Known(length) => {
            line(text, "content-LENGTH", length.to_string().as_bytes());
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(bytes);
        }
        Body::Chunked(_) => {
            line(text, "Transfer-Encoding", b"chunked");
            text.extend_from_slice(b"\r\n");
            for chunk in bytes.chunks(1 + random.below(700)) {
                text.extend_from_slice(format!("{:x};ext\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n");
            for number in 0..random.below(3) {
                let value = value(random);
                line(text, &format!("X-Sum-{number}"), &value);
                trailers.push((format!("x-sum-{number}"), value));
            }
            text.extend_from_slice(b"\r\n");
        }
    }
    trailers
}

fn small_body(random: &mut Random) -> Body {
    match random.below(3) {
        0 => Body::None,
        1 => Body::Known(random.below(3_000)),
        _ => Body::Chunked(random.below(3_000)),
    }
}

/// A request: its text, the target and host that must arrive.
fn make_request(random: &mut Random, method: &str, content: &[u8]) -> (Made, String, String) {
    let path = format!("/items/{}?{}", random.below(100), random.pick(&["", "a=b", "%20;x"]));
    let host = random.pick(&["cart", "cart:8080", "[::1]:80", "Cart.Shop"]);
    let (target, arrives) = match random.below(4) {
        0 => (format!("http://{host}{path}"), path),
        1 if method == "OPTIONS" => ("*".to_owned(), "*".to_owned()),
        2 => (format!("HTTP://{host}"), if method == "OPTIONS" { "*" } else { "/" }.to_owned()),
        _ => (path.clone(), path),
    };
    let mut text = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    line(
        &mut text,
        "hOST",
        if target.len() > 4 && target[..4].eq_ignore_ascii_case("http") { "other" } else { host }.as_bytes(),
    );
    let special = [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "gzip;q=0.5"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("Upgrade", "websocket, h2c"),
    ];
    let mut fields = fields(random, &mut text, &special);
    if random.once_in(2) {
        let cookies = ["a=1", "b=2; c=3", "d"].map(str::as_bytes);
        let count = 1 + random.below(3);
        cookies[..count].iter().for_each(|cookie| line(&mut text, "Cookie", cookie));
        fields.push(("cookie".to_owned(), cookies[..count].join(&b"; "[..])));
    }
    if random.once_in(3) {
        line(&mut text, "Te", b"deflate, Trailers");
        fields.push(("te".to_owned(), b"trailers".to_vec()));
    }
    let kind = small_body(random);
    let trailers = body(random, &mut text, &content[..kind.len()], kind);
    (Made { text, interim: Vec::new(), fields, body: kind, trailers }, arrives, host.to_owned())
}

fn make_response(random: &mut Random, status: u16, has_body: bool, content: &[u8]) -> Made {
    let mut text = Vec::new();
    let interim: Vec<u16> = (0..random.below(3)).map(|_| random.pick(&[100, 103])).collect();
    for status in &interim {
        text.extend_from_slice(
            format!("HTTP/1.1 {status} Wait\r\nX-Early: 1\r\nConnection: close\r\n\r\n").as_bytes(),
        );
    }
    text.extend_from_slice(format!("HTTP/1.1 {status} Some Phrase\r\n").as_bytes());
    let special = [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c, websocket"),
    ];
    let mut fields = fields(random, &mut text, &special);
    for cookie in 0..random.below(3) {
        let value = format!("c{cookie}=1; Path=/").into_bytes();
        line(&mut text, "Set-Cookie", &value);
        fields.push(("set-cookie".to_owned(), value));
    }
    let kind = small_body(random);
    let kind = match kind {
        // Where nothing is said the body ends with the connection: said explicitly here.
        Body::None if has_body => Body::Known(0),
        kind => kind,
    };
    let trailers = if has_body {
        body(random, &mut text, &content[..kind.len()], kind)
    } else {
        if let (Body::Known(length), false) = (kind, status == 204) {
            line(&mut text, "Content-Length", length.to_string().as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        Vec::new()
    };
    Made { text, interim, fields, body: kind, trailers }
}

/// As a reader of HTTP/1 sees them: names in lower case, without what frames.
fn arrived(head: &Head) -> Fields {
    let ours = ["host", "content-length", "transfer-encoding", "connection"];
    let fields = fields_seen(head).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    fields.filter(|(name, _)| !ours.contains(&name.as_str())).collect()
}

/// `te` is written where the sender likes.
fn without_te(mut fields: Fields) -> (Fields, bool) {
    let before = fields.len();
    fields.retain(|(name, value)| name != "te" || value != b"trailers");
    let te = before > fields.len();
    (fields, te)
}

/// Joined cookies stand where the first one stood.
fn check_fields(made: &Made, head: &Head, context: &[u8]) {
    let text = String::from_utf8_lossy(context);
    assert_eq!(without_te(arrived(head)), without_te(made.fields.clone()), "{text}");
    assert_eq!(head.header("connection").is_some(), head.header("te").is_some(), "{text}");
}

fn check_rest(made: &Made, whole: &Whole, content: &[u8]) {
    assert_eq!(whole.body, content[..made.body.len()]);
    assert_eq!(arrived(&whole.trailers), made.trailers);
}

#[test]
fn requests_and_responses_of_http1_pass_through_http2() {
    let mut between = Between::new();
    let content = Random::new(7).bytes(3_000);
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let method = random.pick(&["GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW"]);
        let (made, target, host) = make_request(&mut random, method, &content);
        let mut outbound = read_text(&mut Receiver::requests(h1::Limits::default()), &made.text);
        forward::request(&mut outbound.head, Upgrades::Remove, ProxyAuthentication::Remove);
        let (mut inbound, id, there) = between.request(&outbound);
        forward::request(&mut inbound.head, Upgrades::Remove, ProxyAuthentication::Remove);
        let text = request_text(&inbound);
        let application = read_text(&mut Receiver::requests(h1::Limits::default()), &text);
        assert_eq!(
            (application.head.method(), application.head.path_and_query()),
            (method, &*target),
            "seed {seed}"
        );
        let authority = application.head.authority().unwrap();
        assert_eq!((authority, application.head.values(meshwork_http::Known::Host).count()), (&*host, 1));
        check_fields(&made, &application.head, &made.text);
        check_rest(&made, &application, &content);
        assert_eq!(application.length, Some(made.body.declared()), "seed {seed}");
        check_response(&mut random, method, &content, &mut between, (id, there));
    }
}

fn check_response(
    random: &mut Random,
    method: &str,
    content: &[u8],
    between: &mut Between,
    ids: (StreamId, StreamId),
) {
    let status = random.pick(&[200, 200, 201, 204, 304, 404, 500, 503]);
    let has_body = method != "HEAD" && !matches!(status, 204 | 304);
    let made = make_response(random, status, has_body, content);
    let to = RequestMethod::from(method);
    let mut receiver = Receiver::responses(h1::Limits::default());
    receiver.expect_response_to(to);
    let mut application = read_text(&mut receiver, &made.text);
    let pass = |whole: &mut Whole| {
        let heads = whole.interim.iter_mut().chain([&mut whole.head]);
        heads.for_each(|head| forward::response(head, ProxyAuthentication::Remove));
    };
    pass(&mut application);
    let mut outbound = between.response(&application, ids);
    pass(&mut outbound);
    let text = response_text(&outbound, to);
    let mut receiver = Receiver::responses(h1::Limits::default());
    receiver.expect_response_to(to);
    let client = read_text(&mut receiver, &text);
    let statuses: Vec<u16> = client.interim.iter().map(|head| head.status().as_u16()).collect();
    assert_eq!((statuses, client.head.status().as_u16()), (made.interim.clone(), status));
    assert!(client.interim.iter().all(|head| arrived(head) == [("x-early".to_owned(), b"1".to_vec())]));
    check_fields(&made, &client.head, &made.text);
    match has_body {
        true => {
            check_rest(&made, &client, content);
            assert_eq!(client.length, Some(made.body.declared()));
        }
        false => {
            let declared = match made.body {
                Body::Known(length) if status != 204 => Some(length.to_string().into_bytes()),
                _ => None,
            };
            assert_eq!(
                client.head.header("content-length").map(<[u8]>::to_vec),
                declared,
                "{method} {status}"
            );
            assert_eq!(client.body, b"");
        }
    }
}

/// A message of HTTP/2 as it was made.
fn whole_of(message: &Message, fill: impl FnOnce(&mut Head)) -> Whole {
    let mut whole = Whole { body: message.whole(), ..Whole::default() };
    fill(&mut whole.head);
    whole.length = Some(message.body.declared());
    trailers_head(&message.trailers, &mut whole.trailers);
    whole
}

#[test]
fn requests_and_responses_of_http2_pass_through_http1() {
    let (mut before, mut behind) = (Between::new(), Between::new());
    for seed in 0..3_000 {
        let mut random = Random::new(90_000 + seed);
        let mut exchange = Exchange::generate(&mut random, 0, Troubles::Never);
        for message in [&mut exchange.request, &mut exchange.response] {
            message.body = small_body(&mut random);
            if !matches!(message.body, Body::Chunked(_)) {
                message.trailers.clear(); // HTTP/1 has no place for them (RFC 9110, 6.5.1)
            }
        }
        let sent = whole_of(&exchange.request, |head| exchange.request_head(head));
        let (mut first, id, there) = before.request(&sent);
        forward::request(&mut first.head, Upgrades::Remove, ProxyAuthentication::Remove);
        let mut second = read_text(&mut Receiver::requests(h1::Limits::default()), &request_text(&first));
        forward::request(&mut second.head, Upgrades::Remove, ProxyAuthentication::Remove);
        let (third, behind_id, behind_there) = behind.request(&second);
        let seen = exchange.request_seen();
        assert_eq!((third.head.method(), third.head.path_and_query()), (exchange.method, &*exchange.path));
        assert_eq!((third.head.authority(), third.head.scheme()), (Some(&*exchange.authority), "http"));
        assert_eq!(arrived(&third.head), seen.fields, "seed {seed}");
        assert!(seen.has(0, &third.body) && third.body.len() == seen.body.len());
        assert_eq!(arrived(&third.trailers), seen.trailers);

        let mut sent = whole_of(&exchange.response_seen(), |head| exchange.response_head(head));
        // To HEAD and in a 304 the length is declared that another answer would have had.
        sent.length = Some(exchange.response.body.declared());
        let mut first = behind.response(&sent, (behind_id, behind_there));
        forward::response(&mut first.head, ProxyAuthentication::Remove);
        let to = RequestMethod::from(exchange.method);
        let mut receiver = Receiver::responses(h1::Limits::default());
        receiver.expect_response_to(to);
        let mut second = read_text(&mut receiver, &response_text(&first, to));
        forward::response(&mut second.head, ProxyAuthentication::Remove);
        let third = before.response(&second, (id, there));
        let seen = exchange.response_seen();
        assert_eq!(third.head.status().as_u16(), exchange.status);
        assert_eq!(arrived(&third.head), seen.fields, "seed {seed}: {exchange:?}");
        assert!(seen.has(0, &third.body) && third.body.len() == seen.body.len());
        assert_eq!(arrived(&third.trailers), seen.trailers);
    }
}

#[test]
fn requests_and_responses_of_http2_pass_two_connections_of_http2() {
    let (mut before, mut behind) = (Between::new(), Between::new());
    for seed in 0..2_000 {
        let mut random = Random::new(200_000 + seed);
        let mut exchange = Exchange::generate(&mut random, 0, Troubles::Never);
        exchange.request.body = small_body(&mut random);
        exchange.response.body = small_body(&mut random);
        let sent = whole_of(&exchange.request, |head| exchange.request_head(head));
        let (mut first, id, there) = before.request(&sent);
        forward::request(&mut first.head, Upgrades::Remove, ProxyAuthentication::Remove);
        let (second, behind_id, behind_there) = behind.request(&first);
        let seen = exchange.request_seen();
        assert_eq!((second.head.method(), second.head.path_and_query()), (exchange.method, &*exchange.path));
        assert_eq!((second.head.authority(), second.head.scheme()), (Some(&*exchange.authority), "http"));
        assert_eq!(arrived(&second.head), seen.fields, "seed {seed}");
        assert!(seen.has(0, &second.body) && second.body.len() == seen.body.len());

        let mut sent = whole_of(&exchange.response_seen(), |head| exchange.response_head(head));
        sent.length = Some(exchange.response.body.declared());
        let mut first = behind.response(&sent, (behind_id, behind_there));
        forward::response(&mut first.head, ProxyAuthentication::Remove);
        let second = before.response(&first, (id, there));
        assert_eq!(arrived(&second.head), exchange.response_seen().fields, "seed {seed}");
        assert_eq!(second.body, first.body);
        assert_eq!(arrived(&second.trailers), arrived(&first.trailers));
    }
}
