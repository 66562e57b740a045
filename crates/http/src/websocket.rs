//! WebSocket between versions: the extended CONNECT of HTTP/2 (RFC 8441) as an upgrade of HTTP/1 (RFC 6455),
//! for a server that speaks only that. Pure functions on heads; the key and its proof are the caller's.

use crate::{Head, Kind, StatusCode, Version};

/// The token of `:protocol` and of `Upgrade`.
pub const PROTOCOL: &str = "websocket";

/// Whether the request opens a WebSocket over HTTP/2.
pub fn is_extended_connect(head: &Head) -> bool {
    head.kind() == Kind::Request && head.method() == "CONNECT" && !head.protocol().is_empty()
}

/// Makes an extended CONNECT the upgrade request of HTTP/1; `key` is 16 random bytes in base64
/// (RFC 6455, 4.1). All other fields mean the same in both (RFC 8441, 5).
pub fn to_http1(head: &mut Head, key: &str) {
    head.set_method("GET");
    head.clear_protocol();
    head.lower_authority();
    head.set("Connection", b"Upgrade");
    head.set("Upgrade", PROTOCOL.as_bytes());
    head.set("Sec-WebSocket-Key", key.as_bytes());
}

/// Makes the 101 of HTTP/1 the answer to an extended CONNECT.
pub fn to_http2(head: &mut Head) {
    head.set_status(Version::Http2, StatusCode::OK);
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        head.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BodyLength;
    use crate::h1::{ResponseTo, Sender};

    #[test]
    fn an_extended_connect_becomes_an_upgrade() {
        let mut head = Head::default();
        head.start_request(Version::Http2, "CONNECT", "/chat?room=1");
        head.set_protocol(PROTOCOL);
        head.set_scheme("http");
        head.set_authority("cart");
        head.append("sec-websocket-version", b"13");
        head.append("sec-websocket-protocol", b"soap");
        assert!(is_extended_connect(&head));
        to_http1(&mut head, "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(!is_extended_connect(&head));
        let mut text = Vec::new();
        Sender::new().request(&head, BodyLength::None, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "GET /chat?room=1 HTTP/1.1\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: soap\r\n\
             Host: cart\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Connection: Upgrade\r\n\r\n"
        );
    }

    #[test]
    fn a_switch_of_protocols_becomes_a_plain_success() {
        let mut head = Head::default();
        head.start_response(Version::Http11, StatusCode::SWITCHING_PROTOCOLS, b"Switching Protocols");
        head.append("Upgrade", b"websocket");
        head.append("Connection", b"Upgrade");
        head.append("Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        head.append("Sec-WebSocket-Protocol", b"soap");
        to_http2(&mut head);
        assert_eq!(head.status(), StatusCode::OK);
        let mut text = Vec::new();
        let to = ResponseTo { method: crate::h1::RequestMethod::Other, version: Version::Http11 };
        Sender::new().response(&head, BodyLength::None, to, true, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("Sec-WebSocket-Protocol: soap") && !text.contains("Upgrade"), "{text}");
    }
}
