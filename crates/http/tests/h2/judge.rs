//! Judges what both ends write, by the frames alone: flow control, frame order, stream numbers and states as RFC 9113 has them.
//!
//! It shares nothing with the engine and knows only what stands on the wire: what an end may send depends on the frames that were
//! delivered to it until then.

use std::collections::BTreeMap;

use crate::end::Side;

/// What one end wrote, and what it had been allowed to.
pub(crate) struct Judge {
    side: Side,
    /// Bytes that make no whole frame yet: written by this end, and delivered to it.
    written: Vec<u8>,
    delivered: Vec<u8>,
    connection_window: i64,
    initial_window: i64,
    streams_max: usize,
    streams: BTreeMap<u32, Stream>,
    last_opened: u32,
    /// The stream whose header block is not complete.
    block: Option<u32>,
    first: bool,
    settings_unanswered: usize,
}

struct Stream {
    window: i64,
    /// This end has ended it, and the other one has.
    ended: bool,
    peer_ended: bool,
    reset: bool,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Judge {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            written: Vec::new(),
            delivered: Vec::new(),
            connection_window: 65_535,
            initial_window: 65_535,
            streams_max: usize::MAX,
            streams: BTreeMap::new(),
            last_opened: 0,
            block: None,
            first: true,
            settings_unanswered: 0,
        }
    }

    /// This end has written these bytes.
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        let mut written = std::mem::take(&mut self.written);
        let mut at = 0;
        if self.first && self.side == Side::Client {
            assert!(written.starts_with(PREFACE), "the preface is written at once");
            at = PREFACE.len();
        }
        while let Some((frame, length)) = next_frame(&written[at..]) {
            assert!(!std::mem::take(&mut self.first) || frame.kind == 4, "SETTINGS come first");
            self.check_written(&frame);
            at += length;
        }
        written.drain(..at);
        assert!(written.is_empty(), "only whole frames are written");
        self.written = written;
    }

    /// These bytes have reached this end.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.delivered.extend_from_slice(bytes);
        let mut delivered = std::mem::take(&mut self.delivered);
        let mut at = 0;
        if self.side == Side::Server
            && self.last_opened == 0
            && self.streams.is_empty()
            && self.settings_unanswered == 0
        {
            if delivered.starts_with(PREFACE) {
                at = PREFACE.len();
            } else if PREFACE.starts_with(&delivered) {
                self.delivered = delivered;
                return;
            }
        }
        while let Some((frame, length)) = next_frame(&delivered[at..]) {
            self.note_delivered(&frame);
            at += length;
        }
        delivered.drain(..at);
        self.delivered = delivered;
    }

    fn check_written(&mut self, frame: &Frame<'_>) {
        assert!(frame.payload.len() <= 16_384, "longer than the other end allows");
        match self.block {
            Some(stream) => {
                assert_eq!((frame.kind, frame.stream), (9, stream), "a header block was interrupted")
            }
            None => assert_ne!(frame.kind, 9, "a continuation of nothing"),
        }
        match frame.kind {
            0 => self.wrote_data(frame),
            1 => self.wrote_headers(frame),
            3 => {
                self.stream(frame.stream).reset = true;
                assert_eq!(frame.payload.len(), 4);
            }
            4 if frame.flags & 1 != 0 => {
                assert!(self.settings_unanswered > 0, "SETTINGS that nobody sent are acknowledged");
                self.settings_unanswered -= 1;
            }
            4 => assert_eq!((frame.payload.len() % 6, frame.stream), (0, 0)),
            6 => assert_eq!((frame.payload.len(), frame.stream), (8, 0)),
            7 => assert!(frame.payload.len() >= 8 && frame.stream == 0),
            8 => {
                assert!(increment(frame) > 0, "no credit");
                let is_open = frame.stream == 0 || !self.stream(frame.stream).peer_ended;
                assert!(is_open, "credit for a stream that its peer has ended");
            }
            9 => self.end_of_block(frame),
            kind => panic!("a frame of kind {kind}, which we never send"),
        }
    }

    fn wrote_data(&mut self, frame: &Frame<'_>) {
        let length = frame.payload.len() as i64;
        assert_eq!(frame.flags & !1, 0, "we pad nothing");
        assert!(length > 0 || frame.flags & 1 != 0, "DATA that says nothing");
        self.connection_window -= length;
        assert!(self.connection_window >= 0, "the connection's window is exceeded");
        let stream = self.stream(frame.stream);
        stream.window -= length;
        assert!(length == 0 || stream.window >= 0, "the stream's window is exceeded");
        assert!(!stream.ended && !stream.reset, "DATA behind the end");
        stream.ended = frame.flags & 1 != 0;
    }

    fn wrote_headers(&mut self, frame: &Frame<'_>) {
        assert_eq!(frame.flags & !5, 0, "neither padding nor priority");
        if self.side == Side::Client && !self.streams.contains_key(&frame.stream) {
            assert!(frame.stream % 2 == 1 && frame.stream > self.last_opened, "numbers go up");
            self.last_opened = frame.stream;
            self.open(frame.stream);
            let is_open = |stream: &&Stream| !(stream.reset || stream.ended && stream.peer_ended);
            let open = self.streams.values().filter(is_open).count();
            assert!(open <= self.streams_max, "{open} streams of {}", self.streams_max);
        }
        let stream = self.stream(frame.stream);
        assert!(!stream.ended && !stream.reset, "HEADERS behind the end");
        stream.ended = frame.flags & 1 != 0;
        self.block = Some(frame.stream);
        self.end_of_block(frame);
    }

    fn end_of_block(&mut self, frame: &Frame<'_>) {
        if frame.flags & 4 != 0 {
            self.block = None;
        }
    }

    fn note_delivered(&mut self, frame: &Frame<'_>) {
        match frame.kind {
            0 => self.peer_may_end(frame),
            1 => {
                if self.side == Side::Server && !self.streams.contains_key(&frame.stream) {
                    self.last_opened = self.last_opened.max(frame.stream);
                    self.open(frame.stream);
                }
                self.peer_may_end(frame);
            }
            3 => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.reset = true;
                }
            }
            4 if frame.flags & 1 == 0 => self.settings(frame.payload),
            8 if frame.stream == 0 => self.connection_window += increment(frame),
            8 => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.window += increment(frame);
                }
            }
            _ => {}
        }
    }

    fn peer_may_end(&mut self, frame: &Frame<'_>) {
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.peer_ended |= frame.flags & 1 != 0;
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        self.settings_unanswered += 1;
        for setting in payload.chunks(6) {
            let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
            match u16::from_be_bytes([setting[0], setting[1]]) {
                3 => self.streams_max = value as usize,
                4 => {
                    let change = i64::from(value) - self.initial_window;
                    self.initial_window += change;
                    self.streams.values_mut().for_each(|stream| stream.window += change);
                }
                _ => {}
            }
        }
    }

    fn open(&mut self, number: u32) {
        let stream = Stream { window: self.initial_window, ended: false, peer_ended: false, reset: false };
        self.streams.insert(number, stream);
    }

    #[track_caller]
    fn stream(&mut self, number: u32) -> &mut Stream {
        self.streams.get_mut(&number).expect("a frame of a stream that nobody opened")
    }
}

fn next_frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((Frame { kind: head[3], flags: head[4], stream, payload: rest.get(..length)? }, 9 + length))
}

fn increment(frame: &Frame<'_>) -> i64 {
    i64::from(u32::from_be_bytes(frame.payload.try_into().expect("four bytes")))
}
