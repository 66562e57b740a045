//! ALPN protocol IDs that our sidecars speak, best first.

pub const ALPN_HTTP2: &[u8] = b"h2";
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
pub const ALPN_TCP: &[u8] = b"meshwork-tcp/1";
