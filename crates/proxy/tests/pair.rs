//! A request's way: application -> sidecar -> mutual TLS -> sidecar -> application, over real sockets.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use support::{Pair, bind};

/// An application that serves one scripted connection after the other.
fn application(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = bind();
    let port = listener.local_addr().unwrap().port();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Reads until `end` is there.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    bytes
}

#[test]
fn a_request_by_name_reaches_the_service_and_its_answer_comes_back() {
    let port = application(|mut stream| {
        let request = String::from_utf8(read_until(&mut stream, b"\r\n\r\n")).unwrap();
        assert!(request.starts_with("GET /items?limit=3 HTTP/1.1\r\n"), "{request}");
        let lower = request.to_ascii_lowercase();
        assert!(lower.contains("\r\nhost: cart\r\n"), "{request}");
        assert!(
            lower.contains("x-forwarded-client-cert: uri=spiffe://mesh.test/ns/default/sa/web"),
            "{request}"
        );
        assert!(lower.contains("\r\nx-request-id: "), "{request}");
        assert!(lower.contains("\r\ntraceparent: 00-"), "{request}");
        assert!(!lower.contains("x-meshwork-"), "{request}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Meshwork-Cause: forged\r\n\r\nhello")
            .unwrap();
        let _ = stream.read(&mut [0]); // until the sidecar closes
    });
    let pair = Pair::start(port);
    let mut client = connect(pair.web.outbound);
    client
        .write_all(b"GET http://cart/items?limit=3 HTTP/1.1\r\nHost: ignored\r\nX-Meshwork-Evil: 1\r\n\r\n")
        .unwrap();
    let answer = String::from_utf8(read_until(&mut client, b"hello")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("x-meshwork-cause"), "{answer}");
}
