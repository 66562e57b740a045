//! After a connection's first exchange the engine allocates nothing: heads and buffers are used again.
//! The counter is each thread's own, so tests beside each other do not count for each other.

#![allow(unsafe_code)] // an allocator is unsafe by its trait; this one only counts and hands on to the system's

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use meshwork_http::Head;
use meshwork_http::forward::{self, ProxyAuthentication, Upgrades};
use meshwork_http::h1::{Limits, Receiver, RequestMethod, ResponseTo, Sender, Step};
use meshwork_http::h2::hpack::{Decoder, Encoder, Indexing};

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
