//! Takes HTTP/2 apart as far as a recording needs it: gRPC's messages by call, and requests with their answers.

use std::collections::BTreeMap;

use meshwork_http::h2::{Connection, Limits, Step};
use meshwork_http::{BodyLength, Head, Instant, Version};

use super::recording::{By, Said};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const PADDED: u8 = 8;
/// gRPC's: whether it is compressed, and the length.
const PREFIX_BYTES: usize = 5;

/// The calls of one connection: path and messages, in the order of their first words.
pub(crate) fn calls(said: &[(By, Vec<u8>)]) -> Vec<(String, Said)> {
    let asked: Vec<u8> =
        said.iter().filter(|(by, _)| *by == By::Client).flat_map(|(_, bytes)| bytes.clone()).collect();
    let mut calls: BTreeMap<u32, (String, Said)> = requests(&asked)
        .into_iter()
        .map(|(stream, message)| (stream, (message.head.path_and_query().to_owned(), Said::new())))
        .collect();
    let mut unread: BTreeMap<By, Vec<u8>> =
        BTreeMap::from([(By::Client, Vec::new()), (By::Server, Vec::new())]);
    let mut bodies: BTreeMap<(u32, By), Vec<u8>> = BTreeMap::new();
    let mut is_first = true;
    for (by, bytes) in said {
        let buffer = unread.get_mut(by).expect("both are there");
        buffer.extend_from_slice(bytes);
        if *by == By::Client && is_first && buffer.len() >= PREFACE.len() {
            assert_eq!(buffer.drain(..PREFACE.len()).collect::<Vec<_>>(), PREFACE);
            is_first = false;
        }
        while let Some((kind, flags, stream, payload)) = frame(buffer) {
            if kind != DATA {
                continue;
            }
            assert_eq!(flags & PADDED, 0, "nobody here pads");
            let body = bodies.entry((stream, *by)).or_default();
            body.extend(payload);
            while let Some(message) = message(body) {
                calls.get_mut(&stream).expect("it has a head").1.push((*by, message));
            }
        }
    }
    calls.into_values().collect()
}

fn frame(buffer: &mut Vec<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head: [u8; HEAD_BYTES] = *buffer.first_chunk()?;
    let [high, mid, low, kind, flags, stream @ ..] = head;
    let length = u32::from_be_bytes([0, high, mid, low]) as usize;
    if buffer.len() < HEAD_BYTES + length {
        return None;
    }
    let payload = buffer.drain(..HEAD_BYTES + length).skip(HEAD_BYTES).collect();
    Some((kind, flags, u32::from_be_bytes(stream), payload))
}

fn message(body: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [compressed, length @ ..]: [u8; PREFIX_BYTES] = *body.first_chunk()?;
    let length = u32::from_be_bytes(length) as usize;
    if body.len() < PREFIX_BYTES + length {
        return None;
    }
    assert_eq!(compressed, 0, "nobody here compresses");
    Some(body.drain(..PREFIX_BYTES + length).skip(PREFIX_BYTES).collect())
}

/// A request or an answer.
#[derive(Default)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) ended: bool,
}

/// What a server of this version takes these bytes for, by stream.
pub(crate) fn requests(bytes: &[u8]) -> Vec<(u32, Message)> {
    messages(&mut Connection::server(Limits::default(), &mut Vec::new()), bytes)
}

/// What a client of this version that has asked so many times takes these bytes for.
pub(crate) fn answers(bytes: &[u8], asked: usize) -> Vec<(u32, Message)> {
    let out = &mut Vec::new();
    let mut client = Connection::client(Limits::default(), out);
    let mut head = Head::default();
    for _ in 0..asked {
        head.start_request(Version::Http11, "GET", "/");
        head.set_authority("cart");
        client.request(&head, BodyLength::None, true, out).expect("nothing stands in the way");
    }
    messages(&mut client, bytes)
}

fn messages(engine: &mut Connection, bytes: &[u8]) -> Vec<(u32, Message)> {
    let (mut out, mut head, mut at) = (Vec::new(), Head::default(), 0);
    let mut came: Vec<(u32, Message)> = Vec::new();
    loop {
        let shown = &bytes[at..];
        let step = engine.advance(shown, &mut head, Instant::default(), &mut out);
        let step = step.expect("nobody says what is wrong");
        at += step.consumed();
        let find = |came: &mut Vec<(u32, Message)>, number: u32| -> usize {
            came.iter().position(|(known, _)| *known == number).unwrap_or_else(|| {
                came.push((number, Message::default()));
                came.len() - 1
            })
        };
        match step {
            Step::NeedMore { .. } => return came,
            Step::Head { stream, end, .. } => {
                let place = find(&mut came, stream.number());
                (came[place].1.head, came[place].1.ended) = (head.clone(), end);
            }
            Step::Data { stream, data, end, .. } => {
                let place = find(&mut came, stream.number());
                came[place].1.body.extend_from_slice(&shown[data]);
                came[place].1.ended = end;
            }
            Step::Trailers { stream, .. } => {
                let place = find(&mut came, stream.number());
                came[place].1.ended = true;
            }
            Step::Writable { .. } | Step::Reset { .. } | Step::GoAway { .. } => {}
            Step::Refused { reason, .. } => panic!("refused: {reason:?}"),
        }
    }
}
