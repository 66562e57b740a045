//! Frames' heads, kinds and flags (RFC 9113, 4.1 and 6), and frames of fixed form as bytes.

use super::ErrorCode;

/// What a client's first bytes are (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const HEAD_BYTES: usize = 9;

/// The largest stream number, window, and increment of one.
pub(super) const LARGEST: u32 = (1 << 31) - 1;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::RstStream,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }
}

/// The nine bytes before each frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind: Kind::of(kind),
            flags,
            // The reserved bit is ignored (4.1).
            stream: u32::from_be_bytes(stream) & LARGEST,
        }
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The bytes of a frame's head. `length` fits its 24 bits: frames are cut to the peer's limit before.
pub(super) fn head(length: usize, kind: Kind, flags: u8, stream: u32) -> [u8; HEAD_BYTES] {
    debug_assert!(length < 1 << 24 && kind != Kind::Unknown, "no such frame");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind as u8, flags, d, e, f, g]
}

pub(super) fn put_head(length: usize, kind: Kind, flags: u8, stream: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&head(length, kind, flags, stream));
}

pub(super) fn put_rst_stream(stream: u32, code: ErrorCode, out: &mut Vec<u8>) {
    put_head(4, Kind::RstStream, 0, stream, out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Stream 0 is the connection.
pub(super) fn put_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    debug_assert!((1..=LARGEST).contains(&increment), "a window grows by something");
    put_head(4, Kind::WindowUpdate, 0, stream, out);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(super) fn put_ping(flags: u8, payload: [u8; 8], out: &mut Vec<u8>) {
    put_head(8, Kind::Ping, flags, 0, out);
    out.extend_from_slice(&payload);
}

pub(super) fn put_goaway(last: u32, code: ErrorCode, out: &mut Vec<u8>) {
    put_head(8, Kind::GoAway, 0, 0, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn put_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    put_head(6 * settings.len(), Kind::Settings, 0, 0, out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    put_head(0, Kind::Settings, ACK, 0, out);
}

/// The number in the last four bytes of a payload of known length, without its reserved bit.
pub(super) fn number(payload: &[u8; 4]) -> u32 {
    u32::from_be_bytes(*payload) & LARGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for kind in 0..10u8 {
            let written = head(0x12_3456, Kind::of(kind), 0x25, 7);
            assert_eq!(written[3], kind);
            let read = FrameHead::parse(&written);
            assert_eq!(read, FrameHead { length: 0x12_3456, kind: Kind::of(kind), flags: 0x25, stream: 7 });
        }
        let reserved = FrameHead::parse(&[0, 0, 0, 99, 0, 0x80, 0, 0, 1]);
        assert_eq!((reserved.kind, reserved.stream), (Kind::Unknown, 1));
    }
}
