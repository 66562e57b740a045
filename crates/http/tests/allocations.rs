//! After a connection's first exchange the engine allocates nothing: heads and buffers are used again.
//! The counter is each thread's own, so tests beside each other do not count for each other.

#![allow(unsafe_code)] // an allocator is unsafe by its trait; this one only counts and hands on to the system's

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use meshwork_http::Head;
use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{Limits, Receiver, RequestMethod, ResponseTo, Sender, Step};
use meshwork_http::h2::hpack::{Decoder, Encoder, Indexing};
use meshwork_http::{BodyLength, Instant, StatusCode, Version, h2};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on unchanged to the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"POST http://cart/items?limit=3 HTTP/1.1\r\nHost: other\r\nUser-Agent: curl/8\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: a=b; c=d\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nX-Request-Id: 7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: x\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nhello";

/// A connection as a proxy has it.
struct Connection {
    requests: Receiver,
    responses: Receiver,
    upstream: Sender,
    downstream: Sender,
    request: Head,
    response: Head,
    trailers: Head,
    out: Vec<u8>,
}

impl Connection {
    fn exchange(&mut self) {
        self.out.clear();
        let mut at = 0;
        loop {
            let started = !self.upstream.is_ended();
            let head = if started { &mut self.trailers } else { &mut self.request };
            at += match self.requests.advance(&REQUEST[at..], head).unwrap() {
                Step::Head { consumed } => {
                    forward::request(head, Upgrades::Pass, ProxyAuthentication::Remove);
                    self.upstream.request(head, self.requests.body_length(), &mut self.out).unwrap();
                    consumed
                }
                Step::Data { consumed, data } => {
                    self.upstream.data(&REQUEST[at..][data], &mut self.out).unwrap();
                    consumed
                }
                Step::Trailers { consumed } => {
                    self.upstream.end(Some(head), &mut self.out).unwrap();
                    consumed
                }
                Step::End { .. } => break,
                Step::NeedMore { .. } | Step::Upgraded { .. } => panic!("the request is whole"),
            };
        }
        self.requests.next_message();
        self.answer();
    }

    fn answer(&mut self) {
        let to = ResponseTo::of(&self.request);
        self.responses.expect_response_to(RequestMethod::Other);
        let mut at = 0;
        loop {
            at += match self.responses.advance(&RESPONSE[at..], &mut self.response).unwrap() {
                Step::Head { consumed } => {
                    forward::response(&mut self.response, ProxyAuthentication::Remove);
                    let length = self.responses.body_length();
                    self.downstream.response(&self.response, length, to, true, &mut self.out).unwrap();
                    consumed
                }
                Step::Data { consumed, data } => {
                    self.downstream.data(&RESPONSE[at..][data], &mut self.out).unwrap();
                    consumed
                }
                Step::End { .. } => break,
                _ => panic!("the response is whole and has no trailers"),
            };
        }
        self.downstream.end(None, &mut self.out).unwrap();
    }
}

#[test]
fn after_the_first_exchange_nothing_is_allocated() {
    let mut connection = Connection {
        requests: Receiver::requests(Limits::default()),
        responses: Receiver::responses(Limits::default()),
        upstream: Sender::new(),
        downstream: Sender::new(),
        request: Head::default(),
        response: Head::default(),
        trailers: Head::default(),
        out: Vec::new(),
    };
    let before_first = COUNT.get();
    connection.exchange();
    let before = COUNT.get();
    assert!(before > before_first, "the counter counts");
    for _ in 0..100 {
        connection.exchange();
    }
    assert_eq!(COUNT.get() - before, 0);
}

/// A head as it is on HTTP/2, with what repeats, what never does, and a secret.
fn block(encoder: &mut Encoder, round: usize, out: &mut Vec<u8>) {
    let mut digits = *b"/items/000000";
    digits[7..].iter_mut().rev().fold(round, |rest, digit| {
        *digit = b'0' + (rest % 10) as u8;
        rest / 10
    });
    out.clear();
    encoder.begin(out);
    let steady: [(&[u8], &[u8]); 5] = [
        (b":method", b"POST"),
        (b":authority", b"cart:80"),
        (b"User-Agent", b"curl/8.5.0"),
        (b"Cookie", b"session=1234567890"),
        (b"Accept", b"*/*"),
    ];
    steady.iter().for_each(|(name, value)| encoder.field(name, value, Indexing::Usual, out));
    encoder.field(b":path", &digits, Indexing::Usual, out);
    encoder.field(b"X-Number", &digits, Indexing::Incremental, out);
    encoder.field(&digits[1..], b"a name that is new each time", Indexing::Incremental, out);
}

#[test]
fn once_their_tables_have_turned_over_blocks_allocate_nothing() {
    let (mut encoder, mut decoder, mut out) = (Encoder::default(), Decoder::default(), Vec::new());
    let mut coded = Vec::new();
    // A literal whose name and value are Huffman-coded and have no place in the table.
    coded.extend_from_slice(
        b"\x00\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
    );
    let mut fields = 0;
    let mut exchange = |round| {
        block(&mut encoder, round, &mut out);
        decoder.decode(&out, |_| fields += 1).unwrap();
        decoder.decode(&coded, |field| fields += usize::from(field.value == b"custom-value")).unwrap();
    };
    let before_first = COUNT.get();
    (0..500).for_each(&mut exchange);
    let before = COUNT.get();
    assert!(before > before_first, "the counter counts");
    (500..2_000).for_each(&mut exchange);
    assert_eq!(COUNT.get() - before, 0);
    assert_eq!(fields, 2_000 * 9);
}

/// A proxy between two connections of HTTP/2, its client and its origin: four ends of the engine.
struct Hops {
    client: h2::Connection,
    downstream: h2::Connection,
    upstream: h2::Connection,
    origin: h2::Connection,
    /// What each end has written and the other has not read: client's, downstream's, upstream's, origin's.
    wires: [Vec<u8>; 4],
    head: Head,
    trailers: Head,
    answer: Head,
    asked: Head,
    nth: u64,
}

impl Hops {
    fn new() -> Self {
        let mut wires: [Vec<u8>; 4] = Default::default();
        let limits = h2::Limits::default();
        let mut asked = Head::default();
        asked.start_request(Version::Http2, "POST", "/items?limit=3");
        let fields = [("host", "cart"), ("user-agent", "curl/8"), ("te", "trailers"), ("x-request-id", "7")];
        fields.iter().for_each(|(name, value)| asked.append(name, value.as_bytes()));
        let mut answer = Head::default();
        answer.start_response(Version::Http2, StatusCode::OK, b"");
        answer.append("content-type", b"text/plain");
        let mut trailers = Head::default();
        trailers.start_trailers();
        trailers.append("grpc-status", b"0");
        Self {
            client: h2::Connection::client(limits, &mut wires[0]),
            downstream: h2::Connection::server(limits, &mut wires[1]),
            upstream: h2::Connection::client(limits, &mut wires[2]),
            origin: h2::Connection::server(limits, &mut wires[3]),
            wires,
            head: Head::default(),
            trailers,
            answer,
            asked,
            nth: 0,
        }
    }

    /// A request with a body through both hops and a response with trailers back.
    fn exchange(&mut self) {
        self.nth += 1;
        let now = Instant::from_millis(self.nth);
        let length = BodyLength::Known(5);
        let own = self.client.request(&self.asked, length, false, &mut self.wires[0]).unwrap();
        self.client.data(own, b"hello", true, &mut self.wires[0]).unwrap();
        let mut upward = None;
        let [wire0, wire1, wire2, wire3] = &mut self.wires;
        let down =
            pass(&mut self.downstream, wire0, &mut self.head, wire1, now, |_, head, step, out| match step {
                Told::Head => {
                    forward::request(head, Upgrades::Pass, ProxyAuthentication::Remove);
                    upward = Some(self.upstream.request(head, length, false, wire2).unwrap());
                }
                Told::Data(data, end) => {
                    self.upstream.data(upward.unwrap(), data, end, wire2).unwrap();
                }
                Told::Trailers => panic!("{}", out.len()),
            });
        let up = pass(&mut self.origin, wire2, &mut self.head, wire3, now, |_, _, _, _| {}).unwrap();
        self.origin.response(up, &self.answer, BodyLength::Chunked, false, wire3).unwrap();
        self.origin.data(up, &[7; 300], false, wire3).unwrap();
        self.origin.trailers(up, Some(&self.trailers), wire3).unwrap();
        let down = down.unwrap();
        pass(&mut self.upstream, wire3, &mut self.head, wire2, now, |_, head, step, _| match step {
            Told::Head => {
                forward::response(head, ProxyAuthentication::Remove);
                self.downstream.response(down, head, BodyLength::Chunked, false, wire1).unwrap();
            }
            Told::Data(data, end) => {
                self.downstream.data(down, data, end, wire1).unwrap();
            }
            Told::Trailers => self.downstream.trailers(down, Some(head), wire1).unwrap(),
        });
        let mut ended = false;
        pass(&mut self.client, wire1, &mut self.head, wire0, now, |_, _, step, _| {
            ended |= matches!(step, Told::Trailers);
        });
        assert!(ended, "the answer went all the way");
        self.client.release(own, wire0);
        self.downstream.release(down, wire1);
        self.upstream.release(upward.unwrap(), wire2);
        self.origin.release(up, wire3);
    }
}

enum Told<'a> {
    Head,
    Data(&'a [u8], bool),
    Trailers,
}

/// Shows an end all bytes of a wire; the stream that was last told of.
fn pass(
    end: &mut h2::Connection,
    input: &mut Vec<u8>,
    head: &mut Head,
    out: &mut Vec<u8>,
    now: Instant,
    mut tell: impl FnMut(h2::StreamId, &mut Head, Told<'_>, &mut Vec<u8>),
) -> Option<h2::StreamId> {
    let (mut at, mut last) = (0, None);
    loop {
        let step = end.advance(&input[at..], head, now, out).unwrap();
        let consumed = step.consumed();
        let (stream, told) = match step {
            h2::Step::NeedMore { .. } => break,
            h2::Step::Head { stream, .. } => (stream, Told::Head),
            h2::Step::Trailers { stream, .. } => (stream, Told::Trailers),
            h2::Step::Data { stream, data, end: is_end, .. } => {
                end.consumed(stream, data.len(), now, out);
                (stream, Told::Data(&input[at..][data], is_end))
            }
            h2::Step::Writable { .. } => {
                at += consumed;
                continue;
            }
            other => panic!("{other:?}"),
        };
        last = Some(stream);
        tell(stream, head, told, out);
        at += consumed;
    }
    input.clear();
    last
}

#[test]
fn http2_allocates_nothing_once_it_is_warm() {
    let mut hops = Hops::new();
    let before_first = COUNT.get();
    // The dynamic tables and their bookkeeping come to their size in the first exchanges.
    for _ in 0..50 {
        hops.exchange();
    }
    let before = COUNT.get();
    assert!(before > before_first, "the counter counts");
    for _ in 0..1_000 {
        hops.exchange();
    }
    assert_eq!(COUNT.get() - before, 0);
}
