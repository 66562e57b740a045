//! Hostile input as plain functions: any bytes in, no panic, and what must hold whatever they say.
//! A fuzzer calls these; here they meet seeded, mutated messages.

use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{BodyLength, Limits, Receiver, RequestMethod, ResponseTo, Sender, Step};
use meshwork_http::{Head, Version};

use crate::exchange::Exchange;
use crate::hyper_client::trailers_head;
use crate::random::Random;
use crate::transcript::{Event, Side, describe, transcript};

/// However the bytes are cut, the same is told; and what is accepted and passed on is read alike.
pub(crate) fn requests(bytes: &[u8]) {
    check_cuts(&Side::Requests, bytes);
    check_passed_on(bytes);
}

pub(crate) fn responses(bytes: &[u8]) {
    let methods =
        vec![RequestMethod::Other, RequestMethod::Head, RequestMethod::Other, RequestMethod::Connect];
    check_cuts(&Side::Responses(methods), bytes);
}

fn check_cuts(side: &Side, bytes: &[u8]) {
    // Small limits, so that small inputs meet them.
    let limits = Limits {
        head_bytes_max: 600,
        fields_max: 12,
        target_bytes_max: 80,
        chunk_extension_bytes_max: 20,
        trailer_bytes_max: 100,
        ..Limits::default()
    };
    for limits in [limits, Limits::default()] {
        let at_once = transcript(side, limits, bytes, &[]);
        let every: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(transcript(side, limits, bytes, &every), at_once, "byte by byte");
        let thirds = [bytes.len() / 3, bytes.len() * 2 / 3];
        assert_eq!(transcript(side, limits, bytes, &thirds), at_once, "cut in three");
    }
}

/// Passes the requests on as a proxy does, then reads what it wrote: the same requests, or we are the
/// smuggler.
fn check_passed_on(bytes: &[u8]) {
    let (passed, expect) = pass_on(bytes);
    let again = transcript(&Side::Requests, Limits::default(), &passed, &[]);
    let messages: Vec<_> = again.into_iter().filter(|event| !matches!(event, Event::Closed(_))).collect();
    assert_eq!(messages, expect, "{:?}", String::from_utf8_lossy(&passed));
}

/// The complete requests of `bytes` as they are sent on, and the events that a reader must see.
fn pass_on(bytes: &[u8]) -> (Vec<u8>, Vec<Event>) {
    let (mut receiver, mut sender) = (Receiver::requests(Limits::default()), Sender::new());
    let (mut head, mut at) = (Head::default(), 0);
    let (mut passed, mut expect) = (Vec::new(), Vec::new());
    let (mut out, mut events) = (Vec::new(), Vec::new());
    while let Ok(step) = receiver.advance(&bytes[at..], &mut head) {
        at += match step {
            Step::NeedMore { .. } | Step::Upgraded { .. } => break,
            Step::Head { consumed } => {
                forward::request(&mut head, Upgrades::Pass, ProxyAuthentication::Remove);
                sender.request(&head, receiver.body_length(), &mut out).unwrap();
                events.push(Event::Head(
                    head_sent(&head, receiver.body_length()),
                    receiver.body_length(),
                    true,
                ));
                consumed
            }
            Step::Data { consumed, data } => {
                let data = &bytes[at..][data];
                sender.data(data, &mut out).unwrap();
                match events.last_mut() {
                    Some(Event::Data(joined)) => joined.extend_from_slice(data),
                    _ => events.push(Event::Data(data.to_vec())),
                }
                consumed
            }
            Step::Trailers { consumed } => {
                sender.end(Some(&head), &mut out).unwrap();
                events.push(Event::Trailers(describe(&head)));
                consumed
            }
            Step::End { consumed } => {
                if !sender.is_ended() {
                    sender.end(None, &mut out).unwrap();
                }
                events.push(Event::End);
                passed.append(&mut out);
                expect.append(&mut events);
                receiver.next_message();
                consumed
            }
        };
    }
    (passed, expect)
}

/// What a reader of the head that we send must understand, worked out apart from the writer.
fn head_sent(head: &Head, length: BodyLength) -> String {
    let mut sent = Head::default();
    let connection: Vec<String> = ["TE", "Upgrade"]
        .into_iter()
        .filter(|option| head.header(option).is_some())
        .map(str::to_owned)
        .collect();
    sent.start_request(Version::Http11, head.method(), head.path_and_query());
    let is_connect = head.method() == "CONNECT";
    if is_connect {
        sent.set_authority(head.authority().unwrap());
    }
    if is_connect || head.header("host").is_none() {
        sent.append("Host", head.authority().unwrap_or_default().as_bytes());
    }
    for (name, value) in head.fields() {
        let name = std::str::from_utf8(name).unwrap();
        let is_ours =
            ["content-length", "transfer-encoding", "connection"].contains(&name.to_lowercase().as_str());
        let is_written_first = is_connect && name.eq_ignore_ascii_case("host");
        if !is_ours && !is_written_first {
            sent.append(name, value);
        }
    }
    if !connection.is_empty() {
        sent.append("Connection", connection.join(", ").as_bytes());
    }
    match length {
        BodyLength::Known(length) => sent.append("Content-Length", length.to_string().as_bytes()),
        BodyLength::Chunked => sent.append("Transfer-Encoding", b"chunked"),
        BodyLength::None | BodyLength::UntilClose => {}
    }
    describe(&sent)
}

/// Bytes that are nearly a connection's: generated messages with a few bytes changed.
fn nearly(random: &mut Random, requests: bool) -> Vec<u8> {
    let (mut sender, mut head, mut out) = (Sender::new(), Head::default(), Vec::new());
    for _ in 0..1 + random.below(3) {
        let exchange = Exchange::generate(random, false);
        let message = if requests { &exchange.request } else { &exchange.response };
        if requests {
            exchange.request_head(&mut head);
            sender.request(&head, message.body.length(), &mut out).unwrap();
        } else {
            exchange.response_head(&mut head);
            let to = ResponseTo { method: RequestMethod::Other, version: Version::Http11 };
            sender.response(&head, message.body.length(), to, true, &mut out).unwrap();
        }
        let pieces = message.body.pieces();
        pieces
            .iter()
            .for_each(|piece| sender.data(&piece[..piece.len().min(40)], &mut out).unwrap_or_default());
        if sender.end(Some(&trailers_head(message)), &mut out).is_err() {
            break; // a long body was cut: that is hostile, too
        }
    }
    for _ in 0..random.below(4) {
        let at = random.below(out.len());
        match random.below(4) {
            0 => out[at] = random.next() as u8,
            1 => out.insert(at, random.pick(b"\r\n :,;0chunked\t\0\x80")),
            2 => {
                out.remove(at);
            }
            _ => {
                let snippets: [&[u8]; 8] = [
                    b"\r\n",
                    b"\r\nContent-Length: 3\r\n",
                    b"\r\nTransfer-Encoding: chunked\r\n",
                    b"\r\nConnection: host, te, close\r\n",
                    b"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
                    b" http://other/ ",
                    b"\r\n0\r\n\r\n",
                    b" HTTP/1.0\r\n",
                ];
                let snippet = random.pick(&snippets);
                out.splice(at..at, snippet.iter().copied());
            }
        }
    }
    out
}

#[test]
fn mutated_messages_are_told_alike_however_cut_and_passed_on_unchanged() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        requests(&nearly(&mut random, true));
        responses(&nearly(&mut random, false));
    }
}
