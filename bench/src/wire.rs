//! What can be seen on the cable between the two sidecars: the ServerHello, and that nothing else is readable.
//!
//! A packet socket in the client's namespace sees every frame, as tcpdump would. Of the TLS handshake the ServerHello
//! is the last message in the clear; it names the version and the group that were agreed on.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::{Doing as _, Failure, Result, fail};
use crate::namespaces::{Namespace, SERVER};

/// RFC 8446, 4.2.1: the version in the extension `supported_versions`.
pub(crate) const TLS13: u16 = 0x0304;

/// `X25519MLKEM768` in the registry of TLS groups.
pub(crate) const X25519MLKEM768: u16 = 0x11EC;

/// `ETH_P_ALL`, in the order of the network.
const EVERY_PROTOCOL: i32 = 0x0003_u16.to_be() as i32;

/// A frame may be a whole segment that the card would cut: 64 KiB and its heads.
const FRAME_BYTES_MAX: usize = 128 * 1024;

/// Of each direction of a connection so much is kept: a ServerHello with its certificate chain is a quarter.
const STREAM_BYTES_MAX: usize = 16 * 1024;

/// How long the socket waits before it looks whether it should end.
const LOOK_UP: Duration = Duration::from_millis(20);

/// How long frames may be on their way to us after the exchange they belong to.
const LATE_FRAMES_WAIT: Duration = Duration::from_millis(200);

/// What two sidecars agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) version: u16,
    pub(crate) group: u16,
    /// The inbound side's port.
    pub(crate) port: u16,
    /// Something of the request or its answer could be read.
    pub(crate) readable: bool,
}

pub(crate) struct Capture {
    thread: JoinHandle<Result<Streams>>,
    done: mpsc::Sender<()>,
}

impl Capture {
    /// Sees what comes and goes from now on.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.inside(|| {
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERY_PROTOCOL)))
                .doing(|| "opening a packet socket; it needs root".to_owned())
        })?;
        socket.set_read_timeout(Some(LOOK_UP)).doing(|| "a packet socket's time-out".to_owned())?;
        let (done, ended) = mpsc::channel();
        Ok(Self { thread: thread::spawn(move || read(&socket, &ended)), done })
    }

    pub(crate) fn finish(self) -> Result<Handshake> {
        drop(self.done);
        let streams = self.thread.join().unwrap_or_else(|_| fail("the capturing thread panicked"))?;
        streams.handshake().ok_or_else(|| {
            Failure("no TLS handshake with the inbound side was seen on the wire: is it not TLS?".to_owned())
        })
    }
}

/// Until told to end, and a little longer.
fn read(mut socket: &Socket, ended: &Receiver<()>) -> Result<Streams> {
    let mut streams = Streams::default();
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let mut until = None;
    loop {
        match socket.read(&mut frame) {
            Ok(length) => streams.take(&frame[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return fail(format!("reading a packet socket: {error}")),
        }
        if ended.try_recv() == Err(TryRecvError::Disconnected) {
            let until = *until.get_or_insert_with(|| Instant::now() + LATE_FRAMES_WAIT);
            if Instant::now() >= until {
                return Ok(streams);
            }
        }
    }
}

/// One direction of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Direction {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
}

/// Pieces by their place in the sequence of bytes.
#[derive(Default)]
struct Streams(BTreeMap<Direction, BTreeMap<u32, Vec<u8>>>);

impl Streams {
    fn take(&mut self, frame: &[u8]) {
        let Some((direction, sequence, payload)) = segment(frame) else { return };
        if payload.is_empty() {
            return;
        }
        let pieces = self.0.entry(direction).or_default();
        if pieces.values().map(Vec::len).sum::<usize>() < STREAM_BYTES_MAX {
            pieces.insert(sequence, payload.to_vec());
        }
    }

    /// The last handshake that the server's address answered.
    fn handshake(&self) -> Option<Handshake> {
        let from_server = self.0.iter().filter(|(direction, _)| direction.from.0 == SERVER);
        let mut hellos = from_server.filter_map(|(direction, pieces)| {
            let (version, group) = server_hello(&joined(pieces))?;
            Some((direction.from.1, version, group))
        });
        let (port, version, group) = hellos.next_back()?;
        let of_port = |direction: &&Direction| direction.from.1 == port || direction.to.1 == port;
        let readable = self.0.keys().filter(of_port).any(|direction| {
            let bytes = joined(&self.0[direction]);
            [&b"HTTP/1.1"[..], b"mmmmmmmm", b"/128"].iter().any(|word| contains(&bytes, word))
        });
        Some(Handshake { version, group, port, readable })
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// What is there without a gap. Sequence numbers may pass their end; a capture as short as ours does not care.
fn joined(pieces: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let Some(first) = pieces.keys().next() else { return bytes };
    for (sequence, piece) in pieces {
        let at = (sequence - first) as usize;
        if at > bytes.len() {
            break;
        }
        // Sent again: what is there already is skipped.
        bytes.extend(piece.iter().skip(bytes.len() - at));
    }
    bytes
}

/// TCP's payload in IPv4 in Ethernet.
fn segment(frame: &[u8]) -> Option<(Direction, u32, &[u8])> {
    let packet = frame.strip_prefix(frame.get(..12)?)?.strip_prefix(&[0x08, 0x00])?;
    let head_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(number(packet.get(2..4)?));
    if *packet.get(9)? != 6 {
        return None;
    }
    let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from);
    // Of a frame that is larger than a packet can say, the length is 0.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    let tcp = packet.get(head_bytes..end)?;
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let data_at = usize::from(tcp.get(12)? >> 4) * 4;
    let (from, to) = ((address(12)?, number(tcp.get(..2)?)), (address(16)?, number(tcp.get(2..4)?)));
    Some((Direction { from, to }, sequence, tcp.get(data_at..)?))
}

/// Big-endian, of two bytes.
fn number(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte))
}

/// Version and group of a ServerHello that a server's bytes begin with (RFC 8446, 4.1.3).
fn server_hello(bytes: &[u8]) -> Option<(u16, u16)> {
    // A record of type handshake, in it a message of type server_hello.
    if *bytes.first()? != 22 || *bytes.get(5)? != 2 {
        return None;
    }
    let length = usize::from(number(bytes.get(7..9)?));
    let hello = bytes.get(9..9 + length)?;
    // Version, random, then the session's ID, cipher suite and compression.
    let session = usize::from(*hello.get(34)?);
    let mut extensions = hello.get(35 + session + 3 + 2..)?;
    let (mut version, mut group) = (number(hello.get(..2)?), 0);
    while extensions.len() >= 4 {
        let (kind, length) = (number(&extensions[..2]), usize::from(number(&extensions[2..4])));
        let body = extensions.get(4..4 + length)?;
        match kind {
            43 => version = number(body.get(..2)?),
            51 => group = number(body.get(..2)?),
            _ => {}
        }
        extensions = &extensions[4 + length..];
    }
    Some((version, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ServerHello with the version and a key share of 4 bytes.
    fn hello(version: u16, group: u16) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([2, 9, 9]); // session's ID
        body.extend([0x13, 0x02, 0]);
        let mut extensions = vec![0, 43, 0, 2];
        extensions.extend(version.to_be_bytes());
        extensions.extend([0, 51, 0, 8]);
        extensions.extend(group.to_be_bytes());
        extensions.extend([0, 4, 1, 2, 3, 4]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut record = vec![22, 3, 3, 0, 0, 2, 0];
        record.extend((body.len() as u16).to_be_bytes());
        record.extend(body);
        record
    }

    fn frame(from: (Ipv4Addr, u16), sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((40 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(from.0.octets());
        frame.extend([10, 200, 0, 1]);
        frame.extend(from.1.to_be_bytes());
        frame.extend([0x9c, 0x40]);
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame.extend([0; 6]); // what pads a short frame is no payload
        frame
    }

    #[test]
    fn version_and_group_are_read_across_segments_in_any_order() {
        let hello = hello(TLS13, X25519MLKEM768);
        let (one, two) = hello.split_at(40);
        let server = (SERVER, 7_777);
        let mut streams = Streams::default();
        streams.take(&frame(server, 1_040, two));
        assert_eq!(streams.handshake(), None);
        streams.take(&frame(server, 1_000, one));
        streams.take(&frame(server, 1_000, one)); // sent again
        let expected = Handshake { version: TLS13, group: X25519MLKEM768, port: 7_777, readable: false };
        assert_eq!(streams.handshake(), Some(expected));
    }

    #[test]
    fn what_should_be_secret_is_noticed() {
        let mut bytes = hello(TLS13, 0x001d);
        bytes.extend(b"HTTP/1.1 200 OK");
        let mut streams = Streams::default();
        streams.take(&frame((SERVER, 1), 5, &bytes));
        let handshake = streams.handshake().unwrap();
        assert_eq!((handshake.group, handshake.readable), (0x001d, true));
    }

    #[test]
    fn anything_else_is_no_handshake() {
        assert_eq!(server_hello(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(server_hello(&hello(TLS13, 1)[..60]), None);
        assert!(segment(&[0; 30]).is_none());
    }
}
