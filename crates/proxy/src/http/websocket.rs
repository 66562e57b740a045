//! The opening handshake of WebSocket towards an application that speaks HTTP/1, on behalf of a client of
//! HTTP/2, which needs none (RFC 8441, 5): a key, and the proof that it was understood (RFC 6455, 4.1).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwork_http::Head;

/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A nonce that no other connection has.
pub(super) fn key(random: u128) -> String {
    STANDARD.encode(random.to_be_bytes())
}

/// Whether the 101 answers the key that the request carried.
pub(super) fn is_accepted(request: &Head, response: &Head) -> bool {
    let Some(key) = request.header("sec-websocket-key") else { return false };
    response.header("sec-websocket-accept") == Some(accept(key).as_bytes())
}

fn accept(key: &[u8]) -> String {
    let mut hashed = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hashed.update(key);
    hashed.update(GUID.as_bytes());
    STANDARD.encode(hashed.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_key_has_the_rfcs_proof() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
