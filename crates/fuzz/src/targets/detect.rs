//! The first bytes of a connection: its protocol, and the name that a TLS client asks for.
//!
//! A decision never changes when more bytes come, and the limit always decides. What our engine takes for a request is
//! found to be HTTP/1; what rustls takes for a ClientHello is found to be one, with the name that rustls finds in it.

use std::io::Cursor;

use meshwork_core::detect::{DETECT_BYTES_MAX, Detected, detect, may_be_request, preface, server_preface};
use meshwork_core::sni::{Caller, ServerName, caller, server_name};
use meshwork_http::Head;
use meshwork_http::h1::{Limits, Receiver, Step};
use rustls::server::Acceptor;

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "detect",
    run,
    seeds,
    words: &[
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n",
        b" ",
        b" HTTP/1.0",
        &[22, 3, 1],
        &[0, 0, 0],
        &[0, 16],
        b"\x02h2",
        b"SSH-2.0-",
        b"EHLO a\r\n",
        &[0, 0, 18, 4, 0, 0, 0, 0, 0],
        b"CONNECT ",
        b"\0",
    ],
};

const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"meshwork-tcp/1"];

fn run(bytes: &[u8]) {
    // At each of the first bytes, then at some.
    let later = (0..16).map(|part| bytes.len() * part / 16).filter(|end| *end > 200);
    let ends: Vec<usize> = (0..=bytes.len().min(200)).chain(later).chain([bytes.len()]).collect();
    stays(&ends, |end| Some(detect(&bytes[..end])).filter(|found| *found != Detected::NeedMore));
    stays(&ends, |end| preface(&bytes[..end]));
    stays(&ends, |end| server_preface(&bytes[..end]));
    stays(&ends, |end| Some(server_name(&bytes[..end])).filter(|found| *found != ServerName::NeedMore));
    stays(&ends, |end| Some(caller(&bytes[..end], &PROTOCOLS)).filter(|found| *found != Caller::NeedMore));
    if bytes.len() >= DETECT_BYTES_MAX {
        assert_ne!(detect(bytes), Detected::NeedMore);
        assert_ne!(server_name(bytes), ServerName::NeedMore);
        assert_ne!(caller(bytes, &PROTOCOLS), Caller::NeedMore);
    }
    assert_eq!(preface(bytes) == Some(true), detect(bytes) == Detected::Http2);
    engine_agrees(bytes);
    rustls_agrees(bytes);
}

/// What is decided once is decided for ever.
fn stays<T: PartialEq + std::fmt::Debug>(ends: &[usize], found: impl Fn(usize) -> Option<T>) {
    let mut decided = None;
    for end in ends {
        let now = found(*end);
        if decided.is_some() {
            assert_eq!(now, decided, "at {end} of the bytes");
        }
        decided = now;
    }
}

/// More than one empty line before a request is the engine's kindness to old clients; they are none of a new connection's.
fn engine_agrees(bytes: &[u8]) {
    let mut head = Head::default();
    let mut receiver = Receiver::requests(Limits::default());
    let Ok(Step::Head { consumed }) = receiver.advance(bytes, &mut head) else { return };
    if bytes.starts_with(b"\r\n\r\n") || head.method().len() > 32 {
        return;
    }
    assert_eq!(detect(&bytes[..consumed]), Detected::Http1, "the engine takes it");
    let usual = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    assert!(!usual.contains(&head.method()) || may_be_request(&bytes[..consumed]));
}

fn rustls_agrees(bytes: &[u8]) {
    if bytes.len() >= DETECT_BYTES_MAX || bytes.first() != Some(&22) {
        return;
    }
    let (mut acceptor, mut input) = (Acceptor::default(), Cursor::new(bytes));
    loop {
        if !matches!(acceptor.read_tls(&mut input), Ok(1..)) {
            return;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                assert_eq!(detect(bytes), Detected::Tls, "rustls takes it");
                match (hello.server_name(), server_name(bytes)) {
                    (Some(theirs), ServerName::Named(ours)) => assert!(ours.eq_ignore_ascii_case(theirs)),
                    (Some(theirs), ours) => panic!("rustls finds {theirs}, we find {ours:?}"),
                    // An address, for example: what is no name of the DNS rustls passes over.
                    (None, ServerName::Named(_) | ServerName::Unnamed) => {}
                    (None, ServerName::NeedMore) => panic!("rustls has all it needs"),
                }
                if caller(bytes, &PROTOCOLS) == Caller::Sidecar {
                    let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
                    assert!(offered.len() == 1 && PROTOCOLS.contains(&offered[0]), "{offered:?}");
                    assert_eq!(hello.server_name(), None);
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 5] = [
        b"GET /a?b HTTP/1.1\r\nHost: cart\r\n\r\n",
        b"\r\nPOST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"*1\r\n$4\r\nPING\r\n",
        b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64",
    ];
    texts.iter().map(|text| text.to_vec()).collect()
}
