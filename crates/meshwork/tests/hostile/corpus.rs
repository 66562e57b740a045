//! HTTP/1 requests that two parsers could split differently, and some that look so and are not. Each is an attack or a
//! slip that has been seen.

/// What becomes of a request, with a marker behind it on the same connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Answered with this status and cause; the connection ends, and nobody reads the marker.
    Refused(u16, &'static str),
    /// It is carried, and so is the marker.
    Carried,
    /// It is carried, and the connection ends with it.
    Last,
    /// It never becomes whole: the client closes its half, and no answer is the application's.
    Cut,
}

use Expect::{Carried, Cut, Last, Refused};

pub(crate) struct Case {
    /// `{p}` stands for a path that no other request has.
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
}

const BAD: Expect = Refused(400, "bad_request");
const CODING: Expect = Refused(501, "not_implemented");
const VERSION: Expect = Refused(505, "version_not_supported");

/// A request that stands in another one's body; 38 bytes.
const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";

pub(crate) fn corpus() -> Vec<Case> {
    [
        lengths(),
        codings(),
        chunks(),
        lines(),
        names(),
        hosts(),
        request_lines(),
        versions(),
        honest(),
        sizes(),
    ]
    .concat()
    .into_iter()
    .map(|(bytes, expect)| Case { bytes: bytes.into_bytes(), expect })
    .chain(not_text())
    .collect()
}

type Row = (String, Expect);

fn row(text: &str, expect: Expect) -> Row {
    (text.to_owned(), expect)
}

/// A POST with these fields and this body.
fn post(fields: &str, body: &str, expect: Expect) -> Row {
    (format!("POST {{p}} HTTP/1.1\r\nHost: cart\r\n{fields}\r\n\r\n{body}"), expect)
}

/// What follows is its body, unless somebody thinks otherwise.
fn lengths() -> Vec<Row> {
    let refused = [
        "Content-Length: 38\r\nContent-Length: 38",
        "Content-Length: 0\r\nContent-Length: 38",
        "Content-Length: 38\r\nContent-Length: 0",
        "Content-Length: 38\r\ncontent-length: 38",
        "Content-Length: 38, 38",
        "Content-Length: 0, 38",
        "Content-Length: 38,",
        "Content-Length: +38",
        "Content-Length: -0",
        "Content-Length: 0x26",
        "Content-Length: 3 8",
        "Content-Length: 38.0",
        "Content-Length: 38;",
        "Content-Length:",
        "Content-Length: \"38\"",
        "Content-Length: 38\u{b}",
        "Content-Length: \u{c}38",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551616",
        "Content-Length: 38\r\nContent-Length:",
        "Content-Length: \u{ff13}",
    ];
    let mut rows: Vec<Row> = refused.iter().map(|fields| post(fields, INNER, BAD)).collect();
    rows.extend([
        post("Content-Length: 38", INNER, Carried),
        post("Content-Length: \t 38 \t", INNER, Carried),
        post("Content-Length: 0000000038", INNER, Carried),
        post("Content-Length: 0", "", Carried),
        post("Content_Length: 38\r\nContent-Length: 38", INNER, Carried),
        post("Connection: Content-Length\r\nContent-Length: 38", INNER, Carried),
        post("Content-Length: 9999", INNER, Cut),
    ]);
    rows
}

fn codings() -> Vec<Row> {
    // As a length sees it, and as chunks: whoever ignores one of the two reads another message.
    let both = format!("0\r\n\r\n{INNER}");
    let mut rows = vec![
        post("Content-Length: 43\r\nTransfer-Encoding: chunked", &both, BAD),
        post("Transfer-Encoding: chunked\r\nContent-Length: 43", &both, BAD),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4", &format!("26\r\n{INNER}\r\n0\r\n\r\n"), BAD),
        post("Transfer-Encoding: chunked\r\nContent-Length: 0", &both, BAD),
        post("Content-Length: 43\r\nTransfer-Encoding: xchunked", &both, CODING),
        post("Transfer-Encoding: identity\r\nContent-Length: 43", &both, CODING),
    ];
    let bad = [
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked' x",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{c}",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: ch\runked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer\r-Encoding: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
    ];
    rows.extend(bad.iter().map(|fields| post(fields, &both, BAD)));
    let unknown = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunke",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    ];
    rows.extend(unknown.iter().map(|fields| post(fields, &both, CODING)));
    rows.push(row(
        &format!("POST {{p}} HTTP/1.0\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n{both}"),
        BAD,
    ));
    rows.extend([
        post("transfer-encoding: CHUNKED", "0\r\n\r\n", Carried),
        post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n", Carried),
        post("Transfer_Encoding: chunked\r\nContent-Length: 43", &both, Carried),
        post("X-Transfer-Encoding: chunked\r\nContent-Length: 43", &both, Carried),
    ]);
    rows
}

fn chunks() -> Vec<Row> {
    let chunked = |body: &str, expect| post("Transfer-Encoding: chunked", body, expect);
    let bad = [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\r\n folded\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
    ];
    let mut rows: Vec<Row> = bad.iter().map(|body| chunked(body, BAD)).collect();
    let good = [
        "5\r\nhello\r\n0\r\n\r\n",
        "0000000000000005\r\nhello\r\n0\r\n\r\n",
        "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
        "000\r\n\r\n",
        "0\r\nX-Sum: 1\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nContent-Length: 38\r\n\r\n",
        "0\r\nHost: payments\r\n\r\n",
        "0\r\nConnection: close\r\n\r\n",
    ];
    rows.extend(good.iter().map(|body| chunked(body, Carried)));
    rows.push(chunked(&format!("26\r\n{INNER}\r\n0\r\n\r\n"), Carried));
    rows.push(chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000)), BAD));
    rows.push(chunked("ffffffffffffffff\r\nhello", Cut));
    rows.push(chunked("5\r\nhello\r\n", Cut));
    rows
}

fn lines() -> Vec<Row> {
    let bad = [
        "GET {p} HTTP/1.1\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\n\n",
        "GET {p} HTTP/1.1\nHost: cart\n\n",
        "GET {p} HTTP/1.1\rHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX: a\rb\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX: a\r\n\r \r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX: a\0b\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX: a\u{1}b\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX: \u{7f}\r\n\r\n",
        "\nGET {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "\rGET {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
    ];
    bad.iter().map(|text| row(text, BAD)).collect()
}

fn names() -> Vec<Row> {
    let bad = [
        "Content-Length : 38",
        "Content-Length\t: 38",
        "Content-Length \r\n: 38",
        ": 38",
        "Content-Length",
        "X Y: 1\r\nContent-Length: 38",
        "X\0: 1\r\nContent-Length: 38",
        "X\u{b}: 1\r\nContent-Length: 38",
        "\u{e9}: 1\r\nContent-Length: 38",
        "(X): 1\r\nContent-Length: 38",
        "X: 1\r\n Content-Length: 38",
        "X: 1\r\n\tContent-Length: 38",
        "X[]: 1\r\nContent-Length: 38",
    ];
    bad.iter().map(|fields| post(fields, INNER, BAD)).collect()
}

fn hosts() -> Vec<Row> {
    let bad = [
        "GET {p} HTTP/1.1\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nHost: payments\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nhost: payments\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart, payments\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart payments\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart/x\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: payments@cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart:\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart:80:80\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart:x\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: http://cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost : cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\n Host: cart\r\n\r\n",
        "GET http://cart{p} HTTP/1.1\r\n\r\n",
        "GET http://cart{p} HTTP/1.1\r\nHost: cart\r\nHost: payments\r\n\r\n",
        "GET http://payments@cart{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET http://{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET http:cart{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET cart{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
    ];
    let good = [
        // RFC 9112, 3.2.2: the target is believed, and the application hears of no other.
        "GET http://cart{p} HTTP/1.1\r\nHost: payments\r\n\r\n",
        "GET http://cart{p} HTTP/1.1\r\nHost:\r\n\r\n",
        "GET HTTP://CART:80{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET http://cart?x{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET /{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}?http://payments/ HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nX-Forwarded-Host: payments\r\nX-Host: payments\r\n\r\n",
        "GET {p} HTTP/1.1\r\nHost: cart\r\nConnection: Host\r\n\r\n",
    ];
    bad.iter().map(|text| row(text, BAD)).chain(good.iter().map(|text| row(text, Carried))).collect()
}

fn request_lines() -> Vec<Row> {
    let bad = [
        "GET  {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}  HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1 \r\nHost: cart\r\n\r\n",
        " GET {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET\t{p}\tHTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET\u{b}{p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p} x HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.1, HTTP/1.0\r\nHost: cart\r\n\r\n",
        "GET {p} http/1.1\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/1.10\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP/01.1\r\nHost: cart\r\n\r\n",
        "GET {p} HTTP 1.1\r\nHost: cart\r\n\r\n",
        "G(T {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "G\0T {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}#x HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}\0 HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET {p}\u{e9} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: cart\r\n\r\n",
        "CONNECT {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
        "CONNECT cart:80 HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello",
        "CONNECT cart:80 HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\nGET {p} HTTP/1.1\r\nHost: cart\r\n\r\n",
    ];
    let mut rows: Vec<Row> = bad.iter().map(|text| row(text, BAD)).collect();
    rows.extend([
        row("\r\nGET {p} HTTP/1.1\r\nHost: cart\r\n\r\n", Carried),
        row("get {p} HTTP/1.1\r\nHost: cart\r\n\r\n", Carried),
        row("GET {p} HTTP/1.1\r\nHost: cart", Cut),
    ]);
    rows
}

fn versions() -> Vec<Row> {
    vec![
        row("GET {p} HTTP/1.2\r\nHost: cart\r\n\r\n", VERSION),
        row("GET {p} HTTP/2.0\r\nHost: cart\r\n\r\n", VERSION),
        row("GET {p} HTTP/0.9\r\nHost: cart\r\n\r\n", VERSION),
        row("GET {p} HTTP/1.0\r\nHost: cart\r\n\r\n", Last),
        row(&format!("POST {{p}} HTTP/1.0\r\nHost: cart\r\nContent-Length: 38\r\n\r\n{INNER}"), Last),
        row("GET {p} HTTP/1.0\r\nHost: cart\r\nConnection: keep-alive\r\n\r\n", Carried),
        row("GET {p} HTTP/1.0\r\nHost: cart\r\nHost: payments\r\n\r\n", BAD),
    ]
}

/// What looks odd and is read by everybody in one way.
fn honest() -> Vec<Row> {
    vec![
        row(
            "GET {p} HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            Carried,
        ),
        row(
            "GET {p} HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n",
            Carried,
        ),
        row("GET {p} HTTP/1.1\r\nHost: cart\r\nUpgrade: websocket\r\n\r\n", Carried),
        row("HEAD {p} HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n", Last),
        row(&format!("GET {{p}} HTTP/1.1\r\nHost: cart\r\nContent-Length: 38\r\n\r\n{INNER}"), Carried),
        row(
            &format!(
                "DELETE {{p}} HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n26\r\n{INNER}\r\n0\r\n\r\n"
            ),
            Carried,
        ),
        row("GET {p} HTTP/1.1\r\nHost: cart\r\nX: a: b\r\nY:\r\nZ:\t\"\t\"\r\n\r\n", Carried),
        post("Expect: 100-continue\r\nContent-Length: 38", INNER, Carried),
        row("GET {p} HTTP/1.1\r\nHost: cart\r\nConnection: close, x-a\r\nX-A: 1\r\n\r\n", Last),
    ]
}

fn sizes() -> Vec<Row> {
    let get =
        |fields: &str, expect| row(&format!("GET {{p}} HTTP/1.1\r\nHost: cart\r\n{fields}\r\n"), expect);
    vec![
        get(&format!("X: {}\r\n", "x".repeat(80_000)), Refused(431, "head_too_large")),
        get(&"X: 1\r\n".repeat(2_000), Refused(431, "head_too_large")),
        get(&"X: 1\r\n".repeat(100), Carried),
        get(&format!("Connection: {}\r\n", "x,".repeat(5_000)), BAD),
        row(
            &format!("GET {{p}}{} HTTP/1.1\r\nHost: cart\r\n\r\n", "x".repeat(17_000)),
            Refused(414, "uri_too_long"),
        ),
        row(&format!("GET {{p}}{}", "x".repeat(80_000)), Refused(414, "uri_too_long")),
    ]
}

/// Bytes that are no text.
fn not_text() -> Vec<Case> {
    let bad = |bytes: &[u8]| Case { bytes: bytes.to_vec(), expect: BAD };
    vec![
        bad(b"GET {p}\xff HTTP/1.1\r\nHost: cart\r\n\r\n"),
        bad(b"GET {p} HTTP/1.1\r\nHost: cart\xff\r\n\r\n"),
        bad(b"GET {p} HTTP/1.1\r\nHost: cart\r\n\xc0\x8d\xc0\x8a: x\r\n\r\n"),
        bad(b"GET {p} HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\xa0\r\n\r\nhello"),
        bad(b"\x00\x01\x02\x03\x04\x05\r\n\r\n"),
    ]
}
