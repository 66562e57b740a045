//! What two parsers could split differently, and so must be refused: each row is an attack or a slip
//! that has been seen, and the one error that names it.

use meshwork_http::h1::{Limits, ReceiveError, RequestMethod};

use crate::transcript::{Event, Side, transcript_at_any_cut};
use ReceiveError::*;

/// The last thing that is told about a request whose head is `GET / HTTP/1.1`, `Host` and this.
#[track_caller]
fn fields(fields: &str, expect: ReceiveError) {
    request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"), expect);
}

#[track_caller]
fn request(text: &str, expect: ReceiveError) {
    bytes(text.as_bytes(), expect);
}

#[track_caller]
fn bytes(bytes: &[u8], expect: ReceiveError) {
    let events = transcript_at_any_cut(&Side::Requests, Limits::default(), bytes);
    assert_eq!(events.last(), Some(&Event::Error(expect)), "{:?}", String::from_utf8_lossy(bytes));
}

#[track_caller]
fn response(text: &str, expect: ReceiveError) {
    let side = Side::Responses(vec![RequestMethod::Other]);
    let events = transcript_at_any_cut(&side, Limits::default(), text.as_bytes());
    assert_eq!(events.last(), Some(&Event::Error(expect)), "{text:?}");
}

#[test]
fn lengths() {
    fields("Content-Length: 3\r\nContent-Length: 4", RepeatedContentLength);
    fields("Content-Length: 3\r\nContent-Length: 3", RepeatedContentLength);
    fields("Content-Length: 3, 3", InvalidContentLength);
    fields("Content-Length: +3", InvalidContentLength);
    fields("Content-Length: -0", InvalidContentLength);
    fields("Content-Length: 0x3", InvalidContentLength);
    fields("Content-Length: 3 4", InvalidContentLength);
    fields("Content-Length:", InvalidContentLength);
    fields("Content-Length: 99999999999999999999", InvalidContentLength);
    fields("Content-Length: \u{ff13}", InvalidContentLength);
}

#[test]
fn length_and_coding() {
    fields("Content-Length: 3\r\nTransfer-Encoding: chunked", LengthAndEncoding);
    fields("Transfer-Encoding: chunked\r\nContent-Length: 0", LengthAndEncoding);
    response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n", LengthAndEncoding);
}

#[test]
fn codings() {
    fields("Transfer-Encoding: chunked, chunked", InvalidTransferEncoding);
    fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", InvalidTransferEncoding);
    fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", UnsupportedTransferEncoding);
    fields("Transfer-Encoding: gzip, chunked", UnsupportedTransferEncoding);
    fields("Transfer-Encoding: xchunked", UnsupportedTransferEncoding);
    fields("Transfer-Encoding: identity", UnsupportedTransferEncoding);
    fields("Transfer-Encoding:", InvalidTransferEncoding);
    fields("Transfer-Encoding: , chunked", InvalidTransferEncoding);
    fields("Transfer-Encoding: \"chunked\"", InvalidTransferEncoding);
    fields("Transfer-Encoding: chunked;q=1", InvalidTransferEncoding);
    fields("Transfer-Encoding: \x0bchunked", InvalidFieldValue);
    fields("Transfer-Encoding : chunked", InvalidFieldName);
    fields("Transfer-Encoding\t: chunked", InvalidFieldName);
    fields("Transfer-Encoding:\r\n chunked", InvalidTransferEncoding);
    request("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", EncodingInHttp10);
    response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", EncodingInHttp10);
}

#[test]
fn lines() {
    request("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLineFeed);
    request("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLineFeed);
    request("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLineFeed);
    request("GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", InvalidFieldValue);
    request("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n", InvalidFieldValue);
    request("GET / HTTP/1.1\rHost: a\r\n\r\n", InvalidRequestLine);
    request("\nGET / HTTP/1.1\r\n\r\n", BareLineFeed);
    request("\rGET / HTTP/1.1\r\n\r\n", InvalidMethod);
}

#[test]
fn fields_and_their_names() {
    fields("X: 1\r\n Y: 2", FoldedField);
    fields("X: 1\r\n\tY: 2", FoldedField);
    request("GET / HTTP/1.1\r\n Host: a\r\n\r\n", FoldedField);
    fields(": 1", InvalidFieldName);
    fields("X Y: 1", InvalidFieldName);
    fields("X", InvalidFieldName);
    fields("X\0: 1", InvalidFieldName);
    fields("X\u{e9}: 1", InvalidFieldName);
    fields("X: a\0b", InvalidFieldValue);
    fields("X: a\x7f", InvalidFieldValue);
    fields("X: \x1b[0m", InvalidFieldValue);
    let many = vec!["X: 1"; Limits::default().fields_max].join("\r\n");
    fields(&many, TooManyFields);
}

#[test]
fn hosts() {
    request("GET / HTTP/1.1\r\n\r\n", MissingHost);
    fields("Host: a", RepeatedHost);
    fields("host: b", RepeatedHost);
    for host in ["a b", "a/b", "a@b", "a:x", "a:", "a:80:80", "[::1", "http://a", "a,b:c", "a\\b"] {
        request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), InvalidHost);
    }
    request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", RepeatedHost);
    request("GET http://a/ HTTP/1.1\r\n\r\n", MissingHost);
}

#[test]
fn request_lines() {
    request("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET /\r\n\r\n", InvalidRequestLine);
    request("GET / http/1.1\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET / HTTP/1.10\r\nHost: a\r\n\r\n", InvalidRequestLine);
    request("GET / HTTP/1.2\r\nHost: a\r\n\r\n", UnsupportedVersion);
    request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UnsupportedVersion);
    request("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidMethod);
    request("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("GET a HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget);
    request("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", ConnectWithBody);
    request("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", ConnectWithBody);
}

#[test]
fn status_lines() {
    for line in ["HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200 OK", "HTTP/1.1 099 X", "ICY 200 OK", ""]
    {
        response(&format!("{line}\r\n\r\n"), InvalidStatusLine);
    }
    response("HTTP/1.1 200 O\0K\r\n\r\n", InvalidStatusLine);
    response("HTTP/1.1 +20 OK\r\n\r\n", InvalidStatusLine);
    response("HTTP/2.0 200 OK\r\n\r\n", UnsupportedVersion);
    response(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(33), TooManyInterim);
}

#[test]
fn chunks() {
    let chunks = |body: &str, expect| {
        request(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), expect);
    };
    chunks("5 \r\nhello\r\n0\r\n\r\n", InvalidChunkSize);
    chunks(" 5\r\nhello\r\n0\r\n\r\n", InvalidChunkSize);
    chunks("+5\r\nhello\r\n0\r\n\r\n", InvalidChunkSize);
    chunks("0x5\r\nhello\r\n0\r\n\r\n", InvalidChunkSize);
    chunks("5\nhello\r\n0\r\n\r\n", InvalidChunkSize);
    chunks("FFFFFFFFFFFFFFFFF\r\n", InvalidChunkSize);
    chunks("5\r\nhello0\r\n\r\n", MissingChunkEnd);
    chunks("5\r\nhello\n0\r\n\r\n", MissingChunkEnd);
    chunks("5;a\nb\r\nhello\r\n0\r\n\r\n", InvalidChunkExtension);
    chunks("0\r\nX: 1\nY: 2\r\n\r\n", BareLineFeed);
    chunks("0\r\nX : 1\r\n\r\n", InvalidFieldName);
    chunks("0\r\n X: 1\r\n\r\n", FoldedField);
    chunks("0\r\n\n", BareLineFeed);
    chunks(&format!("1;{}\r\n", "x".repeat(16 * 1024 + 1)), ChunkExtensionsTooLong);
    chunks(&format!("0\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024)), TrailersTooLarge);
}

#[test]
fn sizes() {
    let limits = Limits::default();
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 1));
    request(&target(limits.target_bytes_max + 1), TargetTooLong);
    request(&target(limits.head_bytes_max * 2), TargetTooLong);
    bytes(&vec![b'x'; limits.head_bytes_max], TargetTooLong);
    let events = transcript_at_any_cut(&Side::Requests, limits, target(limits.target_bytes_max).as_bytes());
    assert_eq!(events.len(), 3, "the longest target passes");
    fields(&format!("X: {}", "x".repeat(limits.head_bytes_max)), HeadTooLarge);
    fields(&format!("Connection: {}", vec!["x"; 33].join(",")), TooManyConnectionOptions);
    response(&format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(limits.head_bytes_max)), HeadTooLarge);
}
