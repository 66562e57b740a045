//! HTTP/2 by hand: frames and field blocks that may say anything, and what comes back.

use meshwork_http::h2::hpack::Decoder;

use crate::wire::Wire;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;

pub(crate) const PROTOCOL_ERROR: u32 = 1;

pub(crate) const FRAME_HEAD_BYTES: usize = 9;

/// What a client says first: the preface, and SETTINGS without any.
pub(crate) fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, b"")[..]].concat()
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Each field as a literal with a new name that nobody remembers (RFC 7541, 6.2.2): whatever bytes they are.
pub(crate) fn block(fields: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn length(mut length: usize, block: &mut Vec<u8>) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push((length % 128 + 128) as u8);
        length /= 128;
    }
    block.push(length as u8);
}

/// What the other end said of one stream, or of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Status, and why the mesh itself answered.
    Answered(u16, Option<String>),
    Reset(u32),
    /// The connection is over; `None`: without a word.
    Over(Option<u32>),
}

/// A client's end of a connection.
pub(crate) struct Reader {
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { decoder: Decoder::default(), bytes: Vec::new() }
    }

    /// What is said of each of these streams; after the connection's end, that.
    pub(crate) fn read<const N: usize>(&mut self, wire: &mut Wire, streams: [u32; N]) -> [Said; N] {
        let mut said: [Option<Said>; N] = streams.map(|_| None);
        let mut over = None;
        while said.iter().any(Option::is_none) {
            let Some((kind, _, stream, payload)) = self.next(wire) else {
                return said.map(|said| said.unwrap_or(Said::Over(over)));
            };
            let place = streams.iter().position(|known| *known == stream);
            match kind {
                GOAWAY => over = payload.get(4..8).map(number),
                HEADERS => {
                    let answer = self.answer(&payload);
                    if let Some(at) = place
                        && !matches!(answer, Said::Answered(100..=199 | 0, _))
                    {
                        said[at].get_or_insert(answer);
                    }
                }
                RST_STREAM => {
                    if let Some(at) = place {
                        said[at].get_or_insert_with(|| Said::Reset(number(&payload)));
                    }
                }
                _ => {}
            }
        }
        said.map(|said| said.unwrap_or(Said::Over(over)))
    }

    /// Kind, flags, stream and payload; `None`: the connection has ended.
    pub(crate) fn next(&mut self, wire: &mut Wire) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.bytes.split_first_chunk::<FRAME_HEAD_BYTES>() {
                let length = number(&[0, head[0], head[1], head[2]]) as usize;
                if let Some(payload) = rest.get(..length) {
                    let frame = (head[3], head[4], number(&head[5..]), payload.to_vec());
                    self.bytes.drain(..FRAME_HEAD_BYTES + length);
                    return Some(frame);
                }
            }
            let piece = wire.piece();
            if piece.is_empty() {
                return None;
            }
            self.bytes.extend(piece);
        }
    }

    /// The code of a GOAWAY among what has come by now.
    pub(crate) fn farewell(&mut self, wire: &mut Wire) -> Option<u32> {
        while let Some(piece) = wire.poll().filter(|piece| !piece.is_empty()) {
            self.bytes.extend(piece);
        }
        let mut rest = &self.bytes[..];
        let mut code = None;
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
            let length = number(&[0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = after.get(..length) else { break };
            if head[3] == GOAWAY {
                code = payload.get(4..8).map(number);
            }
            rest = &after[length..];
        }
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        code
    }

    fn answer(&mut self, block: &[u8]) -> Said {
        let (mut status, mut cause) = (0, None);
        for (name, value) in self.fields(block) {
            match name.as_str() {
                ":status" => status = value.parse().unwrap_or(0),
                "x-meshwork-cause" => cause = Some(value),
                _ => {}
            }
        }
        Said::Answered(status, cause)
    }

    pub(crate) fn fields(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut fields = Vec::new();
        let decoded = self.decoder.decode(block, |field| fields.push((text(field.name), text(field.value))));
        decoded.expect("a server's block is well made, whole and unpadded");
        fields
    }
}

pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}
