//! WebSocket between versions: the extended CONNECT of HTTP/2 (RFC 8441) as an upgrade of HTTP/1 (RFC 6455),
//! for a server that speaks only that. Pure functions on heads; the key and its proof are the caller's.
//!
//! Frames pass as they are. Where one ends is followed only so that a close can be put behind it ([`Frames`]).

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

/// A server's close frame that says "going away" (RFC 6455, 5.5.1 and 7.4.1).
pub const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same of a client, masked with zeros (RFC 6455, 5.3: whom we speak to is no cache that could be fooled).
pub const GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Two bytes, eight of an extended length, four of a mask (RFC 6455, 5.2).
const HEADER_BYTES_MAX: usize = 14;

/// Where one direction of a WebSocket stands: between two frames, or within one.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that came.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
}

impl Frames {
    /// More bytes passed.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if self.have == self.header_length() {
                self.left = self.payload_length();
                self.have = 0;
            }
        }
    }

    /// The next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// As far as it is known; never less than what came, plus one.
    fn header_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + extended + mask
    }

    fn payload_length(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        match self.header[1] & 0x7f {
            126 => big_endian(&self.header[2..4]),
            127 => big_endian(&self.header[2..10]),
            short => u64::from(short),
        }
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

    /// A frame with that payload, as RFC 6455, 5.2 draws it.
    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | u8::try_from(payload).unwrap()),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0, if masked { 4 } else { 0 } + payload));
        frame
    }

    #[test]
    fn a_close_fits_between_frames_and_nowhere_else() {
        for masked in [false, true] {
            let frames = [0, 1, 125, 126, 300, 65_535, 65_536, 0].map(|payload| frame(payload, masked));
            let mut ends = vec![0];
            frames.iter().for_each(|frame| ends.push(ends[ends.len() - 1] + frame.len()));
            let all = frames.concat();
            for piece in [1, 2, 3, 7, 1_000, all.len()] {
                let (mut state, mut passed) = (Frames::default(), 0);
                for bytes in all.chunks(piece) {
                    state.advance(bytes);
                    passed += bytes.len();
                    assert_eq!(state.is_between(), ends.contains(&passed), "{passed} bytes by {piece}");
                }
            }
        }
    }

    #[test]
    fn both_closes_are_frames() {
        for close in [&GOING_AWAY[..], &GOING_AWAY_MASKED] {
            let mut state = Frames::default();
            state.advance(&close[..close.len() - 1]);
            assert!(!state.is_between());
            state.advance(&close[close.len() - 1..]);
            assert!(state.is_between());
        }
    }
}
