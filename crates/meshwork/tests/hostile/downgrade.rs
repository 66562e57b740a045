//! HTTP/2 that would be another message as HTTP/1: pseudo-headers, names and values with line ends, lengths that do not
//! fit. The application behind speaks HTTP/1.1.

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PROTOCOL_ERROR, Reader, Said, block, frame,
    hello,
};
use crate::ground::{Between, Ground};
use crate::ledger::Ledger;
use crate::recorder::Recorder;
use crate::strict::Request;
use crate::wire::Door;

#[test]
fn no_http2_request_becomes_two_over_http2() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    judge("HTTP/2 to outbound, HTTP/2 between", &ground.outbound(), &app);
}

#[test]
fn no_http2_request_becomes_two_over_http1() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http1, app.port);
    judge("HTTP/2 to outbound, HTTP/1 between", &ground.outbound(), &app);
}

#[test]
fn no_http2_request_of_a_member_becomes_two() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    judge("HTTP/2 to inbound, as a member", &ground.inbound(b"h2"), &app);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The stream is reset as malformed, or answered 400; or the connection is, and ends.
    Refused,
    /// With this method and body, for cart.
    Carried(&'static str, &'static str),
}

use Expect::{Carried, Refused};

/// What is sent on stream 1 after the preface.
struct Case {
    name: String,
    frames: Vec<u8>,
    expect: Expect,
}

#[track_caller]
fn judge(what: &str, door: &Door, app: &Recorder) {
    let mut ledger = Ledger::default();
    let mut wrong = Vec::new();
    for number in 0..cases("").len() {
        let path = format!("/d{number}");
        let Case { name, frames, expect } = cases(&path).swap_remove(number);
        let meant = |method: &str, path: String, body: &str| Request {
            method: method.to_owned(),
            path,
            host: "cart".to_owned(),
            body: body.as_bytes().to_vec(),
        };
        let marker = format!("{path}/marker");
        ledger.case([meant("GET", marker.clone(), "")]);
        if let Carried(method, body) = expect {
            ledger.case([meant(method, path, body)]);
        }
        let answers = ask(door, &frames, &marker);
        if !fits(&answers, expect) {
            wrong.push(format!("{name}: want {expect:?}, got {answers:?}"));
        }
    }
    ledger.settle(what, app);
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// The case on stream 1, and a marker on stream 3.
fn ask(door: &Door, frames: &[u8], marker: &str) -> [Said; 2] {
    let mut wire = door.open();
    let last = frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&request("GET", marker, &[])));
    let _ = wire.send([&hello(), frames, &last].concat());
    Reader::new().read(&mut wire, [1, 3])
}

fn fits([case, marker]: &[Said; 2], expect: Expect) -> bool {
    let good = Said::Answered(200, None);
    match (expect, case) {
        (Carried(..), case) => *case == good && *marker == good,
        // A malformed stream costs the others nothing.
        (Refused, Said::Reset(PROTOCOL_ERROR) | Said::Answered(400, Some(_))) => *marker == good,
        (Refused, Said::Over(Some(_))) => matches!(marker, Said::Over(Some(_))),
        (Refused, _) => false,
    }
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// What every request has, and more.
fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":authority", "cart"), (":path", path)];
    fields.extend_from_slice(more);
    fields
}

fn cases(path: &str) -> Vec<Case> {
    [pseudo(path), values(path), fields(path), bodies(path), trailers(path), frames(path)]
        .into_iter()
        .flatten()
        .collect()
}

/// A request without a body.
fn head(fields: &Fields<'_>, expect: Expect) -> Case {
    let frames = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    Case { name: format!("{fields:?}"), frames, expect }
}

fn pseudo(path: &str) -> Vec<Case> {
    let base = request("GET", path, &[]);
    let with = |more: (&'static str, &'static str)| [&base[..], &[more]].concat();
    let without =
        |name: &str| base.iter().filter(|(known, _)| *known != name).copied().collect::<Fields<'_>>();
    let mut late = with(("x-a", "1"));
    late.swap(3, 4);
    let mut cases: Vec<Case> = [
        with((":method", "GET")),
        with((":method", "POST")),
        with((":path", "/smuggled")),
        with((":authority", "cart")),
        with((":authority", "payments")),
        with((":scheme", "http")),
        with((":status", "200")),
        with((":foo", "bar")),
        with((":protocol", "websocket")),
        with(("host", "payments")),
        with((":", "x")),
        without(":method"),
        without(":path"),
        without(":scheme"),
        late,
        [&base[..3], &[(":Path", path)]].concat(),
    ]
    .iter()
    .map(|fields| head(fields, Refused))
    .collect();
    let mut by_host = without(":authority");
    by_host.push(("host", "cart"));
    cases.push(head(&by_host, Carried("GET", "")));
    cases.push(head(&with(("host", "cart")), Carried("GET", "")));
    by_host.push(("host", "payments"));
    cases.push(head(&by_host, Refused));
    cases
}

fn values(path: &str) -> Vec<Case> {
    const END: &str = " HTTP/1.1\r\nHost: cart\r\n\r\nGET /smuggled";
    let mut cases = Vec::new();
    for method in [
        "",
        "G ET",
        "GET\r\n",
        "GET\t",
        "G\0T",
        "GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\nGET",
        "G\u{e9}T",
    ] {
        cases.push(head(&request(method, path, &[]), Refused));
    }
    let bad =
        ["", "x", "*", "http://payments/", "//", "/a b", "/\r\n", "/\n", "/\0", "/#x", "/\u{e9}", "/\t", END];
    for suffix in bad {
        // What begins with a slash is the path's end; the rest is all there is.
        let whole = if suffix.starts_with('/') || suffix == END {
            format!("{path}{suffix}")
        } else {
            suffix.to_owned()
        };
        if suffix != "//" {
            cases.push(head(&request("GET", &whole, &[]), Refused));
        }
    }
    let authorities = [
        "cart\r\nX: y",
        "payments@cart",
        "cart/x",
        "cart cart",
        "cart\0",
        "cart:",
        "cart:x",
        "[::1",
        "cart,payments:x",
        "c\u{e9}rt",
    ];
    for authority in authorities {
        let mut fields = request("GET", path, &[]);
        fields[2].1 = authority;
        cases.push(head(&fields, Refused));
    }
    for scheme in ["", "ht tp", "http\r\nX: y", "1x"] {
        let mut fields = request("GET", path, &[]);
        fields[1].1 = scheme;
        cases.push(head(&fields, Refused));
    }
    cases
}

fn fields(path: &str) -> Vec<Case> {
    let bad = [
        ("X-Upper", "1"),
        ("x-a\r\ny", "1"),
        ("x-a\n", "1"),
        ("x a", "1"),
        ("x:a", "1"),
        ("x-a ", "1"),
        (" x-a", "1"),
        ("", "1"),
        ("x\0", "1"),
        ("x-\u{e9}", "1"),
        ("x-a", "1\r\nTransfer-Encoding: chunked"),
        ("x-a", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n"),
        ("x-a", "1\n2"),
        ("x-a", "1\r2"),
        ("x-a", "1\0"),
        ("x-a", " 1"),
        ("x-a", "1 "),
        ("x-a", "\t1"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "transfer-encoding"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "0, 0"),
        ("content-length", ""),
        ("content-length", "0x0"),
        ("content-length", "18446744073709551616"),
        ("host", "cart/x"),
    ];
    let good = [
        ("te", "trailers"),
        ("cookie", "a=1"),
        ("x-a", "\"\u{e9}\""),
        ("x-forwarded-client-cert", "URI=spiffe://mesh.local/ns/default/sa/admin"),
        ("content-length", "0"),
    ];
    let one = |field: &(&'static str, &'static str), expect| head(&request("GET", path, &[*field]), expect);
    bad.iter()
        .map(|field| one(field, Refused))
        .chain(good.iter().map(|field| one(field, Carried("GET", ""))))
        .collect()
}

fn bodies(path: &str) -> Vec<Case> {
    let post = |more: &[(&'static str, &'static str)], body: &'static str, expect| {
        let fields = request("POST", path, more);
        let head = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        let frames = [head, frame(DATA, END_STREAM, 1, body.as_bytes())].concat();
        Case { name: format!("{more:?} with {body:?}"), frames, expect }
    };
    const INNER: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";
    vec![
        post(&[], INNER, Carried("POST", INNER)),
        post(&[("content-length", "43")], INNER, Carried("POST", INNER)),
        post(&[("content-length", "5")], INNER, Refused),
        post(&[("content-length", "44")], INNER, Refused),
        post(&[("content-length", "0")], INNER, Refused),
        post(&[("content-length", "43"), ("content-length", "5")], INNER, Refused),
        post(&[("content-length", "5"), ("content-length", "43")], INNER, Refused),
        post(&[("transfer-encoding", "chunked")], INNER, Refused),
        post(&[("content-length", "43"), ("transfer-encoding", "chunked")], INNER, Refused),
    ]
}

fn trailers(path: &str) -> Vec<Case> {
    let with = |trailer: (&'static str, &'static str), flags: u8, expect| {
        let head = frame(HEADERS, END_HEADERS, 1, &block(&request("POST", path, &[])));
        let data = frame(DATA, 0, 1, b"hello");
        let end = frame(HEADERS, flags, 1, &block(&[trailer]));
        Case {
            name: format!("trailer {trailer:?}, flags {flags}"),
            frames: [head, data, end].concat(),
            expect,
        }
    };
    let last = END_HEADERS | END_STREAM;
    vec![
        with(("x-sum", "1"), last, Carried("POST", "hello")),
        with(("content-length", "0"), last, Carried("POST", "hello")),
        with(("host", "payments"), last, Carried("POST", "hello")),
        with(("x-sum", "1"), END_HEADERS, Refused),
        with((":path", "/smuggled"), last, Refused),
        with(("transfer-encoding", "chunked"), last, Refused),
        with(("connection", "close"), last, Refused),
        with(("x-sum", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n"), last, Refused),
        with(("X-Sum", "1"), last, Refused),
    ]
}

/// Frames that leave nothing to trust.
fn frames(path: &str) -> Vec<Case> {
    let case = |name: &str, frames: Vec<u8>| Case { name: name.to_owned(), frames, expect: Refused };
    let fields = block(&request("GET", path, &[]));
    let open = frame(HEADERS, END_STREAM, 1, &fields);
    vec![
        case(
            "padding longer than its frame",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[255, 0]),
        ),
        case("an index of nothing", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80])),
        case("an index beyond the table", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x7f])),
        case("an integer without end", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 30])),
        case("a text longer than its block", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 5, b'x'])),
        case(
            "Huffman's end of string",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 0x84, 255, 255, 255, 255, 0]),
        ),
        case(
            "a table larger than allowed",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xff, 0xff, 0xff, 0x7f]),
        ),
        case("another frame within a head", [open.clone(), frame(DATA, 0, 1, b"x")].concat()),
        case(
            "a head on another stream within one",
            [open, frame(CONTINUATION, END_HEADERS, 5, b"")].concat(),
        ),
        case("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &fields)),
        case("DATA on a stream that nobody opened", frame(DATA, END_STREAM, 1, b"x")),
        case("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, &fields)),
        case("a head on stream 0", frame(HEADERS, END_HEADERS | END_STREAM, 0, &fields)),
        case("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385])),
    ]
}
