//! gRPC by hand: messages that no library would send, in as many bytes as the other end takes.

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Reader, SETTINGS, WINDOW_UPDATE, block,
    frame, hello, number,
};
use crate::wire::{Door, Wire};

/// RFC 9113, 6.9.2: what both ends begin with.
const WINDOW: i64 = 65_535;

/// Of SETTINGS.
const ACK: u8 = 1;

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u32 = 4;

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// 0: the connection or the stream broke.
    pub(crate) http: u16,
    pub(crate) grpc: Option<u16>,
    pub(crate) told: String,
    /// The answer's bytes, prefix included.
    pub(crate) body: Vec<u8>,
}

/// A message with its prefix (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[compressed][..], &length.to_be_bytes(), message].concat()
}

/// One call on a connection of its own.
pub(crate) fn call(door: &Door, path: &str, more: &[(&str, &str)], body: &[u8]) -> Ended {
    let mut wire = door.open();
    let mut call =
        Call { reader: Reader::new(), connection: WINDOW, stream: WINDOW, initial: WINDOW, ended: None };
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "control"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let head = frame(HEADERS, END_HEADERS, 1, &block(&[&fields[..], more].concat()));
    let mut told = Ended::default();
    if wire.send([hello(), head].concat()).is_ok() {
        call.send(&mut wire, body, &mut told);
    }
    while call.ended.is_none() && call.step(&mut wire, &mut told) {}
    told
}

struct Call {
    reader: Reader,
    connection: i64,
    stream: i64,
    initial: i64,
    ended: Option<()>,
}

impl Call {
    /// As much as is taken, until there is an answer.
    fn send(&mut self, wire: &mut Wire, mut body: &[u8], told: &mut Ended) {
        while self.ended.is_none() {
            let room = self.connection.min(self.stream).clamp(0, 16_384) as usize;
            let (now, later) = body.split_at(room.min(body.len()));
            if now.is_empty() && !later.is_empty() {
                if !self.step(wire, told) {
                    return;
                }
                continue;
            }
            body = later;
            self.connection -= now.len() as i64;
            self.stream -= now.len() as i64;
            let flags = if body.is_empty() { END_STREAM } else { 0 };
            if wire.send(frame(DATA, flags, 1, now)).is_err() || body.is_empty() {
                return;
            }
        }
    }

    /// Takes one frame; `false`: there is none any more.
    fn step(&mut self, wire: &mut Wire, told: &mut Ended) -> bool {
        let Some((kind, flags, stream, payload)) = self.reader.next(wire) else {
            self.ended = Some(());
            return false;
        };
        match (kind, stream) {
            (SETTINGS, _) if flags == 0 => {
                // They count once they are acknowledged (RFC 9113, 6.5.3).
                let _ = wire.send(frame(SETTINGS, ACK, 0, b""));
                for setting in payload.chunks_exact(6) {
                    if u32::from(setting[0]) << 8 | u32::from(setting[1]) == INITIAL_WINDOW {
                        let initial = i64::from(number(&setting[2..]));
                        self.stream += initial - self.initial;
                        self.initial = initial;
                    }
                }
            }
            (WINDOW_UPDATE, 0) => self.connection += i64::from(number(&payload)),
            (WINDOW_UPDATE, 1) => self.stream += i64::from(number(&payload)),
            (DATA, 1) => told.body.extend(payload),
            (HEADERS, 1) => {
                for (name, value) in self.reader.fields(&payload) {
                    match name.as_str() {
                        ":status" => told.http = value.parse().unwrap_or(0),
                        "grpc-status" => told.grpc = value.parse().ok(),
                        "grpc-message" => told.told = value,
                        _ => {}
                    }
                }
            }
            (RST_STREAM, 1) | (GOAWAY, _) => {}
            _ => return true,
        }
        if matches!((kind, stream), (DATA | HEADERS, 1)) && flags & END_STREAM != 0 || kind == RST_STREAM {
            self.ended = Some(());
        }
        true
    }
}
