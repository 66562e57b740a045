//! Takes a record of packets (pcap, Ethernet) apart: TCP streams as far as they were seen without a gap, and all that is
//! neither TCP nor housekeeping. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a record's last word is sent in clear. Nobody listens there (discard).
pub(super) const CONTROL_PORT: u16 = 9;

/// Of a pcap file, and of each packet in it.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

const ETHERNET_HEADER: usize = 14;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Of IPv6, before the lists of groups that hosts send.
const HOP_BY_HOP: u8 = 0;

const SYN: u8 = 2;

pub(super) struct Packets {
    pub(super) count: usize,
    streams: Vec<Stream>,
    /// What was neither TCP nor housekeeping.
    others: Vec<String>,
}

/// One direction of a connection.
struct Stream {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// The same, not put together yet.
struct Segments {
    first: u32,
    by_offset: BTreeMap<u32, Vec<u8>>,
}

pub(super) fn read(file: &[u8]) -> Packets {
    let mut collected = Collected::default();
    let mut rest = file.get(FILE_HEADER..).unwrap_or_default();
    let mut count = 0;
    // The last one may not be whole yet.
    while let Some(header) = rest.get(..PACKET_HEADER) {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(frame) = rest.get(PACKET_HEADER..PACKET_HEADER + length) else { break };
        rest = &rest[PACKET_HEADER + length..];
        count += 1;
        if collected.frame(frame).is_none() {
            collected.others.push(format!("a frame that is cut short: {frame:02x?}"));
        }
    }
    let all = collected.ended.into_iter().chain(collected.streams);
    let streams = all.map(|((from, to), segments)| Stream { from, to, bytes: segments.joined() }).collect();
    Packets { count, streams, others: collected.others }
}

#[derive(Default)]
struct Collected {
    streams: HashMap<(SocketAddr, SocketAddr), Segments>,
    /// Whose ports were used again.
    ended: Vec<((SocketAddr, SocketAddr), Segments)>,
    others: Vec<String>,
}

impl Collected {
    fn frame(&mut self, frame: &[u8]) -> Option<()> {
        let packet = frame.get(ETHERNET_HEADER..)?;
        match u16::from_be_bytes([frame[12], frame[13]]) {
            ARP => {}
            IPV4 => {
                let (from, to): ([u8; 4], [u8; 4]) =
                    (packet.get(12..16)?.try_into().ok()?, packet.get(16..20)?.try_into().ok()?);
                let header = usize::from(packet[0] & 15) * 4;
                let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let payload = packet.get(header..length)?;
                self.packet(Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into(), packet[9], payload)?;
            }
            IPV6 => {
                let (from, to): ([u8; 16], [u8; 16]) =
                    (packet.get(8..24)?.try_into().ok()?, packet.get(24..40)?.try_into().ok()?);
                let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                let payload = packet.get(40..40 + length)?;
                self.packet(Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), packet[6], payload)?;
            }
            other => self.others.push(format!("a frame of type {other:#06x}")),
        }
        Some(())
    }

    fn packet(&mut self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Option<()> {
        let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
        match protocol {
            TCP => {
                let key = (SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
                self.segment(key, payload)?;
            }
            UDP if port(2)? == CONTROL_PORT => {}
            UDP => {
                let (source, destination) = (port(0)?, port(2)?);
                self.others.push(format!("UDP from {from} port {source} to {to} port {destination}"));
            }
            // That nobody listens where the control word goes, or that a neighbour is away, carries a packet's
            // beginning: the marker is looked for in it as in all else.
            IGMP | ICMP | ICMPV6 | HOP_BY_HOP => {}
            other => self.others.push(format!("protocol {other} from {from} to {to}")),
        }
        Some(())
    }

    fn segment(&mut self, key: (SocketAddr, SocketAddr), segment: &[u8]) -> Option<()> {
        let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
        let header = usize::from(*segment.get(12)? >> 4) * 4;
        let payload = segment.get(header..)?;
        if segment[13] & SYN != 0 {
            let first = sequence.wrapping_add(1);
            let again = self.streams.get(&key).is_some_and(|known| known.first == first);
            if !again {
                let begun = Segments { first, by_offset: BTreeMap::new() };
                self.ended.extend(self.streams.insert(key, begun).map(|ended| (key, ended)));
            }
        } else if !payload.is_empty() {
            // One that began before the record is judged by what it went on with.
            let known = self
                .streams
                .entry(key)
                .or_insert_with(|| Segments { first: sequence, by_offset: BTreeMap::new() });
            let offset = sequence.wrapping_sub(known.first);
            let place = known.by_offset.entry(offset).or_default();
            if place.len() < payload.len() {
                *place = payload.to_vec();
            }
        }
        Some(())
    }
}

impl Segments {
    /// Until the first gap.
    fn joined(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, segment) in &self.by_offset {
            let Some(known) = bytes.len().checked_sub(*offset as usize) else { break };
            bytes.extend_from_slice(segment.get(known..).unwrap_or_default());
        }
        bytes
    }
}

impl Packets {
    pub(super) fn streams(&self) -> impl Iterator<Item = &[u8]> {
        self.streams.iter().map(|stream| &*stream.bytes)
    }

    pub(super) fn tls_streams(&self) -> usize {
        self.streams().filter(|stream| !stream.is_empty() && is_tls(stream)).count()
    }

    pub(super) fn not_tls(&self) -> Vec<String> {
        let clear =
            self.streams.iter().filter(|stream| !is_tls(&stream.bytes)).map(|Stream { from, to, bytes }| {
                let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
                format!("TCP from {from} to {to}: {begin:?} ...")
            });
        clear.chain(self.others.iter().cloned()).collect()
    }
}

/// Whether these are records of TLS one after the other, of which the last may not be whole; nothing at all is, too.
fn is_tls(mut bytes: &[u8]) -> bool {
    while let [kind, 3, minor, long, short, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*long, *short]));
        if !(20..=23).contains(kind) || *minor > 4 || length > (1 << 14) + 256 {
            return false;
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    bytes.len() < 5 && bytes.first().is_none_or(|kind| (20..=23).contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of one connection, in a pcap file.
    fn file(segments: &[(u32, u8, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; FILE_HEADER];
        for (sequence, flags, payload) in segments {
            let mut frame = vec![0; 12];
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend([4, 0, 0, 80]);
            frame.extend(sequence.to_be_bytes());
            frame.extend([0, 0, 0, 0, 0x50, *flags, 0, 0, 0, 0, 0, 0]);
            frame.extend(*payload);
            // Ethernet's padding is nobody's payload.
            frame.resize(frame.len().max(60), 0);
            file.extend([0; 8]);
            file.extend(u32::try_from(frame.len()).unwrap().to_ne_bytes());
            file.extend([0; 4]);
            file.extend(frame);
        }
        file
    }

    #[test]
    fn a_stream_is_put_together_whatever_the_order() {
        let packets = read(&file(&[
            (9, SYN, b""),
            (14, 16, b"or"),
            (10, 16, b"mar"),
            (10, 16, b"mark"),
            (20, 16, b"after a gap"),
        ]));
        assert_eq!(packets.count, 5);
        assert_eq!(
            packets.streams().collect::<Vec<_>>(),
            [b"marker".strip_suffix(b"er").unwrap().to_vec().into_iter().chain(*b"or").collect::<Vec<_>>()]
        );
        assert!(packets.not_tls()[0].contains("TCP from 10.0.0.1:1024 to 10.0.0.2:80: \"markor\""));
    }

    #[test]
    fn a_port_that_is_used_again_is_another_stream() {
        let packets = read(&file(&[(9, SYN, b""), (10, 16, b"one"), (77, SYN, b""), (78, 16, b"two")]));
        let mut streams: Vec<_> = packets.streams().collect();
        streams.sort_unstable();
        assert_eq!(streams, [b"one", b"two"]);
    }

    #[test]
    fn tls_is_tls_from_the_first_byte_to_the_last() {
        for (bytes, expect) in [
            (&b""[..], true),
            (&[22, 3, 1, 0, 2, 7, 7, 23, 3, 3, 0, 1, 9], true),
            (&[22, 3, 1, 0, 2, 7, 7, 23, 3, 3, 0, 9, 9], true), // not whole yet
            (&[22, 3, 1, 0, 2, 7, 7, 23, 3], true),
            (&[22, 3, 1, 0, 2, 7, 7, b'G', b'E', b'T', b' ', b'/'], false),
            (b"GET / HTTP/1.1", false),
            (b"GET", false),
            (&[22, 9, 1, 0, 0], false),
        ] {
            assert_eq!(is_tls(bytes), expect, "{bytes:?}");
        }
    }
}
